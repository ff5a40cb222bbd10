"""The clock on a real Kafka: one leader at a time lays a grid without a hole, whatever becomes of it.

The bound on a standstill of time is generous: only that it ends is tested, how soon is shown by `clock_lag_seconds`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import live_worker as run
import pytest
import tapes
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from kafka_broker import KafkaBroker
from test_live_clock import assert_grid, unrepeated

from app.clock import tick
from app.clock_leader import ClockLeader
from app.config import Settings, load_settings
from app.last_ticks import FIRST_RECORDS, last_ticks
from app.producer import DeliveryFailed
from app.publish import Progress, Publisher
from app.topics import CLOCK_ROLE, delete_topics, ensure_topics, groups, refuse_live_clock, wire_topic
from schemas.codec import TapeCodec
from schemas.errors import RecordRefused, UsageError
from schemas.events import Event, Kind
from schemas.feature_sets import load_all
from schemas.registry import open_registry
from schemas.topics import CLOCK_KEY, TAPE, partition_of
from schemas.units import BASE_TICK_NS, NS_PER_S
from schemas.vector_codec import VectorCodec

pytestmark = pytest.mark.kafka

WAIT_S = 60.0
STANDSTILL_S = 15.0


def settings_for(brokers: str, folder: Path) -> Settings:
    """Topics of its own, their partitions ready."""
    settings = load_settings(
        brokers=brokers, topic_prefix=f"c{uuid4().hex[:8]}.", partitions=3, registry=str(folder / "schemas.json"),
        data_dir=folder / "a", session_timeout_s=1.5, epoch_s=0.2, feature_sets="micro@1",
    )  # fmt: skip
    ensure_topics(settings)
    wait_ready(settings)
    return settings


def wait_ready(settings: Settings) -> None:
    """Until every partition of the tape has a leader."""
    with Progress(settings, wire_topic(settings, TAPE), ["nobody"]) as seen:
        seen.ends()


@pytest.fixture
def place(kafka: str, tmp_path: Path) -> Iterator[Settings]:
    settings = settings_for(kafka, tmp_path)
    yield settings
    delete_topics(settings)


def other(settings: Settings, name: str) -> Settings:
    return settings.model_copy(update={"data_dir": settings.data_dir.parent / name})


def codec_of(settings: Settings) -> TapeCodec:
    return TapeCodec(open_registry(settings.registry))


def put(settings: Settings, partition: int, events: list[Event]) -> None:
    publisher, codec = Publisher(settings), codec_of(settings)
    for event in events:
        publisher.publish(TAPE, partition, event.key.encode(), codec.encode(event))
    publisher.flush()


def laid(settings: Settings, partition: int) -> list[tuple[int, int]]:
    """(Tick, when the broker got it in ms) of a partition, repeats included."""
    codec, found = codec_of(settings), []
    for message in run.read_topic(settings, TAPE, partition):
        try:
            event = codec.decode(message.key(), message.value())
        except RecordRefused:
            continue
        if event.kind is Kind.TICK:
            found.append((event.body["time"], message.timestamp()[1]))
    return found


def ticks(settings: Settings, partition: int) -> list[int]:
    return [at for at, _ in laid(settings, partition)]


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_ticks(settings: Settings, beyond: int, steps: int = 5) -> int:
    """Until every partition has so many Ticks above one; the highest that all of them have."""
    until(lambda: all(max(ticks(settings, p), default=0) > beyond for p in range(settings.partitions)))
    now = min(max(ticks(settings, p)) for p in range(settings.partitions))
    until(lambda: all(max(ticks(settings, p)) >= now + steps * BASE_TICK_NS for p in range(settings.partitions)))
    return min(max(ticks(settings, p)) for p in range(settings.partitions))


def wait_candidates(settings: Settings, count: int) -> None:
    """Until so many workers are in the clock's group, and one of them leads."""
    admin, group = AdminClient({"bootstrap.servers": settings.brokers}), groups(settings)[CLOCK_ROLE]

    def are_there() -> bool:
        members = admin.describe_consumer_groups([group])[group].result().members
        return len(members) == count and sum(bool(m.assignment.topic_partitions) for m in members) == 1

    until(are_there)


def assert_laid(settings: Settings) -> None:
    """A grid in every partition, no Tick before its time."""
    for partition in range(settings.partitions):
        found = laid(settings, partition)
        assert_grid(unrepeated([at for at, _ in found]))
        assert all(at <= ms * 1_000_000 + NS_PER_S for at, ms in found)


