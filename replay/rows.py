"""Rows: what one archived topic holds, in the three kinds there are: tape, feature vectors, dead letters.

Input: columns, vectors or dead letters of one partition, each row with its Kafka offset.
Output: Arrow tables of one schema per kind, and what a sidecar says about them.
Units: offsets are Kafka offsets; ts are ns UTC: receipt for the tape, the Tick for vectors, 0 for dead letters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa

from schemas.arrow import TAPE_PARQUET, TAPE_SCHEMA, to_table
from schemas.codec import DeadLetter, from_record, to_record
from schemas.columns import Columns, Int64, starts_of
from schemas.events import Kind
from schemas.feature_sets import FeatureSet
from schemas.topics import DEAD_LETTERS, TAPE
from schemas.vectors import Vectors, table_schema

GROUP_ROWS_MAX = 65_536
GROUP_NUMBERS_MAX = 4_194_304
"""Bounds of one Parquet row group: rows, and int64 numbers in their bodies (32 MiB)."""
SMALL: Mapping[str, Any] = {"compression": "zstd"}
"""How a Parquet writer is told to store what is read seldom."""

LETTER_SCHEMA = pa.schema(
    [
        pa.field("offset", pa.int64(), False),
        pa.field("source", pa.string(), False),
        pa.field("source_partition", pa.int64(), False),
        pa.field("source_offset", pa.int64(), False),
        pa.field("key", pa.binary(), False),
        pa.field("reason", pa.string(), False),
        pa.field("original", pa.binary(), False),
        pa.field("original_bytes", pa.int64(), False),
    ]
)
"""The fields of an Avro dead letter behind the offset of the letter itself, with whose names two would clash."""
_LETTER_FIELDS = {"source_partition": "partition", "source_offset": "offset"}


@dataclass(frozen=True, slots=True)
class Summary:
    """What a sidecar tells without opening the file; `last_tick` is the last Tick's time, None without one."""

    first_ts: int
    last_ts: int
    last_tick: int | None
    keys: tuple[str, ...]


