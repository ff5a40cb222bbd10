"""Training rows: what a build makes of its vectors, against as-of joins of Feast and polars over the same vectors.

Input: the vectors of a generated tape, each side's in its own store: ours the chunks of a build, polars' uncompressed
Arrow that it maps (also Parquet), Feast's Parquet.
Output: figures. A side's rows are compared with ours first: values and labels in every bit, roles.
Units: seconds; rows are training rows.
Errors: CheckFailed where a rival's rows are others; DependencyDown where Feast is not there.

The work: each row's features as they were known at its time, its labels, and whether it is for training, validation or
test, in memory. We label and split by the rows' own intervals and lay the rows of all shares in order. Polars joins the
features as of each row's time, reads the labels off the prices by position, and is told where the splits begin. Feast
joins the features only.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import feather

from app.bench.archives import chunks
from app.bench.measure import Duel, Figure, Span, Stopwatch, Target, duel, rate
from app.bench.rivals import historical
from app.bench.stream import Stream, names
from replay.archive import staged
from replay.datasets import chunks as stored
from replay.datasets.assembly import Assembly, merged
from replay.datasets.build import assembled, make, plan
from replay.datasets.engines import Here
from replay.datasets.labelled import Rows
from replay.datasets.recipe import Recipe
from replay.datasets.shares import Task
from replay.driver import inputs
from replay.reader import ArchiveReader
from replay.splits.fold import Role, roles
from schemas.errors import CheckFailed, DependencyDown
from schemas.feature_sets import FeatureSet
from schemas.units import NS_PER_S
from schemas.vectors import Vectors

HORIZONS_S = (5, 30, 60)
LABELS = tuple(f"forward_return_{seconds}s" for seconds in HORIZONS_S)
SYMBOLS = 20
RATE = 5
"""Events a second of each symbol: a vector of it for so many."""
_BENCH = "dataset"
_POLARS, _PARQUET = "vectors.arrow", "vectors.parquet"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Chunks of a build, ready to be labelled, in a folder that also holds what the rivals read."""

    folder: Path
    recipe: Recipe
    feature_set: FeatureSet
    tasks: Sequence[Task]

    def assemble(self) -> Assembly:
        """Labels and splits, as in a build."""
        return assembled(self.recipe, self.feature_set, self.tasks, _silent)

    def vectors(self) -> Vectors:
        """All vectors of the chunks, by time and instrument."""
        parts = [
            stored.read_vectors(task.folder, chunk.number, self.feature_set)
            for task in self.tasks for chunk in stored.read_all(task.folder)
        ]  # fmt: skip
        return Vectors.concat(parts).sorted()


@dataclass(frozen=True, slots=True)
class Made:
    """Training rows of ours, with the role of each."""

    assembly: Assembly
    parts: list[tuple[Rows, NDArray[np.uint8]]]

    def rows(self) -> Rows:
        """All of them."""
        return Rows.concat([rows for rows, _ in self.parts])

    def roles(self) -> NDArray[np.uint8]:
        """[m] the role of each."""
        return np.concatenate([found for _, found in self.parts])


@contextmanager
def prepared(feature_set: FeatureSet, spec: str, rows: int) -> Iterator[Prepared]:
    """The vectors of a generated tape of so many rows in all, as every side stores them."""
    recipe = Recipe(spec, LABELS, keeps_warmup=True)
    with TemporaryDirectory(prefix="onetape-bench-") as place:
        folder = Path(place)
        with staged(folder / "archive", 1) as writer:
            for columns in chunks(Stream(names(SYMBOLS), rate=RATE), rows * RATE):
                writer.append_tape(columns)
        archive = ArchiveReader(folder / "archive")
        planned = plan(archive, recipe, feature_set, inputs(archive))
        tasks = [replace(task, folder=folder / task.folder) for task in planned]
        make(tasks, Here(), _silent)
        yield Prepared(folder, recipe, feature_set, tasks)


