"""Faults of market data: what a venue does wrong is skipped, flagged or refused, and never becomes a value."""

from __future__ import annotations

import random
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import orjson
import pytest
import tapes
from crafted import T0, frames_every, import_to, write_lines
from crafted import delta as depth_frame
from crafted import snapshot as snapshot_frame
from judged import KEY, TENTHS, Judge, Judged, delta, opening, snapshot, tick, ticks, trade
from ledger import Ledger
from test_binance import BAD_FRAMES, MS
from test_binance import TRADE as TRADE_FRAME
from wire_oracle import Message

from agents.catalogue import BOOK, find
from agents.engine import Engine
from app.importer import import_recording
from app.synthetic import write_recording
from replay.reader import ArchiveReader
from schemas.columns import Columns, from_events, to_events
from schemas.errors import RecordingForeign, UsageError
from schemas.events import Event, Kind
from schemas.feature_sets import FeatureSet
from schemas.limits import LINE_BYTES_MAX, ORIGINAL_BYTES_MAX, RECORD_LEVELS_MAX, SYMBOLS_MAX
from schemas.units import NS_PER_MS, NS_PER_S
from schemas.vector_codec import VectorCodec, avro_schema
from schemas.vectors import Quality

BIDS, ASKS = [(100, 5), (99, 7), (98, 9)], [(101, 5), (102, 7), (103, 9)]
OF_THE_BOOK = [name for name in TENTHS.features if (found := find(name)) is not None and BOOK in found.family.inputs]


@pytest.fixture
def judge(tmp_path: Path, ledger: Ledger) -> Judge:
    return Judge(tmp_path, ledger)


def in_gap(judged: Judged, tenths: int, ledger: Ledger) -> bool:
    """Whether a vector says that the book is unknown; then nothing of the book may be in it."""
    known = [name for name in OF_THE_BOOK if not np.isnan(judged.at(tenths)[name])]
    is_told = bool(judged.flags(tenths) & Quality.BOOK_GAP)
    ledger.wrong += is_told and bool(known)
    assert not (is_told and known), known
    return is_told


@pytest.mark.fault("market data", "every Delta twice")
@pytest.mark.parametrize("seed", range(2))
def test_every_delta_twice(judge: Judge, seed: int) -> None:
    """At once, or behind up to nine later records."""
    chance = random.Random(seed)
    events = to_events(tapes.tape(tapes.market(seed, events=700, seconds=5), partitions=1)[0])
    twice, late = list[Event](), list[tuple[int, Event]]()
    for place, event in enumerate(events):
        twice.append(event)
        if event.kind is Kind.DELTA:
            late.append((place + chance.choice((0, 0, 1, 9)), event))
        if event.kind is Kind.TICK or place == len(events) - 1:
            continue
        twice += [again for due, again in late if due <= place]
        late = [(due, again) for due, again in late if due > place]
    once, doubled = (judge.judge(judge.messages(each)).vectors for each in (events, twice))
    assert len(once) > 100
    # A late repeat is received all the same: its delay is the feed's.
    names = [place for place, name in enumerate(TENTHS.features) if name != "feed_delay_ms"]
    assert doubled.values[:, names].tobytes() == once.values[:, names].tobytes()
    for column in ("time", "quality", "book_epoch"):
        assert getattr(doubled, column).tolist() == getattr(once, column).tolist()


CHAINS = [pytest.param(True, id="futures"), pytest.param(False, id="spot")]


@pytest.mark.fault("market data", "Deltas out of order")
@pytest.mark.parametrize("has_previous", CHAINS)
def test_deltas_out_of_order(judge: Judge, ledger: Ledger, has_previous: bool) -> None:
    """A later one first is a gap; the one it has overtaken changes nothing."""

    def change(number: int, tenths: float) -> Event:
        return delta(number, number, number - 1 if has_previous else None, [(100, number)], tenths=tenths)

    events = [*opening(BIDS, ASKS), change(101, 1.1), tick(2), change(103, 2.1), tick(3), change(102, 3.1), tick(4)]
    events += [change(104, 4.1), tick(5), snapshot(104, BIDS, ASKS, 5.1), change(105, 5.2), change(104, 5.3), tick(6)]
    judged = judge.judge(judge.messages(events))
    found = [in_gap(judged, tenths, ledger) for tenths in range(1, 7)]
    ledger.gap_undetected += found != [False, False, True, True, True, False]
    assert ledger.gap_undetected == 0, found
    assert judged.books[KEY][0][0] == (100, 105)


