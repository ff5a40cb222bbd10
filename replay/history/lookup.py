"""Look-up: the features of some instruments as they were known at any time of the archive.

Input: an archive, a feature set; instruments, feature names, a time.
State: what `replay.history.stored` keeps beside the archive.
Output: `Answer`: of each instrument the newest vector that was there at that time, and how fresh it was.
Units: times in ns UTC.
Errors: UsageError for an instrument or a feature nobody knows, with near matches, and for a time whose records were
moved away; those of the archive.

A vector that was archived live is given as it is, where it is certain that none is newer. Any other is computed from
the tape, a span of time at once, from the nearest checkpoint on, and kept: one computation of a span however many ask
for it, in threads or processes. Both are the same bytes.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.features import features_agent
from replay.checkpoints import Checkpoints
from replay.driver import before, offset_of
from replay.history.answer import COMPUTED, LIVE, Answer, Found
from replay.history.listing import End, Home, Listing, Tape
from replay.history.stored import Span, StoredVectors
from replay.ports import Agent, MemoryStates, feed
from replay.reader import ArchiveReader, once
from replay.retained import moved_of
from schemas.errors import UsageError
from schemas.events import Kind
from schemas.feature_sets import DEFAULT, FeatureSet
from schemas.topics import TAPE
from schemas.units import NS_PER_MS
from schemas.vectors import Vectors

SPAN_VECTORS = 3_600
"""A span holds so many vectors of an instrument: an hour at a cadence of a second."""
SPANS_BACK = 24
"""Spans with Ticks that are looked through backwards for an instrument's last vector."""
NUMBERS_AT_ONCE = 1 << 25
"""What is computed at once holds at most so many numbers (256 MiB), or one instrument's span."""
INSTRUMENTS_AT_ONCE = 64


class History:
    """Vectors of one feature set at any time of an archive. Blocking: a web server asks from a thread."""

    def __init__(self, archive: ArchiveReader, feature_set: FeatureSet, *, agent: Agent = features_agent) -> None:
        self._archive, self._feature_set, self._agent = archive, feature_set, agent
        self._listing = Listing(archive)
        self._cadence_ns = feature_set.cadence_ms * NS_PER_MS
        self._has_live = archive.head.knows(feature_set)
        self._known: tuple[Tape, Checkpoints, StoredVectors] | None = None

    def get_features(
        self, symbols: Sequence[str], names: Sequence[str] | None = None, as_of_ns: int | None = None
    ) -> Answer:
        """Of each instrument the newest vector with T and `ts_available` at or before `as_of_ns` (None: the last Tick).

        `names` are the features to tell, all of the set where None.
        """
        tape = self._listing.tape()
        wanted = list(dict.fromkeys(symbols))
        if any(symbol not in tape.homes for symbol in wanted):
            self._archive.partitions()  # a whole partition that is gone is another error
        _check(wanted, tape.homes, "instrument", f"an instrument of {self._archive.path}")
        columns = self._feature_set.features
        chosen = columns if names is None else tuple(dict.fromkeys(names))
        _check(chosen, columns, "feature", f"a feature of {self._feature_set.id}")
        as_of_ns = tape.last_ns if as_of_ns is None else as_of_ns
        found = dict(self._live(tape, wanted, as_of_ns)) if self._has_live else {}
        checkpoints, stored = self._beside(tape)
        search = _Search(self._archive, self._feature_set, self._agent, tape, as_of_ns, checkpoints, stored)
        found |= search.newest([symbol for symbol in wanted if symbol not in found])
        notes = [*_notes(tape, as_of_ns), *search.notes]
        return Answer(self._feature_set, as_of_ns, wanted, chosen, found, tape.first_ns, tape.last_ns, notes)

    def _beside(self, tape: Tape) -> tuple[Checkpoints, StoredVectors]:
        """What lies beside the archive. It knows the segments there were, so another tape has another."""
        if self._known is None or self._known[0] is not tape:
            checkpoints = Checkpoints(self._archive, self._feature_set)
            self._known = (tape, checkpoints, StoredVectors(checkpoints))
        return self._known[1], self._known[2]

    def _live(self, tape: Tape, symbols: Sequence[str], as_of_ns: int) -> Iterator[tuple[str, Found]]:
        """Archived vectors behind which the next one was not due yet: no other can be newer."""
        after = {
            symbol: min(as_of_ns, end.last_tick_ns) - self._cadence_ns
            for symbol in symbols for end in [tape.ends.get(tape.homes[symbol].partition)] if end is not None
        }  # fmt: skip
        topic, parts = self._feature_set.topic, []
        for partition in self._listing.partitions(topic) if after else ():
            for segment in self._listing.segments(topic, partition):
                asked = [key for key in segment.keys if key in after and after[key] < segment.last_ts]
                if asked and segment.first_ts <= as_of_ns:
                    low = min(after[key] for key in asked)
                    parts.append(self._archive.vectors_between(self._feature_set, segment, asked, low, as_of_ns))
        if not parts:
            return
        read = once(Vectors.concat(parts))
        # Two vectors with one identity are a fault of the archive: the tape decides.
        doubted = {symbol for symbol, _ in read.conflicts}
        for symbol in after.keys() - doubted:
            newest = _newest(read.vectors, symbol, after[symbol], as_of_ns)
            if newest is not None:
                yield symbol, Found(newest, LIVE)


