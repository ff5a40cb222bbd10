"""What people see: steps with progress on stderr, results as tables on stdout, or one JSON object instead.

State: one `Report` per command.
Units: seconds on the wall clock of this machine, for people only.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import StringIO
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from schemas.errors import OnetapeError

Advance = Callable[[float], None]
"""Called with the fraction done, 0 to 1."""


def _console(file: TextIO | None) -> Console:
    """As wide as the terminal; a file or a pipe has no width to keep to, and a closed stream takes everything."""
    if file is None:
        return Console(file=StringIO())
    return Console(file=file, soft_wrap=True, width=None if file.isatty() else 160)


class Report:
    """Tells a person, or a script when `as_json`, what a command does and found."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._out = _console(sys.stdout)
        self._err = _console(sys.stderr)

    @contextmanager
    def step(self, text: str) -> Iterator[Advance]:
        """A piece of work: a bar while it runs on a terminal, and one line with its time once it is done."""
        begun = time.monotonic()
        with Progress(
            TextColumn("  {task.description}"), BarColumn(bar_width=30), TaskProgressColumn(), TimeRemainingColumn(),
            console=self._err, transient=True, disable=not self._err.is_terminal,
        ) as bar:  # fmt: skip
            task = bar.add_task(visible(text), total=1.0)
            yield lambda fraction: bar.update(task, completed=fraction)
        self._err.print(Text(f"  {visible(text)} ({time.monotonic() - begun:.1f} s)"))

    @property
    def console(self) -> Console:
        """Where people are told what happens."""
        return self._err

    def say(self, text: str) -> None:
        """One line for people."""
        self._err.print(Text(visible(text)))

    def result(self, payload: Mapping[str, Any], show: Callable[[Console], None]) -> None:
        """The result: the payload as JSON, or what `show` prints."""
        if self.as_json:
            self._out.file.write(json.dumps(payload, ensure_ascii=False, allow_nan=False) + "\n")
        else:
            show(self._out)
        self._out.file.flush()

    def error(self, error: OnetapeError) -> None:
        """One line on stderr, and the JSON object where one was asked for."""
        self._err.file.write(f"onetape: {visible(str(error))}\n")
        if self.as_json:
            told = {"fact": error.fact, "expected": error.expected, "was": error.was, "action": error.action}
            with suppress(OSError):  # stdout may be what failed; stderr has said it
                self._out.file.write(
                    json.dumps({"error": told, "exit_code": error.exit_code}, ensure_ascii=False) + "\n"
                )
                self._out.file.flush()


_VISIBLE = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160)]}
_VISIBLE |= {code: f"\\u{code:04x}" for code in [*range(0x2028, 0x202F), *range(0x2066, 0x206A)]}


def visible(text: str) -> str:
    """Control characters of a file or symbol name, escaped: they cannot begin or turn a line or write to a terminal."""
    return text.translate(_VISIBLE)


def shares(advance: Advance) -> Callable[[int, int], None]:
    """Progress in records as a fraction."""
    return lambda done, total: advance(done / max(total, 1))


def facts(rows: Mapping[str, Any], title: str | None = None) -> Table:
    """A two-column table of names and values."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(shown(value)))
    return table


def grid(title: str | None, columns: list[str], rows: list[list[Any]]) -> Table:
    """A table with a header; numbers to the right."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row))
    return table


def shown(value: Any) -> str:
    """A value as people read it: thousands separated, null as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.10g}" if isinstance(value, float) else visible(str(value))


def utc(ns: int) -> str:
    """A time in ns as ISO 8601 with milliseconds."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"
