"""Shift test: does a feature of a dataset agree with a label as only the label itself can?

Input: the Parquet files of a dataset, its features, and each label's reach behind T.
Output: `Shift`: rank correlations of the features with the labels, at T and one reach earlier, and what leaks.
State: the rows of a sample of times, at most about SAMPLE_ROWS for T and as many for each label's reach.
Units: ns; correlations -1 to 1; None where fewer than ROWS_MIN rows, or not two values, are known.
Errors: SegmentTorn.

A feature of the past hardly ever orders rows as a label of the future does. One that does at T, and does no longer when
it is taken one label reach earlier, where label and feature cannot share an instant, was made of the label. So:
    agreement   covariance of both sides' mid-ranks by the lesser of their variances: +-1 where neither contradicts the
                other, however coarse one of them is (a direction orders rows as its return does)
    leaking     agreement beyond THRESHOLD at T, and not beyond it one reach earlier; or the very value of the label in
                more than THRESHOLD of the rows whose label is not its most frequent value
Ranks are exact, over a sample of times that depends on nothing but the times themselves: over 20,000 rows the error of
a correlation is 0.007.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.proof.future import mixed
from replay.proof.rows import instruments, longs, parts, times
from schemas.columns import Int64

SAMPLE_ROWS = 20_000
ROWS_MIN = 100
MINORITY_MIN = 30
"""Rows that differ from the most frequent value, below which chance agrees with anything."""
THRESHOLD = 0.99
OF_THE_PAST = "mark_out_"
"""A mark-out begins with the price of a trade that features know: while the market stands still, it is that price."""
WORST = 10
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one feature with one label: rank correlation at T and one reach earlier, and whether it leaks."""

    feature: str
    label: str
    ic: float | None
    ic_shifted: float | None
    is_leaking: bool


@dataclass(frozen=True, slots=True)
class Shift:
    """Every feature with every label, over `rows` sampled rows."""

    rows: int
    found: Sequence[Agreement] = field(default_factory=list)

    @property
    def leaking(self) -> list[str]:
        """Names of the features that agree with a label as only the label can."""
        return sorted({each.feature for each in self.found if each.is_leaking})

    def worst(self) -> dict[str, tuple[float | None, float | None, str]]:
        """The features that agree most with any label: both correlations, and which label it is."""
        ordered = sorted(self.found, key=lambda each: (not each.is_leaking, -abs(each.ic or 0.0), each.feature))
        worst: dict[str, tuple[float | None, float | None, str]] = {}
        for each in ordered:
            if len(worst) < WORST:
                worst.setdefault(each.feature, (each.ic, each.ic_shifted, each.label))
        return worst

    def json(self) -> dict[str, Any]:
        """One JSON object."""
        worst = {feature: list(values) for feature, values in self.worst().items()}
        return {"rows": self.rows, "leaking": self.leaking, "worst": worst}


