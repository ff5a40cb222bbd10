"""Commands that prove: `leakcheck`.

Errors: those of the replay; a check that failed ends with exit code 1.
"""

from __future__ import annotations

from typing import Annotated

import typer

from app.options import Archive, FeatureSetSpec, Json, show_checked
from app.report import Report, shares
from schemas.errors import CheckFailed
from schemas.feature_sets import DEFAULT


def leakcheck(
    archive: Archive,
    feature_set: FeatureSetSpec = DEFAULT,
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
    from agents.features import features_agent
    from app.cuts import random_cuts
    from replay.proof.leakcheck import leakcheck as run
    from replay.proof.leaky import leaky
    from replay.proof.lookahead import LookAhead, look_ahead
    from replay.reader import ArchiveReader
    from schemas.feature_sets import load

    report = Report(as_json)
    wanted, ahead = load(feature_set), LookAhead()
    with report.step(f"Changing the future of {archive} at {cuts} offsets") as advance:
        found = run(
            ArchiveReader(archive), wanted, random_cuts(cuts, seed), window_rows=window or None, seed=seed,
            agent=leaky(wanted) if control else features_agent, progress=shares(advance),
            watch=(lambda window: ahead.add(look_ahead(window, wanted))) if with_lookahead else None,
        )  # fmt: skip
    payload = found.json() | {"cuts": cuts, "seed": seed, "windows": found.cuts}
    payload |= {"lookahead": ahead.json()} if with_lookahead else {}
    shown = payload | {f"{name} rows": rows for name, rows in found.variants.items()}
    shown |= {"leak on purpose caught": found.control.caught}
    shown |= {f"look-ahead: {name}": f"{share:.1%}" for name, share in ahead.worst().items()}
    report.result(payload, lambda console: show_checked(console, "Leak check", shown, "leaking"))
    if not found.ok:
        raise typer.Exit(CheckFailed.exit_code)
