"""Serves vectors where they are made: to Redis before the broker takes them, and tells of them then.

A reader of Redis need not wait for the broker. What he reads follows from the tape, which has it already: should this
worker die before the features topic has a vector, the next one makes the same bytes again.

Input: vectors of one partition and one feature set, and their bytes as on the topic.
Output: the newest of each instrument in Redis; then features.ready.v1 of every vector offered, but for those that newer
    ones overtook while Redis took nothing, which are counted.
State: what waits. While Redis takes nothing that is no more than a few batches and one vector per instrument.
Errors: `failed` gets what is not just Redis's silence; UsageError for hashes of a feature set that is not computed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from agents.latest import newest_rows
from agents.ports import Announce, Telling
from agents.ready import ReadyGate
from app import metrics
from app.config import Settings
from app.connection import redis_options
from app.producer import Producer
from app.redis_latest import PartitionLatest, RedisLatest
from app.topics import wire_topic
from schemas.columns import Int64
from schemas.errors import UsageError
from schemas.feature_sets import FeatureSet
from schemas.limits import RECEIPTS_SERVED_MAX
from schemas.ready import ReadyCodec
from schemas.registry import SchemaRegistry
from schemas.topics import READY
from schemas.vectors import Vectors

WAITING: Final = 4
"""Offers that wait before they become one."""
PATIENCE_S: Final = 0.25
"""How long an agent waits for a Redis that answers slowly, before it goes on without until that has caught up."""
RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Notifications:
    """The notifications of a worker; without a producer it tells nothing."""

    producer: Producer | None
    topic: str
    codec: ReadyCodec
    threshold: float | None

    def of(self, feature_set: FeatureSet, partition: int) -> Announce:
        """Tells of one partition's vectors, as whole batches."""
        producer, gate = self.producer, ReadyGate(feature_set, self.threshold)
        if producer is None:
            return tell_nothing
        published = metrics.ready_published_total.labels(feature_set.id)
        suppressed = metrics.ready_suppressed_total.labels(feature_set.id)

        def announce(vectors: Vectors) -> Telling:
            picked = gate.pick(vectors)
            suppressed.inc(picked.suppressed)
            told = vectors if picked.told.all() else vectors.select(picked.told)
            if not len(told):
                return tell_nothing(told)
            telling = producer.enqueue(self.topic, partition, self.codec.encode(told))
            telling.add_done_callback(lambda done: published.inc(len(told) if _is_delivered(done) else 0))
            return telling

        return announce


def tell_nothing(vectors: Vectors) -> Telling:
    """`agents.ports.Announce` where nobody is told."""
    telling: Telling = asyncio.get_running_loop().create_future()
    telling.set_result(-1)
    return telling


def _is_delivered(telling: Telling) -> bool:
    return not telling.cancelled() and telling.exception() is None


class Outlet:
    """Redis and the notifications of one worker, whichever of its roles serves vectors."""

    def __init__(
        self, settings: Settings, stack: AsyncExitStack, sets: Sequence[FeatureSet], registry: SchemaRegistry, name: str
    ) -> None:
        """`name` tells its producer from others. Errors: UsageError."""
        check_hash(settings, sets)
        self._latest = {
            each.id: RedisLatest(
                settings.redis_url,
                each,
                settings.redis_ttl_s,
                has_hash=each.id == settings.redis_hash,
                options=redis_options(settings),
            )
            for each in sets
        }
        producer = None if settings.ready == "off" else Producer(settings, f"{name}-ready")
        if producer is not None:
            stack.push_async_callback(producer.close)
        threshold = settings.ready_threshold if settings.ready == "changed" else None
        for each in sets:
            ReadyGate(each, threshold).pick(Vectors.empty(each))  # compiled before the broker counts our silence
        self._notifications = Notifications(producer, wire_topic(settings, READY), ReadyCodec(registry), threshold)

    @asynccontextmanager
    async def of(self, feature_set: FeatureSet, partition: int) -> AsyncIterator[tuple[PartitionLatest, Announce]]:
        """The sink and the notifications of one partition, for as long as it is assigned."""
        async with self._latest[feature_set.id].sink(partition) as sink:
            yield sink, self._notifications.of(feature_set, partition)


class Offer(NamedTuple):
    """Vectors, their bytes as on the topic, and when the events were received that they are the first to hold."""

    vectors: Vectors
    values: Sequence[bytes]
    received: Int64


