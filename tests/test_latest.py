"""The latest agent and its Redis: the newest vector of each instrument, as the very bytes of the topic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.latest import latest_agent, newest_rows
from app.config import load_settings
from app.embedded import EmbeddedRedis
from app.redis_frames import hash_key, latest_key, writer_key
from app.redis_latest import CHUNK, PartitionLatest, RedisLatest, check_redis
from app.serving import check_hash
from schemas import feature_sets, limits
from schemas.errors import DependencyDown, UsageError
from schemas.registry import FileRegistry
from schemas.vector_codec import VectorCodec
from schemas.vectors import Vectors

FEATURE_SET = feature_sets.load(feature_sets.DEFAULT)
SECOND = 10**9
NOW = 1_721_347_201 * SECOND
Rows = Sequence[tuple[str, int]]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> VectorCodec:
    return VectorCodec(FileRegistry(tmp_path_factory.mktemp("registry") / "schemas.json"), FEATURE_SET)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture
def client(server: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server) as client:
        client.flushall()
        yield client


def vectors_of(rows: Rows) -> Vectors:
    """One vector per (instrument, time); what it says follows from these two."""
    names = sorted({name for name, _ in rows})
    count = len(rows)
    times = np.array([time for _, time in rows], np.int64)
    values = np.full((count, len(FEATURE_SET.features)), np.nan)
    values[:, 0] = times % SECOND
    zeros = np.zeros(count, np.int64)
    return Vectors(
        FEATURE_SET, names, np.array([names.index(name) for name, _ in rows], np.int32), times,
        np.full(count, 3, np.int32), times % 1000, times, zeros, zeros, values,
    )  # fmt: skip


def values_of(codec: VectorCodec, rows: Rows) -> list[bytes]:
    return [value for _, value in codec.encode(vectors_of(rows))]


async def put(codec: VectorCodec, sink: PartitionLatest, rows: Rows) -> None:
    await sink.put(vectors_of(rows), values_of(codec, rows))


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


def held(codec: VectorCodec, client: redis.Redis, instruments: Sequence[str]) -> dict[str, int]:
    """T of what Redis has of each instrument; every value is the whole one of that T."""
    values = {name: client.get(latest_key(FEATURE_SET.id, name)) for name in instruments}
    found = {name: int(codec.decode([value]).time[0]) for name, value in values.items() if isinstance(value, bytes)}
    assert {name: values_of(codec, [(name, time)])[0] for name, time in found.items()} == {
        name: value for name, value in values.items() if value is not None
    }
    return found


@given(st.lists(st.tuples(st.sampled_from(["A:X", "A:Y", "B:X"]), st.integers(1, 5)), max_size=12))
def test_a_batch_gives_the_newest_of_each_instrument(rows: list[tuple[str, int]]) -> None:
    expected: dict[str, int] = {}
    for row, (name, time) in enumerate(rows):
        if name not in expected or time >= rows[expected[name]][1]:
            expected[name] = row
    assert newest_rows(vectors_of(rows)).tolist() == sorted(expected.values())


@pytest.mark.fault("serving", "an older vector after a newer one")
def test_an_older_vector_never_replaces_a_newer_one(server: str, client: redis.Redis, codec: VectorCodec) -> None:
    async def writing() -> None:
        async with RedisLatest(server, FEATURE_SET, 60).sink(3) as sink:
            await put(codec, sink, [("V:A", NOW + 1), ("V:B", NOW)])
            await put(codec, sink, [("V:A", NOW), ("V:B", NOW + 1)])
            assert held(codec, client, ["V:A", "V:B"]) == {"V:A": NOW + 1, "V:B": NOW + 1}
            await put(codec, sink, [("V:A", NOW + SECOND), ("V:B", NOW - SECOND)])

    run(writing())
    assert held(codec, client, ["V:A", "V:B"]) == {"V:A": NOW + SECOND, "V:B": NOW + 1}


NAMES = [*(f"V:{letter}" for letter in "ABCDE"), "V:" + "F" * (limits.KEY_BYTES_MAX - 2)]
ROWS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 6).map(lambda n: NOW + n * n * SECOND // 7), min_size=1)
STEPS = st.lists(
    st.tuples(st.sampled_from([0, 1]), ROWS)
    | st.tuples(ROWS, ROWS)
    | st.sampled_from(["flush", "evict the writer's key"]),
    min_size=1, max_size=10,
)  # fmt: skip


@pytest.mark.fault("serving", "an older vector after a newer one")
@settings(max_examples=120, deadline=None)
@given(STEPS, st.integers(1, 4))
def test_whoever_writes_meanwhile_the_newest_stays(
    server: str, codec: VectorCodec, steps: list[Any], chunk: int
) -> None:
    """Two workers that both believe they own a partition, in turns and at once; and a Redis that loses keys."""
    newest: dict[str, int] = {}

    async def writing(client: redis.Redis) -> None:
        latest = RedisLatest(server, FEATURE_SET, 60)
        async with latest.sink(3, chunk) as first, latest.sink(3, chunk) as second:
            for step in steps:
                if step == "flush":
                    client.flushall()
                    newest.clear()
                elif isinstance(step, str):
                    client.delete(writer_key(FEATURE_SET.id, 3))
                else:
                    writes = [step] if isinstance(step[0], int) else [(0, step[0]), (1, step[1])]
                    await asyncio.gather(
                        *(put(codec, (first, second)[who], list(rows.items())) for who, rows in writes)
                    )
                    for _, rows in writes:
                        for name, time in rows.items():
                            newest[name] = max(newest.get(name, 0), time)
                assert held(codec, client, NAMES) == newest

    with redis.Redis.from_url(server) as client:
        client.flushall()
        run(writing(client))


@asynccontextmanager
async def writing_before_watch(server: str, meanwhile: Callable[[], Awaitable[None]]) -> AsyncIterator[str]:
    """A way to the server on which a connection's watch begins only after `meanwhile`."""
    port = int(server.rpartition(":")[2].partition("/")[0])
    watch = b"*2\r\n$5\r\nWATCH"
    connections: list[Any] = []

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()
        await writer.wait_closed()

    async def forth(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.current_task())
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        returning = asyncio.create_task(back(from_server, writer))
        while data := await reader.read(1 << 20):
            before, found, after = data.partition(watch)
            to_server.write(before)
            if found:
                await to_server.drain()
                await asyncio.sleep(0.05)  # the server reads what was sent apart from what follows
                await meanwhile()
                to_server.write(found + after)
        to_server.close()
        await to_server.wait_closed()
        await returning

    async with await asyncio.start_server(forth, "127.0.0.1", 0, limit=1 << 20) as way:
        yield f"redis://127.0.0.1:{way.sockets[0].getsockname()[1]}/0"
        await asyncio.gather(*connections)


