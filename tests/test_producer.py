"""The producer: a full queue delays its callers and nothing else, and no message is lost, doubled or moved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition

from app.embedded import EmbeddedBroker
from app.producer import DeliveryFailed, Producer

TOPIC, COUNT = "out", 600


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


def test_a_full_queue_holds_up_neither_the_loop_nor_the_order(broker: str) -> None:
    """Room for ten messages; another task goes on while hundreds wait, and the rest arrives in order."""
    messages = [(b"key", str(number).encode()) for number in range(COUNT)]

    async def run() -> tuple[int, float]:
        with Producer(broker, "test", {"queue.buffering.max.messages": 10}) as producer:
            sending = asyncio.create_task(producer.send(TOPIC, 0, messages[: COUNT // 2]))
            await asyncio.sleep(0)
            begun = time.monotonic()
            last = producer.enqueue(TOPIC, 0, messages[COUNT // 2 :])
            blocked_s = time.monotonic() - begun
            assert not sending.done()
            await sending
            return await last, blocked_s

    last, blocked_s = asyncio.run(run())
    assert last == COUNT - 1
    assert blocked_s < 0.05
    assert values_of(broker, 0, COUNT) == [value for _, value in messages]


def test_a_message_that_is_refused_at_once_fails_its_batch_only(broker: str) -> None:
    async def run() -> int:
        with Producer(broker, "test", {"message.max.bytes": 2_000}) as producer:
            with pytest.raises(DeliveryFailed, match=r"was not delivered.*Action: "):
                await producer.send(TOPIC, 1, [(None, b"small"), (None, b"x" * 3_000)])
            return await producer.enqueue(TOPIC, 1, [(None, b"after")])

    assert asyncio.run(run()) == 1


def test_a_broker_that_is_not_there_is_named() -> None:
    async def run() -> None:
        settings = {"delivery.timeout.ms": 300, "queue.buffering.max.messages": 2, "log_level": 0}
        with Producer("127.0.0.1:1", "test", settings) as producer:
            await producer.send(TOPIC, 0, [(None, b"1"), (None, b"2"), (None, b"3")])

    with pytest.raises(DeliveryFailed, match="was not delivered"):
        asyncio.run(run())