def assert_no_standstill(settings: Settings) -> None:
    for partition in range(settings.partitions):
        came = [ms for _, ms in laid(settings, partition)]
        assert max(after - before for before, after in pairwise(came)) < STANDSTILL_S * 1000


def test_a_leader_killed_asleep_or_stopped_is_followed_by_another(place: Settings) -> None:
    """The one that slept wakes as a candidate, and leads again when nobody else is left."""
    with run.Worker(place, [CLOCK_ROLE]) as first:
        last = wait_ticks(place, 0)
        with run.Worker(other(place, "b"), [CLOCK_ROLE]) as second:
            wait_candidates(place, 2)
            first.kill()
            last = wait_ticks(place, last)
            with run.Worker(other(place, "c"), [CLOCK_ROLE]) as third:
                wait_candidates(place, 2)
                second.process.send_signal(signal.SIGSTOP)
                last = wait_ticks(place, last)
                second.process.send_signal(signal.SIGCONT)
                wait_candidates(place, 2)
                third.stop()
            wait_ticks(place, last)
            second.alive()
    assert_laid(place)
    assert_no_standstill(place)


def test_each_partition_is_filled_from_its_own_last_tick(place: Settings) -> None:
    now = time.time_ns() // BASE_TICK_NS * BASE_TICK_NS
    put(place, 0, [tick(now - 50 * BASE_TICK_NS)])
    put(place, 1, [tick(now - 30 * BASE_TICK_NS), tick(now - 31 * BASE_TICK_NS)])
    put(place, 2, [tick(now - 3600 * NS_PER_S)])
    with run.Worker(place, [CLOCK_ROLE]) as worker:
        wait_ticks(place, now)
        worker.kill()
    laid = [unrepeated(ticks(place, partition)) for partition in range(place.partitions)]
    assert [times[0] for times in laid[:2]] == [now - 50 * BASE_TICK_NS, now - 30 * BASE_TICK_NS]
    assert laid[2][1] - laid[2][0] >= 3600 * NS_PER_S
    for times in (laid[0], laid[1], laid[2][1:]):
        assert_grid(times)
        assert len(times) > 5


def test_the_last_tick_is_found_behind_whatever_came_after_it(place: Settings) -> None:
    """Behind many reads, a late Tick, foreign bytes under the clock's key; one partition has none, one is empty."""
    at = time.time_ns() // BASE_TICK_NS * BASE_TICK_NS
    events = tapes.market(1, events=9 * FIRST_RECORDS)
    put(place, 0, [*events, tick(at), tick(at - BASE_TICK_NS), *events])
    put(place, 1, events)
    publisher = Publisher(place)
    for value in (b"", b"\x00\x00\x00", b"x" * 50):
        publisher.publish(TAPE, 0, CLOCK_KEY.encode(), value)
    publisher.flush()
    found = last_ticks(place, wire_topic(place, TAPE), codec_of(place), lambda: None)
    assert found == [at, None, None]


def test_two_leaders_at_once_give_the_vectors_of_one(place: Settings) -> None:
    """Two candidates that cannot see each other, a market, a features worker: its vectors equal, but for their offsets,
    those of the tape on which every Tick comes once."""
    failures: list[BaseException] = []
    small = tapes.tape(tapes.market(5, events=50, seconds=2), place.partitions)
    run.oracle(place, run.raw_tape(small, place))  # compiles for the worker, too
    patient = place.model_copy(update={"slow_vector_s": 60.0})  # a busy machine is no fault
    with run.Worker(patient, ["features"]) as worker:
        with (
            ClockLeader(place, f"{place.topic_prefix}one", failures.append),
            ClockLeader(place, f"{place.topic_prefix}two", failures.append),
        ):
            last = wait_ticks(place, 0)
            shift = time.time_ns() - tapes.START
            market = [e._replace(ts_recv=e.ts_recv + shift) for e in tapes.market(5, events=600, seconds=1)]
            for partition in range(place.partitions):
                put(place, partition, [e for e in market if partition_of(e.key, place.partitions) == partition])
            wait_ticks(place, last, 30)
        raw = [[(m.key(), m.value()) for m in run.read_topic(place, TAPE, p)] for p in range(place.partitions)]
        run.wait_committed(place, worker, [len(rows) for rows in raw])
        worker.stop()
    assert not failures
    once = [list(without_repeats(place, rows)) for rows in raw]
    assert sum(map(len, raw)) > sum(map(len, once)) + 20, "there was one leader only"
    found = run.outcome(place)
    assert found.vectors == run.oracle(place, raw).vectors
    assert len(found.vectors) >= 6
    assert features(place, found) == features(place, run.oracle(place, once))


