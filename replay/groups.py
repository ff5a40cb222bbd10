"""Row groups: a segment is read block by block, each row group verified before a row of it is given out.

Input: a segment of an archive, which of its row groups are wanted, and what to make of one.
Output: per block what was made of each row group; `ReadCount` of what was decoded for it.
State: the row groups of one block (at most 262,144 records) while they are made.
Units: offsets are Kafka offsets; bytes.
Errors: SegmentTorn (a file is not what was written).

A segment that is read whole is hashed whole. One of which a part is read has the bytes of that part hashed, and the
footer: no more is read than is wanted, and a changed bit in it shows all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from replay import segments as files
from replay.footer import ROWS, SIZE_BYTES, VALUES, group_sizes
from replay.segments import Group, Segment, torn
from replay.texts import plain, plain_schema, text_columns
from schemas.arrow import check_schema
from schemas.columns import Int64
from schemas.limits import GROUP_BYTES_MAX
from schemas.topics import TAPE

_UNREADABLE: Final = (pa.ArrowException, OSError, KeyError, IndexError, TypeError, ValueError)
"""What decoding raises of a row group that is not what a writer of ours makes."""

Part = TypeVar("Part")


class OtherRows(Exception):
    """A row group holds other offsets or keys than the sidecar says."""


@dataclass(slots=True)
class ReadCount:
    """What was decoded: row groups, their rows, and their bytes in the file. Several threads may count into one."""

    groups: int = 0
    rows: int = 0
    size_bytes: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def add(self, rows: int, size_bytes: int) -> None:
        """Count a row group."""
        with self._lock:
            self.groups += 1
            self.rows += rows
            self.size_bytes += size_bytes


class Places:
    """The offsets first..end - 1 of a block, of which each may come once, in as many row groups as it has.

    `keys` are those that the row group in the making may hold.
    """

    def __init__(self, first: int, end: int, groups: int) -> None:
        self.first, self.end = first, end
        self.keys: Sequence[str] = ()
        self._taken = 0
        self._seen: NDArray[np.bool_] | None = np.zeros(end - first, np.bool_) if groups > 1 else None

    def take(self, table: pa.Table) -> Int64:
        """The offsets of a row group. Errors: OtherRows, ValueError."""
        offsets: Int64 = table["offset"].to_numpy()
        if self._seen is None:
            if not np.array_equal(offsets, np.arange(self.first, self.end)):
                raise OtherRows
            return offsets
        is_sound = len(offsets) > 0 and offsets.dtype == np.int64
        if not is_sound or offsets.min() < self.first or offsets.max() >= self.end:
            raise OtherRows
        at = offsets - self.first
        self._seen[at] = True
        self._taken += len(at)
        found = {text for chunk in table["key"].chunks for text in chunk.dictionary.to_pylist()}
        if np.count_nonzero(self._seen) != self._taken or not found <= set(self.keys):
            raise OtherRows
        return offsets


Read = Callable[[pq.ParquetFile, int, Places], Part]
"""Makes something of a row group: of the file, which leaves texts as dictionaries, its number, the block's offsets."""
Choose = Callable[[Group], bool]


def every(_: Group) -> bool:
    """The choice of all row groups."""
    return True


def row_groups(root: Path, segment: Segment) -> Iterator[pa.Table]:
    """The row groups of a segment, each verified. Errors: SegmentTorn."""
    for parts in blocks(root, segment, read_whole):
        yield from parts


