"""How long a worker that was killed in full work takes to its next correct vector: with its states on disk, and
without, from the changelog alone.

Input: a market of thousands of symbols, of which LEFT seconds are unread at the kill.
Output: figures in seconds, from the start of the new process; from the kill is told beside it. Both are by the broker's
    stamps of the vectors.
Errors: CheckFailed where a vector behind the kill is not the oracle's, where a symbol gets none, or where too little is
    left to read; DependencyDown when the worker ends.
Units: ns UTC; seconds.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Self

from confluent_kafka import Message

from agents.engine import Engine
from app.bench import side
from app.bench.curve import ends
from app.bench.duels import require
from app.bench.market import Load, Market, TapeProducer
from app.bench.measure import Figure, Target
from app.bench.probe import consumer_from, time_of
from app.bench.throughput import KILLED, Runs
from app.bench.wire import TapeWire
from app.config import Settings
from app.embedded import EmbeddedRedis
from app.publish import Progress
from app.roles.features import SAVES_PER_S
from app.topics import COMPACTION_LAG_MS, changelog_of, groups, wire_topic
from schemas.columns import Columns
from schemas.feature_sets import FeatureSet
from schemas.registry import open_registry
from schemas.topics import TAPE
from schemas.units import NS_PER_S
from schemas.vector_codec import VectorCodec

ROLES: Final = ("features", "latest")
BEHIND_S: Final = 150
"""Seconds of the load that are published at once before a kill; LEFT of them must be unread then."""
LEFT: Final = 100
NEXT_S: Final = 5
"""Seconds of the load that are published behind a kill, so that there is a newer T however quick the worker was."""
SAVED_S: Final = COMPACTION_LAG_MS / 1000
"""What a worker saves in so long is all on its changelog."""
TURN_ROWS: Final = 10_000
FOUND_S: Final = 180.0
TARGETS: Final = {"recovery": Target(15, 5, "s", at_most=True), "rebuild": Target(45, 15, "s", at_most=True)}
NOTHING: Final = Target(None, None, "s", at_most=True)


@dataclass(frozen=True, slots=True)
class Killed:
    """Where everything stood at a kill: the latest T that anybody had a vector of, records that no vector had seen."""

    at: float
    started: float
    newest: int
    outputs: list[int]
    left: int


class Feed:
    """A market published as fast as the broker takes it, piece by piece."""

    def __init__(self, settings: Settings, load: Load) -> None:
        self._market, self._wire = Market(load, settings.partitions), TapeWire(open_registry(settings.registry))
        self._producer = TapeProducer(settings, {"linger.ms": 5})
        self.records = [0] * settings.partitions

    def begin(self) -> None:
        """What stands before the first event."""
        self._publish(self._market.begin())

    def seconds(self, seconds: float) -> None:
        """Everything that is received within so long; encoded before any of it is sent."""
        share = seconds / self._market.load.seconds
        self._publish([stream.take(int(share * self._market.rows(stream))) for stream in self._market.streams])

    def _publish(self, parts: list[Columns]) -> None:
        messages = {part.partition: self._wire.encode(part) for part in parts}
        for first in range(0, max(map(len, messages.values())), TURN_ROWS):
            for partition, own in messages.items():
                self._producer.put(partition, own[first : first + TURN_ROWS])
        self._producer.flush()
        for partition, own in messages.items():
            self.records[partition] += len(own)


@dataclass(slots=True)
class Found:
    """What came behind a kill: when the first newer vector and the last symbol's first one, and every vector seen."""

    first: float
    last: float
    values: list[bytes]
    repeats: int