@dataclass(slots=True)
class _Search:
    """The search for one answer in what is stored, and in the tape."""

    archive: ArchiveReader
    feature_set: FeatureSet
    agent: Agent
    tape: Tape
    as_of_ns: int
    checkpoints: Checkpoints
    stored: StoredVectors
    notes: list[str] = field(default_factory=list)

    def newest(self, symbols: Sequence[str]) -> dict[str, Found]:
        """The newest vector of each instrument that has one, looking back SPANS_BACK spans at most."""
        found: dict[str, Found] = {}
        groups: dict[int, list[str]] = {}
        for symbol in symbols:
            groups.setdefault(self.tape.homes[symbol].partition, []).append(symbol)
        at_once = NUMBERS_AT_ONCE // (SPAN_VECTORS * len(self.feature_set.features))
        at_once = max(1, min(at_once, INSTRUMENTS_AT_ONCE))
        for partition, members in groups.items():
            if partition in self.tape.ends:
                for first in range(0, len(members), at_once):
                    found |= self._of_partition(partition, members[first : first + at_once])
        return found

    def _of_partition(self, partition: int, symbols: list[str]) -> dict[str, Found]:
        found: dict[str, Found] = {}
        left = symbols
        for first_ns, end_ns in self._spans(partition, [self.tape.homes[symbol] for symbol in symbols]):
            spans = [Span(partition, symbol, first_ns, end_ns) for symbol in left]
            for symbol, vectors in self._read(spans).items():
                newest = _newest(vectors, symbol, -1, self.as_of_ns)
                if newest is not None:
                    found[symbol] = Found(newest, COMPUTED)
            left = [symbol for symbol in left if symbol not in found]
            if not left:
                return found
        self._need_all(partition)
        if self.as_of_ns >= self.tape.first_ns:
            self.notes.append(f"{', '.join(left)}: no vector in the {SPANS_BACK} spans of the tape before that time")
        return found

    def _spans(self, partition: int, homes: Sequence[Home]) -> Iterator[tuple[int, int]]:
        """The span of the answer's time, then those before it that have a Tick: no other has a vector."""
        size = SPAN_VECTORS * self.feature_set.cadence_ms * NS_PER_MS
        # Which instruments were in records that were moved away is not known here, but what was computed may be.
        moved = moved_of(self.archive.path, TAPE, partition)
        begun = min([home.first_ns for home in homes] + [each.first_ts for each in moved])
        at: int | None = min(self.as_of_ns, self.tape.ends[partition].last_tick_ns)
        for _ in range(SPANS_BACK):
            if at is None or at < begun:
                return
            from_ns = at // size * size
            yield from_ns, from_ns + size
            at = self._last_tick(partition, from_ns)

    def _need_all(self, partition: int) -> None:
        """Say of which records nobody knows what they held. Errors: UsageError where some were moved away."""
        moved = [each for each in moved_of(self.archive.path, TAPE, partition) if each.first_ts <= self.as_of_ns]
        for each in moved:
            for _ in self.archive.batches(
                partition, symbols=(), first_offset=each.first_offset, last_offset=each.last_offset
            ):
                break

    def _last_tick(self, partition: int, before_ns: int) -> int | None:
        """The newest Tick of a partition before a time: what lies between may be a long silence."""
        for segment in reversed(self.tape.segments[partition]):
            if segment.last_tick is None or segment.first_ts >= before_ns:
                continue
            newest = -1
            rows = self.archive.batches(
                partition, symbols=(), first_offset=segment.first_offset, last_offset=segment.last_offset
            )
            for columns in rows:
                ticks = columns.body[columns.start[:-1][columns.kind == Kind.TICK]]
                newest = max(newest, int(np.max(ticks, initial=-1, where=ticks < before_ns)))
            if newest >= 0:
                return newest
        return None

    def _read(self, spans: list[Span]) -> dict[str, Vectors]:
        """The vectors of spans of several instruments over one stretch of time, computed where they are not stored."""
        there, missing = self._read_stored(spans)
        if not missing:
            return there
        with ExitStack() as held:
            is_kept = self._hold(held, missing)
            also, missing = self._read_stored(missing)
            return there | also | (self._compute(missing, is_kept=is_kept) if missing else {})

    def _hold(self, held: ExitStack, spans: Sequence[Span]) -> bool:
        """Hold the locks of spans, once nobody else does; False where the disk does not let us."""
        try:
            # In one order, so that two who want the same never wait for each other.
            for span in sorted(spans, key=lambda span: span.instrument):
                held.enter_context(self.stored.alone(span))
        except OSError as error:
            self.notes.append(f"computed and not kept: {error}")
            return False
        return True

    def _read_stored(self, spans: list[Span]) -> tuple[dict[str, Vectors], list[Span]]:
        """What is stored, and the spans that are not."""
        there, missing = dict[str, Vectors](), list[Span]()
        for span in spans:
            vectors = self.stored.read(span, self.as_of_ns, self.tape.ends[span.partition].next_offset)
            if vectors is None:
                missing.append(span)
            else:
                there[span.instrument] = vectors
        return there, missing

    def _compute(self, spans: list[Span], *, is_kept: bool) -> dict[str, Vectors]:
        """The features agent over the tape, from the nearest checkpoint to the end of the spans."""
        partition, from_ns, to_ns = spans[0].partition, spans[0].from_ns, spans[0].to_ns
        symbols, end = [span.instrument for span in spans], self.tape.ends[partition]
        start = self.checkpoints.newest(partition, before_ns=from_ns, last_offset=end.next_offset - 1)
        blobs = {} if start is None else {key: blob for key, blob in start.blobs.items() if key in symbols}
        collector = _Since(from_ns)
        rows = self.archive.batches(
            partition, symbols=symbols, first_offset=offset_of(start) + 1, last_offset=end.next_offset - 1
        )
        with closing(rows) as batches:
            stretches = ((columns, False) for columns in before(batches, to_ns))
            asyncio.run(self.agent(feed(stretches), MemoryStates(blobs), collector, [self.feature_set]))
        made = Vectors.concat(collector.parts) if collector.parts else Vectors.empty(self.feature_set)
        computed: dict[str, Vectors] = {}
        for span in spans:
            computed[span.instrument] = _of(made, span.instrument)
            if is_kept:
                is_kept = self._keep(span, end, computed[span.instrument])
        return computed

    def _keep(self, span: Span, end: End, vectors: Vectors) -> bool:
        """Store a span; False where the disk does not take it, which only costs the next one who asks."""
        try:
            self.stored.write(span, end.next_offset, end.last_tick_ns, vectors)
        except OSError as error:
            self.notes.append(f"computed and not kept: {error}")
            return False
        return True


