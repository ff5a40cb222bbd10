"""Commands that make and check archives: `import`, `archive audit`, `archive checkpoint`.

Errors: those of the importer and the archive; a check that failed ends with exit code 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.options import Archive, FeatureSetSpec, Json, Threads, duration, group, show_checked, thread_count
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
def audit(archive: Archive, as_json: Json = False) -> None:
    """Prove that every offset is there exactly once and every file is what was written; exit 1 if not."""
    from replay.audit import audit as run

    report = Report(as_json)
    with report.step(f"Auditing {archive}"):
        found = run(archive)
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
