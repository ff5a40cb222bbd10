"""The engine gives the same bits however the tape is cut, repeated or restored."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from frames import instrument
from streams import START, stream, tick_event

from agents import kernel
from agents.catalogue import FAMILIES, find
from agents.engine import Engine
from agents.oracle import Oracle
from schemas.columns import Columns, ColumnsBuilder, from_events
from schemas.errors import UsageError
from schemas.events import Event, Kind
from schemas.feature_sets import FeatureSet, Policy, load
from schemas.units import NS_PER_S
from schemas.vectors import Quality, Vectors
from tables.compiled import sources_digest

MICRO = load("micro@2")


def run(columns: Columns, batch: int = 1 << 30, engine: Engine | None = None) -> Vectors:
    """Vectors of a tape fed in batches."""
    engine = engine or Engine([MICRO], columns.partition)
    parts = [engine.apply(columns.slice(i, min(i + batch, len(columns))))[0] for i in range(0, len(columns), batch)]
    return Vectors.concat(parts) if parts else Vectors.empty(MICRO)


def assert_same(left: Vectors, right: Vectors) -> None:
    """The same vectors, bit for bit and in the same order."""
    assert len(left) == len(right)
    assert left.same_bits(right).all()


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return stream(1)


@pytest.fixture(scope="module")
def columns(events: list[Event]) -> Columns:
    return from_events(0, 0, events)


@pytest.mark.parametrize("batch", [1, 7, 64, 10_000])
def test_any_batch_size_gives_equal_bits(columns: Columns, batch: int) -> None:
    assert_same(run(columns, batch), run(columns))


def test_random_cuts_give_equal_bits(columns: Columns) -> None:
    chance = random.Random(5)
    for _ in range(5):
        cuts = sorted({0, len(columns), *(chance.randrange(len(columns)) for _ in range(40))})
        engine = Engine([MICRO], 0)
        parts = [engine.apply(columns.slice(a, b))[0] for a, b in pairwise(cuts)]
        assert_same(Vectors.concat(parts), run(columns))


def test_restore_at_any_point_gives_equal_bits(columns: Columns) -> None:
    """Half the tape, every state dumped and restored in another order into a new engine, the other half."""
    chance = random.Random(6)
    whole = run(columns)
    for _ in range(12):
        cut = chance.randrange(len(columns))
        before = Engine([MICRO], 0)
        first = before.apply(columns.slice(0, cut))[0]
        after = Engine([MICRO], 0)
        for key in chance.sample(before.arena.keys, len(before.arena)):
            after.arena.restore(key, before.arena.dump(key))
            assert after.arena.dump(key) == before.arena.dump(key)
        second = after.apply(columns.slice(cut, len(columns)))[0]
        assert_same(Vectors.concat([first, second]), whole)


def test_repeated_records_change_nothing(events: list[Event], columns: Columns) -> None:
    """After a crash the tape is read again from an earlier offset: each symbol skips what it has applied."""
    chance = random.Random(7)
    engine = Engine([MICRO], 0)
    parts, at = [], 0
    while at < len(columns):
        to = min(at + chance.randrange(1, 900), len(columns))
        parts.append(engine.apply(columns.slice(max(at - chance.randrange(600), 0), to))[0])
        at = to
    assert_same(Vectors.concat(parts), run(columns))


def test_older_states_of_some_symbols_repeat_their_vectors_only(columns: Columns) -> None:
    """Symbols saved at different offsets: what is emitted again is byte-identical, what is new is complete."""
    whole = run(columns).sorted()
    early, late = Engine([MICRO], 0), Engine([MICRO], 0)
    cut, later = len(columns) // 3, len(columns) // 2
    early.apply(columns.slice(0, cut))[0]
    late.apply(columns.slice(0, later))[0]
    mixed = Engine([MICRO], 0)
    for key in late.arena.keys:
        source = early if key.endswith(("A", "C")) else late
        mixed.arena.restore(key, source.arena.dump(key))
    again = mixed.apply(columns.slice(cut, len(columns)))[0]
    known = {(k, t): i for i, (k, t) in enumerate(zip(whole.instruments(), whole.time.tolist(), strict=True))}
    rows = np.array([known[k, t] for k, t in zip(again.instruments(), again.time.tolist(), strict=True)])
    assert again.same_bits(whole.select(rows)).all()
    needed = {i for (k, _), i in known.items() if whole.as_of_offset[i] >= (cut if k.endswith(("A", "C")) else later)}
    assert set(rows.tolist()) == needed


def test_late_and_doubled_ticks_are_harmless(events: list[Event]) -> None:
    builder, clean = ColumnsBuilder(0), ColumnsBuilder(0)
    newest = 0
    for offset, event in enumerate(events):
        builder.add(offset, event)
        if event.kind is not Kind.TICK or event.body["time"] > newest:
            clean.add(offset, event)
            newest = event.body["time"] if event.kind is Kind.TICK else newest
    noisy, quiet = run(builder.columns()), run(clean.columns())
    assert_same(noisy, quiet)


def test_a_subset_of_symbols_gives_the_same_bits(columns: Columns) -> None:
    whole = run(columns)
    for kept in ({"USDM:A"}, {"SPOT:B", "USDM:QUIET"}):
        keep = np.array([key == "*" or key in kept for key in columns.keys])
        part = run(columns.take(keep[columns.key]))
        rows = np.array([key in kept for key in whole.instruments()])
        assert_same(part, whole.select(rows))


def test_nothing_after_an_offset_shows_before_it(columns: Columns) -> None:
    """Deleting every record after a random offset changes no vector at or before it."""
    chance = random.Random(8)
    whole = run(columns)
    for _ in range(50):
        cut = chance.randrange(len(columns))
        part = run(columns.slice(0, cut + 1))
        assert_same(part, whole.select(whole.as_of_offset <= cut))


def test_refused_records_keep_their_offsets_and_nothing_else(events: list[Event], columns: Columns) -> None:
    """A refused record makes no symbol, not even with a name of its own."""
    builder = ColumnsBuilder(0)
    for i, event in enumerate(events):
        builder.add(2 * i, event)
        builder.add(2 * i + 1, Event(f"BAD:{i}", 0, 0, Kind.REFUSED, {"reason": "price-not-positive"}))
    engine = Engine([MICRO], 0)
    vectors = run(builder.columns(), 500, engine)
    whole = run(columns)
    assert vectors.bits().tobytes() == whole.bits().tobytes()
    assert (vectors.as_of_offset == 2 * whole.as_of_offset).all()
    assert not [key for key in engine.arena.keys if key.startswith("BAD")]


@pytest.mark.fault("time", "only Ticks for an hour")
def test_only_ticks_for_an_hour(columns: Columns, events: list[Event]) -> None:
    """Windows run empty, the book stands and is stale; steps of a minute give the same as every step."""
    last = max(event.ts_recv for event in events) // NS_PER_S * NS_PER_S
    every = [tick_event(last + i * NS_PER_S // 10) for i in range(1, 36_001)]
    # A z-score looks back on emitted values, of which the two have not the same.
    unscored = FeatureSet("micro", 1, 1000, tuple(name for name in MICRO.features if not name.startswith("zscore")))
    stepping, leaping = Engine([unscored], 0), Engine([unscored], 0)
    for engine in (stepping, leaping):
        engine.apply(columns)[0]
    walked = stepping.apply(from_events(0, len(events), every))[0]
    minutes = every[599::600]
    leapt = Vectors.concat([
        leaping.apply(from_events(0, len(events) + 600 * i + 599, [tick]))[0] for i, tick in enumerate(minutes)
    ])  # fmt: skip
    assert_same(leapt, walked.select(np.isin(walked.time, [tick.body["time"] for tick in minutes])))
    names = unscored.features
    assert (walked.values[-4:, names.index("trade_count_60s")] == 0).all()
    for key in stepping.arena.keys:
        assert stepping.arena.dump(key) == leaping.arena.dump(key)


def test_vectors_say_where_they_come_from(columns: Columns) -> None:
    vectors = run(columns)
    assert (columns.kind[vectors.as_of_offset] == Kind.TICK).all()
    assert (columns.body[columns.start[vectors.as_of_offset]] == vectors.time).all()
    assert (vectors.ts_available == columns.ts_recv[vectors.as_of_offset]).all()
    assert (vectors.time % NS_PER_S == 0).all()
    assert vectors.time.min() > START
    order = list(zip(vectors.as_of_offset.tolist(), vectors.instruments(), strict=True))
    assert order == sorted(set(order))


def test_a_feature_set_chooses_columns_and_their_flags(columns: Columns) -> None:
    """A column that is not chosen raises no flag."""
    chosen = FeatureSet("micro", 1, 1000, ("trade_count_1s", "high_60s"))
    part, whole = Engine([chosen], 0).apply(columns)[0], run(columns)
    places = [MICRO.features.index(name) for name in chosen.features]
    assert np.array_equal(part.values, whole.values[:, places], equal_nan=True)
    assert (part.quality & ~whole.quality == 0).all()
    assert (part.quality != whole.quality).any()


def test_what_is_compiled_is_cached_by_all_its_sources() -> None:
    """numba's cache watches one file: a hash of the others must be a value of the function it keeps."""
    values = [cell.cell_contents for cell in kernel.run.py_func.__closure__]
    assert int.from_bytes(sources_digest(), "little") >> 1 in values


