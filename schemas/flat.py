"""Compiled passes that lay fields out of Arrow's arrays into the flat body of `Columns`, one kind at a time.

Input: arrays over the rows of a table; `rows`, the m rows of one kind; `places`, the place of each among the rows kept.
Output: `fixed[:, m]`, the numbers that every record of the kind has; `body`. Of a body laid: its first bad row.
Errors: none; callers give arrays that are as long as the table says.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from schemas import events, limits, units
from schemas.events import FIELDS, Kind
from schemas.units import BASE_TICK_NS
from schemas.varint import inner

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bits = NDArray[np.uint8]
Levels = tuple[Int32, Int64, Int64]
"""Levels of every row of the table: list offsets, prices, sizes; prices[0] is the first level of the first row."""

# Arrays out of Arrow are read only; writable ones convert. One signature each, so that each compiles once.
_INTS = types.Array(types.int64, 1, "C", readonly=True)
_OFFSETS = types.Array(types.int32, 1, "C", readonly=True)
_BITS = types.Array(types.uint8, 1, "C", readonly=True)
_LEVELS = (_OFFSETS, _INTS, _INTS)
_SIGNATURES = {
    "gather": types.void(_INTS, _INTS, _BITS, types.int64, types.int64, types.int64[::1]),
    "add_lengths": types.void(_INTS, _INTS, _OFFSETS, types.int64[::1]),
    "lay": types.void(_INTS, _INTS, _INTS, types.int64[:, ::1], types.int64, *_LEVELS, *_LEVELS, types.int64[::1]),
    "outside": types.int64(_BITS, _INTS, _INTS, _INTS, _INTS, types.int64[:, ::1], types.int64[:, :, ::1]),
}

_REFUSED, _DELTA, _TRADE = int(Kind.REFUSED), int(Kind.DELTA), int(Kind.TRADE)
_BAR, _TICK = int(Kind.BAR), int(Kind.TICK)
_OPEN, _HIGH, _LOW, _CLOSE = (
    [field.name for field in FIELDS[Kind.BAR]].index(name) for name in ("open", "high", "low", "close")
)


# Compiled functions that others call stand here: in the closure of a caller they would never be found in the cache.
def _kept(function: Callable[..., Any]) -> Any:
    """Compiled, and kept on disk where there is a folder to write to."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


@njit(nogil=True)
def lay_levels(row: int, offsets: Int32, prices: Int64, sizes: Int64, at: int, body: Int64) -> int:
    """Count and pairs of one row's levels; returns the place behind them."""
    first, last = offsets[row] - offsets[0], offsets[row + 1] - offsets[0]
    body[at] = last - first
    at += 1
    for level in range(first, last):
        body[at] = prices[level]
        body[at + 1] = sizes[level]
        at += 2
    return at


