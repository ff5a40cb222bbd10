"""What the agents see of the world in a replay: batches of an archive, states in memory, a list that takes vectors.

State: what was saved and what was emitted, in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agents.ports import Batch, Emit, States
from schemas.columns import Columns, from_events
from schemas.feature_sets import FeatureSet
from schemas.vectors import Vectors

Owns = Callable[[str], bool]
"""Whether a symbol is one's own."""


class Agent(Protocol):
    """The features agent, or what a test puts in its place; `owns` is given only where threads share a partition."""

    def __call__(
        self, batches: AsyncIterable[Batch], states: States, emit: Emit, feature_sets: Sequence[FeatureSet], /, *,
        owns: Owns | None = None,
    ) -> Coroutine[Any, Any, None]: ...  # fmt: skip


@dataclass(slots=True)
class TapeBatch:
    """A batch of the archive. There is nothing to acknowledge."""

    partition: int
    columns: Columns
    is_first: bool
    ends_epoch: bool

    def ack(self) -> None:
        """The archive keeps its records."""


@dataclass(slots=True)
class MemoryStates:
    """States in memory, of one partition."""

    blobs: dict[str, bytes] = field(default_factory=dict)

    def load(self, partition: int) -> dict[str, bytes]:
        """What was saved."""
        return dict(self.blobs)

    def save(self, partition: int, blobs: Mapping[str, bytes]) -> None:
        """Keep them."""
        self.blobs.update(blobs)


@dataclass(slots=True)
class Collector:
    """Collects what the agent emits, or drops it where nobody asks for it."""

    parts: list[Vectors] = field(default_factory=list)
    keeps: bool = True

    async def __call__(self, vectors: Vectors) -> None:
        """Take them."""
        if self.keeps:
            self.parts.append(vectors)

    def vectors(self, feature_set: FeatureSet) -> Vectors:
        """All of them, in the order they were emitted."""
        return Vectors.concat(self.parts) if self.parts else Vectors.empty(feature_set)


_NO_ROWS = from_events(0, 0, [])


async def feed(stretches: Iterable[tuple[Columns, bool]]) -> AsyncIterator[Batch]:
    """Batches of one partition, each of which may end an epoch."""
    is_first = True
    for columns, ends_epoch in stretches:
        batch = TapeBatch(columns.partition, columns, is_first, ends_epoch)
        yield batch
        # The agent holds every batch until an epoch ends, which may be never.
        batch.columns = _NO_ROWS
        is_first = False
        # Nothing above waits for anything, and an interrupt reaches a coroutine only where it waits.
        await asyncio.sleep(0)
