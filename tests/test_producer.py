"""The producer: no message is lost, doubled or moved, and whoever handed it over learns what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from app.config import load_settings
from app.embedded import EmbeddedBroker
from app.producer import BATCH_BYTES, DeliveryFailed, Producer

TOPIC, COUNT = "out", 600
TOPIC_OF_ONE = f"closing-{uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with EmbeddedBroker({TOPIC: 2}) as running:
        yield running.bootstrap


def values_of(broker: str, partition: int, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "reader", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(TOPIC, partition, 0)])
        return [message.value() for message in consumer.consume(count + 1, timeout=2)]
    finally:
        consumer.close()


def make_topic(kafka: str, topic: str, config: dict[str, str] | None = None) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(topic, 1, 1, config=config or {})])[topic].result()


@asynccontextmanager
async def producer_of(broker: str, delivery_s: float = 10.0) -> AsyncIterator[Producer]:
    producer = Producer(load_settings(brokers=broker), "test", delivery_s)
    try:
        yield producer
    finally:
        await producer.close()


def test_messages_of_many_batches_arrive_once_and_in_order(broker: str) -> None:
    """The second caller does not wait for the first; each learns the offset of its own last message."""
    messages = [(b"key", f"{number:05d}".encode() * 300) for number in range(COUNT)]

    async def run() -> list[int]:
        async with producer_of(broker) as producer:
            halves = [producer.enqueue(TOPIC, 0, part) for part in (messages[: COUNT // 2], messages[COUNT // 2 :])]
            return [await half for half in halves]

    assert asyncio.run(run()) == [COUNT // 2 - 1, COUNT - 1]
    assert values_of(broker, 0, COUNT) == [value for _, value in messages]


def test_a_message_larger_than_a_batch_goes_alone(broker: str) -> None:
    async def run() -> int:
        async with producer_of(broker) as producer:
            await producer.send(TOPIC, 1, [])
            return await producer.enqueue(
                TOPIC, 1, [(None, b"small"), (None, b"x" * 2 * BATCH_BYTES), (b"k", b"after")]
            )

    assert asyncio.run(run()) == 2
    assert [len(value or b"") for value in values_of(broker, 1, 3)] == [5, 2 * BATCH_BYTES, 5]


def test_what_the_broker_refuses_fails_its_caller_only(kafka: str) -> None:
    topic = f"refusing-{uuid4().hex[:8]}"
    make_topic(kafka, topic, {"max.message.bytes": "2000"})

    async def run() -> int:
        async with producer_of(kafka) as producer:
            with pytest.raises(DeliveryFailed, match=r"was not delivered.*Action: "):
                await producer.send(topic, 0, [(None, b"x" * 3_000)])
            return await producer.enqueue(topic, 0, [(None, b"after")])

    assert asyncio.run(run()) == 0


def test_an_error_of_any_kind_reaches_the_callers_and_the_partition_lives_on(broker: str) -> None:
    async def run() -> int:
        async with producer_of(broker) as producer:
            with pytest.raises(DeliveryFailed, match="partition"):
                await producer.send(TOPIC, 99, [(None, b"nowhere")])
            with pytest.raises(DeliveryFailed, match="partition"):
                await producer.send(TOPIC, 99, [(None, b"nowhere")])
            return await producer.enqueue(TOPIC, 1, [(None, b"somewhere")])

    assert asyncio.run(run()) >= 0


def test_what_the_broker_has_not_acknowledged_fails_with_the_producer(kafka: str) -> None:
    """Handed over, and on its way to a broker that does not answer."""

    async def run() -> None:
        producer = Producer(load_settings(brokers=kafka), "test")
        await producer.send(TOPIC_OF_ONE, 0, [(None, b"first")])
        sent = [producer.enqueue(TOPIC_OF_ONE, 0, [(None, b"x" * 100_000)]) for _ in range(50)]
        closing = asyncio.create_task(producer.close())
        done, late = await asyncio.wait(sent, timeout=10)
        await closing
        assert not late
        assert any(each.exception() is not None for each in done)

    make_topic(kafka, TOPIC_OF_ONE)
    asyncio.run(run())


def test_what_is_under_way_when_it_is_closed_fails(broker: str) -> None:
    async def run() -> None:
        producer = Producer(load_settings(brokers=broker), "test")
        waiting = producer.enqueue(TOPIC, 0, [(None, b"never")])
        await producer.close()
        await waiting

    with pytest.raises(DeliveryFailed, match="closed"):
        asyncio.run(run())


def test_a_broker_that_is_not_there_is_named() -> None:
    async def run() -> None:
        async with producer_of("127.0.0.1:1", delivery_s=0.3) as producer:
            await producer.send(TOPIC, 0, [(None, b"1"), (None, b"2"), (None, b"3")])

    with pytest.raises(DeliveryFailed, match="was not delivered"):
        asyncio.run(run())
