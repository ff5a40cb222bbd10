"""Clusters: how the rows of a segment are cut into blocks, and a block's rows into row groups by instrument.

A block is a run of consecutive offsets. The rows of a block of several instruments are clustered by key, so that a
reader of one instrument opens the row groups that hold it and the one of the Ticks. The Ticks, and the records refused,
never share a row group with an instrument; instruments of few rows share one. Within a row group the rows stand by
kind, and by offset within a kind: that takes a sixth less room, and a tenth less time to read.
A block that is small, or has one instrument only, stays as it is: one row group in offset order.

Input: rows of a segment.
Output: per block its row groups, as `Group` without place and digest, and the rows of each.
Units: rows; int64 numbers in bodies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from replay.rows import GROUP_ROWS_MAX, Rows, TapeRows, group_ends
from replay.segments import Group
from schemas.columns import Int64
from schemas.topics import CLOCK_KEY, REFUSED_KEY

BLOCK_ROWS_MAX = 262_144
"""Rows of a block; the numbers in their bodies are bounded as those of a row group."""
SHARED_ROWS_MIN = 4_096
"""Below this many rows of its own in a block, an instrument shares a row group: each costs about 40 column chunks."""
BLOCK_GROUPS_MAX = 20
"""Row groups of a block; where there would be more, more instruments share one."""
_ALONE = (CLOCK_KEY, REFUSED_KEY)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Rows of one row group: their numbers in the segment, and what the sidecar says of it."""

    rows: Int64
    group: Group


def clusters(rows: Rows, keys: Sequence[str]) -> Iterator[list[Cluster]]:
    """The row groups of each block; `keys` are those of the segment, sorted."""
    if not isinstance(rows, TapeRows):
        yield from _as_they_are(rows, 0, len(rows.offset), 0, len(keys) - 1)
        return
    places = {key: place for place, key in enumerate(keys)}
    names = rows.columns.keys
    place = np.array([places.get(name, -1) for name in names], np.int64)[rows.columns.key]
    for first, end in pairwise([0, *group_ends(rows, BLOCK_ROWS_MAX)]):
        found = place[first:end]
        counts = np.bincount(found, minlength=len(keys))
        instruments = sum(1 for at in np.flatnonzero(counts).tolist() if keys[at] not in _ALONE)
        if instruments < 2 or end - first < 2 * SHARED_ROWS_MIN:
            used = np.flatnonzero(counts)
            yield from _as_they_are(rows, first, end, int(used[0]), int(used[-1]))
        else:
            yield _clustered(found, rows.columns.kind[first:end], counts, first, keys)


def _as_they_are(rows: Rows, first: int, end: int, first_key: int, last_key: int) -> Iterator[list[Cluster]]:
    """Blocks of one row group each, in offset order."""
    for low, high in pairwise([first, *(first + at for at in group_ends(rows.slice(first, end)))]):
        yield [Cluster(np.arange(low, high), Group(high - low, first_key, last_key, 0, ""))]


def _clustered(
    found: Int64, kind: NDArray[np.uint8], counts: NDArray[np.int64], first: int, keys: Sequence[str]
) -> list[Cluster]:
    order = np.argsort(found, kind="stable")
    ends = np.cumsum(counts)
    least = SHARED_ROWS_MIN
    while len(spans := _spans(counts, keys, least)) > BLOCK_GROUPS_MAX and least < len(found):
        least *= 2
    made = []
    for low_key, high_key in spans:
        low, high = int(ends[low_key] - counts[low_key]), int(ends[high_key])
        for at in range(low, high, GROUP_ROWS_MAX):
            until = min(high, at + GROUP_ROWS_MAX)
            part = order[at:until]
            part = part[np.lexsort((part, kind[part]))]
            made.append(Cluster(first + part, Group(until - at, low_key, high_key, 0, "")))
    return made


def _spans(counts: NDArray[np.int64], keys: Sequence[str], least: int) -> list[tuple[int, int]]:
    """First and last key of each row group: those of `least` rows or more alone, as are the Ticks; others together."""
    spans: list[tuple[int, int]] = []
    shared: list[int] = []
    rows = 0

    def close() -> None:
        nonlocal rows
        if shared:
            spans.append((shared[0], shared[-1]))
        shared.clear()
        rows = 0

    for at in np.flatnonzero(counts).tolist():
        if counts[at] >= least or keys[at] in _ALONE:
            close()
            spans.append((at, at))
            continue
        shared.append(at)
        rows += int(counts[at])
        if rows >= least:
            close()
    close()
    return spans
