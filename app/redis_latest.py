"""The newest vector of each instrument in Redis, as the very bytes of the features topic.

State: `latest:{feature set id}:{instrument}` and, beside it with `:t` behind, its T as 20 digits; both with a lifetime.
Units: T in ns; lifetime in s.
Errors: UsageError for a URL that is none, DependencyDown at the start when Redis does not answer. Later a Redis that is
    down, full or slow is waited for: the topic keeps what is not served yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import redis
import redis.asyncio

from agents.ports import Latest
from schemas.errors import DependencyDown, UsageError

logger = logging.getLogger(__name__)

ANSWER_S: Final = 5.0
RETRY_S: Final = 1.0
_PUT_IF_NEWER: Final = """
local known = redis.call('GET', KEYS[2])
if known and known >= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[3])
return 1
"""


def latest_key(feature_set_id: str, instrument: str) -> str:
    """Key of an instrument's newest vector."""
    return f"latest:{feature_set_id}:{instrument}"


def time_key(feature_set_id: str, instrument: str) -> str:
    """Key of that vector's time."""
    return f"{latest_key(feature_set_id, instrument)}:t"


def check_redis(url: str) -> None:
    """Errors: UsageError, DependencyDown."""
    try:
        with redis.Redis.from_url(url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S) as client:
            client.ping()
    except ValueError as error:
        raise UsageError(
            "ONETAPE_REDIS_URL cannot be used", expected="redis://host:port/number", was=str(error),
            action="correct ONETAPE_REDIS_URL",
        ) from error  # fmt: skip
    except (redis.RedisError, OSError) as error:
        raise DependencyDown(
            "Redis does not answer", expected=f"a Redis at {url.rpartition('@')[2]}", was=str(error),
            action="start it, set ONETAPE_REDIS_URL, or run the worker without the role latest",
        ) from error  # fmt: skip


class RedisLatest:
    """`agents.ports.LatestSink` for one feature set; one round trip per batch."""

    def __init__(self, url: str, feature_set_id: str, ttl_s: int) -> None:
        self._client = redis.asyncio.Redis.from_url(url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S)
        self._put = self._client.register_script(_PUT_IF_NEWER)
        self._feature_set_id, self._ttl_s = feature_set_id, ttl_s

    async def put(self, newest: Sequence[Latest]) -> None:
        """Replace what is older. Waits for a Redis that does not take it."""
        is_down = False
        while True:
            try:
                await self._try(newest)
                break
            except (redis.RedisError, OSError) as error:
                if not is_down:
                    logger.warning("Redis does not take the latest vectors, trying on: %s", error)
                is_down = True
            await asyncio.sleep(RETRY_S)
        if is_down:
            logger.warning("Redis takes the latest vectors again")

    async def _try(self, newest: Sequence[Latest]) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            for instrument, time, value in newest:
                keys = [latest_key(self._feature_set_id, instrument), time_key(self._feature_set_id, instrument)]
                await self._put(keys=keys, args=[f"{time:020d}", value, self._ttl_s], client=pipe)
            await pipe.execute()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
