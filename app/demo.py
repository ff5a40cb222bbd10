"""The demo: a market from its recording to a dataset, through a real worker, everything started and stopped here.

Input: nothing (a generated recording), or an archive whose tape is played as if live.
State: a folder with the recording, the archives, the datasets and the worker's log.
Output: the payload of `onetape demo --json`.
Errors: those of the parts; DependencyDown when the worker ends by itself.

1. Generate and import a recording (or take the archive).
2. Start broker and Redis, then `onetape worker` as a process of its own.
3. Publish the tape record by record, no faster than it is read.
4. When everything is committed and archived, stop the worker.
5. Replay what was archived, compare bit by bit, build a dataset.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import isnan
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from app.config import Settings, environment, load_settings, unsecured
from app.connection import Admin, registry_of
from app.cuts import random_cuts
from app.embedded import EmbeddedBroker, EmbeddedRedis
from app.importer import import_recording
from app.publish import Progress, Publisher, play
from app.redis_latest import asked, check_redis
from app.report import Advance, Report, facts, grid, shares, utc
from app.synthetic import write_recording
from app.topics import delete_topics, ensure_topics, groups, partitions_of, wire_topic
from replay.datasets.build import build
from replay.datasets.recipe import Recipe
from replay.parity import in_sum, parity_of
from replay.publication import disk_errors, empty, locked, refuse_content
from replay.reader import ArchiveReader
from schemas.codec import TapeCodec
from schemas.errors import DependencyDown, UsageError
from schemas.feature_sets import load, load_all
from schemas.topics import TAPE
from schemas.vector_codec import VectorCodec

FOLDER = Path(".onetape/demo")
SEED = 7
LABELS = ("forward_return_1s", "direction_1s(threshold=0.0001)")
CUTS = 10
STOP_S = 20.0
_WINDOWED = re.compile(r"(.+)_([0-9]+m?s)")


def run_demo(
    report: Report,
    *,
    source: Path | None,
    out: Path | None,
    brokers: str | None,
    redis_url: str | None,
    batch_size: int,
) -> dict[str, Any]:
    """Run everything once; returns the payload of DESIGN's `demo` keys and more."""
    begun = time.monotonic()
    if source is not None:
        ArchiveReader(source)  # refused before anything is removed, as are places that cannot be used
    chosen = _chosen(FOLDER if out is None else out, brokers, redis_url, batch_size)
    _check_places(load_settings(**chosen), brokers, redis_url)
    with ExitStack() as stack:
        folder = _folder(stack, out, source)
        source = source or _generated(report, folder)
        partitions = ArchiveReader(source).head.partitions
        settings = _settings(stack, report, {**chosen, "partitions": partitions}, brokers, redis_url)
        events = _live(stack, report, folder, source, settings)
        latest = _latest(settings)
    live, specs = folder / "live", settings.feature_sets
    with report.step("Replaying the archived tape and comparing every bit") as advance:
        sets = load_all(specs)
        found = parity_of(ArchiveReader(live), sets, batch_size=batch_size, progress=shares(advance))
        compared = in_sum(found)
    with report.step("Building a dataset, with its leak check"):
        built = _dataset(live, folder / "datasets", specs.partition(",")[0].strip())
    return {
        "events_in": events,
        "vectors_out": compared["compared"] + compared["extra"],
        "parity": compared,
        "dataset": built,
        "latest": latest,
        "broker": "embedded" if brokers is None else brokers,
        "files": {"source": str(source), "live": str(live), "datasets": str(folder / "datasets")},
        "next": _next(live, folder / "datasets", built["id"], specs if any(each.own for each in sets) else None),
        "seconds": round(time.monotonic() - begun, 1),
    }


def _next(live: Path, datasets: Path, dataset: str | None, specs: str | None) -> list[str]:
    """What to try next; `specs` where the archive alone does not say what its feature sets are."""
    chosen = [] if specs is None else ["--feature-set", ",".join(spec.strip() for spec in specs.split(","))]
    commands = [["parity", "--archive", str(live), *chosen], ["leakcheck", "--archive", str(live)]]
    if dataset is not None:
        commands.append(["dataset", "verify", dataset, "--datasets", str(datasets)])
    return [shlex.join(command) for command in commands]


