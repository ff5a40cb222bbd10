"""The worker as a process: what it computes does not depend on batch sizes, kills, lost folders or bad input."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import live_worker as run
import pytest
import redis
import tapes
from own_files import own_set

from app import worker
from app.config import Settings, load_settings
from app.embedded import EmbeddedBroker, EmbeddedRedis
from app.redis_frames import latest_key
from app.topics import ROLES, delete_topics, ensure_topics, partitions_of
from app.worker import run_worker
from replay.audit import audit
from replay.parity import parity_of
from replay.reader import ArchiveReader
from schemas.codec import DeadLetterCodec
from schemas.errors import DependencyDown, UsageError
from schemas.feature_sets import load_all
from schemas.registry import open_registry
from schemas.topics import DEAD_LETTERS, TAPE

EVENTS = 20_000
KILLS = 5
SEED = 11


@dataclass
class Place:
    """Broker, Redis and a folder; `settings` makes a run of its own in it."""

    brokers: str
    is_embedded: bool
    folder: Path
    redis_url: str = "redis://localhost:1/0"
    broker: EmbeddedBroker | None = None

    def settings(self, **chosen: Any) -> Settings:
        """Topics of its own; Redis is emptied, for its keys have no prefix and an equal T stays."""
        name = uuid4().hex[:8]
        if "127.0.0.1" in self.redis_url:
            with redis.Redis.from_url(self.redis_url) as client:
                client.flushall()
        made = load_settings(**{
            "brokers": self.brokers, "broker_is_embedded": self.is_embedded, "redis_url": self.redis_url,
            "topic_prefix": f"t{name}.", "partitions": 2, "registry": str(self.folder / "schemas.json"),
            "data_dir": self.folder / name, "archive_dir": self.folder / f"{name}-archive", "session_timeout_s": 1.5,
            "epoch_s": 0.2, "archive_flush_s": 0.5, **chosen,
        })  # fmt: skip
        if self.broker is not None:
            self.broker.create_topics(partitions_of(made))
        else:
            ensure_topics(made)
        return made


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with EmbeddedBroker({}) as broker, EmbeddedRedis() as server:
        yield Place(broker.bootstrap, True, tmp_path_factory.mktemp("embedded"), server.url, broker)


@pytest.fixture
def real(kafka: str, tmp_path: Path) -> Place:
    return Place(kafka, False, tmp_path)


def market(settings: Settings, events: int = EVENTS) -> list[run.Raw]:
    """A tape with a bad record now and then."""
    raw = run.raw_tape(tapes.tape(tapes.market(SEED, events=events, seconds=40)), settings)
    chance = random.Random(SEED)
    for messages in raw:
        for _ in range(5):
            messages.insert(chance.randrange(50, len(messages)), (b"BINANCE_USDM:BTCUSDT", chance.randbytes(20)))
    return raw


def assert_equals_oracle(settings: Settings, raw: list[run.Raw], expected: run.Outcome) -> run.Outcome:
    found = run.outcome(settings)
    assert found.conflicts == 0
    assert found.vectors == expected.vectors
    assert found.states == expected.states
    assert len(expected.vectors) > 100
    assert len(expected.states) == len(tapes.INSTRUMENTS)
    codec = DeadLetterCodec(open_registry(settings.registry))
    letters = {
        (letter.partition, letter.offset): letter.original
        for partition in range(settings.partitions)
        for message in run.read_topic(settings, DEAD_LETTERS, partition)
        for letter in [codec.decode(message.value())]
    }
    bad = {(p, o): v for p, rows in enumerate(raw) for o, (_, v) in enumerate(rows) if len(v) == 20}
    assert letters == bad
    assert len(bad) == 10
    return found


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_every_batch_size_counts_every_record_exactly_once(embedded: Place, batch_size: int) -> None:
    settings = embedded.settings(batch_size=batch_size)
    raw = market(settings)
    expected = run.oracle(settings, raw)
    with run.Worker(settings, ["features"]) as worker:
        run.publish(settings, raw)
        run.wait_committed(settings, worker, [len(rows) for rows in raw])
        assert worker.stop() < 10
    assert_equals_oracle(settings, raw, expected)
    assert run.committed(settings) == [len(rows) for rows in raw]


def test_all_three_agents_in_one_worker(embedded: Place) -> None:
    settings = embedded.settings()
    raw = market(settings, 5_000)
    ends = [len(rows) for rows in raw]
    with run.Worker(settings) as worker:
        run.publish(settings, raw)
        wait_done(settings, worker, ends, ROLES)
        assert worker.stop() < 10
    assert_latest(settings, run.oracle(settings, raw))
    assert_archived(settings, ends)


def test_features_of_ones_own_run_live(embedded: Place, tmp_path: Path) -> None:
    """What a worker emits of a set with a user's file is what one batch gives, and what its archive's replay gives."""
    settings = embedded.settings(feature_sets=str(own_set(tmp_path)))
    raw = market(settings, 5_000)
    ends = [len(rows) for rows in raw]
    expected = run.oracle(settings, raw)
    with run.Worker(settings, ["features", "archive"]) as worker:
        run.publish(settings, raw)
        wait_done(settings, worker, ends, ["archive"])
        assert worker.stop() < 10
    assert run.outcome(settings).vectors == expected.vectors
    assert_archived(settings, ends)


def wait_done(settings: Settings, worker: run.Worker, ends: list[int], roles: Collection[str]) -> None:
    """Until every role has committed all there is."""
    run.wait_committed(settings, worker, ends)
    if "archive" in roles:
        run.wait_committed(settings, worker, ends, TAPE, "archive")
    readers = set(roles) - {"features"} - ({"latest"} if "features" in roles else set())
    for topic in [each.topic for each in load_all(settings.feature_sets)]:
        vectors = [len(run.read_topic(settings, topic, p)) for p in range(settings.partitions)]
        for role in readers:
            run.wait_committed(settings, worker, vectors, topic, role)


def assert_latest(settings: Settings, expected: run.Outcome) -> None:
    """Redis has the newest vector of every instrument and feature set."""
    newest = {latest_key(set_id, name): value for (set_id, name, _), value in sorted(expected.vectors.items())}
    with redis.Redis.from_url(settings.redis_url) as client:
        assert {key: client.get(key) for key in newest} == newest


def assert_archived(settings: Settings, ends: list[int]) -> None:
    """Every offset of the tape is in the archive once, and its replay gives every archived vector to the bit."""
    checked = audit(settings.archive_dir)
    assert checked.ok, checked.json()
    archive = ArchiveReader(settings.archive_dir)
    assert [sum(s.rows for s in archive.segments(p)) for p in archive.partitions()] == ends
    sets = load_all(settings.feature_sets)
    assert sorted(archive.head.feature_sets) == [each.id for each in sets]
    for compared in parity_of(archive, sets, batch_size=64).values():
        assert compared.ok, compared.json()
        assert compared.compared > 100


def kill_and_resume(
    settings: Settings, raw: list[run.Raw], chance: random.Random, roles: Collection[str] = ("features",)
) -> None:
    """Kill the worker at random moments while the tape grows, once with the loss of its folder."""
    shares = KILLS + 1
    cuts = [[len(rows) * i // shares for rows in raw] for i in range(shares + 1)]
    worker = run.Worker(settings, roles)
    try:
        for i in range(shares):
            run.publish(settings, [rows[cuts[i][p] : cuts[i + 1][p]] for p, rows in enumerate(raw)])
            if i < KILLS:
                run.wait_committed(settings, worker, [first + 1 for first in cuts[i]])  # it is somewhere in this share
                time.sleep(chance.uniform(0.0, 0.25))
                worker.kill()
                if i == KILLS // 2:
                    shutil.rmtree(settings.data_dir / "features")
                worker = run.Worker(settings, roles)
        wait_done(settings, worker, cuts[-1], roles)
        assert worker.stop() < 10
    finally:
        worker.kill()


def test_kills_and_a_lost_folder_leave_no_trace_on_the_embedded_broker(embedded: Place) -> None:
    settings = embedded.settings(batch_size=64, epoch_s=0.1, archive_flush_s=0.2)
    raw = market(settings)
    expected = run.oracle(settings, raw)
    kill_and_resume(settings, raw, random.Random(SEED), ROLES)
    assert_equals_oracle(settings, raw, expected)
    assert_latest(settings, expected)
    assert_archived(settings, [len(rows) for rows in raw])


@pytest.mark.kafka
def test_kills_and_a_lost_folder_leave_no_trace_on_a_real_kafka(real: Place) -> None:
    settings = real.settings(batch_size=64, epoch_s=0.1)
    raw = market(settings)
    try:
        kill_and_resume(settings, raw, random.Random(SEED))
        assert_equals_oracle(settings, raw, run.oracle(settings, raw))
    finally:
        delete_topics(settings)


@pytest.mark.fault("replay", "the tape computed by one worker, or by two that take over from each other")
@pytest.mark.kafka
@pytest.mark.fault("crash", "SIGSTOP past the session timeout, then SIGCONT")
def test_two_workers_share_and_take_over(kafka: str, tmp_path: Path) -> None:
    """One joins, one is stopped with SIGSTOP until it has lost its partitions and then goes on, one is killed."""
    place = Place(kafka, False, tmp_path)
    first = place.settings(batch_size=64, epoch_s=0.1)
    second, third = (first.model_copy(update={"data_dir": tmp_path / name}) for name in ("second", "third"))
    raw = market(first)
    cuts = [[len(rows) * i // 5 for rows in raw] for i in range(6)]

    def share(i: int) -> None:
        run.publish(first, [rows[cuts[i][p] : cuts[i + 1][p]] for p, rows in enumerate(raw)])

    with run.Worker(first, ["features"]) as a, run.Worker(second, ["features"]) as b:
        share(0)
        run.wait_committed(first, a, cuts[1])
        a.process.send_signal(signal.SIGSTOP)
        share(1)
        time.sleep(1.5 * first.session_timeout_s)
        run.wait_committed(second, b, cuts[2])
        a.process.send_signal(signal.SIGCONT)
        share(2)
        run.wait_committed(second, b, cuts[3])
        assert a.ended() == 1
        assert "stood still" in a.words()
        with run.Worker(third, ["features"]) as c:
            share(3)
            run.wait_shared(first, 2)
            b.kill()
            share(4)
            run.wait_committed(third, c, cuts[5])
            c.stop()
    assert_equals_oracle(third, raw, run.oracle(third, raw))
    delete_topics(first)


def test_a_state_that_cannot_be_read_stops_the_worker_before_it_commits(embedded: Place) -> None:
    settings = embedded.settings()
    raw = market(settings, 2_000)
    half = [len(rows) // 2 for rows in raw]
    with run.Worker(settings, ["features"]) as worker:
        run.publish(settings, [rows[: half[p]] for p, rows in enumerate(raw)])
        run.wait_committed(settings, worker, half)
        worker.stop()
    for partition in range(settings.partitions):
        run.spoil_state(settings, partition)
    run.publish(settings, [rows[half[p] :] for p, rows in enumerate(raw)])
    with run.Worker(settings, ["features"]) as worker:
        assert worker.ended() == 1
        last = worker.words().strip().rpartition("\n")[2]
    assert "Action: " in last
    assert "Traceback" not in worker.words()
    assert run.committed(settings) == half


@pytest.mark.fault("broker", "a topic with another partition count than the settings")
def test_what_is_missing_is_named_at_the_start(embedded: Place, tmp_path: Path) -> None:
    nobody = load_settings(brokers="127.0.0.1:1", data_dir=tmp_path / "a")
    with pytest.raises(DependencyDown, match=r"broker does not answer.*127\.0\.0\.1:1.*Action: "):
        run_worker(nobody)
    settings = embedded.settings()
    with pytest.raises(UsageError, match=r"ONETAPE_REDIS_URL.*Action: "):
        run_worker(settings.model_copy(update={"redis_url": "http://localhost"}))
    with pytest.raises(UsageError, match=r"another partition count.*ONETAPE_PARTITIONS=2"):
        run_worker(settings.model_copy(update={"partitions": 3}))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="ONETAPE_DATA_DIR"):
        run_worker(settings.model_copy(update={"data_dir": tmp_path / "file"}), ["features"])


@pytest.mark.fault("state", "states of another tape")
def test_states_of_another_tape_are_refused(embedded: Place) -> None:
    settings = embedded.settings()
    settings.data_dir.mkdir()
    (settings.data_dir / "tape.json").write_text('{"origin": "kafka:another/market.events.v1"}')
    with pytest.raises(UsageError, match=r"another tape.*ONETAPE_DATA_DIR"):
        run_worker(settings, ["features"])


@pytest.mark.fault("operator", "two workers on one folder")
def test_two_workers_cannot_share_a_folder(embedded: Place) -> None:
    settings = embedded.settings()
    with run.Worker(settings, ["features"]) as one:
        deadline = time.monotonic() + 20
        while not (settings.data_dir / "features").exists():
            one.alive()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(UsageError, match="is in use"):
            run_worker(settings, ["features"])


@pytest.mark.fault("operator", "bad type")
@pytest.mark.fault("operator", "unknown config key")
def test_settings_that_cannot_be_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="ONETAPE_EPOCH_S"):
        load_settings(epoch_s=0)
    monkeypatch.setenv("ONETAPE_BATCH_SIZE", "many")
    with pytest.raises(UsageError, match=r"ONETAPE_BATCH_SIZE.*'many'"):
        load_settings()
    monkeypatch.delenv("ONETAPE_BATCH_SIZE")
    monkeypatch.setenv("ONETAPE_EPOK_S", "1")
    with pytest.raises(UsageError, match="ONETAPE_EPOK_S is no setting"):
        load_settings()


def test_a_first_start_that_compiles_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(worker, "PATIENCE_S", 0.01)
    deadline = time.monotonic() + 10
    with worker._compiling():
        while worker.COMPILING not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
    assert worker.COMPILING in caplog.text


@pytest.mark.fault("crash", "SIGTERM")
def test_a_signal_while_starting_is_a_clean_stop(embedded: Place) -> None:
    """At any moment from the lock on: compiling, joining the group, recovering."""
    settings = embedded.settings()
    for delay_s in (0.0, 0.5, 1.5):
        with run.Worker(settings) as worker:
            run.wait_locked(settings, worker)
            time.sleep(delay_s)
            assert worker.stop() < 10
        (settings.data_dir / "worker.lock").unlink()
