"""Look-ahead report: what a dataset would hold if records counted when the venue says they happened.

Input: windows of the tape (`replay.proof.window`).
Output: `LookAhead`: per feature the share of rows whose bits differ from as observed, of one window or of several.
State: none. One window's records are in memory twice.
Units: times in ns UTC, delays in ns; shares of rows, 0 to 1.

Who sorts records by the venue's clock knows at T what had not been received by T. Here the same records run from the
same states in that order: each at its ts_event, as if received then; a record without a venue time right behind the
latest one of its symbol; each Tick T before the first record at or after T. Records that were received behind the
window's last Tick, but are of before it, are among them. A vector that is not there any more has changed in every
feature.

Where the clock of the recording host is wrong, this is mostly its error: `changed_aligned` is the same with the least
delay of each window taken for the difference of the two clocks, so that only the records' own delays are left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.features import features_agent
from replay.parity import differing_columns, matches
from replay.ports import Agent
from replay.proof.passage import run
from replay.proof.window import Window
from schemas.columns import Columns, Int64
from schemas.events import Kind
from schemas.feature_sets import FeatureSet

WORST = 10
_NEVER = int(np.iinfo(np.int64).min)
Counts = dict[str, int]


@dataclass(slots=True)
class LookAhead:
    """Of `rows` vectors as observed: how many of each feature are others by venue time, and by aligned venue time.

    `least_ns` and `most_ns` bound ts_recv - ts_event of the records; both None where none tells a venue time.
    """

    rows: int = 0
    changed: Counts = field(default_factory=dict)
    aligned: Counts = field(default_factory=dict)
    least_ns: int | None = None
    most_ns: int | None = None

    def add(self, other: LookAhead) -> None:
        """Take in what another window gave."""
        self.rows += other.rows
        for into, counts in ((self.changed, other.changed), (self.aligned, other.aligned)):
            for name, count in counts.items():
                into[name] = into.get(name, 0) + count
        told = [each for each in (self, other) if each.least_ns is not None]
        self.least_ns = min((each.least_ns for each in told if each.least_ns is not None), default=None)
        self.most_ns = max((each.most_ns for each in told if each.most_ns is not None), default=None)

    def json(self) -> dict[str, Any]:
        """One JSON object: shares of every feature, the largest first."""
        delays = {"least": self.least_ns, "most": self.most_ns}
        return {"rows": self.rows, "changed": self._shares(self.changed), "changed_aligned": self._shares(self.aligned),
                "delay_ns": delays}  # fmt: skip

    def worst(self) -> dict[str, float]:
        """The features that change most, with their shares."""
        return dict(list(self._shares(self.changed).items())[:WORST])

    def _shares(self, counts: Mapping[str, int]) -> dict[str, float]:
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return {name: count / self.rows for name, count in ordered if self.rows}


def look_ahead(
    window: Window, feature_set: FeatureSet, *, beside: Sequence[FeatureSet] = (), agent: Agent = features_agent
) -> LookAhead:
    """The report of one window; `beside` are feature sets that the states were made with behind `feature_set`."""
    observed = Columns.concat([*window.batches, window.after])
    delays = (observed.ts_recv - observed.ts_event)[_is_timed(observed)]
    least = int(delays.min()) if len(delays) else None
    sets = [feature_set, *beside]
    return LookAhead(
        len(window.expected), _changed(window, by_venue(window, 0), sets, agent),
        _changed(window, by_venue(window, least or 0), sets, agent), least, int(delays.max()) if len(delays) else None,
    )  # fmt: skip


def by_venue(window: Window, shift_ns: int) -> Columns:
    """The window's records in order of their venue times, `shift_ns` later each, with its Ticks among them."""
    observed = Columns.concat([*window.batches, window.after])
    is_tick = observed.kind == Kind.TICK
    time = _times(observed, shift_ns)
    time[is_tick] = observed.body[observed.start[:-1][is_tick]]
    last = int(window.batches[-1].ts_recv[-1])
    inside = observed.offset <= window.batches[-1].offset[-1]
    rows = np.flatnonzero(inside | (~is_tick & (time < last)))
    rows = rows[np.lexsort((observed.offset[rows], ~is_tick[rows], time[rows]))]
    first = int(observed.offset[0])
    return replace(observed.pick(rows), offset=np.arange(first, first + len(rows)), ts_recv=time[rows])


def _times(columns: Columns, shift_ns: int) -> Int64:
    """[n] when each record counts: its venue time, else the latest of its symbol before it, else its receipt."""
    timed = _is_timed(columns)
    time = np.where(timed, columns.ts_event + shift_ns, _NEVER)
    for key in np.unique(columns.key[~timed]).tolist():
        rows = np.flatnonzero(columns.key == key)
        time[rows] = np.where(timed[rows], time[rows], np.maximum.accumulate(time[rows]))
    return np.where(time == _NEVER, columns.ts_recv, time)


def _is_timed(columns: Columns) -> NDArray[np.bool_]:
    is_market = ~np.isin(columns.kind, (Kind.TICK, Kind.ACTIVATE, Kind.REFUSED))
    return np.asarray(is_market & (columns.ts_event != 0))


def _changed(window: Window, columns: Columns, sets: Sequence[FeatureSet], agent: Agent) -> Counts:
    """How many rows of each feature are others over these records than over the window's."""
    got, _ = run([columns], sets, window.blobs, agent)
    left, right = matches(window.expected, got)
    lost = len(window.expected) - len(left)
    differs = dict(differing_columns(window.expected.select(left), got.select(right)))
    return {name: lost + int(differs[name].sum()) for name in sets[0].features}
