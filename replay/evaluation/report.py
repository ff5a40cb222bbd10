"""The report of an evaluation: `evaluation.json` and one plot, `evaluation.svg`.

Input: an `Evaluation`.
Output: a folder that appears whole or not at all.
Units: shares; times in UTC.
Errors: UsageError where something is in that folder already; DependencyDown where the disk refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replay.card.summary import CLASSES
from replay.drawing import COLOURS, PAPER_INK, lay_dates, percent, style
from replay.evaluation.evaluate import Evaluation, Scored
from replay.evaluation.metrics import correlation, ranks
from replay.publication import disk_errors, new_folder
from schemas.durable import sync, write_json

JSON, PLOT = "evaluation.json", "evaluation.svg"
POINTS_MAX = 2000
LINES_MAX = 12
TIME_BINS = 24


def write(evaluation: Evaluation, out: Path) -> None:
    """Lay the report into a new folder."""
    with new_folder(out) as staging, disk_errors(out):
        plot(evaluation, staging / PLOT)
        sync(staging / PLOT)
        write_json(staging / JSON, evaluation.content)


def plot(evaluation: Evaluation, path: Path) -> None:
    """Cumulative returns, and beside them the confusion matrix, or the information coefficient over time."""
    with style(PAPER_INK):
        drawn = Figure(figsize=(10.5, 4.2), layout="constrained")
        left, right = drawn.subplots(1, 2, width_ratios=(1.5, 1))
        _curves(left, evaluation.scored, float(evaluation.content["cost_bps"]))
        if evaluation.is_class:
            _confusion(right, evaluation.scored)
        else:
            _coefficients(right, evaluation.scored)
        drawn.suptitle(f"{evaluation.content['dataset']}: {evaluation.content['label']}", fontsize=9)
        drawn.savefig(path, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})


def _curves(axes: Axes, scored: Sequence[Scored], cost_bps: float) -> None:
    axes.set_title(f"net return, {cost_bps:g} bps a change of position")
    shown = [each for each in scored if len(each.returns.curve)][:LINES_MAX]
    if not shown:
        _say(axes, next((why for each in scored for why in each.returns.measured.reasons.values()), "no rows"))
        return
    for number, each in enumerate(shown):
        every = max(1, -(-len(each.returns.curve) // POINTS_MAX))
        kept = np.append(np.arange(0, len(each.returns.curve) - 1, every), len(each.returns.curve) - 1)
        days = lay_dates(axes, each.returns.time[kept])
        colour = COLOURS[number % len(COLOURS)]
        dashes = "-" if number < len(COLOURS) else "--"
        axes.plot(days, each.returns.curve[kept], dashes, color=colour, label=each.section.name)
    axes.axhline(0, color=PAPER_INK, linewidth=0.5)
    percent(axes.yaxis)
    if len(scored) > len(shown):
        axes.set_xlabel(f"{len(shown)} of {len(scored)} shown")
    axes.legend(loc="best", fontsize=7)


def _confusion(axes: Axes, scored: Sequence[Scored]) -> None:
    """Of all sections together, each row of the truth as shares."""
    counts = np.array([each.matrix for each in scored if each.matrix is not None], np.int64)
    axes.set_title("what was predicted of each class")
    if not len(counts):
        _say(axes, "no rows")
        return
    matrix = counts.sum(axis=0)
    share = matrix / np.maximum(matrix.sum(axis=1), 1)[:, None]
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [f"{each:+d}" if each else "0" for each in CLASSES]
    axes.set_xticks(range(len(CLASSES)), names)
    axes.set_yticks(range(len(CLASSES)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    for row in range(len(CLASSES)):
        for column in range(len(CLASSES)):
            told = f"{share[row, column]:.0%}\n{matrix[row, column]:,}"
            ink = "white" if share[row, column] > 0.55 else PAPER_INK
            axes.text(column, row, told, ha="center", va="center", color=ink, fontsize=8)


def _coefficients(axes: Axes, scored: Sequence[Scored]) -> None:
    """Spearman's correlation within each of some equal parts of the time."""
    axes.set_title("information coefficient over time")
    drawn = False
    for number, each in enumerate(scored[:LINES_MAX]):
        section = each.section
        if not len(section.time):
            continue
        first, last = int(section.time.min()), int(section.time.max())
        width = max((last - first) // TIME_BINS + 1, 1)
        part = (section.time - first) // width
        found = []
        for at in range(int(part.max()) + 1):
            mine = part == at
            value = correlation(ranks(section.truth[mine]), ranks(section.predicted[mine])) if mine.any() else None
            if value is not None:
                found.append((first + at * width + width // 2, value))
        if found:
            times, values = zip(*found, strict=True)
            days = lay_dates(axes, np.array(times, np.int64))
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(days, values, "o-", color=colour, markersize=2.5, linewidth=0.9, label=section.name)
            drawn = True
    if not drawn:
        _say(axes, "the label or the prediction is the same in every row")
        return
    axes.axhline(0, color=PAPER_INK, linewidth=0.5)
    axes.legend(loc="best", fontsize=7)


def _say(axes: Axes, why: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes, wrap=True)
