"""The topic table: every topic of the product, its retention and its bounds, and the rule that places a key.

TOPICS are those every worker has; with them goes one topic of vectors per feature set.

Source: the murmur2 partitioner of Apache Kafka's Java client, as aiokafka ships it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from aiokafka.partitioner import murmur2

from schemas import limits

TAPE = "market.events.v1"
DEAD_LETTERS = "dead.letters.v1"
READY = "features.ready.v1"
CLOCK_LEADER = "clock.leader.v1"
"""No record is ever on it: the worker that has its one partition leads the clock."""
CLOCK_KEY = "*"
"""Key of Tick and Activate: they go to every partition, not to the one their key hashes to."""
REFUSED_KEY = "?"
"""Key of REFUSED rows: the original may be no text at all."""

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic: partitions 0 means as many as the tape has."""

    name: str
    retention_ms: int
    partitions: int = 0
    cleanup: str = "delete"
    message_bytes_max: int = limits.MESSAGE_BYTES_MAX


def features_topic(name: str, version: int) -> str:
    """Name of the topic of one feature set's vectors."""
    return f"features.{name}.v{version}"


def vectors_topic(name: str) -> Topic:
    """The topic of that name: each feature set has one of its own."""
    return Topic(name, retention_ms=7 * _DAY_MS)


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic(TAPE, retention_ms=7 * _DAY_MS),
        Topic(READY, retention_ms=_DAY_MS),
        Topic(DEAD_LETTERS, retention_ms=30 * _DAY_MS),
        Topic(CLOCK_LEADER, retention_ms=_DAY_MS, partitions=1),
    )
}


@lru_cache(maxsize=65_536)
def partition_of(key: str, partitions: int) -> int:
    """Partition of a key, the same as Java's and aiokafka's default partitioner."""
    return int((murmur2(key.encode()) & 0x7FFFFFFF) % partitions)
