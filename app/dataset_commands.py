"""Commands on datasets: `dataset build`, `verify`, `list`, `show`.

Errors: those of the datasets; a check that failed ends with exit code 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.options import SYMBOLS, Archive, FeatureSetSpec, Json, duration, group, names, to_ns
from app.report import Report, facts, grid, utc
from schemas.errors import CheckFailed
from schemas.feature_sets import DEFAULT

if TYPE_CHECKING:
    from replay.datasets.recipe import Recipe

Datasets = Annotated[Path, typer.Option("--datasets", help="Folder that holds the datasets.")]
DatasetId = Annotated[str, typer.Argument(help="Id of the dataset, as `onetape dataset list` shows it.")]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes", min=1, max=256, help="Symbols are shared out to so many. [default: 1; with ray, all its CPUs]"
    ),
]
EngineName = Annotated[str, typer.Option("--engine", help="local (processes of this machine) or ray.")]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="Of a Ray cluster that sees the same folders. [default: one here]")
]
Events = Annotated[
    str | None, typer.Option("--events", metavar="FILE|-", help="Also write progress as JSON lines; - is stderr.")
]
DATASETS = Path("datasets")
LABEL = "forward_return_5s"
SPLIT = "train=0.7,validation=0.15,test=0.15"

dataset = group("Datasets: build, verify, evaluate, list, show.")


@dataset.command()
def build(
    archive: Archive,
    datasets: Datasets = DATASETS,
    feature_set: FeatureSetSpec = DEFAULT,
    labels: Annotated[
        list[str] | None, typer.Option("--label", help=f"A label of docs/labels.md; repeat it. [default: {LABEL}]")
    ] = None,
    entry_delay: Annotated[str, typer.Option("--entry-delay", help="From T to the entry; 0 or 200ms.")] = "0",
    label_step: Annotated[
        str | None, typer.Option("--label-step", help="Grid of prices for labels. [default: the cadence]")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="how rows are divided, as in docs/splits.md.")] = SPLIT,
    values: Annotated[
        str, typer.Option("--values", help="Missing values, outliers and scales, as in docs/splits.md.")
    ] = "",
    symbols: Annotated[str | None, typer.Option("--symbols", help=SYMBOLS)] = None,
    from_: Annotated[str | None, typer.Option("--from", help="First T: ISO 8601 (UTC) or ns.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="End of T, exclusive: ISO 8601 (UTC) or ns.")] = None,
    keep_warmup: Annotated[bool, typer.Option("--keep-warmup", help="Keep rows whose windows are not full.")] = False,
    cuts: Annotated[int, typer.Option("--cuts", min=1, max=10_000, help="Cuts of the leak check.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the cuts.")] = 1,
    processes: Processes = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
    events: Events = None,
    as_json: Json = False,
) -> None:
    """Vectors with labels, split and purged, proven free of leaks, with a manifest and a card."""
    from app.cuts import random_cuts
    from app.stages import stages
    from replay.datasets.build import build as run
    from replay.datasets.engines import engine_of
    from replay.datasets.recipe import Recipe
    from replay.reader import ArchiveReader
    from replay.splits.spec import parse as parse_split
    from replay.values.spec import parse as parse_values

    report = Report(as_json)
    recipe = Recipe(
        feature_set, tuple(labels or [LABEL]), parse_split(split), parse_values(values),
        entry_delay_ns=0 if entry_delay == "0" else duration(entry_delay, "--entry-delay"),
        label_step_ns=None if label_step is None else duration(label_step, "--label-step"),
        keeps_warmup=keep_warmup, symbols=None if symbols is None else tuple(names(symbols)),
        from_ns=to_ns(from_, "--from"), to_ns=to_ns(to, "--to"),
    )  # fmt: skip
    reader = ArchiveReader(archive)
    with engine_of(engine, processes, ray_address) as where, stages(report, events) as told:
        manifest = run(reader, datasets, recipe, random_cuts(cuts, seed), engine=where, told=told)
    _tell_missing(report, recipe, manifest["coverage"])
    _dataset_result(report, manifest, datasets)


@dataset.command()
def verify(
    dataset_id: DatasetId,
    datasets: Datasets = DATASETS,
    archive: Annotated[
        Path | None, typer.Option("--archive", help="In place of the archive that the manifest names.")
    ] = None,
    processes: Processes = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
    events: Events = None,
    as_json: Json = False,
) -> None:
    """Rebuild a dataset from its manifest and compare; exit 1 when it is not the same."""
    from app.stages import stages
    from replay.datasets.engines import engine_of
    from replay.datasets.verify import verify as run
    from replay.reader import ArchiveReader

    report = Report(as_json)
    reader = None if archive is None else ArchiveReader(archive)
    with engine_of(engine, processes, ray_address) as where, stages(report, events) as told:
        found = run(datasets, dataset_id, reader, engine=where, told=told)
    report.result(found, lambda console: console.print(facts(found, "Verified" if found["equal"] else "DIFFERENT")))
    if not found["equal"]:
        raise typer.Exit(CheckFailed.exit_code)


@dataset.command("list")
def list_(datasets: Datasets = DATASETS, as_json: Json = False) -> None:
    """The datasets there are, and what interrupted builds have left to go on with."""
    from replay.datasets.catalogue import dataset_ids, load_manifest
    from replay.datasets.work import unfinished

    report, found = Report(as_json), []
    for dataset_id in dataset_ids(datasets):
        try:
            found.append(load_manifest(datasets, dataset_id))
        except CheckFailed as error:  # the others are there all the same
            report.say(f"  torn: {error}")
    left = unfinished(datasets)
    rows = [[each["id"], each["rows"], ", ".join(map(str, each["labels"])), each["output_hash"][:16]] for each in found]
    for each in left:
        what = "verification unfinished" if each["of"] == "verify" else "unfinished"
        report.say(
            f"  {what}: {each['id']} ({each['size_bytes']:,} bytes): {each['of']} it again, or delete {each['folder']}"
        )
    table = grid(f"Datasets in {datasets}", ["id", "rows", "labels", "output hash"], rows)
    report.result({"datasets": found, "unfinished": left}, lambda console: console.print(table))


@dataset.command()
def show(dataset_id: DatasetId, datasets: Datasets = DATASETS, as_json: Json = False) -> None:
    """One dataset's manifest."""
    from replay.datasets.catalogue import load_manifest

    _dataset_result(Report(as_json), load_manifest(datasets, dataset_id), datasets)


