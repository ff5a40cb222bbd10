"""Labels equal their definitions, whatever the grid, and look no farther than their interval says."""

from __future__ import annotations

import math
from dataclasses import replace

import label_oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_oracle import Tape

from replay.labels.compute import Labelled, check, label, look_back_ns, reach_ns
from replay.labels.families import FAMILIES
from replay.labels.prices import PriceGrid, prices_set
from schemas import labels
from schemas.columns import Int64
from schemas.errors import UsageError
from schemas.labels import LabelSpec, parse
from schemas.units import NS_PER_MS, NS_PER_S
from schemas.vectors import Vectors

START = 1_721_347_200 * NS_PER_S
STEP = 100 * NS_PER_MS
TEXTS = (
    "forward_return_{}", "forward_log_return_{}", "direction_{}", "direction_{}(threshold=0)",
    "direction_{}(threshold=0.0003)", "risk_adjusted_return_{}", "triple_barrier_{}",
    "triple_barrier_{}(upper=0.0004, lower=0.0002)", "triple_barrier_{}(sigmas=0.7)", "forward_volatility_{}",
    "mark_out_{}",
)  # fmt: skip
RELATIVE = [text for text in TEXTS if not text.startswith("mark_out")]


def grid_of(seed: int, points: int, *, unknown: float = 0.0, holes: float = 0.0) -> PriceGrid:
    """A random walk by whole ticks, some of its prices unknown, some of its times left out."""
    chance = np.random.default_rng(seed)
    walk = 5_000 + np.cumsum(chance.integers(-1, 2, points) * chance.integers(0, 4, points))
    mid = np.where(chance.random(points) < unknown, np.nan, walk / 8.0)
    volume = chance.integers(-2, 3, points) / 4.0
    vwap = np.where(chance.random(points) < 0.2, np.nan, walk / 8.0 + chance.integers(-3, 4, points) / 16.0)
    time = START + np.arange(points, dtype=np.int64) * STEP
    kept = chance.random(points) >= holes
    kept[0] = True
    return PriceGrid(time[kept], mid[kept], vwap[kept], volume[kept])


def cut(grid: PriceGrid, first: int, last: int) -> PriceGrid:
    """The grid's points with first <= time <= last."""
    kept = (grid.time >= first) & (grid.time <= last)
    assert grid.vwap is not None
    assert grid.signed_volume is not None
    return PriceGrid(grid.time[kept], grid.mid[kept], grid.vwap[kept], grid.signed_volume[kept])


def tape_of(grid: PriceGrid) -> Tape:
    def known(values: np.ndarray | None) -> dict[int, float]:
        assert values is not None
        pairs = zip(grid.time.tolist(), values.tolist(), strict=True)
        return {time: value for time, value in pairs if not math.isnan(value)}

    return Tape(known(grid.mid), known(grid.vwap), known(grid.signed_volume), STEP)


def spec_of(text: str, steps: int) -> LabelSpec:
    return parse(text.format(f"{steps * 100}ms"))


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(((a == b) & (np.signbit(a) == np.signbit(b)) | (np.isnan(a) & np.isnan(b))).all())


def agree(a: Labelled, b: Labelled) -> bool:
    return same_bits(a.value, b.value) and bool((a.t0 == b.t0).all() and (a.t1 == b.t1).all())


