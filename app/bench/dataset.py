"""`onetape bench dataset`: a symbol's month as a dataset, its memory, and training rows against Feast and polars.

Input: which figures, which feature set (its id or file), a Python that has Feast.
Output: the payload of `--json` and a table; progress on stderr.
Errors: DependencyDown where Feast is wanted and missing, before anything is measured; UsageError for a figure that does
not exist; CheckFailed where a rival's rows are not ours.
Units: seconds, bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from app.bench import building, retrieval, suite
from app.bench.archives import MONTH_EVENTS, chunks, written
from app.bench.building import built
from app.bench.measure import Figure, Stopwatch, Target, rate
from app.bench.stream import Stream, names
from app.bench.suite import Verdict, chosen
from app.report import Report
from replay.archive import staged
from schemas.errors import CheckFailed
from schemas.feature_sets import FeatureSet, load

LABELS = ("forward_return_5s", "direction_1m", "triple_barrier_1m(upper=0.001, lower=0.001)")
SPLIT = "train=0.7,validation=0.15,test=0.15"
_BENCH = "dataset"
_GB = 1e9
_SAMPLE_S = 0.02
_PACKAGES = ("onetape", "numba", "numpy", "pyarrow", "polars", "matplotlib")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is benched. `memory_rows` are the records of a short and a long tape."""

    rounds: int = 5
    joined_rows: int = 200_000
    month_rows: int = 20_000_000
    memory_rows: tuple[int, int] = (3_000_000, 8_000_000)


class Bench:
    """One run: the feature set, the sizes, the machine's quiet."""

    def __init__(self, spec: str, sizes: Sizes, python: str) -> None:
        self.spec, self.sizes, self.python = spec, sizes, python
        self.feature_set: FeatureSet = load(spec)
        self.watch = Stopwatch()

    def month(self, _: set[str]) -> list[Figure]:
        """A month of one busy symbol as a dataset, from a part of it."""
        rows = self.sizes.month_rows
        with written(1, 20_000) as (path, _unused), TemporaryDirectory(prefix="onetape-bench-") as place:
            built(path, Path(place), self.spec, LABELS, SPLIT)  # whatever has to be compiled
        with written(1, rows) as (path, _unused), TemporaryDirectory(prefix="onetape-bench-") as place:
            span, (manifest, stages) = self.watch.time(lambda: built(path, Path(place), self.spec, LABELS, SPLIT))
        scale, proving = MONTH_EVENTS / rows, stages.seconds[building.PROVING]
        told = (
            f"{MONTH_EVENTS / 1e6:.0f} M events of one symbol from an archive to a published dataset: {len(LABELS)} "
            f"labels, splits, leak check, look-ahead, card; from {rows / 1e6:.3g} M events, {manifest['rows']:,} rows "
            f"in {span.seconds:.1f} s ({rate([span], rows)}, cpu/elapsed {span.share:.2f}; {stages.text()}), taken "
            f"{scale:.3g} times but for the proof of {building.CUTS} cuts, which is as long whatever the tape"
        )
        value = (span.seconds - proving) * scale + proving
        return [Figure("month", value, Target(300, 90, "s", at_most=True), told, bench=_BENCH)]

    def memory(self, _: set[str]) -> list[Figure]:
        """The most that the processes of a build have in memory, over two lengths of one tape."""
        peaks = [self._peak(rows) for rows in self.sizes.memory_rows]
        lengths = " and ".join(f"{rows / 1e6:.3g} M" for rows in self.sizes.memory_rows)
        told = (
            f"{retrieval.SYMBOLS} symbols, {retrieval.RATE} events a second each; resident, all processes together; "
            f"{lengths} events: {' and '.join(f'{peak / _GB:.2f} GB, {rows:,} rows' for peak, rows in peaks)}"
        )
        grown = peaks[1][0] / peaks[0][0]
        return [
            Figure("memory", peaks[1][0] / _GB, Target(4, 2, "GB", at_most=True), told, bench=_BENCH),
            Figure("memory:longer", grown, Target(1.5, 1.1, at_most=True), "the short tape's", bench=_BENCH),
        ]

    def joins(self, wanted: set[str]) -> list[Figure]:
        """Training rows in turns with the rivals."""
        sizes, found = self.sizes, list[Figure]()
        with retrieval.prepared(self.feature_set, self.spec, sizes.joined_rows) as side:
            made = retrieval.ours(side)
            if "asof" in wanted:
                found += retrieval.against_polars(self.watch, side, made, sizes.rounds)
            if "feast" in wanted:
                found += retrieval.against_feast(self.watch, side, made, sizes.rounds, self.python)
        return found

    def _peak(self, rows: int) -> tuple[int, int]:
        """Bytes of a build over so many records, at most; and the rows it made."""
        with TemporaryDirectory(prefix="onetape-bench-") as place:
            folder = Path(place)
            with staged(folder / "archive", 1) as writer:
                for columns in chunks(Stream(names(retrieval.SYMBOLS), rate=retrieval.RATE), rows):
                    writer.append_tape(columns)
            arguments = [str(folder / "archive"), str(folder / "datasets"), self.spec, SPLIT, *LABELS]
            with (folder / "log").open("wb") as log:
                command = [sys.executable, "-m", building.__name__, *arguments]
                process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
                peak = 0
                while process.poll() is None:
                    peak = max(peak, sum(map(resident, tree(process.pid))))
                    time.sleep(_SAMPLE_S)
            output = process.communicate()[0]
            if process.returncode:
                words = (folder / "log").read_text(errors="replace").strip().rpartition("\n")[2]
                raise CheckFailed(
                    "the build whose memory is measured failed", expected="a dataset",
                    was=f"exit code {process.returncode}: {words}", action="put right what it says",
                )  # fmt: skip
            return peak, int(json.loads(output)["rows"])


