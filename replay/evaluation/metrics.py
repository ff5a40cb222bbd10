"""Metrics: how near predictions come to what happened.

Input: truth and prediction of m rows, and probabilities of the classes where there are any.
Output: a number per metric, or None with the reason why it cannot be known; never NaN.
Units: squared and absolute errors in those of the label, everything else is a share, a correlation or in nats.
Errors: DependencyDown where scikit-learn is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.card.summary import CLASSES
from schemas.columns import Int64
from schemas.errors import DependencyDown

Floats = NDArray[np.float64]
NO_ROWS = "no row has both a label and a prediction"
CLASSIFICATION = ("accuracy", "balanced_accuracy", "f1_macro", "f1_-1", "f1_0", "f1_1", "log_loss", "auc", "auc_-1",
                  "auc_0", "auc_1")  # fmt: skip
REGRESSION = ("mse", "mae", "r2", "pearson", "ic", "ic_by_time")


@dataclass(slots=True)
class Measured:
    """Values by name, and why those that are None are so."""

    values: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, value: float | None, reason: str = "the numbers are too large") -> None:
        """A value, or the reason why there is none."""
        known = value is not None and bool(np.isfinite(value))
        self.values[name] = float(value) if known and value is not None else None
        if not known:
            self.reasons[name] = reason


def library() -> Any:
    """scikit-learn's metrics. Errors: DependencyDown."""
    try:
        from sklearn import metrics
    except ImportError:
        raise DependencyDown(
            "scikit-learn is not installed", expected="the package scikit-learn", was="none",
            action='install it with `pip install "onetape[ml]"`',
        ) from None  # fmt: skip
    return metrics


def classification(truth: Floats, predicted: Floats, chances: Floats | None) -> tuple[Measured, list[list[int]] | None]:
    """Of the classes -1, 0, 1; and the confusion matrix, rows the truth, columns the prediction."""
    metrics, found = library(), Measured()
    if not len(truth):
        for name in CLASSIFICATION:
            found.put(name, None, NO_ROWS)
        return found, None
    true, guess = truth.astype(np.int64), predicted.astype(np.int64)
    matrix = metrics.confusion_matrix(true, guess, labels=list(CLASSES))
    there, said = matrix.sum(axis=1) > 0, matrix.sum(axis=0) > 0
    found.put("accuracy", metrics.accuracy_score(true, guess))
    # Over the classes that occur: of one that does not, nothing can be recalled.
    recalls = metrics.recall_score(true, guess, labels=np.array(CLASSES)[there], average=None, zero_division=0.0)
    found.put("balanced_accuracy", recalls.mean())
    scores = metrics.f1_score(true, guess, labels=list(CLASSES), average=None, zero_division=0.0)
    found.put("f1_macro", scores[there | said].mean())
    for place, each in enumerate(CLASSES):
        is_known = there[place] or said[place]
        found.put(f"f1_{each}", scores[place] if is_known else None, f"class {each} neither occurs nor is predicted")
    _by_chance(metrics, found, true, chances)
    return found, matrix.tolist()


def _by_chance(metrics: Any, found: Measured, true: Int64, chances: Floats | None) -> None:
    """Metrics of probabilities."""
    areas = [f"auc_{each}" for each in CLASSES]
    if chances is None or np.isnan(chances).any():
        why = "no probabilities p_-1, p_0, p_1" if chances is None else "rows without probabilities"
        for name in ("log_loss", "auc", *areas):
            found.put(name, None, why)
        return
    found.put("log_loss", metrics.log_loss(true, chances, labels=list(CLASSES)))
    known = []
    for place, each in enumerate(CLASSES):
        hits = true == each
        if hits.all() or not hits.any():
            found.put(areas[place], None, f"{'only' if hits.all() else 'no'} class {each} occurs")
            continue
        known.append(metrics.roc_auc_score(hits, chances[:, place]))
        found.put(areas[place], known[-1])
    found.put("auc", np.mean(known) if known else None, "only one class occurs")


def regression(truth: Floats, predicted: Floats, time: Int64) -> Measured:
    """Of numbers. `ic` is Spearman's rank correlation, `ic_by_time` its mean over times with several instruments."""
    metrics, found = library(), Measured()
    if not len(truth):
        for name in REGRESSION:
            found.put(name, None, NO_ROWS)
        return found
    with np.errstate(over="ignore", invalid="ignore"):
        found.put("mse", metrics.mean_squared_error(truth, predicted))
        found.put("mae", metrics.mean_absolute_error(truth, predicted))
        constant = np.ptp(truth) == 0
        r2: Callable[[Floats, Floats], float] = metrics.r2_score
        found.put("r2", None if constant else r2(truth, predicted), "the label is the same in every row")
        still = "the label is the same in every row" if constant else "the prediction is the same in every row"
        found.put("pearson", correlation(truth, predicted), still)
        found.put("ic", correlation(ranks(truth), ranks(predicted)), still)
        section = by_time(truth, predicted, time)
    why = "at no time are there two instruments whose labels and predictions differ"
    found.put("ic_by_time", section.mean() if len(section) else None, why)
    return found


def correlation(x: Floats, y: Floats) -> float | None:
    """Pearson's; None where one of them does not vary."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = (x - x.mean()) / np.abs(x - x.mean()).max(), (y - y.mean()) / np.abs(y - y.mean()).max()
    return float(np.clip((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()), -1.0, 1.0))


def ranks(values: Floats, group: Int64 | None = None) -> Floats:
    """[n] rank of each value within its group, from 1; equal values share the mean of theirs."""
    group = np.zeros(len(values), np.int64) if group is None else group
    order = np.lexsort((values, group))
    sorted_values, sorted_group = values[order], group[order]
    place = np.arange(len(values))
    starts = np.ones(len(values), np.bool_)
    starts[1:] = sorted_group[1:] != sorted_group[:-1]
    first = np.maximum.accumulate(np.where(starts, place, 0))
    ties = starts.copy()
    ties[1:] |= sorted_values[1:] != sorted_values[:-1]
    run = np.cumsum(ties) - 1
    size = np.bincount(run, minlength=1)
    mean_place = np.flatnonzero(ties) + (size[: int(ties.sum())] - 1) / 2
    found = np.empty(len(values))
    found[order] = mean_place[run] - first + 1 if len(values) else 0.0
    return found


def by_time(truth: Floats, predicted: Floats, time: Int64) -> Floats:
    """Spearman's correlation across the instruments of each time that has several and in which both vary."""
    times, group = np.unique(time, return_inverse=True)
    group = group.astype(np.int64)
    count = np.bincount(group, minlength=len(times))
    parts = []
    for values in (truth, predicted):
        rank = ranks(values, group)
        parts.append(rank - (count[group] + 1) / 2)
    x, y = parts
    together, own, other = (np.bincount(group, each, len(times)) for each in (x * y, x * x, y * y))
    known = (own > 0) & (other > 0)
    found: Floats = np.clip(together[known] / np.sqrt(own[known] * other[known]), -1.0, 1.0)
    return found
