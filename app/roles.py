"""The worker's roles: a Faust app each, with its lanes, its pure agent, and what that agent writes to.

Input: settings.
Output: `Role`s ready to be started, each in a consumer group of its own, so that none holds back another.
State: features: one RocksDB per partition below `data_dir`.
Errors: see each part; `fail` gets what ends the worker.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import faust
from faust.exceptions import ProducerSendError
from faust.types import TP

from agents.archive import archive_agent
from agents.bind import ArchiveReader, LaneStates, TapeReader, VectorReader, bind, state_table
from agents.engine import Engine
from agents.features import features_agent
from agents.lanes import Epoch, Lane, Lanes
from agents.latest import latest_agent
from app.archive_files import ArchiveFiles
from app.config import Settings
from app.producer import DeliveryFailed, Producer
from app.redis_latest import RedisLatest
from app.topics import changelog_of, groups, tape_origin, wire_topic
from app.transport import FETCH_RECORDS, Consumer, Transport
from replay.archive import live
from schemas.codec import DeadLetter, DeadLetterCodec, TapeCodec
from schemas.columns import from_events
from schemas.errors import CheckFailed
from schemas.feature_sets import FeatureSet, load_all
from schemas.registry import open_registry
from schemas.topics import DEAD_LETTERS, TAPE
from schemas.vectors import VectorCodec, Vectors
from tables import store

CLOSE_S: Final = 4.0
NEVER_S: Final = 1e9
FETCH_BYTES: Final = 4 << 20

Fail = Callable[[BaseException], None]
Commit = Callable[[Mapping[TP, int]], Awaitable[None]]


class PartitionsLost(CheckFailed):
    """The process stood still for longer than the broker waits: its partitions may have another owner."""


@dataclass(frozen=True, slots=True)
class Role:
    """A Faust app and the lanes its agent feeds."""

    app: faust.App
    lanes: Lanes

    async def close(self) -> bool:
        """Save and acknowledge what was read; nothing more is read then. False if a lane was cut off."""
        return await self.lanes.close(self.app.consumer_generation_id, CLOSE_S)

    async def commit(self) -> bool:
        """Commit what is acknowledged. False if the broker does not have it."""
        consumer = self.app.consumer
        assert isinstance(consumer, Consumer)
        if consumer.assignment():
            for _ in range(2):  # the first may only wait for one that began earlier
                await consumer.commit()
        return not consumer.uncommitted()


class Pulse:
    """Knows when the event loop last ran. `fence` raises after a standstill of a session timeout."""

    def __init__(self, session_timeout_s: float) -> None:
        self._session_timeout_s = session_timeout_s
        self._last = time.monotonic()

    def start(self) -> None:
        """From now on the loop is expected to run."""
        self._last = time.monotonic()

    def beat(self) -> None:
        """The loop runs. Errors: PartitionsLost."""
        self.fence()
        self._last = time.monotonic()

    def fence(self) -> None:
        """Errors: PartitionsLost."""
        stood = time.monotonic() - self._last
        if stood > self._session_timeout_s:
            raise PartitionsLost(
                "the worker stood still and may have lost its partitions",
                expected=f"less than the session timeout of {self._session_timeout_s:g} s", was=f"{stood:.1f} s",
                action="start it again: it continues from what is committed",
            )  # fmt: skip


async def _nothing_to_settle(offsets: Mapping[TP, int]) -> None:
    """Agents that write no changelog have saved everything when they acknowledge."""


def _app(settings: Settings, role: str, group: str) -> faust.App:
    """A group's states lie in a folder of their own: those of other feature sets are others."""
    folder = settings.data_dir / role / group
    folder.mkdir(parents=True, exist_ok=True)
    return faust.App(
        group,
        broker=[f"kafka://{broker.strip()}" for broker in settings.brokers.split(",")],
        datadir=folder,
        store=store.URL,
        autodiscover=False,
        web_enabled=False,
        topic_allow_declare=False,  # app.topics makes them
        topic_disable_leader=True,
        topic_partitions=settings.partitions,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=FETCH_BYTES,
        broker_max_poll_records=FETCH_RECORDS,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / 4,
        broker_commit_interval=settings.epoch_s,
        stream_wait_empty=False,  # closing the lanes waits for what has to be waited for
        stream_processing_timeout=NEVER_S,  # its alarms mistake a silent market for a fault
        broker_commit_livelock_soft_timeout=NEVER_S,
    )


def _role(
    app: faust.App, settings: Settings, name: str, topics: Sequence[str], lanes: Lanes, before_commit: Commit
) -> Role:
    """Put the batch transport in and register the agent."""
    role = Role(app, lanes)
    app.transport = Transport(
        app.conf.broker_consumer, app, sources=frozenset(topics), batch_size=settings.batch_size,
        before_commit=before_commit, before_revoke=role.close,
    )  # fmt: skip
    bind(app, name, topics, lanes)
    return role


