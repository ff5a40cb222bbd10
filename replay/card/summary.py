"""Summary: the figures of a card, from two readings of a dataset's rows.

Input: `Rows`, the names of features and labels.
Output: `Summary`: moments and histograms per column and group, labels per fold and role, rows over time.
State: a sample of some thousand rows, to choose where histograms begin and end; nothing grows with the rows.
Units: as the columns; times in ns UTC.

The first reading counts, and finds the spans; the second fills histograms. Values beyond a histogram's ends are counted
in its outermost bins, so that no row is left out and one far outlier does not flatten the picture.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from replay.card.rows import NONE, ROLES, Batch, Rows
from replay.prefetch import ahead
from schemas.columns import Int64
from schemas.labels import parse
from schemas.units import NS_PER_MS, NS_PER_S

BINS = 40
SAMPLE_ROWS = 20_000
TAILS = (0.005, 0.995)
"""Quantiles of the sample between which a histogram's inner bins lie."""
_FAR = 1e300
"""The distance of two such values is still finite."""
TIME_BINS_MAX = 240
CLASSES = (-1, 0, 1)
CLASS_FAMILIES = ("direction", "triple_barrier")
_MINUTE, _HOUR = 60 * NS_PER_S, 3600 * NS_PER_S
_WIDTHS = [NS_PER_MS * step for step in (100, 200, 500)]
_WIDTHS += [NS_PER_S * step for step in (1, 2, 5, 10, 30)] + [_MINUTE * step for step in (1, 2, 5, 10, 30)]
_WIDTHS += [_HOUR * step for step in (1, 2, 6, 12)] + [24 * _HOUR * step for step in (1, 7, 30, 90)]
Counts = NDArray[np.int64]


def is_class(label: str) -> bool:
    """Whether a label's values are -1, 0 and 1."""
    return parse(label).family in CLASS_FAMILIES


@dataclass(slots=True)
class Moments:
    """Count, mean and spread of C columns in G sets of rows, each array [G, C]; `rows` [G] counts nulls as well."""

    rows: Counts
    known: Counts
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @staticmethod
    def of(sets: int, columns: int) -> Moments:
        """Of no row."""
        shape = (sets, columns)
        ends = np.full(shape, np.inf), np.full(shape, -np.inf)
        return Moments(np.zeros(sets, np.int64), np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape), *ends)

    def add(self, at: int, column: int, values: NDArray[np.float64]) -> None:
        """Known values of one column of one set; what each part adds is combined as Chan et al. (1979) do."""
        count = len(values)
        if not count:
            return
        mean, before = float(values.mean()), int(self.known[at, column])
        apart = mean - self.mean[at, column]
        self.known[at, column] = before + count
        self.mean[at, column] += apart * count / (before + count)
        self.squares[at, column] += float(np.square(values - mean).sum()) + apart**2 * before * count / (before + count)
        self.low[at, column] = min(self.low[at, column], values.min())
        self.high[at, column] = max(self.high[at, column], values.max())

    @property
    def missing(self) -> NDArray[np.float64]:
        """[G, C] share of the rows that have no value."""
        gone: NDArray[np.float64] = (self.rows[:, None] - self.known) / np.maximum(self.rows, 1)[:, None]
        return gone

    @property
    def deviation(self) -> NDArray[np.float64]:
        """[G, C] standard deviation."""
        spread: NDArray[np.float64] = np.sqrt(self.squares / np.maximum(self.known, 1))
        return spread


@dataclass(slots=True)
class Summary:
    """Everything a card draws. Arrays by group g, column c (features, then labels), fold f, role r, time bin t.

    `histogram` [g, c, BINS] between `ends` [c, 2]; `classes` [g, c, 3]; `fold_moments` over f * roles + r and labels;
    `fold_classes` [f, r, labels, 3]; `coverage` [instruments, g + 1, t], the last for rows of no group;
    `fold_coverage` [f, r, t]; `first`, `last` [g + 1] times of the groups and, last, of all rows.
    """

    columns: tuple[str, ...]
    features: int
    moments: Moments
    fold_moments: Moments
    classes: Counts
    fold_classes: Counts
    first: Int64
    last: Int64
    histogram: Counts
    ends: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))
    instruments: list[str] = field(default_factory=list)
    bin_ns: int = NS_PER_S
    bin_start: int = 0
    coverage: Counts = field(default_factory=lambda: np.empty((0, 0, 0), np.int64))
    fold_coverage: Counts = field(default_factory=lambda: np.empty((0, 0, 0), np.int64))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.columns[self.features :]


