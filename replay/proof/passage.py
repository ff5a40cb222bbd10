"""A passage: the agent over batches that are pushed one after another, with whatever is to be done between two.

Input: batches of one partition in offset order, pushed by the caller.
State: the agent, which waits for the next batch on an event loop of its own; the states it has loaded and saved.
Output: the vectors of the first of its feature sets.
Errors: whatever the agent raises, at the push that made it so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType

from agents.ports import Batch
from replay.ports import Agent, MemoryStates, TapeBatch
from schemas.columns import Columns, from_events
from schemas.feature_sets import FeatureSet
from schemas.vectors import Vectors

_NO_ROWS = from_events(0, 0, [])


class Passage:
    """One run of an agent over one partition; a context, which ends it."""

    def __init__(self, agent: Agent, feature_sets: Sequence[FeatureSet], blobs: Mapping[str, bytes]) -> None:
        """Begins with the states `blobs`, made with the same feature sets in the same order."""
        self.states = MemoryStates(dict(blobs))
        self._agent, self._sets = agent, list(feature_sets)
        self._parts: list[Vectors] = []
        self._runner = asyncio.Runner()
        self._line: asyncio.Queue[TapeBatch | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._is_first = True

    def __enter__(self) -> Passage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._runner.close()

    def push(self, columns: Columns, *, saves: bool = False) -> None:
        """Returns once the agent asks for the next batch; `saves` leaves every state of now in `states`."""
        batch = TapeBatch(columns.partition, columns, self._is_first, saves)
        self._is_first = False
        self._runner.run(self._hand_over(batch))
        # The agent holds every batch until an epoch ends, which may be never.
        batch.columns = _NO_ROWS

    def end(self) -> None:
        """No batch follows."""
        self._runner.run(self._hand_over(None))

    def take(self) -> Vectors:
        """What was emitted since the last call, in that order."""
        taken = Vectors.concat(self._parts) if self._parts else Vectors.empty(self._sets[0])
        self._parts = []
        return taken

    async def _hand_over(self, batch: TapeBatch | None) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._agent(self._batches(), self.states, self._emit, self._sets))
        self._line.put_nowait(batch)
        idle = asyncio.create_task(self._line.join())
        await asyncio.wait([idle, self._task], return_when=asyncio.FIRST_COMPLETED)
        if batch is None:
            await self._task
        if self._task.done():
            idle.cancel()
            self._task.result()

    async def _batches(self) -> AsyncIterator[Batch]:
        while (batch := await self._line.get()) is not None:
            yield batch
            self._line.task_done()
        self._line.task_done()

    async def _emit(self, vectors: Vectors) -> None:
        if vectors.feature_set is self._sets[0]:
            self._parts.append(vectors)


def run(
    batches: Iterable[Columns], feature_sets: Sequence[FeatureSet], blobs: Mapping[str, bytes], agent: Agent
) -> tuple[Vectors, dict[str, bytes]]:
    """The vectors of the first feature set over some batches, and every state after the last."""
    with Passage(agent, feature_sets, blobs) as passage:
        last: Columns | None = None
        for last in batches:
            passage.push(last)
        if last is not None:
            passage.push(last.slice(len(last), len(last)), saves=True)
        passage.end()
        return passage.take(), passage.states.blobs