def ours(side: Prepared) -> Made:
    """What a build does from its chunks to its rows: labels, splits, and the rows of all shares in one order."""
    assembly = side.assemble()
    fold, reach, split = assembly.folds[0], assembly.reach[0], side.recipe.split
    parts = []
    for rows in merged([(rows for rows, _ in share.rows()) for share in assembly.shares]):
        found = roles(
            fold, reach, rows.vectors.time, rows.t1, look_back_ns=assembly.look_back_ns,
            purge_horizon_ns=split.purge_horizon_ns, embargo_ns=split.embargo_ns,
        )  # fmt: skip
        parts.append((rows, found))
    return Made(assembly, parts)


def against_polars(watch: Stopwatch, side: Prepared, made: Made, rounds: int) -> list[Figure]:
    """The same rows by polars' as-of join, out of memory-mapped Arrow and out of Parquet."""
    table = side.vectors().to_table()
    feather.write_feather(table, side.folder / _POLARS, compression="uncompressed")
    pq.write_table(table, side.folder / _PARQUET, compression="zstd")
    entities = _entities(made)
    found = []
    for name, file, target in (
        ("asof", _POLARS, Target(1, 3)),
        ("asof:parquet", _PARQUET, Target(None, None)),
    ):
        path = side.folder / file

        def theirs(_: int, path: Path = path) -> pl.DataFrame:
            return by_polars(path, entities, side.feature_set, made)

        fight = duel(watch, rounds, lambda _: ours(side), theirs, lambda _, mine, other: _check_polars(mine, other))
        told = f"polars {pl.__version__} from {file.partition('.')[2]}, features, {len(LABELS)} labels and split"
        found.append(_figure(name, fight, target, told, made, side.feature_set))
    return found


def by_polars(path: Path, entities: pl.DataFrame, feature_set: FeatureSet, made: Made) -> pl.DataFrame:
    """Features as of each row's time, labels, and the split, in polars."""
    scan = pl.scan_parquet(path) if path.suffix == ".parquet" else pl.scan_ipc(path)
    price, time = pl.col("mid_price"), pl.col("time")
    later = [
        pl.when(time.shift(-seconds).over("instrument") == time + seconds * NS_PER_S)
        .then(price.shift(-seconds).over("instrument") / price - 1.0).alias(name)
        for seconds, name in zip(HORIZONS_S, LABELS, strict=True)
    ]  # fmt: skip
    known = scan.with_columns(later).select("instrument", "ts_available", *feature_set.features, *LABELS)
    joined = entities.lazy().join_asof(
        known, left_on="time", right_on="ts_available", by="instrument", check_sortedness=False
    )
    ranges = made.assembly.folds[0].ranges
    reach = time + HORIZONS_S[-1] * NS_PER_S
    role: Any = pl.lit(int(ranges[-1].role))
    for each in reversed(ranges[:-1]):
        mine = pl.when(reach >= each.end_ns).then(int(Role.PURGED)).otherwise(int(each.role))
        role = pl.when(time < each.end_ns).then(mine).otherwise(role)
    return joined.with_columns(role.cast(pl.UInt8).alias("role")).collect()


def against_feast(watch: Stopwatch, side: Prepared, made: Made, rounds: int, python: str) -> list[Figure]:
    """The features of the same rows by Feast's historical retrieval."""
    table = side.vectors().to_table()
    stamp = table["ts_available"].cast(pa.timestamp("ns", "UTC"))
    columns = ["instrument", *side.feature_set.features]
    pq.write_table(table.select(columns).append_column("event_timestamp", stamp), side.folder / "features.parquet")
    entities = _entities(made).select("instrument", pl.col("time").alias("event_timestamp")).to_arrow()
    stamped = entities["event_timestamp"].cast(pa.timestamp("ns", "UTC"))
    asked = pa.table({"instrument": entities["instrument"].cast(pa.string()), "event_timestamp": stamped})
    pq.write_table(asked, side.folder / "entities.parquet")
    mine: list[Span] = []
    theirs: list[Span] = []
    with Feast(python, side.folder) as feast:
        for _ in range(rounds):
            mine.append(watch.time(lambda: ours(side))[0])
            theirs.append(feast.retrieve())
    _check_feast(made, side.folder / "retrieved.parquet", side.feature_set)
    told = f"Feast {feast.versions['feast']} on DuckDB {feast.versions['duckdb']}, features only, valid for "
    told += f"{historical.VALID_S} s"
    return [_figure("feast", Duel(mine, theirs), Target(5, 30), told, made, side.feature_set)]


