"""The seam: what is committed, and how a lane ends an epoch. What Faust has to be like: tests/test_faust.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import faust
import pytest
from aiokafka.errors import KafkaConnectionError
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from faust.types import TP

from agents.bind import bind
from agents.lanes import Ack, Epoch, Lane, Lanes, TapeHole
from agents.ports import RawBatch
from app.config import load_settings
from app.embedded import EmbeddedBroker
from app.fetching import FETCH_WAIT_MS
from app.publish import Progress, Publisher
from app.transport import Consumer, Deliveries, Transport

TOPIC, GROUP, RECORDS = "tape", "seam", 40
Run = Callable[[Lane], Awaitable[None]]


@pytest.fixture
def broker() -> Iterator[str]:
    with EmbeddedBroker({TOPIC: 1}) as running:
        publish(running.bootstrap, RECORDS)
        yield running.bootstrap


def publish(broker: str, count: int, partition: int = 0) -> None:
    publisher = Publisher(load_settings(brokers=broker))
    for number in range(count):
        publisher.publish(TOPIC, partition, b"key", str(number).encode())
    publisher.flush()


@asynccontextmanager
async def running(
    broker: str, folder: Path, run: Run, before_commit: Callable[[Any], Awaitable[None]] | None = None
) -> AsyncIterator[tuple[faust.App, Lanes, list[BaseException]]]:
    """A Faust app with the seam and one agent, in this process; batches of ten, an epoch for each."""
    failures: list[BaseException] = []
    app = faust.App(
        GROUP, broker=f"kafka://{broker}", datadir=folder, autodiscover=False, web_enabled=False,
        topic_allow_declare=False, topic_disable_leader=True, table_standby_replicas=0, stream_wait_empty=False,
        consumer_auto_offset_reset="earliest", broker_session_timeout=1.5, broker_heartbeat_interval=0.3,
        broker_commit_interval=0.1,
    )  # fmt: skip
    lanes = Lanes(run, Epoch(0.0, 1, asyncio.get_running_loop().time), failures.append)

    async def nothing(_: Any) -> None:
        """No changelog."""

    async def close() -> None:
        await lanes.close(app.consumer_generation_id, 5)

    app.transport = Transport(
        app.conf.broker_consumer, app, sources=frozenset([TOPIC]), batch_size=10,
        before_commit=before_commit or nothing, before_revoke=close,
    )  # fmt: skip
    bind(app, "seam", [TOPIC], lanes)
    await app.start()
    try:
        yield app, lanes, failures
    finally:
        await close()
        await app.stop()


class Taken:
    """A batch as the test agents take it."""

    def __init__(self, raw: RawBatch, is_first: bool, ends_epoch: bool, ack: Ack) -> None:
        self.raw, self.is_first, self.ends_epoch, self.ack = raw, is_first, ends_epoch, ack


async def take(raw: RawBatch, is_first: bool, ends_epoch: bool, ack: Ack) -> Taken:
    return Taken(raw, is_first, ends_epoch, ack)


async def commit_round(app: faust.App) -> None:
    """Commit everything that may be committed now; the first call may only join a commit that began before."""
    for _ in range(2):
        await app.consumer.commit()


def deliveries_of(app: faust.App) -> Deliveries:
    assert isinstance(app.consumer, Consumer)
    return app.consumer._deliveries[TP(TOPIC, 0)]


def committed(broker: str) -> int:
    with Progress(load_settings(brokers=broker, partitions=1), TOPIC, [GROUP]) as progress:
        return progress.committed()[0]


async def until_committed(broker: str, ends: list[int], seconds: float = 15.0) -> None:
    """Until the group has committed exactly so far in every partition, and it never went beyond."""

    def wait() -> None:
        deadline = time.monotonic() + seconds
        with Progress(load_settings(brokers=broker, partitions=len(ends)), TOPIC, [GROUP]) as progress:
            while (now := progress.committed()) != ends:
                assert all(at <= end for at, end in zip(now, ends, strict=True)), now
                assert time.monotonic() < deadline, f"{now} of {ends}"
                time.sleep(0.02)

    await asyncio.to_thread(wait)


async def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)


def test_a_batch_that_is_not_acknowledged_holds_back_every_later_commit(broker: str, tmp_path: Path) -> None:
    """Stock Faust takes offsets between two messages for acknowledged, so it would commit past the open batch."""
    taken: list[Taken] = []

    async def run(lane: Lane) -> None:
        async for batch in lane.batches(take):
            taken.append(batch)
            if batch.raw.offsets[0] != 10:
                batch.ack()

    async def live() -> None:
        async with running(broker, tmp_path, run) as (app, _, _):
            await until(lambda: len(taken) == 4)
            await commit_round(app)
            assert await asyncio.to_thread(committed, broker) == 10
            taken[1].ack()
            await commit_round(app)
            assert await asyncio.to_thread(committed, broker) == RECORDS

    asyncio.run(live())
    assert [batch.raw.offsets for batch in taken] == [list(range(i, i + 10)) for i in (0, 10, 20, 30)]
    assert [batch.raw.values[0] for batch in taken] == [b"0", b"10", b"20", b"30"]
    assert [batch.is_first for batch in taken] == [True, False, False, False]


def test_a_restart_reads_on_behind_the_last_commit(broker: str, tmp_path: Path) -> None:
    seen: list[list[int]] = []

    async def run(lane: Lane) -> None:
        async for batch in lane.batches(take):
            seen.append(batch.raw.offsets)
            if len(seen) != 3:
                batch.ack()

    async def live(batches: int) -> None:
        async with running(broker, tmp_path, run) as (app, _, _):
            await until(lambda: len(seen) == batches)
            await commit_round(app)

    asyncio.run(live(4))
    asyncio.run(live(6))
    assert [offsets[0] for offsets in seen] == [0, 10, 20, 30, 20, 30]
    assert committed(broker) == RECORDS


def test_a_bug_in_an_agent_is_reported_and_nothing_after_it_is_handed_over(broker: str, tmp_path: Path) -> None:
    seen: list[int] = []

    async def run(lane: Lane) -> None:
        async for batch in lane.batches(take):
            seen.append(batch.raw.offsets[0])
            if seen[-1] == 10:
                raise ZeroDivisionError
            batch.ack()

    async def live() -> None:
        async with running(broker, tmp_path, run) as (app, _, failures):
            await until(lambda: failures and deliveries_of(app).next == RECORDS)
            await commit_round(app)
            assert [type(error) for error in failures] == [ZeroDivisionError]

    asyncio.run(live())
    assert seen == [0, 10]
    assert committed(broker) == 10


def test_a_commit_waits_for_what_has_to_be_delivered_before_it(broker: str, tmp_path: Path) -> None:
    delivered = asyncio.Event()
    asked: list[int] = []

    async def before_commit(offsets: Any) -> None:
        asked.extend(offsets.values())
        await delivered.wait()

    async def run(lane: Lane) -> None:
        async for batch in lane.batches(take):
            batch.ack()

    async def live() -> None:
        async with running(broker, tmp_path, run, before_commit) as (app, _, _):
            await until(lambda: asked and deliveries_of(app).committable() == RECORDS)
            assert await asyncio.to_thread(committed, broker) == 0
            assert app.consumer.uncommitted() == {TP(TOPIC, 0)}
            delivered.set()
            await until_committed(broker, [RECORDS])
            await until(lambda: not app.consumer.uncommitted())

    asyncio.run(live())


def test_what_was_fetched_and_dropped_is_fetched_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Around a rebalance Faust loses fetched messages: its positions are ahead of, or behind, what was handed over.

    All three partitions at once: what one of them has to fetch again must not cost another its records.
    """
    partitions = range(3)
    seen: dict[int, list[int]] = {partition: [] for partition in partitions}

    async def run(lane: Lane) -> None:
        async for batch in lane.batches(take):
            seen[lane.partition].extend(batch.raw.offsets)
            batch.ack()

    async def live(broker: str) -> None:
        async with running(broker, tmp_path, run) as (app, _, failures):
            end = RECORDS
            await until(lambda: all(len(offsets) == end for offsets in seen.values()))
            for step in range(6):
                positions = {TP(TOPIC, p): (end + 5, 7, end + 50)[(step + p) % 3] for p in partitions}
                await app.consumer.seek_wait(positions)
                await asyncio.gather(*(asyncio.to_thread(publish, broker, 20, p) for p in partitions))
                end += 20
                await until(lambda end=end: all(len(offsets) >= end for offsets in seen.values()) or failures)
            assert failures == []
            assert app.consumer.missed == 0
            await until_committed(broker, [end] * 3)

    with EmbeddedBroker({TOPIC: 3}) as several:
        for partition in partitions:
            publish(several.bootstrap, RECORDS, partition)
        asyncio.run(live(several.bootstrap))
    assert [offsets == list(range(RECORDS + 120)) for offsets in seen.values()] == [True] * 3
    assert not [record for record in caplog.records if record.name == "app.transport"]


