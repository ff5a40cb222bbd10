"""One side of a book: levels by tick where the best are, sorted levels behind, and the best ones laid out in order.

Input: ranks and sizes. Rank = price for bids, -price for asks, so both sides read alike: the higher, the better.
State: near levels, one place per tick of a window that follows the best, and a bit per tick that says where they are;
far levels (tables/far.py); TOP, the best levels in order. Where the window lies is seen by nobody outside.
Output: whether a level has changed; levels, best first.
Units: ticks, lots.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.cpython.unsafe import numbers

from schemas.columns import Int64
from schemas.limits import DEPTH_MAX, LEVELS_MAX
from tables import layout as at
from tables.compiled import inner, within
from tables.far import (
    append,
    best_below,
    clear_far,
    delete,
    drop_best,
    drop_farthest,
    far_levels_of,
    farthest,
    find_entry,
    find_rank,
    insert,
    ranks_of,
    read_far,
)

# numba's type hints mistake what an intrinsic is.
leading_zeros: Any = numbers.leading_zeros
trailing_zeros: Any = numbers.trailing_zeros

NO_RANK = -(1 << 62)
"""Rank of a level that is not there: worse than any."""
_SLOT = at.NEAR_TICKS - 1
_WORD = at.NEAR_WORDS - 1
_SLACK = 2
"""The window moves up when the best rises above it, down when the best is that many words below its end: measured."""


@inner
def clear_side(row: Int64, side: int) -> None:
    """No level at all."""
    if row[at.BID_COUNT + side] > row[at.FAR_COUNT + side]:
        near = at.NEAR + side * at.NEAR_TICKS
        bits = at.NEAR_BITS + side * at.NEAR_WORDS
        for i in range(at.NEAR_TICKS):
            row[near + i] = 0
        for i in range(at.NEAR_WORDS):
            row[bits + i] = 0
    row[at.BID_COUNT + side] = 0
    clear_far(row, side)
    top = at.TOP_BIDS + side * at.TOP_SIZE
    for m in range(at.FLOW_LEVELS):
        row[top + m] = NO_RANK
        row[top + DEPTH_MAX + m] = 0


@inner
def put_far(row: Int64, side: int, rank: int, size: int) -> int:
    """`put` of a level below the window."""
    if row[at.FAR_BLOCKS + side] == 0:
        if size == 0:
            return 0
        # A full side has far levels: near holds fewer.
        append(row, side, rank, size)
        row[at.BID_COUNT + side] += 1
        return 1
    entry = find_entry(row, side, rank)
    ranks = ranks_of(row, side, entry)
    n = find_rank(row, ranks, rank)
    place = ranks + n - 1
    # Asked for the size first, a processor foresees whether the level is there.
    if size == 0:
        if n == 0:
            return 0
        delete(row, side, entry, place)
        row[at.BID_COUNT + side] -= 1
        return 1
    if n != 0:
        before = row[place + at.BLOCK]
        row[place + at.BLOCK] = size
        return int(before != size)
    if row[at.BID_COUNT + side] == LEVELS_MAX:
        if rank < row[farthest(row, side)]:
            return 0
        # The new one first: its block may be the one that runs empty.
        insert(row, side, entry, rank, size)
        drop_farthest(row, side)
        return 1
    insert(row, side, entry, rank, size)
    row[at.BID_COUNT + side] += 1
    return 1


@inner
def move(row: Int64, side: int, top: int) -> None:
    """Let the window end with word `top`; no level may be above it. Levels change between near and far."""
    near = at.NEAR + side * at.NEAR_TICKS
    bits = at.NEAR_BITS + side * at.NEAR_WORDS
    before = row[at.NEAR_TOP + side]
    for word in range(before - _WORD, min(before, top - at.NEAR_WORDS) + 1):
        left = row[bits + (word & _WORD)]
        row[bits + (word & _WORD)] = 0
        while left != 0:
            # The lowest first: each is better than every far level.
            rank = word * 64 + trailing_zeros(left)
            left &= left - 1
            append(row, side, rank, row[near + (rank & _SLOT)])
            row[near + (rank & _SLOT)] = 0
    while row[at.FAR_BLOCKS + side] != 0:
        place = best_below(row, side, 64 * (top + 1))
        rank = row[place]
        if rank >> 6 <= top - at.NEAR_WORDS:
            break
        row[near + (rank & _SLOT)] = row[place + at.BLOCK]
        row[bits + (rank >> 6 & _WORD)] |= 1 << (rank & 63)
        drop_best(row, side, place)
    row[at.NEAR_TOP + side] = top


@within
def put(row: Int64, side: int, rank: int, size: int) -> int:
    """Set one level; size 0 deletes. A full side drops its farthest level for a nearer one, and takes none farther.

    Returns 1 if the level named has changed on the side, 0 if it was so before or was not taken. TOP is left behind.
    """
    word = rank >> 6
    down = row[at.NEAR_TOP + side] - word
    if down >= at.NEAR_WORDS:
        return put_far(row, side, rank, size)
    if down < 0:
        if size == 0:
            return 0
        move(row, side, word)
    place = at.NEAR + side * at.NEAR_TICKS + (rank & _SLOT)
    before = row[place]
    row[place] = size
    bits = at.NEAR_BITS + side * at.NEAR_WORDS + (word & _WORD)
    bit = rank & 63
    row[bits] = (row[bits] & ~(1 << bit)) | (int(size > 0) << bit)
    row[at.BID_COUNT + side] += int(size > 0) - int(before > 0)
    if row[at.BID_COUNT + side] > LEVELS_MAX:
        # Near holds fewer levels than a full side, so some are far.
        row[at.BID_COUNT + side] = LEVELS_MAX
        drop_farthest(row, side)
    return int(before != size)


@within
def below(row: Int64, side: int, rank: int) -> int:
    """Rank of the best near level below `rank`. There must be one."""
    bits = at.NEAR_BITS + side * at.NEAR_WORDS
    last = rank - 1
    word = last >> 6
    left = row[bits + (word & _WORD)] & ((2 << (last & 63)) - 1)
    while left == 0:
        word -= 1
        left = row[bits + (word & _WORD)]
    found: int = word * 64 + 63 - leading_zeros(left)
    return found


@inner
def settle(row: Int64, side: int, above: int) -> None:
    """Move the window down where the best level, below rank `above`, is so low in it that the next ones are far."""
    n = row[at.FAR_COUNT + side]
    if n == 0:
        return
    best = below(row, side, above) if n < row[at.BID_COUNT + side] else row[best_below(row, side, above)]
    if row[at.NEAR_TOP + side] - (best >> 6) >= _SLACK:
        move(row, side, best >> 6)


@within
def renew_top(row: Int64, side: int, highest: int) -> tuple[int, int]:
    """Bring TOP up to date after levels up to rank `highest` were set.

    Returns the order flow of the best level, and summed over FLOW_LEVELS levels: what came minus what went, in lots.
    """
    top = at.TOP_BIDS + side * at.TOP_SIZE
    near = at.NEAR + side * at.NEAR_TICKS
    above = min(max(highest, row[top]), row[at.NEAR_TOP + side] * 64 + 63) + 1
    settle(row, side, above)
    rank = min(above, row[at.NEAR_TOP + side] * 64 + 64)
    count = row[at.BID_COUNT + side]
    n = count - row[at.FAR_COUNT + side]
    total = 0
    best = 0
    for m in range(at.FLOW_LEVELS):
        size = 0
        if m < n:
            rank = below(row, side, rank)
            size = row[near + (rank & _SLOT)]
        elif m < count:
            place = best_below(row, side, rank)
            rank = row[place]
            size = row[place + at.BLOCK]
        else:
            rank = NO_RANK
        before = row[top + m]
        flow = 0
        if rank >= before:
            flow += size
        if rank <= before:
            flow -= row[top + DEPTH_MAX + m]
        row[top + m] = rank
        row[top + DEPTH_MAX + m] = size
        total += flow
        if m == 0:
            best = flow
    return best, total


@inner
def fill_side(row: Int64, side: int, depth: int) -> None:
    """Lay the best `depth` levels of a side into TOP, behind those that are always there."""
    top = at.TOP_BIDS + side * at.TOP_SIZE
    near = at.NEAR + side * at.NEAR_TICKS
    count = row[at.BID_COUNT + side]
    n = count - row[at.FAR_COUNT + side]
    rank = row[top + at.FLOW_LEVELS - 1]
    for m in range(at.FLOW_LEVELS, min(depth, count)):
        if m < n:
            rank = below(row, side, rank)
            row[top + m] = rank
            row[top + DEPTH_MAX + m] = row[near + (rank & _SLOT)]
        else:
            place = best_below(row, side, rank)
            rank = row[place]
            row[top + m] = rank
            row[top + DEPTH_MAX + m] = row[place + at.BLOCK]


@inner
def read_levels(row: Int64, side: int, to: Int64, place: int) -> None:
    """Write all levels of a side from a place on: ranks, ascending, then as many sizes."""
    count = row[at.BID_COUNT + side]
    read_far(row, side, to, place, place + count)
    near = at.NEAR + side * at.NEAR_TICKS
    bits = at.NEAR_BITS + side * at.NEAR_WORDS
    i = place + row[at.FAR_COUNT + side]
    for word in range(row[at.NEAR_TOP + side] - _WORD, row[at.NEAR_TOP + side] + 1):
        left = row[bits + (word & _WORD)]
        while left != 0:
            rank = word * 64 + trailing_zeros(left)
            left &= left - 1
            to[i] = rank
            to[i + count] = row[near + (rank & _SLOT)]
            i += 1


@inner
def lay_levels(row: Int64, side: int, source: Int64, place: int, count: int) -> None:
    """Lay a whole side, as `read_levels` wrote it, into a row of zeros; at most LEVELS_MAX levels, each with a size."""
    top = at.TOP_BIDS + side * at.TOP_SIZE
    for m in range(at.FLOW_LEVELS):
        row[top + m] = NO_RANK
    row[at.BID_COUNT + side] = count
    if count == 0:
        return
    word = source[place + count - 1] >> 6
    near = at.NEAR + side * at.NEAR_TICKS
    bits = at.NEAR_BITS + side * at.NEAR_WORDS
    row[at.NEAR_TOP + side] = word
    for i in range(place, place + count):
        rank, size = source[i], source[i + count]
        if word - (rank >> 6) >= at.NEAR_WORDS:
            append(row, side, rank, size)
        else:
            row[near + (rank & _SLOT)] = size
            row[bits + (rank >> 6 & _WORD)] |= 1 << (rank & 63)
    for m in range(min(at.FLOW_LEVELS, count)):
        row[top + m] = source[place + count - 1 - m]
        row[top + DEPTH_MAX + m] = source[place + 2 * count - 1 - m]


def levels_of(row: Int64, side: int) -> tuple[Int64, Int64]:
    """Ranks, ascending, and sizes of all levels of a side."""
    far, far_sizes = far_levels_of(row, side)
    ticks = (int(row[at.NEAR_TOP + side]) - _WORD) * 64 + np.arange(at.NEAR_TICKS)
    sizes = _near(row, side)[ticks & _SLOT]
    held = sizes > 0
    return np.concatenate([far, ticks[held]]), np.concatenate([far_sizes, sizes[held]])


def _near(row: Int64, side: int) -> Int64:
    return row[at.NEAR + side * at.NEAR_TICKS :][: at.NEAR_TICKS]