def _tell_missing(report: Report, recipe: Recipe, covered: dict[str, int]) -> None:
    """Say so where rows were asked for that the archive cannot give."""
    if recipe.from_ns is not None and recipe.from_ns < covered["first"]:
        report.say(f"  the first row is of {utc(covered['first'])}, not of --from {utc(recipe.from_ns)}")
    if recipe.to_ns is not None and recipe.to_ns > covered["last"] + recipe.reach_ns:
        report.say(f"  the last row is of {utc(covered['last'])}; --to was {utc(recipe.to_ns)}")


def _dataset_result(report: Report, manifest: dict[str, Any], datasets: Path) -> None:
    folder = datasets / manifest["id"]
    shown = {"id": manifest["id"], "folder": str(folder), "card": str(folder / "card.html"), "rows": manifest["rows"]}
    if manifest.get("reused"):
        shown["built"] = "it was there already, and is left as it is"
    elif manifest.get("resumed"):
        shown["built"] = "gone on with what an interrupted build had left"
    shown |= {f"{name} rows": count for name, count in manifest["splits"].items()}
    for name in ("purged", "embargoed", "unlabelled", "warmup_rows", "missing_rows"):
        shown |= {name.replace("_", " "): manifest[name]}
    checked, parity = manifest["leakcheck"], manifest["parity"]
    shown |= {
        "leaking features": len(checked["leaking"]),
        "leak check": f"{checked['rows_checked']:,} rows at {checked['cuts']} cuts; the leaky control was "
        + ("caught" if checked["control"]["caught"] else "NOT CAUGHT"),
        "parity": "no live vectors in the archive" if parity is None else f"{parity['compared']:,} compared, all equal",
        "output hash": manifest["output_hash"],
    }  # fmt: skip
    report.result(manifest, lambda console: console.print(facts(shown, "Dataset")))
