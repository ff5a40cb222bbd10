"""Leak check: does any vector change when the tape after it is taken away, is another, or comes in another order?

Input: an archive, a feature set, cuts as fractions of each partition (chance belongs to the caller).
Output: `LeakCheck`, the sum over the windows (`replay.proof.window`).
State: one window's records, vectors and states in memory, and whatever of the tape is read at a time.
Errors: CheckFailed where the control is not caught; those of `replay.reader`.

One replay of the archive, from its first record, gives what is expected. Before each cut it leaves the states of every
symbol so many records earlier; there the window begins whose past must not change. Where two cuts lie closer than that,
the later window begins behind the earlier cut, with states from a run that ended there: without a bound the windows
together cover everything up to the last cut, in about the time of four replays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing

import numpy as np

from agents.features import features_agent
from replay.driver import Counter, Progress
from replay.ports import Agent
from replay.proof.passage import Passage
from replay.proof.window import AFTER_ROWS, CONTROLS, LeakCheck, Window, check_on, cut_at, window_of
from replay.reader import ArchiveReader
from schemas.columns import Columns
from schemas.feature_sets import FeatureSet
from schemas.vectors import Vectors

WINDOW_ROWS = 50_000
"""Records before each cut, as long as nobody asks for another number."""


def leakcheck(
    archive: ArchiveReader,
    feature_set: FeatureSet,
    cuts: Sequence[float],
    *,
    window_rows: int | None = WINDOW_ROWS,
    seed: int = 0,
    symbols: Sequence[str] | None = None,
    from_ns: int | None = None,
    to_ns: int | None = None,
    last_offsets: Mapping[int, int] | None = None,
    agent: Agent = features_agent,
    progress: Progress | None = None,
    watch: Callable[[Window], None] | None = None,
) -> LeakCheck:
    """Check every partition at every cut (fractions in [0, 1)), `window_rows` records before each; None: all of them.

    `seed` makes the other futures. Records of other instruments than `symbols` are left out, and cuts are drawn in the
    segments of the span `from_ns` to `to_ns` alone. `last_offsets` ends each partition named in it at that offset; one
    not named is left out. `watch` is called with each window, for whatever else is to be looked at in it.
    """
    archive.check_symbols(symbols or ())
    ends = {p: archive.segments(p)[-1].last_offset for p in archive.partitions()}
    ends = ends if last_offsets is None else {p: min(ends[p], last) for p, last in last_offsets.items()}
    spans = {p: span for p, last in ends.items() for span in [_span(archive, p, last, from_ns, to_ns)] if span}
    counter = Counter(sum(last + 1 - archive.segments(p)[0].first_offset for p, (_, last) in spans.items()), progress)
    report = LeakCheck()
    for partition, (first, last) in spans.items():
        drawn = sorted({first + int(cut * (last + 1 - first)) for cut in cuts})
        with closing(archive.batches(partition, symbols=symbols, last_offset=ends[partition])) as batches:
            walk = _Walk(feature_set, agent, drawn, window_rows)
            for window in walk.windows(counter.over(batches)):
                controls = report.control.windows < CONTROLS
                found, states = check_on(window, [feature_set], agent=agent, seed=seed, controls=controls)
                if watch is not None:
                    watch(window)
                walk.go_on(window, states)
                report.add(found)
                report.check_control()
    if progress is not None:
        progress(counter.total, counter.total)
    return report


def _span(
    archive: ArchiveReader, partition: int, last: int, from_ns: int | None, to_ns: int | None
) -> tuple[int, int] | None:
    """First and last offset of a partition's segments that have to do with a span of time, None without any."""
    inside = [
        segment for segment in archive.segments(partition)
        if segment.first_offset <= last and (from_ns is None or segment.last_ts >= from_ns)
        and (to_ns is None or segment.first_ts < to_ns)
    ]  # fmt: skip
    return (inside[0].first_offset, min(inside[-1].last_offset, last)) if inside else None


