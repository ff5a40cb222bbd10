"""The features role: tape -> vectors of every feature set in one pass, dead letters, states.

Input: settings.
Output: the features topics, dead letters, the changelog.
State: one RocksDB per partition below `data_dir`.
Errors: `fail` gets what ends the worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

from faust.exceptions import ProducerSendError
from faust.types import TP

from agents.bind import LaneStates, TapeReader, state_table
from agents.engine import Engine
from agents.features import features_agent
from agents.lanes import Epoch, Lane, Lanes
from app.config import Settings
from app.producer import DeliveryFailed, Producer
from app.roles.role import Fail, Role, make_app, make_role
from app.topics import changelog_of, groups, wire_topic
from app.transport import FETCH_RECORDS
from schemas.codec import DeadLetter, DeadLetterCodec, TapeCodec
from schemas.columns import from_events
from schemas.feature_sets import FeatureSet, load_all
from schemas.registry import open_registry
from schemas.topics import DEAD_LETTERS, TAPE
from schemas.vectors import VectorCodec, Vectors
from tables import store


def features_role(settings: Settings, stack: AsyncExitStack, fence: Callable[[], None], fail: Fail) -> Role:
    """Tape -> vectors of every feature set in one pass, dead letters, states."""
    sets, registry = load_all(settings.feature_sets), open_registry(settings.registry)
    letters, group = DeadLetterCodec(registry), groups(settings)["features"]
    producer, states = Producer(settings.brokers, group), Producer(settings.brokers, f"{group}-states")
    stack.push_async_callback(producer.close)
    stack.push_async_callback(states.close)
    app, changelog_topic = make_app(settings, "features", group), changelog_of(group)
    table = state_table(app, settings.partitions)
    tape, buried = wire_topic(settings, TAPE), wire_topic(settings, DEAD_LETTERS)
    outputs = {each.id: (wire_topic(settings, each.topic), VectorCodec(registry, each)) for each in sets}
    made: list[store.Changelog] = []

    def states_of(lane: Lane) -> LaneStates:
        return LaneStates(changelog(), lane, lambda partition: app.consumer.highwater(TP(tape, partition)), fence)

    def changelog() -> store.Changelog:
        if not made:
            assert isinstance(table.data, store.Store)
            made.append(store.Changelog(table.data, changelog_topic, states.enqueue))
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
    return make_role(app, settings, "features", [tape], Lanes(run, epoch, fail), settle)


def _compile_kernels(sets: Sequence[FeatureSet]) -> None:
    """Before the broker counts our silence: compiling takes seconds in which nothing else runs."""
    Engine(sets, 0).apply(from_events(0, 0, []))