class Following:
    """Reads a topic from some offsets on."""

    def __init__(self, settings: Settings, topic: str, first: list[int]) -> None:
        self._consumer = consumer_from(settings, topic, first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def messages(self, alive: Callable[[], None]) -> Iterator[Message]:
        """Each record that comes, until FOUND_S have passed."""
        deadline = time.monotonic() + FOUND_S
        while time.monotonic() < deadline:
            alive()
            for message in self._consumer.consume(1_000, 0.1):
                if message.error() is None:
                    yield message


def recovered(runs: Runs, wanted: set[str]) -> list[Figure]:
    """Kill a worker in full work and start it again, with its folder and without it."""
    del wanted  # one run gives both
    load, tape = runs.sizes.killed, runs.place.tape("killed")
    figures: list[Figure] = []
    with ExitStack() as stack:
        redis_url = stack.enter_context(EmbeddedRedis()).url
        settings, feature_set = runs.place.run(tape, redis_url=redis_url)
        settings = settings.model_copy(update={"data_dir": settings.data_dir / "data"})
        progress = stack.enter_context(Progress(settings, wire_topic(settings, TAPE), [groups(settings)["features"]]))
        feed = Feed(settings, load)
        feed.begin()
        feed.seconds(load.seconds)
        worker = stack.enter_context(side.worker(settings, runs.place.log("worker"), ROLES))
        values: list[bytes] = []
        for name in TARGETS:
            progress.wait(lambda committed: committed == feed.records, worker.alive)
            if name == "rebuild":
                _age(settings, load)
            feed.seconds(BEHIND_S)
            at = time.time()
            worker.kill()
            if name == "rebuild":
                shutil.rmtree(settings.data_dir)
            killed = _stood(settings, feature_set, sum(feed.records), at)
            if _is_as_asked(load):
                require(killed.left >= load.rate * LEFT, f"{load.rate * LEFT:,.0f} records unread", f"{killed.left:,}")
            worker = stack.enter_context(side.worker(settings, runs.place.log(name), ROLES))
            feed.seconds(NEXT_S)
            found = _listen(settings, feature_set, killed, load.symbols, worker.alive)
            values += found.values
            figures.append(_figure(name, load, killed, found))
            runs.quiets.append(min(worker.share(killed.started, found.last), 1.0))
        worker.kill()
    _compare(Market(load, settings.partitions), settings, feature_set, values)
    return figures


def _age(settings: Settings, load: Load) -> None:
    """Lay onto the changelog what it has of SAVED_S of saving at the worker's rate: every state again and again."""
    changelog = changelog_of(groups(settings)["features"])
    states: list[dict[bytes, bytes]] = [{} for _ in range(settings.partitions)]
    left = sum(ends(settings, changelog))
    with Following(settings, changelog, [0] * settings.partitions) as listener:
        for message in listener.messages(_nobody):
            states[message.partition() or 0][message.key() or b""] = message.value() or b""
            left -= 1
            if not left:
                break
    producer = TapeProducer(settings, {"linger.ms": 20, "batch.size": 256 << 10}, changelog)
    rounds = int(SAVED_S * SAVES_PER_S * settings.partitions / load.symbols)
    for _ in range(min(rounds, load.symbols)):
        for partition, own in enumerate(states):
            producer.put(partition, list(own.items()))
    producer.flush()


def _nobody() -> None:
    """There is no worker whose end would have to be told."""


def _stood(settings: Settings, feature_set: FeatureSet, records: int, at: float) -> Killed:
    """Where a worker that is no more had come, by the last vector of each partition."""
    outputs, last = ends(settings, wire_topic(settings, feature_set.topic)), []
    with Following(settings, wire_topic(settings, feature_set.topic), [max(end - 1, 0) for end in outputs]) as listener:
        for message in listener.messages(_nobody):
            last.append(message.value() or b"")
            if len(last) == sum(end > 0 for end in outputs):
                break
    vectors = VectorCodec(open_registry(settings.registry), feature_set).decode(last)
    left = records - int(vectors.as_of_offset.sum()) - len(vectors)
    return Killed(at, time.time(), int(vectors.time.max()), outputs, left)


def _listen(
    settings: Settings, feature_set: FeatureSet, killed: Killed, symbols: int, alive: Callable[[], None]
) -> Found:
    """Until every symbol has a vector that is newer than anything before the kill."""
    found, seen = Found(0.0, 0.0, [], 0), set()
    with Following(settings, wire_topic(settings, feature_set.topic), killed.outputs) as listener:
        for message in listener.messages(alive):
            stamp, value = message.timestamp()[1] / 1000, message.value() or b""
            found.values.append(value)
            if time_of(value) <= killed.newest:
                found.repeats += 1
                continue
            found.first = min(found.first or stamp, stamp)
            found.last = max(found.last, stamp)
            seen.add(_symbol(value))
            if len(seen) == symbols:
                break
    require(len(seen) == symbols, f"a newer vector of each of {symbols:,} symbols", f"of {len(seen):,}")
    return found


def _symbol(value: bytes) -> bytes:
    """The instrument of a vector, the first field behind the wire format's head, with the length before it."""
    return value[5 : 6 + (value[5] >> 1)]


def _compare(market: Market, settings: Settings, feature_set: FeatureSet, values: list[bytes]) -> None:
    """Errors: CheckFailed unless they are, byte by byte, vectors of one engine that reads the whole tape."""
    codec = VectorCodec(open_registry(settings.registry), feature_set)
    wanted = set(values)
    first, last = min(map(time_of, wanted)), max(map(time_of, wanted))
    for stream in market.streams:
        engine = Engine([feature_set], stream.partition)
        columns = stream.begin()
        while True:
            vectors = engine.apply(columns)[0]
            vectors = vectors.select((vectors.time >= first) & (vectors.time <= last))
            wanted.difference_update(value for _, value in codec.encode(vectors))
            if stream.time > last + NS_PER_S:
                break
            columns = stream.take(TURN_ROWS)
    require(not wanted, "the vectors of an engine that was never killed", f"{len(wanted):,} others")


def _figure(name: str, load: Load, killed: Killed, found: Found) -> Figure:
    target = TARGETS[name] if _is_as_asked(load) else NOTHING
    told = (
        f"{load.symbols:,} symbols, {killed.left:,} records unread; from the kill {found.first - killed.at:.3g} s, "
        f"every symbol after {found.last - killed.started:.3g} s; {len(found.values):,} vectors equal to the oracle's, "
        f"{found.repeats:,} of them repeats"
    )
    return Figure(name, found.first - killed.started, target, told, "live")


def _is_as_asked(load: Load) -> bool:
    return (load.symbols, load.rate) == (KILLED.symbols, KILLED.rate)