def _dataset(archive: Path, datasets: Path, feature_set: str) -> dict[str, Any]:
    """The dataset's key figures; without an id, and with the reason, where the tape is too short for its splits."""
    try:
        recipe, cuts = Recipe(feature_set, LABELS), random_cuts(CUTS, SEED)
        manifest = build(ArchiveReader(archive), datasets, recipe, cuts)
    except UsageError as error:
        return {"id": None, "rows": 0, "splits": {}, "reason": str(error)}
    return {key: manifest[key] for key in ("id", "rows", "splits", "purged", "output_hash")}


def _folder(stack: ExitStack, out: Path | None, source: Path | None) -> Path:
    """An empty folder of our own: the default one is made anew, another must not hold anything."""
    folder = FOLDER if out is None else out
    if source is not None and source.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"{source} would be overwritten", expected=f"an archive outside {folder}", was=str(source),
            action="name another folder with --out",
        )  # fmt: skip
    if out is not None:
        refuse_content(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(folder))
        if out is None:
            empty(folder)
    return folder


def _generated(report: Report, folder: Path) -> Path:
    recording, archive = folder / "recording.gz", folder / "source"
    with report.step(f"Generating three minutes of a market (seed {SEED})"):
        write_recording(recording, seed=SEED)
    with report.step("Importing the recording") as advance:
        import_recording([recording], "binance-usdm", archive=archive, progress=advance)
    return archive


def _chosen(folder: Path, brokers: str | None, redis_url: str | None, batch_size: int) -> dict[str, Any]:
    """Settings of this run by name; without the places of what is started for it."""
    chosen: dict[str, Any] = {
        "data_dir": folder / "state", "registry": str(folder / "schemas.json"), "archive_dir": folder / "live",
        "archive_flush_s": 1.0, "epoch_s": 0.5, "batch_size": batch_size,
        "brokers": brokers or "", "redis_url": redis_url or "", "broker_is_embedded": brokers is None,
        "topic_prefix": "" if brokers is None else f"demo-{uuid4().hex[:8]}.",
    }  # fmt: skip
    given = {"registry": None, "kafka": brokers, "redis": redis_url}
    return chosen | unsecured(*(owner for owner, place in given.items() if place is None))


def _check_places(settings: Settings, brokers: str | None, redis_url: str | None) -> None:
    """Errors: UsageError, AccessRefused, DependencyDown, for what a person has named."""
    load_all(settings.feature_sets)
    if redis_url is not None:
        check_redis(settings)
    if brokers is not None:
        Admin(settings).cluster()


def _settings(
    stack: ExitStack, report: Report, chosen: dict[str, Any], brokers: str | None, redis_url: str | None
) -> Settings:
    """Settings of this run, with the broker and the Redis they name running."""
    if brokers is None:
        topics = partitions_of(load_settings(**chosen))
        with report.step("Starting the embedded broker (in memory, for trying out) and Redis"):
            chosen["brokers"] = stack.enter_context(EmbeddedBroker(topics)).bootstrap
            if redis_url is None:
                chosen["redis_url"] = stack.enter_context(EmbeddedRedis()).url
    elif redis_url is None:
        with report.step("Starting Redis"):
            chosen["redis_url"] = stack.enter_context(EmbeddedRedis()).url
    settings = load_settings(**chosen)
    check_redis(settings)  # the one we started, too
    if brokers is not None:
        ensure_topics(settings)
        stack.callback(delete_topics, settings)
    return settings


