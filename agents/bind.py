"""The agents on Faust: a Faust agent per role feeds the lanes, and each lane runs the pure agent.

Input: Faust events whose value is a `RawBatch`, unacknowledged (app/transport.py).
Output: what the pure agents take: decoded batches with an acknowledgement; states in the Faust table.
Errors: whatever an agent raises goes to the lanes' `fail`; the Faust agent itself is never restarted.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import faust
from faust.types import AppT, EventT, Message, TableT
from mode import CrashingSupervisor

from agents.lanes import Ack, Lanes
from agents.ports import RawBatch
from schemas import limits
from schemas.codec import DeadLetter, DeadLetterCodec, TapeCodec
from schemas.columns import Columns
from schemas.errors import CheckFailed, RecordRefused
from schemas.topics import DEAD_LETTERS, TAPE
from schemas.vector_codec import VectorCodec
from schemas.vectors import Vectors
from tables import store
from tables.arena import applied_offset

logger = logging.getLogger(__name__)

STATE_TABLE: Final = "state"
STREAM_BATCHES: Final = 4
"""Batches that wait between the consumer and the lanes, over all partitions."""

RECOVERED: Final = 16
"""Fetches of the changelog that are written down together: 4 MiB each at most, over all partitions."""

Bury = Callable[[int, Sequence[DeadLetter]], Awaitable[None]]


class BatchSchema(faust.Schema[Any, RawBatch]):
    """Hands a `RawBatch` on as it is: there is nothing for Faust to decode."""

    def compile(self, app: AppT, **_: Any) -> Any:
        """Faust's decode function for one topic."""

        async def decode(message: Message, *, propagate: bool = False) -> EventT[Any]:
            return app.create_event(None, message.value, message.headers, message)

        return decode


def bind(app: faust.App, name: str, topics: Sequence[str], lanes: Lanes, purpose: str = "") -> None:
    """Register a Faust agent that feeds every batch of `topics` to `lanes`. They acknowledge it."""
    source = app.topic(*topics, schema=BatchSchema(), maxsize=STREAM_BATCHES)

    async def feed(stream: Any) -> None:
        async for event in stream.noack().events():
            raw, ack = event.value, event.ack
            event.value = event.message.value = None  # they last until the acknowledgement, which needs neither
            await lanes.put(raw, event.message.generation_id or 0, ack)

    feed.__doc__ = purpose  # what `faust agents` shows
    app.agent(source, name=name, supervisor_strategy=CrashingSupervisor)(feed)


