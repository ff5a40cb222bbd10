"""Parity: the archived live vectors against those the archived tape gives, bit for bit.

Input: an archive with the tape and the features topic.
Output: `Parity` of one feature set: counts and the first differences by instrument, T and column; `in_sum` of several.
State: a part of the tape, its replayed and its live vectors, both as bounded as the tape's instruments let them be.
Errors: UsageError where the archive holds no live vectors of a feature set; those of `replay.reader`.

The archived tape decides which vectors must exist: every one that a replay of it gives.
    compared     identities (instrument, feature set, T) on both sides
    mismatch     compared, and any bit of any column differs (all NaN are one null)
    missing      given by the replay, not archived live; the last epoch of a run counts like any other
    extra        archived live, not given by the replay
    conflicting  archived live twice with different bytes
Only `in_flight`, for the archive of a worker that still runs, excuses what one of the two archived topics is ahead of
the other: a vector whose T is after the last live T of its tape partition, and a live vector whose Tick lies behind the
last archived tape offset of its partition, are `pending` instead of missing or extra.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay import parallel
from replay.driver import Counter, Progress, Replayed, marked, replay, run
from replay.ports import MemoryStates
from replay.reader import ArchiveReader, VectorsRead, no_vectors, once
from replay.segments import Segment
from schemas.columns import Columns
from schemas.events import Kind
from schemas.feature_sets import FeatureSet
from schemas.limits import TS_MAX_NS
from schemas.units import NS_PER_MS
from schemas.vectors import Vectors

COUNTS = ("compared", "mismatch", "missing", "extra", "conflicting", "pending", "repeats")
HEAD = ("partition", "as_of_offset", "ts_available", "book_epoch", "quality")
DIFFERENCES_MAX = 20
PART_RECORDS, PART_NUMBERS = 8_000_000, 24_000_000
"""Bounds of what is replayed at a time: records of the tape, and numbers in its vectors (192 MB)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One cell, or a whole row where `column` is `missing` or `extra`. `time` is T in ns."""

    feature_set: str
    instrument: str
    time: int
    column: str
    live: float | int | None
    replayed: float | int | None


@dataclass(frozen=True, slots=True)
class Parity:
    """Counts of identities, as the module defines them; `repeats` were archived twice, byte-identical."""

    compared: int
    mismatch: int
    missing: int
    extra: int
    conflicting: int
    pending: int
    repeats: int
    differences: list[Difference]

    @property
    def ok(self) -> bool:
        """Something was compared and nothing differs."""
        return self.compared > 0 and not (self.mismatch or self.missing or self.extra or self.conflicting)

    @property
    def equal_percent(self) -> float:
        """Equal identities among all that must be."""
        return 100.0 * (self.compared - self.mismatch) / max(1, self.compared + self.missing + self.extra)

    def json(self) -> dict[str, Any]:
        """One JSON object."""
        return {**asdict(self), "ok": self.ok, "equal_percent": self.equal_percent}


def total(found: Sequence[Parity]) -> Parity:
    """The sum of comparisons of different vectors."""
    counts = {name: sum(getattr(each, name) for each in found) for name in COUNTS}
    return Parity(**counts, differences=[difference for each in found for difference in each.differences])


def in_sum(found: Mapping[str, Parity]) -> dict[str, Any]:
    """One JSON object for several feature sets: the sums, and each set's own object by its id."""
    sums = total(list(found.values()))
    is_ok = bool(found) and all(each.ok for each in found.values())
    return {**sums.json(), "ok": is_ok, "feature_sets": {set_id: each.json() for set_id, each in found.items()}}


def archived_sets(archive: ArchiveReader) -> list[FeatureSet]:
    """Every feature set whose live vectors are archived, at least one. Errors: UsageError."""
    if not archive.head.feature_sets:
        raise no_vectors(archive.path, "any feature set", "none")
    return [archive.head.definition(set_id) for set_id in sorted(archive.head.feature_sets)]


def parity_of(
    archive: ArchiveReader,
    feature_sets: Sequence[FeatureSet],
    *,
    batch_size: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, Parity]:
    """Compare several feature sets, by id; each is replayed alone, however many were live together."""
    for feature_set in feature_sets:
        archive.check_vectors(feature_set)  # before any is replayed
    found: dict[str, Parity] = {}
    for feature_set in feature_sets:

        def share(done: int, total: int, before: int = len(found)) -> None:
            if progress is not None:
                progress(before * total + done, len(feature_sets) * total)

        found[feature_set.id] = parity(archive, feature_set, batch_size=batch_size, threads=threads, progress=share)
    return found


