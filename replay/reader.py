"""Reading an archive: tape batches of an exact size, vectors shown once, dead letters.

Input: an archive as `replay.archive` writes it.
Output: `Columns`, `Vectors`, dead letters each once, in offset order per partition.
State: `decoded` counts what was read; memory is the row groups of a few blocks (at most 262,144 records each) plus one
batch: while the caller computes, a thread decodes the next ones.
Units: ts are ns UTC; offsets are Kafka offsets.
Errors: ArchiveMissing; ArchiveHole (offsets missing or doubled); SegmentTorn (a file is not what was written: what
is read of it is hashed and its pages' checksums are verified before its rows are given out); UsageError (an unknown
symbol or feature set, or records that were moved away).
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from replay import segments as files
from replay.folder import hidden_segments, read_head, remedy, topics
from replay.groups import Part, Places, Read, ReadCount, blocks, read_whole
from replay.prefetch import ahead
from replay.retained import DELETED, Moved, moved_of
from replay.rows import GROUP_ROWS_MAX, LETTER_SCHEMA, check_columns, letters_of, vector_schema
from replay.segments import Group, Segment
from replay.texts import check_texts
from replay.weaving import weave
from schemas.arrow import HEAD, from_table, kind_columns, kinds_of
from schemas.bounds import check_numbers
from schemas.codec import DeadLetter
from schemas.columns import Columns, Int64
from schemas.errors import ArchiveHole, CheckFailed, OnetapeError, UsageError
from schemas.feature_sets import FeatureSet
from schemas.topics import CLOCK_KEY, DEAD_LETTERS, REFUSED_KEY, TAPE
from schemas.vectors import Vectors

PARTS_AHEAD = 2
"""Parts of a block, of at most 65,536 rows, that are decoded before they are asked for."""


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a tape partition ends: the next offset, the last Tick's time and the last receipt (ns; None if unknown)."""

    next_offset: int
    last_tick: int | None
    last_ts: int


@dataclass(frozen=True, slots=True)
class VectorsRead:
    """Archived vectors, one per identity, sorted. `repeats` were byte-identical; `conflicts` name (instrument, T)."""

    vectors: Vectors
    repeats: int
    conflicts: list[tuple[str, int]]


