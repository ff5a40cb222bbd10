"""Stages: how far long work has come, for people on a terminal and as events for programs.

Input: calls of (stage, done, total), as often as it likes.
Output: a bar with rate and remaining time, one line per stage once it is done, and JSON lines of the same.
Units: seconds; `done` and `total` in whatever the stage counts.
Errors: UsageError for an events file that cannot be written.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from app.report import Report, visible
from schemas.errors import UsageError

EVENT_S = 0.5
"""Events of one stage are at least so far apart."""
STDERR = "-"


class Stages:
    """Tells of stages; made by `stages`."""

    def __init__(self, report: Report, bar: Progress, events: TextIO | None) -> None:
        self._report, self._bar, self._events = report, bar, events
        self._stage = ""
        self._task: TaskID | None = None
        self._begun = self._told = 0.0
        self._first = self._done = self._total = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total`; another stage ends the one before."""
        now = time.monotonic()
        if stage != self._stage:
            self.end()
            self._stage, self._begun, self._told, self._first = stage, now, 0.0, done
            self._task = self._bar.add_task(visible(stage), total=total, completed=done, rate="")
        self._done, self._total = done, total
        if now - self._told < EVENT_S and done < total:
            return
        self._told = now
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, rate=self._rate_text(now))
        self._event(now, "progress")

    def end(self) -> None:
        """The stage is done."""
        if not self._stage:
            return
        now = time.monotonic()
        self._event(now, "done")
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._report.say(f"  {self._stage} ({now - self._begun:.1f} s)")
        self._stage = ""

    def _rate(self, now: float) -> float | None:
        seconds = now - self._begun
        return (self._done - self._first) / seconds if seconds > EVENT_S and self._done > self._first else None

    def _rate_text(self, now: float) -> str:
        rate = self._rate(now)
        return "" if rate is None else f"{rate / 1e6:.1f} M/s" if rate >= 1e5 else f"{rate:.0f}/s"

    def _event(self, now: float, event: str) -> None:
        if self._events is None:
            return
        rate = self._rate(now)
        told: dict[str, Any] = {
            "event": event, "stage": self._stage, "done": self._done, "total": self._total,
            "seconds": round(now - self._begun, 3), "per_second": None if rate is None else round(rate, 3),
            "remaining_seconds": None if rate is None else round(max(self._total - self._done, 0) / rate, 3),
        }  # fmt: skip
        self._events.write(json.dumps(told) + "\n")
        self._events.flush()


@contextmanager
def stages(report: Report, events: str | None) -> Iterator[Stages]:
    """Tell of what happens inside; `events` is a file for JSON lines, `-` for stderr. Errors: UsageError."""
    with _opened(events) as file, _bar(report) as bar:
        told = Stages(report, bar, file)
        yield told
        told.end()


def _bar(report: Report) -> Progress:
    return Progress(
        TextColumn("  {task.description}"), BarColumn(bar_width=30), TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=report.console, transient=True,
        disable=not report.console.is_terminal,
    )  # fmt: skip


@contextmanager
def _opened(events: str | None) -> Iterator[TextIO | None]:
    if events is None or events == STDERR:
        yield None if events is None else sys.stderr
        return
    try:
        file = Path(events).open("a", encoding="utf-8")  # noqa: SIM115 (closed below, once it could be opened)
    except OSError as error:
        raise UsageError(
            f"events cannot be written to {events}", expected="a file that can be written, or -", was=str(error),
            action="name another file with --events",
        ) from None  # fmt: skip
    with file:
        yield file
