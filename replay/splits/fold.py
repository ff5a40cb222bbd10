"""Fold: what each row is for in one round of training and testing, judged by the row's own intervals.

Input: per row its prediction time, the end of its label interval, and how far its features look back.
Output: `Role` per row, one byte each.
Units: times in ns UTC, durations in ns.
Errors: UsageError where purging leaves nothing to train, tune or test on; ValueError for a negative duration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Int64
from schemas.errors import UsageError

_LOWEST, _HIGHEST = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)


class Role(IntEnum):
    """What a row is for. PURGED and EMBARGOED rows are left out of a split they would leak into."""

    NONE = 0
    TRAIN = 1
    VALIDATION = 2
    TEST = 3
    PURGED = 4
    EMBARGOED = 5


_KEPT_FROM: Mapping[Role, tuple[Role, ...]] = {
    Role.TRAIN: (Role.VALIDATION, Role.TEST),
    Role.VALIDATION: (Role.TEST,),
}
"""The roles that rows of a role may not know anything of."""


@dataclass(frozen=True, slots=True)
class Range:
    """Prediction times [first_ns, end_ns) of one role; `first_ns` is the prediction time of a row."""

    role: Role
    first_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Fold:
    """Ranges, ascending and disjoint; a row in none of them has no role."""

    name: str
    ranges: tuple[Range, ...]

    def json(self) -> dict[str, object]:
        """As a manifest holds it."""
        return {
            "name": self.name,
            "ranges": [[each.role.name.lower(), each.first_ns, each.end_ns] for each in self.ranges],
        }


def reaches(fold: Fold, prediction: Int64, evaluation: Int64) -> Int64:
    """[ranges] the latest end of a label interval among the rows of each range, the lowest int64 where there is none.

    Rows come in any order. Of rows that are streamed in parts: the maximum over the parts, of all instruments.
    """
    place, inside = _places(fold, prediction)
    latest = np.full(len(fold.ranges), _LOWEST)
    np.maximum.at(latest, place[inside], evaluation[inside])
    return latest


def roles(
    fold: Fold,
    reach: Int64,
    prediction: Int64,
    evaluation: Int64,
    *,
    look_back_ns: int | Int64,
    purge_horizon_ns: int,
    embargo_ns: int,
) -> NDArray[np.uint8]:
    """[m] Role of each row; each is judged by itself, so that rows may come in any order and in parts.

    A row knows of [prediction - look_back, evaluation + purge_horizon], both ends included: its features are made of
    the first part, its label of the second. Its role comes from the range its prediction time lies in. A row for
    training whose interval meets that of any row for validation or test, [its prediction, its evaluation], is PURGED;
    one whose interval only would, if theirs ended `embargo` later, is EMBARGOED. So is a row for validation by rows
    for test. `reach` is that of all rows, from `reaches`.
    """
    if min(purge_horizon_ns, embargo_ns, int(np.min(look_back_ns, initial=0))) < 0:
        raise ValueError("a duration below 0")
    place, inside = _places(fold, prediction)
    found = np.full(len(prediction), Role.NONE, np.uint8)
    found[inside] = np.array([each.role for each in fold.ranges], np.uint8)[place[inside]]
    limit, behind = _bounds(fold, reach, purge_horizon_ns)
    embargoed = np.array([_clipped(last + embargo_ns) if last != _LOWEST else _LOWEST for last in behind.tolist()])
    known_from = prediction - look_back_ns
    found[inside & (known_from <= embargoed[place])] = Role.EMBARGOED
    found[inside & ((evaluation >= limit[place]) | (known_from <= behind[place]))] = Role.PURGED
    return found


def count(roles_: NDArray[np.uint8]) -> dict[str, int]:
    """Rows of each role but NONE, by its name in lower case."""
    rows = np.bincount(roles_, minlength=len(Role)).tolist()
    return {role.name.lower(): rows[role] for role in Role if role is not Role.NONE}


def check_filled(fold: Fold, rows: Mapping[str, int]) -> None:
    """Refuse a fold that purging has left without rows of a role it is to have; `rows` as from `count`."""
    names = {each.role.name.lower() for each in fold.ranges}
    empty = [name for name in ("train", "validation", "test") if name in names and not rows[name]]
    if empty:
        raise UsageError(
            f"purging leaves no row for {', '.join(empty)} in fold {fold.name}",
            expected="ranges longer than label intervals, look-back, purge horizon and embargo together",
            was=f"{rows['purged']} rows purged, {rows['embargoed']} embargoed",
            action="use a longer tape, shorter horizons or embargo, or fewer folds",
        )  # fmt: skip


def _places(fold: Fold, prediction: Int64) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """[m] the range that each row may lie in, and whether it does."""
    firsts = np.array([each.first_ns for each in fold.ranges], np.int64)
    ends = np.array([each.end_ns for each in fold.ranges], np.int64)
    place = np.searchsorted(firsts, prediction, side="right") - 1
    return np.maximum(place, 0), (place >= 0) & (prediction < ends[np.maximum(place, 0)])


def _bounds(fold: Fold, reach: Int64, purge_horizon_ns: int) -> tuple[Int64, Int64]:
    """[ranges] the first label end that is too late for rows of a range, the last instant their features may not see.

    Every range has its own: a range between two that are tested ends before the second and begins behind the first.
    """
    limit, behind = [], []
    for i, each in enumerate(fold.ranges):
        kept_from = _KEPT_FROM.get(each.role, ())
        later = (other.first_ns for other in fold.ranges[i + 1 :] if other.role in kept_from)
        limit.append(_clipped(next(later, _HIGHEST + purge_horizon_ns) - purge_horizon_ns))
        behind.append(_latest(int(reach[j]) for j in range(i) if fold.ranges[j].role in kept_from))
    return np.array(limit, np.int64), np.array(behind, np.int64)


def _latest(times: Iterable[int]) -> int:
    return max(times, default=_LOWEST)


def _clipped(time: int) -> int:
    return min(max(time, _LOWEST), _HIGHEST)
