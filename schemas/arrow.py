"""Columns as an Arrow table and back: the form in which the tape is archived, readable without our code.

Output: `offset, kind, key, ts_event, ts_recv` and one nullable struct column per kind, named by the kind in lower case.
Units: as in `schemas.events`; a null is a null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas import flat
from schemas.columns import ABSENT, Columns, Int64, Texts, ragged, starts_of
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

HEAD = ["offset", "kind", "key", "ts_event", "ts_recv"]
"""Names of the columns that every record has a value in."""
ENUM_COLUMNS = [
    f"{kind.name.lower()}.{field.name}" for kind in Kind for field in FIELDS[kind] if field.type is FieldType.ENUM
]
"""Parquet names of the columns that hold one of a few symbols."""


def _is_readable(type_: pa.DataType, as_: pa.DataType) -> bool:
    """Whether values of a type are read as those of ours; texts are with or without a dictionary."""
    if pa.types.is_struct(as_):
        places = (
            {field.name: type_.get_all_field_indices(field.name) for field in as_} if pa.types.is_struct(type_) else {}
        )
        return bool(places) and all(
            len(at) == 1 and _is_readable(type_.field(at[0]).type, as_.field(name).type) for name, at in places.items()
        )
    if pa.types.is_list(as_):
        return pa.types.is_list(type_) and _is_readable(type_.value_type, as_.value_type)
    plain = as_.value_type if pa.types.is_dictionary(as_) else as_
    return bool(
        type_.equals(plain)
        or (pa.types.is_dictionary(type_) and pa.types.is_string(plain) and type_.value_type.equals(plain))
    )


def check_schema(schema: pa.Schema) -> None:
    """Refuse a table whose columns are not of TAPE_SCHEMA's types; some kinds may be left out. Errors: ValueError."""
    for field in TAPE_SCHEMA:
        found = schema.get_all_field_indices(field.name)
        if len(found) != 1 and (found or field.name in HEAD):
            raise ValueError(f"{len(found)} columns {field.name}")
        if found and not _is_readable(schema.field(found[0]).type, field.type):
            raise ValueError(f"column {field.name} is {schema.field(found[0]).type}, not {field.type}")


