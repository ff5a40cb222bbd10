"""The book equals a dict, follows the venues' chains, and on real recordings equals the venue's own best quotes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import OracleBooks, best, sizes
from frames import instrument, read
from numba import njit
from streams import START, tick_event

from agents.engine import Engine
from schemas.columns import Int64, from_events
from schemas.events import Event, Kind
from schemas.feature_sets import FeatureSet, load
from schemas.limits import DEPTH_MAX, LEVELS_MAX
from schemas.units import BASE_TICK_NS
from schemas.vectors import Quality, Vectors
from tables import layout as at
from tables import side

KEY = "X:Y"
MICRO = load("micro@1")
TENTHS = FeatureSet("micro", 1, 100, MICRO.features)
RECORDINGS = [
    (["usdm_ethusdt_20240718.gz", "usdm_ethusdt_20240719.gz"], {"ETHUSDT": 834}),
    (["cm_ethusd_perp_20240808.gz", "cm_ethusd_perp_20240809.gz"], {"ETHUSD_PERP": 2278}),
    (["spot_btcusdt_20240808.gz", "spot_btcusdt_20240809.gz"], {"BTCUSDT": 1072}),
    (["usdm_btcusdt_20230404.dat.gz"], {"BTCUSDT": 310}),
    (["../cryptofeed_v3/BINANCE_FUTURES.jsonl.zst"], dict.fromkeys(["SUSHIUSDT", "AKROUSDT", "KEEPUSDT", "CTKUSDT"])),
]


@njit
def put(row: Int64, which: int, rank: int, size: int) -> int:
    return side.put(row, which, rank, size)


class Book:
    """An engine's book, fed record by record, and the oracle's beside it."""

    def __init__(self) -> None:
        self.engine, self.offset, self.books = Engine([TENTHS], 0), 0, OracleBooks()
        self.take(instrument(KEY))

    def take(self, event: Event) -> None:
        self.engine.apply(from_events(0, self.offset, [event._replace(key=KEY)]))[0]
        self.plain = self.books.take(event._replace(key=KEY))
        self.offset += 1

    def snapshot(self, sequence: int, bids: list[tuple[int, int]], asks: list[tuple[int, int]]) -> None:
        self.take(
            Event(KEY, 0, 1, Kind.SNAPSHOT, {"sequence_last": sequence, "bids": _side(bids), "asks": _side(asks)})
        )

    def delta(
        self, first: int, last: int, previous: int | None, bids: list[tuple[int, int]] | None = None,
        asks: list[tuple[int, int]] | None = None,
    ) -> None:  # fmt: skip
        self.take(Event(KEY, 0, 1, Kind.DELTA, {
            "sequence_first": first, "sequence_last": last, "sequence_previous": previous,
            "bids": _side(bids or []), "asks": _side(asks or []),
        }))  # fmt: skip

    def tick(self, tenths: int) -> Vectors:
        """A Tick at so many tenths of a second, and its vector."""
        columns = from_events(0, self.offset, [tick_event(START + tenths * BASE_TICK_NS)])
        self.offset += 1
        return self.engine.apply(columns)[0]

    def __getitem__(self, place: int) -> int:
        return int(self.engine.arena.row(KEY)[place])

    @property
    def sides(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        return self.engine.arena.book(KEY)

    def best(self) -> tuple[int, int, int, int]:
        bid, bid_size, ask, ask_size = (self[top + n] for top in (at.TOP_BIDS, at.TOP_ASKS) for n in (0, DEPTH_MAX))
        return bid, bid_size, -ask, ask_size


def _side(levels: list[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"price": price, "size": size} for price, size in levels]


@pytest.mark.recordings
@pytest.mark.parametrize(("names", "counts"), RECORDINGS, ids=[names[0].split("/")[-1] for names, _ in RECORDINGS])
def test_best_quotes_equal_the_venues_own(
    names: list[str], counts: dict[str, int | None], recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After each Delta whose update id a bookTicker carries: best price and size of both sides, engine and oracle."""
    found = read([recordings / "hftbacktest" / name for name in names])
    assert set(found) == set(counts)
    for symbol, (events, quotes) in found.items():
        ours, compared, applied = Book(), 0, 0
        for event in events[1:]:
            ours.take(event)
            plain = ours.plain
            assert ours[at.BOOK_STATE] != at.GAP
            assert ours[at.SEQUENCE] == plain.sequence
            if ours[at.BOOK_STATE] == at.SYNCED:
                found_best = ours.best()
                applied += event.body["sequence_last"] == plain.sequence
                assert found_best[0] < found_best[2], "crossed"
                if event.kind is Kind.DELTA and event.body["sequence_last"] == plain.sequence in quotes:
                    assert found_best == quotes[plain.sequence] == best(plain)
                    compared += 1
        bids, asks = ours.sides
        assert (dict(bids), dict(asks)) == (sizes(ours.plain.bids), sizes(ours.plain.asks))
        assert compared == counts[symbol] or (counts[symbol] is None and compared > 0)
        with capsys.disabled():
            print(f"\n{symbol}: {applied} deltas, {compared} of {compared} best quotes equal bookTicker")


