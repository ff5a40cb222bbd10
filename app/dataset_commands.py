"""Commands on datasets: `dataset build`, `verify`, `list`, `show`.

Errors: those of the datasets; a check that failed ends with exit code 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.options import Archive, FeatureSetSpec, Json, Threads, group, thread_count
from app.report import Report, facts, grid, shares
from schemas.errors import CheckFailed, UsageError
from schemas.feature_sets import DEFAULT

Datasets = Annotated[Path, typer.Option("--datasets", help="Folder that holds the datasets.")]

DatasetId = Annotated[str, typer.Argument(help="Id of the dataset, as `onetape dataset list` shows it.")]

DATASETS = Path("datasets")

dataset = group("Datasets: build, verify, list, show.")


@dataset.command()
def build(
    archive: Archive,
    datasets: Datasets = DATASETS,
    feature_set: FeatureSetSpec = DEFAULT,
    horizon: Annotated[int, typer.Option("--horizon", min=1, help="Forward return over so many seconds.")] = 5,
    split: Annotated[str, typer.Option("--split", help="Shares of time.")] = "train=0.7,validation=0.15,test=0.15",
    cuts: Annotated[int, typer.Option("--cuts", min=1, help="Cuts of the leak check.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the cuts.")] = 1,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Vectors with a forward return as label, split by time, proven free of leaks, with a manifest."""
    from app.cuts import random_cuts
    from replay.dataset import Recipe
    from replay.dataset import build as run
    from replay.reader import ArchiveReader

    report = Report(as_json)
    recipe = Recipe(feature_set, horizon, fractions(split))
    with report.step(f"Building a dataset from {archive}") as advance:
        manifest = run(
            ArchiveReader(archive), datasets, recipe, random_cuts(cuts, seed), threads=thread_count(threads),
            progress=shares(advance),
        )  # fmt: skip
    _dataset_result(report, manifest, datasets)


@dataset.command()
def verify(
    dataset_id: DatasetId, datasets: Datasets = DATASETS, threads: Threads = None, as_json: Json = False
) -> None:
    """Rebuild a dataset from its manifest and compare; exit 1 when it is not the same."""
    from replay.dataset import verify as run

    report = Report(as_json)
    with report.step(f"Rebuilding {dataset_id}"):
        found = run(datasets, dataset_id, threads=thread_count(threads))
    report.result(found, lambda console: console.print(facts(found, "Verified" if found["equal"] else "DIFFERENT")))
    if not found["equal"]:
        raise typer.Exit(CheckFailed.exit_code)


@dataset.command("list")
def list_(datasets: Datasets = DATASETS, as_json: Json = False) -> None:
    """The datasets there are."""
    from replay.catalogue import dataset_ids, load_manifest

    found = [load_manifest(datasets, each) for each in dataset_ids(datasets)]
    rows = [[each["id"], each["rows"], each["label"], each["output_hash"][:16]] for each in found]
    table = grid(f"Datasets in {datasets}", ["id", "rows", "label", "output hash"], rows)
    Report(as_json).result({"datasets": found}, lambda console: console.print(table))


@dataset.command()
def show(dataset_id: DatasetId, datasets: Datasets = DATASETS, as_json: Json = False) -> None:
    """One dataset's manifest."""
    from replay.catalogue import load_manifest

    _dataset_result(Report(as_json), load_manifest(datasets, dataset_id), datasets)


def _dataset_result(report: Report, manifest: dict[str, Any], datasets: Path) -> None:
    rows = {f"{name} rows": count for name, count in manifest["splits"].items()}
    shown = {"id": manifest["id"], "folder": str(datasets / manifest["id"]), "rows": manifest["rows"], **rows}
    shown |= {"purged": manifest["purged"], "leaking features": len(manifest["leakcheck"]["leaking"])}
    shown |= {"output hash": manifest["output_hash"]}
    report.result(manifest, lambda console: console.print(facts(shown, "Dataset")))


def fractions(text: str) -> dict[str, str]:
    """Names and shares of a split, in order, as `name=share,...`."""
    parts = [part.partition("=") for part in text.split(",")]
    if not all(name.strip().isidentifier() and share.strip() for name, _, share in parts):
        raise UsageError(
            f"--split {text} is no split", expected="name=share, separated by commas", was=text,
            action="write it as train=0.7,validation=0.15,test=0.15",
        )  # fmt: skip
    return {name.strip(): share.strip() for name, _, share in parts}
