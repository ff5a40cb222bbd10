"""The order book of one row, and the chain of sequences that proves it.

Input: the body of a Snapshot or a Delta inside `Columns.body`.
State: BOOK_STATE and two sides, each ranks ascending (best at the end) and sizes; updates near the best move little.
Output: whether a record was applied; order flow and level changes are added to the open bucket.
Units: prices in ticks, sizes in lots.
A sequence that falls while the venue's clock goes on is a new sequence: the venue was reset.
Source: Binance, "How to manage a local order book correctly" (futures: U, u, pu; spot: U, u). Cont, Kukanov, Stoikov,
"The price impact of order book events" (2014), for the order flow of the best level.
"""

from __future__ import annotations

import numpy as np

from schemas.columns import ABSENT, Int64
from schemas.limits import DEPTH_MAX, LEVELS_MAX
from tables import layout as at
from tables.compiled import inner
from tables.windows import count

_NO_ASK = 1 << 62


@inner
def fill_top(row: Int64, depth: int) -> None:
    """Lay the best levels of both sides out, best first."""
    for side, count_at, top in ((at.BIDS, at.BID_COUNT, at.TOP_BIDS), (at.ASKS, at.ASK_COUNT, at.TOP_ASKS)):
        for i in range(min(row[count_at], depth)):
            place = side + row[count_at] - 1 - i
            row[top + i] = row[place]
            row[top + DEPTH_MAX + i] = row[place + LEVELS_MAX]


@inner
def best(row: Int64, side: int, count_at: int) -> tuple[int, int]:
    """Rank and size of the best level; of an empty side the worst rank possible and 0."""
    if row[count_at] == 0:
        return -_NO_ASK, 0
    last = side + row[count_at] - 1
    return row[last], row[last + LEVELS_MAX]


@inner
def is_whole(row: Int64) -> bool:
    """Whether the book is known to be the venue's: neither in gap nor in doubt."""
    return bool(row[at.BOOK_STATE] != at.GAP and row[at.BOOK_DOUBT] == 0)


@inner
def doubt(row: Int64) -> None:
    """Nobody watched for a while. The book counts as in gap until a Snapshot, or a Delta that continues its chain."""
    row[at.BOOK_DOUBT] = 1
    row[at.BOOK_BIRTH] = 0


@inner
def empty(row: Int64) -> None:
    """No book: in gap until the next Snapshot."""
    row[at.BOOK_STATE] = at.GAP
    row[at.BID_COUNT] = 0
    row[at.ASK_COUNT] = 0


@inner
def mid2(row: Int64) -> int:
    """Best bid + best ask, 0 where the mid is unknown."""
    if not is_whole(row) or row[at.BID_COUNT] == 0 or row[at.ASK_COUNT] == 0:
        return 0
    bid: int = row[at.BIDS + row[at.BID_COUNT] - 1]
    ask_rank: int = row[at.ASKS + row[at.ASK_COUNT] - 1]
    return bid - ask_rank


@inner
def find(row: Int64, side: int, n: int, rank: int) -> int:
    """Position of the first level whose rank is not below `rank`: steps doubling from the best, then halving."""
    step = 1
    high = n
    while high - step >= 0 and row[side + high - step] >= rank:
        high -= step
        step *= 2
    low = max(high - step, -1) + 1
    while low < high:
        middle = (low + high) // 2
        if row[side + middle] >= rank:
            high = middle
        else:
            low = middle + 1
    return low


@inner
def put(row: Int64, side: int, count_at: int, rank: int, size: int) -> int:
    """Set one level; size 0 deletes. A full side drops its farthest level for a nearer one, and takes none farther.

    Returns 1 if the level named has changed on the side, 0 if it was so before or was not taken.
    """
    n = row[count_at]
    sizes = side + LEVELS_MAX
    i = find(row, side, n, rank)
    if i < n and row[side + i] == rank:
        if size > 0:
            changed = row[sizes + i] != size
            row[sizes + i] = size
            return 1 if changed else 0
        for j in range(i, n - 1):
            row[side + j] = row[side + j + 1]
        for j in range(i, n - 1):
            row[sizes + j] = row[sizes + j + 1]
        row[count_at] = n - 1
        return 1
    if size == 0:
        return 0
    if n == LEVELS_MAX:
        if i == 0:
            return 0
        i -= 1
        for j in range(i):
            row[side + j] = row[side + j + 1]
        for j in range(i):
            row[sizes + j] = row[sizes + j + 1]
    else:
        for j in range(n, i, -1):
            row[side + j] = row[side + j - 1]
        for j in range(n, i, -1):
            row[sizes + j] = row[sizes + j - 1]
        row[count_at] = n + 1
    row[side + i] = rank
    row[sizes + i] = size
    return 1


