"""Weaving: the rows of several row groups of one block, put back into offset order.

Input: columns of row groups of one block, each in offset order.
Output: the same rows in offset order, a piece of some rows at a time.
State: none; the compiled pass is kept on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any, Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from schemas.columns import Columns, Int64, Texts, starts_of, text_positions
from schemas.varint import kept


def weave(parts: Sequence[Columns], piece_rows: int) -> Iterator[Columns]:
    """The rows of one or more parts, `piece_rows` at a time and the rest last; no offset is in two parts.

    Takes the parts over: their numbers of texts are changed.
    """
    if len(parts) == 1:
        [part] = parts
        for first in range(0, len(part), piece_rows):
            yield part.slice(first, min(len(part), first + piece_rows))
        return
    places = _places([part.offset for part in parts])
    heads = _Heads(sum(map(len, parts)))
    lengths = np.empty(heads.rows, np.int64)
    for part, at in zip(parts, places, strict=True):
        heads.put(part, at)
        lengths[at] = np.diff(part.start)
    starts, strings = starts_of(lengths), _join_texts(parts)
    _load()
    firsts = range(0, heads.rows, piece_rows)
    cuts = [np.searchsorted(at, [*firsts, heads.rows]).tolist() for at in places]
    for piece, first in enumerate(firsts):
        end = min(heads.rows, first + piece_rows)
        start = starts[first : end + 1] - starts[first]
        body = np.empty(int(start[-1]), np.int64)
        for part, at, cut in zip(parts, places, cuts, strict=True):
            _lay(at, cut[piece], cut[piece + 1], first, part.start, part.body, start, body)
        yield heads.piece(first, end, parts[0].partition, strings, start, body)


def _places(offsets: Sequence[Int64]) -> list[Int64]:
    """Which row each offset is of all, in ascending order."""
    first = min(int(each[0]) for each in offsets)
    last = max(int(each[-1]) for each in offsets)
    # Offsets of a block are few: one pass over all there could be sorts them.
    is_there = np.zeros(last + 1 - first, np.bool_)
    for each in offsets:
        is_there[each - first] = True
    rank = np.cumsum(is_there) - 1
    return [rank[each - first] for each in offsets]


def _join_texts(parts: Sequence[Columns]) -> Texts:
    """The texts of all parts, one after another; each part's numbers of texts are moved behind those before it."""
    before = 0
    for part in parts:
        if before and len(part.strings):
            part.body[text_positions(part)] += before
        before += len(part.strings)
    return Texts([part.strings for part in parts])


class _Heads:
    """The header arrays of all rows, being filled."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._offset, self._ts_event, self._ts_recv = (np.empty(rows, np.int64) for _ in range(3))
        self._kind, self._key = np.empty(rows, np.uint8), np.empty(rows, np.int32)
        self._numbers: dict[str, int] = {}

    def put(self, part: Columns, at: Int64) -> None:
        """Put a part's rows at these places."""
        self._offset[at], self._kind[at] = part.offset, part.kind
        self._ts_event[at], self._ts_recv[at] = part.ts_event, part.ts_recv
        numbers: NDArray[np.int32] = np.array(
            [self._numbers.setdefault(key, len(self._numbers)) for key in part.keys], np.int32
        )
        self._key[at] = numbers[part.key]

    def piece(self, first: int, end: int, partition: int, strings: Texts, start: Int64, body: Int64) -> Columns:
        """Rows first to end - 1 with their bodies."""
        rows = slice(first, end)
        return Columns(
            partition, list(self._numbers), strings, self._offset[rows], self._kind[rows], self._key[rows],
            self._ts_event[rows], self._ts_recv[rows], start, body,
        )  # fmt: skip


def _load() -> None:
    with _LOADING:
        if not _lay.signatures:
            _lay.compile(_SIGNATURE)
            _lay.disable_compile()


def _lay_rows(at: Int64, low: int, high: int, first: int, start: Int64, body: Int64, starts: Int64, out: Int64) -> None:
    """Copy the bodies of rows low..high - 1, whose places are at[low:high], to where `starts` has place - first."""
    for row in range(low, high):
        to, begin = starts[at[row] - first], start[row]
        for i in range(start[row + 1] - begin):
            out[to + i] = body[begin + i]


_LOADING: Final = Lock()
_INT64: Final = types.int64[::1]
_SIGNATURE: Final = types.void(
    _INT64, types.int64, types.int64, types.int64, _INT64, _INT64, _INT64, _INT64
)  # fmt: skip
_lay: Any = kept(_lay_rows)
