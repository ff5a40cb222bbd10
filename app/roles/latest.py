"""The latest role: vectors of every feature set -> Redis, and a notification that they can be read there.

For a worker that makes no vectors itself; one that does serves them at once (app/serving.py).

Input: settings.
Output: the newest vectors in Redis; features.ready.v1.
Errors: `fail` gets what ends the worker; UsageError for hashes of a feature set that the worker does not have.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from agents.bind import VectorReader
from agents.lanes import Epoch, Lane, Lanes
from agents.latest import latest_agent
from agents.ports import LatestSink
from app import metrics
from app.config import Settings
from app.connection import registry_of
from app.roles.observed import ObservedBatches, unobserved
from app.roles.role import Fail, Role, make_app, make_role, nothing_to_settle
from app.serving import Outlet
from app.topics import groups, wire_topic
from app.transport import FETCH_RECORDS
from schemas.feature_sets import load_all
from schemas.vector_codec import VectorCodec
from schemas.vectors import Vectors


@dataclass(frozen=True, slots=True)
class MeasuredSink:
    """Measures how old vectors are once they can be read."""

    sink: LatestSink

    async def put(self, vectors: Vectors, values: Sequence[bytes]) -> None:
        """See `agents.ports.LatestSink`."""
        await self.sink.put(vectors, values)
        metrics.tick_to_readable.labels(vectors.feature_set.id).observe_ages(time.time_ns(), vectors.time)


def latest_role(settings: Settings, stack: AsyncExitStack, fail: Fail) -> Role:
    """Vectors of every feature set -> Redis and features.ready.v1."""
    sets, registry = load_all(settings.feature_sets), registry_of(settings)
    group = groups(settings)["latest"]
    outlet = Outlet(settings, stack, sets, registry, group)
    readers = {wire_topic(settings, each.topic): (each, VectorReader(VectorCodec(registry, each))) for each in sets}

    async def run(lane: Lane) -> None:
        feature_set, reader = readers[lane.topic]
        batches = lane.batches(ObservedBatches(reader, "latest", unobserved))
        async with outlet.of(feature_set, lane.partition) as (sink, announce):
            await latest_agent(batches, MeasuredSink(sink), announce)

    lanes = Lanes(run, Epoch(settings.epoch_s, FETCH_RECORDS, time.monotonic), fail)
    return make_role(make_app(settings, "latest", group), settings, "latest", lanes, nothing_to_settle)
