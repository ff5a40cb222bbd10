"""Splitters: the same splits in the shape of scikit-learn's, for rows in memory.

Input: of each row the time it predicts at and the time its label is known; int64 ns, or datetimes of numpy, pandas or
polars, of any order. Durations: int ns, a text such as `10s`, or a timedelta of Python, numpy or pandas.
Output: `split(X)` gives (train, test) as positions of rows, ascending; purged and embargoed rows are in neither.
Units: ns UTC; datetimes without a zone are UTC.
Errors: UsageError for times that are none or do not fit X, and where purging leaves nothing to train on.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.splits.fold import Fold, Role, check_filled, count, reaches, roles
from replay.splits.folds import backtest_paths, folds
from replay.splits.spec import SplitSpec
from schemas.columns import Int64
from schemas.errors import UsageError
from schemas.limits import TS_MAX_NS
from schemas.units import duration_ns

Places = NDArray[np.intp]
_FAR = 1 << 62
"""Times nearer to 1970 leave room for the durations that are added to them."""
Duration = int | str | timedelta | np.timedelta64


class IntervalSplitter:
    """Splits rows by a spec; the classes below say what is asked for most. There is no default for the times."""

    def __init__(
        self, spec: SplitSpec, *, prediction_times: Any, evaluation_times: Any, look_back: Duration = 0
    ) -> None:
        """`look_back`: how far before a row's prediction its features reach."""
        self.spec, self._look_back_ns = spec, to_duration(look_back, "look_back")
        self._prediction = to_times(prediction_times, "prediction_times")
        self._evaluation = to_times(evaluation_times, "evaluation_times")
        if len(self._prediction) != len(self._evaluation):
            raise _refused(
                "as many evaluation_times as prediction_times", f"{len(self._evaluation)} and {len(self._prediction)}"
            )
        if (self._evaluation < self._prediction).any():
            row = int(np.argmax(self._evaluation < self._prediction))
            raise _refused("labels that are known at their prediction or later", f"row {row}, known before it")
        self._folds = folds(spec, np.unique(self._prediction))

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Folds."""
        return len(self._folds)

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[Places, Places]]:
        """(train, test) of each fold. X is only counted: its rows must be those the times are of."""
        rows = X.shape[0] if hasattr(X, "shape") else len(X)
        if rows != len(self._prediction):
            raise _refused(f"the {len(self._prediction)} rows that the times are of", f"{rows} rows")
        for _, found in self.roles():
            yield np.flatnonzero(found == Role.TRAIN), np.flatnonzero(found == Role.TEST)

    def roles(self) -> Iterator[tuple[Fold, NDArray[np.uint8]]]:
        """Each fold with the `Role` of every row: what `split` leaves out is PURGED, EMBARGOED or NONE."""
        for fold in self._folds:
            found = roles(
                fold, reaches(fold, self._prediction, self._evaluation), self._prediction, self._evaluation,
                look_back_ns=self._look_back_ns, purge_horizon_ns=self.spec.purge_horizon_ns,
                embargo_ns=self.spec.embargo_ns,
            )  # fmt: skip
            check_filled(fold, count(found))
            yield fold, found


class TimeSplit(IntervalSplitter):
    """One fold: the first part of the times trains, the rest tests."""

    def __init__(
        self, *, prediction_times: Any, evaluation_times: Any, train: str | float = "4/5",
        purge_horizon: Duration = 0, look_back: Duration = 0,
    ) -> None:  # fmt: skip
        """`train`: a fraction below 1; as a text, such as "0.8" or "4/5", it is exact."""
        spec = SplitSpec(
            "time", (("train", str(train)), ("test", rest_of(str(train)))),
            purge_horizon_ns=to_duration(purge_horizon, "purge_horizon"),
        )  # fmt: skip
        super().__init__(
            spec, prediction_times=prediction_times, evaluation_times=evaluation_times, look_back=look_back
        )


class WalkForward(IntervalSplitter):
    """Tests on windows one behind the other, and trains on what lies before each: a rolling or an expanding window."""

    def __init__(
        self, n_splits: int = 5, *, prediction_times: Any, evaluation_times: Any, window: str = "rolling",
        train: str | float | None = None, purge_horizon: Duration = 0, look_back: Duration = 0,
    ) -> None:  # fmt: skip
        """`train`: the fraction of the times before the first test; without it as long as a test."""
        spec = SplitSpec(
            "walk_forward", (("train", str(train)),) if train is not None else (), folds=n_splits, window=window,
            purge_horizon_ns=to_duration(purge_horizon, "purge_horizon"),
        )  # fmt: skip
        super().__init__(
            spec, prediction_times=prediction_times, evaluation_times=evaluation_times, look_back=look_back
        )


class PurgedKFold(IntervalSplitter):
    """Each of n groups of times is tested once, by what is trained on all others but what is purged and embargoed."""

    def __init__(
        self, n_splits: int = 5, *, prediction_times: Any, evaluation_times: Any, purge_horizon: Duration = 0,
        embargo: Duration = 0, look_back: Duration = 0,
    ) -> None:  # fmt: skip
        spec = SplitSpec(
            "k_fold", folds=n_splits, purge_horizon_ns=to_duration(purge_horizon, "purge_horizon"),
            embargo_ns=to_duration(embargo, "embargo"),
        )  # fmt: skip
        super().__init__(
            spec, prediction_times=prediction_times, evaluation_times=evaluation_times, look_back=look_back
        )


class CombinatorialPurgedKFold(IntervalSplitter):
    """Every choice of n_test_folds of n_folds groups of times is tested once: C(n_folds, n_test_folds) splits.

    Each group is tested C(n_folds - 1, n_test_folds - 1) times, so that the tests make up that many backtest paths
    through all times: 15 splits and 5 paths for 2 of 6.
    """

    def __init__(
        self, n_folds: int = 6, n_test_folds: int = 2, *, prediction_times: Any, evaluation_times: Any,
        purge_horizon: Duration = 0, embargo: Duration = 0, look_back: Duration = 0,
    ) -> None:  # fmt: skip
        spec = SplitSpec(
            "combinatorial", folds=n_folds, test_folds=n_test_folds,
            purge_horizon_ns=to_duration(purge_horizon, "purge_horizon"), embargo_ns=to_duration(embargo, "embargo"),
        )  # fmt: skip
        super().__init__(
            spec, prediction_times=prediction_times, evaluation_times=evaluation_times, look_back=look_back
        )

    def backtest_paths(self) -> list[list[int]]:
        """[paths][groups] the split whose test of a group is part of a path."""
        return backtest_paths(self.spec.folds, self.spec.test_folds)


def rest_of(fraction: str) -> str:
    """What is left of 1, exactly; a text that is no fraction is given back, for `SplitSpec` to refuse."""
    try:
        return str(1 - Fraction(fraction))
    except (ValueError, ZeroDivisionError):
        return fraction


def to_duration(length: Any, name: str) -> int:
    """Nanoseconds of a duration. Errors: UsageError."""
    if hasattr(length, "to_timedelta64"):  # pandas keeps nanoseconds where Python's timedelta drops them
        length = length.to_timedelta64()
    ns: int | None = None
    if isinstance(length, str):
        ns = 0 if length == "0" else duration_ns(length)
    elif isinstance(length, np.timedelta64):
        ns = None if np.isnat(length) else int(length.astype("timedelta64[ns]").astype(np.int64))
    elif isinstance(length, timedelta):
        ns = (length // timedelta(microseconds=1)) * 1000
    elif isinstance(length, int | np.integer) and not isinstance(length, bool):
        ns = int(length)
    if ns is None or not 0 <= ns < TS_MAX_NS:
        raise UsageError(
            f"{name} is no duration", expected="nanoseconds, a text such as '10s', or a timedelta, 0 or more",
            was=repr(length)[:80], action=f"give another, e.g. {name}='10s'",
        )  # fmt: skip
    return ns


def to_times(times: Any, name: str) -> Int64:
    """[m] int64 ns of times. Errors: UsageError."""
    found = np.asarray(times)
    if found.dtype == object:  # datetimes of a zone, which pandas turns into UTC
        try:
            found = np.asarray(times, "datetime64[ns]")
        except (TypeError, ValueError):
            raise _refused(f"{name} of integers or datetimes", f"objects such as {found.flat[0]!r}") from None
    if found.ndim != 1 or found.dtype.kind not in "iuM":
        raise _refused(f"{name}: one integer (ns) or datetime per row", f"{found.dtype} of {found.ndim} dimensions")
    if found.dtype.kind == "M":
        ns = found.astype("datetime64[ns]")
        if (ns.astype(found.dtype) != found).any():  # NaT equals nothing, and what does not fit comes back as another
            raise _refused(f"{name} that are known, within 146 years of 1970", "others among them")
        found = ns.astype(np.int64)
    if len(found) and not (found.min() > -_FAR and found.max() < _FAR):
        raise _refused(f"{name} in ns, within 146 years of 1970", f"{found.min()} to {found.max()}")
    return found.astype(np.int64)


def _refused(expected: str, was: str) -> UsageError:
    return UsageError(
        "these rows cannot be split", expected=expected, was=was,
        action="give each row of X, in its order, the time it predicts at and the time its label is known",
    )  # fmt: skip
