"""The command line: every command of the product, its options, and how errors leave it.

Output: a result on stdout (tables, or one JSON object with --json), progress and errors on stderr.
Errors: exit codes 0 fine, 1 a check failed, 2 wrong usage, 3 a dependency is missing or down, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from app.report import Report, facts, grid, shares, utc
from schemas.errors import CheckFailed, DependencyDown, OnetapeError, UsageError

INTERRUPTED = 130

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; progress stays on stderr.")]
Archive = Annotated[Path, typer.Option("--archive", help="Folder of the archive.")]
SetId = Annotated[str, typer.Option("--feature-set", metavar="NAME@V", help="Feature set and version.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Records per batch; never changes a bit.")]
Datasets = Annotated[Path, typer.Option("--datasets", help="Folder that holds the datasets.")]

DatasetId = Annotated[str, typer.Argument(help="Id of the dataset, as `onetape dataset list` shows it.")]

DATASETS = Path("datasets")

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""Typer's own base of what is wrong with a command line; Typer has it from Click, or from a copy of Click."""


def show_help(context: typer.Context) -> None:
    """A group without a command shows what it has."""
    if context.invoked_subcommand is None:
        context.get_help()


def group(text: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(
        help=text, callback=show_help, invoke_without_command=True, add_completion=False, pretty_exceptions_enable=False
    )


cli = group("One tape, live and replayed: features that training and production share bit for bit.")
dataset = group("Datasets: build, verify, list, show.")
archives = group("Archives: prove that every offset is there exactly once.")
cli.add_typer(dataset, name="dataset")
cli.add_typer(archives, name="archive")


@cli.command()
def demo(
    source: Annotated[Path | None, typer.Option("--from", help="Play this archive, not a generated one.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for everything the demo makes.")] = None,
    brokers: Annotated[str | None, typer.Option("--brokers", help="Use this Kafka, not the embedded one.")] = None,
    redis_url: Annotated[str | None, typer.Option("--redis", help="Use this Redis, not the embedded one.")] = None,
    batch_size: BatchSize = 10_000,
    as_json: Json = False,
) -> None:
    """Everything once: broker, worker, Redis, archive, replay, parity and a dataset; ends with a summary."""
    from app.demo import run_demo, show_demo

    report = Report(as_json)
    payload = run_demo(report, source=source, out=out, brokers=brokers, redis_url=redis_url, batch_size=batch_size)
    report.result(payload, lambda console: show_demo(console, payload))
    if not payload["parity"]["ok"]:
        raise typer.Exit(CheckFailed.exit_code)


@cli.command()
def worker(
    roles: Annotated[str, typer.Option("--roles", help="Comma-separated: features, latest, archive.")] = "",
    with_parent: Annotated[bool, typer.Option("--with-parent", help="Stop when stdin ends.")] = False,
    as_json: Json = False,
) -> None:
    """Run the agents against Kafka until stopped. Settings come from ONETAPE_* variables."""
    from app.config import load_settings
    from app.topics import ROLES
    from app.worker import run_worker, stop_with_parent

    wanted = frozenset(role.strip() for role in roles.split(",") if role.strip()) or frozenset(ROLES)
    unknown = wanted - frozenset(ROLES)
    if unknown:
        raise UsageError(
            f"role {', '.join(sorted(unknown))} is unknown", expected=", ".join(sorted(ROLES)), was=roles,
            action="name some of these, separated by commas",
        )  # fmt: skip
    if with_parent:
        stop_with_parent()
    run_worker(load_settings(), wanted)
    payload = {"stopped": True, "roles": sorted(wanted)}
    Report(as_json).result(payload, lambda console: None)


@cli.command("import")
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
    from app.importer import import_recording
    from app.publish import Publisher
    from app.topics import ensure_topics
    from schemas.registry import open_registry

    if archive is None and not to_broker:
        raise UsageError(
            "nowhere to import to", expected="--archive DIR or --to-broker", was="neither", action="add one of them"
        )
    report = Report(as_json)
    settings = load_settings(**({} if partitions is None else {"partitions": partitions}))
    publisher = None
    if to_broker:
        ensure_topics(settings)
        publisher = Publisher(settings)
    with report.step(f"Importing {', '.join(path.name for path in files)}") as advance:
        done = import_recording(
            files,
            format_name,
            archive=archive,
            partitions=settings.partitions,
            progress=advance,
            publish=None if publisher is None else publisher.publish,
            registry=None if publisher is None else open_registry(settings.registry),
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


@cli.command()
def replay(
    archive: Archive,
    out: Annotated[Path, typer.Option("--out", help="New folder for vectors.parquet and manifest.json.")],
    feature_set: SetId = "micro@1",
    symbols: Annotated[str | None, typer.Option("--symbols", help="Comma-separated VENUE:SYMBOL.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="First T: ISO 8601 (UTC) or ns.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="End of T, exclusive: ISO 8601 (UTC) or ns.")] = None,
    batch_size: BatchSize = 10_000,
    as_json: Json = False,
) -> None:
    """Run the features agent over an archive and write its vectors."""
    from replay.driver import replay as run
    from replay.driver import write
    from replay.publication import refuse_content
    from replay.reader import ArchiveReader
    from schemas.feature_sets import load

    report = Report(as_json)
    wanted = None if symbols is None else [symbol.strip() for symbol in symbols.split(",") if symbol.strip()]
    refuse_content(out)
    reader = ArchiveReader(archive)
    begun = time.monotonic()
    with report.step(f"Replaying {archive}") as advance:
        result = run(
            reader, load(feature_set), batch_size=batch_size, symbols=wanted,
            from_ns=to_ns(from_, "--from"), to_ns=to_ns(to, "--to"), progress=shares(advance),
        )  # fmt: skip
    seconds = time.monotonic() - begun
    write(result, reader, out)
    payload = {
        "events": result.events, "vectors": len(result.vectors), "content_hash": result.content_hash,
        "events_per_second": round(result.events / max(seconds, 1e-9)), "out": str(out),
    }  # fmt: skip
    report.result(payload, lambda console: console.print(facts(payload, "Replayed")))


@cli.command()
def parity(
    archive: Archive, feature_set: SetId = "micro@1", batch_size: BatchSize = 10_000, as_json: Json = False
) -> None:
    """Recompute the archived live vectors and compare them bit by bit; exit 1 on any difference."""
    from replay.parity import parity as run
    from replay.reader import ArchiveReader
    from schemas.feature_sets import load

    report = Report(as_json)
    with report.step(f"Comparing {archive} with its replay") as advance:
        found = run(ArchiveReader(archive), load(feature_set), batch_size=batch_size, progress=shares(advance))
    payload = found.json()
    report.result(payload, lambda console: _show_checked(console, "Parity", payload, "differences"))
    if not found.ok:
        raise typer.Exit(CheckFailed.exit_code)


@cli.command()
def leakcheck(
    archive: Archive,
    feature_set: SetId = "micro@1",
    cuts: Annotated[int, typer.Option("--cuts", min=1, help="Random offsets to delete the future after.")] = 50,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the offsets.")] = 1,
    as_json: Json = False,
) -> None:
    """Delete the future after random offsets; exit 1 and name every feature whose past changes."""
    from app.cuts import random_cuts
    from replay.leakcheck import leakcheck as run
    from replay.reader import ArchiveReader
    from schemas.feature_sets import load

    report = Report(as_json)
    with report.step(f"Deleting the future of {archive} at {cuts} offsets"):
        found = run(ArchiveReader(archive), load(feature_set), random_cuts(cuts, seed))
    payload = found.json() | {"cuts": cuts, "seed": seed}
    report.result(payload, lambda console: _show_checked(console, "Leak check", payload, "leaking"))
    if not found.ok:
        raise typer.Exit(CheckFailed.exit_code)


@dataset.command()
def build(
    archive: Archive,
    datasets: Datasets = DATASETS,
    feature_set: SetId = "micro@1",
    horizon: Annotated[int, typer.Option("--horizon", min=1, help="Forward return over so many seconds.")] = 5,
    split: Annotated[str, typer.Option("--split", help="Shares of time.")] = "train=0.7,validation=0.15,test=0.15",
    cuts: Annotated[int, typer.Option("--cuts", min=1, help="Cuts of the leak check.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the cuts.")] = 1,
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
        manifest = run(ArchiveReader(archive), datasets, recipe, random_cuts(cuts, seed), progress=shares(advance))
    _dataset_result(report, manifest, datasets)


@dataset.command()
def verify(dataset_id: DatasetId, datasets: Datasets = DATASETS, as_json: Json = False) -> None:
    """Rebuild a dataset from its manifest and compare; exit 1 when it is not the same."""
    from replay.dataset import verify as run

    report = Report(as_json)
    with report.step(f"Rebuilding {dataset_id}"):
        found = run(datasets, dataset_id)
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


@archives.command()
def audit(archive: Archive, as_json: Json = False) -> None:
    """Prove that every offset is there exactly once and every file is what was written; exit 1 if not."""
    from replay.audit import audit as run

    report = Report(as_json)
    with report.step(f"Auditing {archive}"):
        found = run(archive)
    payload = found.json()
    report.result(
        payload, lambda console: _show_checked(console, "Audit", payload, "holes", "doubles", "torn", "unpublished")
    )
    if not found.ok:
        raise typer.Exit(CheckFailed.exit_code)


def _show_checked(console: Any, title: str, payload: dict[str, Any], *details: str) -> None:
    console.print(facts({key: value for key, value in payload.items() if not isinstance(value, list | dict)}, title))
    for name in details:
        for line in payload[name]:
            console.print(f"  {name}: {line}", markup=False)


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


def to_ns(text: str | None, option: str) -> int | None:
    """ns of an ISO 8601 time (UTC where it names no zone) or of a number of ns."""
    from datetime import UTC, datetime

    if text is None or text.isdecimal():
        return None if text is None else int(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {text} is no time", expected="ISO 8601 or nanoseconds", was=text,
            action="write it as 2024-07-19T00:01:00",
        ) from None  # fmt: skip
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return int(at.timestamp()) * 1_000_000_000 + at.microsecond * 1_000


def _refused_by_the_machine(error: OSError) -> DependencyDown:
    return DependencyDown(
        "the machine refused", expected="a file or a connection that can be used", was=str(error),
        action="check the path, its permissions and the space on the disk",
    )  # fmt: skip


def main() -> None:
    """Entry point of the console script."""
    report = Report("--json" in sys.argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # so that what was started is stopped, and nothing stays half
    code: Any = INTERRUPTED
    try:
        code = cli(prog_name="onetape", standalone_mode=False)
    except OnetapeError as error:
        report.error(error)
        code = error.exit_code
    except _UsageError as error:
        message = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
        command = getattr(getattr(error, "ctx", None), "command_path", "onetape")
        was = " ".join(sys.argv[1:])
        report.error(
            UsageError(message, expected="a command line as in the help", was=was, action=f"see {command} --help")
        )
        code = UsageError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        pass
    except BrokenPipeError:
        _forget_stdout()
        code = CheckFailed.exit_code
    except OSError as error:
        report.error(_refused_by_the_machine(error))
        _forget_stdout()
        code = DependencyDown.exit_code
    if code == INTERRUPTED:
        report.say("onetape: interrupted; nothing half-written stays behind")
    sys.exit(code if isinstance(code, int) else 0)


def _forget_stdout() -> None:
    """What stdout did not take is not tried again at the end of the process."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
