"""Joining: the rows of a dataset's splits and folds with what was predicted of them.

Only rows of the splits that are scored are held. The others are looked through, a batch at a time, where predictions
are of none of these: are they of other splits, or of no row?

Input: `Rows` of a dataset, the label, `Predictions`.
Output: `Section`s, one per split or fold, and what did not match, counted.
Units: times in ns UTC.
Errors: UsageError where a row has no prediction, a prediction no row, or two predictions one row; SegmentTorn.

A row is (instrument, time), in a file that tells folds apart (fold, instrument, time).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.card.rows import ROLES, Batch, Rows
from replay.evaluation.predictions import Predictions
from schemas.columns import Int64
from schemas.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Table:
    """The n rows that are scored, of all folds.

    Which they are, when they are entered, the label and the return of its horizon, or NaN.

    `group` [n] and `roles` [folds, n] are as in `replay.card.rows.Batch`.
    """

    instruments: list[str]
    instrument: Int64
    time: Int64
    entry: Int64
    truth: Floats
    gain: Floats
    group: NDArray[np.uint8]
    roles: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Section:
    """m rows of one split, or of one split of a fold, in the dataset's order, with their predictions."""

    name: str
    split: str
    fold: str | None
    instrument: Int64
    time: Int64
    entry: Int64
    truth: Floats
    gain: Floats
    predicted: Floats
    probabilities: Floats | None


@dataclass(slots=True)
class Counts:
    """Rows matched; rows without a prediction; predictions without a row; rows predicted more than once; of other
    splits; without a label."""

    matched: int = 0
    missing: int = 0
    extra: int = 0
    doubled: int = 0
    elsewhere: int = 0
    unlabelled: int = 0

    def json(self) -> dict[str, int]:
        """One JSON object."""
        return asdict(self)


def load(rows: Rows, label: str, returns: str | None, splits: Sequence[str]) -> Table:
    """The columns that an evaluation of some splits needs, of rows that are in one of them. Errors: SegmentTorn."""
    columns = ["instrument", "time", "label_t0", label, *([returns] if returns not in (None, label) else [])]
    names: dict[str, int] = {}
    parts: list[tuple[NDArray[Any], ...]] = []
    for batch, inside in _batches(rows, columns, splits, are_scored=True):
        texts, codes = batch.texts("instrument")
        places = np.array([names.setdefault(text, len(names)) for text in texts], np.int64)
        gain = np.full(len(codes), np.nan) if returns is None else batch.values(returns)
        known = [np.where(np.isfinite(values), values, np.nan) for values in (batch.values(label), gain)]
        head = places[codes], batch.times("time"), batch.times("label_t0")
        parts.append(tuple(each[inside] for each in (*head, *known, batch.group, batch.roles.T)))
    if not parts:
        none, no_time, no_roles = np.empty(0), np.empty(0, np.int64), np.empty((len(rows.folds), 0), np.uint8)
        return Table([], no_time, no_time, no_time, none, none, np.empty(0, np.uint8), no_roles)
    instrument, time, entry, truth, gain, group, roles = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Table(list(names), instrument, time, entry, truth, gain, group, roles.T)


def _batches(
    rows: Rows, columns: Sequence[str], splits: Sequence[str], *, are_scored: bool
) -> Iterator[tuple[Batch, NDArray[np.bool_]]]:
    """Batches with some rows of these splits, or with `are_scored` false of none of them, and [n] which these are."""
    codes = [ROLES.index(split) for split in splits if rows.folds]
    groups = [group for group in rows.groups if (group in splits) == are_scored]
    for batch in rows.batches(columns, groups=groups):
        scored = np.isin(batch.roles, codes).any(axis=0) if rows.folds else np.full(len(batch.group), are_scored)
        yield batch, scored == are_scored


