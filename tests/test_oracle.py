"""The engine equals the oracle in every bit: over streams with all that happens, and over recordings."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import assert_agrees, odd_set, policy_set
from frames import instrument
from streams import START, stream, tick_event
from test_engine import assert_same, run

from agents.engine import Engine
from agents.oracle import Oracle
from app.importer import import_recording
from app.synthetic import write_recording
from replay.reader import ArchiveReader
from schemas.columns import Columns, from_events
from schemas.errors import UsageError
from schemas.events import FIELDS, Event, Kind
from schemas.feature_sets import FeatureSet, load
from schemas.limits import LEVELS_MAX, PRICE_TICKS_MAX, SCALE_MAX, SCALED_MAX, SIZE_LOTS_MAX, TRADE_VALUE_MAX
from schemas.units import BASE_TICK_NS, NS_PER_S
from schemas.validate import check
from schemas.vectors import Quality, Vectors

KEY = "X:Y"
MICRO = load("micro@2")
ROOT = Path(__file__).resolve().parent.parent
RECORDINGS = [
    ("binance-usdm", ["usdm_ethusdt_20240718.gz", "usdm_ethusdt_20240719.gz"]),
    ("binance-coinm", ["cm_ethusd_perp_20240808.gz", "cm_ethusd_perp_20240809.gz"]),
    ("binance-spot", ["spot_btcusdt_20240808.gz", "spot_btcusdt_20240809.gz"]),
    ("binance-usdm", ["usdm_btcusdt_20230404.dat.gz"]),
]


def computed(feature_sets: list[FeatureSet], columns: Columns) -> list[Vectors]:
    """The engine's vectors of several sets, in one pass."""
    return Engine(feature_sets, columns.partition).apply(columns)


@pytest.mark.parametrize("seed", range(8))
def test_every_feature_equals_the_oracle(seed: int) -> None:
    """Over streams with gaps, repeats, odd books, silence and changed instruments: three sets in one pass."""
    columns = from_events(0, 0, stream(seed))
    found = computed([MICRO, odd_set(), policy_set(seed)], columns)
    assert sum(assert_agrees(columns, vectors) for vectors in found) > 300_000
    assert all(np.isfinite(vectors.values).mean() > 0.3 for vectors in found)


@pytest.mark.parametrize("seed", range(20, 26))
def test_holes_in_the_clock_equal_the_oracle(seed: int) -> None:
    """Up to a minute without Ticks is silence; after more, windows warm up anew and the book must prove itself."""
    columns = from_events(0, 0, stream(seed, seconds=40.0, holes=4))
    found = computed([MICRO, odd_set(), policy_set(seed)], columns)
    assert sum(assert_agrees(columns, vectors) for vectors in found) > 150_000
    assert all(np.isfinite(vectors.values).mean() > 0.15 for vectors in found)


def test_the_streams_leave_no_column_and_no_flag_out() -> None:
    """Each column of the odd set is known at times and at times not; each flag that a stream can raise is raised."""
    vectors = Vectors.concat([
        Oracle(odd_set(), 0).apply(from_events(0, 0, stream(seed, holes=seed % 2))) for seed in range(4)
    ])  # fmt: skip
    clipped = Oracle(policy_set(1), 0).apply(from_events(0, 0, stream(1)))
    is_known = np.isfinite(vectors.values)
    always = {"position_size", "position_side", "realized_pnl", "position_age_s"}
    always |= {f"{name}_{part}" for name in ("time_of_day", "day_of_week") for part in ("sin", "cos")}
    names = np.array(vectors.feature_set.features)
    # No book of these streams is whole for a minute, those of the markets below are.
    never = {"order_flow_imbalance_60s", "multi_level_ofi_5_60s", "churn_rate_60s"}
    assert set(names[~is_known.any(axis=0)]) == never
    assert set(names[is_known.all(axis=0)]) == always
    raised = int(np.bitwise_or.reduce(np.concatenate([vectors.quality, clipped.quality])))
    expected = (
        Quality.BOOK_GAP | Quality.BOOK_STALE | Quality.BOOK_CROSSED | Quality.BOOK_ONE_SIDED | Quality.NO_TRADES
        | Quality.WARMUP | Quality.FUNDING_UNKNOWN | Quality.POSITION_UNKNOWN | Quality.CLOCK_SKEW | Quality.NO_EVENTS
        | Quality.COMPUTATION_ERROR | Quality.OUTLIER_CLIPPED
    )  # fmt: skip
    assert Quality(raised) == expected


