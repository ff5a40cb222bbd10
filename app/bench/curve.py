"""How far a side had come, when: read from its own vectors on their topic, which the broker has stamped.

Input: a features topic whose records carry the time at which they were appended (`stamped_topic`).
Output: `Curve`; the vectors themselves, to compare sides.
Units: seconds of the broker's clock, to the millisecond; offsets of the tape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.cimpl import NewTopic
from numpy.typing import NDArray

from app.config import Settings
from app.connection import Admin, broker_down, broker_failure, librdkafka
from app.publish import NEW_TOPIC_S
from app.topics import wire_topic
from schemas.errors import CheckFailed
from schemas.feature_sets import FeatureSet
from schemas.registry import open_registry
from schemas.vector_codec import VectorCodec
from schemas.vectors import Vectors

Floats = NDArray[np.float64]
TAKE: Final = 10_000
SKIPPED: Final = 0.2
"""Share of what a side did that is not counted: it begins with its buffers empty."""


def stamped_topic(settings: Settings, feature_set: FeatureSet) -> None:
    """Make the features topic before a worker does, with append times. Errors: DependencyDown."""
    admin = Admin(settings)
    name = wire_topic(settings, feature_set.topic)
    config = {"message.timestamp.type": "LogAppendTime"}
    future = admin.create_topics([NewTopic(name, settings.partitions, settings.replication, config=config)])[name]
    try:
        future.result(NEW_TOPIC_S)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise admin.failure(error) from error


def ends(settings: Settings, topic: str) -> list[int]:
    """Offset behind the last record of each partition. Errors: DependencyDown."""
    consumer = _consumer(settings)
    try:
        places = [TopicPartition(topic, partition) for partition in range(settings.partitions)]
        return [int(consumer.get_watermark_offsets(place, timeout=NEW_TOPIC_S)[1]) for place in places]
    except KafkaException as error:
        raise broker_failure(settings, [error.args[0]]) from error
    finally:
        consumer.close()


def read(settings: Settings, topic: str) -> tuple[Floats, list[bytes]]:
    """Append time and value of every record of a topic."""
    left = ends(settings, topic)
    consumer = _consumer(settings)
    consumer.assign([TopicPartition(topic, partition, 0) for partition, end in enumerate(left) if end])
    stamps: list[float] = []
    values: list[bytes] = []
    while len(values) < sum(left):
        messages = consumer.consume(TAKE, NEW_TOPIC_S)
        if not messages:
            raise broker_down(settings.brokers, f"{len(values)} of {sum(left)} records of {topic}")
        for message in messages:
            if message.error() is None:
                stamps.append(message.timestamp()[1] / 1000)
                values.append(message.value() or b"")
    consumer.close()
    return np.array(stamps), values


def _consumer(settings: Settings) -> Consumer:
    return Consumer(
        {**librdkafka(settings), "group.id": "onetape-bench", "enable.auto.commit": False,
         "auto.offset.reset": "earliest", "log_level": 0}
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Curve:
    """`done[i]`: records of the tape, over all partitions, whose vectors were on the topic at `at[i]`, rising."""

    at: Floats
    done: Floats
    vectors: Vectors

    @staticmethod
    def of(settings: Settings, feature_set: FeatureSet) -> Curve:
        """Of the vectors that are on their topic now. Errors: CheckFailed where there are none."""
        stamps, values = read(settings, wire_topic(settings, feature_set.topic))
        vectors = VectorCodec(open_registry(settings.registry), feature_set).decode(values)
        order = np.argsort(stamps, kind="stable")
        reached = np.zeros(settings.partitions)
        done = np.empty(len(order))
        places = zip(vectors.partition[order].tolist(), vectors.as_of_offset[order].tolist(), strict=True)
        total = 0.0
        for i, (partition, offset) in enumerate(places):
            if offset + 1 > reached[partition]:
                total += offset + 1 - reached[partition]
                reached[partition] = offset + 1
            done[i] = total
        if not len(order):
            raise CheckFailed(
                "a side made no vector", expected="vectors of some seconds of tape", was="none",
                action="bench it with a longer --duration, or leave it out with --skip",
            )  # fmt: skip
        return Curve(stamps[order], done, vectors)

    def span(self, since: float = 0.0) -> tuple[float, float]:
        """The times between which it is measured: behind the first fifth, not before `since`."""
        first = int(np.searchsorted(self.done, self.done[0] + SKIPPED * (self.done[-1] - self.done[0])))
        first = min(max(first, int(np.searchsorted(self.at, since))), len(self.at) - 1)
        return float(self.at[first]), float(self.at[-1])

    def events_per_s(self, since: float = 0.0) -> float:
        """Records a second between those times. Errors: CheckFailed where they are the same."""
        first, last = self.span(since)
        before = self.done[np.searchsorted(self.at, first, side="right") - 1]
        if last <= first or before == self.done[-1]:
            raise CheckFailed(
                "a side was through too soon to tell its speed", expected="vectors of some seconds of tape",
                was=f"{len(self.at)} vectors", action="bench it with a longer --duration, or leave it out with --skip",
            )  # fmt: skip
        return float((self.done[-1] - before) / (last - first))