class ArchiveReader:
    """An archive opened for reading."""

    def __init__(self, path: Path) -> None:
        """Open the archive at `path`. Errors: ArchiveMissing, UsageError."""
        self.path = path
        self.head = read_head(path)
        self.decoded = ReadCount()

    def partitions(self, topic: str = TAPE) -> list[int]:
        """Partitions of a topic that hold segments. Errors: ArchiveHole where a whole partition of the tape is gone."""
        found = [p for p in topics(self.path).get(topic, []) if self.segments(p, topic)]
        gone = files.unwritten(self.path, self.head.partitions, hidden_segments(self.path)) if topic == TAPE else []
        if gone:
            raise ArchiveHole(
                f"tape partition {', '.join(map(str, gone))} is not in the archive",
                expected=f"records of all {self.head.partitions} partitions: each has Ticks", was="no segment",
                action=f"wait for the first flush if a worker has just begun, else {remedy(self.path)}",
            )  # fmt: skip
        return found

    def segments(self, partition: int, topic: str = TAPE) -> list[Segment]:
        """Published segments of a partition, without hole. Errors: ArchiveHole, SegmentTorn.

        Segments of an import that is being committed are hidden by `pending.json`, and those moved away by
        `retained.json`, which may come or go meanwhile: they are read between two listings, and count when both are the
        same.
        """
        listed = self._listed(topic, partition)
        while True:
            error = None
            try:
                found = files.scan(self.path, topic, partition, hidden_segments(self.path))
            except OnetapeError as raised:
                error = raised
            again = self._listed(topic, partition)
            if again == listed:
                if error is not None:
                    raise error
                return found
            listed = again

    def _listed(self, topic: str, partition: int) -> tuple[list[str], list[Moved]]:
        return files.names(self.path, topic, partition), moved_of(self.path, topic, partition)

    def first_offset(self, partition: int) -> int:
        """Where a tape partition that has segments begins, be its first records here or moved away."""
        return self.links(partition)[0].first_offset

    def links(self, partition: int, topic: str = TAPE) -> list[Segment | Moved]:
        """Segments of a partition, here and moved away, in offset order. Errors: as `segments`."""
        moved = moved_of(self.path, topic, partition)
        while True:
            found, again = self.segments(partition, topic), moved_of(self.path, topic, partition)
            if again == moved:
                return files.chain(found, moved)
            moved = again

    def symbols(self) -> list[str]:
        """Instruments on the tape, sorted."""
        found = {key for p in self.partitions() for segment in self.segments(p) for key in segment.keys}
        return sorted(found - {CLOCK_KEY, REFUSED_KEY})

    def check_symbols(self, symbols: Iterable[str]) -> None:
        """Refuse instruments the tape does not have, with near matches. Errors: UsageError."""
        known = self.symbols()
        for symbol in symbols:
            if symbol not in known:
                near = difflib.get_close_matches(symbol, known, 3, 0.4) or known[:3]
                raise UsageError(
                    f"{symbol} is not in {self.path}", expected="an instrument of the tape", was=symbol,
                    action=f"choose among {', '.join(near) or 'none: the tape is empty'}",
                )  # fmt: skip

    def tail(self, partition: int) -> Tail | None:
        """End of a tape partition, None while it is empty."""
        published = self.segments(partition)
        if not published:
            return None
        ticks = [segment.last_tick for segment in published if segment.last_tick is not None]
        last_ts = max(segment.last_ts for segment in published)
        return Tail(published[-1].last_offset + 1, ticks[-1] if ticks else None, last_ts)

    def batches(
        self,
        partition: int,
        batch_size: int | None = None,
        *,
        symbols: Sequence[str] | None = None,
        first_offset: int | None = None,
        last_offset: int | None = None,
        read_ahead: bool = True,
    ) -> Generator[Columns, None, None]:
        """Tape records of a partition, `batch_size` rows each and the rest last; None: as they are stored.

        `symbols` keeps those instruments and every Tick and Activate; `first_offset <= offset <= last_offset` bounds
        the rows. The rows kept keep their offsets. `read_ahead` has a thread decode the next row groups until the
        iterator ends or is closed.
        """
        wanted = None if symbols is None else frozenset({*symbols, CLOCK_KEY})
        low = -1 if first_offset is None else first_offset
        high = np.iinfo(np.int64).max if last_offset is None else last_offset
        read = _TapeRead(partition, wanted, low, high)
        parts = (
            columns
            for segment in self._here(TAPE, partition, low, high)
            for columns in self._still(segment, read.of(self.path, segment, self.decoded))
        )
        with closing(ahead(parts, PARTS_AHEAD) if read_ahead else parts) as decoded:
            yield from (part for part in decoded if len(part)) if batch_size is None else recut(decoded, batch_size)

    def _here(self, topic: str, partition: int, low: int, high: int) -> Iterator[Segment]:
        """Segments with offsets low..high in order. Errors: UsageError at the first of them that was moved away."""
        links = self.links(partition, topic)
        wanted = [link for link in links if link.last_offset >= low and link.first_offset <= high]
        for link in wanted:
            if isinstance(link, Moved):
                raise _away(self.path, [each for each in wanted if isinstance(each, Moved)])
            yield link

    def _still(self, segment: Segment, read: Iterator[Part]) -> Iterator[Part]:
        """What is read of a segment. Errors: UsageError if it was moved away since it was listed."""
        try:
            yield from read
        except CheckFailed:
            moved = moved_of(self.path, segment.topic, segment.partition)
            away = [each for each in moved if each.label() == segment.label()]
            if away:
                raise _away(self.path, away) from None
            raise

    def check_vectors(self, feature_set: FeatureSet) -> None:
        """Errors: UsageError where the archive has no vectors of this set, or of another definition."""
        if not self.head.knows(feature_set):
            raise no_vectors(self.path, feature_set.id, ", ".join(sorted(self.head.feature_sets)) or "none")

    def vectors(self, feature_set: FeatureSet) -> VectorsRead:
        """Archived vectors of a feature set. Errors: UsageError where the archive has none or of another definition."""
        self.check_vectors(feature_set)
        read = partial(_read_vectors, feature_set)
        parts = [part for _, part in self._parts(feature_set.topic, read)]
        return once(Vectors.concat(parts) if parts else Vectors.empty(feature_set))

    def vectors_between(
        self, feature_set: FeatureSet, segment: Segment, instruments: Sequence[str], after_ns: int, last_ns: int
    ) -> Vectors:
        """Archived vectors of some instruments in one segment with `after_ns < T <= last_ns`, as they stand there."""
        read = _SomeVectors(feature_set, pa.array(sorted(instruments), pa.string()), after_ns, last_ns)
        made = self._still(segment, blocks(self.path, segment, read, count=self.decoded))
        parts = [part for parts in made for part in parts]
        return Vectors.concat(parts) if parts else Vectors.empty(feature_set)

    def dead_letters(self) -> Iterator[tuple[int, int, DeadLetter]]:
        """(partition, offset, letter) of every archived dead letter where it first stands.

        A refused record that was delivered again has a letter again. Memory: a digest per letter.
        """
        seen: set[bytes] = set()
        for partition, part in self._parts(DEAD_LETTERS, _read_letters):
            for offset, letter in part:
                digest = hashlib.blake2b(repr(letter).encode(), digest_size=16).digest()
                if digest not in seen:
                    seen.add(digest)
                    yield partition, offset, letter

    def _parts(self, topic: str, read: Read[Part]) -> Iterator[tuple[int, Part]]:
        """(partition, what `read` makes of each row group) of a whole topic."""
        for partition in topics(self.path).get(topic, []):
            for segment in self._here(topic, partition, 0, np.iinfo(np.int64).max):
                for parts in self._still(segment, blocks(self.path, segment, read)):
                    yield from ((partition, part) for part in parts)


