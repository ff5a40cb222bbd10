"""A side of the bench: a process of its own, started, watched and stopped; what it had of the processors.

State: the process; its log in a file.
Errors: DependencyDown when it ends by itself, with its last words.
Units: seconds; times are seconds of the wall clock, as the broker stamps records.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from app.config import Settings, environment
from schemas.errors import DependencyDown

STOP_S: Final = 20.0
SAMPLE_S: Final = 0.05
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Side:
    """`python -m MODULE ARGUMENTS` with the settings in its environment, inside the `with` block.

    It ends when its stdin does: with us, whatever becomes of us.
    """

    def __init__(self, settings: Settings, log: Path, module: str, *arguments: str) -> None:
        self._settings, self._log = settings, log
        self._command = [sys.executable, "-m", module, *arguments]
        self._stopping = threading.Event()
        self._seen: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command, env=environment(self._settings), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=output, start_new_session=True,
            )  # fmt: skip
        self._watch = threading.Thread(target=self._sample, name="bench-side", daemon=True)
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._watch.join()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def alive(self) -> None:
        """Errors: DependencyDown when it has ended."""
        code = self._process.poll()
        if code is not None:
            raise self._ended(code)

    def line(self) -> str:
        """The next line it says. Errors: DependencyDown when it ends instead."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline().decode().strip()
        if not text:
            raise self._ended(self._process.wait())
        return text

    def tell(self, line: str) -> None:
        """Write it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def share(self, first: float, last: float) -> float:
        """Processors it had on average between two times."""
        at, used = np.array(self._seen).T if self._seen else (np.zeros(1), np.zeros(1))
        spent = np.interp([first, last], at, used)
        return float((spent[1] - spent[0]) / max(last - first, SAMPLE_S))

    def _ended(self, code: int) -> DependencyDown:
        words = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
        return DependencyDown(
            "a side of the bench ended", expected="a process that reads on",
            was=f"{' '.join(self._command[1:])}: exit code {code}: {words or 'no word'}",
            action="leave its figure out with --skip, or put right what it says",
        )  # fmt: skip

    def _sample(self) -> None:
        stat = Path(f"/proc/{self._process.pid}/stat")
        while not self._stopping.is_set():
            try:
                fields = stat.read_text(encoding="ascii").rpartition(")")[2].split()
            except OSError:
                return
            self._seen.append((time.time(), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S))
            self._stopping.wait(SAMPLE_S)


def worker(settings: Settings, log: Path, roles: Sequence[str]) -> Side:
    """`onetape worker` with these roles."""
    from app import cli

    return Side(settings, log, cli.__name__, "worker", "--with-parent", "--roles", ",".join(roles))