def parity(
    archive: ArchiveReader,
    feature_set: FeatureSet,
    *,
    in_flight: bool = False,
    batch_size: int | None = None,
    threads: int = 1,
    replayed: Replayed | None = None,
    progress: Progress | None = None,
) -> Parity:
    """Compare, a bounded part of the tape at a time.

    What is in flight is judged by the whole, and so is what the caller has replayed already.
    """
    if not in_flight and replayed is None:
        return _in_parts(archive, feature_set, batch_size, threads, progress)
    live = archive.vectors(feature_set)
    if replayed is None:
        replayed = replay(archive, feature_set, batch_size=batch_size, threads=threads, progress=progress)
    ends = {partition: archive.segments(partition)[-1].last_offset for partition in archive.partitions()}
    return compare(live, replayed.vectors, ends if in_flight else None)


def _in_parts(
    archive: ArchiveReader, feature_set: FeatureSet, batch_size: int | None, threads: int, progress: Progress | None
) -> Parity:
    """Each partition's instruments part by part, then the live vectors of instruments that the tape does not have."""
    archive.check_vectors(feature_set)
    tape = {partition: archive.segments(partition) for partition in archive.partitions()}
    topic = feature_set.topic
    live = [segment for partition in archive.partitions(topic) for segment in archive.segments(partition, topic)]
    counter = Counter(sum(segment.rows for segments in tape.values() for segment in segments), progress)
    found: list[Parity] = []
    strangers = {key for segment in live for key in segment.keys}
    for partition, segments in tape.items():
        keys = {key for segment in segments for key in segment.keys}
        strangers -= keys
        after_ns = -1
        with closing(archive.batches(partition, batch_size)) as batches:
            parts = _Parts(feature_set, threads, len(keys))
            for vectors, last_ns in parts.replayed(counter.over(batches)):
                found.append(compare(_live(archive, feature_set, live, keys, after_ns, last_ns), vectors))
                after_ns = last_ns
    nothing = Vectors.empty(feature_set)
    found.append(compare(_live(archive, feature_set, live, strangers, -1, TS_MAX_NS), nothing))
    whole = total(found)
    return replace(whole, differences=whole.differences[: 3 * DIFFERENCES_MAX])


def _live(
    archive: ArchiveReader, feature_set: FeatureSet, segments: Sequence[Segment], keys: set[str], after: int, last: int
) -> VectorsRead:
    """The live vectors of some instruments with `after < T <= last`."""
    parts = [
        archive.vectors_between(feature_set, segment, sorted(keys), after, last) for segment in segments
        if segment.last_ts > after and segment.first_ts <= last and not keys.isdisjoint(segment.keys)
    ]  # fmt: skip
    return once(Vectors.concat(parts) if parts else Vectors.empty(feature_set))


@dataclass(slots=True)
class _Parts:
    """A partition's replay in parts: each goes on from the states that the one before has left."""

    feature_set: FeatureSet
    threads: int
    symbols: int
    states: MemoryStates = field(default_factory=MemoryStates)
    last_ns: int = -1
    is_full: bool = True

    def replayed(self, batches: Iterator[Columns]) -> Iterator[tuple[Vectors, int]]:
        """The vectors of each part, and the time of its last Tick; of the last part, the end of time."""
        while self.is_full:
            self.is_full = False
            part = self._part(batches)
            if self.threads == 1:
                vectors = run(part, self.feature_set, self.states, saves=True)
            else:
                blobs = self.states.load(0)
                vectors = parallel.run(
                    marked(part, True), self.feature_set, self.threads, blobs=blobs, saved=self.states.blobs.update
                )
            yield vectors, self.last_ns if self.is_full else TS_MAX_NS

    def _part(self, batches: Iterator[Columns]) -> Iterator[Columns]:
        """Batches until there are enough records, or about enough vectors."""
        width = self.symbols * (len(self.feature_set.features) + len(HEAD))
        records = numbers = 0
        for columns in batches:
            ticks = np.flatnonzero(columns.kind == Kind.TICK)
            times = columns.body[columns.start[ticks]]
            records += len(columns)
            numbers += width * int((times % (self.feature_set.cadence_ms * NS_PER_MS) == 0).sum())
            self.last_ns = int(np.max(times, initial=self.last_ns))
            self.is_full = records >= PART_RECORDS or numbers >= PART_NUMBERS
            yield columns
            if self.is_full:
                return


