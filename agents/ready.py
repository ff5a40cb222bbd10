"""Which vectors are worth a notification: all of them, or those that differ from what was told last.

Input: vectors of one partition in offset order.
Output: the rows to tell of.
State: per instrument the newest time and, where changes are looked for, the vector told last. It begins empty with
    every assignment, so that each instrument is told of once more then.
Units: thresholds are shares of the value told last.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.feature_sets import FeatureSet
from schemas.vectors import Vectors

NEVER: Final = np.iinfo(np.int64).min


class Picked(NamedTuple):
    """[m] whether a row is told of, and how many are not for they moved too little. A repeat is neither."""

    told: NDArray[np.bool_]
    suppressed: int


class ReadyGate:
    """One partition's notifications. Without a threshold every vector is told of, once."""

    def __init__(self, feature_set: FeatureSet, threshold: float | None) -> None:
        self._threshold = threshold
        self._places: dict[str, int] = {}
        self._time = np.empty(0, np.int64)
        self._told = np.empty((0, 0 if threshold is None else len(feature_set.features)))

    def pick(self, vectors: Vectors) -> Picked:
        """The rows to tell of. An instrument's rows are looked at one after another, all instruments at once."""
        places = self._places_of(vectors.keys)[vectors.key]
        told = np.zeros(len(vectors), np.bool_)
        suppressed = 0
        turn = _turns(vectors.key)
        for number in range(int(turn.max(initial=-1)) + 1):
            rows = np.flatnonzero(turn == number)
            rows = rows[vectors.time[rows] > self._time[places[rows]]]
            moved = self._moved(places[rows], vectors.values[rows])
            self._time[places[rows]] = vectors.time[rows]
            told[rows[moved]] = True
            suppressed += int(len(rows) - np.count_nonzero(moved))
        return Picked(told, suppressed)

    def _moved(self, places: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """[k] whether each vector is to be told of; if so it is the one told last from now on."""
        if self._threshold is None:
            return np.ones(len(places), np.bool_)
        moved = has_moved(self._told[places], values, self._threshold)
        moved |= self._time[places] == NEVER
        self._told[places[moved]] = values[moved]
        return moved

    def _places_of(self, instruments: list[str]) -> NDArray[np.int64]:
        for instrument in instruments:
            self._places.setdefault(instrument, len(self._places))
        new = len(self._places) - len(self._time)
        if new:
            self._time = np.concatenate((self._time, np.full(new, NEVER)))
            self._told = np.concatenate((self._told, np.full((new, self._told.shape[1]), np.nan)))
        return np.fromiter(map(self._places.__getitem__, instruments), np.int64, len(instruments))


def has_moved(told: NDArray[np.float64], values: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """[k] whether any feature of [k, F] moved by more than its share of what was told: to or from null is a move, and
    so is every move from zero."""
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.abs(values - told)
        is_near = (change <= threshold * np.abs(told)) & np.isfinite(change)
    is_same = (values == told) | (np.isnan(values) & np.isnan(told))
    return np.asarray(~(is_near | is_same).all(axis=1))


def _turns(key: NDArray[np.int32]) -> NDArray[np.int64]:
    """[m] how many rows before each have the same key."""
    order = np.argsort(key, kind="stable")
    grouped = key[order]
    count = np.arange(len(key))
    begins = np.ones(len(key), np.bool_)
    begins[1:] = grouped[1:] != grouped[:-1]
    turns = np.empty(len(key), np.int64)
    turns[order] = count - np.maximum.accumulate(np.where(begins, count, 0))
    return turns
