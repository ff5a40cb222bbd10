"""Splitters give scikit-learn what the splits of a dataset say."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold, TimeSeriesSplit, cross_val_score
from test_values import fit

from replay.splits.spec import parse
from replay.splits.splitters import (
    CombinatorialPurgedKFold,
    IntervalSplitter,
    PurgedKFold,
    TimeSplit,
    WalkForward,
    to_duration,
    to_times,
)
from replay.values.spec import MISSING, NORMALIZATIONS, OUTLIERS
from replay.values.spec import parse as parse_values
from schemas.errors import UsageError

S = 1_000_000_000
TIMES = np.arange(60, dtype=np.int64) * S
X = np.random.default_rng(1).normal(size=(60, 3))
Y = X @ [1.0, 2.0, 3.0]


def splitters(prediction: Any, evaluation: Any) -> list[IntervalSplitter]:
    told: dict[str, Any] = {"prediction_times": prediction, "evaluation_times": evaluation, "purge_horizon": "1s"}
    return [
        TimeSplit(train=0.7, **told), WalkForward(4, **told), WalkForward(4, window="expanding", train="1/2", **told),
        PurgedKFold(5, embargo="3s", **told), CombinatorialPurgedKFold(6, 2, embargo="2s", look_back="1s", **told),
    ]  # fmt: skip


@given(order=st.permutations(range(60)), lengths=st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_no_trained_row_knows_of_a_tested_one(order: list[int], lengths: list[int]) -> None:
    begin = TIMES[order]
    end = begin + np.array(lengths) * S
    for splitter in splitters(begin, end):
        folds = list(splitter.split(X, Y))
        assert len(folds) == splitter.get_n_splits(X)
        for train, test in folds:
            assert len(train)
            assert len(test)
            assert (np.diff(train) > 0).all()
            known_from, known_to = begin[train] - splitter._look_back_ns, end[train] + S
            tested_to = end[test] + splitter.spec.embargo_ns
            assert ((known_to[:, None] < begin[test]) | (known_from[:, None] > tested_to)).all()


def test_scikit_learn_takes_them() -> None:
    for splitter in splitters(TIMES, TIMES + S):
        scores = cross_val_score(Ridge(), X, Y, cv=splitter)
        assert len(scores) == splitter.get_n_splits()
        assert scores.min() > 0.5
        searched = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=splitter).fit(X, Y)
        assert searched.n_splits_ == splitter.get_n_splits()


def test_without_labels_that_last_they_split_as_scikit_learn_does() -> None:
    told = {"prediction_times": TIMES, "evaluation_times": TIMES}
    pairs = [
        (PurgedKFold(5, **told), KFold(5)), (WalkForward(5, window="expanding", **told), TimeSeriesSplit(5)),
        (WalkForward(5, **told), TimeSeriesSplit(5, max_train_size=10)),
    ]  # fmt: skip
    for ours, theirs in pairs:
        for found, expected in zip(ours.split(X), theirs.split(X), strict=True):
            assert [each.tolist() for each in found] == [each.tolist() for each in expected]


def test_every_row_of_k_folds_is_tested_as_often_as_said() -> None:
    told = {"prediction_times": TIMES, "evaluation_times": TIMES + S}
    tested = np.concatenate([test for _, test in PurgedKFold(5, **told).split(X)])
    assert sorted(tested.tolist()) == list(range(60))
    splitter = CombinatorialPurgedKFold(6, 2, **told)
    folds = list(splitter.split(X))
    assert [test.tolist() for _, test in folds] == [
        [*range(10 * a, 10 * a + 10), *range(10 * b, 10 * b + 10)] for a, b in combinations(range(6), 2)
    ]
    paths = splitter.backtest_paths()
    assert len(paths) == 5
    for path in paths:
        for group, fold in enumerate(path):
            assert set(range(10 * group, 10 * group + 10)) <= set(folds[fold][1].tolist())


FORMS = [
    TIMES.astype("datetime64[ns]"), TIMES.astype("datetime64[ns]").astype("datetime64[s]"),
    pd.Series(pd.to_datetime(TIMES)), pd.DatetimeIndex(pd.to_datetime(TIMES)),
    pd.Series(pd.to_datetime(TIMES, utc=True)),
    pd.Series(pd.to_datetime(TIMES, utc=True).tz_convert("America/New_York")), pl.Series(TIMES).cast(pl.Datetime("ns")),
    pl.Series(TIMES // 1000).cast(pl.Datetime("us")), pd.Series(TIMES), TIMES.astype(np.uint64), TIMES.tolist(),
    [datetime(1970, 1, 1) + timedelta(seconds=i) for i in range(60)],
]  # fmt: skip


@pytest.mark.parametrize(
    "times", FORMS, ids=lambda times: f"{type(times).__module__}-{getattr(times, 'dtype', 'list')}"
)
def test_times_of_any_library_are_the_same(times: Any) -> None:
    assert to_times(times, "times").tolist() == TIMES.tolist()


@pytest.mark.parametrize(
    "length",
    ["90s", 90 * S, timedelta(seconds=90), np.timedelta64(90, "s"), pd.Timedelta("90s"), np.int64(90 * S)],
)
def test_durations_of_any_library_are_the_same(length: Any) -> None:
    assert to_duration(length, "embargo") == 90 * S
    assert to_duration(pd.Timedelta(7, "ns"), "embargo") == 7


@pytest.mark.parametrize("length", [-1, "ten", 1.5, True, np.timedelta64("NaT"), None, timedelta(seconds=-1)])
def test_what_is_no_duration_is_refused(length: Any) -> None:
    with pytest.raises(UsageError, match=r"embargo is no duration.*nanoseconds.*Action"):
        PurgedKFold(prediction_times=TIMES, evaluation_times=TIMES, embargo=length)


@pytest.mark.parametrize(
    ("prediction", "evaluation", "word"),
    [
        (TIMES, TIMES[:-1], "59 and 60"), (TIMES, TIMES - 1, "row 0"), (TIMES.astype(float), TIMES, "float64"),
        (TIMES, TIMES.reshape(2, 30), "2 dimensions"), (TIMES, np.full(60, np.datetime64("NaT")), "others among them"),
        (TIMES, np.full(60, np.datetime64("9999-01-01")), "146 years"),
        (["a"], TIMES, "<U1"), ([None, 1], TIMES, "others among them"), ([object()], TIMES, "objects"),
        (TIMES + (1 << 62), TIMES, "146 years"), (TIMES.astype(np.uint64) + np.uint64(1 << 63), TIMES, "146 years"),
    ],
)  # fmt: skip
def test_times_that_are_none_are_refused(prediction: Any, evaluation: Any, word: str) -> None:
    with pytest.raises(UsageError, match=rf"{word}.*Action|.*{word}"):
        PurgedKFold(prediction_times=prediction, evaluation_times=evaluation)


def test_rows_of_another_table_are_refused() -> None:
    splitter = PurgedKFold(prediction_times=TIMES, evaluation_times=TIMES)
    with pytest.raises(UsageError, match="60 rows that the times are of, was 59 rows"):
        next(splitter.split(X[:-1]))
    assert next(splitter.split(list(X)))[1].tolist() == list(range(12))
    with pytest.raises(UsageError, match="no row for train"):
        next(PurgedKFold(2, prediction_times=TIMES, evaluation_times=TIMES + 60 * S).split(X))
    for train in ("a", 1.5, "1/0"):
        with pytest.raises(UsageError, match="positive fractions"):
            TimeSplit(prediction_times=TIMES, evaluation_times=TIMES, train=train)


def test_datetimes_with_a_zone_are_utc() -> None:
    aware = pd.Series([datetime(2026, 1, 1, 12, tzinfo=UTC)])
    assert to_times(aware, "times").tolist() == [1_767_268_800 * S]


PAGE = (ROOT / "docs" / "splits.md").read_text(encoding="utf-8")


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory, served = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(in_memory, names)
    assert len(names["scores"]) == 5
    spec = parse_values(re.findall(r"`(missing=forward_fill.*?)` is a policy", PAGE)[0])
    features = ("mid_price", "spread")
    fitted = fit(spec, features, lambda: [np.array([[1.0, 2.0], [3.0, 4.0]])])
    folder = tmp_path / "datasets" / "some-1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"values": fitted.json()}))
    monkeypatch.chdir(tmp_path)
    rows = {"key": np.zeros(1, np.int32), "time": np.array([S]), "values": np.array([[3.0, 3.0]])}
    names = {"dataset_id": "some-1", **rows}
    exec(served, names)
    assert names["served"].tolist() == [[3.0, 0.0]]


def test_the_page_names_splits_and_policies_that_are_there() -> None:
    told = [parse(text) for text in re.findall(r"^\| `((?:\w+:)?\w+=.*?)` \| (?!.*value)", PAGE, re.MULTILINE)[:7]]
    assert {spec.kind for spec in told} == {"time", "walk_forward", "k_fold", "combinatorial", "random"}
    policies = re.findall(r"^\| `((?:missing|outliers|normalization)=.*?)` \|", PAGE, re.MULTILINE)
    assert {policy.partition("(")[0].partition("=")[2] for policy in policies} == (
        {*MISSING, *OUTLIERS, *NORMALIZATIONS} - {"none"}
    )
    for policy in policies:
        assert not parse_values(policy).is_empty or policy == "missing=null"