def _read_vectors(feature_set: FeatureSet, parquet: pq.ParquetFile, i: int, places: Places) -> Vectors:
    table = read_whole(parquet, i, places)
    check_columns(table, vector_schema(feature_set))
    return Vectors.from_table(table, feature_set)


@dataclass(frozen=True, slots=True)
class _SomeVectors:
    """Makes vectors of the rows of a row group that have a wanted instrument and time; decodes no other row group."""

    feature_set: FeatureSet
    wanted: pa.Array
    after_ns: int
    last_ns: int

    def __call__(self, parquet: pq.ParquetFile, i: int, places: Places) -> Vectors:
        head = parquet.read_row_group(i, columns=["offset", "instrument", "time"])
        places.take(head)
        check_texts(head)
        time = head["time"].to_numpy()
        keep = (time > self.after_ns) & (time <= self.last_ns)
        keep &= pc.is_in(head["instrument"].cast(pa.string()), self.wanted).to_numpy()
        if not keep.any():
            return Vectors.empty(self.feature_set)
        return _read_vectors(self.feature_set, parquet, i, places).select(keep)


def _read_letters(parquet: pq.ParquetFile, i: int, places: Places) -> list[tuple[int, DeadLetter]]:
    table = read_whole(parquet, i, places)
    check_columns(table, LETTER_SCHEMA)
    return list(zip(table["offset"].to_pylist(), letters_of(table), strict=True))


