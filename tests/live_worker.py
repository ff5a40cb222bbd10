"""A real worker process, what it leaves behind, and the oracle: the same agent over the same records at once.

State of a worker is read from its RocksDB folders after it has stopped.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import dying_worker
import rocksdict
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from agents.features import features_agent
from app.config import Settings, environment
from app.publish import Progress, Publisher
from app.topics import ROLES, groups, wire_topic
from app.worker import COMPILING
from schemas.codec import DeadLetter, TapeCodec
from schemas.columns import Columns, to_events
from schemas.feature_sets import load_all
from schemas.registry import open_registry
from schemas.topics import TAPE
from schemas.vector_codec import VectorCodec
from schemas.vectors import Vectors
from tables.store import pack, unpack

WORK_S: Final = 60.0
Raw = list[tuple[bytes | None, bytes | None]]


class Worker:
    """`run_worker` in a process of its own."""

    def __init__(self, settings: Settings, roles: Collection[str] = ROLES) -> None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self._log = settings.data_dir.parent / f"{settings.data_dir.name}.log"
        with self._log.open("ab") as log:
            command = [sys.executable, dying_worker.__file__, "none", "1", *roles]
            self.process = subprocess.Popen(command, env=environment(settings), stdout=log, stderr=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def alive(self) -> None:
        assert self.process.poll() is None, f"the worker ended with {self.process.returncode}:\n{self.words()}"

    def words(self) -> str:
        """What it has said, all starts together, but that it compiles."""
        return "".join(line for line in self._log.read_text().splitlines(True) if COMPILING not in line)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> float:
        """SIGTERM; returns the seconds until it ended. It must end well and silently."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        assert (code, self.words()) == (0, ""), self.words()
        return time.monotonic() - begun

    def ended(self) -> int:
        """The exit code, once it ends by itself."""
        return self.process.wait(90)


def raw_tape(parts: list[Columns], settings: Settings) -> list[Raw]:
    """(key, value) messages of each partition."""
    codec = TapeCodec(open_registry(settings.registry))
    return [[(event.key.encode(), codec.encode(event)) for event in to_events(columns)] for columns in parts]


def publish(settings: Settings, tape: list[Raw]) -> None:
    publisher = Publisher(settings)
    for partition, messages in enumerate(tape):
        for key, value in messages:
            publisher.publish(TAPE, partition, key, value)
    publisher.flush()


def committed(settings: Settings, topic: str = TAPE, role: str = "features") -> list[int]:
    with Progress(settings, wire_topic(settings, topic), [groups(settings)[role]]) as seen:
        return seen.committed()


def wait_committed(
    settings: Settings, worker: Worker, least: list[int], topic: str = TAPE, role: str = "features"
) -> None:
    """Until a role has committed at least so far in every partition."""
    deadline = time.monotonic() + WORK_S
    with Progress(settings, wire_topic(settings, topic), [groups(settings)[role]]) as seen:
        while any(now < end for now, end in zip(seen.committed(), least, strict=True)):
            worker.alive()
            assert time.monotonic() < deadline, f"{seen.committed()} of {least} after {WORK_S:.0f} s"
            time.sleep(0.05)


def wait_locked(settings: Settings, worker: Worker) -> None:
    """Until a worker that has just been started holds its folder."""
    deadline = time.monotonic() + WORK_S
    while not (settings.data_dir / "worker.lock").exists():
        worker.alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_shared(settings: Settings, workers: int) -> None:
    """Until so many workers have partitions of the tape each."""
    admin, group = AdminClient({"bootstrap.servers": settings.brokers}), groups(settings)["features"]
    deadline = time.monotonic() + WORK_S
    while True:
        described = admin.describe_consumer_groups([group])[group].result()
        if sum(bool(member.assignment.topic_partitions) for member in described.members) == workers:
            return
        assert time.monotonic() < deadline, described.members
        time.sleep(0.05)


def read_topic(settings: Settings, topic: str, partition: int) -> list[Any]:
    """Every message of a partition that is still there."""
    place = TopicPartition(wire_topic(settings, topic), partition)
    consumer = Consumer({"bootstrap.servers": settings.brokers, "group.id": "reader", "enable.auto.commit": False})
    try:
        first, end = consumer.get_watermark_offsets(place, timeout=10)
        place.offset = first
        consumer.assign([place])
        found: list[Any] = []
        while first < end:
            found.extend(consumer.consume(min(end - first, 100_000), timeout=5))
            first = found[-1].offset() + 1 if found else first
        return found
    finally:
        consumer.close()


