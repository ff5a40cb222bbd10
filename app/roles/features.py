"""The features role: tape -> vectors of every feature set in one pass, dead letters, states.

Input: settings.
Output: the features topics, dead letters, the changelog.
State: one RocksDB per partition below `data_dir`.
Errors: `fail` gets what ends the worker.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from faust.exceptions import ProducerSendError
from faust.types import TP

from agents.bind import LaneStates, TapeBatch, TapeReader, state_table
from agents.engine import Engine
from agents.features import features_agent
from agents.lanes import Ack, Epoch, Lane, Lanes
from agents.ports import RawBatch
from app.config import Settings
from app.connection import registry_of
from app.dead_letters import DeadLetters
from app.latency import LaneLatency, Slow
from app.producer import DeliveryFailed, Producer
from app.roles.observed import ObservedBatches, ObservedStates
from app.roles.role import Fail, Role, make_app, make_role
from app.serving import Outlet, Serving
from app.topics import changelog_of, groups, wire_topic
from app.transport import FETCH_RECORDS
from schemas.codec import DeadLetterCodec, TapeCodec
from schemas.columns import from_events
from schemas.feature_sets import FeatureSet, load_all
from schemas.registry import SchemaRegistry
from schemas.topics import DEAD_LETTERS, TAPE
from schemas.vector_codec import VectorCodec
from schemas.vectors import Vectors
from tables import store, stored

EPOCH_FETCHES: Final = 20
"""What an epoch holds at most: its batches stay in memory, half a kilobyte a record, until they are acknowledged."""
SAVES_PER_S: Final = 200.0
"""Of one partition: a fortieth of a processor, and a MB or two a second through the disk and the changelog."""


Serve = Callable[[AsyncExitStack, int], Awaitable[Mapping[str, Serving]]]
"""What serves each feature set of a partition until the stack is left."""


@dataclass(frozen=True, slots=True)
class LaneEmit:
    """`agents.ports.Emit` of one partition: to whoever serves vectors, and to the features topic."""

    producer: Producer
    partition: int
    outputs: Mapping[str, tuple[str, VectorCodec]]
    latency: LaneLatency
    served: Mapping[str, Serving]

    async def __call__(self, vectors: Vectors) -> None:
        """Returns when the broker has the vectors and, as long as Redis takes any, when they can be read there."""
        output, codec = self.outputs[vectors.feature_set.id]
        serving = self.served.get(vectors.feature_set.id)
        messages, received = codec.encode(vectors), self.latency.sending(vectors)
        if serving is not None:
            # First: a batch of a thousand vectors is milliseconds of work for the producer, and readers wait.
            serving.offer(vectors, [value for _, value in messages], received)
            await serving.readable()
        await self.producer.send(output, self.partition, messages)
        self.latency.sent(vectors)
        if serving is not None:
            await serving.settled()


class FeaturesWork:
    """What the role does with its lanes and before each commit, whoever keeps the log and the states."""

    def __init__(
        self, sets: Sequence[FeatureSet], registry: SchemaRegistry, producer: Producer, topic: Callable[[str], str],
        states: Callable[[], LaneStates], slow: Slow, now_ns: Callable[[], int], serve: Serve,
    ) -> None:  # fmt: skip
        """`topic` is a topic's name on the broker; `states` are asked for once there is a partition."""
        self._sets, self._producer, self._states = sets, producer, states
        self._slow, self._now_ns, self._serve = slow, now_ns, serve
        self._letters = DeadLetters(producer, topic(DEAD_LETTERS), DeadLetterCodec(registry))
        self._outputs = {each.id: (topic(each.topic), VectorCodec(registry, each)) for each in sets}
        self._reader = TapeReader(TapeCodec(registry), self._letters.bury)

    async def run(self, lane: Lane) -> None:
        """One partition under one assignment."""
        latency = LaneLatency(lane.partition, self._sets, self._slow, self._now_ns)

        def read(batch: TapeBatch) -> None:
            latency.read(batch.columns)

        batches = lane.batches(ObservedBatches(self._read, "features", read))
        async with AsyncExitStack() as assigned:
            assigned.callback(latency.close)
            served = await self._serve(assigned, lane.partition)
            emit = LaneEmit(self._producer, lane.partition, self._outputs, latency, served)
            await features_agent(batches, ObservedStates(self._states()), emit, self._sets, share=lane.share)

    async def _read(self, raw: RawBatch, is_first: bool, ends_epoch: bool, ack: Ack) -> TapeBatch:
        """A batch decoded, once its saves have room; one that only ends an epoch makes no more of them wait."""
        if raw.offsets:
            await self._states().room()
        return await self._reader(raw, is_first, ends_epoch, ack)

    async def settle(self) -> None:
        """Returns when the broker has every letter and state of what is acknowledged. Errors: DeliveryFailed."""
        await self._letters.settle()
        await self._states().settle()


def features_role(
    settings: Settings, stack: AsyncExitStack, fence: Callable[[], None], fail: Fail, *, serves: bool
) -> Role:
    """Tape -> vectors of every feature set in one pass, dead letters, states; and to Redis if it `serves` them."""
    sets, registry = load_all(settings.feature_sets), registry_of(settings)
    group = groups(settings)["features"]
    producer, saver = Producer(settings, group), Producer(settings, f"{group}-states")
    stack.push_async_callback(producer.close)
    stack.push_async_callback(saver.close)
    app, changelog_topic = make_app(settings, "features", group), changelog_of(group)
    table = state_table(app, settings.partitions)
    tape = wire_topic(settings, TAPE)
    made: list[LaneStates] = []

    def end_offset(partition: int) -> int | None:
        return app.consumer.highwater(TP(tape, partition))

    def states() -> LaneStates:
        if not made:
            assert isinstance(table.data, store.Store)
            made.append(LaneStates(store.Changelog(table.data, changelog_topic, saver.enqueue), end_offset, fence))
        return made[0]

    async def serve(assigned: AsyncExitStack, partition: int) -> Mapping[str, Serving]:
        return await _served(assigned, outlet, sets, partition, fail)

    async def settle(offsets: Mapping[TP, int]) -> None:
        try:
            await work.settle()
        except DeliveryFailed as error:
            fail(error)
            raise ProducerSendError(str(error)) from error

    slow = Slow(settings.slow_vector_s, time.monotonic)
    work = FeaturesWork(sets, registry, producer, partial(wire_topic, settings), states, slow, time.time_ns, serve)
    outlet = Outlet(settings, stack, sets, registry, group) if serves else None
    _compile_kernels(sets)
    rows = FETCH_RECORDS * EPOCH_FETCHES
    epoch = Epoch(settings.epoch_s, rows, time.monotonic, SAVES_PER_S, 2 * rows)
    return make_role(app, settings, "features", Lanes(work.run, epoch, fail), settle)


async def _served(
    assigned: AsyncExitStack, outlet: Outlet | None, sets: Sequence[FeatureSet], partition: int, fail: Fail
) -> dict[str, Serving]:
    """What serves each feature set of a partition until it is taken away; nothing without an outlet."""
    served: dict[str, Serving] = {}
    if outlet is not None:
        for each in sets:
            sink, announce = await assigned.enter_async_context(outlet.of(each, partition))
            served[each.id] = Serving(sink, announce, fail)
            assigned.push_async_callback(served[each.id].close)
    return served


def _compile_kernels(sets: Sequence[FeatureSet]) -> None:
    """Before the broker counts our silence: compiling takes seconds in which nothing else runs."""
    Engine(sets, 0).apply(from_events(0, 0, []))
    stored.load()
