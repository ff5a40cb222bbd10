"""Shares: the work of a build, cut by partition and symbols, so that each can be done anywhere and gone on with.

Input: a `Task`, which says all of it: it can be sent to another process or machine that sees the same folders.
State: the chunks of `replay.datasets.chunks` in the share's folder.
Output: the chunks of a share, whole.
Units: offsets are Kafka offsets; times in ns UTC.
Errors: those of the archive; DependencyDown where the disk refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agents.features import features_agent
from replay.checkpoints import Checkpoints
from replay.datasets import chunks
from replay.datasets.chunks import Chunk, Cutter
from replay.driver import before
from replay.ports import Agent, MemoryStates, feed
from replay.publication import disk_errors
from replay.reader import ArchiveReader
from schemas.columns import Columns
from schemas.events import Kind
from schemas.feature_sets import FeatureSet
from schemas.topics import CLOCK_KEY, REFUSED_KEY
from schemas.units import BASE_TICK_NS, NS_PER_MS
from schemas.vectors import HEAD, Vectors

DONE = "done"
"""Stands in a share's folder once its last chunk does."""
Passed = Callable[[int], None]
"""Called with how many offsets more are behind."""


@dataclass(frozen=True, slots=True)
class Share:
    """Some symbols of a partition, and the windows of the leak check in it: first offset, and offset of the cut."""

    partition: int
    symbols: tuple[str, ...]
    windows: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A share with all that is needed to do it.

    `prices` is the set of what labels are read off, `numbers_max` bounds the chunks. Vectors are made of Ticks with
    `first_ns <= T < end_ns`, from the states of a checkpoint before `first_ns` where there is one; the partition's
    records are those of `first_offset` to `last_offset`.
    """

    archive: Path
    folder: Path
    share: Share
    feature_set: FeatureSet
    prices: FeatureSet
    first_offset: int
    last_offset: int
    first_ns: int | None = None
    end_ns: int | None = None
    numbers_max: int = chunks.CHUNK_NUMBERS
    agent: Agent = features_agent


def shared(
    archive: ArchiveReader, ends: Mapping[int, int], symbols: Sequence[str] | None, parts: int,
    windows: Mapping[int, Sequence[tuple[int, int]]],
) -> list[Share]:  # fmt: skip
    """At least `parts` shares where there are as many symbols; the windows of a partition are of each of its shares."""
    found: list[Share] = []
    groups = -(-parts // max(1, len(ends)))
    for partition, last_offset in ends.items():
        keys = {
            key for segment in archive.segments(partition) if segment.first_offset <= last_offset
            for key in segment.keys
        }  # fmt: skip
        mine = sorted(keys - {CLOCK_KEY, REFUSED_KEY} if symbols is None else keys & set(symbols))
        count = min(groups, len(mine))
        for i in range(count):
            share = Share(partition, tuple(mine[i::count]), tuple(windows.get(partition, ())))
            found.append(share)
    return found


def run(task: Task, passed: Passed | None = None) -> None:
    """Make every chunk of a share that is not there yet."""
    with disk_errors(task.folder):
        task.folder.mkdir(parents=True, exist_ok=True)
        done = chunks.read_all(task.folder)
    if (task.folder / DONE).exists():
        if passed is not None:
            passed(task.last_offset + 1 - task.first_offset)
        return
    offset, blobs = start(task, done)
    if passed is not None:
        passed(max(offset + 1 - task.first_offset, 0))
    _Writer(task, done, blobs, passed).run(offset)
    with disk_errors(task.folder):
        (task.folder / DONE).touch()


def behind(task: Task) -> int:
    """Offsets of a share that chunks hold already."""
    if (task.folder / DONE).exists():
        return task.last_offset + 1 - task.first_offset
    done = chunks.read_all(task.folder) if task.folder.is_dir() else []
    return done[-1].last_offset + 1 - task.first_offset if done else 0


def start(task: Task, done: Sequence[Chunk]) -> tuple[int, dict[str, bytes]]:
    """The offset behind which to read, and the states there."""
    if done:
        return done[-1].last_offset, chunks.read_states(task.folder, done[-1].number)
    if task.first_ns is not None:
        laid = Checkpoints(ArchiveReader(task.archive), task.feature_set)
        found = laid.newest(task.share.partition, before_ns=task.first_ns, last_offset=task.last_offset)
        if found is not None:
            return found.offset, {key: blob for key, blob in found.blobs.items() if key in task.share.symbols}
    return -1, {}


@dataclass(slots=True)
class _Writer:
    """Runs the agent over what is left of a share, and lays a chunk at the end of each of its epochs."""

    task: Task
    done: list[Chunk]
    blobs: dict[str, bytes]
    passed: Passed | None
    _made: dict[str, list[Vectors]] = field(init=False, default_factory=dict)
    _tick: int = field(init=False, default=0)
    _states: MemoryStates = field(init=False)

    def run(self, offset: int) -> None:
        """From behind an offset to the end."""
        task = self.task
        self._states = MemoryStates(self.blobs)
        self._tick = self.done[-1].last_tick if self.done else 0
        self._forget()
        rows = ArchiveReader(task.archive).batches(
            task.share.partition, symbols=task.share.symbols, first_offset=offset + 1, last_offset=task.last_offset
        )
        sets = [task.feature_set, task.prices]
        with closing(rows) as batches:
            pieces = self._cutter().pieces(before(batches, task.end_ns))
            asyncio.run(task.agent(feed(self._stretches(pieces, offset)), self._states, self._emit, sets))

    def _cutter(self) -> Cutter:
        cadence_ticks = self.task.prices.cadence_ms * NS_PER_MS // BASE_TICK_NS
        per_price = self.task.feature_set.cadence_ms // self.task.prices.cadence_ms
        width = 2 * len(HEAD) + len(self.task.prices.features) + len(self.task.feature_set.features) // per_price
        windows = [first for first, _ in self.task.share.windows]
        symbols = len(self.task.share.symbols)
        return Cutter(symbols, cadence_ticks, width, windows, numbers_max=self.task.numbers_max)

    async def _emit(self, vectors: Vectors) -> None:
        self._made[vectors.feature_set.id].append(vectors)

    def _stretches(self, pieces: Iterator[tuple[Columns, bool, bool]], offset: int) -> Iterator[tuple[Columns, bool]]:
        """The pieces; behind the end of a chunk an empty one that ends the epoch, so that every state is saved."""
        first, last = None, None
        for columns, ends, is_window in pieces:
            yield columns, False
            first, last = int(columns.offset[0]) if first is None else first, columns
            if self.passed is not None:
                self.passed(int(columns.offset[-1]) - offset)
            offset = int(columns.offset[-1])
            ticks = np.flatnonzero(columns.kind == Kind.TICK)
            self._tick = int(columns.body[columns.start[ticks[-1]]]) if len(ticks) else self._tick
            if ends:
                yield columns.slice(len(columns), len(columns)), True
                self._lay(first, columns, is_window)
                first = None
        if first is not None and last is not None:
            yield last.slice(len(last), len(last)), True
            self._lay(first, last, False)

    def _lay(self, first: int, last: Columns, is_window: bool) -> None:
        """The agent has come to the end of the chunk: everything it made is here."""
        vectors, prices = (self._taken(each) for each in (self.task.feature_set, self.task.prices))
        earlier = self.done[-1] if self.done else None
        chunk = Chunk(len(self.done), first, int(last.offset[-1]), self._tick, len(vectors), is_window)
        with disk_errors(self.task.folder):
            chunks.write(self.task.folder, chunk, vectors, prices, self._states.blobs, earlier)
        self.done.append(chunk)
        self._forget()

    def _taken(self, feature_set: FeatureSet) -> Vectors:
        parts = self._made[feature_set.id]
        vectors = Vectors.concat(parts) if parts else Vectors.empty(feature_set)
        if self.task.first_ns is not None:
            vectors = vectors.select(vectors.time >= self.task.first_ns)
        is_in_order = len(vectors.keys) == 1 and bool((np.diff(vectors.time) > 0).all())
        return vectors if is_in_order else vectors.sorted()

    def _forget(self) -> None:
        self._made = {each.id: [] for each in (self.task.feature_set, self.task.prices)}