@pytest.mark.fault("market data", "a Delta is missing")
@pytest.mark.parametrize("has_previous", CHAINS)
def test_a_delta_is_missing(judge: Judge, ledger: Ledger, has_previous: bool) -> None:
    """In gap at the next Tick, without a value of the book, until the Snapshot; trades go on."""

    def change(first: int, last: int, tenths: float) -> Event:
        return delta(first, last, first - 1 if has_previous else None, [(99, last)], tenths=tenths)

    events = [*opening(BIDS, ASKS), change(101, 102, 1.5), *ticks(2, 5), change(104, 104, 4.5), trade(101, 3, 4.6)]
    events += [*ticks(5, 8), change(105, 106, 7.5), *ticks(8, 11), snapshot(106, BIDS, ASKS, 10.5), *ticks(11, 13)]
    judged = judge.judge(judge.messages(events))
    found = [in_gap(judged, tenths, ledger) for tenths in range(1, 13)]
    ledger.gap_undetected += found != [5 <= tenths < 11 for tenths in range(1, 13)]
    assert ledger.gap_undetected == 0, found
    assert judged.at(11)["mid_price"] == judged.at(1)["mid_price"]
    assert judged.vectors.book_epoch.tolist() == [1] * 10 + [2] * 2
    assert judged.at(12)["trade_count_1s"] == 1


@pytest.mark.fault("market data", "a Delta is missing, and the venue's next Snapshot is half a second away")
def test_a_missing_delta_is_made_good_within_a_second(tmp_path: Path, ledger: Ledger) -> None:
    """Of a recording: from the first Tick in gap to the first that is whole again."""
    report = write_recording(tmp_path / "a.gz", symbols=1, seconds=12, with_faults=True)
    assert report.dropped_deltas == 1
    imported = import_recording([tmp_path / "a.gz"], "binance-usdm", archive=tmp_path / "archive", partitions=1)
    columns = Columns.concat(list(ArchiveReader(tmp_path / "archive").batches(0)))
    vectors = Engine([TENTHS], 0).apply(columns)[0]
    gaps = vectors.time[(vectors.quality & Quality.BOOK_GAP != 0) & (vectors.book_epoch > 0)]
    ledger.gap_undetected += len(gaps) == 0
    ledger.faults += 1
    ledger.received, ledger.accepted = imported.received, imported.accepted
    ledger.refused = sum(1 for _ in ArchiveReader(tmp_path / "archive").dead_letters())
    ledger.check()
    assert len(gaps) > 0
    assert gaps[-1] - gaps[0] < NS_PER_S
    assert vectors.time[-1] > gaps[-1]


ODD_BOOKS: dict[str, tuple[list[tuple[int, int]], list[tuple[int, int]], Quality, list[str]]] = {
    "crossed": ([(105, 5), (100, 1)], [(101, 5)], Quality.BOOK_CROSSED, []),
    "locked": ([(101, 5), (100, 1)], [(101, 5)], Quality(0), []),
    "without asks": (BIDS, [], Quality.BOOK_ONE_SIDED, ["mid_price", "spread", "microprice"]),
    "without bids": ([], ASKS, Quality.BOOK_ONE_SIDED, ["mid_price", "spread", "microprice"]),
    "empty": ([], [], Quality.BOOK_ONE_SIDED, ["mid_price", "spread", "microprice"]),
}


@pytest.mark.fault("market data", "a crossed, locked, one-sided or empty book")
@pytest.mark.parametrize("case", ODD_BOOKS)
def test_odd_books(judge: Judge, case: str) -> None:
    """Legal, or flagged; what cannot be is null and its flag says why; never NaN on the wire."""
    bids, asks, flag, unknown = ODD_BOOKS[case]
    events = [*opening(BIDS, ASKS), snapshot(200, bids, asks, 1.5), *ticks(2, 5)]
    judged = judge.judge(judge.messages(events))
    told = Quality.BOOK_CROSSED | Quality.BOOK_ONE_SIDED
    assert judged.flags(1) & Quality.BOOK_CROSSED == 0
    assert judged.flags(3) & told & (flag | Quality.BOOK_CROSSED) == flag
    assert [name for name in ("mid_price", "spread", "microprice") if np.isnan(judged.at(3)[name])] == unknown
    alone = [FeatureSet(f"only{place}", 1, 100, (name,)) for place, name in enumerate(TENTHS.features)]
    for vectors in Engine(alone, 0).apply(from_events(0, 0, events)):
        assert (~np.isnan(vectors.values[:, 0]) | (vectors.quality != 0)).all(), vectors.feature_set.features
    parsed = fastavro.parse_schema(avro_schema(TENTHS))
    for _, value in VectorCodec(judge.registry, TENTHS).encode(judged.vectors):
        record = fastavro.schemaless_reader(BytesIO(value[5:]), parsed, None)
        assert all(record[name] is None or np.isfinite(record[name]) for name in TENTHS.features)


