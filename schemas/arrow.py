"""Columns as an Arrow table and back: the form in which the tape is archived, readable without our code.

Output: `offset, kind, key, ts_event, ts_recv` and one nullable struct column per kind, named by the kind in lower case.
Units: as in `schemas.events`; a null is a null.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.columns import ABSENT, Columns, Int64, ragged, starts_of
from schemas.events import FIELDS, Field, FieldType, Kind

_LEVELS = pa.list_(pa.struct([pa.field("price", pa.int64(), False), pa.field("size", pa.int64(), False)]))
_TEXTS = pa.dictionary(pa.int32(), pa.string())


def _arrow_type(field: Field) -> pa.DataType:
    if field.type is FieldType.LEVELS:
        return _LEVELS
    if field.type is FieldType.FLAG:
        return pa.bool_()
    return pa.string() if field.type in (FieldType.TEXT, FieldType.ENUM) else pa.int64()


def _struct(kind: Kind) -> pa.StructType:
    # Nullable throughout: under the null struct of another kind the fields are null too, and Parquet wants that said.
    return pa.struct([pa.field(f.name, _arrow_type(f)) for f in FIELDS[kind]])


TAPE_SCHEMA = pa.schema(
    [
        pa.field("offset", pa.int64(), False),
        pa.field("kind", _TEXTS, False),
        pa.field("key", _TEXTS, False),
        pa.field("ts_event", pa.int64(), False),
        pa.field("ts_recv", pa.int64(), False),
        *(pa.field(kind.name.lower(), _struct(kind)) for kind in Kind),
    ]
)


def _texts(indices: NDArray[Any], texts: list[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(texts, pa.string()))


def _level_columns(body: Int64, at: Int64) -> tuple[pa.Array, Int64]:
    """List array of the levels that start at positions `at`, and the positions behind them."""
    counts = body[at]
    places = ragged(at + 1, 2 * counts)
    pairs = body[places].reshape(-1, 2)
    values = pa.StructArray.from_arrays([pa.array(pairs[:, 0]), pa.array(pairs[:, 1])], fields=list(_LEVELS.value_type))
    lists = pa.ListArray.from_arrays(pa.array(starts_of(counts), pa.int32()), values)
    return lists.cast(_LEVELS), at + 1 + 2 * counts


def _to_struct(columns: Columns, kind: Kind) -> pa.Array:
    """The struct column of one kind: n rows, null where a row is of another kind."""
    rows = np.flatnonzero(columns.kind == kind)
    if not len(rows):
        return pa.nulls(len(columns), _struct(kind))
    at = columns.start[rows]
    arrays = []
    for field in FIELDS[kind]:
        if field.type is FieldType.LEVELS:
            array, at = _level_columns(columns.body, at)
        else:
            values = columns.body[at]
            at = at + 1
            if field.type is FieldType.FLAG:
                array = pa.array(values != 0)
            elif field.type is FieldType.TEXT:
                array = _texts(values, columns.strings).dictionary_decode()
            elif field.type is FieldType.ENUM:
                array = _texts(values, list(field.symbols)).dictionary_decode()
            else:
                array = pa.array(values, mask=values == ABSENT)
        arrays.append(array)
    struct = pa.StructArray.from_arrays(arrays, fields=list(_struct(kind)))
    index = np.full(len(columns), -1, np.int64)
    index[rows] = np.arange(len(rows))
    return struct.take(pa.array(index, mask=index < 0))


@cache
def _kind_names() -> list[str]:
    return [kind.name for kind in Kind]


def to_table(columns: Columns) -> pa.Table:
    """[n] rows of TAPE_SCHEMA."""
    arrays = [
        pa.array(columns.offset),
        _texts(columns.kind, _kind_names()),
        _texts(columns.key, columns.keys),
        pa.array(columns.ts_event),
        pa.array(columns.ts_recv),
        *(_to_struct(columns, kind) for kind in Kind),
    ]
    return pa.Table.from_arrays(arrays, schema=TAPE_SCHEMA)


def _encoded(array: pa.Array) -> tuple[NDArray[Any], list[str]]:
    """Indices and texts of a string or dictionary array."""
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    return array.indices.to_numpy(zero_copy_only=False), array.dictionary.to_pylist()


def _flat(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


class _Body:
    """Fills the flat body, one kind after another."""

    def __init__(self, n: int) -> None:
        self.lengths = np.zeros(n, np.int64)
        self.strings: list[str] = []
        self.kinds: list[tuple[NDArray[np.intp], list[tuple[FieldType, NDArray[Any], Int64]]]] = []

    def read(self, kind: Kind, rows: NDArray[np.intp], column: pa.Array) -> None:
        struct = column.take(pa.array(rows)) if len(rows) != len(column) else column
        fields: list[tuple[FieldType, NDArray[Any], Int64]] = []
        for field in FIELDS[kind]:
            values = struct.field(field.name)
            if field.type is FieldType.LEVELS:
                starts = values.offsets.to_numpy().astype(np.int64)
                levels = values.values
                pairs = np.empty((starts[-1] - starts[0], 2), np.int64)
                window = levels.slice(starts[0], starts[-1] - starts[0])
                pairs[:, 0] = window.field("price").to_numpy()
                pairs[:, 1] = window.field("size").to_numpy()
                counts = np.diff(starts)
                self.lengths[rows] += 1 + 2 * counts
                fields.append((field.type, counts, pairs.reshape(-1)))
                continue
            self.lengths[rows] += 1
            fields.append((field.type, self._numbers(field, values), _NONE))
        self.kinds.append((rows, fields))

    def _numbers(self, field: Field, values: pa.Array) -> NDArray[Any]:
        if field.type is FieldType.TEXT:
            indices, texts = _encoded(values)
            base = len(self.strings)
            self.strings.extend(texts)
            return np.asarray(indices, np.int64) + base
        if field.type is FieldType.ENUM:
            indices, texts = _encoded(values)
            ordinals = np.array([field.symbols.index(text) for text in texts], np.int64)
            return np.asarray(ordinals[indices])
        if field.type is FieldType.OPTIONAL:
            values = values.fill_null(ABSENT)
        return np.asarray(values.cast(pa.int64()))

    def columns(self) -> tuple[Int64, Int64]:
        starts = starts_of(self.lengths)
        body = np.empty(int(starts[-1]), np.int64)
        for rows, fields in self.kinds:
            at = starts[:-1][rows].copy()
            for type_, values, levels in fields:
                body[at] = values
                at += 1
                if type_ is FieldType.LEVELS:
                    body[ragged(at, 2 * values)] = levels
                    at += 2 * values
        return starts, body


_NONE = np.empty(0, np.int64)


def from_table(table: pa.Table, partition: int) -> Columns:
    """The inverse of `to_table`; columns may come in any order."""
    n = table.num_rows
    kind_index, kind_texts = _encoded(_flat(table["kind"]))
    kind = np.array([Kind[text] for text in kind_texts], np.uint8)[kind_index] if n else np.empty(0, np.uint8)
    key_index, keys = _encoded(_flat(table["key"]))
    body = _Body(n)
    for each in Kind:
        rows = np.flatnonzero(kind == each)
        if len(rows):
            body.read(each, rows, _flat(table[each.name.lower()]))
    starts, flat = body.columns()
    return Columns(
        partition, keys, body.strings, table["offset"].to_numpy(), kind, key_index.astype(np.int32),
        table["ts_event"].to_numpy(), table["ts_recv"].to_numpy(), starts, flat,
    )  # fmt: skip