def times_around(grid: PriceGrid, order: int) -> Int64:
    """Every time from before the grid to behind it, in an order of its own."""
    points = int((grid.time[-1] - grid.time[0]) // STEP) + 1
    at = START + np.arange(-3, points + 3, dtype=np.int64) * STEP
    return at[np.random.default_rng(order).permutation(len(at))]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32), points=st.integers(1, 70) | st.integers(1, 700), steps=st.integers(1, 9),
    delay=st.integers(0, 3), unknown=st.sampled_from([0, 0.03, 0.3]), holes=st.sampled_from([0, 0.03]),
    text=st.sampled_from(TEXTS), is_long=st.booleans(),
)  # fmt: skip
def test_labels_equal_the_oracle(
    seed: int, points: int, steps: int, delay: int, unknown: float, holes: float, text: str, is_long: bool
) -> None:
    if is_long:  # horizons of many blocks of the pyramid, which only whole grids have
        steps, unknown, holes = steps * max(points // 12, 1), 0.0, 0.0
    grid = grid_of(seed, points, unknown=unknown, holes=holes)
    spec, tape, at = spec_of(text, steps), tape_of(grid), times_around(grid, seed)
    made = label(spec, grid, at, step_ns=STEP, entry_delay_ns=delay * STEP)
    expected = [label_oracle.label(spec, tape, time, delay * STEP) for time in at.tolist()]
    value = np.array([np.nan if row[0] is None else row[0] for row in expected])
    assert np.array_equal(made.value, value, equal_nan=True)
    assert made.t0.tolist() == [row[1] for row in expected]
    assert made.t1.tolist() == [row[2] for row in expected]


@settings(max_examples=60, deadline=None)
@given(powers=st.lists(st.integers(-20, 20), min_size=2, max_size=20), steps=st.integers(1, 8))
def test_leaps_of_any_size_are_summed_exactly(powers: list[int], steps: int) -> None:
    grid = grid_of(1, len(powers))
    grid = replace(grid, mid=np.array([1.37 * 2.0**power for power in powers]))
    for text in ("forward_volatility_{}", "risk_adjusted_return_{}", "triple_barrier_{}(sigmas=0.5)"):
        spec, tape = spec_of(text, steps), tape_of(grid)
        made = label(spec, grid, grid.time, step_ns=STEP, entry_delay_ns=0)
        expected = [label_oracle.label(spec, tape, time, 0) for time in grid.time.tolist()]
        value = np.array([np.nan if row[0] is None else row[0] for row in expected])
        assert np.array_equal(made.value, value, equal_nan=True)
        assert made.t1.tolist() == [row[2] for row in expected]


@pytest.mark.parametrize("price", [0.0, -1.0, math.inf])
def test_what_is_no_price_is_unknown(price: float) -> None:
    whole = grid_of(3, 40)
    odd, unknown = (replace(whole, mid=np.where(np.arange(40) == 20, each, whole.mid)) for each in (price, np.nan))
    for text in TEXTS:
        spec = spec_of(text, 5)
        made = (label(spec, grid, whole.time, step_ns=STEP, entry_delay_ns=0) for grid in (odd, unknown))
        assert agree(*made)


def test_every_label_there_is_can_be_computed_and_is_asked_of_the_oracle() -> None:
    assert set(FAMILIES) == set(labels.FAMILIES) == {parse(text.format("5s")).family for text in TEXTS}
    assert all(family.formula and family.source for family in FAMILIES.values())


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32), points=st.integers(1, 200), steps=st.integers(1, 30), delay=st.integers(0, 2),
    text=st.sampled_from(TEXTS), place=st.integers(0, 199), unknown=st.sampled_from([0, 0.03]),
)  # fmt: skip
def test_a_cut_of_the_grid_that_covers_reach_and_look_back_gives_the_same_bits(
    seed: int, points: int, steps: int, delay: int, text: str, place: int, unknown: float
) -> None:
    grid, spec = grid_of(seed, points, unknown=unknown), spec_of(text, steps)
    at = np.array([START + place % points * STEP])
    whole = label(spec, grid, at, step_ns=STEP, entry_delay_ns=delay * STEP)
    reach = reach_ns(spec, delay * STEP)
    part = cut(grid, int(at[0]) - look_back_ns(spec), int(at[0]) + reach)
    assert agree(whole, label(spec, part, at, step_ns=STEP, entry_delay_ns=delay * STEP))
    assert whole.t1[0] <= at[0] + reach


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32), steps=st.integers(1, 30), delay=st.integers(0, 2), text=st.sampled_from(TEXTS),
    place=st.integers(0, 99), factor=st.sampled_from([1e-9, 0.5, 1.001, 1e9]),
)  # fmt: skip
def test_no_label_reads_beyond_the_end_of_its_interval(
    seed: int, steps: int, delay: int, text: str, place: int, factor: float
) -> None:
    grid, spec = grid_of(seed, 100), spec_of(text, steps)
    at = grid.time[place : place + 1]
    before = label(spec, grid, at, step_ns=STEP, entry_delay_ns=delay * STEP)
    behind = grid.time > before.t1[0]
    poisoned = replace(
        grid,
        mid=np.where(behind, grid.mid * factor, grid.mid),
        vwap=np.where(grid.time > at[0], 1.0, grid.vwap),
        signed_volume=np.where(grid.time > at[0], -9.0, grid.signed_volume),
    )
    assert agree(before, label(spec, poisoned, at, step_ns=STEP, entry_delay_ns=delay * STEP))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(2, 60), sigmas=st.sampled_from(["0", "0.4"]))
def test_a_barrier_is_known_at_its_touch_and_not_before(seed: int, steps: int, sigmas: str) -> None:
    """At t1 the price decides: another one there changes a label of 1 or -1, and the same label is not known sooner."""
    grid = grid_of(seed, 150)
    spec = spec_of(f"triple_barrier_{{}}(upper=0.0005, lower=0.0005, sigmas={sigmas})", steps)
    made = label(spec, grid, grid.time, step_ns=STEP, entry_delay_ns=0)
    for i in np.flatnonzero(np.abs(made.value) == 1.0)[:20]:
        touch = int(np.searchsorted(grid.time, made.t1[i]))
        calm = grid.mid.copy()
        calm[touch:] = grid.mid[i]
        later = label(spec, replace(grid, mid=calm), grid.time[i : i + 1], step_ns=STEP, entry_delay_ns=0)
        assert later.value[0] == 0.0
        assert later.t1[0] == later.t0[0] + spec.horizon_ns