def without_repeats(settings: Settings, rows: run.Raw) -> Iterator[tuple[bytes, bytes]]:
    codec, last = codec_of(settings), 0
    for key, value in rows:
        event = codec.decode(key, value)
        if event.kind is not Kind.TICK or event.body["time"] > last:
            last = event.body["time"] if event.kind is Kind.TICK else last
            yield key, value


def features(settings: Settings, found: run.Outcome) -> dict[tuple[str, str, int], tuple[int, int, bytes]]:
    """All of each vector but its place on the tape."""
    (feature_set,) = load_all(settings.feature_sets)
    vectors = VectorCodec(open_registry(settings.registry), feature_set).decode(list(found.vectors.values()))
    told = zip(vectors.book_epoch.tolist(), vectors.quality.tolist(), map(bytes, vectors.values), strict=True)
    return dict(zip(found.vectors, told, strict=True))


@pytest.mark.fault("time", "the host's clock is set while the worker lays Ticks")
def test_a_hosts_clock_that_is_set_moves_time_ahead_only(place: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Ahead: the Ticks up to there are laid. Back: time stands until the old one is reached again."""
    failures: list[BaseException] = []
    ahead_ns = 0
    with ClockLeader(place, f"{place.topic_prefix}one", failures.append, lambda: time.time_ns() + ahead_ns):
        last = wait_ticks(place, 0)
        ahead_ns = 30 * NS_PER_S
        last = wait_ticks(place, last + ahead_ns)
        ahead_ns = 0
        until(lambda: "time stands" in caplog.text)
        ahead_ns = 31 * NS_PER_S
        wait_ticks(place, last)
    assert not failures
    assert "set by +30.0 s" in caplog.text
    assert "set by -30.0 s" in caplog.text
    for partition in range(place.partitions):
        laid = ticks(place, partition)
        assert laid == sorted(set(laid))
        assert_grid(laid)


def test_a_tick_that_the_broker_refuses_ends_the_worker(place: Settings) -> None:
    failures: list[BaseException] = []
    too_small = ConfigEntry("max.message.bytes", "10", incremental_operation=AlterConfigOpType.SET)
    tape = ConfigResource(ResourceType.TOPIC, wire_topic(place, TAPE), incremental_configs=[too_small])
    admin = AdminClient({"bootstrap.servers": place.brokers})
    admin.incremental_alter_configs([tape])[tape].result()
    with ClockLeader(place, f"{place.topic_prefix}one", failures.append):
        until(lambda: bool(failures))
    assert [type(error) for error in failures] == [DeliveryFailed]


def test_a_recording_gets_no_live_ticks_unless_it_is_said(place: Settings) -> None:
    old = time.time_ns() // BASE_TICK_NS * BASE_TICK_NS - 2 * 86_400 * NS_PER_S
    for partition in range(place.partitions):
        put(place, partition, [tick(old)])
    failures: list[BaseException] = []
    with ClockLeader(place, f"{place.topic_prefix}one", failures.append):
        until(lambda: bool(failures))
    assert [type(error) for error in failures] == [UsageError]
    assert "no Tick for 2 days" in str(failures[0])
    assert [ticks(place, p) for p in range(place.partitions)] == [[old]] * place.partitions
    resumed = place.model_copy(update={"clock_resume": True})
    with ClockLeader(resumed, f"{place.topic_prefix}two", failures.append):
        wait_ticks(place, old)
    assert len(failures) == 1


def test_a_broker_that_crashes_is_waited_for(tmp_path: Path) -> None:
    """Without a hole, by the same leader or by the other one."""
    with KafkaBroker() as broker:
        settings = settings_for(broker.bootstrap, tmp_path)
        with run.Worker(settings, [CLOCK_ROLE]) as one, run.Worker(other(settings, "b"), [CLOCK_ROLE]) as two:
            last = wait_ticks(settings, 0)
            broker.kill()
            time.sleep(2 * settings.session_timeout_s)
            broker.start()
            wait_ready(settings)
            wait_ticks(settings, last)
            one.alive()
            two.alive()
        assert_laid(settings)


def test_an_import_is_not_laid_into_a_tape_whose_clock_runs(place: Settings) -> None:
    refuse_live_clock(place)
    with run.Worker(place, [CLOCK_ROLE]) as worker:
        wait_ticks(place, 0)
        with pytest.raises(UsageError, match=r"live clock.*Action: "):
            refuse_live_clock(place)
        worker.stop()
    refuse_live_clock(place)