def state_table(app: faust.App, partitions: int) -> TableT[bytes, bytes]:
    """The features agent's table: one value per instrument, in the partition of its tape records.

    The app's store must be `tables.store.URL`: Faust takes a URL without a path in a table's own argument for none.
    """
    return app.Table(
        STATE_TABLE, help="what is remembered of each instrument", partitions=partitions, key_type=bytes,
        value_type=bytes, schema=BatchSchema(), options=dict(store.OPTIONS), recovery_buffer_size=RECOVERED,
        standby_buffer_size=1,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TapeBatch:
    """`agents.ports.Batch` out of Kafka."""

    columns: Columns
    is_first: bool
    ends_epoch: bool
    ack: Callable[[], None]
    """Not a method: it waits for the epoch's end, and the columns shall not."""

    @property
    def partition(self) -> int:
        """Partition of every row."""
        return self.columns.partition


class TapeReader:
    """Decodes the tape; what the gate refuses is given to `bury` before the batch is handed on."""

    def __init__(self, codec: TapeCodec, bury: Bury) -> None:
        codec.load()
        self._codec, self._bury = codec, bury

    async def __call__(self, raw: RawBatch, is_first: bool, ends_epoch: bool, ack: Ack) -> TapeBatch:
        """The batch as columns."""
        columns, refused = self._codec.decode_batch(TAPE, raw.partition, raw.offsets, raw.keys, raw.values)
        if refused:
            await self._bury(raw.partition, refused)
        return TapeBatch(columns, is_first, ends_epoch, cast(Callable[[], None], ack))


class LaneStates:
    """`agents.ports.States` in the Faust table, each state with the offset it has applied last."""

    def __init__(
        self, changelog: store.Changelog, end_offset: Callable[[int], int | None], fence: Callable[[], None]
    ) -> None:
        """`end_offset` is the end of a tape partition if known; `fence` raises if the partition may be lost."""
        self._changelog, self._end_offset, self._fence = changelog, end_offset, fence

    def load(self, partition: int) -> dict[str, bytes]:
        """Every state of the partition. Errors: StateRefused."""
        return self._changelog.load(partition, self._end_offset(partition))

    async def room(self) -> None:
        """Returns once the broker is not too far behind with the states it was given."""
        await self._changelog.room()

    def save(self, partition: int, blobs: Mapping[str, bytes]) -> None:
        """Store states; the broker gets them before the next commit. Errors: DependencyDown."""
        self._fence()
        self._changelog.save(partition, {key: (applied_offset(blob), blob) for key, blob in blobs.items()})

    async def settle(self) -> None:
        """Returns when the broker has every state saved before the call. Errors: DeliveryFailed."""
        await self._changelog.settle()


@dataclass(frozen=True, slots=True)
class ServedBatch:
    """`agents.ports.VectorBatch` out of Kafka."""

    vectors: Vectors
    values: list[bytes]
    ends_epoch: bool
    acknowledge: Ack

    def ack(self) -> None:
        """See `agents.ports.VectorBatch`."""
        self.acknowledge()


class VectorReader:
    """Decodes a features topic. A foreign message is left out with a log line."""

    def __init__(self, codec: VectorCodec) -> None:
        self._codec = codec

    async def __call__(self, raw: RawBatch, is_first: bool, ends_epoch: bool, ack: Ack) -> ServedBatch:
        """The batch as vectors and as the bytes they came in."""
        values = [value for value in raw.values if value is not None]
        vectors, refused = self._codec.decode_known(values)
        if refused:
            logger.error(
                "%s partition %d: left out %d messages that are no vectors", raw.topic, raw.partition, len(refused)
            )
            values = [value for i, value in enumerate(values) if i not in refused]
        return ServedBatch(vectors, values, ends_epoch, ack)


@dataclass(frozen=True, slots=True)
class ArchivedBatch:
    """`agents.ports.ArchiveBatch` out of Kafka."""

    topic: str
    partition: int
    offsets: Sequence[int]
    rows: Columns | Vectors | Sequence[DeadLetter]
    ends_epoch: bool
    acknowledge: Ack

    def ack(self) -> None:
        """See `agents.ports.ArchiveBatch`."""
        self.acknowledge()


@dataclass(frozen=True, slots=True)
class ArchiveReader:
    """Decodes any archived topic; `prefix` is cut off topic names."""

    tape: TapeCodec
    letters: DeadLetterCodec
    vectors: Mapping[str, VectorCodec]
    prefix: str = field(default="")

    def __post_init__(self) -> None:
        self.tape.load()

    async def __call__(self, raw: RawBatch, is_first: bool, ends_epoch: bool, ack: Ack) -> ArchivedBatch:
        """The batch. Errors: CheckFailed for a message on a features topic that is no vector.

        An archive has a row for every offset, and there is no vector that would stand for nothing: it would count in a
        parity check. Among dead letters there is: a foreign message is archived as one that names its own topic.
        """
        topic = raw.topic.removeprefix(self.prefix)
        try:
            rows = self._decode(topic, raw)
        except RecordRefused as error:
            logger.error("%s partition %d cannot be archived: %s", raw.topic, raw.partition, error.reason)
            raise CheckFailed(
                f"{raw.topic} partition {raw.partition} holds a message that cannot be archived",
                expected="messages written by onetape", was=error.reason,
                action="find who writes to this topic; to go on, archive into a new folder under another group prefix",
            ) from error  # fmt: skip
        return ArchivedBatch(topic, raw.partition, raw.offsets, rows, ends_epoch, ack)

    def _decode(self, topic: str, raw: RawBatch) -> Columns | Vectors | list[DeadLetter]:
        if topic == TAPE:
            return self.tape.decode_batch(TAPE, raw.partition, raw.offsets, raw.keys, raw.values)[0]
        if topic == DEAD_LETTERS:
            return [self._letter(raw, i) for i in range(len(raw.offsets))]
        return self.vectors[topic].decode([value or b"" for value in raw.values])

    def _letter(self, raw: RawBatch, i: int) -> DeadLetter:
        """A dead letter as it was written; around a foreign message a new one."""
        value = raw.values[i] or b""
        try:
            return self.letters.decode(value)
        except RecordRefused as error:
            logger.error("%s partition %d offset %d is no dead letter", raw.topic, raw.partition, raw.offsets[i])
            key, original = (raw.keys[i] or b"")[: limits.KEY_BYTES_MAX], value[: limits.ORIGINAL_BYTES_MAX]
            return DeadLetter(DEAD_LETTERS, raw.partition, raw.offsets[i], key, error.reason, original)
