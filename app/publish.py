"""Publishes records to a broker, in order and acknowledged, and plays an archived tape at the pace of its readers.

Input: events or archived columns, partition by partition.
State: what was produced and what the reading groups have committed.
Units: bytes, offsets, seconds.
Errors: DependencyDown when the broker does not answer or does not acknowledge.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from app.config import Settings
from app.connection import broker_down, broker_failure, fatal, librdkafka
from replay.reader import ArchiveReader
from schemas.codec import TapeCodec
from schemas.columns import Columns, to_events
from schemas.errors import AccessRefused, DependencyDown
from schemas.topics import TAPE

CHUNK_ROWS = 1_000
AHEAD_BYTES_MAX = 5_000_000
"""Before compression: what the embedded broker keeps per partition, however badly it compresses."""
MESSAGE_OVERHEAD_BYTES = 80
STALLED_AFTER_S = 180.0
NEW_TOPIC_S = 15.0
"""A topic that was just made has a leader, and answers, within so long."""
FATAL_S = 1.0
"""Why a producer has given up its records is told within so long of them."""

_PURGED = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
"""What becomes of the records of a producer that has ended itself."""


class _Last(logging.Handler):
    """Keeps the last line: confluent-kafka may lose the exception that says why a producer has ended."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.text = record.getMessage()


Answer = TypeVar("Answer")


class Publisher:
    """Produces to explicit partitions; `flush` returns when everything is acknowledged."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._prefix = settings, settings.topic_prefix
        self._failed: KafkaError | None = None
        # Of what ends a publisher its error tells: this logger has no parent that would tell it once more.
        self._said, silent = _Last(), logging.Logger("librdkafka.publisher")
        silent.addHandler(self._said)
        self._producer = Producer(
            {**librdkafka(settings), "enable.idempotence": True, "linger.ms": 20,
             "compression.type": "zstd",
             "partitioner": "murmur2", "queue.buffering.max.messages": 1_000_000, "message.timeout.ms": 30_000,
             "log_level": 0},
            logger=silent,
        )  # fmt: skip

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed = self._failed or error

    def _failure(self, error: Exception) -> Exception:
        """What the producer cannot go on after, as an error for people."""
        told = fatal(error)
        return error if told is None else broker_failure(self._settings, [told])

    def _lost(self, failed: KafkaError) -> Exception:
        """Why a record was given up: what ended the producer may be told after what became of its records."""
        try:
            self._producer.poll(FATAL_S)
        except (KafkaException, SystemError) as error:
            return self._failure(error)
        if failed.code() in _PURGED and "authorization failed" in self._said.text:
            failed = KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, self._said.text)
        return broker_failure(self._settings, [failed])

    def publish(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        """Hand over one record; waits while the buffer is full."""
        while self._failed is None:
            try:
                self._producer.produce(
                    self._prefix + topic, partition=partition, key=key, value=value, on_delivery=self._delivered
                )
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.1)
            except (KafkaException, SystemError) as error:
                raise self._failure(error) from error
        raise self._lost(self._failed)

    def flush(self) -> None:
        """Wait for every acknowledgement."""
        try:
            left = self._flush()
        except (KafkaException, SystemError) as error:
            raise self._failure(error) from error
        if self._failed is not None:
            raise self._lost(self._failed)
        if left:
            raise broker_down(self._settings.brokers, f"{left} records unacknowledged after 60 s")

    def _flush(self) -> int:
        """The records left. The client's first word of a fatal error may be a SystemError without one: asked again."""
        try:
            return self._producer.flush(60)
        except SystemError as error:
            if fatal(error) is not None:
                raise
            return self._producer.flush(60)


