"""Serving where vectors are made: the newest can be read, and a Redis that is down holds nobody up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import redis
from test_latest import FEATURE_SET, NOW, held, values_of, vectors_of

from agents.ports import Telling
from app.embedded import EmbeddedRedis
from app.redis_latest import PartitionLatest, RedisLatest
from app.serving import RETRY_S, WAITING, Serving, tell_nothing
from schemas.limits import RECEIPTS_SERVED_MAX
from schemas.registry import FileRegistry
from schemas.vector_codec import VectorCodec
from schemas.vectors import Vectors

NOTHING = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> VectorCodec:
    return VectorCodec(FileRegistry(tmp_path_factory.mktemp("registry") / "schemas.json"), FEATURE_SET)


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        yield client


def url_of(client: redis.Redis) -> str:
    where = client.connection_pool.connection_kwargs
    return f"redis://{where['host']}:{where['port']}/0"


def test_the_newest_is_readable_when_it_is_settled_and_then_told(client: redis.Redis, codec: VectorCodec) -> None:
    told: list[tuple[str, int]] = []

    def announce(vectors: Vectors) -> Telling:
        assert held(codec, client, vectors.instruments()).keys() == set(vectors.instruments())
        told.extend(zip(vectors.instruments(), (vectors.time - NOW).tolist(), strict=True))
        return tell_nothing(vectors)

    async def run() -> None:
        async with RedisLatest(url_of(client), FEATURE_SET, 60).sink(3) as sink:
            serving = Serving(sink, announce, pytest.fail)
            for rows in ([("V:A", NOW), ("V:B", NOW), ("V:A", NOW + 1)], [("V:B", NOW + 2)]):
                serving.offer(vectors_of(rows), values_of(codec, rows), NOTHING)
            await serving.settled()
            await serving.close()

    asyncio.run(run())
    assert held(codec, client, ["V:A", "V:B"]) == {"V:A": NOW + 1, "V:B": NOW + 2}
    assert told == [("V:A", 0), ("V:B", 0), ("V:A", 1), ("V:B", 2)]


def test_a_redis_that_takes_nothing_holds_nobody_up_and_gets_the_newest_later(
    client: redis.Redis, codec: VectorCodec, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with RedisLatest(url_of(client), FEATURE_SET, 60).sink(3) as sink:
            serving = Serving(sink, tell_nothing, pytest.fail)
            client.config_set("maxmemory", "1")
            for step in range(3 * WAITING):
                rows = [("V:A", NOW + step), ("V:B", NOW + step)]
                serving.offer(vectors_of(rows), values_of(codec, rows), np.full(RECEIPTS_SERVED_MAX // 3, NOW))
                async with asyncio.timeout(20):
                    await serving.settled()
            assert sink.is_down
            assert client.dbsize() == 0
            assert len(serving._waiting) <= WAITING
            assert sum(len(offer.received) for offer in serving._waiting) <= (1 + WAITING / 3) * RECEIPTS_SERVED_MAX
            client.config_set("maxmemory", "0")
            for _ in range(400):
                if not sink.is_down:
                    break
                await asyncio.sleep(0.05)
            await serving.close()

    asyncio.run(run())
    assert "takes the latest vectors again" in caplog.text
    assert held(codec, client, ["V:A", "V:B"]) == dict.fromkeys(["V:A", "V:B"], NOW + 3 * WAITING - 1)


def test_what_waits_for_a_redis_that_is_back_is_served_when_the_partition_goes(
    client: redis.Redis, codec: VectorCodec
) -> None:
    """At once, not when it would have been tried again; and it is told of."""
    told: list[str] = []

    def announce(vectors: Vectors) -> Telling:
        told.extend(vectors.instruments())
        return tell_nothing(vectors)

    async def run() -> None:
        async with RedisLatest(url_of(client), FEATURE_SET, 60).sink(3) as sink:
            serving = Serving(sink, announce, pytest.fail)
            client.config_set("maxmemory", "1")
            rows = [("V:A", NOW), ("V:B", NOW)]
            serving.offer(vectors_of(rows), values_of(codec, rows), NOTHING)
            await serving.settled()
            assert sink.is_down
            client.config_set("maxmemory", "0")
            await serving.close()

    asyncio.run(run())
    assert held(codec, client, ["V:A", "V:B"]) == {"V:A": NOW, "V:B": NOW}
    assert told == ["V:A", "V:B"]


def test_what_it_cannot_serve_fails_the_worker(client: redis.Redis, codec: VectorCodec, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def announce(vectors: Vectors) -> Telling:
        raise ConnectionError("no broker")

    async def run() -> None:
        async with RedisLatest(url_of(client), FEATURE_SET, 60).sink(3) as sink:
            serving = Serving(sink, announce, failures.append)
            serving.offer(vectors_of([("V:A", NOW)]), values_of(codec, [("V:A", NOW)]), NOTHING)
            await serving.settled()
            await serving.close()

    asyncio.run(run())
    assert [str(failure) for failure in failures] == ["no broker"]


def test_a_redis_that_answers_slowly_gets_the_newest_and_never_what_is_old(
    client: redis.Redis, codec: VectorCodec
) -> None:
    """What came while it was down is what it gets first: an old vector would get a new lifetime."""
    seen: list[int] = []

    class Watched:
        """The sink, and T of each attempt."""

        def __init__(self, sink: PartitionLatest) -> None:
            self.sink = sink

        async def attempt(self, vectors: Vectors, values: Sequence[bytes]) -> bool:
            seen.append(int(vectors.time.max() - NOW))
            return await self.sink.attempt(vectors, values)

    async def run() -> None:
        async with RedisLatest(url_of(client), FEATURE_SET, 60).sink(3) as sink:
            serving = Serving(Watched(sink), tell_nothing, pytest.fail)  # type: ignore[arg-type]
            client.config_set("maxmemory", "1")
            for step in range(10):
                serving.offer(vectors_of([("V:A", NOW + step)]), values_of(codec, [("V:A", NOW + step)]), NOTHING)
                await serving.settled()
            client.config_set("maxmemory", "0")
            await asyncio.sleep(RETRY_S + 1)
            await serving.close()

    asyncio.run(run())
    assert seen[-1] == 9
    assert held(codec, client, ["V:A"]) == {"V:A": NOW + 9}
    assert all(step in (0, 9) for step in seen)
