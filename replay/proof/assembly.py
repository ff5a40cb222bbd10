"""Assembly check: are the rows of a dataset put together as they have to be, whatever made the values?

Input: the Parquet files of a dataset in the order of their splits; its archive, for the Ticks.
Output: `Assembly`: rows looked at, and by rule how many break it.
State: a row group; the distinct times of each file; a position per time and partition for the Ticks.
Units: times in ns UTC.
Errors: SegmentTorn; those of `replay.reader`; `check` raises CheckFailed.

    names      no feature is named as a label is
    order      rows ascend in time and instrument, so that no identity is there twice; no time is in two files
    available  time <= ts_available <= label_t0: a vector is there before anything is bought on it
    entry      label_t0 is time + entry delay
    exit       label_t0 < label_t1 <= time + reach, and each label's own end lies in that interval
    splits     of files that follow one another in time: every label interval ends before the next file's first row
    tick       as_of_offset is the offset of the Tick whose time is the row's
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from replay.proof.rows import column_names, instruments, longs, parts, times
from replay.reader import ArchiveReader
from schemas.columns import Int64
from schemas.errors import CheckFailed
from schemas.events import Kind
from schemas.labels import is_label

_HEAD = ("instrument", "time", "ts_available", "label_t0", "label_t1")
RULES = ("names", "order", "available", "entry", "exit", "splits", "tick")


@dataclass(slots=True)
class Assembly:
    """`rows` looked at; `broken` counts what breaks a rule: rows, for `names` features, for `splits` pairs of files."""

    rows: int = 0
    broken: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """There are rows, and no rule is broken."""
        return self.rows > 0 and not self.broken

    def json(self) -> dict[str, Any]:
        """One JSON object."""
        return {"rows": self.rows, "broken": self.broken, "ok": self.ok}

    def count(self, rule: str, broken: int) -> None:
        """Add what breaks a rule."""
        if broken:
            self.broken[rule] = self.broken.get(rule, 0) + broken

    def check(self) -> None:
        """Errors: CheckFailed where a rule is broken."""
        if self.broken:
            raise CheckFailed(
                "the dataset is not put together as it has to be", expected="no row that breaks a rule",
                was=", ".join(f"{rule}: {count}" for rule, count in self.broken.items()),
                action="do not use it; report this with its manifest: the rules are in docs/proof.md",
            )  # fmt: skip


def assembly(
    files: Sequence[Path],
    features: Sequence[str],
    reaches_ns: Mapping[str, int],
    entry_delay_ns: int,
    *,
    is_by_time: bool,
    archive: ArchiveReader | None = None,
) -> Assembly:
    """Look at every row; `reaches_ns` says how far behind T each label goes, `is_by_time` that files follow in time.

    Without an `archive` the rule `tick` is left out.
    """
    found = Assembly()
    found.count("names", sum(is_label(name) or name in reaches_ns for name in features))
    ends: list[int] = []
    for path in files:
        own = [f"{label}_t1" for label in reaches_ns if f"{label}_t1" in column_names(path)]
        last: tuple[int, str] | None = None
        end = int(np.iinfo(np.int64).min)
        for part in parts(path, [*_HEAD, *own]):
            if part.num_rows:
                _look(found, part, max(reaches_ns.values()), entry_delay_ns, own)
                last = _order(found, part, last)
                end = max(end, int(longs(part, "label_t1").max()))
        ends.append(end)
    _between(found, [times(path) for path in files], ends, is_by_time)
    if archive is not None:
        _ticks(found, files, archive)
    return found


def _look(found: Assembly, part: pa.Table, reach_ns: int, entry_delay_ns: int, own: Sequence[str]) -> None:
    """The rules on one row's times."""
    _, time, available, t0, t1 = (
        longs(part, name) if name != "instrument" else np.empty(0, np.int64) for name in _HEAD
    )
    found.rows += part.num_rows
    found.count("available", int(((available < time) | (available > t0)).sum()))
    found.count("entry", int((t0 != time + entry_delay_ns).sum()))
    outside = (t1 <= t0) | (t1 > time + reach_ns)
    for name in own:
        ended = part[name].fill_null(0).to_numpy()
        outside |= (ended != 0) & ((ended <= t0) | (ended > t1))
    found.count("exit", int(outside.sum()))


def _order(found: Assembly, part: pa.Table, last: tuple[int, str] | None) -> tuple[int, str]:
    """The rule on the order of rows; returns time and instrument of the last one."""
    names, codes = instruments(part)
    rank = np.argsort(np.argsort(np.array(names)))[codes]
    time = longs(part, "time")
    steps, turns = np.diff(time), np.diff(rank)
    found.count("order", int(((steps < 0) | ((steps == 0) & (turns <= 0))).sum()))
    if last is not None:
        found.count("order", int((int(time[0]), names[codes[0]]) <= last))
    return int(time[-1]), names[codes[-1]]


def _between(found: Assembly, there: Sequence[Int64], ends: Sequence[int], is_by_time: bool) -> None:
    """The rules on files beside one another."""
    for one, other in combinations(there, 2):
        found.count("order", len(np.intersect1d(one, other, assume_unique=True)))
    filled = [(time, end) for time, end in zip(there, ends, strict=True) if len(time)]
    if is_by_time:
        found.count("splits", sum(end >= int(later[0]) for (_, end), (later, _) in pairwise(filled)))


def _ticks(found: Assembly, files: Sequence[Path], archive: ArchiveReader) -> None:
    """The rule on the Tick of each row."""
    places: dict[int, list[Int64]] = {}
    for path in files:
        for part in parts(path, ["partition", "as_of_offset", "time"]):
            where = np.stack([longs(part, name) for name in ("partition", "as_of_offset", "time")], axis=1)
            for partition in np.unique(where[:, 0]).tolist():
                distinct = np.unique(where[where[:, 0] == partition][:, 1:], axis=0)
                places.setdefault(partition, []).append(distinct)
    for partition, several in places.items():
        wanted = np.unique(np.concatenate(several), axis=0)
        is_there = np.zeros(len(wanted), np.bool_)
        for columns in archive.batches(partition, symbols=()) if partition in archive.partitions() else ():
            ticks = np.flatnonzero(columns.kind == Kind.TICK)
            if len(ticks):
                offset, time = columns.offset[ticks], columns.body[columns.start[ticks]]
                first, end = np.searchsorted(wanted[:, 0], [offset[0], offset[-1] + 1]).tolist()
                at = np.searchsorted(offset, wanted[first:end, 0])
                is_there[first:end] |= (offset[at] == wanted[first:end, 0]) & (time[at] == wanted[first:end, 1])
        found.count("tick", int((~is_there).sum()))