def test_sides_beyond_the_bound_equal_the_oracle() -> None:
    """Levels beyond a full side are no change; one nearer pushes the farthest out; what is out does not come back."""
    chance, top = random.Random(3), 4 * LEVELS_MAX

    def levels(n: int, sign: int, *, may_be_zero: bool) -> list[dict[str, int]]:
        prices = [top + sign * (1 + place) for place in chance.sample(range(LEVELS_MAX + 600), n)]
        return [{"price": p, "size": chance.choices((0, 1, 2), (may_be_zero, 20, 20))[0]} for p in prices]

    bids, asks = (levels(LEVELS_MAX + 100, sign, may_be_zero=False) for sign in (-1, 1))
    tape = [
        instrument(KEY), Event(KEY, 0, START, Kind.SNAPSHOT, {"sequence_last": 0, "bids": bids, "asks": asks})
    ]  # fmt: skip
    for i in range(40):
        tape.append(tick_event(START + (i + 1) * NS_PER_S // 10))
        bids, asks = (levels(60, sign, may_be_zero=True) for sign in (-1, 1))
        tape.append(Event(KEY, 0, START + (i + 1) * NS_PER_S // 10, Kind.DELTA, {
            "sequence_first": i + 1, "sequence_last": i + 1, "sequence_previous": i, "bids": bids, "asks": asks,
        }))  # fmt: skip
    columns, engine = from_events(0, 0, tape), Engine([odd_set()], 0)
    assert assert_agrees(columns, engine.apply(columns)[0]) == 40 * len(odd_set().features)
    assert LEVELS_MAX - 20 < len(engine.arena.book(KEY)[0]) <= LEVELS_MAX


@pytest.mark.parametrize("seed", range(6))
def test_numbers_at_their_bounds_equal_the_oracle(seed: int) -> None:
    """The largest and smallest numbers that pass the gate, in every scale: nothing overflows on one side only."""
    chance = random.Random(seed)

    def number(most: int, least: int = 1) -> int:
        return chance.choice(
            (least, least + 1, most - 1, most, chance.randrange(least, most), chance.randrange(9, 999))
        )

    def levels(*, may_be_zero: bool) -> list[dict[str, int]]:
        prices = {number(PRICE_TICKS_MAX) for _ in range(60)}
        return [{"price": p, "size": number(SIZE_LOTS_MAX, 1 - may_be_zero)} for p in prices]

    def body(kind: Kind) -> dict[str, Any]:
        if kind is Kind.TRADE:
            price = number(PRICE_TICKS_MAX)
            about = {"price": price, "size": number(min(TRADE_VALUE_MAX // price, SIZE_LOTS_MAX)), "trade_id": ""}
            flags = dict.fromkeys(("is_block", "is_liquidation", "is_insurance"), False)
            return about | flags | {"side": chance.choice(("BUY", "SELL"))}
        names = [field.name for field in FIELDS[kind]]
        about = {name: chance.choice((None, number(SCALED_MAX - 1))) for name in names}
        if kind is Kind.POSITION:
            about["size"] = chance.choice((0, 1, -1)) * number(SCALED_MAX - 1)
        return about

    tape, ts, tick = [], START, START + BASE_TICK_NS
    for sequence in range(1, 900):
        ts += chance.randrange(NS_PER_S // 5)
        if sequence % 300 == 1:
            about = {"venue": "X", "symbol": "Y", "is_perpetual": True, "funding_interval_s": None}
            about |= {name: number(SCALE_MAX, 0) % 19 for name in ("price_scale", "size_scale", "index_scale")}
            about |= {name: number(PRICE_TICKS_MAX) for name in ("tick_size", "lot_size", "contract_value")}
            about["contract"] = ("LINEAR", "INVERSE", "SPOT")[sequence // 300 % 3]
            book = {"sequence_last": sequence, "bids": levels(may_be_zero=False), "asks": levels(may_be_zero=False)}
            tape += [Event(KEY, ts, ts, Kind.INSTRUMENT, about), Event(KEY, ts, ts, Kind.SNAPSHOT, book)]
        while tick <= ts:
            tape.append(tick_event(tick))
            tick += BASE_TICK_NS
        chain = {"sequence_first": sequence + 1, "sequence_last": sequence + 1, "sequence_previous": sequence}
        sides = {"bids": levels(may_be_zero=True), "asks": levels(may_be_zero=True)}
        tape.append(Event(KEY, ts, ts, Kind.DELTA, chain | sides))
        kind = chance.choice((Kind.TRADE, Kind.TRADE, Kind.TICKER, Kind.POSITION))
        tape.append(Event(KEY, ts, ts, kind, body(kind)))
    for event in tape:
        check(event)
    columns = from_events(0, 0, tape)
    found = computed([MICRO, odd_set()], columns)
    assert sum(assert_agrees(columns, vectors) for vectors in found) > 50_000
    assert all(np.isfinite(vectors.values).mean() > 0.3 for vectors in found)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_oracle_folds_any_batches_and_repeats(batch: int) -> None:
    """Slices share their arrays with the whole; records applied before change nothing."""
    columns = from_events(0, 0, stream(3))
    oracle = Oracle(MICRO, 0)
    parts = [
        oracle.apply(columns.slice(max(first - 5, 0), min(first + batch, len(columns))))
        for first in range(0, len(columns), batch)
    ]
    assert_same(Vectors.concat(parts), Oracle(MICRO, 0).apply(columns))


@pytest.mark.parametrize("name", ["no_such", "vwap", "vwap_90s", "vwap_150", "bid_depth_51", "zscore_mid_price_1"])
def test_the_oracle_refuses_what_is_no_feature(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        Oracle(FeatureSet("mine", 1, 1000, ("mid_price", name)), 0)


def test_the_oracle_is_plain_python() -> None:
    """Nothing of the engine, and no compiler, is imported with it."""
    code = "import sys, agents.oracle; print([m for m in sys.modules if m.split('.')[0] in ('numba', 'tables')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("is_inverse", [False, True])
def test_a_book_heavy_market_equals_the_oracle(tmp_path: Path, is_inverse: bool) -> None:
    """Generated, with faults, imported: 200 levels a side, 20 to 70 Deltas a second of each symbol."""
    write_recording(tmp_path / "market.gz", symbols=2, seconds=75, is_inverse=is_inverse, with_faults=True)
    format_name = "binance-coinm" if is_inverse else "binance-usdm"
    import_recording([tmp_path / "market.gz"], format_name, archive=tmp_path / "archive", partitions=1)
    columns = Columns.concat(list(ArchiveReader(tmp_path / "archive").batches(0)))
    found = computed([MICRO, odd_set(), policy_set(9)], columns)
    assert sum(assert_agrees(columns, vectors) for vectors in found) > 200_000
    for name in ("order_flow_imbalance_60s", "multi_level_ofi_5_60s", "churn_rate_60s"):
        assert np.isfinite(found[0].values[:, MICRO.features.index(name)]).sum() > 10


@pytest.mark.recordings
@pytest.mark.parametrize(("format_name", "names"), RECORDINGS, ids=[names[0] for _, names in RECORDINGS])
def test_engine_equals_the_oracle_on_a_recording(
    format_name: str, names: list[str], recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In every bit, in any batches, whatever comes later."""
    files = [recordings / "hftbacktest" / name for name in names]
    import_recording(files, format_name, archive=tmp_path / "archive", partitions=1)
    columns = Columns.concat(list(ArchiveReader(tmp_path / "archive").batches(0)))
    compared = sum(assert_agrees(columns, vectors) for vectors in computed([MICRO, odd_set(), policy_set(1)], columns))
    vectors = run(columns)
    for batch in (1, 7, 64, 10_000):
        assert_same(run(columns, batch), vectors)
    chance = random.Random(1)
    for cut in (chance.randrange(len(columns)) for _ in range(50)):
        # Deleting every record after an offset changes no vector at or before it.
        assert_same(run(columns.slice(0, cut + 1)), vectors.select(vectors.as_of_offset <= columns.offset[cut]))
    with capsys.disabled():
        print(f"\n{names[0]}: {len(columns)} records, {compared} values of three feature sets equal")