def _leaves(name: str, type_: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """Parquet names and types of the columns that a field is stored in."""
    if pa.types.is_struct(type_):
        for field in type_:
            yield from _leaves(f"{name}.{field.name}", field.type)
    elif pa.types.is_list(type_):
        yield from _leaves(f"{name}.list.element", type_.value_type)
    else:
        yield name, type_


# Measured on book-heavy tapes: as small as zstd with dictionaries, and read in half the time.
TAPE_PARQUET: Mapping[str, Any] = {
    "compression": "lz4",
    "use_dictionary": ["kind", "key", *ENUM_COLUMNS],
    "column_encoding": {
        name: "DELTA_BINARY_PACKED"
        for column in TAPE_SCHEMA
        for name, type_ in _leaves(column.name, column.type)
        if pa.types.is_int64(type_)
    },
}
"""How a Parquet writer is told to store the tape."""


def _texts(indices: NDArray[Any], texts: Sequence[str]) -> pa.Array:
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
                used, indices = np.unique(values, return_inverse=True)
                array = _texts(indices, [columns.strings[i] for i in used.tolist()]).dictionary_decode()
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


def _flat(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _encoded(array: pa.Array) -> tuple[NDArray[Any], list[str]]:
    """Indices (any number under a null) and texts of a string or dictionary array."""
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    return _numbers(array.indices), array.dictionary.to_pylist()


def _numbers(array: pa.Array) -> NDArray[Any]:
    """The values of an integer array without a copy; any number under a null."""
    plain = pa.Array.from_buffers(array.type, len(array), [None, array.buffers()[1]], offset=array.offset)
    return np.asarray(plain.to_numpy())


def _bits(buffer: pa.Buffer | None) -> NDArray[np.uint8]:
    return _ALL if buffer is None else np.frombuffer(buffer, np.uint8)


_ALL = np.empty(0, np.uint8)


def _levels(values: pa.ListArray) -> flat.Levels:
    """The levels of every row. Errors: ValueError for one that is null or lacks a number."""
    offsets = values.offsets.to_numpy()
    levels = values.values.slice(offsets[0], offsets[-1] - offsets[0])
    prices, sizes = levels.field("price"), levels.field("size")
    if levels.null_count or prices.null_count or sizes.null_count:
        raise ValueError("a level is null")
    return offsets, _numbers(prices), _numbers(sizes)


class _Run:
    """The rows of one kind in a table, and the places they get among the rows kept."""

    def __init__(self, kind: Kind, rows: Int64, places: Int64, column: pa.StructArray, strings: list[pa.Array]) -> None:
        """Read the fields; texts are added to `strings`."""
        fields = [field for field in FIELDS[kind] if field.type is not FieldType.LEVELS]
        self._rows, self._places = rows, places
        self._fixed = np.empty((len(fields), len(rows)), np.int64)
        self._lists: list[flat.Levels] = []
        for field in FIELDS[kind]:
            values = column.field(field.name)
            if field.type is FieldType.LEVELS:
                self._lists.append(_levels(values))
            elif field.type is FieldType.TEXT:
                first = sum(map(len, strings))
                strings.append(values.take(pa.array(rows)))
                strings[-1].validate(full=True)
                self._fixed[fields.index(field)] = np.arange(first, first + len(rows))
            elif field.type is FieldType.ENUM:
                indices, symbols = _encoded(values)
                ordinals = np.array([field.symbols.index(symbol) for symbol in symbols], np.int64)
                self._fixed[fields.index(field)] = ordinals[_within(indices[rows], symbols)]
            else:
                valid = _bits(values.buffers()[0]) if field.type is FieldType.OPTIONAL else _ALL
                out = self._fixed[fields.index(field)]
                flat.gather(rows, _longs(field, values), valid, values.offset, ABSENT, out)

    def measure(self, lengths: Int64) -> None:
        """Put the count of numbers that each row's body has into its place."""
        lengths[self._places] = len(self._fixed)
        for offsets, _, _ in self._lists:
            flat.add_lengths(self._rows, self._places, offsets, lengths)

    def lay(self, starts: Int64, body: Int64) -> None:
        """Put the rows into the body."""
        bids, asks = self._lists or (flat.NO_LEVELS, flat.NO_LEVELS)
        flat.lay(self._rows, self._places, starts, self._fixed, len(self._lists), *bids, *asks, body)


def _check_nulls(kind: Kind, wanted: NDArray[np.bool_], column: pa.StructArray) -> None:
    """Refuse a null in what always has a value, in a row that is `wanted`: of the kind. Errors: ValueError."""
    name = kind.name.lower()
    mask = np.packbits(wanted, bitorder="little")
    fields = [field.name for field in FIELDS[kind] if field.type is not FieldType.OPTIONAL]
    for part, values in [(name, column), *((f"{name}.{field}", column.field(field)) for field in fields)]:
        if values.null_count and (mask & ~_valid_bits(values)).any():
            raise ValueError(f"{part} is null in a row of its kind")


def _valid_bits(array: pa.Array) -> NDArray[np.uint8]:
    """A bit for each value of an array with nulls, from the lowest bit of the first byte on."""
    bits, first, end = _bits(array.buffers()[0]), array.offset, array.offset + len(array)
    if first % 8:
        return np.packbits(np.unpackbits(bits, bitorder="little", count=end)[first:], bitorder="little")
    return bits[first // 8 : (end + 7) // 8]


def _longs(field: Field, values: pa.Array) -> Int64:
    if field.type is FieldType.FLAG:
        bits = np.unpackbits(_bits(values.buffers()[1]), bitorder="little", count=values.offset + len(values))
        return bits[values.offset :].astype(np.int64)
    return _numbers(values)


def _check_head(name: str, column: pa.ChunkedArray) -> None:
    if column.null_count:
        raise ValueError(f"{name} is null in a row")


def _within(indices: NDArray[Any], texts: Sequence[str]) -> NDArray[Any]:
    """The indices, each of a text there is. Errors: ValueError."""
    if len(indices) and not 0 <= indices.min() <= indices.max() < len(texts):
        raise ValueError(f"an index of a text that is none of {len(texts)}")
    return indices


def kinds_of(table: pa.Table) -> NDArray[np.uint8]:
    """[n] kind of each row; only the column `kind` is needed. Errors: KeyError or ValueError for one that is none."""
    _check_head("kind", table["kind"])
    indices, texts = _encoded(_flat(table["kind"]))
    kinds: NDArray[np.uint8] = np.array([Kind[text] for text in texts], np.uint8)[_within(indices, texts)]
    return kinds


def kind_columns(kinds: NDArray[np.uint8]) -> list[str]:
    """Names of the columns that hold the bodies of these kinds."""
    return [kind.name.lower() for kind in Kind if (kinds == kind).any()]


def _by_kind(kinds: NDArray[np.uint8]) -> Iterator[tuple[Kind, Int64]]:
    """Each kind there is and the ascending positions it has."""
    order = np.argsort(kinds, kind="stable")
    ends = np.searchsorted(kinds[order], list(Kind), side="right").tolist()
    for kind, first, last in zip(Kind, [0, *ends], ends, strict=False):
        if first < last:
            yield kind, order[first:last]


def from_table(table: pa.Table, partition: int, keep: NDArray[np.bool_] | None = None) -> Columns:
    """The inverse of `to_table`, of all rows or those of the mask `keep`; columns may come in any order.

    Columns of kinds that no row kept is of may be left out. Errors: KeyError where another one is missing, ValueError
    where a field that always has a value has none.
    """
    flat.load()
    for name in HEAD:
        _check_head(name, table[name])
    kept = np.arange(table.num_rows) if keep is None else np.flatnonzero(keep)
    chosen = slice(None) if keep is None else kept
    kinds = kinds_of(table)
    kind = kinds[chosen]
    key, keys = _encoded(_flat(table["key"]))
    _within(key, keys)
    runs: list[_Run] = []
    strings: list[pa.Array] = []
    lengths = np.empty(len(kept), np.int64)
    for each, places in _by_kind(kind):
        column = _flat(table[each.name.lower()])
        _check_nulls(each, kinds == each, column)
        runs.append(_Run(each, kept[places], places, column, strings))
        runs[-1].measure(lengths)
    starts = starts_of(lengths)
    body = np.empty(int(starts[-1]), np.int64)
    for run in runs:
        run.lay(starts, body)
    head = {name: table[name].to_numpy()[chosen] for name in ("offset", "ts_event", "ts_recv")}
    return Columns(
        partition, keys, Texts(strings), head["offset"], kind, key.astype(np.int32)[chosen], head["ts_event"],
        head["ts_recv"], starts, body,
    )  # fmt: skip
