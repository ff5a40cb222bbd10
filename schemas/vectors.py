"""Feature vectors: what the features agent emits, in memory and as a table.

Output: Arrow with one nullable float64 column per feature.
Units: times in ns UTC; each feature's unit is in the catalogue. NaN inside `Vectors.values` is null outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntFlag
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.columns import Int64
from schemas.feature_sets import FeatureSet


class Quality(IntFlag):
    """Why a value is null or doubtful, as a bit mask."""

    BOOK_GAP = 1
    BOOK_STALE = 2
    BOOK_CROSSED = 4
    NO_TRADES = 8
    WARMUP = 16
    POSITION_UNKNOWN = 32
    FUNDING_UNKNOWN = 64
    CLOCK_SKEW = 128
    OUTLIER_CLIPPED = 256
    MISSING_OHLCV = 512
    INSUFFICIENT_OHLCV = 1024
    NO_EVENTS = 2048
    LOW_EVENT_COUNT = 4096
    LOW_SENTIMENT_CONFIDENCE = 8192
    TIMESTAMP_MISMATCH = 16384
    COMPUTATION_ERROR = 32768
    BOOK_ONE_SIDED = 65536


@dataclass(frozen=True, slots=True)
class Vectors:
    """m vectors of one feature set with F features; the identity of one is (instrument, feature set, time).

    `time` is the Tick T a vector is of, `partition` and `as_of_offset` the position of that Tick, `ts_available` its
    receipt, `book_epoch` the count of snapshots the book has had, `values` [m, F] in `feature_set.features`' order.
    """

    feature_set: FeatureSet
    keys: list[str]
    key: NDArray[np.int32]
    time: Int64
    partition: NDArray[np.int32]
    as_of_offset: Int64
    ts_available: Int64
    book_epoch: Int64
    quality: Int64
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.time)

    def select(self, rows: NDArray[Any]) -> Vectors:
        """Rows by mask or by position."""
        return Vectors(
            self.feature_set, self.keys, self.key[rows], self.time[rows], self.partition[rows],
            self.as_of_offset[rows], self.ts_available[rows], self.book_epoch[rows], self.quality[rows],
            self.values[rows],
        )  # fmt: skip

    @staticmethod
    def empty(feature_set: FeatureSet) -> Vectors:
        """No rows."""
        none = np.empty(0, np.int64)
        small = np.empty(0, np.int32)
        values = np.empty((0, len(feature_set.features)))
        return Vectors(feature_set, [], small, none, small, none, none, none, none, values)

    @staticmethod
    def concat(parts: Sequence[Vectors]) -> Vectors:
        """One after another; at least one, all of one feature set."""
        keys: dict[str, int] = {}
        mapped = []
        for part in parts:
            index = np.array([keys.setdefault(key, len(keys)) for key in part.keys], np.int32)
            mapped.append(index[part.key] if len(part) else part.key)
        head: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in HEAD}
        values = np.concatenate([part.values for part in parts])
        return Vectors(parts[0].feature_set, list(keys), np.concatenate(mapped), values=values, **head)

    def sorted(self) -> Vectors:
        """By time, then instrument, then position: the order of files and hashes. `keys` are in order, too."""
        names = sorted(self.keys)
        rank = {name: place for place, name in enumerate(names)}
        ranked = replace(self, keys=names, key=np.array([rank[name] for name in self.keys] or [0], np.int32)[self.key])
        return ranked.select(np.lexsort((ranked.as_of_offset, ranked.key, ranked.time)))

    def same_bits(self, other: Vectors) -> NDArray[np.bool_]:
        """[m] whether each row equals the row of `other` at the same place, every bit; all NaN are one null."""
        equal = np.asarray([a == b for a, b in zip(self.instruments(), other.instruments(), strict=True)], np.bool_)
        for name in HEAD:
            equal = equal & (getattr(self, name) == getattr(other, name))
        return np.asarray(equal & (self.bits() == other.bits()).all(axis=1))

    def bits(self) -> NDArray[np.uint64]:
        """[m, F] the values' bits, one pattern for null."""
        return np.where(np.isnan(self.values), np.nan, self.values).view(np.uint64)

    def instruments(self) -> list[str]:
        """[m] instrument of each row."""
        return [self.keys[i] for i in self.key.tolist()]

    def to_table(self) -> pa.Table:
        """Arrow table with the columns of `table_schema`."""
        names = pa.DictionaryArray.from_arrays(pa.array(self.key, pa.int32()), pa.array(self.keys, pa.string()))
        arrays: list[pa.Array] = [names.dictionary_decode()]
        arrays.extend(pa.array(getattr(self, name)) for name in HEAD)
        nulls = np.isnan(self.values)
        arrays.extend(pa.array(self.values[:, i], mask=nulls[:, i]) for i in range(len(self.feature_set.features)))
        return pa.Table.from_arrays(arrays, schema=table_schema(self.feature_set))

    @staticmethod
    def from_table(table: pa.Table, feature_set: FeatureSet) -> Vectors:
        """The inverse of `to_table`."""
        encoded = table["instrument"].combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        values = np.empty((table.num_rows, len(feature_set.features)))
        for i, name in enumerate(feature_set.features):
            values[:, i] = table[name].to_numpy()
        head: dict[str, Any] = {name: table[name].to_numpy() for name in HEAD}
        key = encoded.indices.to_numpy().astype(np.int32)
        return Vectors(feature_set, encoded.dictionary.to_pylist(), key, values=values, **head)


HEAD = ("time", "partition", "as_of_offset", "ts_available", "book_epoch", "quality")
"""Columns of every vector behind `instrument`; no feature can have one of these names."""


def table_schema(feature_set: FeatureSet) -> pa.Schema:
    """Arrow schema of a feature set's vectors."""
    head = [pa.field(name, pa.int32() if name == "partition" else pa.int64(), False) for name in HEAD]
    features = [pa.field(name, pa.float64()) for name in feature_set.features]
    return pa.schema([pa.field("instrument", pa.string(), False), *head, *features])
