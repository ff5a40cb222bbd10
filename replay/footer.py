"""What a Parquet file says of its row groups' sizes, read before Arrow is asked for them.

Arrow's description of a column chunk throws where a file contradicts itself, and out of Python that ends the process.
Its readers refuse such a file, so it is only this question that must not be put to it.

Input: a Parquet file.
Output: [row groups, 3] rows, bytes when decompressed, values of all columns together.
Errors: ValueError for what has no such footer.
Source: Apache Parquet, "parquet.thrift"; Apache Thrift, "Thrift Compact protocol encoding".
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
from numba import types

from schemas.columns import Int64
from schemas.varint import BYTES_IN, NOWHERE, Bytes, inner, kept, read_long, sources_hash

ROWS, SIZE_BYTES, VALUES = range(3)
_MAGIC: Final = b"PAR1"
_END_BYTES: Final = 8
_TRUE, _FALSE, _BYTE, _DOUBLE, _TEXT, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS_FIRST, _INTEGERS_LAST = 4, 6
_LONG_LIST: Final = 15
"""A list's count that says that the count follows."""
_DEPTH: Final = 32
_OPEN: Final = -1
# Numbers of the fields of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData.
_ROW_GROUPS, _CHUNKS, _TOTAL_BYTES, _NUM_ROWS, _META_DATA, _NUM_VALUES = 4, 1, 2, 3, 3, 5


