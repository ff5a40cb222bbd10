"""`onetape dataset evaluate`: what a model's predictions for a dataset are worth.

Errors: those of the evaluation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from app.dataset_commands import DATASETS, DatasetId, Datasets
from app.options import Json
from app.report import Report, facts, grid

if TYPE_CHECKING:
    from replay.evaluation.evaluate import Evaluation

Predictions = Annotated[
    Path, typer.Option("--predictions", help="Parquet or CSV: instrument, time, prediction or p_-1, p_0, p_1; fold.")
]


def evaluate(
    dataset_id: DatasetId,
    predictions: Predictions,
    datasets: Datasets = DATASETS,
    label: Annotated[str | None, typer.Option("--label", help="Label to score against. [default: the first]")] = None,
    split: Annotated[str, typer.Option("--split", help="Splits, separated by commas.")] = "test",
    cost_bps: Annotated[float, typer.Option("--cost-bps", help="Cost of what is bought or sold, in bps.")] = 1.0,
    partial: Annotated[bool, typer.Option("--partial", help="Score what matches; count the rest.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="New folder for evaluation.json and evaluation.svg.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Metrics and returns after cost of a model's predictions, per split and fold."""
    from replay.datasets.catalogue import load_manifest
    from replay.evaluation.evaluate import evaluate as run
    from replay.evaluation.report import write
    from replay.publication import refuse_content

    report = Report(as_json)
    manifest = load_manifest(datasets, dataset_id)
    if out is not None:
        refuse_content(out)
    with report.step(f"Scoring {predictions}"):
        found = run(
            datasets / dataset_id, manifest, predictions, label=label, cost_bps=cost_bps, is_partial=partial,
            splits=[name.strip() for name in split.split(",") if name.strip()],
        )  # fmt: skip
        if out is not None:
            write(found, out)
    files = None if out is None else str(out)
    report.result({**found.content, "out": files}, lambda console: _show(console, found, files))


def _show(console: Console, found: Evaluation, out: str | None) -> None:
    """Sections side by side, then why a value is missing."""
    content = found.content
    console.print(facts({
        "dataset": content["dataset"], "label": f"{content['label']} ({content['task']})",
        **{name: count for name, count in content["predictions"].items() if count or name in ("rows", "matched")},
        "cost of a change of position": f"{content['cost_bps']:g} bps", "files": out,
    }, "Evaluation"))  # fmt: skip
    parts: list[dict[str, Any]] = content["sections"]
    names = [*parts[0]["metrics"], *parts[0]["returns"]] if parts else []
    rows = [[name, *(_short({**each["metrics"], **each["returns"]}[name]) for each in parts)] for name in names]
    console.print(
        grid(None, ["", *(each["name"] for each in parts)], [["rows", *(each["rows"] for each in parts)], *rows])
    )
    reasons: dict[str, dict[str, None]] = {}
    for each in parts:
        for name, why in {**each["reasons"], **each["returns_reasons"]}.items():
            reasons.setdefault(why, {})[name] = None
    for why, unknown in reasons.items():
        console.print(f"  no {', '.join(unknown)}: {why}", markup=False)


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
