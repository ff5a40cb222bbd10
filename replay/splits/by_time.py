"""Splits: which rows a model is trained, tuned and tested on, by time, no label reaching from one split into the next.

Input: prediction times and ends of the label intervals, one per row; fractions of the span per split.
Output: `TimeSplit`: one mask per split and the rows purged.
Units: times in ns UTC; fractions of distinct prediction times.
Errors: UsageError where there is no row, or for fractions that are no partition of the whole or leave a split empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Int64
from schemas.errors import UsageError

SPLITS = {"train": "0.7", "validation": "0.15", "test": "0.15"}


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """`rows` [m] of each split by name; `purged` [m] are in none; `boundaries`: first times of the later ones."""

    rows: dict[str, NDArray[np.bool_]]
    purged: NDArray[np.bool_]
    boundaries: list[int]


def time_split(prediction_times: Int64, evaluation_times: Int64, fractions: Mapping[str, str]) -> TimeSplit:
    """Cut the distinct prediction times by fractions (decimal texts, exact), in the order of the mapping.

    A row whose interval [prediction, evaluation] reaches a boundary, its first instant included, is purged: its label
    would tell the earlier split a price that the later one predicts from.
    """
    shares = _shares(fractions)
    times = np.unique(prediction_times)
    cuts = [int(share * len(times)) for share in accumulate(shares[:-1])]
    if not len(times):
        raise UsageError(
            "no row has a label", expected="a mid price at a Tick and again a horizon later", was="no such row",
            action="check that the book had a Snapshot (else mid_price is null), that the tape is longer than "
            "the horizon, and that instruments and span are those of the tape",
        )  # fmt: skip
    if sorted(set(cuts)) != cuts or 0 in cuts[:1]:
        raise UsageError(
            "the tape is too short for these splits", expected=f"rows in each of {', '.join(fractions)}",
            was=f"{len(times)} distinct times", action="use a longer tape, or other fractions",
        )  # fmt: skip
    boundaries = [int(times[cut]) for cut in cuts]
    place = np.searchsorted(boundaries, prediction_times, side="right")
    end = np.append(np.array(boundaries, np.int64), np.iinfo(np.int64).max)[place]
    purged = evaluation_times >= end
    rows = {name: (place == i) & ~purged for i, name in enumerate(fractions)}
    empty = [name for name, mask in rows.items() if not mask.any()]
    if empty:
        raise UsageError(
            f"purging leaves no row in {', '.join(empty)}", expected="label intervals shorter than every split",
            was=f"{int(purged.sum())} rows purged", action="use a longer tape, a shorter horizon, or other fractions",
        )  # fmt: skip
    return TimeSplit(rows, purged, boundaries)


def _shares(fractions: Mapping[str, str]) -> list[Fraction]:
    try:
        shares = [Fraction(text) for text in fractions.values()]
    except (ValueError, ZeroDivisionError):
        shares = []
    if not shares or min(shares) <= 0 or sum(shares) != 1:
        raise UsageError(
            "these fractions are no split", expected=f"positive fractions of {', '.join(SPLITS)} that add up to 1",
            was=", ".join(f"{name}={text}" for name, text in fractions.items()) or "none",
            action="correct them, e.g. train=0.7,validation=0.15,test=0.15",
        )  # fmt: skip
    return shares
