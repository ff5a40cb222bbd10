"""The newest vector of each instrument in Redis, as the very bytes of the features topic.

`latest:{feature set id}:{instrument}` has a lifetime. What is newer stays, whoever comes late with what is older. For
one feature set the newest vectors can also be readable hashes `features:{instrument}`: its features that are not null
by name, and `time`, `as_of` (partition:offset of the Tick), `quality`, `feature_set`.

Input: batches of one partition, one vector per instrument.
Output: values in Redis; one round trip per CHUNK vectors.
State: the time of each value in Redis, as long as nobody else has written the partition's `latest-writer:` key.
Units: T in ns; lifetime in s.
Errors: UsageError for a URL that is none, AccessRefused for a Redis that refuses us at the start. One that is down,
    full or slow is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from math import isnan
from typing import Any, Final

import orjson
import redis
import redis.asyncio

from app import metrics
from app.config import Settings
from app.connection import open_redis, redis_refusal
from app.redis_frames import COMPARED_AT_ONCE, REPLACING_REPLIES, Chunk, Frames
from schemas.errors import DependencyDown, UsageError
from schemas.feature_sets import FeatureSet
from schemas.vectors import Vectors

logger = logging.getLogger(__name__)

REDIS_ANSWER_S: Final = 3.0
"""Shorter than a lane has to close: a Redis that hangs cuts nobody off."""
RETRY_S: Final = 1.0
CHUNK: Final = 1000
"""Vectors of one transaction: Redis serves others between two."""


class RedisSilent(DependencyDown):
    """Redis does not answer: it may later."""


def check_redis(settings: Settings) -> None:
    """Errors: UsageError, AccessRefused, RedisSilent."""
    with asked(settings) as client:
        client.ping()


@contextmanager
def asked(settings: Settings) -> Iterator[redis.Redis]:
    """A client for a few questions. Errors: UsageError, AccessRefused, RedisSilent."""
    try:
        with open_redis(settings, socket_timeout=REDIS_ANSWER_S, socket_connect_timeout=REDIS_ANSWER_S) as client:
            yield client
    except ValueError as error:
        raise UsageError(
            "ONETAPE_REDIS_URL cannot be used", expected="redis://host:port/number", was=str(error),
            action="correct ONETAPE_REDIS_URL",
        ) from error  # fmt: skip
    except (redis.RedisError, OSError) as error:
        if refusal := redis_refusal(settings, error):
            raise refusal from error
        raise RedisSilent(
            "Redis does not answer", expected=f"a Redis at {settings.redis_url}", was=str(error),
            action="start it, set ONETAPE_REDIS_URL, or run the worker without the role latest",
        ) from error  # fmt: skip


class RedisLatest:
    """The newest vectors of one feature set; a sink for each partition of its topic."""

    def __init__(
        self, url: str, feature_set: FeatureSet, ttl_s: int, *, has_hash: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """`has_hash` puts the readable hashes as well; they cost far more than the packed values.

        `options` are those of `app.connection.redis_options`.
        """
        self.feature_set, self.ttl_s, self.has_hash = feature_set, ttl_s, has_hash
        self._connections: Any = redis.asyncio.ConnectionPool.from_url(
            url, socket_timeout=REDIS_ANSWER_S, socket_connect_timeout=REDIS_ANSWER_S, **(options or {})
        )

    @asynccontextmanager
    async def sink(self, partition: int, chunk: int = CHUNK) -> AsyncIterator[PartitionLatest]:
        """The sink of one partition, for as long as it is assigned; what is watched belongs to its connection."""
        token = secrets.token_hex(8).encode()
        frames = Frames(self.feature_set.id, partition, token, self.ttl_s)
        is_up = metrics.redis_up.labels(self.feature_set.id).set
        sink = PartitionLatest(self._connections.make_connection(), frames, token, self.has_hash, chunk, is_up)
        try:
            yield sink
        finally:
            await sink.close()


class PartitionLatest:
    """`agents.ports.LatestSink` for one partition of a features topic."""

    def __init__(
        self, connection: Any, frames: Frames, token: bytes, has_hash: bool, chunk: int, is_up: Callable[[float], None]
    ) -> None:
        """`connection` is redis-py's, nobody else's. `is_up` is told after each attempt whether Redis took it."""
        self._connection, self._frames, self._token = connection, frames, token
        self._has_hash, self._chunk, self._is_up = has_hash, chunk, is_up
        self.is_down = False
        """Whether Redis took nothing when it was last tried."""
        self._is_alone = False
        """Whether nobody but us has written the partition since our last writing."""
        self._times: dict[str, int] = {}
        """Times of the values in Redis that are known for as long as we are alone."""

    async def put(self, vectors: Vectors, values: Sequence[bytes]) -> None:
        """Replace what is older; at most one vector per instrument. Waits for a Redis that does not take it."""
        while True:
            if await self.attempt(vectors, values):
                return
            await asyncio.sleep(RETRY_S)

    async def attempt(self, vectors: Vectors, values: Sequence[bytes]) -> bool:
        """As `put`, once; whether Redis took it."""
        try:
            await self._try(vectors, values)
        except (redis.RedisError, OSError) as error:
            if not self.is_down:
                logger.warning("Redis does not take the latest vectors, trying on: %s", error)
            self.is_down = True
            self._is_up(0)
            return False
        if self.is_down:
            logger.warning("Redis takes the latest vectors again")
        self.is_down = False
        self._is_up(1)
        return True

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)

    async def _try(self, vectors: Vectors, values: Sequence[bytes]) -> None:
        chunks = self._chunks(vectors, values)
        try:
            if not self._connection.is_connected:
                self._forget()
                await self._connection.connect()
            ahead: bytes | None = None
            for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
                frame, ahead = ahead, None
                if self._is_newer(chunk):
                    await self._send(frame or self._frames.replacing(chunk))
                    ahead = self._frames.replacing(following) if following else None  # while Redis is at work
                    if await self._is_replaced(chunk):
                        continue
                await self._compare(chunk)
        except BaseException:
            await self.close()  # replies may still be under way
            raise

    def _chunks(self, vectors: Vectors, values: Sequence[bytes]) -> list[Chunk]:
        instruments, times = vectors.instruments(), vectors.time.tolist()
        fields = _fields(vectors) if self._has_hash else []
        rows = [slice(first, first + self._chunk) for first in range(0, len(vectors), self._chunk)]
        return [Chunk(instruments[at], times[at], values[at], fields[at]) for at in rows]

    def _is_newer(self, chunk: Chunk) -> bool:
        """Whether all that Redis has of these instruments is known, and older."""
        if not self._is_alone or self._has_hash:
            return False
        known = map(self._times.get, chunk.instruments)
        return all(time is not None and time < new for time, new in zip(known, chunk.times, strict=True))

    async def _send(self, frame: bytes) -> None:
        await self._connection.send_packed_command(frame)

    async def _replies(self, count: int) -> list[Any]:
        """The next replies. Errors: redis.RedisError if one of them is an error."""
        replies = [await self._connection.read_response() for _ in range(count)]
        for reply in replies:
            for each in reply if isinstance(reply, list) else [reply]:
                if isinstance(each, Exception):
                    raise each
        return replies

    async def _is_replaced(self, chunk: Chunk) -> bool:
        """Take the replies of `Frames.replacing`. False if somebody else had written before."""
        *_, done, _, token = await self._replies(REPLACING_REPLIES)
        if done is None or token != self._token:
            self._forget()
        else:
            self._times.update(zip(chunk.instruments, chunk.times, strict=True))
        return done is not None

    async def _compare(self, chunk: Chunk) -> None:
        """Put what is newer. The time of what is not stays unknown."""
        frame, count = self._frames.comparing(chunk)
        await self._send(frame)
        _, *calls, _, token = await self._replies(count)
        known = list(zip(chunk.instruments, chunk.times, strict=True))
        for first, (was_ours, *kept) in zip(range(0, len(known), COMPARED_AT_ONCE), calls, strict=True):
            if not was_ours:
                self._times.clear()
            self._times.update(known[first : first + COMPARED_AT_ONCE])
            for row in kept:
                self._times.pop(chunk.instruments[first + row - 1])
        self._is_alone = token == self._token
        if not self._is_alone:
            self._forget()

    def _forget(self) -> None:
        self._is_alone = False
        self._times.clear()


def _fields(vectors: Vectors) -> list[bytes]:
    """Fields of each vector's readable hash, names and values in turn, as a JSON list."""
    names = vectors.feature_set.features
    made = []
    for row in range(len(vectors)):
        words = [
            "time", str(vectors.time[row]), "as_of", f"{vectors.partition[row]}:{vectors.as_of_offset[row]}",
            "quality", str(vectors.quality[row]), "feature_set", vectors.feature_set.id,
        ]  # fmt: skip
        for name, value in zip(names, vectors.values[row].tolist(), strict=True):
            if not isnan(value):
                words += (name, repr(value))
        made.append(orjson.dumps(words))
    return made
