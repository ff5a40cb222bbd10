"""Weaving: the rows of several row groups of one block, put back into offset order.

Input: columns of row groups of one block.
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

Int32 = NDArray[np.int32]


def weave(parts: Sequence[Columns], piece_rows: int) -> Iterator[Columns]:
    """The rows of one or more parts, `piece_rows` at a time and the rest last; no offset is in two parts.

    Takes the parts over: their numbers of texts are changed.
    """
    if len(parts) == 1 and (np.diff(parts[0].offset) > 0).all():
        [part] = parts
        for first in range(0, len(part), piece_rows):
            yield part.slice(first, min(len(part), first + piece_rows))
        return
    offsets, places = _places([part.offset for part in parts])
    lengths = np.empty(len(offsets), np.int64)
    for part, at in zip(parts, places, strict=True):
        lengths[at] = np.diff(part.start)
    starts, strings, (keys, numbers) = starts_of(lengths), _join_texts(parts), _join_keys(parts)
    _load()
    for first in range(0, len(offsets), piece_rows):
        end = min(len(offsets), first + piece_rows)
        start = starts[first : end + 1] - starts[first]
        woven = Columns(
            parts[0].partition, keys, strings, offsets[first:end], np.empty(end - first, np.uint8),
            np.empty(end - first, np.int32), np.empty(end - first, np.int64), np.empty(end - first, np.int64), start,
            np.empty(int(start[-1]), np.int64),
        )  # fmt: skip
        for part, at, number in zip(parts, places, numbers, strict=True):
            _lay(at, first, *_arrays(part), number, *_arrays(woven))
        yield woven


def _places(offsets: Sequence[Int64]) -> tuple[Int64, list[Int64]]:
    """All offsets in ascending order, and the place of each part's among them."""
    first = min(int(each.min()) for each in offsets)
    last = max(int(each.max()) for each in offsets)
    # Offsets of a block are few: one pass over all there could be sorts them.
    is_there = np.zeros(last + 1 - first, np.bool_)
    for each in offsets:
        is_there[each - first] = True
    rank = np.cumsum(is_there) - 1
    return first + np.flatnonzero(is_there), [rank[each - first] for each in offsets]


def _join_texts(parts: Sequence[Columns]) -> Texts:
    """The texts of all parts, one after another; each part's numbers of texts are moved behind those before it."""
    before = 0
    for part in parts:
        if before and len(part.strings):
            part.body[text_positions(part)] += before
        before += len(part.strings)
    return Texts([part.strings for part in parts])


def _join_keys(parts: Sequence[Columns]) -> tuple[list[str], list[Int32]]:
    """The keys of all parts, each once, and for each part the number that each of its keys has among them."""
    known: dict[str, int] = {}
    numbers = [np.array([known.setdefault(key, len(known)) for key in part.keys], np.int32) for part in parts]
    return list(known), numbers


def _arrays(columns: Columns) -> tuple[NDArray[Any], ...]:
    return columns.kind, columns.key, columns.ts_event, columns.ts_recv, columns.start, columns.body


def _load() -> None:
    with _LOADING:
        if not _lay.signatures:
            _lay.compile(_SIGNATURE)
            _lay.disable_compile()


def _lay_rows(
    at: Int64, first: int, kinds: NDArray[np.uint8], keys: Int32, events: Int64, receipts: Int64, start: Int64,
    body: Int64, number: Int32, kind: NDArray[np.uint8], key: Int32, ts_event: Int64, ts_recv: Int64, starts: Int64,
    out: Int64,
) -> None:  # fmt: skip
    """Copy the rows whose places are in a piece, which begins with place `first`, to where they belong in it."""
    for row in range(len(at)):
        to = at[row] - first
        if 0 <= to < len(kind):
            kind[to], key[to] = kinds[row], number[keys[row]]
            ts_event[to], ts_recv[to] = events[row], receipts[row]
            begin, place = start[row], starts[to]
            for i in range(start[row + 1] - begin):
                out[place + i] = body[begin + i]


_LOADING: Final = Lock()
_INT64: Final = types.int64[::1]
_IN: Final = types.Array(types.int64, 1, "C", readonly=True)
_SIGNATURE: Final = types.void(
    _INT64, types.int64, types.uint8[::1], types.int32[::1], _IN, _IN, _INT64, _INT64, types.int32[::1],
    types.uint8[::1], types.int32[::1], _INT64, _INT64, _INT64, _INT64,
)  # fmt: skip
_lay: Any = kept(_lay_rows)
