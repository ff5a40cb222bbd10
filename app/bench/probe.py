"""Independent looks at what the worker gives, while the load runs: Redis asked again and again, a consumer of its own.

Output: when each vector was first seen.
Units: ns UTC of this machine's clock.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import redis
from confluent_kafka import Consumer, TopicPartition

from app.config import Settings
from app.connection import librdkafka
from app.redis_frames import latest_key
from schemas.units import NS_PER_S

PAUSE_S: Final = 0.001
UNSEEN_S: Final = 0.9
"""A vector that is not there after so much of its second counts as this late."""
QUIET_NS: Final = 3 * NS_PER_S
_HEAD: Final = 5


def _long(value: bytes, at: int) -> tuple[int, int]:
    """An Avro long, and the place behind it."""
    shift = total = 0
    while True:
        byte = value[at]
        total |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (total >> 1) ^ -(total & 1), at


def time_of(value: bytes) -> int:
    """T of a vector, out of its first bytes: the instrument's name, then the time."""
    length, at = _long(value, _HEAD)
    return _long(value, at + length)[0]


class Look(NamedTuple):
    """A symbol's vector of `tick` was there at `at`."""

    symbol: str
    tick: int
    at: int


def readable(url: str, feature_set_id: str, symbols: Sequence[str], ticks: Sequence[int]) -> list[Look]:
    """When the vector of each symbol at each Tick could be read. Ticks are a second apart."""
    keys = {symbol: latest_key(feature_set_id, symbol) for symbol in symbols}
    found: list[Look] = []
    with redis.Redis.from_url(url) as client:
        for tick in ticks:
            time.sleep(max(tick - time.time_ns(), 0) / NS_PER_S)
            pending = list(symbols)
            while pending and time.time_ns() < tick + UNSEEN_S * NS_PER_S:
                values = client.mget([keys[symbol] for symbol in pending])
                now, left = time.time_ns(), []
                for symbol, value in zip(pending, values, strict=True):
                    if value and time_of(value) >= tick:
                        found.append(Look(symbol, tick, now))
                    else:
                        left.append(symbol)
                pending = left
                time.sleep(PAUSE_S)
            found.extend(Look(symbol, tick, tick + int(UNSEEN_S * NS_PER_S)) for symbol in pending)
    return found


def all_there(url: str, feature_set_id: str, symbols: Sequence[str]) -> bool:
    """Whether Redis has a vector of each symbol."""
    with redis.Redis.from_url(url) as client:
        return None not in client.mget([latest_key(feature_set_id, symbol) for symbol in symbols])


def consumer_from(settings: Settings, topic: str, first: Sequence[int]) -> Consumer:
    """A consumer of every partition of a topic, each from its offset in `first` on."""
    consumer = Consumer(
        {**librdkafka(settings), "group.id": "onetape-bench", "enable.auto.commit": False,
         "auto.offset.reset": "earliest", "fetch.wait.max.ms": 100, "log_level": 0}
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in enumerate(first)])
    return consumer


class Listener:
    """A consumer of the features topic that notes when each vector came."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._consumer = consumer_from(settings, topic, [0] * settings.partitions)

    def listen(self, until: int) -> tuple[list[int], list[bytes]]:
        """When each vector came until that time, and on as long as more come; and its value."""
        came: list[int] = []
        values: list[bytes] = []
        while time.time_ns() < max(until, came[-1] + QUIET_NS if came else 0):
            # One at a time is given out at once; more would be waited for.
            message = self._consumer.poll(0.05)
            while message is not None:
                came.append(time.time_ns())
                values.append(message.value() or b"")
                message = self._consumer.poll(0)
        self._consumer.close()
        return came, values