class Rows(Protocol):
    """n rows of one topic and partition, offsets ascending."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def schema(self) -> pa.Schema: ...
    @property
    def parquet(self) -> Mapping[str, Any]:
        """Codec and encodings, as options of a Parquet writer."""

    @property
    def schema_name(self) -> str: ...
    @property
    def offset(self) -> Int64: ...
    def slice(self, first: int, last: int) -> Self: ...
    def join(self, others: Sequence[Self]) -> Self:
        """This and the others, one after another."""

    def weights(self) -> Int64:
        """[n + 1] cumulated count of numbers the rows hold."""

    def pick(self, rows: Int64) -> Self:
        """The rows of these numbers, in their order, copied."""

    def table(self) -> pa.Table: ...
    def summary(self) -> Summary: ...


@dataclass(frozen=True, slots=True)
class TapeRows:
    """Records of the tape."""

    columns: Columns
    topic = TAPE
    schema = TAPE_SCHEMA
    parquet = TAPE_PARQUET
    schema_name = "tape.v1"

    @property
    def partition(self) -> int:
        return self.columns.partition

    @property
    def offset(self) -> Int64:
        return self.columns.offset

    def slice(self, first: int, last: int) -> TapeRows:
        return TapeRows(self.columns.slice(first, last))

    def pick(self, rows: Int64) -> TapeRows:
        picked = self.columns.pick(rows)
        # A row group's dictionary holds every key it is given, used or not.
        used, key = np.unique(picked.key, return_inverse=True)
        keys = [picked.keys[i] for i in used.tolist()]
        return TapeRows(replace(picked, keys=keys, key=key.astype(np.int32)))

    def join(self, others: Sequence[TapeRows]) -> TapeRows:
        return TapeRows(Columns.concat([self.columns, *(other.columns for other in others)]))

    def weights(self) -> Int64:
        start: Int64 = self.columns.start
        return start - int(start[0])

    def table(self) -> pa.Table:
        return to_table(self.columns)

    def summary(self) -> Summary:
        columns = self.columns
        known = columns.ts_recv[columns.kind != Kind.REFUSED]
        ticks = np.flatnonzero(columns.kind == Kind.TICK)
        last_tick = int(columns.body[columns.start[ticks[-1]]]) if len(ticks) else None
        first_ts, last_ts = (int(np.min(known)), int(np.max(known))) if len(known) else (0, 0)
        keys = sorted(columns.keys[i] for i in np.unique(columns.key).tolist())
        return Summary(first_ts, last_ts, last_tick, tuple(keys))


@dataclass(frozen=True, slots=True)
class VectorRows:
    """Vectors as they stand on their topic; `partition` and `offset` are of that topic, not of the tape."""

    partition: int
    offset: Int64
    vectors: Vectors
    parquet = SMALL

    @property
    def topic(self) -> str:
        return self.vectors.feature_set.topic

    @property
    def schema(self) -> pa.Schema:
        return vector_schema(self.vectors.feature_set)

    @property
    def schema_name(self) -> str:
        return self.vectors.feature_set.id

    def slice(self, first: int, last: int) -> VectorRows:
        return self.pick(np.arange(first, min(last, len(self.offset))))

    def pick(self, rows: Int64) -> VectorRows:
        return VectorRows(self.partition, self.offset[rows], self.vectors.select(rows))

    def join(self, others: Sequence[VectorRows]) -> VectorRows:
        parts = [self, *others]
        vectors = Vectors.concat([part.vectors for part in parts])
        return VectorRows(self.partition, np.concatenate([part.offset for part in parts]), vectors)

    def weights(self) -> Int64:
        width = self.vectors.values.shape[1] + 8
        return np.arange(0, (len(self.offset) + 1) * width, width, dtype=np.int64)

    def table(self) -> pa.Table:
        return self.vectors.to_table().add_column(0, self.schema.field("offset"), pa.array(self.offset))

    def summary(self) -> Summary:
        time, names = self.vectors.time, self.vectors.keys
        keys = sorted(names[i] for i in np.unique(self.vectors.key).tolist())
        return Summary(int(np.min(time)), int(np.max(time)), None, tuple(keys))


@dataclass(frozen=True, slots=True)
class LetterRows:
    """Dead letters as they stand on their topic."""

    partition: int
    offset: Int64
    letters: tuple[DeadLetter, ...]
    topic = DEAD_LETTERS
    schema = LETTER_SCHEMA
    parquet = SMALL
    schema_name = "dead-letters.v1"

    def slice(self, first: int, last: int) -> LetterRows:
        return LetterRows(self.partition, self.offset[first:last], self.letters[first:last])

    def pick(self, rows: Int64) -> LetterRows:
        return LetterRows(self.partition, self.offset[rows], tuple(self.letters[row] for row in rows.tolist()))

    def join(self, others: Sequence[LetterRows]) -> LetterRows:
        parts = [self, *others]
        letters = tuple(letter for part in parts for letter in part.letters)
        return LetterRows(self.partition, np.concatenate([part.offset for part in parts]), letters)

    def weights(self) -> Int64:
        sizes = [16 + len(letter.original) // 8 for letter in self.letters]
        return starts_of(np.array(sizes, np.int64))

    def table(self) -> pa.Table:
        records = [to_record(letter) for letter in self.letters]
        arrays = [pa.array(self.offset)]
        for column in list(LETTER_SCHEMA)[1:]:
            name = _LETTER_FIELDS.get(column.name, column.name)
            arrays.append(pa.array([record[name] for record in records], column.type))
        return pa.Table.from_arrays(arrays, schema=LETTER_SCHEMA)

    def summary(self) -> Summary:
        return Summary(0, 0, None, ())


def letters_of(table: pa.Table) -> list[DeadLetter]:
    """Dead letters of archived rows."""
    named = table.drop_columns("offset").rename_columns(_LETTER_FIELDS)
    return [from_record(record) for record in named.to_pylist()]


def vector_schema(feature_set: FeatureSet) -> pa.Schema:
    """Arrow schema of archived vectors: their topic offset, then the vector."""
    return table_schema(feature_set).insert(0, pa.field("offset", pa.int64(), False))


def check_columns(table: pa.Table, schema: pa.Schema) -> None:
    """Refuse what no writer of ours makes of these columns. Errors: KeyError, ValueError, ArrowInvalid."""
    for field in schema:
        column = table[field.name]
        if column.type != field.type:
            raise ValueError(f"{field.name} of type {column.type}, not {field.type}")
        if column.null_count and not field.nullable:
            raise ValueError(f"{field.name} is null in a row")
        # A text that is no UTF-8 would come out of Arrow as an error much later.
        column.validate(full=True)


def group_ends(rows: Rows, most_rows: int = GROUP_ROWS_MAX) -> list[int]:
    """Row positions at which row groups end, so that none is larger than the bounds (one row is always taken)."""
    weights, total = rows.weights(), len(rows.offset)
    ends: list[int] = []
    at = 0
    while at < total:
        fits = int(np.searchsorted(weights, weights[at] + GROUP_NUMBERS_MAX, side="right")) - 1
        at = min(total, at + most_rows, max(fits, at + 1))
        ends.append(at)
    return ends
