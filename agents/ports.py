"""What the agents see of the world: where batches come from, what the states are, what emit does.

Live these are Kafka, RocksDB and a producer (agents/bind.py); in a replay they are an archive, a dict and a list. The
agents cannot tell the difference, which is why both give the same bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from schemas.codec import DeadLetter
from schemas.columns import Columns
from schemas.vectors import Vectors


class RawBatch(NamedTuple):
    """Records of one partition as the broker gave them, in offset order, at least one."""

    topic: str
    partition: int
    offsets: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]


class Batch(Protocol):
    """Records of one partition. A batch may have no rows: then it only ends the epoch, or lets its saves go on."""

    @property
    def partition(self) -> int:
        """Partition of every row."""

    @property
    def columns(self) -> Columns:
        """The rows, in offset order."""

    @property
    def is_first(self) -> bool:
        """Whether this is the first batch since the partition was assigned: the saved states have to be loaded."""

    @property
    def ends_epoch(self) -> bool:
        """Whether the states have to be saved from this batch on, and then the batches up to it acknowledged."""

    def ack(self) -> None:
        """Everything this batch caused is saved: its offsets may be committed."""


class VectorBatch(Protocol):
    """Messages of a features topic, one partition, in offset order. It may have no rows, as `Batch`."""

    @property
    def vectors(self) -> Vectors:
        """The messages decoded, row i of message i."""

    @property
    def values(self) -> Sequence[bytes]:
        """The messages as they are on the topic."""

    @property
    def ends_epoch(self) -> bool:
        """Whether everything has to be acknowledged after this batch."""

    def ack(self) -> None:
        """The newest vectors are served and told of: the offsets may be committed."""


class ArchiveBatch(Protocol):
    """Messages of any archived topic, one partition, in offset order. It may have no rows, as `Batch`."""

    @property
    def topic(self) -> str:
        """Topic without a prefix."""

    @property
    def partition(self) -> int:
        """Partition of every row."""

    @property
    def offsets(self) -> Sequence[int]:
        """Offset of each row."""

    @property
    def rows(self) -> Columns | Vectors | Sequence[DeadLetter]:
        """The rows: of the tape, of a features topic, of the dead letters."""

    @property
    def ends_epoch(self) -> bool:
        """Whether everything appended has to be on disk, and acknowledged, after this batch."""

    def ack(self) -> None:
        """The rows are on disk: their offsets may be committed."""


class States(Protocol):
    """The saved state of every symbol, one blob each."""

    def load(self, partition: int) -> dict[str, bytes]:
        """Every state of a partition."""

    def save(self, partition: int, blobs: Mapping[str, bytes]) -> None:
        """Put states; returns when a restart of this process would find them."""


class Emit(Protocol):
    """Publishes vectors."""

    async def __call__(self, vectors: Vectors) -> None:
        """Returns when the broker has acknowledged every vector."""


class LatestSink(Protocol):
    """Serves the newest vector of each instrument."""

    async def put(self, vectors: Vectors, values: Sequence[bytes]) -> None:
        """Replace what is older; what is newer or equal stays. At most one vector per instrument, row i is value i."""


Telling = asyncio.Future[int]
"""Done once the broker has every notification."""


class Announce(Protocol):
    """Tells that vectors can be read."""

    def __call__(self, vectors: Vectors) -> Telling:
        """Vectors of one partition in offset order. Notifications are sent in the order of the calls."""


class ArchiveSink(Protocol):
    """Keeps rows for good. Rows at offsets it already has are skipped."""

    async def append(self, batch: ArchiveBatch) -> None:
        """Take rows; they need not be on disk yet."""

    async def flush(self, topic: str, partition: int) -> None:
        """Returns when every appended row of the partition is on disk."""
