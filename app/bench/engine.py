"""`onetape bench engine`: every figure of the engine in one run.

Input: which figures, which feature set (its id or file), recordings if there are any.
Output: the payload of `--json` and a table; progress on stderr.
Errors: DependencyDown where a peer is missing; UsageError for a figure that does not exist or a folder without
recordings: all of them before anything is measured.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from app.bench import archives, duels, footprint
from app.bench.measure import QUIET_MIN, Figure, Stopwatch
from app.bench.peers import MODULES, peer
from app.bench.tape import Sizes, recorded, recordings_in
from app.report import Report, facts, grid
from schemas.errors import UsageError
from schemas.feature_sets import load

Measure = Callable[..., list[Figure]]
"""Called with the stopwatch, the feature set (its spec for those of `_SPAWNED`) and the sizes."""

FIGURES: dict[str, tuple[str, Measure]] = {
    "oracle": ("Against the tuned Python oracle", duels.against_oracle),
    "naive": ("Against the naive version", duels.against_naive),
    "hftbacktest": ("Against hftbacktest's book", duels.against_hftbacktest),
    "nautilus": ("Against nautilus_trader's book", duels.against_nautilus),
    "parquet": ("From Parquet to vectors", archives.from_parquet),
    "threads": ("Two threads against one", archives.on_two_threads),
    "single": ("Batches of one record", footprint.batch_of_one),
    "month": ("A month of one symbol", archives.month),
    "memory": ("Memory of many symbols", footprint.memory),
    "state": ("Stored states", footprint.stored_state),
    "start": ("First vector of a process", footprint.first_vector),
}
_SPAWNED = {"memory", "start"}
"""Measured in a process of its own, which loads the feature set itself."""
_PACKAGES = (
    "onetape", "numba", "numpy", "pyarrow", "polars", "hftbacktest", "nautilus_trader", "sortedcontainers",
)  # fmt: skip


def bench_engine(
    report: Report,
    spec: str,
    *,
    only: str | None = None,
    skip: str | None = None,
    recordings: Path | None = None,
    sizes: Sizes | None = None,
) -> dict[str, Any]:
    """Measure; returns the payload. What was missed while the machine was busy is `unsure`."""
    feature_set, wanted = load(spec), chosen(only, skip)
    files = [] if recordings is None else recordings_in(recordings)
    for name in wanted:
        if name in MODULES:
            peer(MODULES[name])
    sizes = sizes or Sizes()
    watch = Stopwatch()
    figures: list[Figure] = []
    missed: dict[str, list[str]] = {"missed": [], "unsure": []}

    def take(title: str, against: Callable[[], list[Figure]]) -> None:
        first = len(watch.spans)
        with report.step(title):
            found = against()
        figures.extend(found)
        verdict = "missed" if watch.quiet(first) >= QUIET_MIN else "unsure"
        missed[verdict].extend(figure.name for figure in found if not figure.ok)

    for name in wanted:
        title, measure = FIGURES[name]
        take(title, partial(measure, watch, spec if name in _SPAWNED else feature_set, sizes))
    for tape in recorded(files, sizes.rounds):
        for name, against in (("oracle", duels.against_oracle), ("naive", duels.against_naive)):
            if name in wanted:
                take(f"{FIGURES[name][0]}, {tape.name}", partial(against, watch, feature_set, sizes, tape))
    return {
        "figures": [figure.json() for figure in figures],
        "machine": machine(),
        "quiet": round(watch.quiet(), 3),
        "feature_set": feature_set.id,
        "left_out": [name for name in FIGURES if name not in wanted],
        **missed,
    }


def chosen(only: str | None, skip: str | None) -> list[str]:
    """Names of the figures, in order. Errors: UsageError."""
    kept = _named(only, "--only") or set(FIGURES)
    left = kept - _named(skip, "--skip")
    if not left:
        raise UsageError(
            "no figure is left", expected="at least one", was=f"--only {only} --skip {skip}", action="skip fewer"
        )
    return [name for name in FIGURES if name in left]


def _named(text: str | None, option: str) -> set[str]:
    names = {name.strip() for name in (text or "").split(",") if name.strip()}
    unknown = sorted(names - set(FIGURES))
    if unknown:
        raise UsageError(
            f"figure {', '.join(unknown)} is unknown", expected=", ".join(FIGURES), was=f"{option} {text}",
            action="name some of these, separated by commas",
        )  # fmt: skip
    return names


def machine() -> dict[str, Any]:
    """What all of it ran on."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(), "processors": os.cpu_count(), "memory_gb": round(memory / 1e9, 1),
        "system": platform.platform(), "python": platform.python_version(), "versions": versions,
    }  # fmt: skip


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def show(console: Console, payload: dict[str, Any]) -> None:
    """The figures as a table, and what to think of them."""
    rows = [
        [each["name"], f"{each['value']:.4g} {each['unit']}", _bound(each, "must"), _bound(each, "aim"),
         _verdict(each), each["rival"]]
        for each in payload["figures"]
    ]  # fmt: skip
    console.print(grid(f"Engine, {payload['feature_set']}", ["figure", "value", "must", "aim", "ok", "against"], rows))
    told = payload["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items() if version)
    console.print(facts({
        "machine": f"{told['processor']}, {told['processors']} processors, {told['memory_gb']} GB",
        "system": f"{told['system']}, Python {told['python']}", "versions": versions,
        "quiet": f"{payload['quiet']} of a processor", "left out": ", ".join(payload["left_out"]) or "nothing",
    }))  # fmt: skip
    if payload["missed"]:
        console.print(f"Missed: {', '.join(payload['missed'])}.")
    if payload["unsure"]:
        console.print(f"Missed on a busy machine, measure again: {', '.join(payload['unsure'])}.")


def _verdict(figure: dict[str, Any]) -> str:
    if figure["must"] is None:
        return "-"
    return "yes" if figure["ok"] else "NO"


def _bound(figure: dict[str, Any], name: str) -> str:
    return "-" if figure[name] is None else f"{figure[name]:g}"
