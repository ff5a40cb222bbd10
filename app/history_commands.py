"""Commands that ask about the past: `get`.

Errors: UsageError for an instrument, a feature or a time that cannot be, and those of the archive.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from app.options import FeatureSetSpec, Json, to_ns
from app.report import Report, grid, utc
from schemas.feature_sets import DEFAULT


def get(
    symbols: Annotated[list[str], typer.Argument(help="Instruments: VENUE:SYMBOL, one or more.")],
    archive: Annotated[
        Path | None, typer.Option("--archive", help="Folder of the archive. [default: ONETAPE_ARCHIVE_DIR]")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Time: ISO 8601 (UTC) or ns. [default: the archive's last Tick]")
    ] = None,
    features: Annotated[str | None, typer.Option("--features", help="Comma-separated. [default: all]")] = None,
    feature_set: FeatureSetSpec = DEFAULT,
    as_json: Json = False,
) -> None:
    """The newest features of some instruments as they were known at a time, and how fresh they were then."""
    from app.config import load_settings
    from replay.history.lookup import History
    from replay.reader import ArchiveReader

    report = Report(as_json)
    names = None if features is None else [name.strip() for name in features.split(",") if name.strip()]
    reader = ArchiveReader(load_settings().archive_dir if archive is None else archive)
    history = History(reader, reader.head.find(feature_set))
    with report.step(f"Looking up {', '.join(symbols[:3])}{', ...' if len(symbols) > 3 else ''}"):
        answer = history.get_features(symbols, names, to_ns(as_of, "--as-of"))
    for note in answer.notes:
        report.say(f"  {note}")
    payload = answer.json()
    report.result(payload, lambda console: _show(console, payload))


def _show(console: Console, payload: dict[str, Any]) -> None:
    rows = payload["rows"]
    about: list[list[Any]] = [
        [row["instrument"], row["status"], None if row["time"] is None else utc(row["time"]),
         None if row["age_ns"] is None else f"{row['age_ns'] / 1e9:g} s", " ".join(row["quality"]), row["source"]]
        for row in rows
    ]  # fmt: skip
    title = f"{payload['feature_set']} as of {utc(payload['as_of'])}"
    console.print(grid(title, ["instrument", "status", "T", "age", "quality", "source"], about))
    values = [[name, *(row["features"][name] for row in rows)] for name in rows[0]["features"]]
    console.print(grid(None, ["feature", *(row["instrument"] for row in rows)], values))
