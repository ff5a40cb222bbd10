"""Commands that measure: `bench engine`, `bench live`, `bench dataset`.

Errors: exit code 1 where a figure is missed on a quiet machine, or where a rival and we differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.options import FeatureSetSpec, Json, group
from app.report import Report
from schemas.errors import CheckFailed
from schemas.feature_sets import DEFAULT

bench = group("Benchmarks: what onetape can do on this machine, in turns with its peers.")
Only = Annotated[str | None, typer.Option("--only", help="Comma-separated figures to measure.")]
Skip = Annotated[str | None, typer.Option("--skip", help="Comma-separated figures to leave out.")]


@bench.command()
def engine(
    only: Only = None,
    skip: Skip = None,
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


@bench.command()
def live(
    only: Only = None,
    skip: Skip = None,
    symbols: Annotated[int | None, typer.Option("--symbols", min=1, max=100_000, help="Symbols of the load.")] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=1, max=1e6, help="Events a second of the load, all symbols together.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", min=1, max=86_400, help="Seconds of the load.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100, help="Rounds of each side.")] = 3,
    feature_set: Annotated[
        Path | None, typer.Option("--feature-set", help="YAML file of a set to compute in place of the bench's own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The live path on a real Kafka: events a second against Faust, Quix and a bare consumer. Takes minutes."""
    from app.bench.live import bench_live, show
    from app.bench.throughput import Sizes

    report = Report(as_json)
    sizes = Sizes(rounds=rounds).loaded(symbols=symbols, rate=rate, seconds=duration)
    payload = bench_live(report, only=only, skip=skip, sizes=sizes, feature_set=feature_set)
    report.result(payload, lambda console: show(console, payload))
    if payload["missed"]:
        raise typer.Exit(CheckFailed.exit_code)


@bench.command()
def dataset(
    only: Only = None,
    skip: Skip = None,
    feast: Annotated[
        str | None, typer.Option("--feast", metavar="PYTHON", help="A Python that has Feast. [default: this one]")
    ] = None,
    feature_set: FeatureSetSpec = DEFAULT,
    as_json: Json = False,
) -> None:
    """A symbol's month as a dataset, memory of builds, training rows against Feast and polars. Takes minutes."""
    from app.bench.dataset import bench_dataset, show

    report = Report(as_json)
    payload = bench_dataset(report, feature_set, only=only, skip=skip, python=feast)
    report.result(payload, lambda console: show(console, payload))
    if payload["missed"]:
        raise typer.Exit(CheckFailed.exit_code)