@inner
def put_side(row: Int64, side: int, count_at: int, body: Int64, start: int, is_whole: bool) -> tuple[int, int]:
    """Set the levels of one side of a record at body[start]. Returns where its levels end and the level changes."""
    n = body[start]
    end = start + 1 + 2 * n
    changes = 0
    sign = 1 if side == at.BIDS else -1
    # Best first is the venues' habit: the other way round each level of a Snapshot is appended, nothing moves. In a
    # Delta the order stands, so that of one price named twice the last counts.
    backwards = is_whole and n > 1 and sign * body[start + 1] > sign * body[end - 2]
    for i in range(n):
        level = end - 2 - 2 * i if backwards else start + 1 + 2 * i
        changes += put(row, side, count_at, sign * body[level], body[level + 1])
    return end, changes


@inner
def is_late(row: Int64, ts_event: int) -> bool:
    """Whether a Snapshot of a lower sequence may have come late, rather than begun a new sequence of the venue's."""
    if ts_event != 0 and row[at.BOOK_VENUE_TS] != 0:
        return bool(ts_event <= row[at.BOOK_VENUE_TS])
    return bool(row[at.LAST_TS] - row[at.BOOK_TS] <= at.SEQUENCE_RESET_NS)


@inner
def apply_snapshot(row: Int64, body: Int64, start: int, ts_event: int) -> bool:
    """Replace the book, unless it is whole and newer than the Snapshot."""
    sequence = body[start]
    if is_whole(row) and sequence < row[at.SEQUENCE] and is_late(row, ts_event):
        return False
    row[at.BID_COUNT] = 0
    row[at.ASK_COUNT] = 0
    end, _ = put_side(row, at.BIDS, at.BID_COUNT, body, start + 1, True)
    put_side(row, at.ASKS, at.ASK_COUNT, body, end, True)
    row[at.SEQUENCE] = sequence
    row[at.BOOK_STATE] = at.SNAPSHOT_ONLY
    row[at.BOOK_DOUBT] = 0
    row[at.BOOK_EPOCH] += 1
    row[at.BOOK_BIRTH] = 0
    row[at.BOOK_TS] = row[at.LAST_TS]
    row[at.BOOK_VENUE_TS] = ts_event
    return True


@inner
def continues(row: Int64, first: int, last: int, previous: int, ts_event: int) -> int:
    """1: the Delta is the next of the chain, 0: it is older than the book, -1: one lacks or the sequence is new."""
    sequence = row[at.SEQUENCE]
    chained = previous != ABSENT
    # Where the venue gives no time, no Delta can be told from a repeat; the next Snapshot shows the new sequence.
    if last < sequence and row[at.BOOK_VENUE_TS] != 0 and ts_event - row[at.BOOK_VENUE_TS] > at.SEQUENCE_RESET_NS:
        return -1
    if row[at.BOOK_STATE] == at.SNAPSHOT_ONLY:
        if last < sequence or (last == sequence and not chained):
            return 0
        # `previous` at the Snapshot's own sequence is the same proof: nothing lies between the two.
        joins = first <= sequence or previous == sequence if chained else first <= sequence + 1
        return 1 if joins else -1
    if last <= sequence:
        return 0
    follows = previous == sequence if chained else first == sequence + 1
    return 1 if follows else -1


@inner
def apply_delta(row: Int64, body: Int64, start: int, ts_event: int) -> bool:
    """Apply a Delta that continues the chain; where one is missing the book is in gap until the next Snapshot."""
    if row[at.BOOK_STATE] == at.GAP:
        return False
    step = continues(row, body[start], body[start + 1], body[start + 2], ts_event)
    if step < 0:
        empty(row)
    if step <= 0:
        return False
    bid_before, bid_size_before = best(row, at.BIDS, at.BID_COUNT)
    ask_before, ask_size_before = best(row, at.ASKS, at.ASK_COUNT)
    end, bid_changes = put_side(row, at.BIDS, at.BID_COUNT, body, start + 3, False)
    _, ask_changes = put_side(row, at.ASKS, at.ASK_COUNT, body, end, False)
    bid, bid_size = best(row, at.BIDS, at.BID_COUNT)
    ask, ask_size = best(row, at.ASKS, at.ASK_COUNT)
    flow = 0
    # Ranks: a higher one is a better price on either side, so both sides read alike.
    if bid >= bid_before:
        flow += bid_size
    if bid <= bid_before:
        flow -= bid_size_before
    if ask >= ask_before:
        flow -= ask_size
    if ask <= ask_before:
        flow += ask_size_before
    count(row, at.DELTAS, 1)
    count(row, at.CHURN, bid_changes + ask_changes)
    count(row, at.ORDER_FLOW, flow)
    row[at.SEQUENCE] = body[start + 1]
    row[at.BOOK_STATE] = at.SYNCED
    row[at.BOOK_DOUBT] = 0
    row[at.BOOK_TS] = row[at.LAST_TS]
    row[at.BOOK_VENUE_TS] = ts_event
    return True


def levels(row: Int64, side: int, count_at: int) -> list[tuple[int, int]]:
    """(price in ticks, size in lots) of one side, best first."""
    n = int(row[count_at])
    ranks = np.abs(row[side : side + n])[::-1]
    sizes = row[side + LEVELS_MAX : side + LEVELS_MAX + n][::-1]
    return list(zip(ranks.tolist(), sizes.tolist(), strict=True))
