"""Folds: where in time a declared split trains, tunes and tests.

Input: a `SplitSpec` and the distinct prediction times of all rows.
Output: `Fold`s: `time` and `random` one, `fold_0`, `fold_1`, ... of the other kinds.
Units: times in ns UTC. Sizes are counted in distinct times, never in rows: instruments at one instant stay together.
Errors: UsageError where the times are too few; ValueError for times that are not distinct and ascending.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from hashlib import blake2b
from itertools import accumulate, combinations

import numpy as np

from replay.splits.fold import Fold, Range, Role
from replay.splits.spec import SplitSpec
from schemas.columns import Int64
from schemas.errors import UsageError

_Cut = tuple[Role, int, int]
"""A role, and the half-open range of places among the distinct times that has it."""


def folds(spec: SplitSpec, times: Int64) -> list[Fold]:
    """The folds of a split over n distinct prediction times, ascending. All arithmetic is exact.

    * time: train, validation and test follow each other, each its fraction of the times.
    * walk_forward: each fold tests on a window, the windows follow each other without overlap to the end. Before a
      window comes what it is validated on, if anything, and before that what is trained on: the last `train` times
      (rolling), or all from the first on (expanding). Without a `train` it is as long as a test window. Told
      durations, the windows are of the calendar from the first time on; the last one is whole, and a window in which
      a role has no time at all is left out, its number with it.
    * k_fold: the times are cut into groups as equal as can be; each fold tests one and trains on all others.
    * combinatorial: the same groups; a fold per choice of `test_folds` of them, in lexical order. The tests make up
      `backtest_paths` whole paths through all groups.
    * random: for testing only. The times are cut into `blocks`; which of them are trained, validated and tested on is
      drawn with `seed`. Blocks are whole and stay in the order of time, so do the rows in them.
    """
    if len(times) > 1 and not (np.diff(times) > 0).all():
        raise ValueError("prediction times that are not distinct and ascending")
    by_kind = {"time": _by_time, "walk_forward": _walk, "k_fold": _groups, "combinatorial": _groups, "random": _drawn}
    found = by_kind[spec.kind](spec, times) if len(times) else []
    if not found:
        raise _too_few(spec, len(times))
    return [Fold(name, tuple(_ranges(spec, cuts, times))) for name, cuts in found]


def backtest_paths(groups: int, test_groups: int) -> list[list[int]]:
    """[paths][groups] the fold of a combinatorial split that tests each group in each path.

    Each group is tested in C(groups - 1, test_groups - 1) folds, and that is how many paths there are; path p takes
    of each group the p-th fold that tests it.
    """
    tested = list(combinations(range(groups), test_groups))
    of_group = [[i for i, chosen in enumerate(tested) if group in chosen] for group in range(groups)]
    return [list(path) for path in zip(*of_group, strict=True)]


def _by_time(spec: SplitSpec, times: Int64) -> list[tuple[str, list[_Cut]]]:
    return [("time", _following(_parts(spec), len(times)))]


def _drawn(spec: SplitSpec, times: Int64) -> list[tuple[str, list[_Cut]]]:
    edges = _edges(len(times), spec.blocks)
    # By hash: a generator of random numbers may draw others in its next release, and the dataset would be another.
    order = sorted(range(spec.blocks), key=lambda block: blake2b(f"{spec.seed}:{block}".encode()).digest())
    drawn = {block: role for role, first, end in _following(_parts(spec), spec.blocks) for block in order[first:end]}
    if len({*drawn.values()}) < len(spec.shares):
        return []
    return [("random", [(drawn[i], edges[i], edges[i + 1]) for i in range(spec.blocks)])]


def _groups(spec: SplitSpec, times: Int64) -> list[tuple[str, list[_Cut]]]:
    edges = _edges(len(times), spec.folds)
    found = []
    for number, tested in enumerate(combinations(range(spec.folds), spec.test_folds or 1)):
        cuts = [(Role.TEST if i in tested else Role.TRAIN, edges[i], edges[i + 1]) for i in range(spec.folds)]
        found.append((f"fold_{number}", cuts))
    return found


def _walk(spec: SplitSpec, times: Int64) -> list[tuple[str, list[_Cut]]]:
    if spec.durations_ns is not None:
        return _walk_calendar(spec, spec.durations_ns, times)
    validation = spec.fractions.get("validation", Fraction(0))
    train = spec.fractions.get("train", (1 - validation) / (spec.folds + 1))
    step = (1 - train - validation) / spec.folds
    found = []
    for i in range(spec.folds):
        ends = [i * step, i * step + train, i * step + train + validation, (i + 1) * step + train + validation]
        first, *rest = (int(end * len(times)) for end in ends)
        found.append((f"fold_{i}", _window(spec, [0 if spec.window == "expanding" else first, *rest])))
    return found


def _walk_calendar(spec: SplitSpec, durations: dict[str, int], times: Int64) -> list[tuple[str, list[_Cut]]]:
    train, validation, test = durations["train"], durations.get("validation", 0), durations["test"]
    first, last = int(times[0]), int(times[-1])
    found = []
    for i in range((last + 1 - first - train - validation) // test):
        begin = first + i * test
        ends = [begin, begin + train, begin + train + validation, begin + train + validation + test]
        places = np.searchsorted(times, np.array(ends, np.int64)).tolist()
        cuts = _window(spec, [0 if spec.window == "expanding" else places[0], *places[1:]])
        if all(first_place < end for _, first_place, end in cuts):
            found.append((f"fold_{i}", cuts))
    return found


def _window(spec: SplitSpec, ends: Sequence[int]) -> list[_Cut]:
    """A walk's train, validation and test, which follow each other from one of four ends to the next."""
    cuts = [(role, ends[i], ends[i + 1]) for i, role in enumerate((Role.TRAIN, Role.VALIDATION, Role.TEST))]
    return [cut for cut in cuts if cut[0] is not Role.VALIDATION or "validation" in dict(spec.shares)]