@dataclass(frozen=True, slots=True)
class _TapeRead:
    """Makes columns of the rows of a row group that have a wanted key and an offset in low..high.

    Bodies of kinds that no such row is of are not decoded.
    """

    partition: int
    wanted: frozenset[str] | None
    low: int
    high: int

    def of(self, root: Path, segment: Segment, count: ReadCount) -> Iterator[Columns]:
        """The rows of a segment, block by block."""
        keys = segment.keys

        def choose(group: Group) -> bool:
            return self.wanted is None or not self.wanted.isdisjoint(keys[group.first_key : group.last_key + 1])

        for parts in blocks(root, segment, self, choose=choose, low=self.low, high=self.high, count=count):
            kept = [part for part in parts if len(part)]
            if kept:
                yield from weave(kept, GROUP_ROWS_MAX)

    def __call__(self, parquet: pq.ParquetFile, i: int, places: Places) -> Columns:
        head = parquet.read_row_group(i, columns=HEAD)
        offsets = places.take(head)
        check_texts(head)
        keep = self._keep(head, offsets)
        kinds = kinds_of(head)
        table = parquet.read_row_group(i, columns=kind_columns(kinds if keep is None else kinds[keep]))
        check_texts(table)
        for name in HEAD:
            table = table.append_column(name, head[name])
        columns = from_table(table, self.partition, keep)
        check_numbers(columns)
        return columns

    def _keep(self, head: pa.Table, offsets: Int64) -> NDArray[np.bool_] | None:
        keep = (offsets >= self.low) & (offsets <= self.high)
        if self.wanted is not None:
            keep &= pc.is_in(head["key"].cast(pa.string()), pa.array(sorted(self.wanted), pa.string())).to_numpy()
        return None if keep.all() else keep


def _away(path: Path, moved: Sequence[Moved]) -> UsageError:
    """The error of a reader that needs segments that were moved away."""
    places = sorted({each.place for each in moved} - {DELETED})
    named = ", ".join(each.label() for each in moved[:3]) + (f" and {len(moved) - 3} more" if len(moved) > 3 else "")
    first, last = min(each.first_ts for each in moved), max(each.last_ts for each in moved)
    # Times are read to the microsecond.
    span = f"--from {np.datetime64(first, 'ns')} --to {np.datetime64((last // 1_000 + 1) * 1_000, 'ns')}"
    restore = f"run `onetape archive restore --archive {path} {span}`"
    is_deleted = any(each.place == DELETED for each in moved)
    return UsageError(
        f"offsets {moved[0].first_offset}..{moved[-1].last_offset} of {moved[0].topic} partition {moved[0].partition} "
        f"are no longer in {path}",
        expected=f"segments {named}",
        was="deleted as too old" if is_deleted else f"moved to {', '.join(places)}",
        action="begin later, at a checkpoint behind them (--from)" + ("" if is_deleted else f", or {restore}"),
    )  # fmt: skip


def no_vectors(path: Path, wanted: str, was: str) -> UsageError:
    """The error of an archive without live vectors."""
    return UsageError(
        f"{path} holds no live vectors of {wanted}", expected=wanted, was=was,
        action="archive the features topic with a worker (`onetape demo --from`), or name another set",
    )  # fmt: skip


def recut(parts: Iterable[Columns], batch_size: int) -> Iterator[Columns]:
    """The same rows in batches of exactly `batch_size`, the rest last; only what spans two parts is copied."""
    waiting: list[Columns] = []
    missing = batch_size
    for part in parts:
        at = 0
        while len(part) - at >= missing:
            yield Columns.concat([*waiting, part.slice(at, at + missing)])
            at, waiting, missing = at + missing, [], batch_size
        if at < len(part):
            waiting.append(part.slice(at, len(part)))
            missing -= len(part) - at
    if waiting:
        yield Columns.concat(waiting)


def once(vectors: Vectors) -> VectorsRead:
    """Each identity once (the first by position), sorted; what repeats it is counted, what contradicts it is named."""
    if not len(vectors):
        return VectorsRead(vectors, 0, [])
    ordered = vectors.sorted()
    same = np.zeros(len(ordered), np.bool_)
    same[1:] = (np.diff(ordered.time) == 0) & (np.diff(ordered.key) == 0)
    if not same.any():
        return VectorsRead(ordered, 0, [])
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(ordered))))
    again = np.flatnonzero(same)
    equal = ordered.select(again).same_bits(ordered.select(first[again]))
    keys, times = ordered.key[again[~equal]].tolist(), ordered.time[again[~equal]].tolist()
    conflicts = sorted({(ordered.keys[key], time) for key, time in zip(keys, times, strict=True)})
    return VectorsRead(ordered.select(~same), int(equal.sum()), conflicts)
