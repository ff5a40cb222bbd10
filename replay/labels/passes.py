"""Compiled passes over a grid of prices: where it is whole, how much it moved, when it first touched a barrier.

Input: contiguous arrays. A price is known where it is above 0 and finite.
Output: arrays, each a function of the prices it is asked about alone: never of where the grid begins or ends.
Units: times and step in ns; squared log returns in units of 2^-80, in three limbs of 40 bits.

A sum of floats depends on where the summing begins, and labels must not. So squares are summed as integers, as the
engine sums them for `realized_volatility`; a window is a difference of running totals.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Int64
from tables import compiled, logarithm
from tables.logarithm import log_ratio

Floats = NDArray[np.float64]

UNKNOWN = -1
"""Run of a point whose price is unknown."""
LOW, MIDDLE, TOP = range(3)
LIMB_BITS = 40
_LIMB = float(1 << LIMB_BITS)
_UNIT = float(1 << 2 * LIMB_BITS)
_MASK = (1 << LIMB_BITS) - 1
FAN_BITS = 4
_FAN_MASK = (1 << FAN_BITS) - 1
_OPTIONS = {"nogil": True, "error_model": "numpy"}


def _compiled(source: int) -> dict[str, Any]:
    @compiled.cached(_OPTIONS)
    def runs(time: Int64, price: Floats, step: int) -> Int64:
        """[n] steps that lie unbroken before each point: every time there, every price known."""
        _ = source
        run = np.empty(len(time), np.int64)
        for i in range(len(time)):
            if not 0.0 < price[i] < math.inf:
                run[i] = UNKNOWN
            elif i == 0 or run[i - 1] == UNKNOWN or time[i] - time[i - 1] != step:
                run[i] = 0
            else:
                run[i] = run[i - 1] + 1
        return run

    @compiled.cached(_OPTIONS)
    def squares(price: Floats, run: Int64) -> NDArray[np.int64]:
        """[3, n] squared log returns summed since the run began, in limbs; carried, so that no limb overflows."""
        _ = source
        totals = np.zeros((3, len(price)), np.int64)
        for i in range(len(price)):
            if run[i] <= 0:
                continue
            step = log_ratio(price[i], price[i - 1])
            square = step * step * _UNIT
            high = math.floor(square / _LIMB)
            low = totals[LOW, i - 1] + math.floor(square - float(high) * _LIMB)
            middle = totals[MIDDLE, i - 1] + (high & _MASK) + (low >> LIMB_BITS)
            totals[LOW, i] = low & _MASK
            totals[MIDDLE, i] = middle & _MASK
            totals[TOP, i] = totals[TOP, i - 1] + (high >> LIMB_BITS) + (middle >> LIMB_BITS)
        return totals

    @compiled.cached(_OPTIONS)
    def volatilities(totals: NDArray[np.int64], first: Int64, last: Int64) -> Floats:
        """[k] root of the summed squares behind point `first` up to point `last`, of one run."""
        _ = source
        found = np.empty(len(first))
        for i in range(len(first)):
            begin, end = first[i], last[i]
            low = totals[LOW, end] - totals[LOW, begin]
            middle = totals[MIDDLE, end] - totals[MIDDLE, begin] + (low >> LIMB_BITS)
            top = totals[TOP, end] - totals[TOP, begin] + (middle >> LIMB_BITS)
            high = float(top) * _LIMB + float(middle & _MASK)
            found[i] = math.sqrt((high * _LIMB + float(low & _MASK)) / _UNIT)
        return found

    @compiled.cached(_OPTIONS)
    def log_ratios(a: Floats, b: Floats) -> Floats:
        """[k] log(a / b)."""
        _ = source
        found = np.empty(len(a))
        for i in range(len(a)):
            found[i] = log_ratio(a[i], b[i])
        return found

    return {
        "runs": runs, "squares": squares, "volatilities": volatilities, "log_ratios": log_ratios,
        "touches": _compiled_touches(source),
    }  # fmt: skip


def _compiled_touches(source: int) -> Any:
    @compiled.cached(_OPTIONS)
    def touches(
        highest: Floats, lowest: Floats, starts: Int64, first: Int64, last: Int64, upper: Floats, lower: Floats
    ) -> Int64:
        """[k] first point from `first` to `last` at or above `upper`, or at or below `lower`; -1 where there is none.

        Over the levels of `pyramid`: a block without a touch is passed as a whole, so that a search costs a few dozen
        steps whatever the horizon.
        """
        _ = source
        found = np.empty(len(first), np.int64)
        for i in range(len(first)):
            found[i] = -1
            level, place = 0, first[i]
            while place << (level * FAN_BITS) <= last[i]:
                block = starts[level] + place
                if highest[block] >= upper[i] or lowest[block] <= lower[i]:
                    if level == 0:
                        found[i] = place
                        break
                    level -= 1
                    place <<= FAN_BITS
                else:
                    place += 1
                    while level + 1 < len(starts) and place & _FAN_MASK == 0:
                        level += 1
                        place >>= FAN_BITS
        return found

    return touches


def pyramid(price: Floats) -> tuple[Floats, Floats, Int64]:
    """Highest and lowest price of each point, each 16 points, each 256, ...; and where each level starts."""
    fan = 1 << FAN_BITS
    highs, lows = [price], [price]
    while len(highs[-1]) > fan:
        room = (0, -len(highs[-1]) % fan)
        high, low = (np.pad(level[-1], room, constant_values=np.nan).reshape(-1, fan) for level in (highs, lows))
        highs.append(np.fmax.reduce(high, axis=1))
        lows.append(np.fmin.reduce(low, axis=1))
    starts = np.cumsum([0, *(len(level) for level in highs[:-1])], dtype=np.int64)
    return np.concatenate(highs), np.concatenate(lows), starts


def _sources_hash() -> int:
    """Hash of this file and of what it calls: numba's cache watches the file of a function alone."""
    digest = blake2b(digest_size=7)
    for path in (__file__, compiled.__file__, logarithm.__file__):
        digest.update(Path(path).read_bytes())
    return int.from_bytes(digest.digest(), "big")


_PASSES = _compiled(_sources_hash())
runs, squares, volatilities = _PASSES["runs"], _PASSES["squares"], _PASSES["volatilities"]
log_ratios, touches = _PASSES["log_ratios"], _PASSES["touches"]
