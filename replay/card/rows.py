"""Rows of a dataset's folder, a batch at a time: which split, or which role in every fold, each of them has.

Input: the Parquet files of a dataset, and its manifest.
Output: `Batch`es of some columns, in the order of the files.
Units: times in ns UTC; a value that is null or not finite is NaN.
Errors: SegmentTorn for a file that is not what the manifest says.

A dataset has one file per split, or `rows.parquet` with a column per fold that names the row's role in it. What is
compared are the splits or, where there are folds, the roles of the last one: the newest there is of a walk forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from replay.datasets import files
from replay.splits.fold import Role
from schemas.columns import Int64
from schemas.errors import SegmentTorn

ROLES = tuple(role.name.lower() for role in Role if role is not Role.NONE)
"""What a row can be in a fold; the first three are what a model sees."""
SPLITS = ROLES[:3]
ROWS = f"{files.ROWS}.parquet"
BATCH_ROWS = 65_536
NONE = 255
"""Code of a row that is in no group, or has no role in a fold."""
Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Batch:
    """n rows: `group` [n] is an index in `Rows.groups`, `roles` [folds, n] are indexes in `ROLES`; or NONE."""

    content: pa.RecordBatch
    group: Codes
    roles: Codes

    def values(self, name: str) -> NDArray[np.float64]:
        """A column of numbers [n], NaN where nothing is known."""
        column = self.content.column(name).to_numpy(zero_copy_only=False)
        return np.asarray(column, np.float64)

    def times(self, name: str) -> Int64:
        """A column of times [n] in ns."""
        return np.asarray(self.content.column(name).to_numpy(zero_copy_only=False), np.int64)

    def texts(self, name: str) -> tuple[list[str], NDArray[np.intp]]:
        """The distinct texts of a column, and the place [n] of each row's among them."""
        column = self.content.column(name)
        column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes = column.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return [str(text) for text in column.dictionary.to_pylist()], codes.astype(np.intp)


class Rows:
    """The rows of one dataset. `groups` are what is compared; `folds` is empty where there are splits."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.folds = tuple(str(fold["name"]) for fold in manifest.get("folds") or ())
        there = manifest["folds"][-1] if self.folds else manifest["splits"]
        others = () if self.folds else sorted(set(there) - set(SPLITS))
        self.groups = tuple(name for name in (*SPLITS, *others) if name in there and (there[name] or not self.folds))
        self._group = np.full(NONE + 1, NONE, np.uint8)
        self._group[[ROLES.index(name) for name in self.groups if self.folds]] = range(
            len(self.groups) * bool(self.folds)
        )

    @property
    def compared(self) -> str:
        """What the groups are of, for a caption."""
        return f"of {self.folds[-1]}" if self.folds else "per split"

    def count(self) -> int:
        """Rows in all files."""
        return sum(_open(self.folder / name, ()).metadata.num_rows for name in self._files())

    def batches(
        self, columns: Sequence[str], *, groups: Sequence[str] | None = None, verifies: bool = True
    ) -> Iterator[Batch]:
        """Every row once, with these columns; `verifies` the checksums of their pages.

        Of `groups` only, where each has a file of its own; rows of folds are in one file, and all come.
        """
        for index, name in enumerate(self._files()):
            if groups is not None and not self.folds and self.groups[index] not in groups:
                continue
            for content in self._read(self.folder / name, {*columns, *self.folds}, verifies=verifies):
                if not content.num_rows:
                    continue
                roles = self._roles(content)
                group = self._group[roles[-1]] if self.folds else np.full(len(content), index, np.uint8)
                yield Batch(content, group, roles)

    def _read(self, path: Path, columns: set[str], *, verifies: bool) -> Iterator[pa.RecordBatch]:
        """A row group at a time: Arrow's own iterator over a file holds much more of it, and takes twice as long."""
        try:
            with _open(path, ("instrument", *self.folds), verifies=verifies) as file:
                missing = ", ".join(sorted(columns - set(file.schema_arrow.names)))
                if missing:
                    raise _torn(path, f"no column {missing}")
                for row_group in range(file.num_row_groups):
                    yield from file.read_row_group(row_group, columns=list(columns)).to_batches(BATCH_ROWS)
        except (pa.ArrowException, OSError) as error:
            raise _torn(path, str(error)) from None

    def _files(self) -> list[str]:
        return [ROWS] if self.folds else [f"{name}.parquet" for name in self.groups]

    def _roles(self, content: pa.RecordBatch) -> Codes:
        found = np.full((len(self.folds), len(content)), NONE, np.uint8)
        for fold, name in enumerate(self.folds):
            column = content.column(name)
            column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
            texts = column.dictionary.to_pylist()
            codes = np.array([*(ROLES.index(text) if text in ROLES else NONE for text in texts), NONE], np.uint8)
            found[fold] = codes[column.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)]
        return found


def _open(path: Path, dictionaries: Sequence[str], *, verifies: bool = False) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, read_dictionary=list(dictionaries), page_checksum_verification=verifies)
    except (pa.ArrowException, OSError) as error:
        raise _torn(path, str(error)) from None


def _torn(path: Path, was: str) -> SegmentTorn:
    return SegmentTorn(
        f"{path.parent.name}/{path.name} is torn", expected="the file that was built", was=was,
        action="remove the dataset and build it anew",
    )  # fmt: skip
