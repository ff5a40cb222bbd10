"""Redis down, empty, full, frozen or crashed, and web clients that idle or never read: the agents go on.

One worker goes through all of it, a share of the tape at a time; what it has served after each is held to the oracle.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import live_worker as run
import pytest
import redis
from ledger import Ledger
from own_redis import OwnRedis
from test_latest import FEATURE_SET, NOW, held, put
from test_web import get, scrape
from test_worker import Place, market

from app.config import Settings
from app.embedded import EmbeddedBroker, free_port
from app.redis_frames import latest_key
from app.redis_latest import RedisLatest
from app.web import CONNECTIONS_MAX
from schemas.feature_sets import load_all
from schemas.registry import FileRegistry, open_registry
from schemas.topics import READY, partition_of
from schemas.vector_codec import VectorCodec

EVENTS: Final = 8_000
WAIT_S: Final = 60.0
IDLE: Final = 10_000
FILES_OF_OURS: Final = 1_000
"""Open files of a worker without web clients, generously."""


def wait_until(holds: Callable[[], bool], worker: run.Worker) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        worker.alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Shares:
    """A tape published a share at a time, and the newest vectors that must be readable after each."""

    def __init__(self, settings: Settings, count: int) -> None:
        self.settings, self.raw = settings, market(settings, EVENTS)
        self._cuts = [[len(rows) * i // count for rows in self.raw] for i in range(count + 1)]
        self._done = 0

    @property
    def ends(self) -> list[int]:
        """Offsets behind what is published."""
        return self._cuts[self._done]

    def publish(self, worker: run.Worker) -> None:
        """The next share; returns when its vectors are on their topic and everything is committed."""
        firsts, self._done = self.ends, self._done + 1
        run.publish(self.settings, [rows[a:b] for rows, a, b in zip(self.raw, firsts, self.ends, strict=True)])
        run.wait_committed(self.settings, worker, self.ends)

    def newest(self) -> dict[str, bytes]:
        """Value of each key in Redis."""
        made = run.oracle(self.settings, [rows[:end] for rows, end in zip(self.raw, self.ends, strict=True)])
        return {latest_key(set_id, name): value for (set_id, name, _), value in sorted(made.vectors.items())}


def count_served(shares: Shares, worker: run.Worker, client: redis.Redis, ledger: Ledger) -> None:
    """What is readable, once it is what it must be or all patience is gone."""
    expected = shares.newest()
    deadline = time.monotonic() + WAIT_S / 3
    while (found := dict(zip(expected, client.mget(list(expected)), strict=True))) != expected:  # type: ignore[arg-type]
        worker.alive()
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    ledger.count_latest(found, expected)
    ledger.faults += 1


def count_vectors(shares: Shares, ledger: Ledger) -> int:
    """The whole features topic against the oracle; how many vectors there are."""
    settings, expected = shares.settings, run.oracle(shares.settings, shares.raw).vectors
    for feature_set in load_all(settings.feature_sets):
        codec = VectorCodec(open_registry(settings.registry), feature_set)
        for partition in range(settings.partitions):
            values = [message.value() for message in run.read_topic(settings, feature_set.topic, partition)]
            vectors = codec.decode(values)
            names = zip(vectors.instruments(), vectors.time.tolist(), strict=True)
            wire = [((feature_set.id, name, at), value) for (name, at), value in zip(names, values, strict=True)]
            ledger.count_vectors(
                wire,
                {of: value for of, value in expected.items() if partition_of(of[1], settings.partitions) == partition},
            )
    return len(expected)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with EmbeddedBroker({}) as broker:
        yield Place(broker.bootstrap, True, tmp_path_factory.mktemp("serving"), broker=broker)


@contextmanager
def idle_connections(settings: Settings) -> Iterator[None]:
    """IDLE of them. Whoever asks something in between is answered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = IDLE + FILES_OF_OURS
    assert hard == resource.RLIM_INFINITY or hard >= enough, f"{hard} open files are allowed: ulimit -Hn {enough}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), hard))
    try:
        with ExitStack() as stack:
            for number in range(IDLE):
                stack.enter_context(socket.create_connection(("127.0.0.1", settings.web_port), timeout=WAIT_S))
                if number % 100 == 0:  # fewer than the server's backlog: a connection that it drops waits a second
                    assert get(settings, "/health")[0] == 200
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def reader_of_nothing(port: int) -> Iterator[None]:
    """Asks for the metrics again and again and never reads a byte."""
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", port))
        reader.setblocking(False)
        try:
            for _ in range(10_000):
                reader.send(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        except BlockingIOError:
            pass  # the server reads no further before somebody takes what it has answered
        yield


def stopped(worker: run.Worker) -> str:
    """SIGTERM; it must end well and soon. Returns what it said."""
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(10) == 0, worker.words()
    return worker.words()


@pytest.mark.fault("serving", "Redis down when the worker starts")
@pytest.mark.fault("serving", "Redis full")
@pytest.mark.fault("serving", "Redis slow: it answers nobody")
@pytest.mark.fault("serving", "Redis down while the worker runs, empty when it is back")
@pytest.mark.fault("serving", "Redis emptied (FLUSHALL)")
@pytest.mark.fault("serving", "10^4 idle connections to the web server")
@pytest.mark.fault("serving", "a reader of the web server that never reads")
def test_whatever_redis_and_web_clients_do_the_agents_go_on(place: Place, ledger: Ledger) -> None:
    with OwnRedis() as server:
        settings = place.settings(redis_url=server.url, batch_size=64, web_port=free_port())
        shares, by_set = Shares(settings, 7), (FEATURE_SET.id,)

        def metric(name: str) -> float:
            return scrape(settings)[name].get(by_set, -1.0)

        with run.Worker(settings, ["features", "latest"]) as worker:
            shares.publish(worker)
            wait_until(lambda: metric("redis_up") == 0, worker)
            server.start()
            count_served(shares, worker, server.client, ledger)

            server.client.config_set("maxmemory", "1")
            shares.publish(worker)
            wait_until(lambda: metric("ready_overtaken_total") > 0, worker)
            server.client.config_set("maxmemory", "0")
            count_served(shares, worker, server.client, ledger)
            wait_until(lambda: metric("redis_up") == 1, worker)

            server.freeze()
            shares.publish(worker)
            server.thaw()
            count_served(shares, worker, server.client, ledger)

            server.kill()
            shares.publish(worker)
            server.start()
            count_served(shares, worker, server.client, ledger)

            server.client.flushall()
            shares.publish(worker)
            count_served(shares, worker, server.client, ledger)

            with idle_connections(settings):
                shares.publish(worker)
                files = len(list(Path(f"/proc/{worker.process.pid}/fd").iterdir()))
                assert files < CONNECTIONS_MAX + FILES_OF_OURS < IDLE
                count_served(shares, worker, server.client, ledger)

            with reader_of_nothing(settings.web_port):
                shares.publish(worker)
                count_served(shares, worker, server.client, ledger)
                overtaken = metric("ready_overtaken_total")
                words = stopped(worker)
    assert "Redis does not answer" in words
    assert "Redis takes the latest vectors again" in words
    assert "Traceback" not in words
    made = count_vectors(shares, ledger)
    told = sum(len(run.read_topic(settings, READY, p)) for p in range(settings.partitions))
    assert told + overtaken == made, "each vector could be read, or is counted as overtaken"
    ledger.check()


@pytest.mark.fault("serving", "Redis emptied while nobody makes vectors: it is filled from the topic")
def test_an_empty_redis_is_filled_from_the_topic(place: Place, ledger: Ledger) -> None:
    with OwnRedis() as server:
        settings = place.settings(redis_url=server.url)
        shares = Shares(settings, 1)
        with run.Worker(settings, ["features"]) as worker:
            shares.publish(worker)
            worker.stop()
        server.start()
        with run.Worker(settings, ["latest"]) as worker:
            count_served(shares, worker, server.client, ledger)
            worker.stop()
    count_vectors(shares, ledger)
    ledger.check()


@pytest.mark.fault("serving", "a vector that nobody renews")
def test_what_is_stale_goes_and_nothing_old_gets_a_new_life(tmp_path: Path, ledger: Ledger) -> None:
    """An older vector, or the same once more, neither replaces the newest nor prolongs its life."""
    codec, name = VectorCodec(FileRegistry(tmp_path / "schemas.json"), FEATURE_SET), "V:A"
    key = latest_key(FEATURE_SET.id, name)

    async def writing(server: OwnRedis) -> None:
        async with RedisLatest(server.url, FEATURE_SET, 60).sink(3) as sink:
            await put(codec, sink, [(name, NOW + 5)])
            server.client.pexpire(key, 7_000)
            for again in (NOW + 5, NOW + 4, NOW + 5):
                await put(codec, sink, [(name, again)])
                assert held(codec, server.client, [name]) == {name: NOW + 5}
                ledger.wrong += not 0 < int(server.client.pttl(key)) <= 7_000  # type: ignore[arg-type]
        async with RedisLatest(server.url, FEATURE_SET, 1).sink(3) as sink:
            await put(codec, sink, [(name, NOW + 6)])
            assert held(codec, server.client, [name]) == {name: NOW + 6}
        deadline = time.monotonic() + WAIT_S
        while server.client.exists(key):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    with OwnRedis() as server:
        server.start()
        asyncio.run(writing(server))
    ledger.faults += 1
    ledger.check()