@pytest.mark.parametrize("meets", [1, 2])
def test_who_writes_just_before_the_watch_is_seen(
    server: str, client: redis.Redis, codec: VectorCodec, meets: int
) -> None:
    """Between our writing and our watching, once behind a comparison and once behind a transaction."""

    async def writing() -> None:
        latest, watched = RedisLatest(server, FEATURE_SET, 60), 0
        async with latest.sink(3) as other:

            async def meanwhile() -> None:
                nonlocal watched
                watched += 1
                if watched == meets:
                    await put(codec, other, [("V:A", NOW + 9)])

            async with (
                writing_before_watch(server, meanwhile) as way,
                RedisLatest(way, FEATURE_SET, 60).sink(3) as sink,
            ):
                for time in range(4):
                    await put(codec, sink, [("V:A", NOW + time)])
                assert watched > meets

    run(writing())
    assert held(codec, client, ["V:A"]) == {"V:A": NOW + 9}


def test_who_is_alone_compares_once(server: str, client: redis.Redis, codec: VectorCodec) -> None:
    """And once more after another has written."""

    def comparisons() -> int:
        stats: Any = client.info("commandstats")
        return int(stats["cmdstat_mget"]["calls"])

    async def writing() -> None:
        latest = RedisLatest(server, FEATURE_SET, 60)
        async with latest.sink(3) as sink, latest.sink(3) as other:
            for time in (NOW, NOW + 5):
                await put(codec, other, [("V:A", time)])
                await put(codec, sink, [("V:A", time + 1)])
                begun = comparisons()
                for later in (2, 3, 4):
                    await put(codec, sink, [("V:A", time + later)])
                assert comparisons() == begun
                assert held(codec, client, ["V:A"]) == {"V:A": time + 4}

    run(writing())


