"""Figures of a card: labels, missing values, coverage, folds; and the small histograms of its table.

Input: a `Summary`.
Output: SVG elements.
Units: shares of rows; times in UTC.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from numpy.typing import NDArray

from replay.card.rows import ROLES
from replay.card.summary import BINS, CLASSES, Summary, is_class
from replay.drawing import COLOURS, EMBARGOED, PURGED, figure, lay_dates, percent, svg
from schemas.units import NS_PER_S

MISSING_MAX = 30
INSTRUMENTS_MAX = 40
FOLDS_MAX = 40
TITLE_LETTERS = 42
"""As many fit above a small figure."""
_ABOVE = 20
"""Points that a title keeps clear above its axes."""
_SHADES = {-1: "#cc4c4c", 0: "#8a8f98", 1: "#1aa37a"}
_ROLE_COLOURS = dict(zip(ROLES, (*COLOURS[:3], PURGED, EMBARGOED), strict=True))


def duration(ns: int) -> str:
    """A duration as people say it: 500 ms, 5 s, 1 h."""
    if not ns:
        return "0 s"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if ns >= size * NS_PER_S and not ns % (size * NS_PER_S):
            return f"{ns // (size * NS_PER_S):,} {unit}"
    return f"{ns / 1e6:,.4g} ms"


def colour(groups: Sequence[str], place: int) -> str:
    """A group's colour, the same in every figure."""
    return _ROLE_COLOURS.get(groups[place], COLOURS[place % len(COLOURS)])


def label(summary: Summary, groups: Sequence[str], name: str) -> str:
    """The values of one label in each group: shares of classes, or densities."""
    place = summary.columns.index(name)
    drawn, axes = figure(4.6, 2.7 if not is_class(name) else 0.9 + 0.35 * len(groups))
    if is_class(name):
        _stacked(axes, list(groups), summary.classes[:, place])
    else:
        low, high = summary.ends[place]
        edges = np.linspace(low, high, BINS + 1)
        for group, text in enumerate(groups):
            counts = summary.histogram[group, place]
            axes.stairs(counts / max(counts.sum(), 1), edges, color=colour(groups, group), label=text, linewidth=1.3)
        axes.set_ylabel("share of rows")
        axes.set_xlabel(name)
        axes.locator_params(nbins=5)
        _legend(axes)
        percent(axes.yaxis)
    _title(axes, name)
    return svg(drawn, f"{name} by {', '.join(groups)}")


def label_by_fold(summary: Summary, folds: Sequence[str], name: str) -> str:
    """One label in what is trained and tested on in each fold: shares of classes, or mean and standard deviation."""
    place, shown = summary.labels.index(name), folds[:FOLDS_MAX]
    sides = [(fold, role) for fold in range(len(shown)) for role in (0, 2)]
    if is_class(name):
        drawn, axes = figure(4.6, 0.9 + 0.24 * len(sides))
        counts = np.array([summary.fold_classes[fold, role, place] for fold, role in sides])
        _stacked(axes, [f"{shown[fold]} {ROLES[role]}" for fold, role in sides], counts)
    else:
        drawn, axes = figure(4.6, 2.7)
        for role, shift in ((0, -0.12), (2, 0.12)):
            rows = np.arange(len(shown)) * len(ROLES) + role
            known = summary.fold_moments.known[rows, place] > 0
            mean, spread = summary.fold_moments.mean[rows, place], summary.fold_moments.deviation[rows, place]
            axes.errorbar(
                np.flatnonzero(known) + shift, mean[known], spread[known], fmt="o", markersize=3, capsize=2,
                color=_ROLE_COLOURS[ROLES[role]], label=ROLES[role],
            )  # fmt: skip
        axes.set_xticks(range(len(shown)), [fold.removeprefix("fold_") for fold in shown])
        axes.set_xlabel("fold")
        axes.set_ylabel("mean ± 1 sd")
        _legend(axes)
    _title(axes, f"{name}, by fold")
    return svg(drawn, f"{name} by fold")


def _stacked(axes: Axes, names: list[str], counts: NDArray[np.int64]) -> None:
    """Bars of shares of the classes; a row without any label stays empty."""
    share = counts / np.maximum(counts.sum(axis=1), 1)[:, None]
    begun = np.zeros(len(names))
    for place, each in enumerate(CLASSES):
        axes.barh(names, share[:, place], 0.7, begun, color=_SHADES[each], label=f"{each:+d}" if each else "0")
        for row, width in enumerate(share[:, place]):
            if width >= 0.08:
                axes.text(
                    begun[row] + width / 2, row, f"{width:.0%}", ha="center", va="center", color="white", fontsize=7
                )
        begun += share[:, place]
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    percent(axes.xaxis)
    _legend(axes)


def _title(axes: Axes, text: str) -> None:
    """Above the legend; a long one in smaller letters."""
    axes.set_title(text, pad=_ABOVE, fontsize=min(9.0, 9.0 * TITLE_LETTERS / len(text)))


