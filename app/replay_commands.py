"""Commands that replay an archive: `replay`, `parity`.

Errors: those of the replay; a check that failed ends with exit code 1.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.options import (
    SPEC,
    SYMBOLS,
    Archive,
    BatchSize,
    FeatureSetSpec,
    Json,
    Threads,
    names,
    show_checked,
    thread_count,
    to_ns,
)
from app.report import Report, facts, shares, utc
from schemas.errors import CheckFailed
from schemas.feature_sets import DEFAULT

if TYPE_CHECKING:
    from replay.reader import ArchiveReader


def replay(
    archive: Archive,
    out: Annotated[Path, typer.Option("--out", help="New folder for vectors.parquet and manifest.json.")],
    feature_set: FeatureSetSpec = DEFAULT,
    symbols: Annotated[str | None, typer.Option("--symbols", help=SYMBOLS)] = None,
    from_: Annotated[str | None, typer.Option("--from", help="First T: ISO 8601 (UTC) or ns.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="End of T, exclusive: ISO 8601 (UTC) or ns.")] = None,
    batch_size: BatchSize = None,
    threads: Threads = None,
    no_checkpoints: Annotated[bool, typer.Option("--no-checkpoints", help="Read from the beginning.")] = False,
    as_json: Json = False,
) -> None:
    """Run the features agent over an archive and write its vectors."""
    from replay.driver import replay as run
    from replay.driver import write
    from replay.publication import refuse_content
    from replay.reader import ArchiveReader
    from schemas.feature_sets import load

    report = Report(as_json)
    wanted = None if symbols is None else names(symbols)
    refuse_content(out)
    reader = ArchiveReader(archive)
    first, end = to_ns(from_, "--from"), to_ns(to, "--to")
    begun = time.monotonic()
    with report.step(f"Replaying {archive}") as advance:
        result = run(
            reader, load(feature_set), batch_size=batch_size, threads=thread_count(threads), symbols=wanted,
            from_ns=first, to_ns=end, with_checkpoints=not no_checkpoints, progress=shares(advance),
        )  # fmt: skip
    seconds = time.monotonic() - begun
    write(result, reader, out)
    for line in result.ignored:
        report.say(f"  checkpoint not used: {line}")
    if first is not None:
        _tell_end(report, reader, first)
    payload = {
        "events": result.events, "vectors": len(result.vectors), "content_hash": result.content_hash,
        "events_per_second": round(result.events / max(seconds, 1e-9)), "out": str(out),
        "rows_read": reader.decoded.rows,
        "from_checkpoint": {str(partition): offset for partition, offset in result.starts.items()} or None,
    }  # fmt: skip
    shown = payload | {"from_checkpoint": ", ".join(f"{p}: offset {at}" for p, at in result.starts.items()) or None}
    report.result(payload, lambda console: console.print(facts(shown, "Replayed")))


def _tell_end(report: Report, reader: ArchiveReader, from_ns: int) -> None:
    """Say so where the tape ends before a replay begins."""
    segments = (segment for partition in reader.partitions() for segment in reader.segments(partition))
    last = max((each.last_tick for each in segments if each.last_tick is not None), default=None)
    if last is not None and from_ns > last:
        report.say(f"  no vector: the tape ends at {utc(last)}, before --from {utc(from_ns)}")


def parity(
    archive: Archive,
    feature_sets: Annotated[
        list[str] | None,
        typer.Option(
            "--feature-set",
            metavar=SPEC,
            help="Only these: repeat the option, or use commas. [default: every set it holds]",
        ),
    ] = None,
    batch_size: BatchSize = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Recompute the archived live vectors and compare them bit by bit; exit 1 on any difference."""
    from replay.parity import archived_sets, in_sum, parity_of
    from replay.reader import ArchiveReader
    from schemas.feature_sets import load_all

    report = Report(as_json)
    reader = ArchiveReader(archive)
    wanted = load_all(",".join(feature_sets), reader.head.find) if feature_sets else archived_sets(reader)
    with report.step(f"Comparing {archive} with its replay") as advance:
        found = parity_of(
            reader, wanted, batch_size=batch_size, threads=thread_count(threads), progress=shares(advance)
        )
        payload = in_sum(found)
    sets = ", ".join(f"{set_id} ({each['compared']:,} compared)" for set_id, each in payload["feature_sets"].items())
    shown = payload | {"feature sets": sets}
    report.result(payload, lambda console: show_checked(console, "Parity", shown, "differences"))
    if not payload["ok"]:
        raise typer.Exit(CheckFailed.exit_code)