STEPS_FRAME = {
    "exchangeFilters": [],
    "symbols": [{"symbol": "ETHUSDT", "filters": [
        {"filterType": "PRICE_FILTER", "tickSize": "0.05"}, {"filterType": "LOT_SIZE", "stepSize": "0.001"},
    ]}],
}  # fmt: skip


@pytest.mark.fault("market data", "a number off its tick or lot, zero, negative, over 2^63, NaN, Inf, -0.0")
def test_numbers_that_are_none(tmp_path: Path, ledger: Ledger) -> None:
    """One dead letter each, with the frame as it came; what stands between them is laid."""
    good = orjson.dumps({"stream": "x", "data": TRADE_FRAME})
    bad = {
        name: (orjson.dumps(frame if "lastUpdateId" in frame else {"stream": "x", "data": frame}), reason)
        for name, (frame, reason) in BAD_FRAMES.items()
    }
    # As numbers of JSON: what a careless venue sends.
    bare = {"NaN": "not-json", "Infinity": "not-json", "-0.0": "number-not-text", "-1": "number-not-text"}
    for number, reason in bare.items():
        bad[f"bare {number}"] = (good.replace(b'"10.10"', number.encode()), reason)
    frames = [(MS * NS_PER_MS, orjson.dumps(STEPS_FRAME))]
    for place, (text, _) in enumerate(bad.values()):
        frames += [(MS * NS_PER_MS + 10 * place + 1, good), (MS * NS_PER_MS + 10 * place + 2, text)]
    path = write_lines(tmp_path / "a.txt", [*frames, (MS * NS_PER_MS + NS_PER_S, good)])
    report, tape = import_to(tmp_path, path)
    letters = [letter for _, _, letter in ArchiveReader(tmp_path / "archive").dead_letters()]
    assert [(each.reason, each.original) for each in letters] == [
        (reason, text[:ORIGINAL_BYTES_MAX]) for text, reason in bad.values()
    ]
    laid = sum(event.kind is Kind.TRADE for partition in tape for event in partition)
    ledger.received, ledger.accepted, ledger.refused = len(frames), laid, len(letters)
    ledger.faults += len(bad)
    ledger.check()
    assert report.accepted == laid == len(bad) + 1


WIRE: dict[str, tuple[Kind, dict[str, Any]]] = {
    "price-not-positive": (Kind.TRADE, {"price": 0}),
    "size-not-positive": (Kind.TRADE, {"size": -3}),
    "price-too-large": (Kind.TRADE, {"price": (1 << 40) + 1}),
    "size-too-large": (Kind.TRADE, {"price": 1, "size": (1 << 40) + 1}),
    "trade-too-large": (Kind.TRADE, {"price": 1 << 30, "size": 1 << 30}),
    "number-too-large": (Kind.TRADE, {"size": (1 << 63) - 1}),
    "too-many-levels": (Kind.DELTA, {"bids": [{"price": 1, "size": 1}] * (RECORD_LEVELS_MAX + 1)}),
    "level-doubled": (Kind.SNAPSHOT, {"bids": [{"price": 9, "size": 1}] * 2}),
    "sequence-backwards": (Kind.DELTA, {"sequence_first": 300}),
    "message-too-large": (Kind.DELTA, {"bids": [{"price": 7, "size": 1}] * 1_000_000}),
}


@pytest.mark.fault("market data", "numbers beyond their bounds, or a Delta of 10^6 levels, on the tape")
def test_numbers_beyond_their_bounds_on_the_tape(judge: Judge) -> None:
    """Refused by the gate with their names; on the tape they are integers, so that none is NaN or off its tick."""
    sound = {Kind.TRADE: trade(101, 3, 1.5), Kind.DELTA: delta(101, 102, 100, tenths=1.5)}
    sound[Kind.SNAPSHOT] = snapshot(200, BIDS, ASKS, 1.5)
    bad = [judge.message(sound[kind]._replace(body=sound[kind].body | body)) for kind, body in WIRE.values()]
    # A number of more than 64 bits.
    key, value = judge.message(trade(1, 1, 1.5))
    assert value is not None
    bad.append((key, value.replace(b"\x02\x02", b"\xff" * 9 + b"\x7f\x02", 1)))
    messages = [*judge.messages(opening(BIDS, ASKS)), *bad, *judge.messages([trade(101, 3, 1.6), *ticks(2, 4)])]
    judged = judge.judge(messages)
    assert list(judged.reasons.values()) == [*WIRE, "number-too-large"]
    assert judged.books[KEY] == (BIDS, ASKS)


