"""Files of a dataset: its columns, how they are written, and the hash of what is in them.

Input: `Rows` with their roles.
Output: one Parquet file per split, or `rows.parquet` with a column per fold; their digests.
Units: times in ns UTC; a null is a value nobody can know.
Errors: OSError of the disk; SegmentTorn for a file that is not what was built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from replay.datasets.labelled import Rows, touch_columns
from replay.digest import TableDigest, json_digest
from replay.splits.fold import Role
from schemas import durable
from schemas.errors import SegmentTorn
from schemas.feature_sets import FeatureSet
from schemas.labels import LabelSpec
from schemas.vectors import table_schema

ROWS = "rows"
"""The one file of a dataset with folds."""
GROUP_ROWS = 131_072
SPLITS = {Role.TRAIN: "train", Role.VALIDATION: "validation", Role.TEST: "test"}
_WORDS = pa.array([None, *(role.name.lower() for role in list(Role)[1:])], pa.string())
_TEXTS = pa.types.is_string


def schema_of(feature_set: FeatureSet, specs: Sequence[LabelSpec], folds: Sequence[str]) -> pa.Schema:
    """The columns of a dataset's files."""
    schema = table_schema(feature_set)
    more = [pa.field(spec.name, pa.float64()) for spec in specs]
    more += [pa.field("label_t0", pa.int64(), False), pa.field("label_t1", pa.int64(), False)]
    more += [pa.field(name, pa.int64()) for _, name in touch_columns(specs)]
    more += [pa.field(name, pa.string()) for name in folds]
    return pa.schema([*schema, *more])


def table_of(rows: Rows, specs: Sequence[LabelSpec], schema: pa.Schema, roles: Sequence[NDArray[np.uint8]]) -> pa.Table:
    """Rows as a table; `roles` of each fold where there are folds."""
    vectors = rows.vectors.to_table()
    unknown = np.isnan(rows.labels)
    more: list[pa.Array] = [pa.array(rows.labels[:, i], mask=unknown[:, i]) for i in range(len(specs))]
    more += [pa.array(rows.t0), pa.array(rows.t1)]
    more += [pa.array(rows.ends[:, i], mask=unknown[:, i]) for i, _ in touch_columns(specs)]
    more += [_WORDS.take(pa.array(each)) for each in roles]
    return pa.Table.from_arrays([*vectors.columns, *more], schema=schema)


@dataclass(slots=True)
class Writer:
    """Writes tables into files by name, in row groups of `GROUP_ROWS`; use it as a context manager.

    Without a folder nothing is written: only the digests are made.
    """

    folder: Path | None
    schema: pa.Schema
    names: Sequence[str]
    counts: dict[str, int] = field(init=False)
    _digests: dict[str, TableDigest] = field(init=False)
    _waiting: dict[str, list[pa.Table]] = field(init=False)
    _writers: dict[str, pq.ParquetWriter] = field(init=False, default_factory=dict)
    _stack: ExitStack = field(init=False, default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.counts = dict.fromkeys(self.names, 0)
        self._digests = {name: TableDigest(self.schema) for name in self.names}
        self._waiting = {name: [] for name in self.names}

    def __enter__(self) -> Self:
        if self.folder is not None:
            texts = [each.name for each in self.schema if _TEXTS(each.type)]
            for name in self.names:
                writer = pq.ParquetWriter(
                    self.folder / f"{name}.parquet", self.schema, compression="zstd", compression_level=1,
                    use_dictionary=texts, write_page_checksum=True,
                )  # fmt: skip
                self._writers[name] = self._stack.enter_context(writer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            for name in self.names:
                self._put(name, whole_only=False)
        self._stack.close()
        if error is None and self.folder is not None:
            for name in self.names:
                durable.sync(self.folder / f"{name}.parquet")

    def write(self, name: str, table: pa.Table) -> None:
        """Rows behind those before."""
        if not table.num_rows:
            return
        self.counts[name] += table.num_rows
        self._digests[name].update(table)
        if self.folder is not None:
            self._waiting[name].append(table)
            self._put(name, whole_only=True)

    def output_hash(self) -> str:
        """Hash of every file's values, the same whatever wrote them."""
        return json_digest({f"{name}.parquet": digest.hexdigest() for name, digest in self._digests.items()})

    def _put(self, name: str, whole_only: bool) -> None:
        rows = sum(table.num_rows for table in self._waiting[name])
        if not rows or (whole_only and rows < GROUP_ROWS):
            return
        table = pa.concat_tables(self._waiting[name])
        at = 0
        while rows - at >= (GROUP_ROWS if whole_only else 1):
            self._writers[name].write_table(table.slice(at, GROUP_ROWS), row_group_size=GROUP_ROWS)
            at += GROUP_ROWS
        self._waiting[name] = [table.slice(at)] if at < rows else []


def output_hash(folder: Path, schema: pa.Schema, names: Sequence[str]) -> str:
    """The hash of stored files. Errors: SegmentTorn."""
    digests: dict[str, str] = {}
    for name in names:
        digest = TableDigest(schema)
        for table in read(folder / name, schema):
            digest.update(table)
        digests[name] = digest.hexdigest()
    return json_digest(digests)


def read(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """The row groups of a file in the types it was built with: what wrote it may name equal values by other types."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
            names: list[Any] = parquet.schema_arrow.names
            if names != schema.names:
                raise ValueError(
                    f"other columns: {', '.join(sorted({*names} ^ {*schema.names})) or 'in another order'}"
                )
            for i in range(parquet.num_row_groups):
                yield parquet.read_row_group(i).cast(schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SegmentTorn(
            f"{path.parent.name}/{path.name} is torn", expected="the file that was built", was=str(error),
            action="remove the dataset and build it anew",
        ) from None  # fmt: skip
