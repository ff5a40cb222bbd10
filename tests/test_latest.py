"""The latest agent and its Redis: the newest vector of each instrument, as the very bytes of the topic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from agents.latest import latest_agent, newest_of
from agents.ports import Latest
from app.embedded import EmbeddedRedis
from app.redis_latest import RedisLatest, check_redis, latest_key, time_key
from schemas import feature_sets
from schemas.errors import DependencyDown, UsageError
from schemas.registry import open_registry
from schemas.vectors import VectorCodec, Vectors

FEATURE_SET = feature_sets.load(feature_sets.DEFAULT)
SECOND = 10**9


@dataclass
class Messages:
    """A batch of vector messages."""

    vectors: Vectors
    values: Sequence[bytes]
    acked: list[int] = field(default_factory=list)

    def ack(self) -> None:
        self.acked.append(len(self.values))


def vectors_of(rows: Sequence[tuple[str, int]]) -> Vectors:
    """One vector per (instrument, time); its first value is its row number."""
    names = sorted({name for name, _ in rows})
    count = len(rows)
    numbers = np.arange(count, dtype=np.int64)
    values = np.zeros((count, len(FEATURE_SET.features)))
    values[:, 0] = numbers
    return Vectors(
        FEATURE_SET, names, np.array([names.index(name) for name, _ in rows], np.int32),
        np.array([time for _, time in rows], np.int64), np.zeros(count, np.int32), numbers, numbers, numbers, numbers,
        values,
    )  # fmt: skip


def batch_of(rows: Sequence[tuple[str, int]]) -> Messages:
    return Messages(vectors_of(rows), [f"{name}@{time}#{i}".encode() for i, (name, time) in enumerate(rows)])


@given(st.lists(st.tuples(st.sampled_from(["A:X", "A:Y", "B:X"]), st.integers(1, 5)), max_size=12))
def test_a_batch_gives_the_newest_of_each_instrument(rows: list[tuple[str, int]]) -> None:
    batch = batch_of(rows)
    expected = {}
    for (name, time), value in zip(rows, batch.values, strict=True):
        if name not in expected or time >= expected[name].time:
            expected[name] = Latest(name, time, value)
    assert newest_of(batch) == list(expected.values())


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


def put(url: str, *batches: Sequence[Latest], ttl_s: int = 60) -> None:
    async def run() -> None:
        sink = RedisLatest(url, FEATURE_SET.id, ttl_s)
        for newest in batches:
            await sink.put(newest)
        await sink.close()

    asyncio.run(run())


def test_an_older_vector_never_replaces_a_newer_one(redis_url: str) -> None:
    late, early = 1_721_347_201 * SECOND + 1, 1_721_347_201 * SECOND
    put(
        redis_url,
        [Latest("V:A", late, b"late"), Latest("V:B", early, b"b")],
        [Latest("V:A", early, b"early"), Latest("V:B", late, b"b2")],
        [Latest("V:A", late, b"the same time again")],
    )
    with redis.Redis.from_url(redis_url) as client:
        assert client.get(latest_key(FEATURE_SET.id, "V:A")) == b"late"
        assert client.get(latest_key(FEATURE_SET.id, "V:B")) == b"b2"


def test_value_and_time_are_gone_after_their_lifetime(redis_url: str) -> None:
    put(redis_url, [Latest("V:C", 5, b"c")], ttl_s=77)
    with redis.Redis.from_url(redis_url) as client:
        lives = [client.ttl(key(FEATURE_SET.id, "V:C")) for key in (latest_key, time_key)]
    assert all(70 <= life <= 77 for life in lives)


def test_the_agent_serves_topic_bytes_and_acknowledges_after(redis_url: str, tmp_path: Path) -> None:
    codec = VectorCodec(open_registry(str(tmp_path / "schemas.json")), FEATURE_SET)
    vectors = vectors_of([("V:D", 1), ("V:E", 1), ("V:D", 2)])
    values = [value for _, value in codec.encode(vectors)]
    batch = Messages(codec.decode(values), values)

    async def batches() -> AsyncIterator[Messages]:
        yield batch

    async def run() -> None:
        sink = RedisLatest(redis_url, FEATURE_SET.id, 60)
        await latest_agent(batches(), sink)
        await sink.close()

    asyncio.run(run())
    assert batch.acked == [3]
    with redis.Redis.from_url(redis_url) as client:
        assert client.get(latest_key(FEATURE_SET.id, "V:D")) == values[2]
        assert client.get(latest_key(FEATURE_SET.id, "V:E")) == values[1]


def test_a_redis_that_is_full_is_waited_for_and_then_served(caplog: pytest.LogCaptureFixture) -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        newest = [Latest("V:F", 1, b"f")]

        async def run() -> None:
            sink = RedisLatest(server.url, FEATURE_SET.id, 60)
            putting = asyncio.create_task(sink.put(newest))
            deadline = asyncio.get_running_loop().time() + 5
            while "does not take" not in caplog.text:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.01)
            assert not putting.done()
            client.config_set("maxmemory", "0")
            await asyncio.wait_for(putting, 5)
            await sink.close()

        asyncio.run(run())
        assert client.get(latest_key(FEATURE_SET.id, "V:F")) == b"f"


def test_a_missing_redis_is_named_at_the_start() -> None:
    with pytest.raises(DependencyDown, match=r"Redis does not answer.*127\.0\.0\.1:1.*Action: "):
        check_redis("redis://user:secret@127.0.0.1:1/0")
    with pytest.raises(UsageError, match="ONETAPE_REDIS_URL"):
        check_redis("http://localhost")