@pytest.mark.fault("market data", "a frame of 10^6 levels, or a line longer than anybody sends")
def test_a_frame_of_a_million_levels(tmp_path: Path, ledger: Ledger) -> None:
    """One dead letter that is cut to what is kept of an original; a line without end is no recording."""
    wide = depth_frame(7)
    wide["data"]["b"] = [["1", "1"]] * 1_000_000
    path = write_lines(tmp_path / "a.txt", frames_every(1_000_000, snapshot_frame(5), depth_frame(6), wide))
    report, _ = import_to(tmp_path, path)
    [letter] = [letter for _, _, letter in ArchiveReader(tmp_path / "archive").dead_letters()]
    assert letter.reason == "too-many-levels"
    assert len(letter.original) == ORIGINAL_BYTES_MAX
    assert letter.cut_bytes + ORIGINAL_BYTES_MAX > 9_000_000
    ledger.received, ledger.accepted, ledger.refused = 3, report.accepted, 1
    ledger.faults += 2
    ledger.check()
    endless = write_lines(tmp_path / "b.txt", [(T0, b"[" * (LINE_BYTES_MAX + (1 << 20)))])
    with pytest.raises(RecordingForeign, match="line 1 of over 16 MiB"):
        import_to(tmp_path / "b", endless)


@pytest.mark.fault("market data", "10^6 symbols in a recording")
def test_more_symbols_in_a_recording_than_memory_is_meant_for(tmp_path: Path, ledger: Ledger) -> None:
    frames = []
    for number in range(SYMBOLS_MAX + 1):
        frame = depth_frame(6)
        frame["data"]["s"] = f"A{number}USDT"
        frames.append(frame)
    path = write_lines(tmp_path / "a.txt", frames_every(1_000, *frames))
    ledger.faults += 1
    with pytest.raises(UsageError, match=r"too many symbols: expected at most 20000, was one more\. Action"):
        import_to(tmp_path, path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


HOSTILE = [
    b"", b"*", b"nocolon", b"V:", b"V:a\nb", b"V:\x1b[31m", b"V:" + b"x" * 80, b"v:S", b"V:..\\", b"V:\x00",
    b"\xff\xfe", b"V:%n", "V:\u202eS".encode(), b"V:S;DROP", b"V:S/../../etc", b"V:" + b"x" * 100_000,
]  # fmt: skip


@pytest.mark.fault("market data", "hostile symbol names")
def test_hostile_symbol_names_on_the_tape(judge: Judge) -> None:
    """No symbol is made of them; a slash and dots are letters of real names, and no path is ever made of one."""
    _, value = judge.message(trade(101, 3, 1.5))
    _, named = judge.message(opening(BIDS, ASKS)[1]._replace(key="V:" + "S" * 39))
    assert named is not None
    hostile: list[Message] = [(key, value) for key in HOSTILE]
    messages = [*judge.messages(opening(BIDS, ASKS)), *hostile, (b"X:Y", named.replace(b"\x02X\x02Y", b"\x02X\x02\n"))]
    judged = judge.judge([*messages, judge.message(tick(2))])
    refused = {place: reason for place, reason in judged.reasons.items() if place < 4 + len(HOSTILE)}
    assert set(refused) == set(range(4, 4 + len(HOSTILE))) - {4 + HOSTILE.index(b"V:S/../../etc")}
    assert set(refused.values()) == {"key-malformed"}
    assert judged.reasons[4 + len(HOSTILE)] == "text-malformed"
    assert set(judged.books) == {KEY, "V:S/../../etc"}


@pytest.mark.fault("market data", "byte-identical frames that are no duplicates")
def test_identical_trades_all_count(judge: Judge, tmp_path: Path, ledger: Ledger) -> None:
    """Nothing compares contents: on the tape only an offset tells a repeat, in a recording only a line."""
    same = [trade(101, 3, 1.5)] * 3
    judged = judge.judge(judge.messages([*opening(BIDS, ASKS), *same, *ticks(2, 13)]))
    assert (judged.at(11)["trade_count_1s"], judged.at(12)["trade_count_1s"]) == (3, 0)
    frames = frames_every(0, snapshot_frame(5), *[orjson.dumps({"stream": "x", "data": TRADE_FRAME})] * 4)
    report, tape = import_to(tmp_path, write_lines(tmp_path / "a.txt", frames))
    laid = [event for partition in tape for event in partition if event.kind is Kind.TRADE]
    assert report.received == 5
    ledger.lost += 4 - len(laid)
    assert len(laid) == 4
    assert len(set(map(str, laid))) == 1