def test_more_than_a_chunk_is_put_whole(server: str, client: redis.Redis, codec: VectorCodec) -> None:
    names = [f"V:{number}" for number in range(CHUNK + 2)]

    async def writing() -> None:
        async with RedisLatest(server, FEATURE_SET, 60).sink(3) as sink:
            for time in (NOW, NOW + 1, NOW + 2):
                await put(codec, sink, [(name, time) for name in names])

    run(writing())
    assert held(codec, client, names) == dict.fromkeys(names, NOW + 2)


def test_what_is_no_vector_is_replaced(server: str, client: redis.Redis, codec: VectorCodec) -> None:
    """Whatever lies at the key, and as much as there is of it."""
    value = values_of(codec, [("V:A", NOW + SECOND)])[0]
    odd = [b"", b"x", b"\xff" * 2000, value[:6], value[:15], value.replace(b"V:A", b"V:B")]

    async def writing() -> None:
        for each in odd:
            client.set(latest_key(FEATURE_SET.id, "V:A"), each)
            async with RedisLatest(server, FEATURE_SET, 60).sink(3) as sink:
                await put(codec, sink, [("V:A", NOW)])
            assert held(codec, client, ["V:A"]) == {"V:A": NOW}, each

    run(writing())


@pytest.mark.parametrize("puts", [1, 2])
def test_everything_is_gone_after_its_lifetime(server: str, client: redis.Redis, codec: VectorCodec, puts: int) -> None:
    async def writing() -> None:
        async with RedisLatest(server, FEATURE_SET, 77, has_hash=puts == 1).sink(3) as sink:
            for number in range(puts):
                await put(codec, sink, [("V:C", NOW + number)])

    run(writing())
    keys = list(client.scan_iter())
    assert len(keys) == 4 - puts
    assert all(70 <= int(client.ttl(key)) <= 77 for key in keys)


def test_a_readable_hash_is_the_newest_vector_without_its_nulls(
    server: str, client: redis.Redis, codec: VectorCodec
) -> None:
    key, first = hash_key("V:A"), FEATURE_SET.features[0]

    async def writing() -> None:
        async with RedisLatest(server, FEATURE_SET, 60, has_hash=True).sink(3) as sink:
            client.hset(key, "what_was_not_null", "1")
            for time in (NOW + 5, NOW):
                await put(codec, sink, [("V:A", time)])

    run(writing())
    found = {name.decode(): word.decode() for name, word in client.hgetall(key).items()}  # type: ignore[union-attr]
    about = {"time": str(NOW + 5), "as_of": "3:5", "quality": "0", "feature_set": FEATURE_SET.id}
    assert found == {first: "5.0", **about}
    assert held(codec, client, ["V:A"]) == {"V:A": NOW + 5}


@dataclass
class Messages:
    """A batch of vector messages; `seen` is told when it is acknowledged."""

    vectors: Vectors
    values: Sequence[bytes]
    seen: list[str]
    ends_epoch: bool = False

    def ack(self) -> None:
        self.seen.append(f"acknowledged {len(self.values)}")