def blocks(
    root: Path,
    segment: Segment,
    read: Read[Part],
    *,
    choose: Choose = every,
    low: int = 0,
    high: int | None = None,
    count: ReadCount | None = None,
) -> Iterator[list[Part]]:
    """What `read` makes of the chosen row groups of each block that holds offsets low..high. Errors: SegmentTorn."""
    wanted = _wanted(segment, choose, low, segment.last_offset if high is None else high)
    is_whole = len(wanted) == sum(map(len, segment.blocks))
    if not wanted:
        return
    _check_file(root, segment, is_whole)
    parquet, sizes = _opened(root, segment)
    with parquet:
        at, first = 0, segment.first_offset
        for block in segment.blocks:
            places = Places(first, first + sum(group.rows for group in block), len(block))
            # What it takes in memory: encoded values, or 8 bytes for each, where many are encoded as one.
            size = int(
                np.maximum(sizes[at : at + len(block), SIZE_BYTES], 8 * sizes[at : at + len(block), VALUES]).sum()
            )
            if size > GROUP_BYTES_MAX and any(at <= i < at + len(block) for i in wanted):
                raise torn(root, segment, f"row groups under {GROUP_BYTES_MAX} bytes", f"{size} bytes")
            parts = []
            for i, group in enumerate(block, at):
                begin = wanted.get(i)
                if begin is not None:
                    places.keys = segment.keys[group.first_key : group.last_key + 1]
                    if not is_whole:
                        files.check_bytes(root, segment, begin, group.end, group.digest)
                    parts.append(_made(root, segment, parquet, i, places, read))
                    if count is not None:
                        count.add(group.rows, group.end - begin)
            if parts:
                yield parts
            at, first = at + len(block), places.end


def _wanted(segment: Segment, choose: Choose, low: int, high: int) -> dict[int, int]:
    """Number of each wanted row group, and where its bytes begin."""
    wanted: dict[int, int] = {}
    at, begin, first = 0, 0, segment.first_offset
    for block in segment.blocks:
        end = first + sum(group.rows for group in block)
        for group in block:
            if end > low and first <= high and choose(group):
                wanted[at] = begin
            at, begin = at + 1, group.end
        first = end
    return wanted


def _check_file(root: Path, segment: Segment, is_whole: bool) -> None:
    if is_whole:
        files.check_hash(root, segment)
        return
    files.check_size(root, segment)
    behind = max(group.end for block in segment.blocks for group in block)
    files.check_bytes(root, segment, behind, segment.size_bytes, segment.footer)


def _opened(root: Path, segment: Segment) -> tuple[pq.ParquetFile, Int64]:
    """The file with its texts left as dictionaries, and the sizes of its row groups. Errors: SegmentTorn."""
    path = segment.file(root)
    try:
        with pq.ParquetFile(path) as about:
            parquet = pq.ParquetFile(
                path, metadata=about.metadata, page_checksum_verification=True, read_dictionary=text_columns(about)
            )
        sizes = group_sizes(path, parquet.num_row_groups)
    except _UNREADABLE as error:
        raise torn(root, segment, "a Parquet file", str(error)) from None
    expected = [group.rows for block in segment.blocks for group in block]
    try:
        if parquet.metadata.num_rows != segment.rows:
            raise torn(root, segment, f"{segment.rows} rows", f"{parquet.metadata.num_rows} rows")
        if sizes[:, ROWS].tolist() != expected:
            raise torn(root, segment, f"{len(expected)} row groups of their rows", f"{len(sizes)}, or of other rows")
        if segment.topic == TAPE:
            check_schema(plain_schema(parquet))
    except _UNREADABLE as error:
        parquet.close()
        raise torn(root, segment, "the columns of the tape", str(error)) from None
    except BaseException:
        parquet.close()
        raise
    return parquet, sizes


def _made(root: Path, segment: Segment, parquet: pq.ParquetFile, i: int, places: Places, read: Read[Part]) -> Part:
    try:
        return read(parquet, i, places)
    except OtherRows:
        expected = f"offsets {places.first}..{places.end - 1} in row group {i}"
        raise torn(root, segment, expected, "others, or of other keys") from None
    except _UNREADABLE as error:
        raise torn(root, segment, f"a readable row group {i}", str(error)) from None


def read_whole(parquet: pq.ParquetFile, i: int, places: Places) -> pa.Table:
    """A row group as a table with plain texts."""
    table = parquet.read_row_group(i)
    places.take(table)
    return plain(table, plain_schema(parquet))
