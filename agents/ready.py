"""Which vectors are worth a notification: all of them, or those that differ from what was told last.

Input: vectors of one partition in offset order.
Output: the rows to tell of.
State: per instrument the newest time and, where changes are looked for, the vector told last. It begins empty with
    every assignment, so that each instrument is told of once more then.
Units: thresholds are shares of the value told last.
"""

from __future__ import annotations

from math import inf, isnan
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.feature_sets import FeatureSet
from schemas.vectors import Vectors
from tables.compiled import cached

ALL: Final = -1.0
_NEVER: Final = np.iinfo(np.int64).min
_OPTIONS: Any = {"nogil": True, "error_model": "numpy"}
Floats = NDArray[np.float64]


CLOCK_DRIVEN: Final = frozenset(
    (
        "book_age_ms", "position_age_s", "time_to_funding_s", "time_of_day_sin", "time_of_day_cos", "day_of_week_sin",
        "day_of_week_cos",
    )
)  # fmt: skip
"""Features that move with the clock alone: a market where nothing happens has no news."""


class Picked(NamedTuple):
    """[m] whether a row is told of, and how many are not for they moved too little. A repeat is neither."""

    told: NDArray[np.bool_]
    suppressed: int


class ReadyGate:
    """One partition's notifications. Without a threshold every vector is told of, once."""

    def __init__(self, feature_set: FeatureSet, threshold: float | None) -> None:
        self._threshold = ALL if threshold is None else threshold
        self._places: dict[str, int] = {}
        self._newest = np.empty(0, np.int64)
        moving = [i for i, name in enumerate(feature_set.features) if name not in CLOCK_DRIVEN]
        self._moving = np.array([] if threshold is None else moving, np.intp)
        self._last = np.empty((0, len(self._moving)))

    def pick(self, vectors: Vectors) -> Picked:
        """The rows to tell of."""
        told = np.empty(len(vectors), np.bool_)
        places = self._places_of(vectors.keys)[vectors.key]
        values = np.ascontiguousarray(vectors.values[:, self._moving])
        suppressed = _pick(places, vectors.time, values, self._threshold, self._newest, self._last, told)
        return Picked(told, int(suppressed))

    def _places_of(self, instruments: list[str]) -> NDArray[np.int64]:
        known = self._places
        if not all(map(known.__contains__, instruments)):
            for instrument in instruments:
                known.setdefault(instrument, len(known))
            new = len(known) - len(self._newest)
            self._newest = np.concatenate((self._newest, np.full(new, _NEVER)))
            self._last = np.concatenate((self._last, np.empty((new, self._last.shape[1]))))
        return np.fromiter(map(known.__getitem__, instruments), np.int64, len(instruments))


@cached(_OPTIONS)
def _pick(
    places: NDArray[np.int64], times: NDArray[np.int64], values: Floats, threshold: float,
    newest: NDArray[np.int64], last: Floats, told: NDArray[np.bool_],
) -> int:  # fmt: skip
    """Fill `told` [m] and move `newest` and `last` on; returns how many new vectors are not told of."""
    suppressed = 0
    for row in range(len(places)):
        place = places[row]
        told[row] = False
        if times[row] > newest[place]:
            is_first = newest[place] == _NEVER
            newest[place] = times[row]
            told[row] = threshold < 0 or is_first or _has_moved(last[place], values[row], threshold)
            if not told[row]:
                suppressed += 1
            elif threshold >= 0:
                last[place] = values[row]
    return suppressed


@cached(_OPTIONS)
def _has_moved(last: Floats, values: Floats, threshold: float) -> bool:
    """Whether a feature moved by more than its share of what was told: to or from null is a move, and so is every move
    from zero."""
    for feature in range(len(last)):
        before, now = last[feature], values[feature]
        if before != now and not (isnan(before) and isnan(now)):
            change = abs(now - before)
            if not change <= threshold * abs(before) or change == inf:
                return True
    return False
