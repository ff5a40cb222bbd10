"""Replays of a temporary archive: from Parquet to full vectors, on one thread and on two, and a month of one symbol.

Output: figures.
Units: seconds; events are records of the tape.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from agents.oracle import Oracle
from app.bench.measure import Duel, Figure, Stopwatch, Target, duel, rate
from app.bench.stream import Stream, names
from app.bench.tape import Sizes
from replay import parallel
from replay.archive import staged
from replay.driver import replay
from replay.reader import ArchiveReader
from schemas.columns import Columns
from schemas.feature_sets import FeatureSet

MONTH_EVENTS = 300_000_000
_CHUNK = 500_000
_BATCH = 65_536


def compiled(feature_set: FeatureSet) -> None:
    """Have everything compiled that a replay needs: compiling is no part of any figure but `start`."""
    with written(1, 1_000) as (path, _):
        replay(ArchiveReader(path), feature_set)


def chunks(stream: Stream, rows: int) -> Iterator[Columns]:
    """The beginning of a stream and so many records."""
    yield stream.begin()
    for first in range(0, rows, _CHUNK):
        yield stream.take(min(_CHUNK, rows - first))


@contextmanager
def written(symbols: int, rows: int, *, keeps: bool = False) -> Iterator[tuple[Path, list[Columns]]]:
    """An archive of a generated tape of one partition, and the tape itself where it is to be kept."""
    stream = Stream(names(symbols))
    kept: list[Columns] = []
    with TemporaryDirectory(prefix="onetape-bench-") as place:
        with staged(Path(place) / "archive", 1) as writer:
            for columns in chunks(stream, rows):
                writer.append_tape(columns)
                if keeps:
                    kept.append(columns)
        yield Path(place) / "archive", kept


def from_parquet(watch: Stopwatch, feature_set: FeatureSet, sizes: Sizes) -> list[Figure]:
    """A whole archive, read ahead, against the tuned Python oracle over the same records in memory."""
    compiled(feature_set)
    with written(sizes.symbols, sizes.archive_rows, keeps=True) as (path, kept):
        columns = Columns.concat(kept)

        found = duel(
            watch, sizes.rounds, lambda _: replay(ArchiveReader(path), feature_set),
            lambda _: Oracle(feature_set, 0).apply(columns),
        )  # fmt: skip
    both = f"events, we {rate(found.ours, len(columns))}, it {rate(found.theirs, len(columns))}"
    return [Figure("parquet", found.ratio, Target(10, 18), f"tuned Python oracle from columns in memory; {both}")]


def on_two_threads(watch: Stopwatch, feature_set: FeatureSet, sizes: Sizes) -> list[Figure]:
    """Parallel replay on two threads against one: over records in memory, and out of an archive.

    The archive's one thread has a second that reads ahead; so two processors are then busy already.
    """
    compiled(feature_set)
    with written(sizes.symbols, sizes.thread_rows, keeps=True) as (path, kept):
        batches = [(each.slice(at, at + _BATCH), False) for each in kept for at in range(0, len(each), _BATCH)]
        rows = sum(map(len, kept))
        found = duel(
            watch, sizes.rounds, lambda _: parallel.run(batches, feature_set, 2),
            lambda _: parallel.run(batches, feature_set, 1), threads=2,
        )  # fmt: skip
        archived = duel(
            Stopwatch(), sizes.rounds, lambda _: replay(ArchiveReader(path), feature_set, threads=2),
            lambda _: replay(ArchiveReader(path), feature_set),
        )  # fmt: skip
    return [
        Figure("threads", found.ratio, Target(1.7, 1.95), f"one thread, records in memory; {_threads(found, rows)}"),
        Figure("threads:parquet", archived.ratio, Target(None, None), f"one thread; {_threads(archived, rows)}"),
    ]


def _threads(found: Duel, rows: int) -> str:
    shares = [f"{median(span.share for span in spans):.2f}" for spans in (found.ours, found.theirs)]
    return (
        f"events, two {rate(found.ours, rows)}, one {rate(found.theirs, rows)}; cpu/elapsed {shares[0]} and {shares[1]}"
    )


def month(watch: Stopwatch, feature_set: FeatureSet, sizes: Sizes) -> list[Figure]:
    """A month of one busy symbol, from a part of it."""
    compiled(feature_set)
    begun = time.perf_counter()
    with written(1, sizes.month_rows) as (path, _):
        seconds = time.perf_counter() - begun
        span, _ = watch.time(lambda: replay(ArchiveReader(path), feature_set))
    value = span.seconds * MONTH_EVENTS / sizes.month_rows
    told = (
        f"{MONTH_EVENTS / 1e6:.0f} M events, from {sizes.month_rows / 1e6:.3g} M: {rate([span], sizes.month_rows)}, "
        f"cpu/elapsed {span.share:.2f} (written in {seconds:.0f} s)"
    )
    return [Figure("month", value, Target(150, 60, "s", at_most=True), told)]