class Progress(AbstractContextManager["Progress"]):
    """How far consumer groups have come: the smallest committed offset of each partition."""

    def __init__(self, settings: Settings, topic: str, groups: Sequence[str]) -> None:
        self._settings = settings
        self._places = [(topic, partition) for partition in range(settings.partitions)]
        self._consumers = [
            Consumer({**librdkafka(settings), "group.id": group, "enable.auto.commit": False, "log_level": 0})
            for group in groups
        ]

    def committed(self) -> list[int]:
        """[partitions] offset below which every group is done."""
        lowest = [1 << 62] * len(self._places)
        for consumer in self._consumers:
            wanted = [TopicPartition(*place) for place in self._places]
            for place in self._ask(partial(consumer.committed, wanted, timeout=NEW_TOPIC_S)):
                lowest[place.partition] = min(lowest[place.partition], max(place.offset, 0))
        return lowest

    def ends(self) -> list[int]:
        """[partitions] offset behind the last record."""
        first = self._consumers[0]
        wanted = [TopicPartition(*place) for place in self._places]
        return [self._ask(partial(first.get_watermark_offsets, at, timeout=NEW_TOPIC_S))[1] for at in wanted]

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        """Ask again while a topic that was just made has no leader yet."""
        deadline = time.monotonic() + NEW_TOPIC_S
        while True:
            try:
                return question()
            except KafkaException as error:
                failure = broker_failure(self._settings, [error.args[0]])
                if time.monotonic() > deadline or isinstance(failure, AccessRefused):
                    raise failure from error
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        for consumer in self._consumers:
            consumer.close()

    def wait(self, until: Callable[[list[int]], bool], alive: Callable[[], None]) -> None:
        """Until the committed offsets satisfy; `alive` raises when nobody is reading any more."""
        seen: list[int] = []
        since = time.monotonic()
        while not until(now := self.committed()):
            alive()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > STALLED_AFTER_S:
                raise DependencyDown(
                    "the worker stands still", expected="committed offsets that move",
                    was=f"{seen} for {STALLED_AFTER_S:.0f} s", action="read the worker's log",
                )  # fmt: skip
            time.sleep(0.05)


def _in_time_order(reader: ArchiveReader) -> Iterator[Columns]:
    """Chunks of all partitions, the one that begins earliest first."""
    streams = [reader.batches(partition, CHUNK_ROWS, read_ahead=False) for partition in reader.partitions()]
    heap: list[tuple[int, int, Columns]] = []
    for i, stream in enumerate(streams):
        for columns in stream:
            heap.append((int(columns.ts_recv[0]), i, columns))
            break
    heapq.heapify(heap)
    while heap:
        _, i, columns = heapq.heappop(heap)
        yield columns
        following = next(streams[i], None)
        if following is not None:
            heapq.heappush(heap, (int(following.ts_recv[0]), i, following))


def play(
    archive: Path,
    publisher: Publisher,
    codec: TapeCodec,
    progress: Progress,
    alive: Callable[[], None],
    advance: Callable[[float], None],
) -> int:
    """Publish an archived tape record by record, never further ahead of `progress` than AHEAD_BYTES_MAX per partition.

    Returns how many records were published.
    """
    reader = ArchiveReader(archive)
    total = sum(segment.rows for p in reader.partitions() for segment in reader.segments(p))
    ahead: dict[int, deque[tuple[int, int]]] = {}
    next_offset = progress.ends()
    sent = 0
    for columns in _in_time_order(reader):
        partition, chunk_bytes = columns.partition, 0
        for event in to_events(columns):
            key, value = event.key.encode(), codec.encode(event)
            chunk_bytes += len(key) + len(value) + MESSAGE_OVERHEAD_BYTES
            publisher.publish(TAPE, partition, key, value)
        next_offset[partition] += len(columns)
        queue = ahead.setdefault(partition, deque())
        queue.append((next_offset[partition], chunk_bytes))

        def near(committed: list[int], queue: deque[tuple[int, int]] = queue, partition: int = partition) -> bool:
            while queue and queue[0][0] <= committed[partition]:
                queue.popleft()
            return sum(size for _, size in queue) <= AHEAD_BYTES_MAX

        if sum(size for _, size in queue) > AHEAD_BYTES_MAX:
            publisher.flush()
            progress.wait(near, alive)
        sent += len(columns)
        advance(sent / max(total, 1))
    publisher.flush()
    return sent