def compare(
    live: VectorsRead, replayed: Vectors, tape_ends: Mapping[int, int] | None = None,
    live_ends: Mapping[int, int] | None = None,
) -> Parity:  # fmt: skip
    """Compare two sides; `tape_ends` (last archived offset by partition) excuses what is in flight.

    `live_ends` is the last live T by tape partition, where `live` is only a part of them.
    """
    left, right = live.vectors, replayed
    at_left, at_right = matches(left, right)
    equal = left.select(at_left).same_bits(right.select(at_right))
    extra = left.select(_others(len(left), at_left))
    missing = right.select(_others(len(right), at_right))
    pending = 0
    if tape_ends is not None:
        ends = live_ends
        if ends is None:
            ends = {int(p): int(left.time[left.partition == p].max()) for p in np.unique(left.partition)}
        flying = missing.time > np.array([ends.get(p, -1) for p in missing.partition.tolist()], np.int64)
        ahead = extra.as_of_offset > np.array([tape_ends.get(p, -1) for p in extra.partition.tolist()], np.int64)
        pending = int(flying.sum() + ahead.sum())
        missing, extra = missing.select(~flying), extra.select(~ahead)
    cells = list(_cells(left.select(at_left[~equal][:DIFFERENCES_MAX]), right.select(at_right[~equal])))
    rows = [*_rows("missing", missing), *_rows("extra", extra)]
    return Parity(
        compared=len(equal), mismatch=int((~equal).sum()), missing=len(missing), extra=len(extra),
        conflicting=len(live.conflicts), pending=pending, repeats=live.repeats,
        differences=[*cells[:DIFFERENCES_MAX], *rows[:DIFFERENCES_MAX]],
    )  # fmt: skip


def matches(left: Vectors, right: Vectors) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers on both sides of the identities that both have; each side has an identity once."""
    names = {name: i for i, name in enumerate(sorted({*left.keys, *right.keys}))}
    code = np.concatenate(
        [np.array([names[k] for k in side.keys] or [0], np.int64)[side.key] for side in (left, right)]
    )
    time = np.concatenate([left.time, right.time])
    order = np.lexsort((np.arange(len(time)), code, time))
    same = (np.diff(time[order]) == 0) & (np.diff(code[order]) == 0)
    return order[:-1][same], order[1:][same] - len(left)


def differing_columns(left: Vectors, right: Vectors) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each column's name and the rows in which it differs; both sides have the same identities in the same order."""
    for name in HEAD:
        yield name, getattr(left, name) != getattr(right, name)
    bits = left.bits() != right.bits()
    for i, name in enumerate(left.feature_set.features):
        yield name, bits[:, i]


def _others(count: int, taken: NDArray[np.int64]) -> NDArray[np.int64]:
    left = np.ones(count, np.bool_)
    left[taken] = False
    return np.flatnonzero(left)


def _cells(left: Vectors, right: Vectors) -> Iterator[Difference]:
    right = right.select(np.arange(len(left)))
    instruments = left.instruments()
    for name, differs in differing_columns(left, right):
        for row in np.flatnonzero(differs).tolist():
            cells = (_cell(left, name, row), _cell(right, name, row))
            yield Difference(left.feature_set.id, instruments[row], int(left.time[row]), name, *cells)


def _cell(vectors: Vectors, name: str, row: int) -> float | int | None:
    if name in HEAD:
        return int(getattr(vectors, name)[row])
    value = float(vectors.values[row, vectors.feature_set.features.index(name)])
    return None if np.isnan(value) else value


def _rows(what: str, vectors: Vectors) -> Iterator[Difference]:
    first = vectors.select(np.arange(min(len(vectors), DIFFERENCES_MAX)))
    for instrument, time in zip(first.instruments(), first.time.tolist(), strict=True):
        yield Difference(vectors.feature_set.id, instrument, time, what, None, None)
