"""`onetape bench engine`: every figure of the engine in one run.

Input: which figures, which feature set (its id or file), recordings if there are any.
Output: the payload of `--json` and a table; progress on stderr.
Errors: DependencyDown where a peer is missing; UsageError for a figure that does not exist or a folder without
recordings: all of them before anything is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from app.bench import archives, decoding, duels, footprint, suite
from app.bench.measure import Figure, Stopwatch
from app.bench.peers import MODULES, peer
from app.bench.suite import Verdict, chosen
from app.bench.tape import Sizes, recorded, recordings_in
from app.report import Report
from schemas.feature_sets import load

Measure = Callable[..., list[Figure]]
"""Called with the stopwatch, the feature set (its spec for those of `_SPAWNED`) and the sizes."""

FIGURES: dict[str, tuple[str, Measure]] = {
    "oracle": ("Against the tuned Python oracle", duels.against_oracle),
    "naive": ("Against the naive version", duels.against_naive),
    "hftbacktest": ("Against hftbacktest's book", duels.against_hftbacktest),
    "nautilus": ("Against nautilus_trader's book", duels.against_nautilus),
    "decode": ("From Avro to columns", decoding.from_avro),
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
    feature_set, wanted = load(spec), chosen(FIGURES, only, skip)
    files = [] if recordings is None else recordings_in(recordings)
    for name in wanted:
        if name in MODULES:
            peer(MODULES[name])
    sizes = sizes or Sizes()
    watch, verdict = Stopwatch(), Verdict()

    def take(title: str, against: Callable[[], list[Figure]]) -> None:
        first = len(watch.spans)
        with report.step(title):
            found = against()
        verdict.take(found, watch.quiet(first))

    for name in wanted:
        title, measure = FIGURES[name]
        take(title, partial(measure, watch, spec if name in _SPAWNED else feature_set, sizes))
    for tape in recorded(files, sizes.rounds):
        for name, against in (("oracle", duels.against_oracle), ("naive", duels.against_naive)):
            if name in wanted:
                take(f"{FIGURES[name][0]}, {tape.name}", partial(against, watch, feature_set, sizes, tape))
    left_out = [name for name in FIGURES if name not in wanted]
    return verdict.payload(watch.quiet(), _PACKAGES) | {"feature_set": feature_set.id, "left_out": left_out}


def show(console: Console, payload: dict[str, Any]) -> None:
    """The figures as a table, and what to think of them."""
    suite.show(console, f"Engine, {payload['feature_set']}", payload)
