"""Options: what several commands take, how groups of commands are made, how checks are shown.

Errors: UsageError for a value that is not what its option takes.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from app.report import facts, visible
from schemas.errors import UsageError
from schemas.units import duration_ns

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; progress stays on stderr.")]
Archive = Annotated[Path, typer.Option("--archive", help="Folder of the archive.")]
SPEC = "NAME@V|FILE.yaml"
FeatureSetSpec = Annotated[
    str, typer.Option("--feature-set", metavar=SPEC, help="Feature set: its id, or a YAML file of yours.")
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Records per batch; never changes a bit. [default: as stored]")
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=64, help="Never changes a bit. [default: one per usable core, at most 4]"),
]
THREADS_MAX = 4
"""Beyond this the one thread that decodes the archive is what all wait for."""


def thread_count(wanted: int | None) -> int:
    """The threads asked for, or as many as there are cores for."""
    return wanted or min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, THREADS_MAX)


def show_help(context: typer.Context) -> None:
    """A group without a command shows what it has."""
    if context.invoked_subcommand is None:
        context.get_help()


def group(text: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(
        help=text, callback=show_help, invoke_without_command=True, add_completion=False, pretty_exceptions_enable=False
    )


def duration(text: str, option: str) -> int:
    """ns of a duration as 500ms, 30s, 10m, 1h or 1d."""
    ns = duration_ns(text)
    if ns is None:
        raise UsageError(
            f"{option} {text} is no duration", expected="a number and ms, s, m, h or d", was=text,
            action=f"write it as {option} 1h",
        )  # fmt: skip
    return ns


def show_checked(console: Any, title: str, payload: dict[str, Any], *details: str) -> None:
    """A result of a check: its facts, then its findings line by line."""
    console.print(facts({key: value for key, value in payload.items() if not isinstance(value, list | dict)}, title))
    for name in details:
        for line in payload[name]:
            console.print(f"  {name}: {visible(str(line))}", markup=False)


SYMBOLS = "Comma-separated VENUE:SYMBOL."


def names(text: str) -> list[str]:
    """What stands between the commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def to_ns(text: str | None, option: str) -> int | None:
    """ns of an ISO 8601 time (UTC where it names no zone) or of a number of ns."""
    if text is None:
        return None
    try:
        ns = int(text) if text.isdecimal() else _ns_of(datetime.fromisoformat(text))
    except ValueError:
        ns = 2**63
    if abs(ns) >= 2**63:
        raise UsageError(
            f"{option} {text} is no time", expected="ISO 8601 or nanoseconds, before the year 2262", was=text,
            action="write it as 2024-07-19T00:01:00",
        )  # fmt: skip
    return ns


def _ns_of(at: datetime) -> int:
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return int(at.timestamp()) * 1_000_000_000 + at.microsecond * 1_000
