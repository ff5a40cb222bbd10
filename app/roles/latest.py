"""The latest role: vectors of every feature set -> Redis, and a notification that they can be read there.

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
from agents.ports import Announce, LatestSink
from agents.ready import ReadyGate
from app import metrics
from app.config import Settings
from app.producer import Producer
from app.redis_latest import RedisLatest
from app.roles.role import Fail, Role, make_app, make_role, nothing_to_settle
from app.topics import groups, wire_topic
from app.transport import FETCH_RECORDS
from schemas.errors import UsageError
from schemas.feature_sets import FeatureSet, load_all
from schemas.ready import ReadyCodec
from schemas.registry import open_registry
from schemas.topics import READY
from schemas.vectors import VectorCodec, Vectors


@dataclass(frozen=True, slots=True)
class MeasuredSink:
    """Measures how old vectors are once they can be read."""

    sink: LatestSink

    async def put(self, vectors: Vectors, values: Sequence[bytes]) -> None:
        """See `agents.ports.LatestSink`."""
        await self.sink.put(vectors, values)
        metrics.tick_to_readable.labels(vectors.feature_set.id).observe_ages(time.time_ns(), vectors.time)


@dataclass(frozen=True, slots=True)
class Notifications:
    """The notifications of a worker; none without a producer."""

    producer: Producer | None
    topic: str
    codec: ReadyCodec
    threshold: float | None

    def of(self, feature_set: FeatureSet, partition: int) -> Announce | None:
        """Tells of one partition's vectors, as whole batches."""
        producer, gate = self.producer, ReadyGate(feature_set, self.threshold)
        if producer is None:
            return None
        published = metrics.ready_published_total.labels(feature_set.id)
        suppressed = metrics.ready_suppressed_total.labels(feature_set.id)

        async def announce(vectors: Vectors) -> None:
            picked = gate.pick(vectors)
            suppressed.inc(picked.suppressed)
            told = vectors if picked.told.all() else vectors.select(picked.told)
            await producer.send(self.topic, partition, self.codec.encode(told))
            published.inc(len(told))

        return announce


def latest_role(settings: Settings, stack: AsyncExitStack, fail: Fail) -> Role:
    """Vectors of every feature set -> Redis and features.ready.v1."""
    sets, registry = load_all(settings.feature_sets), open_registry(settings.registry)
    group = groups(settings)["latest"]
    check_hash(settings, sets)
    serving: dict[str, tuple[FeatureSet, VectorReader, RedisLatest]] = {}
    for each in sets:
        latest = RedisLatest(settings.redis_url, each, settings.redis_ttl_s, has_hash=each.id == settings.redis_hash)
        serving[wire_topic(settings, each.topic)] = each, VectorReader(VectorCodec(registry, each)), latest
    producer = None if settings.ready == "off" else Producer(settings.brokers, group)
    if producer is not None:
        stack.push_async_callback(producer.close)
    threshold = settings.ready_threshold if settings.ready == "changed" else None
    notifications = Notifications(producer, wire_topic(settings, READY), ReadyCodec(registry), threshold)

    async def run(lane: Lane) -> None:
        feature_set, reader, latest = serving[lane.topic]
        async with latest.sink(lane.partition) as sink:
            announce = notifications.of(feature_set, lane.partition)
            await latest_agent(lane.batches(reader), MeasuredSink(sink), announce)

    lanes = Lanes(run, Epoch(settings.epoch_s, FETCH_RECORDS, time.monotonic), fail)
    return make_role(make_app(settings, "latest", group), settings, "latest", list(serving), lanes, nothing_to_settle)


def check_hash(settings: Settings, sets: Sequence[FeatureSet]) -> None:
    """Errors: UsageError for readable hashes of a feature set that is not computed."""
    ids = [each.id for each in sets]
    if settings.redis_hash and settings.redis_hash not in ids:
        raise UsageError(
            "ONETAPE_REDIS_HASH is no feature set of this worker", expected=" or ".join(ids), was=settings.redis_hash,
            action="correct ONETAPE_REDIS_HASH or add the set to ONETAPE_FEATURE_SETS",
        )  # fmt: skip
