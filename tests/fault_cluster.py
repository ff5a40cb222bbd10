"""One to three real workers, a real Kafka, a real Redis, a tape that grows all the time, and whatever may befall them.

State: when there were `kills`; `faults` that happened; the points `reached` at which workers killed themselves, and
    those `missed`; what workers said that `ended` by themselves as they may: when the broker was away at their start;
    when Redis was `emptied` last.
Errors: AssertionError where a worker does not do what it must: stop, go on, or end only where it may, without a
    traceback.
Units: wall-clock seconds.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain, cycle
from operator import gt
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

import dying_worker
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from fault_tape import FaultTape
from kafka_broker import KafkaBroker
from live_worker import Raw
from redis_server import RedisServer
from tcp_proxy import TcpProxy

from app.config import Settings, environment, load_settings
from app.publish import Progress, Publisher
from app.topics import ensure_topics, groups, wire_topic
from schemas.codec import TapeCodec
from schemas.errors import DependencyDown
from schemas.feature_sets import DEFAULT, load_all
from schemas.registry import open_registry
from schemas.topics import TAPE

PARTITIONS: Final = 4
GO_ON_S: Final = 180.0
"""How long everything may stand still before it counts as stuck."""
POINT_S: Final = 60.0
"""How long a worker may take to come to the point at which it kills itself."""
STOP_MAX_S: Final = 10.0
ROLES: Final = ("features", "latest")
FAST: Final = """
name: fast
version: 1
cadence_ms: 100
windows: [500ms, 7s]
depths: [1, 10]
features:
  - mid_price: {missing: skip_row}
  - vwap_{window}: {missing: forward_fill(2s)}
  - volume_{window}: {outliers: "clip(2, 20)"}
  - bid_depth_{depth}
  - zscore(volume_500ms, 30)
"""
"""A set with ten vectors a second of each instrument, some of whose features remember."""


class Process:
    """A worker's process, on its own data folder."""

    def __init__(self, settings: Settings, roles: Sequence[str], point: str | None, count: int) -> None:
        """With `point` it kills itself there, at the `count`-th time."""
        self.settings, self.point = settings, point
        self.may_miss_broker = False
        """Whether the broker went away before it had partitions."""
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.log = settings.data_dir.parent / f"{settings.data_dir.name}.log"
        self._begin = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, dying_worker.__file__, point or "none", str(count), *roles]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment(settings), stdout=log, stderr=log)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def words(self) -> str:
        """What it has said since its start."""
        return self.log.read_bytes()[self._begin :].decode(errors="replace")

    def bug(self) -> str:
        """All it has said, if there is a traceback in it."""
        words = self.words()
        return words if "Traceback" in words else ""

    def owns(self) -> bool:
        """Whether it has partitions: the database of one is open."""
        try:
            opened = list(Path(f"/proc/{self.process.pid}/fd").iterdir())
            return any("/tables/state-" in str(each.readlink()) for each in opened)
        except OSError:  # it has ended, or closed what was just listed
            return False

    def rss_mb(self) -> float:
        """What it has in memory; 0 when it has ended."""
        try:
            told = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0.0
        return next((int(line.split()[1]) / 1024 for line in told.splitlines() if line.startswith("VmRSS")), 0.0)