def _legend(axes: Axes) -> None:
    """Between title and axes, where it hides nothing."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, handlelength=1, columnspacing=1.2, borderaxespad=0.2,
        borderpad=0.1,
    )  # fmt: skip


def missing(summary: Summary, groups: Sequence[str]) -> str | None:
    """The features that most values are missing of; None where none is."""
    share = summary.moments.missing[:, : summary.features]
    worst = np.argsort(-share.max(axis=0, initial=0.0), kind="stable")
    shown = [int(place) for place in worst[:MISSING_MAX] if share[:, place].max(initial=0.0) > 0]
    if not shown:
        return None
    drawn, axes = figure(9.6, 0.9 + 0.19 * len(shown))
    height = 0.8 / len(groups)
    for group, text in enumerate(groups):
        at = np.arange(len(shown)) + (group - (len(groups) - 1) / 2) * height
        axes.barh(at, share[group, shown], height, color=colour(groups, group), label=text)
    axes.set_yticks(range(len(shown)), [summary.columns[place] for place in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("share of rows without a value")
    axes.set_xlim(left=0)
    percent(axes.xaxis)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower right")
    return svg(drawn, "share of missing values by feature and split")


def coverage(summary: Summary, groups: Sequence[str]) -> str:
    """Rows per time bin of each instrument, coloured by group; what lies between two splits is marked."""
    counts = summary.coverage.sum(axis=1)
    chosen = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[:INSTRUMENTS_MAX])
    drawn, axes = figure(9.6, 1.1 + 0.24 * max(len(chosen), 2))
    bins = summary.bin_start + np.arange(counts.shape[1] + 1, dtype=np.int64) * summary.bin_ns
    left, right = lay_dates(axes, bins[[0, -1]])
    if len(chosen):
        colours = np.array([*(to_rgb(colour(groups, place)) for place in range(len(groups))), to_rgb(PURGED)])
        main = summary.coverage[chosen].argmax(axis=1)
        depth = counts[chosen] / max(counts.max(), 1)
        shade = np.where(depth > 0, 0.25 + 0.75 * depth, 0.0)
        image = np.concatenate([colours[main], shade[:, :, None]], axis=2)
        axes.imshow(
            (image * 255).round().astype(np.uint8), aspect="auto", interpolation="none",
            extent=(left, right, len(chosen) - 0.5, -0.5),
        )  # fmt: skip
    axes.set_yticks(range(len(chosen)), [summary.instruments[place] for place in chosen])
    axes.tick_params(axis="y", length=0)
    _mark_gaps(axes, summary, (left, right))
    patches = [Patch(color=colour(groups, place), label=text) for place, text in enumerate(groups)]
    if summary.coverage[:, -1].any():
        patches.append(Patch(color=PURGED, label="in none"))
    if len(groups) > 1:
        patches.append(Patch(facecolor="none", edgecolor=EMBARGOED, hatch="////", label="between splits"))
    axes.legend(
        handles=patches, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(patches), handlelength=1,
        columnspacing=1.2,
    )  # fmt: skip
    axes.set_title(f"rows per {duration(summary.bin_ns)}, at most {int(counts.max(initial=0)):,}")
    return svg(drawn, "rows over time by instrument and split")


def _mark_gaps(axes: Axes, summary: Summary, ends: tuple[float, float]) -> None:
    """Hatch the time between the last row of one split and the first of the next, at least a hair wide."""
    known = summary.last[:-1] >= summary.first[:-1]
    first, last = np.sort(summary.first[:-1][known]), np.sort(summary.last[:-1][known])
    least = (ends[1] - ends[0]) / 400
    for before, after in zip(last[:-1] / 86_400e9, first[1:] / 86_400e9, strict=True):
        if after > before:
            middle, half = (before + after) / 2, max(after - before, least) / 2
            axes.axvspan(
                middle - half, middle + half, facecolor="none", edgecolor=EMBARGOED, hatch="////", linewidth=0.6
            )


def folds(summary: Summary, names: Sequence[str]) -> str:
    """What the rows of each time are in each fold, the purged and the embargoed as well."""
    shown = names[:FOLDS_MAX]
    counts = summary.fold_coverage[: len(shown)]
    drawn, axes = figure(9.6, 1.1 + 0.24 * max(len(shown), 2))
    bins = summary.bin_start + np.arange(counts.shape[2] + 1, dtype=np.int64) * summary.bin_ns
    left, right = lay_dates(axes, bins[[0, -1]])
    colours = np.array([to_rgb(_ROLE_COLOURS[role]) for role in ROLES])
    # A bin that has any row taken out shows it, however few: that is what one looks for here.
    rank: NDArray[np.bool_] = np.not_equal(counts, 0)
    main = np.where(rank[:, 4], 4, np.where(rank[:, 3], 3, counts[:, :3].argmax(axis=1)))
    image = np.concatenate([colours[main], (counts.sum(axis=1) > 0)[:, :, None].astype(np.float64)], axis=2)
    axes.imshow(
        (image * 255).round().astype(np.uint8), aspect="auto", interpolation="none",
        extent=(left, right, len(shown) - 0.5, -0.5),
    )  # fmt: skip
    axes.set_yticks(range(len(shown)), shown)
    axes.tick_params(axis="y", length=0)
    there = [place for place in range(len(ROLES)) if counts[:, place].any()]
    patches = [Patch(color=_ROLE_COLOURS[ROLES[place]], label=ROLES[place]) for place in there]
    axes.legend(
        handles=patches, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=max(len(patches), 1), handlelength=1,
        columnspacing=1.2,
    )  # fmt: skip
    axes.set_title("folds")
    return svg(drawn, "roles of rows over time by fold")


def sparkline(summary: Summary, groups: Sequence[str], place: int) -> str:
    """A column's histogram in each group, as tall as its highest bin: the first group filled, the others as lines."""
    width, height = 120, 28
    paths: list[str] = []
    for group in range(len(groups)):
        counts = summary.histogram[group, place]
        if not counts.any():
            continue
        tops = height - counts / counts.max() * (height - 2)
        step = width / BINS
        points = " ".join(f"V{top:.1f}H{(i + 1) * step:g}" for i, top in enumerate(tops))
        look = 'fill-opacity=".35"' if not paths else 'fill="none"'
        fill = f'fill="{colour(groups, group)}"' if not paths else ""
        paths.append(f'<path d="M0 {height}{points}V{height}" {fill} {look} stroke="{colour(groups, group)}"/>')
    return f'<svg class="spark" viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(paths)}</svg>'