def _parts(spec: SplitSpec) -> list[tuple[Role, Fraction]]:
    return [(Role[name.upper()], share) for name, share in spec.fractions.items()]


def _following(parts: Sequence[tuple[Role, Fraction]], total: int) -> list[_Cut]:
    """Parts of `total` one behind the other; rounded down, so that the last gets what is left."""
    ends = [0, *(int(share * total) for share in accumulate(share for _, share in parts))]
    return [(role, ends[i], ends[i + 1]) for i, (role, _) in enumerate(parts)]


def _edges(total: int, groups: int) -> list[int]:
    return [i * total // groups for i in range(groups + 1)]


def _ranges(spec: SplitSpec, cuts: Sequence[_Cut], times: Int64) -> list[Range]:
    """The times of cuts; cuts of one role that touch are one range. Errors: UsageError for an empty one."""
    found: list[Range] = []
    for role, first, end in cuts:
        if first >= end:
            raise _too_few(spec, len(times))
        end_ns = int(times[end]) if end < len(times) else int(times[-1]) + 1
        if found and found[-1].role is role and found[-1].end_ns == times[first]:
            found[-1] = Range(role, found[-1].first_ns, end_ns)
        else:
            found.append(Range(role, int(times[first]), end_ns))
    return found


def _too_few(spec: SplitSpec, times: int) -> UsageError:
    if not times:
        return UsageError(
            "no row has a label", expected="a price at a Tick and again a horizon later", was="no such row",
            action="check that the book had a Snapshot (else mid_price is null), that the tape is longer than "
            "the horizon, and that instruments and span are those of the tape",
        )  # fmt: skip
    return UsageError(
        f"the tape is too short for this {spec.kind} split", expected="a prediction time in every part of every fold",
        was=f"{times} distinct times", action="use a longer tape, other shares, or another number of folds or blocks",
    )  # fmt: skip
