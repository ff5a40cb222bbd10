"""A row's two sides beside their references, fed the same records, and what must hold inside the row."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from schemas.columns import Int64
from schemas.limits import DEPTH_MAX, LEVELS_MAX
from tables import book, far, side
from tables import layout as at

Levels = list[tuple[int, int]]
SIDES = (at.BID, at.ASK)
NOTHING = 1 << 62
FLOWS = (at.DELTAS, at.CHURN, at.ORDER_FLOW, at.MULTI_FLOW)


@njit
def snapshot(row: Int64, body: Int64) -> bool:
    return book.apply_snapshot(row, body, 0, 0)


@njit
def delta(row: Int64, body: Int64) -> bool:
    return book.apply_delta(row, body, 0, 0)


@njit
def fill_top(row: Int64, depth: int) -> None:
    book.fill_top(row, depth)


@njit
def lay_levels(row: Int64, which: int, levels: Int64) -> None:
    """`levels`: ranks, ascending, then sizes."""
    side.lay_levels(row, which, levels, 0, len(levels) // 2)


@njit
def read_levels(row: Int64, which: int, to: Int64) -> None:
    side.read_levels(row, which, to, 0)


@njit
def empty(row: Int64) -> None:
    book.empty(row)


class Record(NamedTuple):
    """Levels as (price, size), size 0 deletes."""

    is_snapshot: bool
    bids: Levels
    asks: Levels


class Reference:
    """A side twice: as two sorted lists, and as a dict; levels by rank."""

    def __init__(self) -> None:
        self.ranks: list[int] = []
        self.sizes: list[int] = []
        self.by_rank: dict[int, int] = {}

    def put(self, rank: int, size: int) -> bool:
        """Whether the level has changed: both must say the same."""
        changed = self._put_sorted(rank, size)
        before = self.by_rank.get(rank, 0)
        self.by_rank[rank] = size
        if size == 0:
            del self.by_rank[rank]
        elif len(self.by_rank) > LEVELS_MAX:
            del self.by_rank[min(self.by_rank)]
        assert changed == (self.by_rank.get(rank, 0) != before)
        return changed

    def _put_sorted(self, rank: int, size: int) -> bool:
        i = bisect_left(self.ranks, rank)
        if i < len(self.ranks) and self.ranks[i] == rank:
            before = self.sizes[i]
            self.sizes[i] = size
            if size == 0:
                del self.ranks[i], self.sizes[i]
            return before != size
        if size == 0 or (len(self.ranks) == LEVELS_MAX and i == 0):
            return False
        self.ranks.insert(i, rank)
        self.sizes.insert(i, size)
        if len(self.ranks) > LEVELS_MAX:
            del self.ranks[0], self.sizes[0]
        return True

    def best(self, depth: int) -> Levels:
        return list(zip(self.ranks[: -depth - 1 : -1], self.sizes[: -depth - 1 : -1], strict=True))


def flow(before: Sequence[Levels], after: Sequence[Levels], levels: int) -> int:
    """Order flow of the best levels by its definition, in prices: before and after as (bids, asks), best first."""
    total = 0
    for m in range(levels):
        (bid0, q0), (ask0, r0) = (_level(each, m, sign) for each, sign in zip(before, (1, -1), strict=True))
        (bid, q), (ask, r) = (_level(each, m, sign) for each, sign in zip(after, (1, -1), strict=True))
        total += q * (bid >= bid0) - q0 * (bid <= bid0) - r * (ask <= ask0) + r0 * (ask >= ask0)
    return total


def _level(levels: Levels, m: int, sign: int) -> tuple[float, int]:
    """(price, size) of one level; a bid that is not there is worse than any, and so is an ask."""
    return (sign * levels[m][0], levels[m][1]) if m < len(levels) else (-sign * float("inf"), 0)


class Pair:
    """A row and its references, fed the same records; after each of them everything is compared."""

    def __init__(self) -> None:
        self.row = np.zeros(at.ROW_SIZE, np.int64)
        self.sides = (Reference(), Reference())
        self.sequence = 0
        self.sums = dict.fromkeys(FLOWS, 0)

    def take(self, record: Record) -> None:
        self.sequence += 1
        body = [self.sequence] if record.is_snapshot else [self.sequence, self.sequence, self.sequence - 1]
        for levels in (record.bids, record.asks):
            body += [len(levels), *(number for level in levels for number in level)]
        assert (snapshot if record.is_snapshot else delta)(self.row, np.array(body))
        before = [reference.best(at.FLOW_LEVELS) for reference in self.sides]
        if record.is_snapshot:
            self.sides = (Reference(), Reference())
        changes = 0
        for reference, levels, sign in zip(self.sides, (record.bids, record.asks), (1, -1), strict=True):
            # A Snapshot names each price once, and keeps its nearest levels in whatever order it names them.
            changes += sum([reference.put(sign * price, size) for price, size in levels])
        after = [reference.best(at.FLOW_LEVELS) for reference in self.sides]
        if not record.is_snapshot:
            amounts = (1, changes, flow(before, after, 1), flow(before, after, at.FLOW_LEVELS))
            for quantity, amount in zip(FLOWS, amounts, strict=True):
                self.sums[quantity] += amount
        self.compare()

    def restore(self) -> None:
        """Go on with a row that was laid from the levels of this one."""
        row = np.zeros(at.ROW_SIZE, np.int64)
        row[: at.HEADER_SIZE] = self.row[: at.HEADER_SIZE]
        row[at.TOTALS : at.RING_END] = self.row[at.TOTALS : at.RING_END]
        for which in SIDES:
            levels = np.concatenate(side.levels_of(self.row, which))
            found = np.zeros_like(levels)
            read_levels(self.row, which, found)
            assert np.array_equal(found, levels)
            lay_levels(row, which, levels)
        self.row = row
        self.compare()

    def compare(self) -> None:
        assert {quantity: self.row[at.TOTALS + quantity] for quantity in FLOWS} == self.sums
        both = all(reference.ranks for reference in self.sides)
        mid2 = self.sides[0].ranks[-1] - self.sides[1].ranks[-1] if both else 0
        assert mid2 == (self.row[at.TOP_BIDS] - self.row[at.TOP_ASKS] if both else 0)
        for which, reference in zip(SIDES, self.sides, strict=True):
            ranks, sizes = side.levels_of(self.row, which)
            assert (ranks.tolist(), sizes.tolist()) == (reference.ranks, reference.sizes)
            assert dict(zip(reference.ranks, reference.sizes, strict=True)) == reference.by_rank
            assert self.row[at.BID_COUNT + which] == len(reference.ranks)
            self.compare_top(which, reference, at.FLOW_LEVELS)
            missing = top(self.row, which)[len(reference.ranks) : at.FLOW_LEVELS]
            assert missing == [(side.NO_RANK, 0)] * max(at.FLOW_LEVELS - len(reference.ranks), 0)
            check_places(self.row, which)

    def compare_top(self, which: int, reference: Reference, depth: int) -> None:
        found = top(self.row, which)[: min(depth, len(reference.ranks))]
        assert found == reference.best(depth)

    def fill(self, depth: int) -> None:
        fill_top(self.row, depth)
        for which, reference in zip(SIDES, self.sides, strict=True):
            self.compare_top(which, reference, depth)


def top(row: Int64, which: int) -> Levels:
    place = at.TOP_BIDS + which * at.TOP_SIZE
    ranks, sizes = row[place : place + DEPTH_MAX], row[place + DEPTH_MAX : place + 2 * DEPTH_MAX]
    return list(zip(ranks.tolist(), sizes.tolist(), strict=True))


def check_places(row: Int64, which: int) -> None:
    """What lies where: a bit for every near size and for no other, far levels below the window."""
    near = row[at.NEAR + which * at.NEAR_TICKS :][: at.NEAR_TICKS]
    words = row[at.NEAR_BITS + which * at.NEAR_WORDS :][: at.NEAR_WORDS]
    bits = np.unpackbits(words.copy().view(np.uint8), bitorder="little").astype(bool)
    assert np.array_equal(bits, near != 0)
    assert row[at.BID_COUNT + which] == row[at.FAR_COUNT + which] + bits.sum()
    found, _ = far.far_levels_of(row, which)
    assert (found >> 6 <= row[at.NEAR_TOP + which] - at.NEAR_WORDS).all()
    check_blocks(row, which)


def blocks_of(row: Int64, which: int) -> list[list[int]]:
    """Ranks of the far levels, block by block, the farthest first."""
    place = at.FAR + which * at.FAR_SIZE
    blocks = row[place + at.DIRECTORY : place + at.FAR_SIZE].reshape(at.BLOCKS_MAX, 2, at.BLOCK)
    entries = row[place:][: row[at.FAR_BLOCKS + which]]
    return [blocks[n, 0, : blocks[n, 1, -1]].tolist() for n in (entries & ((1 << at.NUMBER_BITS) - 1)).tolist()]


def check_blocks(row: Int64, which: int) -> None:
    """No block is lost or used twice; none is empty; each holds what lies between its bound and the next one's."""
    place = at.FAR + which * at.FAR_SIZE
    n = int(row[at.FAR_BLOCKS + which])
    entries = row[place:][:n]
    numbers, bounds = entries & ((1 << at.NUMBER_BITS) - 1), (entries >> at.NUMBER_BITS).tolist()
    used = row[at.FAR_USED + which * at.USED_WORDS :][: at.USED_WORDS].copy()
    assert np.flatnonzero(np.unpackbits(used.view(np.uint8), bitorder="little")).tolist() == sorted(numbers.tolist())
    assert n <= at.BLOCKS_MAX
    assert (np.diff(bounds) > 0).all()
    assert (row[place + n : place + -(-n // at.GROUP) * at.GROUP] == NOTHING).all()
    blocks = row[place + at.DIRECTORY : place + at.FAR_SIZE].reshape(at.BLOCKS_MAX, 2, at.BLOCK)[numbers]
    counts = blocks[:, 1, -1]
    is_level = np.arange(at.BLOCK) < counts[:, None]
    assert counts.sum() == row[at.FAR_COUNT + which]
    assert ((counts > 0) & (counts < at.BLOCK)).all()
    assert np.array_equal(blocks[:, 0] < NOTHING, is_level)
    assert (blocks[:, 1][is_level] > 0).all()
    assert (counts[1:-2] + counts[2:-1] > at.SMALL).all()
    lower, upper = np.array(bounds), np.array([*bounds, NOTHING])[1:]
    assert (blocks[:, 0].min(axis=1, initial=NOTHING) >= lower).all()
    assert (np.where(is_level, blocks[:, 0], -NOTHING).max(axis=1, initial=-NOTHING) < upper).all()