def shift_test(
    files: Sequence[Path],
    features: Sequence[str],
    reaches_ns: Mapping[str, int],
    cadence_ns: int,
    *,
    sample_rows: int = SAMPLE_ROWS,
    threshold: float = THRESHOLD,
) -> Shift:
    """Hold every feature to every label; `reaches_ns` says how far behind T each label goes.

    The feature one reach earlier is that of the same instrument at T - reach, the reach rounded up to the cadence.
    """
    there = np.unique(np.concatenate([np.empty(0, np.int64), *(times(path) for path in files)]))
    rows = sum(len(part) for path in files for part in parts(path, ["time"]))
    count = max(1, len(there) * sample_rows // max(rows, 1))
    sampled = np.sort(there[np.argsort(mixed(there), kind="stable")[:count]])
    shifts = {label: -(-reach // cadence_ns) * cadence_ns for label, reach in reaches_ns.items()}
    sample = _Sample(files, features, list(reaches_ns), np.union1d(sampled, _earlier(sampled, shifts)))
    at = np.flatnonzero(np.isin(sample.time, sampled))
    found = []
    for place, label in enumerate(reaches_ns):
        values = sample.labels[at, place]
        before = sample.find(sample.instrument[at], sample.time[at] - shifts[label])
        for column, feature in enumerate(features):
            now = sample.values[at, column]
            earlier = np.where(before >= 0, sample.values[before, column], np.nan)
            found.append(_agreement(feature, label, now, earlier, values, threshold))
    return Shift(len(at), found)


def _earlier(sampled: Int64, shifts: Mapping[str, int]) -> Int64:
    return np.concatenate([np.empty(0, np.int64), *(sampled - shift for shift in set(shifts.values()))])


class _Sample:
    """The rows of some times, in order of instrument and time: `values` [n, features], `labels` [n, labels]."""

    def __init__(self, files: Sequence[Path], features: Sequence[str], labels: Sequence[str], wanted: Int64) -> None:
        names: dict[str, int] = {}
        taken: list[tuple[Int64, Int64, Floats]] = []
        columns = [*features, *labels]
        for path in files:
            for part in parts(path, ["instrument", "time", *columns]):
                kept = part.filter(np.isin(longs(part, "time"), wanted))
                known, codes = instruments(kept)
                code = np.array([names.setdefault(name, len(names)) for name in known] or [0], np.int64)
                values = np.empty((len(kept), len(columns)))
                for i, name in enumerate(columns):
                    values[:, i] = kept[name].to_numpy()
                taken.append((code[codes], longs(kept, "time"), values))
        instrument, time, values = (np.concatenate([each[i] for each in taken]) for i in range(3))
        order = np.lexsort((time, instrument))
        self.instrument, self.time = instrument[order], time[order]
        self.values, self.labels = np.split(values[order], [len(features)], axis=1)

    def find(self, instrument: Int64, time: Int64) -> Int64:
        """[m] number of the row of each instrument and time, -1 where there is none."""
        place = np.full(len(time), -1, np.int64)
        for each in np.unique(instrument).tolist():
            first, end = np.searchsorted(self.instrument, [each, each + 1]).tolist()
            rows = np.flatnonzero(instrument == each)
            at = first + np.searchsorted(self.time[first:end], time[rows])
            there = at < end
            there[there] = self.time[at[there]] == time[rows[there]]
            place[rows[there]] = at[there]
        return place


def _agreement(feature: str, label: str, now: Floats, earlier: Floats, values: Floats, threshold: float) -> Agreement:
    ic, agreement = agree(now, values)
    ic_shifted, shifted = agree(earlier, values)
    is_leaking = abs(agreement) > threshold and not abs(shifted) > threshold
    is_leaking = is_leaking or _is_label(now, values, threshold)
    return Agreement(feature, label, ic, ic_shifted, is_leaking and not label.startswith(OF_THE_PAST))


def agree(left: Floats, right: Floats) -> tuple[float | None, float]:
    """Rank correlation (Spearman's) and agreement of the rows that know both; None and 0 where too few say anything."""
    known = ~(np.isnan(left) | np.isnan(right))
    left, right = mid_ranks(left[known]), mid_ranks(right[known])
    if len(left) < ROWS_MIN:
        return None, 0.0
    left, right = left - left.mean(), right - right.mean()
    # Not by BLAS, whose threads wait for one another and whose last bits are the machine's.
    both, one, other = (float((a * b).sum()) for a, b in ((left, right), (left, left), (right, right)))
    if not one or not other:
        return None, 0.0
    enough = min(_minority(left), _minority(right)) >= MINORITY_MIN
    return both / float(np.sqrt(one * other)), both / min(one, other) if enough else 0.0


def mid_ranks(values: Floats) -> Floats:
    """[n] ranks from 1, equal values all with the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return np.asarray((ends - (count - 1) / 2)[place], np.float64)


def _minority(values: Floats) -> int:
    """Rows that do not have the most frequent value."""
    return len(values) - int(np.unique(values, return_counts=True)[1].max())


def _is_label(feature: Floats, label: Floats, threshold: float) -> bool:
    """Whether they are the same numbers where the label says something."""
    known = ~(np.isnan(feature) | np.isnan(label))
    feature, label = feature[known], label[known]
    if len(label) < ROWS_MIN or _minority(label) < MINORITY_MIN:
        return False
    usual, count = np.unique(label, return_counts=True)
    told = label != usual[count.argmax()]
    return bool((feature[told] == label[told]).mean() > threshold)
