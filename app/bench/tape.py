"""What is benched: a tape in memory, parted into what warms up and the rounds that are timed.

Input: a generated stream, or recordings of venues, imported into a temporary archive.
Output: `Tape`.
Errors: those of `app.importer`; UsageError for a folder without recordings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from agents.engine import Engine
from app.bench.stream import Stream, names
from app.importer import import_recording
from replay.reader import ArchiveReader
from schemas.columns import Columns
from schemas.errors import UsageError
from schemas.feature_sets import FeatureSet
from schemas.vectors import Vectors

FORMATS = {"usdm": "binance-usdm", "cm": "binance-coinm", "spot": "binance-spot"}
"""Format of a recording by the first word of its name."""
_WARM_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is benched. Rounds of a rival are as long as it can bear."""

    symbols: int = 20
    warm_rows: int = 130_000
    """Records before the first timed one: more than a minute, so that every window is full."""
    rounds: int = 5
    fast_rows: int = 300_000
    slow_rows: int = 60_000
    naive_rows: int = 20_000
    single_rows: int = 20_000
    archive_rows: int = 900_000
    thread_rows: int = 4_000_000
    """A third of a second for one thread: starting a second one must not count."""
    month_rows: int = 20_000_000
    memory_symbols: int = 5_000


@dataclass(frozen=True, slots=True)
class Tape:
    """Records of one partition."""

    name: str
    warm: Columns
    rounds: list[Columns]

    @property
    def rows(self) -> float:
        """Records of a round."""
        return sum(map(len, self.rounds)) / len(self.rounds)


def generated(sizes: Sizes, rows: int) -> Tape:
    """A generated tape with so many records in each round."""
    stream = Stream(names(sizes.symbols))
    warm = Columns.concat([stream.begin(), stream.take(sizes.warm_rows)])
    return Tape("", warm, [stream.take(rows) for _ in range(sizes.rounds)])


def recordings_in(folder: Path) -> list[Path]:
    """The recordings in a folder: files named FORMAT_SYMBOL_DATE, with FORMAT of FORMATS. Errors: UsageError."""
    files = sorted(path for path in folder.glob("*.gz") if path.name.partition("_")[0] in FORMATS)
    if not files:
        raise UsageError(
            f"no recordings in {folder}", expected="files like usdm_ethusdt_20240718.gz", was="none",
            action="name the folder that holds them with --recordings",
        )  # fmt: skip
    return files


def recorded(files: list[Path], rounds: int) -> Iterator[Tape]:
    """One tape for each recording; the files of several days are one."""
    for name, parts in groupby(files, lambda path: path.name.rpartition("_")[0]):
        with TemporaryDirectory(prefix="onetape-bench-") as place:
            archive = Path(place) / "archive"
            import_recording(list(parts), FORMATS[name.partition("_")[0]], archive=archive, partitions=1)
            columns = Columns.concat(list(ArchiveReader(archive).batches(0)))
        first = int(len(columns) * _WARM_SHARE)
        step = (len(columns) - first) // rounds
        yield Tape(
            name,
            columns.slice(0, first),
            [columns.slice(first + i * step, first + (i + 1) * step) for i in range(rounds)],
        )


def fold(engine: Engine, columns: Columns) -> Vectors:
    """The vectors of an engine that has one feature set."""
    return engine.apply(columns)[0]


def warmed(feature_set: FeatureSet, tape: Tape) -> Engine:
    """An engine that has read what warms up."""
    engine = Engine([feature_set], 0)
    fold(engine, tape.warm)
    return engine