@pytest.mark.parametrize("which", [at.BID, at.ASK])
def test_levels_equal_a_dict(which: int) -> None:
    row = np.zeros(at.ROW_SIZE, np.int64)
    chance, known = random.Random(1), dict[int, int]()
    for i in range(6_000):
        rank, size = chance.randrange(1, 40 + i // 10), chance.choice((0, 1, 2, 900))
        assert put(row, which, rank, size) == (known.get(rank, 0) != size)
        known[rank] = size
        if size == 0:
            del known[rank]
        if i % 50 == 0:
            ranks, sizes = side.levels_of(row, which)
            assert (ranks.tolist(), sizes.tolist()) == (sorted(known), [known[k] for k in sorted(known)])


@pytest.mark.fault("market data", "more levels than a book keeps")
def test_a_full_side_drops_its_farthest_level() -> None:
    row = np.zeros(at.ROW_SIZE, np.int64)
    for rank in range(10, 10 + LEVELS_MAX):
        put(row, at.BID, rank, rank)
    assert put(row, at.BID, 5, 1) == 0
    assert put(row, at.BID, 3 * LEVELS_MAX, 7) == 1
    ranks, sizes = side.levels_of(row, at.BID)
    assert row[at.BID_COUNT] == LEVELS_MAX
    assert ranks.tolist() == [*range(11, 10 + LEVELS_MAX), 3 * LEVELS_MAX]
    assert sizes.tolist() == [*ranks[:-1].tolist(), 7]
    assert row[at.ASK_COUNT] == 0


@pytest.mark.parametrize("order", ["best first", "best last", "shuffled"])
def test_a_snapshot_in_any_order_is_the_same_book(order: str) -> None:
    bids, asks = [(100 - i, i + 1) for i in range(50)], [(101 + i, i + 1) for i in range(50)]
    shown = [list(bids), list(asks)]
    for levels in shown:
        if order == "best last":
            levels.reverse()
        elif order == "shuffled":
            random.Random(2).shuffle(levels)
    ours = Book()
    ours.snapshot(7, *shown)
    assert ours.sides == (bids, asks)


@pytest.mark.fault("market data", "more levels than a book keeps")
def test_a_snapshot_beyond_the_bound_keeps_the_nearest_levels() -> None:
    ours = Book()
    ours.snapshot(7, [(20_000 - i, 1) for i in range(10_000)], [(20_001, 1)])
    bids, _ = ours.sides
    assert bids == [(20_000 - i, 1) for i in range(LEVELS_MAX)]


FUTURES = [
    # (first, last, previous), state after, sequence after; the Snapshot is at 100
    ([(90, 99, 89)], at.SNAPSHOT_ONLY, 100, "older than the Snapshot"),
    ([(95, 100, 94)], at.SYNCED, 100, "ends at the Snapshot"),
    ([(95, 105, 94)], at.SYNCED, 105, "spans the Snapshot"),
    ([(101, 105, 100)], at.SYNCED, 105, "begins right behind it"),
    ([(103, 105, 102)], at.GAP, 100, "begins too late"),
    ([(95, 105, 94), (110, 112, 105)], at.SYNCED, 112, "previous names the last"),
    ([(95, 105, 94), (106, 112, 104)], at.GAP, 105, "previous names another"),
    ([(95, 105, 94), (95, 105, 94)], at.SYNCED, 105, "a repeat"),
    ([(95, 105, 94), (95, 103, 94), (106, 107, 105)], at.SYNCED, 107, "an older one between"),
]
SPOT = [
    ([(90, 100, None)], at.SNAPSHOT_ONLY, 100, "ends at the Snapshot"),
    ([(95, 105, None)], at.SYNCED, 105, "spans the Snapshot"),
    ([(101, 105, None)], at.SYNCED, 105, "begins right behind it"),
    ([(102, 105, None)], at.GAP, 100, "begins too late"),
    ([(101, 105, None), (106, 107, None)], at.SYNCED, 107, "unbroken"),
    ([(101, 105, None), (107, 108, None)], at.GAP, 105, "one is missing"),
    ([(101, 105, None), (101, 105, None)], at.SYNCED, 105, "a repeat"),
    ([(101, 105, None), (104, 109, None)], at.GAP, 105, "overlaps in part"),
]


@pytest.mark.fault("market data", "a Snapshot older or newer than the Deltas around it")
@pytest.mark.parametrize(("deltas", "state", "sequence", "why"), [*FUTURES, *SPOT])
def test_chain_rules(deltas: list[tuple[int, int, int | None]], state: int, sequence: int, why: str) -> None:
    ours = Book()
    ours.snapshot(100, [(10, 1)], [(11, 1)])
    for i, chain in enumerate(deltas):
        ours.delta(*chain, bids=[(10, 5 + i)])
    assert (ours[at.BOOK_STATE], ours[at.SEQUENCE]) == (state, sequence), why
    assert ours.plain.is_known == (state != at.GAP)
    assert dict(ours.sides[0]) == sizes(ours.plain.bids)


def test_a_gap_holds_until_the_next_snapshot() -> None:
    ours = Book()
    assert ours[at.BOOK_STATE] == at.GAP
    ours.snapshot(100, [(10, 1)], [(11, 1)])
    ours.delta(101, 102, 100, bids=[(10, 2)])
    ours.delta(105, 106, 104)
    assert ours[at.BOOK_STATE] == at.GAP
    assert ours.sides == ([], [])
    ours.delta(107, 108, 106, bids=[(10, 3)])
    assert ours.sides == ([], [])
    ours.snapshot(90, [(9, 1)], [(11, 1)])
    assert ours[at.BOOK_STATE] == at.SNAPSHOT_ONLY
    assert ours.sides[0] == [(9, 1)]
    assert ours[at.BOOK_EPOCH] == 2


@pytest.mark.parametrize(("deltas", "is_whole", "bids"), [
    ([], False, [(10, 2)]),
    ([(101, 102, 100)], False, [(10, 2)]),
    ([(103, 104, 102)], True, [(10, 3)]),
    ([(105, 106, 104)], False, []),
], ids=["nothing", "a repeat", "the next of the chain", "one is missing"])  # fmt: skip
def test_behind_a_hole_in_the_clock_the_chain_proves_the_book(
    deltas: list[tuple[int, int, int]], is_whole: bool, bids: list[tuple[int, int]]
) -> None:
    ours = Book()
    ours.snapshot(100, [(10, 1)], [(11, 1)])
    ours.delta(101, 102, 100, bids=[(10, 2)])
    ours.tick(0)
    assert ours.tick(600).quality[0] & Quality.BOOK_GAP == 0
    assert ours.tick(1201).quality[0] & Quality.BOOK_GAP
    for chain in deltas:
        ours.delta(*chain, bids=[(10, 3)])
    vectors = ours.tick(1202)
    assert (vectors.quality[0] & Quality.BOOK_GAP == 0) == is_whole
    assert np.isnan(vectors.values[0, MICRO.features.index("mid_price")]) == (not is_whole)
    assert ours.sides[0] == bids
    assert ours[at.BOOK_EPOCH] == 1
    ours.snapshot(90, [(9, 1)], [(11, 1)])
    assert ours.tick(1203).quality[0] & Quality.BOOK_GAP == 0


@pytest.mark.fault("market data", "a Snapshot older or newer than the Deltas around it")
def test_an_older_snapshot_leaves_a_sound_book_alone() -> None:
    ours = Book()
    ours.snapshot(100, [(10, 1)], [(11, 1)])
    ours.delta(101, 105, 100, bids=[(10, 2)])
    ours.snapshot(104, [(5, 5)], [])
    assert ours.sides[0] == [(10, 2)]
    assert ours[at.BOOK_EPOCH] == 1
    ours.snapshot(105, [(5, 5)], [])
    assert ours.sides == ([(5, 5)], [])
    assert ours[at.BOOK_EPOCH] == 2


SECOND = 1_000_000_000
RESETS = [
    # (ts_event, ts_recv) of a Snapshot or Delta at 50; the book is at 102, received at 10 s, venue time 9 s
    ("snapshot", 9, 60, 102, "not later for the venue: it came late"),
    ("snapshot", 9.001, 10, 50, "later for the venue"),
    ("snapshot", 0, 11, 102, "no venue time, received soon after"),
    ("snapshot", 0, 11.001, 50, "no venue time, received long after"),
    ("delta", 10, 60, 102, "soon after: out of order at most"),
    ("delta", 10.001, 10, None, "later for the venue"),
    ("delta", 0, 60, 102, "no venue time: nothing tells it from a repeat"),
    ("delta", 8, 60, 102, "a repeat"),
]


@pytest.mark.fault("market data", "the venue begins a new sequence")
@pytest.mark.parametrize(("kind", "ts_event", "ts_recv", "sequence", "why"), RESETS)
def test_a_venue_that_begins_a_new_sequence_does_not_freeze_the_book(
    kind: str, ts_event: float, ts_recv: float, sequence: int | None, why: str
) -> None:
    ours = Book()
    before = {"sequence_last": 100, "bids": _side([(10, 1)]), "asks": _side([(11, 1)])}
    chain = {"sequence_first": 101, "sequence_last": 102, "sequence_previous": 100}
    lower: dict[str, Any] = {"sequence_first": 50, "sequence_last": 50, "sequence_previous": 49}
    sides: dict[str, Any] = {"bids": _side([(10, 3)]), "asks": []}
    lower = lower | sides if kind == "delta" else {"sequence_last": 50, **sides}
    for venue_s, recv_s, each, body in (
        (8, 9, "snapshot", before), (9, 10, "delta", chain | sides), (ts_event, ts_recv, kind, lower),
    ):  # fmt: skip
        venue_ts, ts = int(venue_s * SECOND), int(recv_s * SECOND)
        ours.take(Event(KEY, venue_ts, ts, Kind[each.upper()], body))
    assert (ours.plain.sequence if ours.plain.is_known else None) == sequence, why
    assert (ours[at.SEQUENCE] if ours[at.BOOK_STATE] != at.GAP else None) == sequence, why
    assert dict(ours.sides[0]) == sizes(ours.plain.bids)


def test_of_one_price_named_twice_in_a_delta_the_last_counts() -> None:
    ours = Book()
    ours.snapshot(100, [(10, 1)], [(11, 1)])
    ours.delta(101, 101, 100, bids=[(10, 4), (9, 4), (10, 6)])
    assert ours.sides[0] == [(10, 6), (9, 4)]
