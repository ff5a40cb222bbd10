"""A generated market on a broker's tape: as fast as possible into a prepared topic, or live, at its own pace.

Input: how many symbols, events a second, seconds. Symbols go to the partition that their name hashes to.
Output: messages on the tape, the same for the same input; the count of each partition.
Errors: DependencyDown where the broker does not take them.
Units: ns UTC; seconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, Producer

from app.bench.stream import Stream, names
from app.bench.wire import Message, TapeWire, poisoned
from app.config import Settings
from app.connection import broker_down, librdkafka
from app.topics import wire_topic
from schemas.columns import Columns
from schemas.registry import open_registry
from schemas.topics import TAPE, partition_of
from schemas.units import NS_PER_S

TICKS_PER_S: Final = 10
CHUNK_ROWS: Final = 100_000
FULL_S: Final = 0.05
FLUSH_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """So many symbols, together so many events a second, for so many seconds."""

    symbols: int
    rate: float
    seconds: float

    @property
    def events(self) -> int:
        """Events without Ticks, about."""
        return int(self.rate * self.seconds)


class Market:
    """One stream per partition that has a symbol."""

    def __init__(self, load: Load, partitions: int) -> None:
        self.load, self.partitions = load, partitions
        self.symbols: list[list[str]] = [[] for _ in range(partitions)]
        for name in names(load.symbols):
            self.symbols[partition_of(name, partitions)].append(name)
        rate = load.rate / load.symbols
        self.streams = [
            Stream(own, seed=1 + partition, rate=rate, partition=partition)
            for partition, own in enumerate(self.symbols)
            if own
        ]

    def begin(self) -> list[Columns]:
        """Of each partition with symbols what stands before the first event: Instruments and Snapshots."""
        return [stream.begin() for stream in self.streams]

    def rows(self, stream: Stream) -> int:
        """Records of a stream within the load's seconds, Ticks included, about."""
        share = (len(stream.keys) - 1) / self.load.symbols
        return int(self.load.seconds * (self.load.rate * share + TICKS_PER_S))


class TapeProducer:
    """Hands messages to librdkafka; whether all arrived is known after `flush`."""

    def __init__(self, settings: Settings, chosen: Mapping[str, Any], topic: str = "") -> None:
        """`topic` is another one than the tape, as the broker names it."""
        self._brokers, self._topic = settings.brokers, topic or wire_topic(settings, TAPE)
        self._failed: KafkaError | None = None
        self._producer = Producer(
            {**librdkafka(settings), "enable.idempotence": True, "log_level": 0,
             "queue.buffering.max.messages": 1_000_000, "message.timeout.ms": 60_000,
             "on_delivery": self._delivered, "delivery.report.only.error": True, **chosen}
        )  # fmt: skip

    def _delivered(self, error: KafkaError | None, _: object) -> None:
        if error is not None:
            self._failed = error

    def put(self, partition: int, messages: Sequence[Message]) -> None:
        """Hand over; waits while the queue is full."""
        produce, topic = self._producer.produce, self._topic
        for key, value in messages:
            while True:
                try:
                    produce(topic, value, key, partition)
                    break
                except BufferError:
                    self._producer.poll(FULL_S)
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until all are on the broker. Errors: DependencyDown."""
        left = self._producer.flush(FLUSH_S)
        if self._failed is not None or left:
            raise broker_down(self._brokers, str(self._failed or f"{left} records unacknowledged"))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A tape that is complete: records of each partition, and how many of them are none."""

    settings: Settings
    records: list[int]
    poison: int = 0

    @property
    def total(self) -> int:
        """Records over all partitions."""
        return sum(self.records)


def prepare(settings: Settings, load: Load, poison_every: int = 0) -> Prepared:
    """Lay a market onto the tape as fast as the broker takes it; each n-th record is followed by a bad one."""
    market, wire = Market(load, settings.partitions), TapeWire(open_registry(settings.registry))
    producer = TapeProducer(settings, {"linger.ms": 20})
    records, bad = [0] * settings.partitions, 0

    def put(partition: int, messages: list[Message]) -> None:
        nonlocal bad
        if poison_every:
            messages, count = poisoned(messages, poison_every, seed=1 + records[partition])
            bad += count
        producer.put(partition, messages)
        records[partition] += len(messages)

    for columns in market.begin():
        put(columns.partition, wire.encode(columns))
    left = {stream.partition: market.rows(stream) for stream in market.streams}
    while any(left.values()):
        for stream in market.streams:  # in turns: the broker then has all partitions of a time in its page cache
            rows = min(left[stream.partition], CHUNK_ROWS)
            if rows:
                put(stream.partition, wire.encode(stream.take(rows)))
                left[stream.partition] -= rows
    producer.flush()
    return Prepared(settings, records, bad)


def next_second(after_s: float) -> int:
    """The first whole second that is at least so far ahead, ns UTC."""
    return (time.time_ns() + int(after_s * NS_PER_S)) // NS_PER_S * NS_PER_S + NS_PER_S
