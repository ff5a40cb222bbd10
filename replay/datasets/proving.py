"""Proving a share: its vectors again without their future, and against those that were live.

Input: a share's chunks; windows of the tape, each with the states before it.
Output: `Proof`, of one share or the sum of several.
Units: offsets are Kafka offsets; times in ns UTC.
Errors: those of the archive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from replay.datasets import chunks
from replay.datasets.chunks import Chunk
from replay.datasets.shares import Task, start
from replay.driver import before
from replay.parity import Parity, compare
from replay.proof.lookahead import LookAhead, look_ahead
from replay.proof.window import AFTER_ROWS, CONTROLS, LeakCheck, Window, check, window_of
from replay.reader import ArchiveReader, once
from replay.segments import Segment
from schemas.columns import Columns
from schemas.events import Kind
from schemas.limits import TS_MAX_NS
from schemas.vectors import Vectors

WINDOW_RECORDS = 50_000
"""Records of the partition before each cut that are run again."""


@dataclass(slots=True)
class Proof:
    """What the checks of a share, or of all, have found."""

    leakcheck: LeakCheck = field(default_factory=LeakCheck)
    parity: list[Parity] = field(default_factory=list)
    lookahead: LookAhead = field(default_factory=LookAhead)

    def add(self, other: Proof) -> None:
        """Take in what another share gave."""
        self.leakcheck.add(other.leakcheck)
        self.parity += other.parity
        self.lookahead.add(other.lookahead)


def windows_of(
    archive: ArchiveReader, ends: Mapping[int, int], cuts: Sequence[float], first_ns: int | None, end_ns: int | None
) -> dict[int, list[tuple[int, int]]]:
    """First offset and cut of each window, by partition: each cut is a fraction of the records of the span."""
    found: dict[int, list[tuple[int, int]]] = {}
    for partition, last_offset in ends.items():
        segments = [segment for segment in archive.segments(partition) if segment.first_offset <= last_offset]
        first = _offset_at(archive, segments, first_ns, segments[0].first_offset) if segments else 0
        end = _offset_at(archive, segments, end_ns, last_offset + 1) if segments else 0
        if first < end:
            drawn = sorted({first + int(cut * (end - first)) for cut in cuts})
            found[partition] = [(max(segments[0].first_offset, at + 1 - WINDOW_RECORDS), at) for at in drawn]
    return found


def _offset_at(archive: ArchiveReader, segments: Sequence[Segment], time_ns: int | None, default: int) -> int:
    """Offset of the first Tick at or after a time; behind all segments where there is none, `default` for no time."""
    if time_ns is None:
        return default
    within = [segment for segment in segments if segment.last_tick is not None and segment.last_tick >= time_ns]
    for segment in within[:1]:
        rows = archive.batches(
            segment.partition, symbols=(), first_offset=segment.first_offset, last_offset=segment.last_offset
        )
        with closing(rows) as batches:
            for columns in batches:
                ticks = np.flatnonzero(columns.kind == Kind.TICK)
                late = ticks[columns.body[columns.start[ticks]] >= time_ns]
                if len(late):
                    return int(columns.offset[late[0]])
    return segments[-1].last_offset + 1


def prove(task: Task) -> Proof:
    """Run the windows of a share again, and hold its vectors to those that were live."""
    proof = Proof()
    found = chunks.read_all(task.folder)
    if ArchiveReader(task.archive).head.knows(task.feature_set):
        proof.parity = list(_parities(task, found))
    for first, drawn in task.share.windows:
        window = _window(task, found, first, drawn)
        if window is not None and len(window.expected):
            controls = proof.leakcheck.control.windows < CONTROLS
            proof.leakcheck.add(
                check(window, task.feature_set, beside=[task.prices], agent=task.agent, seed=drawn, controls=controls)
            )
            proof.lookahead.add(look_ahead(window, task.feature_set, beside=[task.prices], agent=task.agent))
    return proof


def _parities(task: Task, found: Sequence[Chunk]) -> Iterator[Parity]:
    """A share's vectors and the archived live ones, a chunk at a time."""
    archive, topic = ArchiveReader(task.archive), task.feature_set.topic
    segments = [segment for partition in archive.partitions(topic) for segment in archive.segments(partition, topic)]
    # Before the first that is here, the set was not on yet, or its vectors were moved away.
    live_first = min((segment.first_ts for segment in segments), default=TS_MAX_NS)
    live_end = {task.share.partition: max((segment.last_ts for segment in segments), default=-1)}
    tape_end = {task.share.partition: task.last_offset}
    after_ns = max(live_first, task.first_ns or 0) - 1
    for chunk in found:
        # Behind the last Tick of the tape there may be live vectors: the two topics are archived one after the other.
        is_last = chunk is found[-1] and task.end_ns is None
        last_ns = TS_MAX_NS if is_last else chunk.last_tick
        parts = [
            archive.vectors_between(task.feature_set, segment, task.share.symbols, after_ns, last_ns)
            for segment in segments if segment.last_ts > after_ns and segment.first_ts <= last_ns
        ]  # fmt: skip
        live = once(Vectors.concat(parts) if parts else Vectors.empty(task.feature_set))
        vectors = chunks.read_vectors(task.folder, chunk.number, task.feature_set)
        yield compare(live, vectors.select(vectors.time > after_ns), tape_end, live_end)
        after_ns = max(after_ns, chunk.last_tick)


def _window(task: Task, found: Sequence[Chunk], first: int, drawn: int) -> Window | None:
    """The window from the chunk that begins with it; None without a vector."""
    earlier = [chunk for chunk in found if chunk.last_offset < first]
    if earlier:
        offset, blobs = earlier[-1].last_offset, chunks.read_states(task.folder, earlier[-1].number)
    else:
        offset, blobs = start(task, [])
    batches = list(_records(task, offset, drawn))
    if not batches:
        return None
    last = int(batches[-1].offset[-1])
    parts: list[Vectors] = []
    for chunk in found[len(earlier) :]:
        parts.append(chunks.read_vectors(task.folder, chunk.number, task.feature_set))
        if chunk.last_offset >= last:
            break
    vectors = Vectors.concat(parts)
    vectors = vectors.select(vectors.as_of_offset <= last)
    return window_of(blobs, batches, vectors, drawn, task.first_ns or 0)


def _records(task: Task, offset: int, drawn: int) -> Iterator[Columns]:
    """The share's records behind an offset, as far as a window with this cut needs them."""
    rows = ArchiveReader(task.archive).batches(
        task.share.partition, symbols=task.share.symbols, first_offset=offset + 1, last_offset=task.last_offset
    )
    behind = 0
    with closing(rows) as batches:
        for columns in before(batches, task.end_ns):
            if len(columns):
                yield columns
            behind += int((columns.offset > drawn).sum())
            if behind >= AFTER_ROWS:
                return