class Feast:
    """Feast in a process of a Python that has it. Errors: DependencyDown where it does not start."""

    def __init__(self, python: str, folder: Path) -> None:
        self._python, self._folder = python, folder
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Self:
        command = [self._python, str(Path(historical.__file__)), str(self._folder)]
        with (self._folder / "feast.log").open("wb") as log:
            try:
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
            except OSError as error:
                raise missing(str(error)) from None
        self.versions = self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()

    def retrieve(self) -> Span:
        """One retrieval, timed by Feast's own process."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"retrieve\n")
        self._process.stdin.flush()
        told = self._answer()
        return Span(told["seconds"], told["cpu_seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            words = (self._folder / "feast.log").read_text(errors="replace").strip().rpartition("\n")[2]
            raise missing(f"{self._python}: {words or 'no word'}")
        found: dict[str, Any] = json.loads(line)
        return found


def missing(was: str) -> DependencyDown:
    """The error of a Python without Feast."""
    return DependencyDown(
        "Feast is missing", expected="a Python that has feast[duckdb] 0.67 or newer", was=was,
        action="python3 -m venv FOLDER && FOLDER/bin/pip install 'feast[duckdb]>=0.67', then name it with "
        "--feast FOLDER/bin/python; or leave its figure out with --skip feast",
    )  # fmt: skip


def _figure(name: str, fight: Duel, target: Target, told: str, made: Made, feature_set: FeatureSet) -> Figure:
    rows = len(made.roles())
    both = f"rows, we {rate(fight.ours, rows)}, it {rate(fight.theirs, rows)}"
    what = f"{told}; {rows:,} rows of {len(feature_set.features)} features, equal in every bit; {both}"
    return Figure(name, fight.ratio, target, what, bench=_BENCH)


def _entities(made: Made) -> pl.DataFrame:
    """Instrument and time of every training row, in our order."""
    vectors = made.rows().vectors
    return pl.DataFrame({"instrument": pl.Series(vectors.instruments(), dtype=pl.String), "time": vectors.time})


def _check_polars(made: Made, other: pl.DataFrame) -> None:
    rows = made.rows()
    features = list(made.assembly.feature_set.features)
    _require(_same(rows.vectors.values, other.select(features).to_numpy()), "features", "polars")
    _require(_same(rows.labels, other.select(LABELS).to_numpy()), "labels", "polars")
    _require(np.array_equal(made.roles(), other["role"].to_numpy()), "roles", "polars")


def _check_feast(made: Made, path: Path, feature_set: FeatureSet) -> None:
    table = pq.read_table(path)
    vectors = made.rows().vectors
    time = table["event_timestamp"].cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_numpy()
    names = np.array(table["instrument"].to_pylist(), np.str_)
    theirs = np.column_stack([table[name].to_numpy() for name in feature_set.features])
    order, mine = np.lexsort((names, time)), np.lexsort((np.array(vectors.instruments(), np.str_), vectors.time))
    _require(len(time) == len(vectors) and _same(vectors.values[mine], theirs[order]), "features", "Feast")


def _same(mine: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Equal in every bit, all nulls alike."""
    left, right = (np.where(np.isnan(each), np.nan, each) for each in (mine, other))
    return np.array_equal(left.view(np.uint64), np.ascontiguousarray(right).view(np.uint64))


def _require(holds: bool, what: str, rival: str) -> None:
    if not holds:
        raise CheckFailed(
            f"{rival} makes other rows than we do", expected=f"the same {what}", was="others",
            action="find out who is right: there is nothing to compare before",
        )  # fmt: skip


def _silent(stage: str, done: int, total: int) -> None:
    """Nobody listens."""