@dataclass
class Outcome:
    """Vectors by identity (feature set, instrument, T), states by instrument and partition, letters by tape place."""

    vectors: dict[tuple[str, str, int], bytes] = field(default_factory=dict)
    states: dict[tuple[int, str], bytes] = field(default_factory=dict)
    letters: dict[tuple[int, int], DeadLetter] = field(default_factory=dict)
    repeats: int = 0
    conflicts: int = 0


def outcome(settings: Settings) -> Outcome:
    """What a stopped worker has left on the features topics and in its folder."""
    found = Outcome()
    for feature_set in load_all(settings.feature_sets):
        codec = VectorCodec(open_registry(settings.registry), feature_set)
        for partition in range(settings.partitions):
            values = [message.value() for message in read_topic(settings, feature_set.topic, partition)]
            vectors = codec.decode(values)
            for instrument, at, value in zip(vectors.instruments(), vectors.time.tolist(), values, strict=True):
                known = found.vectors.setdefault((feature_set.id, instrument, at), value)
                found.conflicts += known != value
                found.repeats += 1
    for partition in range(settings.partitions):
        found.states |= states_of(settings, partition)
    found.repeats -= len(found.vectors)
    return found


def state_folder(settings: Settings, partition: int) -> Path:
    return next(_state_folders(settings, partition))


def _state_folders(settings: Settings, partition: int) -> Iterator[Path]:
    return (settings.data_dir / "features").glob(f"*/*/tables/state-{partition}.db")


def states_on_disk(settings: Settings, partition: int) -> dict[str, bytes]:
    """Nothing where the worker never had the partition."""
    if not any(_state_folders(settings, partition)):
        return {}
    options = rocksdict.Options(raw_mode=True)
    db = rocksdict.Rdict(str(state_folder(settings, partition)), options, access_type=rocksdict.AccessType.read_only())
    try:
        items = {key: value for key, value in db.items() if not key.startswith(b"__faust")}
    finally:
        db.close()
    return {key.decode(): unpack(value)[1] for key, value in items.items()}


def states_of(settings: Settings, partition: int) -> dict[tuple[int, str], bytes]:
    """The same by partition and instrument."""
    return {(partition, key): blob for key, blob in states_on_disk(settings, partition).items()}


def spoil_state(settings: Settings, partition: int) -> None:
    """Put a state that no arena wrote in front of the first instrument of a partition."""
    path, options = str(state_folder(settings, partition)), rocksdict.Options(raw_mode=True)
    db = rocksdict.Rdict(path, options)
    key = next(key for key in db.keys() if not key.startswith(b"__faust"))  # noqa: SIM118
    db[key] = pack(0, b"no state")
    db.close()


@dataclass
class _Whole:
    """One batch with all records of a partition."""

    columns: Columns
    partition: int
    is_first: bool = True
    ends_epoch: bool = True
    acked: bool = False

    def ack(self) -> None:
        self.acked = True


class _Kept:
    """States in memory."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[int, str], bytes] = {}

    def load(self, partition: int) -> dict[str, bytes]:
        return {key: blob for (home, key), blob in self.blobs.items() if home == partition}

    def save(self, partition: int, blobs: Mapping[str, bytes]) -> None:
        self.blobs |= {(partition, key): blob for key, blob in blobs.items()}


def oracle(settings: Settings, tape: list[Raw]) -> Outcome:
    """What must come out: the features agent over every partition in one batch, nothing else in between."""
    sets = load_all(settings.feature_sets)
    registry = open_registry(settings.registry)
    reader, states, emitted, letters = TapeCodec(registry), _Kept(), [], []

    async def emit(vectors: Vectors) -> None:
        emitted.append(vectors)

    async def batches() -> AsyncIterator[_Whole]:
        for partition, messages in enumerate(tape):
            keys, values = zip(*messages, strict=True)
            columns, refused = reader.decode_batch(TAPE, partition, range(len(messages)), keys, values)
            letters.extend(refused)
            yield _Whole(columns, partition)

    asyncio.run(features_agent(batches(), states, emit, sets))
    found = Outcome(states=states.blobs, letters={(each.partition, each.offset): each for each in letters})
    writers = {each.id: VectorCodec(registry, each) for each in sets}
    for vectors in emitted:
        set_id = vectors.feature_set.id
        for instrument, at, (_, value) in zip(
            vectors.instruments(), vectors.time.tolist(), writers[set_id].encode(vectors), strict=True
        ):
            found.vectors[set_id, instrument, at] = value
    return found
