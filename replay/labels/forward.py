"""Labels: what a model is to predict. They look into the future, so they live apart from features.

Input: vectors of one feature set.
Output: `Label`, one value and interval per vector.
Units: horizons in seconds, times in ns UTC; forward_return is a simple return (a fraction).
Errors: UsageError for a feature set without mid_price, or a horizon off its cadence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas import limits
from schemas.columns import Int64
from schemas.errors import UsageError
from schemas.feature_sets import FeatureSet
from schemas.units import NS_PER_MS, NS_PER_S
from schemas.vectors import Vectors

PRICE = "mid_price"


@dataclass(frozen=True, slots=True)
class Label:
    """One label of m vectors: `value` [m] is NaN where there is none; row i depends on prices at t0[i] to t1[i]."""

    name: str
    value: NDArray[np.float64]
    t0: Int64
    t1: Int64

    @property
    def known(self) -> NDArray[np.bool_]:
        """[m] where there is a label."""
        return ~np.isnan(self.value)


def label_name(horizon_s: float) -> str:
    """Column name of a forward return."""
    return f"forward_return_{seconds_text(horizon_s)}s"


def seconds_text(horizon_s: float) -> str:
    """Shortest decimal of a horizon, never with an exponent."""
    return f"{horizon_s:.9f}".rstrip("0").rstrip(".")


def check_horizon(feature_set: FeatureSet, horizon_s: float) -> None:
    """Refuse what could never be labelled. Errors: UsageError."""
    cadence_ms, horizon_ns = feature_set.cadence_ms, round(horizon_s * NS_PER_S)
    if not 0 < horizon_ns < limits.TS_MAX_NS or horizon_ns % (cadence_ms * NS_PER_MS):
        raise UsageError(
            f"no vector of {feature_set.id} is {horizon_s:g} s after another",
            expected=f"a positive multiple of the cadence, {cadence_ms} ms", was=f"{horizon_s:g} s",
            action="choose a horizon on the cadence of the feature set",
        )  # fmt: skip
    if PRICE not in feature_set.features:
        raise UsageError(
            f"{feature_set.id} has no {PRICE}", expected=f"a feature set with {PRICE}", was="one without",
            action="choose a feature set that has the price the return is of",
        )  # fmt: skip


def forward_return(vectors: Vectors, horizon_s: float) -> Label:
    """mid_price at T + horizon over mid_price at T, minus 1, of the same instrument.

    Both vectors must exist at exactly T and T + horizon and know their mid price; else, and behind the end of the
    tape, there is no label. The interval is [T, T + horizon].
    """
    check_horizon(vectors.feature_set, horizon_s)
    price = vectors.values[:, vectors.feature_set.features.index(PRICE)]
    horizon = round(horizon_s * NS_PER_S)
    order = np.lexsort((vectors.time, vectors.key))
    key, time = vectors.key[order], vectors.time[order]
    value = np.full(len(vectors), np.nan)
    bounds = np.flatnonzero(np.diff(key)) + 1
    for rows in np.split(np.arange(len(order)), bounds):
        later = np.searchsorted(time[rows], time[rows] + horizon)
        there = later < len(rows)
        there[there] = time[rows][later[there]] == time[rows][there] + horizon
        now, then = order[rows[there]], order[rows[later[there]]]
        value[now] = price[then] / price[now] - 1.0
    return Label(label_name(horizon_s), value, vectors.time, vectors.time + horizon)
