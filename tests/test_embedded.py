"""The embedded broker and Redis: what app/embedded.py promises of them, measured through both our clients."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import Consumer, Producer, TopicPartition

from app.embedded import EmbeddedBroker, EmbeddedRedis
from schemas.errors import DependencyDown

ROOT = Path(__file__).resolve().parent.parent
RECORDS = 1000
# Its first member joins at once; every later one waits for the session timeout less one second.
SESSION_MS = 1500


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    topics = {"two": 2, "aio": 2, "large": 1, "squeezed": 1}
    with EmbeddedBroker(topics) as broker:
        yield broker.bootstrap


def _produce(bootstrap: str, topic: str, values: list[bytes], partitions: int, **settings: object) -> None:
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": bootstrap, **settings})
    for index, value in enumerate(values):
        producer.produce(
            topic,
            value,
            b"V:S",
            partition=index % partitions,
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
        producer.poll(0)
    assert producer.flush(20) == 0
    assert not failures


async def _resume(bootstrap: str, topic: str, group: str, wanted: int, commit: int | None) -> tuple[list[int], float]:
    """What one group member reads, and the seconds from its start to its assignment."""
    started = time.monotonic()
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=SESSION_MS // 5,
    )
    await consumer.start()
    joined = time.monotonic() - started
    values: list[int] = []
    while len(values) < wanted:
        for records in (await consumer.getmany(timeout_ms=200)).values():
            values += [int(record.value) for record in records]
    if commit is not None:
        await consumer.commit(dict.fromkeys(consumer.assignment(), commit))
    await consumer.stop()
    return sorted(values), joined


def test_topics_have_the_asked_partitions_and_more_can_be_made(bootstrap: str) -> None:
    with EmbeddedBroker({"a": 3}) as broker:
        broker.create_topics({"b": 7})
        topics = Producer({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=5).topics
        assert {name: len(topic.partitions) for name, topic in topics.items()} == {"a": 3, "b": 7}
        with pytest.raises(DependencyDown, match="already exists"):
            broker.create_topics({"a": 3})
        assert broker.bootstrap != bootstrap


def test_idempotent_producer_to_group_commits_and_resumes_within_a_second(bootstrap: str) -> None:
    _produce(bootstrap, "two", [b"%d" % index for index in range(RECORDS)], 2, **{"enable.idempotence": True})
    everything, joined_first = asyncio.run(asyncio.wait_for(_resume(bootstrap, "two", "g", RECORDS, commit=300), 30))
    rest, joined_again = asyncio.run(asyncio.wait_for(_resume(bootstrap, "two", "g", RECORDS - 600, commit=None), 30))
    assert everything == list(range(RECORDS))
    assert rest == list(range(600, RECORDS))
    assert joined_first < 1.0
    assert joined_again < 2.0


def test_aiokafka_producer_to_confluent_group(bootstrap: str) -> None:
    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
            for index in range(100):
                await producer.send("aio", b"%d" % index, partition=index % 2)

    asyncio.run(asyncio.wait_for(send(), 30))
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "c", "auto.offset.reset": "earliest"})
    consumer.subscribe(["aio"])
    values: list[int] = []
    deadline = time.monotonic() + 20
    while len(values) < 100 and time.monotonic() < deadline:
        values += [int(message.value()) for message in consumer.consume(100, 0.2)]
    consumer.close()
    assert sorted(values) == list(range(100))


def _kept(bootstrap: str, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "watermarks"})
    first, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=5)
    consumer.close()
    return int(end - first)


def test_partition_keeps_about_five_mebibytes_as_sent(bootstrap: str) -> None:
    values = [b"x" * 1000] * 20_000
    _produce(bootstrap, "large", values, 1, **{"batch.num.messages": 100})
    _produce(bootstrap, "squeezed", values, 1, **{"batch.num.messages": 100, "compression.type": "zstd"})
    assert 4_700 < _kept(bootstrap, "large") < 5_300
    assert _kept(bootstrap, "squeezed") == 20_000


def test_redis_answers_and_goes_with_its_block() -> None:
    with EmbeddedRedis() as server:
        client = redis.Redis.from_url(server.url)
        assert client.set("a", "1")
        assert client.get("a") == b"1"
        client.close()
    with pytest.raises(redis.ConnectionError), redis.Redis.from_url(server.url) as client:
        client.ping()


def test_services_die_with_a_killed_parent() -> None:
    program = (
        "import signal\n"
        "from app.embedded import EmbeddedBroker, EmbeddedRedis\n"
        "with EmbeddedBroker({'a': 1}) as broker, EmbeddedRedis() as server:\n"
        "    print(broker.bootstrap, server.url.split('/')[2], server.folder, flush=True)\n"
        "    signal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    *addresses, folder = parent.stdout.readline().split()
    ports = [int(address.rpartition(":")[2]) for address in addresses]
    assert len(ports) == 2
    assert all(_listens(port) for port in ports)
    assert Path(folder).is_dir()
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 5
    while (Path(folder).exists() or any(_listens(port) for port in ports)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_listens(port) for port in ports)
    assert not Path(folder).exists()


def test_dead_broker_is_reported_in_one_line() -> None:
    with EmbeddedBroker({}) as broker:
        broker._process.kill()
        broker._process.wait()
        with pytest.raises(DependencyDown, match="Action:"):
            broker.create_topics({"a": 1})


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
