"""A real Apache Kafka for tests: one KRaft node, started from the Maven artifacts of tests/kafka-pom.xml.

Input: Java 17 or newer; Maven for the first start only (the jars stay in the git-ignored .cache of this repository).
State: a temporary folder, removed at the end; `stop` then `start` keeps the data, `kill` is a crash.
Errors: KafkaMissing when Java or the jars are not to be had; RuntimeError with the log's end when it does not start.

By hand: `python tests/kafka_broker.py` starts it in the foreground.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from app.embedded import GuardedProcess, free_port

ROOT: Final = Path(__file__).resolve().parent.parent
POM: Final = ROOT / "tests" / "kafka-pom.xml"
JAVA_MIN: Final = 17
START_S: Final = 60.0
CLUSTER_ID: Final = "b25ldGFwZS1rYWZrYS0wMQ"
# Start-up time matters more here than peak throughput, so no second compiler and one garbage collector thread.
JVM: Final = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]

PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller_port}
log.dirs={data}
auto.create.topics.enable=false
num.partitions=1
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=16777216
log.cleaner.threads=1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
controlled.shutdown.enable=false
"""


class KafkaMissing(Exception):
    """Java or the Kafka jars are not to be had; the text says which, in one line."""


def java() -> str:
    """Path of a Java that is new enough."""
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    program = program or shutil.which("java")
    if not program:
        raise KafkaMissing(f"no java on PATH: install Java {JAVA_MIN} or newer, or set KAFKA_BOOTSTRAP")
    shown = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', shown)
    if not found or int(found[1]) < JAVA_MIN:
        raise KafkaMissing(f"Java {JAVA_MIN} or newer is needed, found {shown.splitlines()[:1]}")
    return program


def jars() -> Path:
    """Folder with Kafka's jars, fetched by Maven unless an earlier start did."""
    version = re.search(r"<kafka\.version>(.+?)</kafka\.version>", POM.read_text(encoding="utf-8"))
    assert version, f"{POM.name} names no kafka.version"
    folder = ROOT / ".cache" / f"kafka-{version[1]}"
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if not maven:
        raise KafkaMissing("no mvn on PATH: install Maven, or set KAFKA_BOOTSTRAP")
    folder.parent.mkdir(exist_ok=True)
    # Renamed when complete: an interrupted fetch or a second one at the same time leaves no half class path.
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        command = [maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
        command.append(f"-DoutputDirectory={partial}")
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise KafkaMissing(f"Maven did not fetch Kafka: {(done.stdout or done.stderr).strip().splitlines()[:1]}")
        if not folder.is_dir():
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


class KafkaBroker:
    """One Kafka node, reachable at `bootstrap` inside the `with` block."""

    bootstrap: str

    def __init__(self, properties: str = "", format_words: Sequence[str] = ()) -> None:
        """`properties` are added to PROPERTIES and filled in like them; `format_words` go to the storage tool."""
        self._properties, self._format_words = PROPERTIES + properties, format_words

    def __enter__(self) -> Self:
        self._process: GuardedProcess | None = None
        self._java, self._class_path = java(), f"{jars()}/*"
        self._folder = Path(tempfile.mkdtemp(prefix="onetape-kafka-"))
        try:
            port = free_port()
            self.bootstrap = f"127.0.0.1:{port}"
            self._format(port)
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process:
            self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the node on its data folder and wait until it answers."""
        with (self._folder / "kafka.log").open("ab") as log:
            command = [self._java, "-Xmx512m", "-Xms256m", *JVM, "-cp", self._class_path, "kafka.Kafka"]
            self._process = GuardedProcess([*command, str(self._folder / "server.properties")], log, self._folder)
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 100})
        deadline = time.monotonic() + START_S
        while True:
            try:
                if admin.list_topics(timeout=0.5).brokers:
                    return
            except KafkaException as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"Kafka did not start in {START_S:.0f} s:\n{self._log_tail()}") from error

    def stop(self) -> None:
        """End the node in an orderly way; the data stays until the `with` block ends."""
        assert self._process
        self._process.stop()

    def kill(self) -> None:
        """Crash the node with SIGKILL; `start` brings it back on its data."""
        assert self._process
        self._process.kill()

    def _format(self, port: int) -> None:
        properties = self._folder / "server.properties"
        filled = self._properties.format(port=port, controller_port=free_port(), data=self._folder / "data")
        properties.write_text(filled, encoding="utf-8")
        command = [self._java, "-Xmx128m", *JVM, "-cp", self._class_path, "kafka.tools.StorageTool", "format"]
        command += ["-t", CLUSTER_ID, "-c", str(properties), *self._format_words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"Kafka's storage tool failed:\n{done.stdout}{done.stderr}")

    def _log_tail(self) -> str:
        return "\n".join((self._folder / "kafka.log").read_text(errors="replace").splitlines()[-30:])


def main() -> int:
    """Run one node in the foreground until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print("Starting Apache Kafka (the first time Maven fetches it) ...", file=sys.stderr)
        with KafkaBroker() as broker:
            print(f"export KAFKA_BOOTSTRAP={broker.bootstrap} ONETAPE_BROKERS={broker.bootstrap}", flush=True)
            print("Kafka is up; its data goes when it stops. Stop it with Ctrl-C.", file=sys.stderr)
            signal.pause()
    except KafkaMissing as missing:
        print(f"Action: {missing}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("Kafka has stopped.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
