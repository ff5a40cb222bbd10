"""Rows of a dataset's files, a row group at a time.

Input: Parquet files of a dataset, in the order of their splits.
Output: some columns of them as Arrow tables; times and instruments as arrays.
Errors: SegmentTorn for a file that is not what was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.columns import Int64
from schemas.errors import SegmentTorn

_UNREADABLE = (pa.ArrowException, OSError, KeyError, ValueError)


def parts(path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of each row group of a file, its pages' checksums verified. Errors: SegmentTorn."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
            for group in range(parquet.num_row_groups):
                yield parquet.read_row_group(group, columns=list(columns)).select(list(columns))
    except _UNREADABLE as error:
        raise SegmentTorn(
            f"{path.parent.name}/{path.name} is torn", expected=f"columns {', '.join(columns)[:200]}", was=str(error),
            action="remove the dataset and build it anew",
        ) from None  # fmt: skip


def column_names(path: Path) -> list[str]:
    """Names of a file's columns. Errors: SegmentTorn."""
    try:
        return list(pq.read_schema(path).names)
    except _UNREADABLE as error:
        raise SegmentTorn(
            f"{path.parent.name}/{path.name} is torn", expected="a Parquet file", was=str(error),
            action="remove the dataset and build it anew",
        ) from None  # fmt: skip


def longs(part: pa.Table, name: str) -> Int64:
    """A column of times or offsets [n]."""
    return np.asarray(part[name].to_numpy(), np.int64)


def times(path: Path) -> Int64:
    """The distinct times of a file's rows, ascending."""
    runs: list[Int64] = []
    last: int | None = None
    for part in parts(path, ["time"]):
        time = longs(part, "time")
        if len(time):
            begins = np.append(time[0] != last, np.diff(time) != 0)
            runs.append(time[begins])
            last = int(time[-1])
    found = np.concatenate(runs) if runs else np.empty(0, np.int64)
    # Files that are built ascend; those that others have written may not.
    return found if (found[1:] > found[:-1]).all() else np.unique(found)


def instruments(part: pa.Table) -> tuple[list[str], Int64]:
    """Distinct instruments of a part, and the place [n] of each row's among them."""
    encoded = part["instrument"].combine_chunks()
    encoded = encoded if isinstance(encoded, pa.DictionaryArray) else encoded.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks().unify_dictionaries()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices.to_numpy(), np.int64)