def summarize(rows: Rows, features: tuple[str, ...], labels: tuple[str, ...]) -> Summary:
    """Read the rows twice. Errors: SegmentTorn."""
    columns = (*features, *labels)
    groups, folds = len(rows.groups), len(rows.folds)
    ends = np.full(groups + 1, np.iinfo(np.int64).max), np.full(groups + 1, np.iinfo(np.int64).min)
    found = Summary(
        columns, len(features), Moments.of(groups, len(columns)), Moments.of(folds * len(ROLES), len(labels)),
        np.zeros((groups, len(columns), len(CLASSES)), np.int64),
        np.zeros((folds, len(ROLES), len(labels), len(CLASSES)), np.int64), *ends,
        np.zeros((groups, len(columns), BINS), np.int64),
    )  # fmt: skip
    samples, seen, stride = [], 0, max(1, rows.count() // SAMPLE_ROWS)
    places: dict[str, int] = {}
    with closing(_read(rows, columns)) as batches:
        for batch in batches:
            chosen = np.arange(-seen % stride, len(batch.group), stride)
            with np.errstate(over="ignore", invalid="ignore"):  # the spread of what is far too large is not shown
                samples.append(_measure(found, batch, chosen))
            seen += len(batch.group)
            for text in batch.texts("instrument")[0]:
                places.setdefault(text, len(places))
    found.instruments = sorted(places)
    found.ends = _histogram_ends(np.concatenate(samples, axis=1) if samples else np.empty((len(columns), 0)))
    _lay_time(found, folds)
    order = {name: place for place, name in enumerate(found.instruments)}
    with closing(_read(rows, columns)) as batches:
        for batch in batches:
            _fill(found, batch, order)
    return found


def _read(rows: Rows, columns: tuple[str, ...]) -> Generator[Batch, None, None]:
    """Every row once, decoded while the batch before it is counted."""
    return ahead(rows.batches(("instrument", "time", *columns), verifies=False), 2)


def _measure(found: Summary, batch: Batch, chosen: NDArray[np.intp]) -> NDArray[np.float64]:
    """First reading of a batch: moments, classes and spans; gives the chosen rows' values [columns, k]."""
    inside, times = _inside(found, batch), batch.times("time")
    for group, mask in [*inside, (-1, np.ones(len(times), np.bool_))]:
        found.first[group] = min(found.first[group], times[mask].min())
        found.last[group] = max(found.last[group], times[mask].max())
    for group, mask in inside:
        found.moments.rows[group] += int(mask.sum())
    roles = [batch.roles[fold] == role for fold in range(len(batch.roles)) for role in range(len(ROLES))]
    found.fold_moments.rows += np.array([int(mask.sum()) for mask in roles], np.int64)
    sample = np.empty((len(found.columns), len(chosen)))
    for place, name in enumerate(found.columns):
        values = batch.values(name)
        known = np.isfinite(values)
        sample[place] = np.where(known[chosen], values[chosen], np.nan)
        for group, mask in inside:
            found.moments.add(group, place, values[mask & known])
        label = place - found.features
        if label < 0:
            continue
        for at, mask in enumerate(roles):
            found.fold_moments.add(at, label, values[mask & known])
        if is_class(name):
            hits = [known & (values == each) for each in CLASSES]
            for group, mask in inside:
                found.classes[group, place] += [int((mask & hit).sum()) for hit in hits]
            counted = np.array([[int((mask & hit).sum()) for hit in hits] for mask in roles], np.int64)
            found.fold_classes[:, :, label] += counted.reshape(-1, len(ROLES), len(CLASSES))
    return sample


def _inside(found: Summary, batch: Batch) -> list[tuple[int, NDArray[np.bool_]]]:
    """The groups that have rows in a batch, each with which ones."""
    masks = ((group, batch.group == group) for group in range(len(found.moments.rows)))
    return [(group, mask) for group, mask in masks if mask.any()]


def _histogram_ends(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    """[columns, 2] where the inner bins lie; one value, or none, gets a bin around it."""
    ends = np.zeros((len(sample), 2))
    for place, values in enumerate(sample):
        known = np.clip(values[~np.isnan(values)], -_FAR, _FAR)
        low, high = np.quantile(known, TAILS) if len(known) else (0.0, 0.0)
        if high <= low and len(known):
            low, high = known.min(), known.max()
        margin = 0.0 if high > low else max(abs(low), 1.0) / 2
        ends[place] = low - margin, high + margin
    return ends


def _lay_time(found: Summary, folds: int) -> None:
    first, last = int(found.first[-1]), int(found.last[-1])
    span = max(last - first, 0)
    found.bin_ns = next((width for width in _WIDTHS if span // width + 2 <= TIME_BINS_MAX), span // TIME_BINS_MAX + 1)
    found.bin_start = first // found.bin_ns * found.bin_ns
    bins = max((last - found.bin_start) // found.bin_ns + 1, 1) if last >= first else 1
    found.coverage = np.zeros((len(found.instruments), len(found.moments.rows) + 1, bins), np.int64)
    found.fold_coverage = np.zeros((folds, len(ROLES), bins), np.int64)


def _fill(found: Summary, batch: Batch, order: dict[str, int]) -> None:
    """Second reading of a batch: histograms and coverage."""
    groups, bins, inside = len(found.moments.rows), found.coverage.shape[2], _inside(found, batch)
    for place, name in enumerate(found.columns):
        values = batch.values(name)
        low, high = found.ends[place]
        known = np.isfinite(values)
        inner = np.clip(np.where(known, values, low), low, high) - low
        at = np.minimum(inner * (BINS / (high - low)), BINS - 1).astype(np.int64)
        for group, mask in inside:
            found.histogram[group, place] += np.bincount(at[mask & known], minlength=BINS)
    texts, codes = batch.texts("instrument")
    instruments = np.array([order[text] for text in texts], np.int64)[codes]
    at_time = (batch.times("time") - found.bin_start) // found.bin_ns
    group_or_none = np.where(batch.group == NONE, groups, batch.group).astype(np.int64)
    flat = (instruments * (groups + 1) + group_or_none) * bins + at_time
    found.coverage += np.bincount(flat, minlength=found.coverage.size).reshape(found.coverage.shape)
    for fold, roles in enumerate(batch.roles):
        known = roles != NONE
        flat = roles[known].astype(np.int64) * bins + at_time[known]
        found.fold_coverage[fold] += np.bincount(flat, minlength=len(ROLES) * bins).reshape(len(ROLES), bins)
