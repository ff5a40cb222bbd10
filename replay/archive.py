"""The archive: every topic as Parquet segments in Hive folders, complete from its first offset to its last.

Input: tape columns, vectors and dead letters with their Kafka offsets, through `ArchiveWriter`.
State: `archive.json` (format version, tape partitions, feature sets, origin) and the segments of `replay.segments`.
Output: an archive that `replay.reader.ArchiveReader` reads.
Units: offsets are Kafka offsets; rows.
Errors: UsageError (two writers, another origin or partition count, a folder that is no archive), ArchiveHole (a jump
forward in the offsets), SegmentTorn (what is there is not whole), DependencyDown (the disk refuses).

Two ways to write:
    with staged(path, partitions=4) as writer: ...      all or nothing, for imports
    with live(path, partitions=4, origin=...) as writer: ...     segment by segment, for the archive agent, on `flush()`
Both skip rows whose offsets are archived already, so at-least-once delivery and a repeated import do no harm. That
holds within one origin only, so both refuse an archive of another one.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from replay import segments as files
from replay.clusters import clusters
from replay.folder import (
    HEAD,
    IMPORT,
    PENDING,
    Head,
    checked_head,
    refuse_other_content,
    sweep,
    topics,
)
from replay.publication import STAGING, disk_errors, locked, new_folder
from replay.reader import ArchiveReader
from replay.rows import LetterRows, Rows, TapeRows, VectorRows
from replay.segments import Segment
from schemas.codec import DeadLetter
from schemas.columns import Columns, Int64
from schemas.errors import ArchiveHole, UsageError
from schemas.feature_sets import FeatureSet
from schemas.vectors import Vectors

SEGMENT_ROWS = 1_000_000


class ArchiveWriter:
    """Collects rows per topic and partition and publishes them as segments. Made by `staged` and `live`."""

    def __init__(self, root: Path, head: Head, last: dict[tuple[str, int], int], segment_rows: int) -> None:
        self._root, self._head, self._last, self._segment_rows = root, head, last, segment_rows
        self._archived = dict(last)
        self._known: list[FeatureSet] = []
        self._pending: dict[tuple[str, int], list[Rows]] = {}
        self._pending_rows: Counter[tuple[str, int]] = Counter()

    def append_tape(self, columns: Columns) -> int:
        """Take records of one tape partition; returns how many were new."""
        if not 0 <= columns.partition < self._head.partitions:
            raise UsageError(
                f"partition {columns.partition} is not in this archive",
                expected=f"a partition below {self._head.partitions}", was=str(columns.partition),
                action="archive each tape into an archive of its own partition count",
            )  # fmt: skip
        return self._append(TapeRows(columns))

    def append_vectors(self, partition: int, offsets: Sequence[int] | Int64, vectors: Vectors) -> int:
        """Take vectors as read from one partition of their topic; returns how many were new."""
        self._know(vectors.feature_set)
        return self._append(VectorRows(partition, np.asarray(offsets, np.int64), vectors))

    def append_dead_letters(self, partition: int, offsets: Sequence[int] | Int64, letters: Sequence[DeadLetter]) -> int:
        """Take dead letters as read from one partition of their topic; returns how many were new."""
        return self._append(LetterRows(partition, np.asarray(offsets, np.int64), tuple(letters)))

    def next_offset(self, topic: str, partition: int) -> int | None:
        """The offset the next row must have, or None while the partition is empty."""
        last = self._last.get((topic, partition))
        return None if last is None else last + 1

    @property
    def pending_rows(self) -> int:
        """Rows taken and not yet in a segment."""
        return self._pending_rows.total()

    def has_room(self, rows: int) -> bool:
        """Whether so many rows can be taken without a segment being written."""
        return self.pending_rows + rows < self._segment_rows

    def flush(self, topic: str | None = None, partition: int | None = None) -> list[Segment]:
        """Publish pending rows, of one topic or partition or of all; on return they survive a crash.

        Returns the segments it made.
        """
        places = [at for at in self._pending if topic in (None, at[0]) and partition in (None, at[1])]
        return [segment for place in sorted(places) for segment in self._publish(place, whole_only=False)]

    def _append(self, rows: Rows) -> int:
        place = (rows.topic, rows.partition)
        offset, last = rows.offset, self._last.get(place)
        if len(offset) and (np.diff(offset) != 1).any():
            at = int(np.flatnonzero(np.diff(offset) != 1)[0])
            raise _jump(rows, int(offset[at]) + 1, int(offset[at + 1]))
        if last is not None and len(offset):
            if offset[0] > last + 1:
                raise _jump(rows, last + 1, int(offset[0]))
            rows = rows.slice(int(min(max(last + 1 - offset[0], 0), len(offset))), len(offset))
        if not len(rows.offset):
            return 0
        self._pending.setdefault(place, []).append(rows)
        self._pending_rows[place] += len(rows.offset)
        self._last[place] = int(rows.offset[-1])
        if self._pending_rows[place] >= self._segment_rows:
            self._publish(place, whole_only=True)
        return len(rows.offset)

    def _publish(self, place: tuple[str, int], whole_only: bool) -> list[Segment]:
        """Write pending rows of one partition as segments; `whole_only` leaves what does not fill one."""
        made: list[Segment] = []
        parts = self._pending[place]
        rows = parts[0].join(parts[1:]) if len(parts) > 1 else parts[0]
        self._keep(place, rows)
        while len(rows.offset) >= (self._segment_rows if whole_only else 1):
            count = min(len(rows.offset), self._segment_rows)
            made.append(self._write(rows.slice(0, count), self._archived.get(place)))
            rows = rows.slice(count, len(rows.offset))
            self._archived[place] = made[-1].last_offset
            self._keep(place, rows)
        return made

    def _keep(self, place: tuple[str, int], rows: Rows) -> None:
        """What is pending of one partition from now on."""
        self._pending_rows[place] = len(rows.offset)
        if len(rows.offset):
            self._pending[place] = [rows]
        else:
            del self._pending[place]

    def _write(self, rows: Rows, previous_offset: int | None) -> Segment:
        about = rows.summary()
        blocks = list(clusters(rows, about.keys))
        segment = Segment(
            rows.topic, rows.partition, int(rows.offset[0]), int(rows.offset[-1]), previous_offset, len(rows.offset),
            about.first_ts, about.last_ts, about.last_tick, about.keys, rows.schema_name, 0, "", "",
            tuple(tuple(cluster.group for cluster in block) for block in blocks),
        )  # fmt: skip
        tables = (rows.pick(cluster.rows).table() for block in blocks for cluster in block)
        with disk_errors(self._root):
            return files.publish(self._root, segment, rows.schema, tables, rows.parquet)

    def check(self, feature_set: FeatureSet) -> None:
        """Errors: UsageError if vectors of another definition of this set are archived."""
        self._head.knows(feature_set)

    def _know(self, feature_set: FeatureSet) -> None:
        if feature_set in self._known:
            return
        self._known.append(feature_set)
        if self._head.knows(feature_set):
            return
        feature_sets = {**self._head.feature_sets, feature_set.id: feature_set.json()}
        told = replace(self._head, feature_sets=feature_sets)
        with disk_errors(self._root):
            files.write_json(self._root / HEAD, told.json())
        self._head = told


@contextmanager
def live(path: Path, partitions: int, segment_rows: int = SEGMENT_ROWS, *, origin: str) -> Iterator[ArchiveWriter]:
    """A writer whose `flush` publishes; makes the archive where there is none. Leaving flushes unless it failed.

    `origin` names the broker and topic whose offsets these are; an archive of another origin is refused.
    """
    if path.exists() and not (path / HEAD).exists():
        refuse_other_content(path)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if not (path / HEAD).exists():
            with disk_errors(path):
                files.write_json(path / HEAD, Head(partitions, {}, origin).json())
        head = checked_head(path, partitions, origin)
        with disk_errors(path):
            sweep(path)
        writer = ArchiveWriter(path, head, _last_offsets(path), segment_rows)
        yield writer
        writer.flush()


@contextmanager
def staged(path: Path, partitions: int, segment_rows: int = SEGMENT_ROWS) -> Iterator[ArchiveWriter]:
    """A writer whose rows appear all at once when the block ends well, and not at all when it does not.

    A new archive is written into a hidden folder beside `path` and renamed; more rows for an existing archive are
    written into a hidden folder inside it and moved under the cover of `pending.json`.
    """
    if (path / HEAD).exists():
        with locked(path), _staged_into(path, partitions, segment_rows) as writer:
            yield writer
        return
    if path.exists():
        refuse_other_content(path)
    head = Head(partitions, {}, IMPORT)
    with new_folder(path) as staging:
        with disk_errors(path):
            files.write_json(staging / HEAD, head.json())
        writer = ArchiveWriter(staging, head, {}, segment_rows)
        yield writer
        writer.flush()


@contextmanager
def _staged_into(path: Path, partitions: int, segment_rows: int) -> Iterator[ArchiveWriter]:
    head, staging = checked_head(path, partitions, IMPORT), path / STAGING
    with disk_errors(path):
        sweep(path)
        staging.mkdir()
    try:
        writer = ArchiveWriter(staging, head, _last_offsets(path), segment_rows)
        yield writer
        writer.flush()
        with disk_errors(path):
            _commit(path, staging)
    except BaseException:
        sweep(path)
        raise


def _commit(path: Path, staging: Path) -> None:
    """Move staged segments in. They count from the moment `pending.json` is gone."""
    if (staging / HEAD).exists():
        (staging / HEAD).replace(path / HEAD)
    places = [(topic, partition) for topic, partitions in topics(staging).items() for partition in partitions]
    staged_segments = [segment for place in places for segment in files.sidecars(staging, *place)]
    files.write_json(path / PENDING, {"segments": [segment.label() for segment in staged_segments]})
    for segment in staged_segments:
        target = segment.file(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        segment.file(staging).rename(target)
        segment.file(staging).with_suffix(".json").rename(target.with_suffix(".json"))
        files.sync(target.parent)
        files.sync(target.parent.parent)
    files.sync(path)
    (path / PENDING).unlink()
    files.sync(path)
    shutil.rmtree(staging, ignore_errors=True)


def _last_offsets(path: Path) -> dict[tuple[str, int], int]:
    last: dict[tuple[str, int], int] = {}
    archive = ArchiveReader(path)
    for topic, partitions in topics(path).items():
        for partition in partitions:
            published = archive.segments(partition, topic)
            if published:
                last[topic, partition] = published[-1].last_offset
    return last


def _jump(rows: Rows, expected: int, was: int) -> ArchiveHole:
    return ArchiveHole(
        f"offsets of {rows.topic} partition {rows.partition} jump", expected=f"offset {expected}", was=f"offset {was}",
        action="let the archive agent read on from the expected offset, or begin a new archive if the topic lost it",
    )  # fmt: skip
