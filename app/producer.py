"""The producer: whole batches of messages to one partition, each awaited until the broker has every one.

Input: (key, value) messages for an explicit partition.
Output: the offset of the last one.
Errors: DeliveryFailed when the broker refuses a message or has not acknowledged it within the delivery timeout.
Units: offsets are Kafka offsets.
Source: confluent-kafka `Producer.produce_batch` and delivery reports.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, Message

from schemas import limits
from schemas.errors import DependencyDown

POLL_S: Final = 0.1
DELIVERY_S: Final = 120.0
QUEUE_MESSAGES: Final = 500_000
QUEUE_KBYTES: Final = 262_144

logger = logging.getLogger(__name__)


class DeliveryFailed(DependencyDown):
    """A message is not on the broker, and nothing that depends on it may be acknowledged."""


class _Batch:
    """Counts the delivery reports of one batch and then completes its future on the loop."""

    __slots__ = ("_error", "_last", "_left", "future", "loop", "topic")

    def __init__(self, topic: str, count: int) -> None:
        self.topic = topic
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[int] = self.loop.create_future()
        self._left, self._last = count, -1
        self._error: KafkaError | None = None

    def report(self, error: KafkaError | None, message: Message) -> None:
        """One delivery report; called from the polling thread."""
        if error is not None:
            self._error = error
        else:
            self._last = max(self._last, message.offset() or 0)
        self._left -= 1
        if not self._left and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if self.future.done():
            return
        if self._error is None:
            self.future.set_result(self._last)
        else:
            self.future.set_exception(refused(self.topic, self._error.str()))


def refused(topic: str, was: str) -> DeliveryFailed:
    """The error for a message that did not arrive."""
    return DeliveryFailed(
        f"a message to {topic} was not delivered", expected="an acknowledgement of every in-sync replica", was=was,
        action="look at the broker; nothing was acknowledged, so a restarted worker continues where this one stopped",
    )  # fmt: skip


class Producer:
    """An idempotent producer with its own polling thread; use it as a context manager."""

    def __init__(self, brokers: str, client_id: str, settings: dict[str, Any] | None = None) -> None:
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": brokers,
                "client.id": client_id,
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 1,
                "delivery.timeout.ms": int(DELIVERY_S * 1000),
                "message.max.bytes": 2 * limits.MESSAGE_BYTES_MAX,
                "queue.buffering.max.messages": QUEUE_MESSAGES,
                "queue.buffering.max.kbytes": QUEUE_KBYTES,
                **(settings or {}),
            },
            logger=logging.getLogger("librdkafka"),
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name=f"{client_id}-delivery", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._producer.purge()
        self._producer.flush(POLL_S)

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(POLL_S)

    def enqueue(
        self, topic: str, partition: int, messages: Sequence[tuple[bytes | None, bytes]]
    ) -> asyncio.Future[int]:
        """Hand messages over, at least one. The future completes with the last one's offset when all are delivered.

        Blocks while the queue (500,000 messages or 256 MiB) is full, at most for the delivery timeout.
        """
        batch = _Batch(topic, len(messages))
        deadline = time.monotonic() + DELIVERY_S
        for key, value in messages:
            while True:
                try:
                    self._producer.produce(topic, value, key, partition, on_delivery=batch.report)
                    break
                except BufferError:
                    if time.monotonic() > deadline:
                        raise refused(topic, "the queue stayed full") from None
                    self._producer.poll(POLL_S)
                except KafkaException as error:
                    raise refused(topic, str(error.args[0])) from error
        return batch.future

    async def send(self, topic: str, partition: int, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        """Returns when the broker has every message; none is fine."""
        if messages:
            await self.enqueue(topic, partition, messages)
