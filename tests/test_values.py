"""Values are filled from the past, fitted on training rows exactly, and served as they were fitted."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from replay.splits.fold import Role, reaches, roles
from replay.splits.folds import folds
from replay.splits.spec import parse as parse_split
from replay.values.fill import Filler
from replay.values.fit import Fit
from replay.values.moments import Sums, root
from replay.values.parameters import Fitted, Parameters, load
from replay.values.quantiles import Selection
from replay.values.spec import Policy, ValuesSpec, parse
from schemas.errors import CheckFailed, UsageError

Float64 = NDArray[np.float64]
NAN = float("nan")
S = 1_000_000_000
floats = st.floats(allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.5, 1.5, 5e-324, -1e308, 1e308])
columns = st.lists(floats, min_size=1, max_size=60)
TEXTS = st.sampled_from(
    [
        "", "normalization=zscore", "normalization=robust,outliers=clip(2.5)", "outliers=quantile(0.1, 0.9)",
        "outliers=clip(1),normalization=zscore", "outliers=quantile(0.05,1),normalization=minmax",
        "normalization=minmax", "normalization=robust,outliers=quantile(0.25,0.75)",
        "missing=forward_fill(5s),normalization=zscore; b: normalization=none,outliers=clip(3)",
        "outliers=quantile(0.1,0.8),normalization=zscore; a: missing=interpolate(1m),outliers=none",
    ]
)  # fmt: skip


def known(values: list[float]) -> list[Fraction]:
    return [Fraction(value) for value in values if not math.isnan(value)]


def one(values: list[float]) -> Float64:
    return np.array(values).reshape(-1, 1)


@settings(max_examples=200, deadline=None)
@given(values=columns, cut=st.integers(0, 60))
def test_moments_are_the_nearest_floats_to_the_exact_ones(values: list[float], cut: int) -> None:
    sums = Sums(1)
    for part in (one(values)[cut:], one(values)[:cut]):
        sums.add(part)
    (found,) = sums.finish()
    exact = known(values)
    assert found.known == len(exact)
    if not exact:
        assert math.isnan(found.mean)
        return
    mean = sum(exact) / len(exact)
    variance = sum((each - mean) ** 2 for each in exact) / len(exact)
    assert (found.mean, found.lowest, found.highest) == (float(mean), float(min(exact)), float(max(exact)))
    low, high = (Fraction(math.nextafter(found.deviation, to)) ** 2 for to in (0, math.inf))
    assert low <= variance <= high


@settings(deadline=None)
@given(square=st.fractions(0, 10**40))
def test_roots_are_exact_where_they_can_be(square: Fraction) -> None:
    assert root(square * square) == float(square)
    assert math.isclose(root(square), math.sqrt(square), rel_tol=1e-15)


@settings(max_examples=200, deadline=None)
@given(values=columns, shares=st.lists(st.fractions(0, 1, max_denominator=20), min_size=1, max_size=4))
def test_quantiles_are_those_of_sorted_values(values: list[float], shares: list[Fraction]) -> None:
    selection = Selection([shares, []])
    both = np.column_stack([values, values])
    while not selection.is_done:
        for part in (both[1::2], both[::2]):
            selection.add(part)
        selection.end_pass()
    exact = sorted(known(values))
    for share, found in zip(shares, selection.quantiles(0), strict=True):
        if not exact:
            assert math.isnan(found)
            continue
        below, rest = divmod(share * (len(exact) - 1), 1)
        after = exact[min(int(below) + 1, len(exact) - 1)]
        assert found == float(exact[int(below)] + (after - exact[int(below)]) * rest)
    assert selection.quantiles(1) == []


def fit(spec: ValuesSpec, features: Sequence[str], parts: Callable[[], Iterable[Float64]]) -> Parameters:
    """What is fitted on training rows, which `parts` gives again for every pass."""
    fitting = Fit(spec, features)
    while not fitting.is_done:
        for part in parts():
            fitting.update(part)
        fitting.end_pass()
    return fitting.finish()


def rows(data: st.DataObject, count: int) -> Float64:
    drawn = data.draw(st.lists(st.tuples(floats, st.floats(-1e3, 1e3) | st.just(NAN)), min_size=count, max_size=count))
    return np.array(drawn).reshape(-1, 2)


def parts(values: Float64, cuts: list[int]) -> Callable[[], list[Float64]]:
    ends = [0, *sorted(cut for cut in cuts if cut < len(values)), len(values)]
    return lambda: [values[first:end] for first, end in pairwise(ends)]


@settings(deadline=None)
@given(text=TEXTS, data=st.data(), cuts=st.lists(st.integers(0, 30), max_size=5))
def test_parts_and_order_of_rows_make_no_difference(text: str, data: st.DataObject, cuts: list[int]) -> None:
    values = rows(data, data.draw(st.integers(0, 30)))
    whole = fit(parse(text), "ab", parts(values, []))
    order = data.draw(st.permutations(range(len(values))))
    in_parts = fit(parse(text), "ab", parts(values[np.array(order, np.int64)], cuts))
    assert json.dumps(whole.json()) == json.dumps(in_parts.json())
    applied = [whole.apply(part) for part in parts(values, cuts)()]
    assert np.concatenate(applied).tobytes() == whole.apply(values).tobytes()


@settings(deadline=None)
@given(text=TEXTS, data=st.data())
def test_a_fit_survives_json_bit_by_bit(text: str, data: st.DataObject) -> None:
    values = rows(data, 12)
    fitted = fit(parse(text), "ab", parts(values, []))
    again = Parameters.of(json.loads(json.dumps(fitted.json())))
    assert again == fitted
    assert again.apply(values).tobytes() == fitted.apply(values).tobytes()
    assert np.isnan(fitted.apply(values)).tolist() == np.isnan(values).tolist(), "the unknown stays unknown"


RANDOM = np.random.default_rng(6)
TABLE = RANDOM.standard_t(3, (500, 4)) * [1, 1e-6, 1e5, 0] + [0, 3, 1e5, 7]
TABLE[RANDOM.random(TABLE.shape) < 0.1] = NAN


@pytest.mark.parametrize(
    ("text", "scaler"),
    [
        ("normalization=zscore", StandardScaler()), ("normalization=robust", RobustScaler()),
        ("normalization=minmax", MinMaxScaler()),
    ],
)  # fmt: skip
def test_scales_are_those_of_scikit_learn(text: str, scaler: StandardScaler) -> None:
    train, other = TABLE[:300], TABLE[300:]
    fitted = fit(parse(text), "abcd", parts(train, [100]))
    scaler.fit(train)
    assert np.allclose(fitted.apply(other), scaler.transform(other), rtol=1e-7, atol=1e-7, equal_nan=True)


def test_outliers_go_to_bounds_fitted_on_training_rows() -> None:
    train, other = TABLE[:300], TABLE[300:]
    clip = fit(parse("outliers=clip(1.5)"), "abcd", parts(train, []))
    reach = 1.5 * np.nanstd(train, axis=0)
    mean = np.nanmean(train, axis=0)
    assert np.allclose(clip.apply(other), np.clip(other, mean - reach, mean + reach), equal_nan=True)
    assert (clip.clipped(other) == (np.abs(other - mean) > reach))[:, :3].all()
    assert clip.clipped(other)[:, :3].any(axis=0).all()
    quantile = fit(parse("outliers=quantile(0.01,0.95)"), "abcd", parts(train, []))
    low, high = np.nanquantile(train, [0.01, 0.95], axis=0)
    assert np.allclose(quantile.apply(other), np.clip(other, low, high), equal_nan=True)


@pytest.mark.parametrize("outliers", ["clip(1)", "quantile(0.1,0.9)"])
def test_scales_are_of_clipped_values(outliers: str) -> None:
    plain = fit(parse(f"outliers={outliers}"), "abcd", parts(TABLE, []))
    scaled = plain.apply(TABLE)
    for name, scaler in (("zscore", StandardScaler()), ("robust", RobustScaler()), ("minmax", MinMaxScaler())):
        fitted = fit(parse(f"outliers={outliers},normalization={name}"), "abcd", parts(TABLE, [7]))
        expected = scaler.fit_transform(scaled)
        assert np.allclose(fitted.apply(TABLE), expected, rtol=1e-7, atol=1e-7, equal_nan=True)


def test_a_column_without_a_known_value_or_any_spread_stays() -> None:
    values = np.column_stack([np.full(5, NAN), np.full(5, 3.0)])
    for name in ("zscore", "robust", "minmax"):
        fitted = fit(parse(f"normalization={name},outliers=clip(2)"), "ab", parts(values, []))
        assert fitted.columns == (Fitted(), Fitted(5, 3.0, 3.0, 3.0, 1.0))
        assert fitted.apply(np.array([[4.0, 5.0]])).tolist() == [[4.0, 0.0]]
    assert fit(parse(""), "ab", parts(values, [])).columns == (Fitted(), Fitted())


cells = st.dictionaries(
    st.tuples(st.integers(0, 30), st.sampled_from("xy")), st.floats(-10, 10) | st.just(NAN), min_size=1, max_size=40
)


@settings(max_examples=200, deadline=None)
@given(cells=cells, age=st.integers(1, 12), cut=st.integers(0, 40))
def test_filling_is_that_of_the_definition(cells: dict[tuple[int, str], float], age: int, cut: int) -> None:
    table = [(time, name, value) for (time, name), value in sorted(cells.items())]
    spec = parse(
        f"missing=forward_fill({age}s); line: missing=interpolate({age}s); drop: missing=drop_row; as_is: missing=null"
    )
    features = ("forward", "line", "drop", "as_is")
    filler = Filler(spec, features)
    filled, stays = [], []
    for part, keys in ((table[:cut], ["x", "y"]), (table[cut:], ["z", "y", "x"])):
        key = np.array([keys.index(name) for _, name, _ in part], np.int32)
        values = np.repeat(one([value for *_, value in part]), 4, axis=1)
        found, kept = filler.fill(keys, key, np.array([time for time, *_ in part], np.int64) * S, values)
        filled += found.tolist()
        stays += kept.tolist()
    for i, (now, name, value) in enumerate(table):
        past = [(t, v) for t, n, v in table[: i + 1] if n == name and not math.isnan(v) and now - t <= age]
        forward, line = (past[-1][1], NAN) if past else (NAN, NAN)
        if not math.isnan(value):
            line = value
        elif len(past) > 1:
            (early, before), (late, last) = past[-2:]
            line = last + (last - before) * ((now - late) / (late - early))
        assert np.array_equal(filled[i], [forward, line, value, value], equal_nan=True)
        assert stays[i] == (not math.isnan(value))


@settings(deadline=None)
@given(cells=cells, now=st.integers(0, 30))
def test_filling_never_looks_ahead(cells: dict[tuple[int, str], float], now: int) -> None:
    """Poison everything behind an instant: nothing up to it changes."""
    table = [(time, name, value) for (time, name), value in sorted(cells.items())]
    key = np.array(["xy".index(name) for _, name, _ in table], np.int32)
    time = np.array([time for time, *_ in table], np.int64) * S
    values = np.repeat(one([value for *_, value in table]), 2, axis=1)
    spec = parse("missing=forward_fill(9s); line: missing=interpolate(9s)")
    features = ("forward", "line")
    poisoned = np.where(time[:, None] > now * S, 1e9, values)
    before = time <= now * S
    plain, other = (Filler(spec, features).fill("xy", key, time, each)[0][before] for each in (values, poisoned))
    assert plain.tobytes() == other.tobytes()


def test_times_that_go_back_are_refused() -> None:
    filler = Filler(parse("missing=forward_fill(9s)"), ("a",))
    filler.fill(["x"], np.zeros(1, np.int32), np.array([5]), one([1.0]))
    with pytest.raises(ValueError, match="ascend"):
        filler.fill(["x"], np.zeros(1, np.int32), np.array([5]), one([NAN]))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("zscore", "NAME=POLICY"), ("normalization=z_score", "did you mean zscore"),
        ("scale=zscore", "missing, outliers"),
        ("missing=forward_fill", "AGE"), ("missing=forward_fill(5)", "AGE"), ("missing=null(5s)", "without an age"),
        ("missing=ffill", "missing="), ("outliers=clip", "clip\\(K\\)"), ("outliers=clip(0)", "above 0"),
        ("outliers=clip(a)", "clip\\(K\\)"), ("outliers=quantile(0.9,0.1)", "LOW below HIGH"),
        ("outliers=quantile(0.1,1.1)", "at most 1"), ("outliers=none,outliers=none", "once"),
        ("normalization=zscore;normalization=robust", "different columns"), ("a: ", "NAME=POLICY"),
    ],
)  # fmt: skip
def test_what_declares_no_policy_is_refused(text: str, word: str) -> None:
    with pytest.raises(UsageError, match=rf"{word}.*|.*{word}"):
        parse(text)


def test_columns_have_policies_of_their_own() -> None:
    spec = parse("normalization=zscore, missing=forward_fill(1m); spread: normalization=none; mid: outliers=clip(4.0)")
    assert spec.policies(["mid", "depth", "spread"]) == [
        Policy("forward_fill(60s)", "clip(4.0)", "zscore"), Policy("forward_fill(60s)", "none", "zscore"),
        Policy("forward_fill(60s)", "none", "none"),
    ]  # fmt: skip
    assert spec.look_back_ns == 60 * S
    assert ValuesSpec.of(json.loads(json.dumps(spec.json()))) == spec
    assert parse("").is_empty
    assert not spec.is_empty
    with pytest.raises(UsageError, match="did you mean spread"):
        spec.policies(["mid", "spreads"])
    for stored in (
        {},
        {"*": 1},
        {"*": {"missing": "never"}},
        {"*": {}},
        {"*": {"missing": 1}},
        {"*": {"missing": "null", "a": "b"}},
    ):
        with pytest.raises((KeyError, TypeError, ValueError)):
            ValuesSpec.of(stored)


def test_parameters_are_loaded_from_a_dataset(tmp_path: Path) -> None:
    fitted = fit(parse("normalization=zscore; d: outliers=clip(2)"), "abcd", parts(TABLE, []))
    manifest = tmp_path / "manifest.json"
    with pytest.raises(UsageError, match=r"no dataset.*Action"):
        load(tmp_path)
    manifest.write_text(json.dumps({"values": fitted.json()}))
    assert load(tmp_path) == fitted
    with pytest.raises(UsageError, match="no folds"):
        load(tmp_path, "fold_0")
    manifest.write_text(json.dumps({"values": {"folds": {"fold_0": fitted.json()}}}))
    assert load(tmp_path, "fold_0") == fitted
    for fold in (None, "fold_1"):
        with pytest.raises(UsageError, match="one of fold_0"):
            load(tmp_path, fold)
    stored = fitted.json()
    torn = [
        {}, {"values": 3}, {"values": {"columns": {}}}, {"values": stored | {"policies": {"*": {"missing": "x"}}}},
        {"values": stored | {"columns": {"a": {"known": 1.5}}}},
        {"values": stored | {"columns": {"a": {"scale": 0.0}}}},
        {"values": stored | {"columns": {"a": {"mean": 0.0}}}}, {"values": stored | {"columns": {"z": {}}}}, [],
    ]  # fmt: skip
    for content in torn:
        manifest.write_text(json.dumps(content))
        with pytest.raises(CheckFailed, match=r"torn.*Action"):
            load(tmp_path)


def test_serving_needs_no_dataset_library() -> None:
    check = "import sys, replay.values.parameters, replay.values.fill; print([m for m in sys.modules if m in HEAVY])"
    heavy = "{'polars', 'matplotlib', 'pandas', 'sklearn', 'pyarrow.parquet', 'ray'}"
    ran = subprocess.run(
        [sys.executable, "-c", check.replace("HEAVY", heavy)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert ran.stdout.strip() == "[]"


@settings(deadline=None)
@given(text=TEXTS, kind=st.sampled_from(["train=0.6,test=0.4", "k_fold:folds=4,purge=2s,embargo=1s"]), data=st.data())
def test_a_fit_never_sees_a_row_that_is_not_trained_on(text: str, kind: str, data: st.DataObject) -> None:
    """Poison every validated, tested, purged and embargoed row: the parameters are the same."""
    values, spec = rows(data, 40), parse_split(kind)
    time = np.arange(40, dtype=np.int64) * S
    for fold in folds(spec, time):
        found = roles(
            fold, reaches(fold, time, time + S), time, time + S, look_back_ns=S,
            purge_horizon_ns=spec.purge_horizon_ns, embargo_ns=spec.embargo_ns,
        )  # fmt: skip
        train = found == Role.TRAIN
        poisoned = np.where(train[:, None], values, 1e300)
        plain, other = (fit(parse(text), "ab", parts(each[train], [5])) for each in (values, poisoned))
        assert plain == other
        assert json.dumps(fit(parse("normalization=zscore"), "ab", parts(poisoned, [])).json()) != json.dumps(
            fit(parse("normalization=zscore"), "ab", parts(poisoned[train], [])).json()
        ), "the poison is one that a fit on every row would show"
