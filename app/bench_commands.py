"""Commands that measure: `bench engine`.

Errors: exit code 1 where a figure is missed on a quiet machine, or where a rival and the engine differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.options import FeatureSetSpec, Json, group
from app.report import Report
from schemas.errors import CheckFailed
from schemas.feature_sets import DEFAULT

bench = group("Benchmarks: what the engine can do on this machine, in turns with its peers.")


@bench.command()
def engine(
    only: Annotated[str | None, typer.Option("--only", help="Comma-separated figures to measure.")] = None,
    skip: Annotated[str | None, typer.Option("--skip", help="Comma-separated figures to leave out.")] = None,
    recordings: Annotated[
        Path | None, typer.Option("--recordings", help="Also bench the venue recordings of this folder.")
    ] = None,
    feature_set: FeatureSetSpec = DEFAULT,
    as_json: Json = False,
) -> None:
    """The engine against its oracle, a naive version and its peers; its memory, states and start. Takes minutes."""
    from app.bench.engine import bench_engine, show

    report = Report(as_json)
    payload = bench_engine(report, feature_set, only=only, skip=skip, recordings=recordings)
    report.result(payload, lambda console: show(console, payload))
    if payload["missed"]:
        raise typer.Exit(CheckFailed.exit_code)