def tree(pid: int) -> list[int]:
    """A process and all that come of it."""
    found = [pid]
    for each in found:
        for path in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += map(int, path.read_text(encoding="ascii").split())
            except OSError:
                continue
    return found


def resident(pid: int) -> int:
    """Bytes a process has in memory, mapped files too; 0 once it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


GROUPS: dict[str, tuple[str, Callable[[Bench, set[str]], list[Figure]]]] = {
    "month": ("A month of one symbol as a dataset", Bench.month),
    "memory": ("Memory of builds", Bench.memory),
    "asof": ("Training rows, against as-of joins", Bench.joins),
    "feast": ("Training rows, against as-of joins", Bench.joins),
}


def bench_dataset(
    report: Report,
    spec: str,
    *,
    only: str | None = None,
    skip: str | None = None,
    python: str | None = None,
    sizes: Sizes | None = None,
) -> dict[str, Any]:
    """Measure; returns the payload. What was missed while the machine was busy is `unsure`."""
    wanted = chosen(GROUPS, only, skip)
    if "feast" in wanted:
        _check_feast(python)
    run, verdict = Bench(spec, sizes or Sizes(), python or sys.executable), Verdict()
    for title, measure in dict.fromkeys(GROUPS[name] for name in wanted):
        first = len(run.watch.spans)
        with report.step(title):
            found = measure(run, set(wanted))
        verdict.take(found, run.watch.quiet(first))
    about = {"feature_set": run.feature_set.id, "left_out": [name for name in GROUPS if name not in wanted]}
    return verdict.payload(run.watch.quiet(), _PACKAGES) | about


def _check_feast(python: str | None) -> None:
    """Errors: DependencyDown."""
    if python is None:
        if find_spec("feast") is None:
            raise retrieval.missing("none beside us")
        return
    asked = [python, "-c", "from importlib.metadata import version; print(version('feast'), version('duckdb'))"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
    except OSError as error:
        raise retrieval.missing(str(error)) from None
    if done.returncode:
        raise retrieval.missing(f"{python}: {done.stderr.strip().rpartition(chr(10))[2]}")


def show(console: Console, payload: dict[str, Any]) -> None:
    """The figures as a table, and what to think of them."""
    suite.show(console, f"Dataset, {payload['feature_set']}", payload)
