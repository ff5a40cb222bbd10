"""Leak check: does any vector change when the tape after it is taken away, or filled with garbage?

Input: an archive, a feature set, cuts as fractions of each partition (chance belongs to the caller).
Output: `LeakCheck`: rows compared and the columns that changed.
State: a stretch of the tape between two cuts, in memory.
Errors: those of `replay.reader`.

At a cut every record after it is gone: a new agent runs over copied arrays that end at the cut. To check fifty cuts in
about the time of two replays, each run starts from the states saved at the cut before instead of from the beginning;
those states come from a run that had not seen a later record either, so every vector between two cuts is made without
anything after the second one, which is stricter than each cut asks for. A run from the beginning over an archive that
ends at the cut gives the same and is tested to. A restart that changed a value would show, too.
    cut     the records after the cut are deleted
    poison  the next records follow with other prices and sizes
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from agents.features import features_agent
from replay.driver import Progress, Replayed, replay, run
from replay.parity import differing_columns, matches
from replay.ports import Agent, MemoryStates
from replay.reader import ArchiveReader
from schemas.columns import Columns, from_events, to_events
from schemas.events import Event
from schemas.feature_sets import FeatureSet
from schemas.vectors import Vectors

POISONED_ROWS = 256
ROW = "row"
"""Named as leaking where a vector itself appears or disappears."""
_POISONED = {
    "price", "size", "bid_price", "bid_size", "ask_price", "ask_size", "mark_price", "index_price", "open_interest",
    "volume", "rate", "sentiment", "unrealized_pnl", "realized_pnl", "entry_price",
}  # fmt: skip


@dataclass(slots=True)
class LeakCheck:
    """`rows_checked` vectors compared over `cuts` cut offsets; `leaking` names each column that changed."""

    cuts: int = 0
    rows_checked: int = 0
    leaking: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Something was compared and nothing changed."""
        return self.rows_checked > 0 and not self.leaking

    def json(self) -> dict[str, Any]:
        """One JSON object."""
        return {**asdict(self), "ok": self.ok}


def leakcheck(
    archive: ArchiveReader,
    feature_set: FeatureSet,
    cuts: Sequence[float],
    *,
    replayed: Replayed | None = None,
    agent: Agent = features_agent,
    progress: Progress | None = None,
) -> LeakCheck:
    """Check every partition at every cut (fractions in [0, 1)); `replayed` saves the whole replay."""
    whole = (replayed or replay(archive, feature_set, agent=agent)).vectors
    report, done = LeakCheck(), 0
    spans = {p: (at[0].first_offset, at[-1].last_offset) for p in archive.partitions() for at in [archive.segments(p)]}
    total = sum(last + 1 - first for first, last in spans.values())
    for partition, (first, last) in spans.items():
        expected = whole.select(whole.partition == partition)
        offsets = cut_offsets(cuts, first, last, expected)
        report.cuts += len(offsets)
        states, before = MemoryStates(), first - 1
        for stretch, after in stretches(archive.batches(partition), offsets):
            until = int(stretch[-1].offset[-1])
            window = expected.select((expected.as_of_offset > before) & (expected.as_of_offset <= until))
            if len(after):
                poisoned = [*stretch[:-1], Columns.concat([stretch[-1], poison(after)])]
                got = run(poisoned, feature_set, copy.deepcopy(states), agent=agent)
                _compare(report, window, got.select(got.as_of_offset <= until))
            _compare(report, window, run(stretch, feature_set, states, agent=agent, saves=True))
            report.rows_checked += len(window)
            before = until
            if progress is not None:
                progress(done + until + 1 - first, total)
        done += last + 1 - first
    return report


def cut_offsets(cuts: Sequence[float], first: int, last: int, expected: Vectors) -> list[int]:
    """Offsets of last kept records: each fraction of first..last, and the Tick of the last vector before it.

    Behind such a Tick even a feature that looks one record ahead has nothing to look at; a cut anywhere else would
    meet it only by luck.
    """
    drawn = {first + int(cut * (last + 1 - first)) for cut in cuts}
    ticks = np.unique(expected.as_of_offset)
    at = np.searchsorted(ticks, sorted(drawn), side="right") - 1
    return sorted(drawn | set(ticks[at[at >= 0]].tolist()))


def stretches(batches: Iterable[Columns], cuts: Sequence[int]) -> Iterator[tuple[list[Columns], Columns]]:
    """The tape from cut to cut as copied arrays, each with the records that follow it in the same batch.

    `cuts` are the offsets of last kept records, ascending. A last stretch without a cut at its end is left out.
    """
    waiting, stretch = list(cuts), list[Columns]()
    for batch in batches:
        columns = batch
        while waiting and len(columns) and columns.offset[-1] >= waiting[0]:
            kept = int(np.searchsorted(columns.offset, waiting.pop(0), side="right"))
            stretch.append(_copied(columns.slice(0, kept)))
            columns = columns.slice(kept, len(columns))
            yield stretch, columns.slice(0, min(POISONED_ROWS, len(columns)))
            stretch = []
        if not waiting:
            return
        if len(columns):
            stretch.append(_copied(columns))


def _copied(columns: Columns) -> Columns:
    """The rows in arrays of their own: nothing behind the last one can be reached."""
    return columns.take(np.ones(len(columns), np.bool_))


def poison(columns: Columns) -> Columns:
    """The same records with other prices, sizes, rates and sentiments; clocks, sequences and kinds stay."""
    events = [Event(*event[:4], _garbage(event.body)) for event in to_events(columns)]
    return from_events(columns.partition, int(columns.offset[0]), events)


def _garbage(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {each: _garbage(inner, each) for each, inner in value.items()}
    if isinstance(value, list):
        return [_garbage(inner) for inner in value]
    return 1 + (value * 7 + 13) % 999_983 if name in _POISONED and value is not None else value


def _compare(report: LeakCheck, expected: Vectors, got: Vectors) -> None:
    left, right = matches(expected, got)
    found = {name for name, differs in differing_columns(expected.select(left), got.select(right)) if differs.any()}
    if len(left) != len(expected) or len(left) != len(got):
        found.add(ROW)
    report.leaking = sorted(found.union(report.leaking))