def features_role(settings: Settings, stack: AsyncExitStack, fence: Callable[[], None], fail: Fail) -> Role:
    """Tape -> vectors of every feature set in one pass, dead letters, states."""
    sets, registry = load_all(settings.feature_sets), open_registry(settings.registry)
    letters, group = DeadLetterCodec(registry), groups(settings)["features"]
    producer = stack.enter_context(Producer(settings.brokers, group))
    app, changelog_topic = _app(settings, "features", group), changelog_of(group)
    table = state_table(app, settings.partitions)
    tape, buried = wire_topic(settings, TAPE), wire_topic(settings, DEAD_LETTERS)
    outputs = {each.id: (wire_topic(settings, each.topic), VectorCodec(registry, each)) for each in sets}
    made: list[store.Changelog] = []

    def states_of(lane: Lane) -> LaneStates:
        return LaneStates(changelog(), lane, lambda partition: app.consumer.highwater(TP(tape, partition)), fence)

    def changelog() -> store.Changelog:
        if not made:
            assert isinstance(table.data, store.Store)
            made.append(store.Changelog(table.data, changelog_topic, producer.enqueue))
        return made[0]

    async def bury(partition: int, refused: Sequence[DeadLetter]) -> None:
        await producer.send(buried, partition, [(letter.key, letters.encode(letter)) for letter in refused])

    async def settle(offsets: Mapping[TP, int]) -> None:
        try:
            await changelog().settle()
        except DeliveryFailed as error:
            fail(error)
            raise ProducerSendError(str(error)) from error

    reader = TapeReader(TapeCodec(registry), bury)

    async def run(lane: Lane) -> None:
        async def emit(vectors: Vectors) -> None:
            output, codec = outputs[vectors.feature_set.id]
            await producer.send(output, lane.partition, codec.encode(vectors))

        await features_agent(lane.batches(reader), states_of(lane), emit, sets)

    _compile_kernels(sets)
    epoch = Epoch(settings.epoch_s, FETCH_RECORDS * 100, time.monotonic)
    return _role(app, settings, "features", [tape], Lanes(run, epoch, fail), settle)


def _compile_kernels(sets: Sequence[FeatureSet]) -> None:
    """Before the broker counts our silence: compiling takes seconds in which nothing else runs."""
    Engine(sets, 0).apply(from_events(0, 0, []))


def latest_role(settings: Settings, stack: AsyncExitStack, fail: Fail) -> Role:
    """Vectors of every feature set -> Redis."""
    registry = open_registry(settings.registry)
    serving: dict[str, tuple[VectorReader, RedisLatest]] = {}
    for each in load_all(settings.feature_sets):
        sink = RedisLatest(settings.redis_url, each.id, settings.redis_ttl_s)
        stack.push_async_callback(sink.close)
        serving[wire_topic(settings, each.topic)] = VectorReader(VectorCodec(registry, each)), sink

    async def run(lane: Lane) -> None:
        reader, sink = serving[lane.topic]
        await latest_agent(lane.batches(reader), sink)

    lanes = Lanes(run, Epoch(settings.epoch_s, FETCH_RECORDS, time.monotonic), fail)
    app = _app(settings, "latest", groups(settings)["latest"])
    return _role(app, settings, "latest", list(serving), lanes, _nothing_to_settle)


def archive_role(settings: Settings, stack: AsyncExitStack, fail: Fail) -> Role:
    """Tape, vectors of every feature set, dead letters -> files.

    In one worker only: an archive has one writer, which holds its lock; a second worker with this role ends at once.
    """
    sets, registry = load_all(settings.feature_sets), open_registry(settings.registry)
    writer = stack.enter_context(
        live(settings.archive_dir, settings.partitions, settings.archive_segment_rows, origin=tape_origin(settings))
    )
    for each in sets:
        writer.check(each)
    sink = stack.enter_context(ArchiveFiles(writer))
    vectors = {each.topic: VectorCodec(registry, each) for each in sets}
    reader = ArchiveReader(TapeCodec(registry), DeadLetterCodec(registry), vectors, settings.topic_prefix)

    async def run(lane: Lane) -> None:
        await archive_agent(lane.batches(reader), sink)

    epoch = Epoch(settings.archive_flush_s, settings.archive_segment_rows, time.monotonic)
    topics = [wire_topic(settings, topic) for topic in (TAPE, *vectors, DEAD_LETTERS)]
    app = _app(settings, "archive", groups(settings)["archive"])
    return _role(app, settings, "archive", topics, Lanes(run, epoch, fail), _nothing_to_settle)
