"""The producer: whole batches of messages to one partition, each awaited until the broker has every one.

Input: (key, value) messages for an explicit partition.
Output: the offset of the last one.
State: messages under way: librdkafka's queue, and what waits for room in it.
Errors: DeliveryFailed when the broker refuses a message or has not acknowledged it within the delivery timeout.
Units: offsets are Kafka offsets.
Source: confluent-kafka `Producer.produce_batch` and delivery reports.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

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

    def __init__(self, topic: str, count: int) -> None:
        self._topic = topic
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[int] = self._loop.create_future()
        self._lock = threading.Lock()
        self._left, self._last = count, -1
        self._error: KafkaError | None = None

    def report(self, error: KafkaError | None, message: Message | None) -> None:
        """One delivery report, or one message that was refused at once; from whichever thread."""
        with self._lock:
            if error is not None:
                self._error = error
            elif message is not None:
                self._last = max(self._last, message.offset() or 0)
            self._left -= 1
            is_complete = not self._left
        if is_complete and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if self.future.done():
            return
        if self._error is None:
            self.future.set_result(self._last)
        else:
            self.future.set_exception(refused(self._topic, self._error.str()))


class _Waiting(NamedTuple):
    """A message librdkafka has not taken yet."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    batch: _Batch


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
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()
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
        """The polling thread: the only one in which delivery reports arrive."""
        while not self._stopping.is_set():
            self._producer.poll(POLL_S)
            with self._lock:
                self._hand_over()

    def enqueue(
        self, topic: str, partition: int, messages: Sequence[tuple[bytes | None, bytes]]
    ) -> asyncio.Future[int]:
        """Hand messages over, at least one. The future completes with the last one's offset when all are delivered.

        Never blocks. What does not fit into librdkafka's queue (500,000 messages or 256 MiB) waits its turn outside:
        callers await the future before they come with more. If the broker stays away, what is in the queue fails after
        the delivery timeout, and with it the worker.
        """
        batch = _Batch(topic, len(messages))
        with self._lock:
            self._waiting.extend(_Waiting(topic, partition, key, value, batch) for key, value in messages)
            self._hand_over()
        return batch.future

    def _hand_over(self) -> None:
        """Give librdkafka what waits, in order, as far as its queue has room."""
        while self._waiting:
            topic, partition, key, value, batch = self._waiting[0]
            try:
                self._producer.produce(topic, value, key, partition, on_delivery=batch.report)
            except BufferError:
                return
            except KafkaException as error:
                batch.report(error.args[0], None)
            self._waiting.popleft()

    async def send(self, topic: str, partition: int, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        """Returns when the broker has every message; none is fine."""
        if messages:
            await self.enqueue(topic, partition, messages)
