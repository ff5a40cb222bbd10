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
import pyarrow.compute as pc
from numpy.typing import NDArray

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


def table_digest(table: pa.Table) -> str:
    """Hash of a table's names, types and values in row order; what wrote or compressed it does not matter."""
    about = [(field.name, str(field.type)) for field in table.schema]
    digest = hashlib.sha256(json.dumps([about, table.num_rows]).encode())
    for column in table.columns:
        digest.update(_column_bytes(column))
    return digest.hexdigest()


def _column_bytes(column: pa.ChunkedArray) -> bytes:
    nulls = np.packbits(column.is_null().to_numpy()).tobytes() if column.null_count else b""
    values: NDArray[Any]
    if pa.types.is_floating(column.type):
        values = column.to_numpy()
        values = np.where(np.isnan(values), np.nan, values).astype("<f8")
        return nulls + values.tobytes()
    if pa.types.is_string(column.type):
        texts = sorted(pc.unique(column).to_pylist())
        nulls += json.dumps(texts).encode()
        column = pc.index_in(column, pa.array(texts, pa.string()))
    values = column.fill_null(0).cast(pa.int64()).to_numpy().astype("<i8")
    return nulls + values.tobytes()


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
