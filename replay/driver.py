"""The driver: runs the features agent, the very coroutine that runs live, over an archived tape.

Input: an archive, a feature set, and optionally instruments and a span of time.
Output: `Replayed` (vectors, count of records read, content hash), and files of it.
State: in memory; every partition starts from nothing at its first archived record, or from a checkpoint.
Units: times in ns UTC, spans half-open [from, to).
Errors: those of `replay.reader`; UsageError for an output folder that is not empty.

A vector depends on every record before it. So a replay of a span reads the tape from its beginning, or from the states
of a checkpoint before the span, and gives only the vectors of the span; and a replay of some instruments reads every
Tick and Activate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from agents.features import features_agent
from agents.ports import States
from replay import parallel
from replay import segments as files
from replay.checkpoints import Checkpoints, Start
from replay.digest import code_digest, vectors_digest
from replay.ports import Agent, Collector, MemoryStates, feed
from replay.publication import disk_errors, new_folder, refuse_content
from replay.reader import ArchiveReader
from schemas.columns import Columns
from schemas.errors import UsageError
from schemas.events import Kind
from schemas.feature_sets import FeatureSet
from schemas.topics import TAPE
from schemas.vectors import Vectors

Progress = Callable[[int, int], None]
"""Called with records done and records in all."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay gave. `vectors` are sorted by time and instrument; `events` counts the tape records read.

    `starts` names the offset of the checkpoint that each partition began with, where it did; `ignored` those it could
    have but for being unfit.
    """

    feature_set: FeatureSet
    vectors: Vectors
    events: int
    starts: Mapping[int, int] = field(default_factory=dict)
    ignored: Sequence[str] = ()

    @property
    def content_hash(self) -> str:
        """The same for every batch size, partition count and machine."""
        return vectors_digest(self.vectors)


def replay(
    archive: ArchiveReader,
    feature_set: FeatureSet,
    *,
    batch_size: int | None = None,
    threads: int = 1,
    symbols: Sequence[str] | None = None,
    from_ns: int | None = None,
    to_ns: int | None = None,
    last_offsets: Mapping[int, int] | None = None,
    with_checkpoints: bool = False,
    progress: Progress | None = None,
    agent: Agent = features_agent,
) -> Replayed:
    """Vectors of the archived tape with `from_ns <= T < to_ns`.

    Neither `batch_size` (None: as stored) nor `threads` changes a bit. `last_offsets` ends each partition named in it
    at that offset (a partition not named is left out), as if the archive had been written no further.
    `with_checkpoints` begins with the newest states before `from_ns` that are laid beside the archive, if any.
    """
    if symbols is not None and not symbols:
        raise UsageError(
            "no instrument is named", expected="at least one", was="none", action="name some, or leave them out"
        )
    if from_ns is not None and to_ns is not None and from_ns >= to_ns:
        raise UsageError(
            "the span of time is empty", expected="a first time before the end",
            was=" to ".join(f"{np.datetime64(ns, 'ns')}Z" for ns in (from_ns, to_ns)), action="exchange the two times",
        )  # fmt: skip
    archive.check_symbols(symbols or ())
    ends = last_offsets if last_offsets is not None else dict.fromkeys(archive.partitions())
    checkpoints = Checkpoints(archive, feature_set) if with_checkpoints and from_ns is not None else None
    starts = {
        partition: start for partition, last in ends.items() if checkpoints is not None
        for start in [checkpoints.newest(partition, before_ns=from_ns, last_offset=last)] if start is not None
    }  # fmt: skip
    segments = [segment for partition in ends for segment in archive.segments(partition)]
    left = [each.last_offset - max(each.first_offset - 1, offset_of(starts.get(each.partition))) for each in segments]
    counter = Counter(sum(rows for rows in left if rows > 0), progress)
    parts = []
    for partition, last in ends.items():
        start = starts.get(partition)
        blobs = {} if start is None else {k: b for k, b in start.blobs.items() if symbols is None or k in symbols}
        rows = archive.batches(
            partition, batch_size, symbols=symbols, first_offset=offset_of(start) + 1, last_offset=last
        )
        # Closed, and so the thread that reads ahead ended, whatever happens.
        with closing(rows) as batches:
            wanted = counter.over(before(batches, to_ns))
            if threads == 1:
                parts.append(run(wanted, feature_set, MemoryStates(blobs), agent=agent))
            else:
                parts.append(parallel.run(marked(wanted, False), feature_set, threads, blobs=blobs, agent=agent))
    vectors = (Vectors.concat(parts) if parts else Vectors.empty(feature_set)).sorted()
    if from_ns is not None:
        vectors = vectors.select(vectors.time >= from_ns)
    begun = {partition: start.offset for partition, start in starts.items()}
    ignored = [] if checkpoints is None else checkpoints.ignored + ([] if starts else checkpoints.of_other_code())
    return Replayed(feature_set, vectors, counter.done, begun, ignored)


def offset_of(start: Start | None) -> int:
    """Offset behind which a partition is read, -1 from the beginning."""
    return -1 if start is None else start.offset


def run(
    batches: Iterable[Columns], feature_set: FeatureSet, states: States, *, agent: Agent = features_agent,
    saves: bool = False,
) -> Vectors:  # fmt: skip
    """Run the agent over batches of one partition, from the given states; `saves` leaves the new states in them."""
    collector = Collector()
    asyncio.run(agent(feed(marked(batches, saves)), states, collector, [feature_set]))
    return collector.vectors(feature_set)


def marked(batches: Iterable[Columns], saves: bool) -> Iterator[tuple[Columns, bool]]:
    """The batches, and where states shall be saved an empty one that ends the only epoch."""
    last: Columns | None = None
    for last in batches:
        yield last, False
    if last is not None and saves:
        yield last.slice(len(last), len(last)), True


def before(batches: Iterable[Columns], to_ns: int | None) -> Iterator[Columns]:
    """The batches up to the first Tick at or after `to_ns`, without it."""
    for columns in batches:
        if to_ns is not None:
            ticks = np.flatnonzero(columns.kind == Kind.TICK)
            late = ticks[columns.body[columns.start[ticks]] >= to_ns]
            if len(late):
                yield columns.slice(0, int(late[0]))
                return
        yield columns


@dataclass(slots=True)
class Counter:
    """Counts the records that pass, and tells."""

    total: int
    progress: Progress | None
    done: int = 0

    def over(self, batches: Iterable[Columns]) -> Iterator[Columns]:
        """The batches, each counted once the next is asked for."""
        for columns in batches:
            yield columns
            self.done += len(columns)
            if self.progress is not None:
                self.progress(self.done, self.total)


def write(replayed: Replayed, archive: ArchiveReader, out: Path) -> dict[str, Any]:
    """Write `vectors.parquet` and `manifest.json` into a new folder, whole or not at all; returns the manifest."""
    refuse_content(out)
    manifest = {
        "feature_set": replayed.feature_set.id,
        "feature_set_digest": replayed.feature_set.digest(),
        "features": list(replayed.feature_set.features),
        "events": replayed.events,
        "vectors": len(replayed.vectors),
        "content_hash": replayed.content_hash,
        "code_hash": code_digest(),
        "inputs": inputs(archive),
    }
    with new_folder(out) as staging, disk_errors(out):
        path = staging / "vectors.parquet"
        pq.write_table(replayed.vectors.to_table(), path, compression="zstd", write_page_checksum=True)
        files.sync(path)
        files.write_json(staging / "manifest.json", manifest)
    return manifest


def inputs(archive: ArchiveReader) -> list[dict[str, Any]]:
    """The tape segments of an archive, here and moved away, with their offsets and hashes."""
    return [
        {"file": segment.label(), "partition": segment.partition, "first_offset": segment.first_offset,
         "last_offset": segment.last_offset, "sha256": segment.sha256}
        for partition in archive.partitions(TAPE)
        for segment in archive.links(partition)
    ]  # fmt: skip
