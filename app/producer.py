"""The producer: messages to one partition as whole record batches, each awaited until the broker has all of it.

Input: (key, value) messages for an explicit partition.
Output: the offset of the last one; -1 where the broker does not tell.
State: batches under way; what waits behind them, in order within a partition. Callers await what they hand over, so
    that this is bounded by what they have at once.
Errors: DeliveryFailed when the broker refuses a batch, has not acknowledged it within the delivery timeout, or when the
    producer is closed before.
Units: offsets are Kafka offsets.
Source: aiokafka 0.14, `AIOKafkaProducer.create_batch` and `send_batch`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata

from app.config import Settings
from app.connection import aiokafka_options
from schemas.errors import DependencyDown

BATCH_BYTES: Final = 256 << 10
"""A record batch is sent while the next is filled; each is a request of its own."""
REQUEST_S: Final = 40.0
"""A request without an answer for so long is sent again."""
DELIVERY_S: Final = 120.0
RETRY_S: Final = 0.5
CLOSE_S: Final = 2.0

Message = tuple[bytes | None, bytes]
Place = tuple[str, int]

logger = logging.getLogger(__name__)


class DeliveryFailed(DependencyDown):
    """A message is not on the broker, and nothing that depends on it may be acknowledged."""


class _Waiting(NamedTuple):
    """What one caller has handed over, and what tells him that it arrived."""

    messages: Sequence[Message]
    delivered: asyncio.Future[int]


def refused(topic: str, was: str) -> DeliveryFailed:
    """The error for a message that did not arrive."""
    return DeliveryFailed(
        f"a message to {topic} was not delivered", expected="an acknowledgement of every in-sync replica", was=was,
        action="look at the broker; nothing was acknowledged, so a restarted worker continues where this one stopped",
    )  # fmt: skip


class Producer:
    """An idempotent producer; it connects with the first message."""

    def __init__(self, settings: Settings, client_id: str, delivery_s: float = DELIVERY_S) -> None:
        """Errors: UsageError for secrets and certificates that cannot be used."""
        self._options, self._client_id, self._delivery_s = aiokafka_options(settings), client_id, delivery_s
        self._starting: asyncio.Task[AIOKafkaProducer] | None = None
        self._waiting: dict[Place, deque[_Waiting]] = {}
        self._sending: dict[Place, asyncio.Task[None]] = {}
        self._undelivered: dict[asyncio.Future[int], str] = {}

    def enqueue(self, topic: str, partition: int, messages: Sequence[Message]) -> asyncio.Future[int]:
        """Hand messages over, at least one. The future completes with the last one's offset when all are delivered."""
        place, loop = (topic, partition), asyncio.get_running_loop()
        waiting = _Waiting(messages, loop.create_future())
        late = loop.call_later(self._delivery_s, _fail, topic, waiting.delivered, KafkaTimeoutError())
        self._undelivered[waiting.delivered] = topic
        waiting.delivered.add_done_callback(lambda _: late.cancel())
        waiting.delivered.add_done_callback(self._undelivered.pop)
        self._waiting.setdefault(place, deque()).append(waiting)
        if place not in self._sending:
            self._sending[place] = loop.create_task(self._drain(place), name=f"{self._client_id}-{topic}-{partition}")
        return waiting.delivered

    async def send(self, topic: str, partition: int, messages: Sequence[Message]) -> None:
        """Returns when the broker has every message; none is fine."""
        if messages:
            await self.enqueue(topic, partition, messages)

    async def close(self) -> None:
        """Close the connections. What is not delivered by then fails."""
        for task in self._sending.values():
            task.cancel()
        if self._starting is not None:
            if not self._starting.done():
                self._starting.cancel()
            with suppress(asyncio.CancelledError, KafkaError, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await (await self._starting).stop()
        for delivered, topic in list(self._undelivered.items()):
            _fail(topic, delivered, KafkaError("the producer was closed"))

    async def _drain(self, place: Place) -> None:
        """Send what waits for one partition, in order, until nothing does."""
        queue = self._waiting[place]
        try:
            producer = await self._started()
            while queue:
                await self._send(producer, place, queue[0])
                queue.popleft()
        except Exception as error:
            for waiting in queue:
                _fail(place[0], waiting.delivered, error)
        finally:
            del self._sending[place], self._waiting[place]

    async def _send(self, producer: AIOKafkaProducer, place: Place, waiting: _Waiting) -> None:
        """Hand over as many record batches as it takes, and see to it that the caller is told what becomes of them."""
        parts, last = [], 0
        try:
            for batch in _batches(producer, waiting.messages):
                last = batch.record_count() - 1
                parts.append(await self._hand_over(producer, place, batch, waiting.delivered))
        except KafkaError as error:
            _fail(place[0], waiting.delivered, error)
        whole = asyncio.gather(*parts)
        whole.add_done_callback(partial(_settle, place[0], waiting.delivered, last))

    async def _hand_over(
        self, producer: AIOKafkaProducer, place: Place, batch: BatchBuilder, delivered: asyncio.Future[int]
    ) -> asyncio.Future[RecordMetadata]:
        """Its future, once the batch before it is on its way. Errors: KafkaError once that has taken too long."""
        while True:
            try:
                future: asyncio.Future[RecordMetadata] = await producer.send_batch(batch, place[0], partition=place[1])
                return future
            except KafkaTimeoutError:
                if delivered.done():
                    raise

    async def _started(self) -> AIOKafkaProducer:
        """The connected producer; a broker that does not answer is asked again."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> AIOKafkaProducer:
        while True:
            producer = AIOKafkaProducer(
                **self._options, client_id=self._client_id, enable_idempotence=True,
                max_batch_size=BATCH_BYTES, request_timeout_ms=int(REQUEST_S * 1000),
            )  # fmt: skip
            try:
                await producer.start()
                return producer
            except KafkaConnectionError as error:
                logger.warning("the Kafka broker does not answer, trying on: %s", error)
                await producer.stop()
                await asyncio.sleep(RETRY_S)


def _batches(producer: AIOKafkaProducer, messages: Sequence[Message]) -> Iterator[BatchBuilder]:
    """Record batches of about BATCH_BYTES, closed."""
    batch = producer.create_batch()
    for key, value in messages:
        if batch.append(timestamp=None, key=key, value=value) is None:
            yield batch
            batch = producer.create_batch()
            batch.append(timestamp=None, key=key, value=value)
    batch.close()
    yield batch


def _settle(topic: str, delivered: asyncio.Future[int], last: int, done: asyncio.Future[list[RecordMetadata]]) -> None:
    """Tell the caller what became of his batches; `last` is the place of his last message in the last of them."""
    error = asyncio.CancelledError() if done.cancelled() else done.exception()
    if error is not None:
        _fail(topic, delivered, error)
    elif not delivered.done():
        first = done.result()[-1].offset  # not known of a batch that the broker had already
        delivered.set_result(first + last if first >= 0 else -1)


def _fail(topic: str, delivered: asyncio.Future[int], error: BaseException) -> None:
    if not delivered.done():
        delivered.set_exception(refused(topic, str(error) or repr(error)))
