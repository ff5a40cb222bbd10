"""The prices that labels are made of: a feature set of their own, so that they come off the tape as features do.

Input: the labels asked for, and the step of the grid; vectors of that feature set.
Output: the feature set `label_prices@1`; `PriceGrid`, one instrument's prices.
Units: step in ms; times in ns UTC; prices in quote units, volumes in base units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Int64
from schemas.feature_sets import FeatureSet
from schemas.labels import LabelSpec
from schemas.units import NS_PER_MS, duration_text
from schemas.vectors import Vectors

Floats = NDArray[np.float64]

MID = "mid_price"
VWAP, SIGNED_VOLUME = "vwap", "signed_volume"
MARK_OUT = "mark_out"


def prices_set(step_ms: int, specs: Sequence[LabelSpec]) -> FeatureSet:
    """What the labels need to know, a vector every step. It is no published set: its columns depend on the labels."""
    columns = [MID]
    if any(spec.family == MARK_OUT for spec in specs):
        step = duration_text(step_ms * NS_PER_MS)
        columns += [f"{VWAP}_{step}", f"{SIGNED_VOLUME}_{step}"]
    return FeatureSet("label_prices", 1, step_ms, tuple(columns))


@dataclass(frozen=True, slots=True)
class PriceGrid:
    """One instrument's prices: `time` [n], ascending, the T of each vector of `prices_set`.

    `mid` [n] is the mid price at T; `vwap` and `signed_volume` [n] are of the trades in [T - step, T), None where no
    mark-out is asked for. NaN is unknown. Where a time is left out, nobody watched.
    """

    time: Int64
    mid: Floats
    vwap: Floats | None = None
    signed_volume: Floats | None = None

    @staticmethod
    def of(vectors: Vectors) -> PriceGrid:
        """From vectors of a `prices_set`, of one instrument and in order of time."""
        columns = [np.ascontiguousarray(vectors.values[:, i]) for i in range(len(vectors.feature_set.features))]
        return PriceGrid(vectors.time, *columns)