@pytest.mark.kafka
@pytest.mark.fault("broker", "retention shorter than the lag")
def test_what_the_broker_has_deleted_is_said_and_passed(
    kafka: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(TOPIC, 1, 1)])[TOPIC].result()
    publish(kafka, RECORDS)
    seen: list[list[int]] = []

    async def run(lane: Lane) -> None:
        async for batch in lane.batches(take):
            seen.append(batch.raw.offsets)
            if len(seen) != 2:
                batch.ack()

    async def live(batches: int) -> None:
        async with running(kafka, tmp_path, run) as (app, _, _):
            await until(lambda: len(seen) == batches)
            await commit_round(app)

    asyncio.run(live(4))
    admin.delete_records([TopicPartition(TOPIC, 0, 25)])[TopicPartition(TOPIC, 0)].result()
    asyncio.run(live(6))
    admin.delete_topics([TOPIC])[TOPIC].result()
    assert [offsets[0] for offsets in seen] == [0, 10, 20, 30, 25, 35]
    assert [record.getMessage() for record in caplog.records if record.name == "app.transport"] == [
        "offsets 10 to 24 of tape partition 0 are not on the broker any more: "
        "its retention is shorter than this worker's lag (15 offsets missed since the start)"
    ]


def test_a_lane_refuses_a_hole() -> None:
    async def live() -> list[BaseException]:
        failures: list[BaseException] = []

        async def run(lane: Lane) -> None:
            async for _ in lane.batches(take):
                pass

        lanes = Lanes(run, Epoch(1.0, 10, asyncio.get_running_loop().time), failures.append)
        for offsets in ([0, 1], [2, 3], [3, 4], [6]):
            await lanes.put(RawBatch(TOPIC, 0, offsets, [], []), 1, lambda: None)
        await until(lambda: failures)
        await lanes.close(1, 1)
        return failures

    (failure,) = asyncio.run(live())
    assert isinstance(failure, TapeHole)
    assert "expected offset 5, was 6" in str(failure)


