"""The worker on the web and as a Faust application: its views, its metrics, what the `faust` program makes of it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import live_worker as run
import pytest
import tapes
from prometheus_client.parser import text_string_to_metric_families

from app.config import Settings, environment, load_settings
from app.embedded import EmbeddedRedis, free_port
from app.topics import delete_topics, ensure_topics, sources
from app.web import serve_web
from schemas.errors import UsageError
from schemas.events import Event
from schemas.feature_sets import DEFAULT, load
from schemas.registry import open_registry
from schemas.topics import CLOCK_KEY, DEAD_LETTERS, TAPE
from schemas.units import BASE_TICK_NS
from schemas.vector_codec import VectorCodec

WAIT_S = 120.0
APPS = ("features", "archive")
"""Roles with an app of their own: the first also serves its vectors."""
BAD = b"no record"
VIEWS = ("/", "/assignment/", "/router/", "/router/topics", "/table/", "/performance/")
OF_THE_TABLE = ("/router/state/", "/table/state/", "/router/state/BINANCE_USDM:BTCUSDT/")


@pytest.fixture
def settings(kafka: str, tmp_path: Path) -> Iterator[Settings]:
    with EmbeddedRedis() as server:
        made = load_settings(
            brokers=kafka, redis_url=server.url, topic_prefix=f"w{free_port()}.", partitions=2,
            registry=str(tmp_path / "schemas.json"), data_dir=tmp_path / "data", archive_dir=tmp_path / "archive",
            epoch_s=0.2, archive_flush_s=0.5, web_port=free_port(), slow_vector_s=3600,
        )  # fmt: skip
        ensure_topics(made)
        yield made
        delete_topics(made)


def get(settings: Settings, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.web_port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def told(settings: Settings, path: str) -> Any:
    status, body = get(settings, path)
    assert status == 200, (path, status, body)
    return json.loads(body)


def wait_ready(settings: Settings) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            status, body = get(settings, "/ready")
        except OSError:
            status, body = 0, b"no server"
        if status == 200:
            return dict(json.loads(body)["roles"])
        assert status in (0, 503)
        assert time.monotonic() < deadline, body
        time.sleep(0.05)


def scrape(settings: Settings) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name, then by their label values in the order of the labels' names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(get(settings, "/metrics")[1].decode()):
        for sample in family.samples:
            values = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[values] = sample.value
    return found


def fresh_market() -> list[Event]:
    """Two seconds of events, the last of them just now."""
    events = tapes.market(3, events=2_000, seconds=2)
    late = (time.time_ns() - events[-1].ts_recv) // BASE_TICK_NS * BASE_TICK_NS
    return [each._replace(ts_event=each.ts_event + late, ts_recv=each.ts_recv + late) for each in events]


def publish(settings: Settings) -> list[run.Raw]:
    """A market with a bad record in each partition, on the tape."""
    raw = run.raw_tape(tapes.tape(fresh_market()), settings)
    for messages in raw:
        messages.insert(len(messages) // 2, (b"BINANCE_USDM:BTCUSDT", BAD))
    run.publish(settings, raw)
    return raw


def wait_done(settings: Settings, worker: run.Worker, raw: list[run.Raw]) -> list[list[bytes]]:
    """Until every role has committed all there is; returns the vectors of each partition."""
    ends, topic = [len(messages) for messages in raw], load(DEFAULT).topic
    run.wait_committed(settings, worker, ends)
    run.wait_committed(settings, worker, ends, TAPE, "archive")
    vectors = [[m.value() for m in run.read_topic(settings, topic, p)] for p in range(settings.partitions)]
    run.wait_committed(settings, worker, [len(values) for values in vectors], topic, "archive")
    run.wait_committed(settings, worker, [1, 1], DEAD_LETTERS, "archive")
    return vectors


def assert_counted(settings: Settings, raw: list[run.Raw], vectors: list[list[bytes]]) -> None:
    """The metrics count what is on the topics, event by event."""
    codec = VectorCodec(open_registry(settings.registry), load(DEFAULT))
    held = sum(
        key != CLOCK_KEY.encode() and value != BAD
        for messages, values in zip(raw, vectors, strict=True)
        for key, value in messages[: codec.decode(values).as_of_offset.max()]
    )
    made, by_set, metrics = sum(map(len, vectors)), (DEFAULT,), scrape(settings)
    assert metrics["vectors_total"] == {by_set: made}
    assert metrics["tick_to_vector_seconds_count"] == {by_set: made}
    assert 0 < metrics["tick_to_readable_seconds_count"][by_set] <= made  # the newest of each batch
    assert metrics["event_to_vector_seconds_count"] == {by_set: held}
    assert metrics["event_to_readable_seconds_count"] == {by_set: held}
    assert metrics["event_to_vector_seconds_sum"][by_set] > metrics["tick_to_vector_seconds_sum"][by_set]
    assert metrics["dead_letters_total"] == {("not-wire-format",): 2}
    assert metrics["batch_records_sum"]["features",] == sum(map(len, raw))
    assert metrics["saved_symbols_total"][()] >= len(tapes.INSTRUMENTS)
    assert metrics["saved_bytes_total"][()] > 0
    assert all(metrics["epoch_seconds_count"][role,] >= 1 for role in ("features", "archive"))
    assert metrics["records_missed_total"] == {(role,): 0 for role in APPS}
    places = {(str(p), role, topic) for role in APPS for topic in sources(settings, role) for p in (0, 1)}
    assert metrics["consumer_lag_records"] == dict.fromkeys(places, 0)


@pytest.mark.kafka
def test_views_and_metrics_of_a_worker(settings: Settings) -> None:
    with run.Worker(settings) as worker:
        roles = wait_ready(settings)
        assert {role: of["state"] for role, of in roles.items()} == dict.fromkeys(APPS, "ready")
        tape, changelog = sources(settings, "features")[0], roles["features"]["partitions"].keys()
        assert roles["features"]["partitions"][tape] == [0, 1]
        assert told(settings, "/health") == {"status": "ok"}
        raw = publish(settings)
        vectors = wait_done(settings, worker, raw)
        assert_counted(settings, raw, vectors)
        for path in (*VIEWS, *OF_THE_TABLE):
            told(settings, path)
        for path in VIEWS:
            told(settings, "/archive" + path)
        assert told(settings, "/assignment/")["actives"].keys() == changelog
        state = told(settings, "/table/state/BINANCE_USDM:BTCUSDT/")
        assert state["instrument"] == "BINANCE_USDM:BTCUSDT"
        assert 0 < state["saved_through"] < max(map(len, raw))
        assert get(settings, "/table/state/NOBODY:KNOWS/")[0] == 404
        assert worker.stop() < 10


def faust(settings: Settings, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "faust", "-A", *words]
    return subprocess.Popen(
        command, env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def rows(settings: Settings, command: str, role: str = "") -> list[dict[str, str]]:
    """What a command of the `faust` program lists."""
    process = faust(settings, f"app.faust_app{role}", "--json", command)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, ""), err
    return list(json.loads(out))


def test_the_faust_program_lists_agents_and_tables(tmp_path: Path) -> None:
    settings = load_settings(brokers="127.0.0.1:1", data_dir=tmp_path / "data")
    assert [(row["name"], row["topic"]) for row in rows(settings, "agents")] == [("@features", TAPE)]
    assert [row["name"] for row in rows(settings, "agents", ":archive")] == ["@archive"]
    assert [row["topic"] for row in rows(settings, "agents", ":latest")] == [load(DEFAULT).topic]
    assert rows(settings, "tables")[0]["name"] == "state"
    assert all(row["name"].startswith("faust.") for row in rows(settings, "models"))
    assert not settings.data_dir.exists()


@pytest.mark.kafka
def test_the_faust_program_runs_a_worker_that_tells_of_slow_vectors(settings: Settings) -> None:
    settings = settings.model_copy(update={"slow_vector_s": 1e-6})
    with faust(settings, "app.faust_app", "worker", "-p", str(settings.web_port)) as process:
        try:
            assert wait_ready(settings).keys() == {"features"}
            raw = publish(settings)
            deadline = time.monotonic() + WAIT_S
            while run.committed(settings) != [len(messages) for messages in raw]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "vectors came later than 1e-06 s after their Tick" in err


def test_a_worker_without_agents_has_metrics() -> None:
    async def fetched(settings: Settings) -> bytes:
        async with AsyncExitStack() as stack:
            await serve_web(settings, [], stack)
            with pytest.raises(UsageError, match="the web server cannot have port"):
                await serve_web(settings, [], stack)
            return (await asyncio.to_thread(get, settings, "/metrics"))[1]

    assert b"process_cpu_seconds_total" in asyncio.run(fetched(load_settings(web_port=free_port())))


def test_a_port_in_use_is_told_in_one_line(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.web_port))
        taken.listen()
        with run.Worker(settings, ["features"]) as worker:
            assert worker.ended() == 2
            assert worker.words().startswith("the web server cannot have")
            assert "Action: set ONETAPE_WEB_PORT" in worker.words()
            assert "Traceback" not in worker.words()