@inner
def level_end(body: Int64, at: int, end: int, least: int) -> int:
    """The place behind the levels that are counted at `at`, -1 where they are not what a book takes."""
    if at >= end or body[at] < 0 or body[at] > (end - at - 1) // 2:
        return -1
    behind = at + 1 + 2 * body[at]
    pairs = body[at + 1 : behind]
    # Below zero where any of the differences is.
    sign = 0
    for level in range(len(pairs) // 2):
        price, size = pairs[2 * level], pairs[2 * level + 1]
        sign |= (price - 1) | (limits.PRICE_TICKS_MAX - price) | (size - least) | (limits.SIZE_LOTS_MAX - size)
    return behind if sign >= 0 else -1


@inner
def agrees(kind: int, body: Int64, at: int) -> bool:
    """Whether the fixed numbers, each within its bounds, go together."""
    if kind == _DELTA:
        return bool(body[at] <= body[at + 1])
    if kind == _TRADE:
        # Rounded first: the exact product may not fit.
        rounded = float(body[at]) * float(body[at + 1])
        return bool(rounded < 2.0**62 and body[at] * body[at + 1] <= limits.TRADE_VALUE_MAX)
    if kind == _BAR:
        first, last = body[at + _OPEN], body[at + _CLOSE]
        return bool(body[at + _LOW] <= min(first, last) and body[at + _HIGH] >= max(first, last))
    return bool(kind != _TICK or body[at] % BASE_TICK_NS == 0)


@inner
def is_within(
    kind: int, ts_event: int, ts_recv: int, body: Int64, at: int, end: int, shapes: Int64, rules: Int64
) -> bool:
    """Whether a record laid from `at` to `end` is within `rules` and as long as `shapes` says."""
    good = (ts_recv >= limits.TS_MIN_NS) & (ts_recv < limits.TS_MAX_NS)
    good &= (ts_event == 0) | ((ts_event >= limits.TS_MIN_NS) & (ts_event < limits.TS_MAX_NS))
    fixed, bounds = body[at : at + shapes[kind, 0]], rules[kind]
    for field in range(len(fixed)):
        value = fixed[field]
        if (value < bounds[field, 0] or value > bounds[field, 1]) and value != bounds[field, 2]:
            good = False
    if not (good and agrees(kind, body, at)):
        return False
    at += shapes[kind, 0]
    if shapes[kind, 1]:
        asks = level_end(body, at, end, shapes[kind, 2])
        behind = level_end(body, asks, end, shapes[kind, 2]) if asks >= 0 else -1
        # Both counts are among what lies between.
        if behind < 0 or behind - at - 2 > 2 * limits.RECORD_LEVELS_MAX:
            return False
        at = behind
    return bool(at == end)


def _compiled(source: int) -> dict[str, Any]:
    # As a closure's value the hash makes numba's cache see the content of the files, not only the date of this one.
    @_kept
    def gather(rows: Int64, values: Int64, valid: Bits, first: int, null: int, out: Int64) -> None:
        """One field of `rows`; bit `first` of `valid` tells of values[0], and so on (empty: all valid)."""
        _ = source
        if len(valid) == 0:
            for i in range(len(rows)):
                out[i] = values[rows[i]]
        else:
            for i in range(len(rows)):
                bit = first + rows[i]
                known = (valid[bit >> 3] >> (bit & 7)) & 1
                out[i] = values[rows[i]] if known else null

    @_kept
    def add_lengths(rows: Int64, places: Int64, offsets: Int32, lengths: Int64) -> None:
        """Count the numbers that the levels of each row take in a body: their count, prices and sizes."""
        _ = source
        for i in range(len(rows)):
            lengths[places[i]] += 1 + 2 * (offsets[rows[i] + 1] - offsets[rows[i]])

    @_kept
    def lay(
        rows: Int64, places: Int64, starts: Int64, fixed: NDArray[np.int64], lists: int,
        bid_offsets: Int32, bid_prices: Int64, bid_sizes: Int64,
        ask_offsets: Int32, ask_prices: Int64, ask_sizes: Int64, body: Int64,
    ) -> None:  # fmt: skip
        """Each row's fixed numbers and, where the kind has these two lists, its levels."""
        _ = source
        for i in range(len(rows)):
            at = starts[places[i]]
            for field in range(len(fixed)):
                body[at] = fixed[field, i]
                at += 1
            if lists:
                at = lay_levels(rows[i], bid_offsets, bid_prices, bid_sizes, at, body)
                lay_levels(rows[i], ask_offsets, ask_prices, ask_sizes, at, body)

    return {"gather": gather, "add_lengths": add_lengths, "lay": lay, "outside": _compiled_check(source)}


def _compiled_check(source: int) -> Any:
    @_kept
    def outside(
        kind: Bits, ts_event: Int64, ts_recv: Int64, start: Int64, body: Int64, shapes: Int64, rules: Int64
    ) -> int:
        """The first row that is not within `rules` or not as long as `shapes` says, -1 without one."""
        _ = source
        for i in range(len(kind)):
            k = kind[i]
            if k == _REFUSED:
                continue
            at, end = start[i], start[i + 1]
            if k >= len(shapes) or at < 0 or end > len(body) or end - at < shapes[k, 0]:
                return i
            if not is_within(k, ts_event[i], ts_recv[i], body, at, end, shapes, rules):
                return i
        return -1

    return outside


def load() -> None:
    """Compile the passes, or read them from the cache: two seconds the first time, then a moment, then nothing."""
    with _LOADING:
        for name, function in _PASSES.items():
            if not function.signatures:
                function.compile(_SIGNATURES[name])
                function.disable_compile()


def _sources_hash() -> int:
    """Hash of this file and of those its constants are from."""
    digest = blake2b(digest_size=7)
    for path in (__file__, limits.__file__, events.__file__, units.__file__):
        digest.update(Path(path).read_bytes())
    return int.from_bytes(digest.digest(), "big")


NO_LEVELS: Levels = (np.zeros(1, np.int32), np.empty(0, np.int64), np.empty(0, np.int64))
_LOADING = Lock()
_PASSES = _compiled(_sources_hash())
gather, add_lengths, lay = _PASSES["gather"], _PASSES["add_lengths"], _PASSES["lay"]
outside = _PASSES["outside"]
