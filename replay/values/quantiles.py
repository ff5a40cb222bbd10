"""Quantiles of columns, exact, whatever there is of rows, in a bounded memory and five passes over them.

Floats in order are whole numbers in order. A pass counts, of the values that share the leading bits found so far, how
many have which next 13 bits; that tells the next 13 bits of the value at a rank. After the last pass all 64 are known.

Input: the same values in every pass, in parts that may differ; NaN and infinities are not known and left out.
State: per column and distinct leading bits 64 KiB of counts.
Output: quantiles by linear interpolation between the two neighbouring values, rounded once.
Units: as the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Int64
from tables.compiled import cached

Float64 = NDArray[np.float64]
Words = NDArray[np.uint64]
DIGITS: Final = (13, 13, 13, 13, 12)
"""Bits that each pass finds."""
_SIGN: Final = 1 << 63


class Selection:
    """Finds, of each of F columns, the values that the quantiles at `shares` lie between."""

    def __init__(self, shares: Sequence[Sequence[Fraction]]) -> None:
        self._shares = [list(each) for each in shares]
        self._ranks: list[list[int]] = [[] for _ in shares]
        """Of each column the ranks asked for, counted from 0; after a pass among the values of the same prefix."""
        self._found: list[list[int]] = [[] for _ in shares]
        """Of each rank the leading bits of its value."""
        self._prefixes: list[list[int]] = [[0] if each else [] for each in shares]
        self._known = [0] * len(shares)
        self._pass = 0
        self._begin()

    @property
    def is_done(self) -> bool:
        """Whether every bit is known."""
        return self._pass == len(DIGITS) or not any(self._shares)

    def add(self, values: Float64) -> None:
        """Take in values [m, F] of the pass."""
        _count(
            np.require(values, np.float64, ["C", "W"]), self._sought, self._seekers, 64 - sum(DIGITS[: self._pass]),
            64 - sum(DIGITS[: self._pass + 1]), self._counts,
        )  # fmt: skip

    def end_pass(self) -> None:
        """All values were taken in once more."""
        for f, shares in enumerate(self._shares):
            if shares and self._pass == 0:
                self._known[f] = int(self._counts[f].sum())
                self._ranks[f] = _ranks(shares, self._known[f])
                self._found[f] = [0] * len(self._ranks[f])
            for i, rank in enumerate(self._ranks[f]):
                counts = self._counts[f, self._prefixes[f].index(self._found[f][i])]
                upto = np.cumsum(counts)
                digit = int(np.searchsorted(upto, rank, side="right"))
                self._ranks[f][i] = rank - int(upto[digit] - counts[digit])
                self._found[f][i] = self._found[f][i] << DIGITS[self._pass] | digit
            self._prefixes[f] = sorted(set(self._found[f]))
        self._pass += 1
        if not self.is_done:
            self._begin()

    def known(self, f: int) -> int:
        """Known values of column f, 0 for one that no quantile is asked of."""
        return self._known[f]

    def quantiles(self, f: int, lower: float = -np.inf, upper: float = np.inf) -> list[float]:
        """Those of column f, of its values after putting what is outside [lower, upper] onto these bounds.

        Clipping keeps the order, so that a quantile of clipped values lies between clipped neighbours.
        """
        if not self._known[f]:
            return [np.nan] * len(self._shares[f])
        neighbours = [min(max(_value(word), lower), upper) for word in self._found[f]]
        places = [share * (self._known[f] - 1) for share in self._shares[f]]
        return [
            float(Fraction(low) + (Fraction(high) - Fraction(low)) * (place - int(place)))
            for place, low, high in zip(places, neighbours[::2], neighbours[1::2], strict=True)
        ]

    def _begin(self) -> None:
        most = max((len(each) for each in self._prefixes), default=0)
        self._seekers = np.array([len(each) for each in self._prefixes], np.int64)
        self._sought = np.zeros((len(self._prefixes), max(most, 1)), np.uint64)
        for f, prefixes in enumerate(self._prefixes):
            self._sought[f, : len(prefixes)] = prefixes
        self._counts = np.zeros((len(self._prefixes), max(most, 1), 1 << max(DIGITS)), np.int64)


def _ranks(shares: Sequence[Fraction], known: int) -> list[int]:
    """The ranks of the two values that each quantile lies between."""
    if not known:
        return []
    below = [int(share * (known - 1)) for share in shares]
    return [rank for low in below for rank in (low, min(low + 1, known - 1))]


def _value(word: int) -> float:
    """The float whose place in the order of all floats is `word`."""
    bits = word ^ _SIGN if word & _SIGN else ~word & (1 << 64) - 1
    return float(np.uint64(bits).view(np.float64))


@cached({"nogil": True, "error_model": "numpy"})
def _count(values: Float64, sought: Words, seekers: Int64, above: int, below: int, counts: Int64) -> None:
    """Count the bits from `below` up to `above` of what has one of the sought prefixes above them."""
    rows, columns = values.shape
    digits = (np.uint64(1) << np.uint64(above - below)) - np.uint64(1)
    for i in range(rows):
        for f in range(columns):
            if seekers[f] == 0 or not np.isfinite(values[i, f]):
                continue
            bits = np.float64(values[i, f] + 0.0).view(np.uint64)  # -0.0 becomes 0.0
            word = ~bits if bits >> np.uint64(63) else bits | np.uint64(_SIGN)
            # In two steps: a shift by all 64 bits is none at all.
            prefix = word >> np.uint64(above - 1) >> np.uint64(1)
            for k in range(seekers[f]):
                if sought[f, k] == prefix:
                    counts[f, k, np.int64(word >> np.uint64(below) & digits)] += 1
                    break
