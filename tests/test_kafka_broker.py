"""The real Kafka that the other tests rely on: it is what it claims to be, and both our clients work with it."""

from __future__ import annotations

import asyncio
import uuid

import kafka_broker
import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

pytestmark = pytest.mark.kafka
RECORDS = 1000


def _new_topic(bootstrap: str, partitions: int) -> str:
    topic = f"test.{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": bootstrap})  # must outlive the request
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(10)
    return topic


def _produce(bootstrap: str, topic: str, partitions: int, records: int) -> None:
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    for index in range(records):
        producer.produce(
            topic,
            b"%d" % index,
            partition=index % partitions,
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
    assert producer.flush(20) == 0
    assert not failures


async def _read(bootstrap: str, topic: str, group: str, records: int, *, commit: int) -> list[int]:
    """Values of at most `records` records read by a group member that then commits the first `commit` of each."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    values: list[int] = []
    while len(values) < records:
        for batch in (await consumer.getmany(timeout_ms=500)).values():
            values += [int(record.value) for record in batch]
    await consumer.commit(dict.fromkeys(consumer.assignment(), commit))
    await consumer.stop()
    return sorted(values)


def test_group_commits_and_resumes_after_what_it_committed(kafka: str) -> None:
    topic = _new_topic(kafka, partitions=2)
    _produce(kafka, topic, 2, RECORDS)
    everything = asyncio.run(asyncio.wait_for(_read(kafka, topic, topic, RECORDS, commit=300), 60))
    rest = asyncio.run(asyncio.wait_for(_read(kafka, topic, topic, RECORDS - 600, commit=500), 60))
    assert everything == list(range(RECORDS))
    assert rest == list(range(600, RECORDS))


def test_unknown_topic_is_not_made_on_the_fly(kafka: str) -> None:
    topic = f"test.{uuid.uuid4().hex}"
    AdminClient({"bootstrap.servers": kafka}).list_topics(topic, timeout=10)
    assert topic not in AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=10).topics


def test_broker_of_its_own_survives_a_crash_with_its_records_and_stops_with_the_block(kafka: str) -> None:
    with kafka_broker.KafkaBroker() as broker:
        topic = _new_topic(broker.bootstrap, partitions=1)
        _produce(broker.bootstrap, topic, 1, 10)
        broker.kill()
        broker.start()
        values = asyncio.run(asyncio.wait_for(_read(broker.bootstrap, topic, topic, 10, commit=10), 60))
        assert values == list(range(10))
        assert broker.bootstrap != kafka
    with pytest.raises(KafkaException):
        AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0}).list_topics(timeout=0.5)


def test_missing_java_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(kafka_broker.KafkaMissing, match="install Java 17 or newer"):
        kafka_broker.java()
