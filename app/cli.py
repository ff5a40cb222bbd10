"""The command line: the program, its services, and how errors leave it; the other commands are in `app/*_commands.py`.

Output: a result on stdout (tables, or one JSON object with --json), progress and errors on stderr.
Errors: exit codes 0 fine, 1 a check failed, 2 wrong usage, 3 a dependency is missing or down, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from app.archive_commands import archives, import_
from app.bench_commands import bench
from app.dataset_commands import dataset
from app.evaluate_commands import evaluate
from app.history_commands import get
from app.masking import masked, quoted
from app.options import Json, group
from app.proof_commands import leakcheck
from app.replay_commands import parity, replay
from app.report import Report
from schemas.errors import CheckFailed, DependencyDown, OnetapeError, UsageError

INTERRUPTED = 130

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""Typer's own base of what is wrong with a command line; Typer has it from Click, or from a copy of Click."""

cli = group("One tape, live and replayed: features that training and production share bit for bit.")


@cli.command()
def demo(
    source: Annotated[Path | None, typer.Option("--from", help="Play this archive, not a generated one.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for everything the demo makes.")] = None,
    brokers: Annotated[str | None, typer.Option("--brokers", help="Use this Kafka, not the embedded one.")] = None,
    redis_url: Annotated[str | None, typer.Option("--redis", help="Use this Redis, not the embedded one.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Records per batch at most.")] = 10_000,
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
    roles: Annotated[
        str, typer.Option("--roles", help="Comma-separated: features, latest, archive; clock.")
    ] = "features,latest,archive",
    with_parent: Annotated[bool, typer.Option("--with-parent", help="Stop when stdin ends.")] = False,
    as_json: Json = False,
) -> None:
    """Run the agents against Kafka until stopped. Settings come from ONETAPE_* variables."""
    from app.config import load_settings
    from app.topics import CLOCK_ROLE, ROLES
    from app.worker import run_worker, stop_with_parent

    wanted = frozenset(role.strip() for role in roles.split(",") if role.strip())
    known = {*ROLES, CLOCK_ROLE}
    unknown = wanted - known
    if unknown or not wanted:
        raise UsageError(
            f"role {', '.join(sorted(unknown))} is unknown" if unknown else "no role is named",
            expected=", ".join(sorted(known)), was=repr(roles),
            action="name some of these, separated by commas",
        )  # fmt: skip
    if with_parent:
        stop_with_parent()
    run_worker(load_settings(), wanted)
    payload = {"stopped": True, "roles": sorted(wanted)}
    Report(as_json).result(payload, lambda console: None)


cli.command("import")(import_)
cli.command()(replay)
cli.command()(parity)
cli.command()(leakcheck)
cli.command()(get)
dataset.command()(evaluate)
cli.add_typer(dataset, name="dataset")
cli.add_typer(archives, name="archive")
cli.add_typer(bench, name="bench")


def _refused_by_the_machine(error: OSError) -> DependencyDown:
    return DependencyDown(
        "the machine refused", expected="a file or a connection that can be used", was=str(error),
        action="check the path, its permissions and the space on the disk",
    )  # fmt: skip


def _without_logins(error: OnetapeError) -> OnetapeError:
    """The error as people see it: a word of the command line may be a URL where a path was asked for."""
    fact, expected, was, action = (
        quoted(text, sys.argv[1:]) for text in (error.fact, error.expected, error.was, error.action)
    )
    told = OnetapeError(fact, expected=expected, was=was, action=action)
    told.exit_code = error.exit_code
    return told


def main() -> None:
    """Entry point of the console script."""
    report = Report("--json" in sys.argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # so that what was started is stopped, and nothing stays half
    code: Any = INTERRUPTED
    try:
        code = cli(prog_name="onetape", standalone_mode=False)
    except OnetapeError as error:
        report.error(_without_logins(error))
        code = error.exit_code
    except _UsageError as error:
        said = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
        message = quoted(said, sys.argv[1:])
        command = getattr(getattr(error, "ctx", None), "command_path", "onetape")
        was = " ".join(map(masked, sys.argv[1:]))
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
        report.error(_without_logins(_refused_by_the_machine(error)))
        _forget_stdout()
        code = DependencyDown.exit_code
    if code == INTERRUPTED:
        report.say("onetape: interrupted; nothing half-written stays behind. Action: run it again when you like")
    sys.exit(code if isinstance(code, int) else 0)


def _forget_stdout() -> None:
    """What stdout did not take is not tried again at the end of the process."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
