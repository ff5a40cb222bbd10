"""Commands that make, check and thin archives: `import`, `archive audit`, `checkpoint`, `retain`, `restore`.

Errors: those of the importer and the archive; a check that failed ends with exit code 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.options import Archive, FeatureSetSpec, Json, Threads, duration, group, show_checked, thread_count, to_ns
from app.report import Report, facts, shares, utc
from schemas.errors import CheckFailed, UsageError
from schemas.feature_sets import DEFAULT

archives = group("Archives: prove that every offset is there exactly once; lay checkpoints to replay from.")


def import_(
    files: Annotated[list[Path], typer.Argument(help="The files of ONE unbroken recording, in order.")],
    format_name: Annotated[str, typer.Option("--format", help="binance-usdm, binance-coinm or binance-spot.")],
    archive: Annotated[Path | None, typer.Option("--archive", help="Write into this archive.")] = None,
    to_broker: Annotated[bool, typer.Option("--to-broker", help="Publish to the broker of ONETAPE_BROKERS.")] = False,
    partitions: Annotated[
        int | None, typer.Option("--partitions", min=1, max=1024, help="Partitions of the tape [ONETAPE_PARTITIONS].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read a venue's recording into an archive, a broker, or both."""
    from app.config import load_settings
    from app.connection import registry_of
    from app.importer import import_recording
    from app.publish import Publisher
    from app.topics import ensure_topics, refuse_live_clock

    if archive is None and not to_broker:
        raise UsageError(
            "nowhere to import to", expected="--archive DIR or --to-broker", was="neither", action="add one of them"
        )
    report = Report(as_json)
    settings = load_settings(**({} if partitions is None else {"partitions": partitions}))
    publisher = None
    if to_broker:
        ensure_topics(settings)
        refuse_live_clock(settings)
        publisher = Publisher(settings)
    with report.step(f"Importing {', '.join(path.name for path in files)}") as advance:
        done = import_recording(
            files,
            format_name,
            archive=archive,
            partitions=settings.partitions,
            progress=advance,
            publish=None if publisher is None else publisher.publish,
            registry=None if publisher is None else registry_of(settings),
        )
        if publisher is not None:
            publisher.flush()
    payload: dict[str, Any] = {
        "accepted": done.accepted, "refused": done.refused, "received": done.received, "records": done.records,
        "symbols": done.symbols, "first": done.first, "last": done.last, "partitions": done.partitions,
        "archive": None if archive is None else str(archive),
    }  # fmt: skip
    shown = payload | {
        "refused": ", ".join(f"{count} {reason}" for reason, count in done.refused.items()) or 0,
        "symbols": ", ".join(done.symbols), "first": utc(done.first), "last": utc(done.last),
    }  # fmt: skip
    report.result(payload, lambda console: console.print(facts(shown, "Imported")))


@archives.command()
def audit(
    archive: Archive,
    with_location: Annotated[
        bool, typer.Option("--with-location", help="Read the segments that were moved away, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Prove that every offset is there exactly once and every file is what was written; exit 1 if not."""
    from replay.audit import audit as run

    report = Report(as_json)
    with report.step(f"Auditing {archive}"):
        found = run(archive, with_places=with_location)
    payload = found.json()
    report.result(
        payload, lambda console: show_checked(console, "Audit", payload, "holes", "doubles", "torn", "unpublished")
    )
    if not found.ok:
        raise typer.Exit(CheckFailed.exit_code)


@archives.command()
def checkpoint(
    archive: Archive,
    feature_set: FeatureSetSpec = DEFAULT,
    every: Annotated[str, typer.Option("--every", help="Distance in time of the tape, from 1s: s, m, h or d.")] = "1h",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Lay every symbol's state beside the archive, so that `replay --from` need not read what came before."""
    from replay.laying import lay
    from replay.reader import ArchiveReader
    from schemas.feature_sets import load

    report = Report(as_json)
    with report.step(f"Laying checkpoints of {feature_set} beside {archive}") as advance:
        laid = lay(
            ArchiveReader(archive), load(feature_set), duration(every, "--every"), threads=thread_count(threads),
            progress=shares(advance),
        )  # fmt: skip
    for line in laid.ignored:
        report.say(f"  not used: {line}")
    payload = laid.json()
    newest = ", ".join(f"partition {partition}: offset {offset}" for partition, offset in laid.continued.items())
    told = f"behind the newest ({newest}); before it none was laid, whatever --every is"
    shown = payload | ({"continued": told} if newest else {})
    report.result(payload, lambda console: show_checked(console, "Checkpoints", shown))


@archives.command()
def retain(
    archive: Archive,
    keep: Annotated[str, typer.Option("--keep", help="How long, back from the newest Tick: s, m, h or d.")] = "90d",
    to: Annotated[str | None, typer.Option("--to", metavar="DIR|URI", help="Where to: a folder, s3://..., ...")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete them for good, where there is no --to.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Move segments whose records are all older than --keep to another place."""
    from replay.places import open_place
    from replay.retention import retain as run

    if to is not None and delete:
        raise UsageError(
            "--to and --delete at once", expected="one of them", was="both", action="leave one of them out"
        )
    report = Report(as_json)
    with report.step(f"Retaining {keep} of {archive}") as advance:
        done = run(
            archive, duration(keep, "--keep"), None if to is None else open_place(to), deletes=delete,
            is_dry_run=dry_run, progress=shares(advance),
        )  # fmt: skip
    payload = done.json()
    shown = payload | {"before_ns": utc(done.before_ns), "place": done.place or ("deleted" if delete else "nowhere")}
    report.result(payload, lambda console: show_checked(console, "Retained", shown, "segments"))


@archives.command()
def restore(
    archive: Archive,
    from_: Annotated[str | None, typer.Option("--from", help="First time: ISO 8601 (UTC) or ns.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="End, exclusive: ISO 8601 (UTC) or ns.")] = None,
    as_json: Json = False,
) -> None:
    """Bring back segments that were moved away; exit 1 if some of them were deleted."""
    from replay.retention import restore as run

    report = Report(as_json)
    with report.step(f"Restoring {archive}") as advance:
        done = run(archive, to_ns(from_, "--from"), to_ns(to, "--to"), progress=shares(advance))
    payload = done.json()
    report.result(payload, lambda console: show_checked(console, "Restored", payload, "segments", "deleted"))
    if done.deleted:
        raise typer.Exit(CheckFailed.exit_code)
