"""Laying checkpoints: one replay of the archive that saves every state at regular times of the tape.

Input: an archive, a feature set, a distance in time.
State: the newest state of every symbol of the partition being replayed, in memory.
Output: checkpoints at the first Tick at or after each multiple of the distance; `Laid` says how many.
Units: ns of tape time since 1970, UTC.
Errors: UsageError (a distance not of whole seconds, another process laying), DependencyDown, those of the archive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from agents.features import features_agent
from replay import parallel
from replay.checkpoints import Checkpoints, Start
from replay.driver import Counter, Progress
from replay.ports import Agent
from replay.reader import ArchiveReader
from schemas.columns import Columns
from schemas.errors import UsageError
from schemas.events import Kind
from schemas.feature_sets import FeatureSet
from schemas.units import NS_PER_S

Place = tuple[int, int]
"""Offset of a Tick, and its time in ns."""


@dataclass(slots=True)
class Laid:
    """`laid` checkpoints of `size_bytes` in all, from `events` records.

    `continued` names, by partition, the offset of the one that was there before, behind which the replay went on;
    `ignored` those that were unfit.
    """

    laid: int
    size_bytes: int
    events: int
    continued: dict[int, int]
    ignored: list[str]

    def json(self) -> dict[str, Any]:
        """One JSON object."""
        return asdict(self)


def lay(
    archive: ArchiveReader,
    feature_set: FeatureSet,
    every_ns: int,
    *,
    threads: int = 1,
    progress: Progress | None = None,
    agent: Agent = features_agent,
) -> Laid:
    """Lay the checkpoints that are not there yet behind the newest; what is interrupted goes on from there."""
    if every_ns < NS_PER_S or every_ns % NS_PER_S:
        raise UsageError(
            "checkpoints lie whole seconds apart", expected="a multiple of 1s", was=f"{every_ns} ns",
            action="lay them an hour apart: --every 1h",
        )  # fmt: skip
    checkpoints = Checkpoints(archive, feature_set)
    with checkpoints.laying():
        starts = {partition: checkpoints.newest(partition) for partition in archive.partitions()}
        laid = Laid(0, 0, 0, {p: start.offset for p, start in starts.items() if start is not None}, checkpoints.ignored)
        ends = {partition: archive.segments(partition)[-1].last_offset for partition in starts}
        firsts = {p: laid.continued.get(p, archive.first_offset(p) - 1) + 1 for p in starts}
        counter = Counter(sum(ends[p] + 1 - firsts[p] for p in starts), progress)
        for partition, start in starts.items():
            layer = _Layer(checkpoints, partition, every_ns, start, laid)
            rows = archive.batches(partition, first_offset=firsts[partition], last_offset=ends[partition])
            with closing(rows) as batches:
                parallel.run(
                    layer.cut(counter.over(batches)), feature_set, threads, blobs=layer.blobs, saved=layer.save,
                    keeps=False, agent=agent,
                )  # fmt: skip
        laid.events = counter.done
    return laid


class _Layer:
    """Cuts the batches of a partition where a checkpoint belongs, and lays it once the states are there."""

    def __init__(
        self, checkpoints: Checkpoints, partition: int, every_ns: int, start: Start | None, laid: Laid
    ) -> None:
        self._checkpoints, self._partition, self._every_ns, self._laid = checkpoints, partition, every_ns, laid
        self._tick = None if start is None else start.tick
        self.blobs = {} if start is None else dict(start.blobs)
        self._places: deque[Place] = deque()

    def cut(self, batches: Iterable[Columns]) -> Iterator[tuple[Columns, bool]]:
        """The batches; an epoch ends at the first Tick at or after each multiple, but not at the very first Tick."""
        for columns in batches:
            first = 0
            for row, tick in self._marks(columns):
                self._places.append((int(columns.offset[row]), tick))
                yield columns.slice(first, row + 1), True
                first = row + 1
            if first < len(columns):
                yield columns.slice(first, len(columns)), False

    def _marks(self, columns: Columns) -> list[tuple[int, int]]:
        """Row and time of the Ticks that are the first ones at or after a multiple."""
        rows = np.flatnonzero(columns.kind == Kind.TICK)
        if not len(rows):
            return []
        # A late or doubled Tick is none: the newest time so far is what counts.
        newest = np.maximum.accumulate(columns.body[columns.start[rows]])
        before = int(newest[0]) if self._tick is None else self._tick
        newest = np.maximum(newest, before)
        self._tick = int(newest[-1])
        is_next = np.diff(newest // self._every_ns, prepend=before // self._every_ns) > 0
        return list(zip(rows[is_next].tolist(), newest[is_next].tolist(), strict=True))

    def save(self, blobs: Mapping[str, bytes]) -> None:
        """The states at the next of the places."""
        self.blobs.update(blobs)
        self._laid.size_bytes += self._checkpoints.write(self._partition, *self._places.popleft(), self.blobs)
        self._laid.laid += 1
