"""Moments: count, sum, sum of squares, lowest and highest of columns, exact, so that no order or cut of rows matters.

A float is a whole number times a power of two. The whole numbers are added up per exponent in integers, those of the
squares in pieces that fit; nothing is rounded before the end, and then once.

Input: values in parts; NaN and infinities are not known and left out.
State: integer sums of each column by exponent: 128 KiB a column.
Output: `Moments` per column.
Units: as the columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Int64
from tables.compiled import cached

Float64 = NDArray[np.float64]
_EXPONENTS: Final = 2048
_PIECES: Final = 8
_HALF: Final = 26
_LOW: Final = (1 << _HALF) - 1
_SQUARE_HALF: Final = 27
_SQUARE_LOW: Final = (1 << _SQUARE_HALF) - 1
_SMALLEST: Final = 1074
"""A float is a multiple of 2^-1074."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Of the `known` values of one column; NaN where there is none. `deviation` is that of the population."""

    known: int
    mean: float
    deviation: float
    lowest: float
    highest: float


class Sums:
    """Adds up F columns."""

    def __init__(self, columns: int) -> None:
        self._pieces = np.zeros((columns, _EXPONENTS, _PIECES), np.int64)
        self._known = np.zeros(columns, np.int64)
        self._range = np.full((columns, 2), np.nan)

    def add(self, values: Float64) -> None:
        """Take in values [m, F]."""
        _add(np.require(values, np.float64, ["C", "W"]), self._pieces, self._known, self._range)

    def finish(self) -> list[Moments]:
        """Each column's moments, rounded once: mean and variance are the nearest floats to the exact ones."""
        bounds = self._range + 0.0  # of -0.0 and 0.0, which are equal, whichever came first would stay
        return [
            _moments(int(self._known[f]), self._pieces[f], float(bounds[f, 0]), float(bounds[f, 1]))
            for f in range(len(self._known))
        ]


def _moments(known: int, pieces: Int64, lowest: float, highest: float) -> Moments:
    if not known:
        return Moments(0, np.nan, np.nan, np.nan, np.nan)
    total = squares = 0
    for exponent in np.flatnonzero(pieces.any(axis=1)).tolist():
        high, low, *parts = (int(each) for each in pieces[exponent])
        total += ((high << _HALF) + low) << (exponent - 1)
        square = sum(
            ((parts[2 * i] << _SQUARE_HALF) + parts[2 * i + 1]) << shift
            for i, shift in enumerate((2 * _HALF, _HALF + 1, 0))
        )
        squares += square << (2 * (exponent - 1))
    mean = float(Fraction(total, known << _SMALLEST))
    variance = Fraction(known * squares - total * total, known * known << (2 * _SMALLEST))
    return Moments(known, mean, root(variance), lowest, highest)


def root(square: Fraction) -> float:
    """Square root of a fraction, right in at least 80 bits before it is rounded."""
    places = max(0, 160 - square.numerator.bit_length() + square.denominator.bit_length()) & ~1
    return float(Fraction(isqrt((square.numerator << places) // square.denominator), 1 << (places // 2)))


@cached({"nogil": True, "error_model": "numpy"})
def _add(values: Float64, pieces: Int64, known: Int64, bounds: Float64) -> None:
    rows, columns = values.shape
    for i in range(rows):
        for f in range(columns):
            value = values[i, f]
            if not np.isfinite(value):
                continue
            known[f] += 1
            if not value >= bounds[f, 0]:
                bounds[f, 0] = value
            if not value <= bounds[f, 1]:
                bounds[f, 1] = value
            bits = np.float64(value).view(np.int64)
            biased = int(bits >> 52) & 0x7FF
            mantissa = bits & 0xFFFFFFFFFFFFF
            if biased > 0:
                mantissa |= 1 << 52
            high, low = mantissa >> _HALF, mantissa & _LOW
            into = pieces[f, max(biased, 1)]
            if bits < 0:
                into[0] -= high
                into[1] -= low
            else:
                into[0] += high
                into[1] += low
            square = high * high
            into[2] += square >> _SQUARE_HALF
            into[3] += square & _SQUARE_LOW
            square = high * low
            into[4] += square >> _SQUARE_HALF
            into[5] += square & _SQUARE_LOW
            square = low * low
            into[6] += square >> _SQUARE_HALF
            into[7] += square & _SQUARE_LOW