class _Worker:
    """`onetape worker` as a process of its own; its log is beside the archives."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "worker", "--with-parent"], env=environment(settings),
                stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def alive(self) -> None:
        """Raise when the worker has ended by itself."""
        code = self._process.poll()
        if code is not None:
            words = self._log.read_text(errors="replace").strip().rpartition("\n")[2].partition(" Action: ")[0]
            raise DependencyDown(
                "the worker ended", expected="a worker that reads on", was=f"exit code {code}: {words or 'no word'}",
                action=f"read {self._log}",
            )  # fmt: skip

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not obeyed."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def _working(settings: Settings, log: Path) -> Iterator[_Worker]:
    worker = _Worker(settings, log)
    try:
        yield worker
    finally:
        worker.stop()


def _live(stack: ExitStack, report: Report, folder: Path, source: Path, settings: Settings) -> int:
    """Play the source through a worker until all of it is committed and archived; returns the records published."""
    codec = TapeCodec(registry_of(settings))
    by_role: Mapping[str, str] = groups(settings)
    topics = {TAPE: ["features", "archive"]}
    topics |= {each.topic: ["archive"] for each in load_all(settings.feature_sets)}
    with _working(settings, folder / "worker.log") as worker:
        on_tape, *on_vectors = [
            stack.enter_context(Progress(settings, wire_topic(settings, topic), [by_role[role] for role in roles]))
            for topic, roles in topics.items()
        ]
        with report.step(f"Playing {source} through broker and worker") as advance:
            publisher = Publisher(settings)
            published = play(source, publisher, codec, on_tape, worker.alive, advance)
        with report.step("Waiting until everything is committed and archived") as advance:
            for progress in (on_tape, *on_vectors):
                progress.wait(_reached(progress.ends(), advance), worker.alive)
    return published


def _reached(ends: list[int], advance: Advance) -> Callable[[list[int]], bool]:
    def reached(committed: list[int]) -> bool:
        left = sum(max(end - now, 0) for now, end in zip(committed, ends, strict=True))
        advance(1 - left / max(sum(ends), 1))
        return not left

    return reached


def _latest(settings: Settings) -> dict[str, Any]:
    """One vector as Redis serves it: of the first feature set, that of the first instrument by name."""
    feature_set = load(settings.feature_sets.partition(",")[0].strip())
    with asked(settings) as client:
        names = sorted(client.scan_iter(f"latest:{feature_set.id}:*"))
        if not names:
            return {"symbol": None, "time": None, "value": {}}
        value = client.get(names[0])
    assert isinstance(value, bytes)
    vector = VectorCodec(registry_of(settings), feature_set).decode([value])
    features = zip(feature_set.features, vector.values[0].tolist(), strict=True)
    known = {name: None if isnan(number) else number for name, number in features}
    return {"symbol": vector.instruments()[0], "time": int(vector.time[0]), "value": known}


def show_demo(console: Console, payload: Mapping[str, Any]) -> None:
    """The summary for people."""
    compared, built, latest = payload["parity"], payload["dataset"], payload["latest"]
    same = compared["compared"] - compared["mismatch"]
    share = 100 * same / max(compared["compared"] + compared["missing"] + compared["extra"], 1)
    if latest["symbol"]:
        console.print(f"Latest vector of {latest['symbol']} in Redis, {utc(latest['time'])}", style="bold")
        console.print(_state_table(latest["value"]))
        console.print(_window_table(latest["value"]))
    console.print(
        facts(
            {
                "events in": payload["events_in"],
                "vectors out": payload["vectors_out"],
                "parity": f"{share:.3f} % ({same:,} of {compared['compared']:,} vectors: live = replayed, every bit)",
                "dataset": _told(built),
                "seconds": payload["seconds"],
                **{f"{name} in": path for name, path in payload["files"].items()},
            },
            "Summary",
        )
    )
    console.print("\nTry next:")
    program = "onetape" if shutil.which("onetape") else os.path.relpath(sys.argv[0])
    for command in payload["next"]:
        console.print(f"  {program} {command}", markup=False)


def _told(built: Mapping[str, Any]) -> str:
    if built["id"] is None:
        return f"none: {built['reason']}"
    parts = ", ".join(f"{rows:,} {name}" for name, rows in built["splits"].items())
    return f"{built['id']}: {built['rows']:,} rows ({parts})"


def _state_table(value: Mapping[str, float | None]) -> Table:
    """Features without a window, two to a row."""
    rows = [[name, _short(number)] for name, number in value.items() if not _WINDOWED.fullmatch(name)]
    half = (len(rows) + 1) // 2
    rows += [["", ""]] * (2 * half - len(rows))
    return grid(None, ["feature", "value", "feature", "value"], [rows[i] + rows[half + i] for i in range(half)])


def _window_table(value: Mapping[str, float | None]) -> Table:
    """Features over windows, one family to a row, one window to a column."""
    families: dict[str, dict[str, float | None]] = {}
    for name, number in value.items():
        if match := _WINDOWED.fullmatch(name):
            families.setdefault(match[1], {})[match[2]] = number
    windows = list(dict.fromkeys(window for family in families.values() for window in family))
    rows = [[name, *(_short(family.get(window)) for window in windows)] for name, family in families.items()]
    return grid(None, ["over the last", *windows], rows)


def _short(number: float | None) -> str:
    """Seven digits, so that the tables fit a narrow terminal; the exact value is in --json."""
    return "-" if number is None else f"{number:,.7g}"
