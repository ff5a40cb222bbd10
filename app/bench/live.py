"""`onetape bench live`: every figure of the live path in one run, each side a process against one real Kafka.

Input: which figures; a broker that answers.
Output: the payload of `--json` and a table; progress on stderr.
Errors: DependencyDown where the broker or a peer is missing; UsageError for a figure that does not exist; CheckFailed
where a rival says otherwise than we do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from app.bench import hardship, latency, recovery, suite, throughput
from app.bench.measure import Figure
from app.bench.place import Place
from app.bench.suite import Verdict, chosen
from app.bench.throughput import Runs, Sizes
from app.report import Report
from schemas.errors import UsageError

Measure = Callable[[Runs, set[str]], list[Figure]]
"""Called with the runs there are and the names of the figures wanted."""

GROUPS: dict[str, tuple[str, Measure]] = {
    "worker": ("Our worker alone", throughput.own),
    **dict.fromkeys(throughput.RIVALS, ("In turns with its rivals", throughput.against_rivals)),
    "workers": ("Two workers against one", hardship.two_workers),
    **dict.fromkeys(("readable", "burst"), ("Many symbols, live", latency.of_many)),
    "cadence": ("Few symbols at the cadence of the base Tick", latency.of_few),
    "poison": ("Bad input under load", hardship.poisoned),
    **dict.fromkeys(recovery.TARGETS, ("Killed in full work", recovery.recovered)),
}
"""Figures by name; those of one function are measured together, in turns."""
_PACKAGES = ("onetape", "faust-streaming", "aiokafka", "confluent-kafka", "quixstreams", "numba", "numpy")


def bench_live(
    report: Report, *, only: str | None = None, skip: str | None = None, sizes: Sizes | None = None,
    feature_set: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure; returns the payload. What was missed while the machine was busy is `unsure`."""
    wanted = chosen(GROUPS, only, skip)
    if feature_set is not None and not throughput.RIVALS.keys().isdisjoint({*wanted} - {"aiokafka"}):
        raise UsageError(
            "the rivals compute the bench's own set only", expected="figures of ours alone", was=str(feature_set),
            action="leave out --feature-set, or add --skip faust,quix",
        )  # fmt: skip
    verdict = Verdict()
    with Place(feature_set) as place:
        runs = Runs(place, sizes or Sizes())
        with report.step("Compiling, unless an earlier run has"):
            place.compile()
        for title, measure in dict.fromkeys(GROUPS[name] for name in wanted):
            first = len(runs.quiets)
            with report.step(title):
                found = measure(runs, set(wanted))
            verdict.take(found, runs.quiet(first))
        about = {"broker": place.base.brokers, "left_out": [name for name in GROUPS if name not in wanted]}
        return verdict.payload(runs.quiet(), _PACKAGES) | about


def show(console: Console, payload: dict[str, Any]) -> None:
    """The figures as a table, and what to think of them."""
    suite.show(console, f"Live, against the Kafka at {payload['broker']}", payload)
