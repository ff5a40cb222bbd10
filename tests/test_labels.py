"""Labels equal a naive oracle; splits keep label intervals apart."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from replay.labels.forward import check_horizon, forward_return, label_name
from replay.splits.by_time import SPLITS, time_split
from schemas.errors import UsageError
from schemas.feature_sets import FeatureSet
from schemas.units import NS_PER_S
from schemas.vectors import Vectors

SET = FeatureSet("probe", 1, 500, ("spread", "mid_price"))
KEYS = ["B", "A", "C"]
prices = st.floats(0.01, 1e6) | st.just(float("nan"))
rows = st.dictionaries(st.tuples(st.integers(0, 2), st.integers(0, 25)), prices, min_size=1, max_size=60)


def vectors_of(cells: dict[tuple[int, int], float], order: list[int]) -> Vectors:
    """Vectors on a grid of half a second, in any order."""
    items = [list(cells.items())[i] for i in order]
    zero = np.zeros(len(items), np.int64)
    time = np.array([1_000_000_000 + step * NS_PER_S // 2 for (_, step), _ in items], np.int64)
    values = np.array([[1.0, price] for _, price in items])
    key = np.array([key for (key, _), _ in items], np.int32)
    return Vectors(SET, KEYS, key, time, zero.astype(np.int32), zero, zero, zero, zero, values)


@given(cells=rows, horizon=st.sampled_from([0.5, 1, 2.5, 5]), data=st.data())
def test_forward_return_equals_the_oracle(
    cells: dict[tuple[int, int], float], horizon: float, data: st.DataObject
) -> None:
    vectors = vectors_of(cells, data.draw(st.permutations(range(len(cells)))))
    label = forward_return(vectors, horizon)
    assert label.name == f"forward_return_{horizon:g}s"
    mid = {(k, t): v[1] for k, t, v in zip(vectors.instruments(), vectors.time.tolist(), vectors.values, strict=True)}
    for i, (key, time) in enumerate(zip(vectors.instruments(), vectors.time.tolist(), strict=True)):
        until = time + int(horizon * NS_PER_S)
        expected = mid.get((key, until), np.nan) / mid[key, time] - 1.0
        assert np.array_equal(label.value[i], expected, equal_nan=True)
        assert (label.t0[i], label.t1[i]) == (time, until)
        assert label.known[i] == (not np.isnan(expected))


def test_impossible_labels_are_refused() -> None:
    for horizon in (0.25, 0, -1, 0.75):
        with pytest.raises(UsageError, match=r"cadence.*Action"):
            check_horizon(SET, horizon)
    with pytest.raises(UsageError, match="mid_price"):
        check_horizon(FeatureSet("probe", 1, 1000, ("spread",)), 5)
    assert label_name(5.0) == label_name(5) == "forward_return_5s"


@settings(max_examples=300)
@given(
    t0=st.lists(st.integers(0, 60), min_size=1, max_size=80), horizon=st.integers(1, 20),
    fractions=st.sampled_from([SPLITS, {"train": "0.5", "test": "0.5"}, {"a": "0.6", "b": "0.2", "c": "0.2"}]),
)  # fmt: skip
def test_no_label_reaches_into_another_split(t0: list[int], horizon: int, fractions: dict[str, str]) -> None:
    begin, end = np.array(t0, np.int64), np.array(t0, np.int64) + horizon
    try:
        split = time_split(begin, end, fractions)
    except UsageError:
        assume(False)
    masks = [*split.rows.values(), split.purged]
    assert (np.sum(masks, axis=0) == 1).all(), "each row is in one split, or purged"
    ordered = list(split.rows.values())
    for earlier, later in pairwise(ordered):
        assert end[earlier].max() < begin[later].min()
    for i in np.flatnonzero(split.purged):
        assert any(begin[i] < boundary <= end[i] for boundary in split.boundaries), "nothing is purged without need"
    times = sorted(set(t0))
    share = Fraction(next(iter(fractions.values())))
    assert split.boundaries[0] == times[int(share * len(times))]


def test_fractions_are_judged() -> None:
    times = np.arange(100)
    for text in ("0.6,0.2,0.3", "0.6,0.2", "1,0,0", "a,b,c", "", "1.2,-0.1,-0.1", "nan,1,0", "1/0,1,0"):
        fractions = {f"part{i}": share for i, share in enumerate(text.split(","))}
        with pytest.raises(UsageError, match=r"no split.*Action"):
            time_split(times, times, fractions)
    with pytest.raises(UsageError, match="too short"):
        time_split(np.array([1, 1]), np.array([2, 2]), SPLITS)
    with pytest.raises(UsageError, match="purging"):
        time_split(np.arange(10), np.arange(10) + 9, SPLITS)