@given(
    seed=st.integers(0, 2**32), steps=st.integers(1, 20), power=st.integers(-30, 30), text=st.sampled_from(TEXTS)
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_labels_are_relative(seed: int, steps: int, power: int, text: str) -> None:
    """Every price times a power of two, which floats multiply exactly, is the same market in another unit."""
    grid, spec = grid_of(seed, 90, unknown=0.02), spec_of(text, steps)
    assert grid.vwap is not None
    other = replace(grid, mid=grid.mid * 2.0**power, vwap=grid.vwap * 2.0**power)
    made, scaled = (label(spec, each, grid.time, step_ns=STEP, entry_delay_ns=STEP) for each in (grid, other))
    assert agree(made, scaled)


@given(seed=st.integers(0, 2**32), steps=st.integers(1, 20), delay=st.integers(1, 9), text=st.sampled_from(RELATIVE))
@settings(max_examples=60, deadline=None)
def test_an_entry_delay_is_a_later_entry(seed: int, steps: int, delay: int, text: str) -> None:
    grid, spec = grid_of(seed, 90, unknown=0.02, holes=0.02), spec_of(text, steps)
    at = START + np.arange(90, dtype=np.int64) * STEP
    delayed = label(spec, grid, at, step_ns=STEP, entry_delay_ns=delay * STEP)
    assert agree(delayed, label(spec, grid, at + delay * STEP, step_ns=STEP, entry_delay_ns=0))


@pytest.mark.parametrize("text", TEXTS)
def test_a_gap_or_the_end_of_the_tape_is_no_label(text: str) -> None:
    """Also where a barrier was touched before the gap: else, of those rows, only the ones that moved had a label."""
    whole, spec = grid_of(7, 60), spec_of(text, 10)
    at = whole.time
    gap = replace(whole, mid=np.where(np.arange(60) == 30, np.nan, whole.mid))
    hole = cut(whole, START, START + 29 * STEP)
    known = label(spec, whole, at, step_ns=STEP, entry_delay_ns=0).value
    for grid in (gap, hole):
        made = label(spec, grid, at, step_ns=STEP, entry_delay_ns=0).value
        assert np.isnan(made[20:31]).all()
        assert same_bits(made[:20], known[:20])


def test_a_grid_without_points_labels_nothing() -> None:
    none = np.empty(0)
    grid = PriceGrid(np.empty(0, np.int64), none, none, none)
    for text in TEXTS:
        assert np.isnan(label(spec_of(text, 3), grid, np.array([START]), step_ns=STEP, entry_delay_ns=0).value).all()


def test_the_prices_asked_of_the_tape() -> None:
    plain = prices_set(500, [parse("forward_return_5s")])
    assert (plain.id, plain.cadence_ms, plain.features) == ("label_prices@1", 500, ("mid_price",))
    traded = prices_set(1000, [parse("forward_return_5s"), parse("mark_out_5s")])
    assert traded.features == ("mid_price", "vwap_1s", "signed_volume_1s")
    zero = np.zeros(3, np.int64)
    values = np.array([[1.0, 2.0, 3.0], [4.0, np.nan, 5.0], [6.0, 7.0, 8.0]])
    time = START + np.arange(3) * NS_PER_S
    small = zero.astype(np.int32)
    grid = PriceGrid.of(Vectors(traded, ["A"], small, time, small, zero, zero, zero, zero, values))
    assert grid.vwap is not None
    assert grid.signed_volume is not None
    for column, name in enumerate(("mid", "vwap", "signed_volume")):
        assert np.array_equal(getattr(grid, name), values[:, column], equal_nan=True)


@pytest.mark.parametrize(
    ("text", "cadence_ms", "step_ms", "delay_ms"),
    [
        ("forward_return_5s", 1000, 300, 0), ("forward_return_5s", 1000, 50, 0), ("forward_return_5s", 1000, 2000, 0),
        ("forward_return_5s", 1000, 0, 0), ("forward_return_1500ms", 1000, 1000, 0),
        ("forward_return_5s", 1000, 1000, 100), ("forward_return_5s", 1000, 1000, -1000),
        ("triple_barrier_5s(upper=0)", 1000, 1000, 0), ("triple_barrier_5s(lower=0)", 1000, 1000, 0),
        ("forward_return_40000d", 1000, 1000, 10**15),
    ],
)  # fmt: skip
def test_labels_off_the_grid_are_refused(text: str, cadence_ms: int, step_ms: int, delay_ms: int) -> None:
    with pytest.raises(UsageError, match="Action"):
        check([parse(text)], cadence_ms, step_ms * NS_PER_MS, delay_ms * NS_PER_MS)


def test_labels_on_the_grid_are_not() -> None:
    specs = [parse(text.format("5s")) for text in (*TEXTS, "triple_barrier_{}(upper=0, lower=0, sigmas=2)")]
    for cadence_ms, step_ms, delay_ms in ((1000, 1000, 0), (1000, 100, 300), (500, 250 * 2, 500)):
        check(specs, cadence_ms, step_ms * NS_PER_MS, delay_ms * NS_PER_MS)