@inner
def _count(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """A length: a number without sign."""
    number, at = read_long(data, at, end)
    return (number << 1) ^ (number >> 63), at


@inner
def _field(data: Bytes, at: int, end: int, before: int) -> tuple[int, int, int]:
    """(type, number, place) of a struct's next field; type 0 behind the last."""
    if at < 0 or at >= end:
        return 0, 0, NOWHERE
    head = int(data[at])
    at += 1
    number = before + (head >> 4)
    if head != 0 and head >> 4 == 0:
        number, at = read_long(data, at, end)
    return head & 15, number, at


@inner
def _items(data: Bytes, at: int, end: int) -> tuple[int, int, int]:
    """(type, count, place) of a list's items; each takes a byte at least."""
    if at < 0 or at >= end:
        return 0, 0, NOWHERE
    head = int(data[at])
    at += 1
    count = head >> 4
    if count == _LONG_LIST:
        count, at = _count(data, at, end)
    return (head & 15, count, at) if 0 <= count <= end - at else (0, 0, NOWHERE)


@inner
def _skip(data: Bytes, at: int, end: int, kind: int, open_: Int64) -> int:
    """The place behind a value; `open_`: what is open around it, as (type of items or _OPEN, items left) each."""
    if kind in (_TRUE, _FALSE):
        return at
    depth = 0
    open_[0], open_[1] = kind, 1
    while depth >= 0:
        if at < 0 or at > end:
            return NOWHERE
        if open_[2 * depth] == _OPEN:
            kind, _, at = _field(data, at, end, 0)
            if kind == 0:
                depth -= 1
                continue
            if kind in (_TRUE, _FALSE):
                continue
        elif open_[2 * depth + 1] == 0:
            depth -= 1
            continue
        else:
            open_[2 * depth + 1] -= 1
            kind = open_[2 * depth]
        if at < 0:
            return NOWHERE
        if kind in (_TRUE, _FALSE, _BYTE):
            at += 1
        elif _INTEGERS_FIRST <= kind <= _INTEGERS_LAST:
            _, at = read_long(data, at, end)
        elif kind == _DOUBLE:
            at += 8
        elif kind == _TEXT:
            length, at = _count(data, at, end)
            at = at + length if at >= 0 and 0 <= length <= end - at else NOWHERE
        elif depth + 1 == _DEPTH:
            return NOWHERE
        elif kind in (_LIST, _SET):
            depth += 1
            open_[2 * depth], open_[2 * depth + 1], at = _items(data, at, end)
        elif kind == _STRUCT:
            depth += 1
            open_[2 * depth] = _OPEN
        else:
            return NOWHERE
    return at if at <= end else NOWHERE


@inner
def _chunk(data: Bytes, at: int, end: int, open_: Int64) -> tuple[int, int]:
    """(values, place behind) of a column chunk."""
    values, number = 0, 0
    while True:
        kind, number, at = _field(data, at, end, number)
        if kind == 0:
            return values, at
        if kind == _STRUCT and number == _META_DATA:
            inside = 0
            while at >= 0:
                kind, inside, at = _field(data, at, end, inside)
                if kind == 0:
                    break
                if inside == _NUM_VALUES and _INTEGERS_FIRST <= kind <= _INTEGERS_LAST:
                    values, at = read_long(data, at, end)
                elif at >= 0:
                    at = _skip(data, at, end, kind, open_)
        elif at >= 0:
            at = _skip(data, at, end, kind, open_)
        if at < 0:
            return 0, NOWHERE


@inner
def _group(data: Bytes, at: int, end: int, open_: Int64, sizes: Int64) -> int:
    """Put a row group's sizes down; the place behind it."""
    number = 0
    while True:
        kind, number, at = _field(data, at, end, number)
        if kind == 0 or at < 0:
            return at
        is_number = _INTEGERS_FIRST <= kind <= _INTEGERS_LAST
        if number == _CHUNKS and kind == _LIST:
            kind, count, at = _items(data, at, end)
            if at < 0 or (kind != _STRUCT and count > 0):
                return NOWHERE
            for _ in range(count):
                values, at = _chunk(data, at, end, open_)
                if at < 0 or values < 0 or values >= 1 << 48:
                    return NOWHERE
                sizes[VALUES] += values
        elif number == _TOTAL_BYTES and is_number:
            sizes[SIZE_BYTES], at = read_long(data, at, end)
        elif number == _NUM_ROWS and is_number:
            sizes[ROWS], at = read_long(data, at, end)
        else:
            at = _skip(data, at, end, kind, open_)
        if at < 0:
            return NOWHERE


def _compiled(source: int) -> Any:
    def read(data: Bytes, sizes: Any, open_: Int64) -> int:
        """Put the sizes of every row group down; returns how many there are, NOWHERE if it is no such footer."""
        _ = source
        at, end, number, found = 0, len(data), 0, 0
        while True:
            kind, number, at = _field(data, at, end, number)
            if at < 0:
                return NOWHERE
            if kind == 0:
                return found
            if number == _ROW_GROUPS and kind == _LIST:
                kind, count, at = _items(data, at, end)
                if at < 0 or (kind != _STRUCT and count > 0) or found + count > len(sizes):
                    return NOWHERE
                for i in range(found, found + count):
                    at = _group(data, at, end, open_, sizes[i])
                    if at < 0:
                        return NOWHERE
                found += count
            else:
                at = _skip(data, at, end, kind, open_)
                if at < 0:
                    return NOWHERE

    return kept(read)


def group_sizes(path: Path, groups: int) -> Int64:
    """[groups, 3] sizes of a file's row groups. Errors: ValueError where it does not say those of so many; OSError."""
    with path.open("rb") as file:
        file_bytes = file.seek(0, 2)
        file.seek(max(0, file_bytes - _END_BYTES))
        end = file.read()
        length = int.from_bytes(end[:4], "little")
        if end[4:] != _MAGIC or length > file_bytes - _END_BYTES:
            raise ValueError("no footer of Parquet")
        file.seek(file_bytes - _END_BYTES - length)
        footer = file.read(length)
    with _LOADING:
        if not _read.signatures:
            _read.compile(_SIGNATURE)
            _read.disable_compile()
    sizes = np.zeros((groups, 3), np.int64)
    if (
        _read(np.frombuffer(footer, np.uint8), sizes, np.empty(2 * _DEPTH, np.int64)) != groups
        or sizes.min(initial=0) < 0
    ):
        raise ValueError(f"no footer that tells the sizes of {groups} row groups")
    return sizes


_LOADING = Lock()
_SIGNATURE = types.int64(BYTES_IN, types.int64[:, ::1], types.int64[::1])
_read = _compiled(sources_hash(__file__))
