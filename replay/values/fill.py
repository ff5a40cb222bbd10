"""Filling: unknown values from what an instrument's past tells, never from its future.

Input: rows with their instruments and times, for each instrument in the order of time; NaN is unknown.
State: of each instrument and filled column the last two known values and their times. Rows may come in any parts.
Output: the values with what could be filled, and which rows to keep.
Units: times in ns UTC.
Errors: ValueError where the times of an instrument do not ascend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from replay.values.spec import ValuesSpec
from schemas.columns import Int64
from tables.compiled import cached

Float64 = NDArray[np.float64]
_FORWARD: Final = 1
_LINE: Final = 2
_FILLINGS: Final = {"null": 0, "forward_fill": _FORWARD, "interpolate": _LINE, "drop_row": 0}


class Filler:
    """Fills rows by a spec's missing policies, in serving as in a dataset. All rows are to be given, kept ones or not:
    what is known of an instrument does not hang on whether a row has a label."""

    def __init__(self, spec: ValuesSpec, features: Sequence[str]) -> None:
        policies = spec.policies(features)
        self._drops = np.array([policy.filling == "drop_row" for policy in policies], np.bool_)
        self._fillings = np.array([_FILLINGS[policy.filling] for policy in policies], np.int64)
        self._ages = np.array([policy.max_age_ns for policy in policies], np.int64)
        self._slots: dict[str, int] = {}
        self._reached = np.empty(0, np.int64)
        self._times = np.empty((0, len(policies), 2), np.int64)
        self._known = np.empty((0, len(policies), 2))

    def fill(
        self, keys: Sequence[str], key: NDArray[np.int32], time: Int64, values: Float64
    ) -> tuple[Float64, NDArray[np.bool_]]:
        """A copy of values [m, F] that is filled, and [m] whether a row stays. Row i is of instrument keys[key[i]]."""
        filled = np.array(values, np.float64, order="C")
        stays = np.asarray(~np.isnan(filled[:, self._drops]).any(axis=1))
        if self._fillings.any() and len(filled):
            slots = self._slots_of(keys)[key]
            if not _fill(filled, slots, time, self._fillings, self._ages, self._reached, self._times, self._known):
                raise ValueError("times of an instrument that do not ascend")
        return filled, stays

    def _slots_of(self, keys: Sequence[str]) -> Int64:
        slots = np.array([self._slots.setdefault(name, len(self._slots)) for name in keys], np.int64)
        more = len(self._slots) - len(self._reached)
        if more:
            columns = len(self._fillings)
            self._reached = np.concatenate([self._reached, np.full(more, np.iinfo(np.int64).min)])
            self._times = np.concatenate([self._times, np.zeros((more, columns, 2), np.int64)])
            self._known = np.concatenate([self._known, np.full((more, columns, 2), np.nan)])
        return slots


@cached({"nogil": True, "error_model": "numpy"})
def _fill(
    values: Float64,
    slots: Int64,
    time: Int64,
    fillings: Int64,
    ages: Int64,
    reached: Int64,
    times: Int64,
    known: Float64,
) -> bool:
    """Fill in place; of the two known values per slot and column the later one is at 0, NaN where there is none."""
    for i in range(len(values)):
        slot, now = slots[i], time[i]
        if now <= reached[slot]:
            return False
        reached[slot] = now
        for f in range(len(fillings)):
            if fillings[f] == 0:
                continue
            value = values[i, f]
            last, before = known[slot, f, 0], known[slot, f, 1]
            if not np.isnan(value):
                known[slot, f, 1], times[slot, f, 1] = last, times[slot, f, 0]
                known[slot, f, 0], times[slot, f, 0] = value, now
            elif fillings[f] == _FORWARD:
                if now - times[slot, f, 0] <= ages[f]:
                    values[i, f] = last
            elif now - times[slot, f, 1] <= ages[f]:
                late, early = times[slot, f, 0], times[slot, f, 1]
                line = last + (last - before) * ((now - late) / (late - early))
                values[i, f] = line if np.isfinite(line) else np.nan
    return True