def test_closing_ends_the_epoch_of_what_was_read(broker: str, tmp_path: Path) -> None:
    """An epoch that would last an hour ends when the lanes close, with a batch without rows."""
    taken: list[Taken] = []

    async def run(lane: Lane) -> None:
        unsaved: list[Taken] = []
        async for batch in lane.batches(take):
            taken.append(batch)
            unsaved.append(batch)
            if batch.ends_epoch:
                for each in unsaved:
                    each.ack()

    async def live() -> None:
        async with running(broker, tmp_path, run) as (app, lanes, _):
            lanes._epoch = Epoch(3600.0, 10**9, asyncio.get_running_loop().time)
            await until(lambda: len(taken) == 4)
            assert await asyncio.to_thread(committed, broker) == 0
            assert await lanes.close(app.consumer_generation_id, 5)
            await app.consumer.commit()

    asyncio.run(live())
    assert [batch.ends_epoch for batch in taken] == [False] * 4 + [True]
    assert taken[-1].raw.offsets == []
    assert committed(broker) == RECORDS


def test_the_shorter_wait_reaches_aiokafka(broker: str, tmp_path: Path) -> None:
    async def run(lane: Lane) -> None:
        async for batch in lane.batches(take):
            batch.ack()

    async def live() -> None:
        async with running(broker, tmp_path, run) as (app, _, _):
            assert isinstance(app.consumer, Consumer)
            assert app.consumer._thread._consumer._fetcher._fetch_max_wait_ms == FETCH_WAIT_MS

    asyncio.run(live())


def test_a_consumer_that_never_started_is_closed(tmp_path: Path) -> None:
    """Its broker is away: there is no coordinator yet to leave."""

    async def nothing(*_: Any) -> None:
        """Nothing was read."""

    async def live() -> None:
        app = faust.App(GROUP, broker="kafka://127.0.0.1:9", datadir=tmp_path, autodiscover=False, web_enabled=False)
        app.transport = Transport(
            app.conf.broker_consumer, app, sources=frozenset([TOPIC]), batch_size=10, before_commit=nothing,
            before_revoke=nothing,
        )  # fmt: skip
        thread = app.consumer._thread
        with pytest.raises(KafkaConnectionError):
            await thread.on_start()
        await thread.on_thread_stop()
        assert thread._consumer._closed
        thread.thread_loop.close()

    asyncio.run(live())