class _Walk:
    """One replay of a partition up to its last cut, and the windows before the cuts."""

    def __init__(self, feature_set: FeatureSet, agent: Agent, drawn: Sequence[int], rows: int | None) -> None:
        self._set, self._agent, self._rows = feature_set, agent, rows
        self._drawn = deque(drawn)
        self._passed = self._before = -1
        """The offsets that the replay has come to, and behind which the window begins."""
        self._cut: int | None = None
        """That of the window before."""
        self._blobs: Mapping[str, bytes] = {}
        """States before the window."""
        self._tail: list[Columns] = []
        """Records of the window and behind it."""
        self._made: list[Vectors] = []
        """The vectors of their Ticks."""

    def windows(self, batches: Iterator[Columns]) -> Iterator[Window]:
        """The windows one by one; after each, `go_on` has to be told of its states."""
        with Passage(self._agent, [self._set], {}) as passage:
            for columns in batches:
                if self._passed < 0:
                    self._passed = self._before = int(columns.offset[0]) - 1
                    self._aim(self._passed)
                self._push(passage, columns)
                while (window := self._window(is_end=False)) is not None:
                    yield window
                if not self._drawn:
                    return
            if self._passed >= 0:
                passage.end()
                self._made.append(passage.take())
            while (window := self._window(is_end=True)) is not None:
                yield window

    def go_on(self, window: Window, states: Mapping[str, bytes]) -> None:
        """Take the states after a window's cut: the next window begins there, or later."""
        self._cut = int(window.batches[-1].offset[-1])
        self._drawn.popleft()
        while self._drawn and self._drawn[0] <= self._cut:
            self._drawn.popleft()
        self._blobs = states
        self._aim(self._cut)

    def _aim(self, before: int) -> None:
        """The next window begins so many records before its cut, but not where no states are left: then `before`."""
        wanted = self._drawn[0] - self._rows if self._drawn and self._rows is not None else -1
        self._before = wanted if wanted > self._passed else before
        self._tail = [part.slice(_until(part, self._before), len(part)) for part in self._tail]
        self._tail = [part for part in self._tail if len(part)]
        self._made = [part.select(part.as_of_offset > self._before) for part in self._made]

    def _push(self, passage: Passage, columns: Columns) -> None:
        """Replay a batch; where the window begins inside, the states are saved there."""
        until = 0
        if self._passed < self._before:
            until = _until(columns, self._before)
            opens = bool(columns.offset[-1] >= self._before)
            passage.push(columns.slice(0, until), saves=opens)
            passage.take()
            if opens:
                self._blobs = dict(passage.states.blobs)
        if until < len(columns):
            self._tail.append(columns.slice(until, len(columns)))
            passage.push(self._tail[-1])
            self._made.append(passage.take())
        self._passed = int(columns.offset[-1])

    def _window(self, *, is_end: bool) -> Window | None:
        """The window before the next cut, once enough has followed it."""
        while self._drawn and self._tail:
            drawn = self._drawn[0]
            if not is_end and self._passed < drawn + AFTER_ROWS:
                return None
            self._made = [Vectors.concat([Vectors.empty(self._set), *self._made])]
            cut = cut_at(self._made[0], drawn, self._passed)
            if self._before == self._cut and (cut is None or cut > drawn):
                # Since the cut before there was no vector.
                self._drawn.popleft()
                self._aim(self._before)
                continue
            if is_end or (cut is not None and self._passed >= cut + AFTER_ROWS):
                return window_of(self._blobs, self._tail, self._made[0], drawn)
            if cut is not None or self._rows is None or self._passed < drawn + self._rows:
                return None
            # No vector far and wide: what is kept stays bounded.
            self._drawn.popleft()
            self._tail = []
            self._aim(self._passed + 1)
        return None


def _until(columns: Columns, offset: int) -> int:
    return int(np.searchsorted(columns.offset, offset, side="right"))