def test_the_agent_puts_then_announces_then_acknowledges(server: str, client: redis.Redis, codec: VectorCodec) -> None:
    """The second batch is served while the first is told of; the end of the epoch waits for all."""
    both = [[("V:D", NOW), ("V:E", NOW), ("V:D", NOW + 2)], [("V:E", NOW + 3)]]
    seen: list[str] = []
    told: list[asyncio.Future[int]] = []

    async def batches() -> AsyncIterator[Messages]:
        for rows in both:
            yield Messages(vectors_of(rows), values_of(codec, rows), seen)
        asyncio.get_running_loop().call_later(0.1, told[0].set_result, 0)
        yield Messages(vectors_of([]), [], seen, ends_epoch=True)

    def announce(vectors: Vectors) -> asyncio.Future[int]:
        telling = asyncio.get_running_loop().create_future()
        told.append(telling)
        if len(told) > 1:
            telling.set_result(0)
        assert all(held(codec, client, [name])[name] >= time for name, time in named(vectors))
        seen.extend(f"{name} {time - NOW}" for name, time in named(vectors))
        return telling

    async def serving() -> None:
        async with RedisLatest(server, FEATURE_SET, 60).sink(3) as sink:
            await latest_agent(batches(), sink, announce)

    run(serving())
    assert seen == ["V:D 0", "V:E 0", "V:D 2", "V:E 3", "acknowledged 3", "acknowledged 1", "acknowledged 0"]
    assert held(codec, client, ["V:D", "V:E"]) == {"V:D": NOW + 2, "V:E": NOW + 3}


def named(vectors: Vectors) -> Iterator[tuple[str, int]]:
    return zip(vectors.instruments(), vectors.time.tolist(), strict=True)


@pytest.mark.parametrize("begun", [False, True])
def test_a_redis_that_is_full_is_waited_for_and_then_served(
    caplog: pytest.LogCaptureFixture, codec: VectorCodec, begun: bool
) -> None:
    async def writing(url: str, client: redis.Redis) -> None:
        async with RedisLatest(url, FEATURE_SET, 60).sink(3) as sink:
            if begun:
                await put(codec, sink, [("V:F", NOW)])
            client.config_set("maxmemory", "1")
            putting = asyncio.create_task(put(codec, sink, [("V:F", NOW + 1)]))
            deadline = asyncio.get_running_loop().time() + 5
            while "does not take" not in caplog.text:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.01)
            assert not putting.done()
            client.config_set("maxmemory", "0")
            await asyncio.wait_for(putting, 5)

    with EmbeddedRedis() as own, redis.Redis.from_url(own.url) as client:
        run(writing(own.url, client))
        assert held(codec, client, ["V:F"]) == {"V:F": NOW + 1}


def test_a_lost_connection_forgets_what_was_known(
    server: str, client: redis.Redis, codec: VectorCodec, caplog: pytest.LogCaptureFixture
) -> None:
    """While it was away another worker may have put what is newer."""

    async def writing() -> None:
        latest = RedisLatest(server, FEATURE_SET, 60)
        async with latest.sink(3) as sink, latest.sink(3) as other:
            await put(codec, sink, [("V:G", NOW), ("V:H", NOW)])
            client.client_kill_filter(_type="normal", skipme=True)
            await put(codec, other, [("V:G", NOW + 9)])
            await put(codec, sink, [("V:G", NOW + 1), ("V:H", NOW + 1)])

    run(writing())
    assert held(codec, client, ["V:G", "V:H"]) == {"V:G": NOW + 9, "V:H": NOW + 1}
    assert "takes the latest vectors again" in caplog.text


def test_a_missing_redis_is_named_at_the_start() -> None:
    with pytest.raises(DependencyDown, match=r"Redis does not answer.*127\.0\.0\.1:1.*Action: "):
        check_redis(load_settings(redis_url="redis://user:secret@127.0.0.1:1/0"))
    with pytest.raises(UsageError, match="ONETAPE_REDIS_URL"):
        check_redis(load_settings(redis_url="http://localhost"))


def test_hashes_of_a_set_that_is_not_computed_are_refused() -> None:
    with pytest.raises(UsageError, match=r"ONETAPE_REDIS_HASH.*Action: "):
        check_hash(load_settings(redis_hash="other@1"), [FEATURE_SET])
    check_hash(load_settings(redis_hash=FEATURE_SET.id), [FEATURE_SET])