def test_unknown_feature_is_refused() -> None:
    with pytest.raises(UsageError, match="no_such"):
        Engine([FeatureSet("mine", 1, 1000, ("mid_price", "no_such"))], 0)


def test_the_published_set_is_the_whole_catalogue() -> None:
    """micro@2 names every family; each says what it is."""
    found = [find(name) for name in load("micro@2").features]
    assert {feature.family.name for feature in found if feature is not None} == set(FAMILIES)
    assert all(each.unit and each.formula and each.inputs and each.source for each in FAMILIES.values())


def test_a_constant_has_no_zscore(columns: Columns) -> None:
    """Nothing deviates from it, not even by the rounding of its mean."""
    vectors = Engine([FeatureSet("flat", 1, 1000, ("zscore_day_of_week_sin_7",))], 0).apply(columns)[0]
    assert np.isnan(vectors.values).all()
    assert {Quality.WARMUP, Quality.COMPUTATION_ERROR} <= {
        flag for quality in vectors.quality.tolist() for flag in Quality(quality)
    }


def test_other_scales_forget_what_was_emitted(columns: Columns) -> None:
    """A value filled in or looked back on across them would be in another unit; the oracle agrees."""
    policies = {"mid_price": Policy(fill_ns=3_600 * NS_PER_S)}
    filled = FeatureSet("filled", 1, 100, ("mid_price", "zscore_mid_price_5"), policies)
    other = instrument("SPOT:B")
    other.body["tick_size"] = 7
    last = int(columns.ts_recv[-1]) // NS_PER_S * NS_PER_S
    ticks = [tick_event(last + i * NS_PER_S // 10) for i in range(50, 70)]
    tail = from_events(0, len(columns), [other, *ticks])
    engine, oracle = Engine([filled], 0), Oracle(filled, 0)
    for part in (columns, tail):
        vectors = engine.apply(part)[0]
        assert_same(vectors, oracle.apply(part))
    rows = [name == "SPOT:B" for name in vectors.instruments()]
    assert np.isnan(vectors.values[rows]).all()
    assert sum(rows) == 20


def test_a_set_that_remembers_too_much_is_refused() -> None:
    features = load("micro@2").features
    many = FeatureSet("many", 1, 1000, features, {name: Policy(clip_sigmas=4.0, clip_count=3600) for name in features})
    with pytest.raises(UsageError, match=r"at most 32768 values, was .*clip of .*Action: look back on fewer"):
        Engine([many], 0)
