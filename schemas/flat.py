"""Compiled passes that lay fields out of Arrow's arrays into the flat body of `Columns`, one kind at a time.

Input: arrays over the rows of a table; `rows`, the m rows of one kind; `places`, the place of each among the rows kept.
Output: `fixed[:, m]`, the numbers that every record of the kind has; `body`.
Errors: none; callers give arrays that are as long as the table says.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

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
}


def _compiled(source: int) -> dict[str, Any]:
    # As a closure's value the hash of this file makes numba's cache see its content, not only its date.
    @njit(nogil=True, cache=True)
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

    @njit(nogil=True, cache=True)
    def add_lengths(rows: Int64, places: Int64, offsets: Int32, lengths: Int64) -> None:
        """Count the numbers that the levels of each row take in a body: their count, prices and sizes."""
        _ = source
        for i in range(len(rows)):
            lengths[places[i]] += 1 + 2 * (offsets[rows[i] + 1] - offsets[rows[i]])

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

    @njit(nogil=True, cache=True)
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

    return {"gather": gather, "add_lengths": add_lengths, "lay": lay}


def load() -> None:
    """Compile the passes, or read them from the cache: half a second the first time, then a moment, then nothing."""
    with _LOADING:
        for name, function in _PASSES.items():
            if not function.signatures:
                function.compile(_SIGNATURES[name])
                function.disable_compile()


NO_LEVELS: Levels = (np.zeros(1, np.int32), np.empty(0, np.int64), np.empty(0, np.int64))
_LOADING = Lock()
_PASSES = _compiled(int.from_bytes(blake2b(Path(__file__).read_bytes(), digest_size=7).digest(), "big"))
gather, add_lengths, lay = _PASSES["gather"], _PASSES["add_lengths"], _PASSES["lay"]