class Cluster:
    """What faults happen to."""

    def __init__(
        self, broker: KafkaBroker, server: RedisServer, folder: Path, seed: int, *,
        speed: float = 3.0, events_per_s: int = 60, line: TcpProxy | None = None,
    ) -> None:  # fmt: skip
        """`speed` is how many market seconds are published a second, of `events_per_s` events each.

        Workers go through the `line` to the broker.
        """
        self.chance, self.folder, self._speed = random.Random(seed), folder, speed
        self.broker, self.redis = broker, server
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fast.yaml").write_text(FAST)
        self.settings = load_settings(
            brokers=broker.bootstrap, redis_url=server.url, redis_ttl_s=86_400, topic_prefix=f"f{uuid4().hex[:8]}.",
            partitions=PARTITIONS, registry=str(folder / "schemas.json"), feature_sets=f"{DEFAULT},{folder}/fast.yaml",
            session_timeout_s=2.0, epoch_s=0.3, batch_size=128, archive_flush_s=0.5,
            data_dir=folder / "worker-0", archive_dir=folder / "archive",
        )  # fmt: skip
        self._seen = {"brokers": f"127.0.0.1:{line.port}"} if line else {}
        server.flush()
        ensure_topics(self.settings)
        self.alter_features("message.timestamp.type", "LogAppendTime")
        self.tape = FaultTape(TapeCodec(open_registry(self.settings.registry)), PARTITIONS, seed, events_per_s)
        self.workers: list[Process] = []
        self.roles: dict[int, Sequence[str]] = {}
        self.kills: list[float] = []
        self.faults: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.points = cycle(self.chance.sample(sorted(dying_worker.POINTS), len(dying_worker.POINTS)))
        self.reached: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.rss_mb = 0.0
        self.emptied = 0.0
        self._calm = threading.Event()
        self._failed: list[BaseException] = []
        self._publishing = threading.Thread(target=self._publish, name="tape")

    def __enter__(self) -> Self:
        tape, group = wire_topic(self.settings, TAPE), groups(self.settings)["features"]
        self._progress = Progress(self.settings, tape, [group])
        self._publishing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._calm.set()
        self._publishing.join()
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()
        self._progress.__exit__(None, None, None)

    def _publish(self) -> None:
        """The tape grows until it is told to be calm, however the others fare."""
        try:
            publisher, begun, laid = Publisher(self.settings), time.monotonic(), 0
            while not self._calm.wait(max(0.0, begun + laid / self._speed - time.monotonic())):
                for partition, messages in enumerate(self.tape.second()):
                    for key, value in messages:
                        publisher.publish(TAPE, partition, key, value)
                publisher.flush()
                laid += 1
        except BaseException as error:
            self._failed.append(error)

    def ends(self) -> list[int]:
        """Records laid in each partition so far."""
        return [len(messages) for messages in self.tape.laid]

    def calm(self) -> list[Raw]:
        """No more is published; returns the tape."""
        self._calm.set()
        self._publishing.join()
        assert not self._failed, self._failed
        return self.tape.laid

    def start(
        self, number: int | None = None, point: str | None = None, count: int = 1, roles: Sequence[str] | None = None
    ) -> Process:
        """Start one more worker, or one that has ended again; the first one keeps the archive."""
        home = len(self.workers) if number is None else number
        settings = self.settings.model_copy(update={"data_dir": self.folder / f"worker-{home}", **self._seen})
        self.roles.setdefault(home, roles or ((*ROLES, "archive") if home == 0 else ROLES))
        worker = Process(settings, self.roles[home], point, count)
        if number is None:
            self.workers.append(worker)
        else:
            self.workers[number] = worker
        return worker

    def kill(self, number: int) -> None:
        """SIGKILL; nothing is started again."""
        self.workers[number].point = None
        self.workers[number].process.kill()
        self.died(number)

    def died(self, number: int) -> None:
        """Wait for the end of a worker that has been killed, or kills itself at its point.

        It may not come to its point: then it is killed here, if meanwhile every partition has gone on. One that stands
        still has failed.
        """
        worker, begun = self.workers[number], time.monotonic()
        before = self.committed() if worker.point else []
        while (code := worker.process.poll()) is None:
            waited = time.monotonic() - begun
            assert waited < GO_ON_S, f"worker {number} neither works nor comes to {worker.point}:\n{worker.words()}"
            if worker.point and waited > POINT_S and all(map(gt, self.committed(), before)):
                self.missed[worker.point] += 1
                worker.point = None
                worker.process.kill()
            time.sleep(0.02)
        self.kills.append(time.time())
        assert code == -signal.SIGKILL, f"worker {number} ended with {code}, not killed:\n{worker.words()}"
        assert not worker.bug(), worker.bug()
        if worker.point:
            self.reached[worker.point] += 1

    def stop(self, number: int) -> None:
        """SIGTERM: a clean stop, or the end of a Python that had not come to our code yet."""
        worker, begun = self.workers[number], time.monotonic()
        had_begun = worker.owns() or worker.words() != ""
        worker.send(signal.SIGTERM)
        code = worker.process.wait(GO_ON_S)
        took = time.monotonic() - begun
        assert code == 0 or (code == -signal.SIGTERM and not had_begun), (
            f"worker {number} was stopped and ended with {code}:\n{worker.words()}"
        )
        assert took < STOP_MAX_S, f"worker {number} took {took:.1f} s to stop:\n{worker.words()}"
        assert not worker.bug(), worker.bug()

    def wait_owning(self, *numbers: int) -> None:
        """Until each of these workers has partitions."""
        self.wait(f"workers {numbers} have partitions", lambda: all(self.workers[each].owns() for each in numbers))

    def without_broker(self, end: Callable[[], None], seconds: float) -> None:
        """The broker is ended and is back some time later: whoever has partitions goes on, whatever happens to it.

        Who has none yet may end, with the word of a broker that is missing.
        """
        for worker in self.workers:
            worker.may_miss_broker = not worker.owns()
        end()
        time.sleep(seconds)
        self.broker.start()
        self.go_on()
        for worker in self.workers:
            worker.may_miss_broker = False

    def alter_features(self, name: str, value: str) -> None:
        """Set what the broker does with every features topic."""
        admin = AdminClient({"bootstrap.servers": self.settings.brokers, "log_level": 0})
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        topics = [wire_topic(self.settings, each.topic) for each in load_all(self.settings.feature_sets)]
        resources = [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry]) for topic in topics]
        for done in admin.incremental_alter_configs(resources).values():
            done.result()

    def lose_folder(self, number: int) -> None:
        """The states of a worker that has ended are gone from its disk."""
        shutil.rmtree(self.folder / f"worker-{number}" / "features", ignore_errors=True)

    def homes(self) -> list[Settings]:
        """The settings of every worker there has been, by its data folder."""
        folders = sorted(self.folder.glob("worker-*/"))
        return [self.settings.model_copy(update={"data_dir": each}) for each in folders]

    def tend(self) -> None:
        """Start what has ended: at its point, or by itself where it may."""
        assert not self._failed, self._failed
        for number, worker in enumerate(self.workers):
            self.rss_mb = max(self.rss_mb, worker.rss_mb())
            code = worker.process.poll()
            if code is None:
                continue
            if code == -signal.SIGKILL and worker.point:
                self.died(number)
            else:
                words = worker.words()
                is_missing = worker.may_miss_broker and code == DependencyDown.exit_code and "Action: " in words
                is_fine = is_missing and not worker.bug()
                assert is_fine, f"worker {number} ended by itself with {code}:\n{words}"
                self.ended[f"{code}: {words.strip().rpartition(chr(10))[2][:160]}"] += 1
            self.start(number)

    def wait(self, what: str, until: Callable[[], bool]) -> None:
        """Tend the workers until something has happened."""
        deadline = time.monotonic() + GO_ON_S
        while not until():
            self.tend()
            assert time.monotonic() < deadline, f"{what}: not within {GO_ON_S:.0f} s\n{self.words()}"
            time.sleep(0.05)

    def wait_shared(self) -> None:
        """Until every worker has partitions of the tape, and every partition one owner."""
        admin = AdminClient({"bootstrap.servers": self.settings.brokers, "log_level": 0})
        group, tape = groups(self.settings)["features"], wire_topic(self.settings, TAPE)

        def is_shared() -> bool:
            try:
                members = admin.describe_consumer_groups([group], request_timeout=5)[group].result().members
            except KafkaException:  # the coordinator is just coming back
                return False
            owned = [
                [tp.partition for tp in member.assignment.topic_partitions if tp.topic == tape] for member in members
            ]
            has_all = sorted(chain.from_iterable(owned)) == list(range(PARTITIONS))
            return has_all and sum(map(bool, owned)) == len(self.workers)

        self.wait("every partition has one owner", is_shared)

    def committed(self) -> list[int]:
        """How far the tape is done, by partition."""
        return self._progress.committed()

    def go_on(self) -> None:
        """Until all that is on the tape now is committed in every partition."""
        ends = self.ends()

        def is_done() -> bool:
            return all(done >= end for done, end in zip(self._progress.committed(), ends, strict=True))

        self.wait(f"the tape committed up to {ends}", is_done)

    def wait_for_group(self, group: str, topic: str, ends: Sequence[int]) -> None:
        """Until a group has committed up to these ends of a topic."""
        with Progress(self.settings, topic, [group]) as progress:
            due = list(ends)
            self.wait(f"{topic} committed by {group} up to {due}", lambda: progress.committed() == due)

    def words(self) -> str:
        """The end of what each worker has said."""
        return "\n".join(f"worker {i}: {worker.words()[-2000:]}" for i, worker in enumerate(self.workers))
