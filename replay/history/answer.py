"""Answers about the past: of each instrument the newest vector at a time, and how fresh it was then.

Output: `Answer`; its `json` is what a command or a web request gives.
Units: times and ages in ns UTC.

    fresh    the vector of the last cadence that was due, or of the one before
    gap      as fresh, but its book was in a gap: its values of the book are null
    stale    older than two cadences: nothing newer had come
    missing  there was no vector yet
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.feature_sets import FeatureSet
from schemas.units import NS_PER_MS
from schemas.vectors import Quality, Vectors

FRESH, GAP, STALE, MISSING = "fresh", "gap", "stale", "missing"
LIVE, COMPUTED = "live", "computed"
CADENCES_FRESH = 2
"""A vector is stale when it is older than so many cadences."""


@dataclass(frozen=True, slots=True)
class Found:
    """One vector (of one row), and whether it was archived `live` or `computed` from the tape."""

    vector: Vectors
    source: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Of each of `symbols` the vector at `as_of_ns`, if any, of which `names` are told.

    `first_ns` and `last_ns` are the first receipt and the last Tick of the tape: what could be asked for. `notes` are
    for people: why there is nothing, or why nothing was kept.
    """

    feature_set: FeatureSet
    as_of_ns: int
    symbols: Sequence[str]
    names: Sequence[str]
    found: dict[str, Found]
    first_ns: int
    last_ns: int
    notes: Sequence[str] = ()

    def vectors(self) -> Vectors:
        """The vectors that were found, in the order of `symbols`."""
        parts = [self.found[symbol].vector for symbol in self.symbols if symbol in self.found]
        return Vectors.concat(parts) if parts else Vectors.empty(self.feature_set)

    def status(self, symbol: str) -> str:
        """Freshness of an instrument, one word as the module defines them."""
        if symbol not in self.found:
            return MISSING
        vector = self.found[symbol].vector
        if self.as_of_ns - int(vector.time[0]) > CADENCES_FRESH * self.feature_set.cadence_ms * NS_PER_MS:
            return STALE
        return GAP if int(vector.quality[0]) & Quality.BOOK_GAP else FRESH

    def rows(self) -> list[dict[str, Any]]:
        """A JSON object per instrument: identity, freshness, position, quality and features (null: nobody can know)."""
        return [self._row(symbol) for symbol in self.symbols]

    def json(self) -> dict[str, Any]:
        """One JSON object."""
        return {
            "feature_set": self.feature_set.id,
            "as_of": self.as_of_ns,
            "available": {"first": self.first_ns, "last": self.last_ns},
            "rows": self.rows(),
            "notes": list(self.notes),
        }

    def _row(self, symbol: str) -> dict[str, Any]:
        about: dict[str, Any] = {"instrument": symbol, "status": self.status(symbol)}
        if symbol not in self.found:
            empty = ("time", "age_ns", "ts_available", "partition", "as_of_offset", "book_epoch", "source")
            return about | dict.fromkeys(empty) | {"quality": [], "features": dict.fromkeys(self.names)}
        vector, columns = self.found[symbol].vector, self.feature_set.features
        values = dict(zip(columns, vector.values[0].tolist(), strict=True))
        time = int(vector.time[0])
        return about | {
            "time": time,
            "age_ns": self.as_of_ns - time,
            "ts_available": int(vector.ts_available[0]),
            "partition": int(vector.partition[0]),
            "as_of_offset": int(vector.as_of_offset[0]),
            "book_epoch": int(vector.book_epoch[0]),
            "source": self.found[symbol].source,
            "quality": [flag.name for flag in Quality if int(vector.quality[0]) & flag],
            "features": {name: values[name] if math.isfinite(values[name]) else None for name in self.names},
        }