class _Match:
    """Predictions matched with rows: `place` [n] is each scored row's prediction, -1 where there is not exactly one.

    `known` predictions are of rows of the dataset, `doubled` of those share a row; `used` is filled by the sections.
    """

    def __init__(self, table: Table, predictions: Predictions) -> None:
        self.predictions = predictions
        self._order = np.lexsort((predictions.time, predictions.instrument))
        self._time = predictions.time[self._order]
        self._ends = np.searchsorted(predictions.instrument[self._order], np.arange(len(predictions.instruments) + 1))
        self._codes = {name: code for code, name in enumerate(predictions.instruments)}
        self.known = self.doubled = 0
        self.used = np.zeros(len(predictions.time), np.bool_)
        first, count = self.add(table.instruments, table.instrument, table.time)
        self.place = np.full(len(table.time), -1, np.int64)
        self.place[count == 1] = self._order[first[count == 1]]

    def add(self, names: Sequence[str], instrument: NDArray[Any], time: Int64) -> tuple[Int64, Int64]:
        """Take in rows [m] of the dataset, each once: the first of each one's predictions in order, and how many."""
        first, count = np.zeros(len(time), np.int64), np.zeros(len(time), np.int64)
        order = np.argsort(instrument, kind="stable")
        ends = np.searchsorted(instrument, np.arange(len(names) + 1), sorter=order)
        for place, name in enumerate(names):
            code, mine = self._codes.get(name), order[ends[place] : ends[place + 1]]
            if code is not None:
                low, high = self._ends[code], self._ends[code + 1]
                first[mine] = low + np.searchsorted(self._time[low:high], time[mine], side="left")
                count[mine] = low + np.searchsorted(self._time[low:high], time[mine], side="right") - first[mine]
        self.known += int(count.sum())
        self.doubled += int(count[count > 1].sum())
        return first, count


def sections(
    rows: Rows, table: Table, predictions: Predictions, splits: Sequence[str], *, is_partial: bool
) -> tuple[list[Section], Counts]:
    """One section per split, or per fold and split. Errors: UsageError for what does not match, unless partial."""
    counts, found = Counts(), list[Section]()
    by_fold = bool(rows.folds) and predictions.fold is not None
    matches = {fold: _Match(table, predictions.of_fold(fold)) for fold in rows.folds if by_fold}
    alike = None if by_fold else _Match(table, predictions)
    for fold, split in [(fold, split) for fold in (rows.folds or (None,)) for split in splits]:
        if fold is None:
            inside = table.group == rows.groups.index(split)
        else:
            inside = table.roles[rows.folds.index(fold)] == ROLES.index(split)
        match = alike or matches[str(fold)]
        found.append(_section(table, match, inside, counts, split, fold))
    every = [alike] if alike else list(matches.values())
    _look_through(rows, [match for match in every if match.known < len(match.predictions.time)], splits)
    counts.doubled = sum(match.doubled for match in every)
    counts.extra = len(predictions.time) - sum(match.known for match in every)
    counts.elsewhere = sum(match.known - match.doubled - int(match.used.sum()) for match in every)
    if not is_partial and (counts.missing or counts.extra or counts.doubled):
        raise UsageError(
            "the predictions are not those of the dataset's rows",
            expected="one for each row of the split, and no other",
            was=f"{counts.missing:,} rows without one, {counts.extra:,} without a row, "
            f"{counts.doubled:,} that share a row with another",
            action="predict every row of the split once, or score what matches with --partial",
        )  # fmt: skip
    return found, counts


def _section(
    table: Table, match: _Match, inside: NDArray[np.bool_], counts: Counts, split: str, fold: str | None
) -> Section:
    """The rows inside that have a label and a prediction; the others are counted."""
    said = match.predictions
    match.used[match.place[inside & (match.place >= 0)]] = True
    counts.unlabelled += int((inside & np.isnan(table.truth)).sum())
    inside = inside & ~np.isnan(table.truth)
    has = inside & (match.place >= 0)
    has[has] = ~np.isnan(said.value[match.place[has]])
    counts.missing += int((inside & ~has).sum())
    counts.matched += int(has.sum())
    at = match.place[has]
    return Section(
        split if fold is None else f"{fold} {split}", split, fold, table.instrument[has], table.time[has],
        table.entry[has], table.truth[has], table.gain[has], said.value[at],
        None if said.probabilities is None else said.probabilities[at],
    )  # fmt: skip


def _look_through(rows: Rows, unsure: Sequence[_Match], splits: Sequence[str]) -> None:
    """Match the rows that are not scored with predictions of which some are of no scored row."""
    if unsure:
        for batch, inside in _batches(rows, ["instrument", "time"], splits, are_scored=False):
            names, codes = batch.texts("instrument")
            for match in unsure:
                match.add(names, codes[inside], batch.times("time")[inside])