class Serving:
    """One partition of one feature set, for as long as it is assigned."""

    def __init__(self, sink: PartitionLatest, announce: Announce, failed: Callable[[BaseException], None]) -> None:
        self._sink, self._announce, self._failed = sink, announce, failed
        self._waiting: list[Offer] = []
        self._under_way: list[Offer] = []
        """What is being put and told of, if anything."""
        self._offered, self._readable, self._settled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._readable.set()
        self._settled.set()
        self._is_behind = False
        """Whether Redis takes nothing, or takes it slower than it comes: then nobody waits for it."""
        self._task = asyncio.create_task(self._guard())

    def offer(self, vectors: Vectors, values: Sequence[bytes], received: Int64) -> None:
        """Serve them as soon as possible."""
        self._waiting.append(Offer(vectors, values, received))
        if len(self._waiting) > WAITING:
            self._waiting = [_overtaken(_joined(self._waiting))]
        if not (self._is_behind or self._task.done()):
            self._readable.clear()
            self._settled.clear()
        self._offered.set()

    async def readable(self) -> None:
        """Returns when what was offered can be read; soon or at once while Redis is slow or takes nothing."""
        await self._wait(self._readable)

    async def settled(self) -> None:
        """As `readable`, and it has been told of."""
        await self._wait(self._settled)

    async def _wait(self, done: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await done.wait()
        except TimeoutError:
            self._fall_behind()

    async def close(self) -> None:
        """Serve what still waits if Redis takes it now, then no more.

        What it does not take was made of records that are done with where it was behind: then the next vector of each
        instrument comes in its place, from whoever has the partition next.
        """
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        left = [*self._under_way, *self._waiting]
        if left and self._task.cancelled():
            offer = _joined(left)
            vectors, values, _ = _newest(offer)
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    if await self._sink.attempt(vectors, values):
                        await self._announce(offer.vectors)

    def _fall_behind(self) -> None:
        self._is_behind = True
        self._readable.set()
        self._settled.set()

    async def _guard(self) -> None:
        try:
            await self._serve()
        except Exception as error:
            self._failed(error)
        finally:
            self._readable.set()
            self._settled.set()

    async def _serve(self) -> None:
        while True:
            await self._offered.wait()
            self._offered.clear()
            while self._waiting:
                offer, self._waiting = _joined(self._waiting), []
                self._under_way = [offer]
                vectors, values, received = _newest(offer)
                if not await self._sink.attempt(vectors, values):
                    self._under_way.clear()
                    self._waiting.insert(0, _overtaken(offer))
                    self._fall_behind()
                    await asyncio.sleep(RETRY_S)
                    continue
                now, name = time.time_ns(), vectors.feature_set.id
                metrics.tick_to_readable.labels(name).observe_ages(now, vectors.time)
                metrics.event_to_readable.labels(name).observe_ages(now, received)
                if not self._waiting:
                    self._readable.set()
                await self._announce(offer.vectors)
                self._under_way.clear()
            self._is_behind = False
            self._readable.set()
            self._settled.set()


def _joined(offers: Sequence[Offer]) -> Offer:
    """Offers as one."""
    if len(offers) == 1:
        return offers[0]
    return Offer(
        Vectors.concat([offer.vectors for offer in offers]),
        [value for offer in offers for value in offer.values],
        np.concatenate([offer.received for offer in offers])[-RECEIPTS_SERVED_MAX:],
    )


def _overtaken(offer: Offer) -> Offer:
    """The newest vector of each instrument; the others will never be served, and are counted."""
    kept = _newest(offer)
    metrics.ready_overtaken_total.labels(offer.vectors.feature_set.id).inc(len(offer.vectors) - len(kept.vectors))
    return kept


def _newest(offer: Offer) -> Offer:
    """The newest vector of each instrument."""
    vectors, values, received = offer
    rows = newest_rows(vectors)
    if len(rows) == len(vectors):
        return offer
    return Offer(vectors.select(rows), [values[row] for row in rows.tolist()], received)


def check_hash(settings: Settings, sets: Sequence[FeatureSet]) -> None:
    """Errors: UsageError for readable hashes of a feature set that is not computed."""
    ids = [each.id for each in sets]
    if settings.redis_hash and settings.redis_hash not in ids:
        raise UsageError(
            "ONETAPE_REDIS_HASH is no feature set of this worker", expected=" or ".join(ids), was=settings.redis_hash,
            action="correct ONETAPE_REDIS_HASH or add the set to ONETAPE_FEATURE_SETS",
        )  # fmt: skip