@dataclass(slots=True)
class _Since:
    """Collects the vectors of a time and later, and drops those before: they may be a month's."""

    from_ns: int
    parts: list[Vectors] = field(default_factory=list)

    async def __call__(self, vectors: Vectors) -> None:
        """Take them."""
        late = vectors.time >= self.from_ns
        if late.any():
            self.parts.append(vectors.select(late))


def _of(vectors: Vectors, symbol: str) -> Vectors:
    """One instrument's rows."""
    return vectors.select(vectors.key == (vectors.keys.index(symbol) if symbol in vectors.keys else -1))


def _newest(vectors: Vectors, symbol: str, after_ns: int, as_of_ns: int) -> Vectors | None:
    """An instrument's newest row that was known at a time, if its T is later than `after_ns`."""
    own = _of(vectors, symbol)
    known = np.flatnonzero((own.time > after_ns) & (own.time <= as_of_ns) & (own.ts_available <= as_of_ns))
    return own.select(known[[int(np.argmax(own.time[known]))]]) if len(known) else None


def _check(asked: Sequence[str], known: Sequence[str] | dict[str, Home], what: str, expected: str) -> None:
    """Refuse names nobody knows, with near matches."""
    if not asked:
        raise UsageError(
            f"no {what} is named", expected=expected, was="none", action=f"name at least one {what}"
        )  # fmt: skip
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.4) or sorted(known)[:3]
            raise UsageError(
                f"{name} is unknown", expected=expected, was=name, action=f"choose among {', '.join(near) or 'none'}"
            )


def _notes(tape: Tape, as_of_ns: int) -> list[str]:
    """What to say of a time that the tape does not have."""
    first, last, asked = (f"{np.datetime64(ns, 'ns')}Z" for ns in (tape.first_ns, tape.last_ns, as_of_ns))
    if as_of_ns < tape.first_ns:
        return [f"nothing was known at {asked}: the tape is from {first} to {last}"]
    return [f"the tape ends at {last}, before {asked}"] if as_of_ns > tape.last_ns else []


def get_features(
    archive: Path, symbols: Sequence[str], names: Sequence[str] | None = None, as_of_ns: int | None = None, *,
    feature_set: str = DEFAULT,
) -> dict[str, Any]:  # fmt: skip
    """`History.get_features` of an archive's folder, as one JSON object."""
    reader = ArchiveReader(archive)
    return History(reader, reader.head.find(feature_set)).get_features(symbols, names, as_of_ns).json()
