"""The latest role: vectors of every feature set -> Redis.

Input: settings.
Output: the newest vectors in Redis.
Errors: `fail` gets what ends the worker.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

from agents.bind import VectorReader
from agents.lanes import Epoch, Lane, Lanes
from agents.latest import latest_agent
from app.config import Settings
from app.redis_latest import RedisLatest
from app.roles.role import Fail, Role, make_app, make_role, nothing_to_settle
from app.topics import groups, wire_topic
from app.transport import FETCH_RECORDS
from schemas.feature_sets import load_all
from schemas.registry import open_registry
from schemas.vectors import VectorCodec


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
    app = make_app(settings, "latest", groups(settings)["latest"])
    return make_role(app, settings, "latest", list(serving), lanes, nothing_to_settle)
