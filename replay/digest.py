"""Digests: one hash for equal content, however it was cut into batches, partitions or files.

Input: vectors, or Arrow tables of longs, doubles and strings.
Output: sha256 hex digests over canonical column bytes (little-endian, one bit pattern for null).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

import agents
import replay
import schemas
import tables
from schemas.vectors import Vectors

_SOURCES = ("*.py", "*.yaml", "*.avsc")


def vectors_digest(vectors: Vectors) -> str:
    """Hash of vectors as a set: order, batches and the tape's partitions do not matter, every bit of a value does.

    The position (`partition`, `as_of_offset`) is left out: the same market in another partition count is the same.
    """
    ordered = vectors.sorted()
    used = np.unique(ordered.key)
    names = [ordered.keys[i] for i in used.tolist()]
    rank = np.zeros(len(ordered.keys), np.int64)
    rank[used] = np.argsort(np.argsort(np.array(names, np.str_))) if names else used
    feature_set = vectors.feature_set
    about = [feature_set.id, list(feature_set.features), sorted(names), len(ordered)]
    digest = hashlib.sha256(json.dumps(about).encode())
    for column in (rank[ordered.key], ordered.time, ordered.ts_available, ordered.book_epoch, ordered.quality):
        digest.update(np.ascontiguousarray(column, "<i8").tobytes())
    digest.update(np.ascontiguousarray(ordered.bits(), "<u8").tobytes())
    return digest.hexdigest()


class TableDigest:
    """Hash of a table's names, types and values in row order, fed in parts; neither their sizes nor the file matter."""

    def __init__(self, schema: pa.Schema) -> None:
        self._about = [(field.name, str(field.type)) for field in schema]
        self._columns = [hashlib.sha256() for _ in schema]
        self._rows = 0

    def update(self, table: pa.Table) -> None:
        """Take the next rows."""
        self._rows += table.num_rows
        for digest, column in zip(self._columns, table.columns, strict=True):
            for chunk in column.chunks:
                digest.update(_column_bytes(chunk))

    def hexdigest(self) -> str:
        """The hash of all rows so far."""
        return json_digest([self._about, self._rows, [digest.hexdigest() for digest in self._columns]])


def _column_bytes(column: pa.Array) -> bytes:
    """Eight bytes for each value, so that the bytes of parts joined are those of the whole."""
    if pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
        return bytes(np.where(np.isnan(values), np.nan, values).astype("<f8").tobytes())
    if pa.types.is_string(column.type):
        encoded = column.dictionary_encode()
        numbers = np.array([*map(_text_number, encoded.dictionary.to_pylist()), 0], "<u8")
        return bytes(numbers[encoded.indices.fill_null(len(numbers) - 1).to_numpy()].tobytes())
    return bytes(column.cast(pa.int64()).fill_null(np.iinfo(np.int64).min).to_numpy().astype("<i8").tobytes())


def _text_number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def json_digest(content: Any) -> str:
    """Hash of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def code_digest() -> str:
    """Hash of the sources that decide a value: schemas, tables, agents and replay."""
    digest = hashlib.sha256()
    for package in (schemas, tables, agents, replay):
        root = _folder(package)
        for path in sorted(found for pattern in _SOURCES for found in root.rglob(pattern)):
            digest.update(f"{package.__name__}/{path.relative_to(root).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _folder(package: ModuleType) -> Path:
    assert package.__file__ is not None, f"{package.__name__} has no folder"
    return Path(package.__file__).parent
