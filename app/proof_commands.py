"""Commands that prove: `leakcheck`.

Errors: those of the replay; a check that failed ends with exit code 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.dataset_commands import DATASETS, Datasets
from app.options import SPEC, Json, show_checked
from app.report import Report, shares
from schemas.errors import CheckFailed, UsageError
from schemas.feature_sets import DEFAULT

if TYPE_CHECKING:
    from replay.proof.checks import Proven


def leakcheck(
    archive: Annotated[
        Path | None, typer.Option("--archive", help="Folder of the archive; with --dataset in place of its own.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="ID", help="Check what a dataset was made of, and its rows.")
    ] = None,
    datasets: Datasets = DATASETS,
    feature_set: Annotated[
        str | None, typer.Option("--feature-set", metavar=SPEC, help=f"[default: {DEFAULT}, or the dataset's own]")
    ] = None,
    cuts: Annotated[int, typer.Option("--cuts", min=1, help="Random offsets to change the future after.")] = 50,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the offsets and of the other futures.")] = 1,
    window: Annotated[
        int, typer.Option("--window", min=0, help="Records checked before each cut; 0: all since the cut before.")
    ] = 50_000,
    control: Annotated[
        bool, typer.Option("--control", help="Let a feature leak on purpose: it is caught, and the exit code is 1.")
    ] = False,
    with_lookahead: Annotated[
        bool, typer.Option("--look-ahead", help="Say for each feature how many rows change when sorted by venue time.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Cut off, poison and shuffle the future after random offsets; exit 1 and name every feature whose past changes."""
    from app.cuts import random_cuts
    from replay.proof.checks import Checks
    from replay.reader import ArchiveReader
    from schemas.feature_sets import load

    if (archive is None and dataset is None) or (dataset is not None and feature_set is not None):
        raise UsageError(
            "nothing is named to check" if dataset is None else "a dataset has its own feature set",
            expected="--archive with a --feature-set, or --dataset", was="neither" if dataset is None else "both",
            action="name a folder with --archive, or an id of `onetape dataset list` with --dataset alone",
        )  # fmt: skip
    report = Report(as_json)
    reader = None if archive is None else ArchiveReader(archive)
    with report.step(f"Changing the future of {dataset or archive} at {cuts} offsets") as advance:
        checks = Checks(random_cuts(cuts, seed), window or None, seed, control, with_lookahead, shares(advance))
        if dataset is not None:
            found = checks.of_dataset(datasets, dataset, reader)
        else:
            assert reader is not None
            found = checks.of_archive(reader, load(feature_set or DEFAULT))
    payload = found.json() | {"cuts": cuts, "seed": seed, "windows": found.leaks.cuts}
    report.result(payload, lambda console: show_checked(console, "Leak check", payload | _shown(found), "leaking"))
    if not found.ok:
        raise typer.Exit(CheckFailed.exit_code)


def _shown(found: Proven) -> dict[str, object]:
    """What people want to see of it, besides the counts."""
    shown: dict[str, object] = {f"{name} rows": rows for name, rows in found.leaks.variants.items()}
    shown["leak on purpose caught"] = found.leaks.control.caught
    if found.rows is not None:
        broken = found.rows.assembly.broken
        shown["rows of the dataset"] = found.rows.assembly.rows
        shown["rules broken"] = ", ".join(f"{rule}: {count}" for rule, count in broken.items()) or "none"
        feature, (ic, shifted, label) = next(iter(found.rows.shift.worst().items()))
        shown["nearest to a label"] = f"{feature}: {_number(ic)} with {label}, {_number(shifted)} one reach earlier"
    if found.lookahead is not None:
        shown |= {f"look-ahead: {name}": f"{share:.1%}" for name, share in found.lookahead.worst().items()}
    return shown


def _number(correlation: float | None) -> str:
    return "unknown" if correlation is None else f"{correlation:.3f}"
