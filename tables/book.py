"""The order book of one row, and the chain of sequences that proves it.

Input: the body of a Snapshot or a Delta inside `Columns.body`.
State: BOOK_STATE and two sides (tables/side.py).
Output: whether a record was applied; order flow and level changes are added to the running totals.
Units: prices in ticks, sizes in lots.
A sequence that falls while the venue's clock goes on is a new sequence: the venue was reset.
Source: Binance, "How to manage a local order book correctly" (futures: U, u, pu; spot: U, u). Cont, Kukanov, Stoikov,
"The price impact of order book events" (2014), for the order flow of the best level. Xu, Gould, Howison, "Multi-level
order-flow imbalance in a limit order book" (2018), for that of each of the five best.
"""

from __future__ import annotations

import numpy as np

from schemas.columns import ABSENT, Int64
from tables import layout as at
from tables.compiled import inner, within
from tables.side import NO_RANK, clear_side, fill_side, levels_of, move, put, renew_top
from tables.windows import count


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
    clear_side(row, at.BID)
    clear_side(row, at.ASK)


@inner
def mid2(row: Int64) -> int:
    """Best bid + best ask, 0 where the mid is unknown."""
    if not is_whole(row) or row[at.BID_COUNT] == 0 or row[at.ASK_COUNT] == 0:
        return 0
    mid: int = row[at.TOP_BIDS] - row[at.TOP_ASKS]
    return mid


@inner
def fill_top(row: Int64, depth: int) -> None:
    """Have the best `depth` levels of both sides in TOP, depth <= DEPTH_MAX, as many as there are."""
    if row[at.TOP_DEPTH] < depth:
        fill_side(row, at.BID, depth)
        fill_side(row, at.ASK, depth)
        row[at.TOP_DEPTH] = depth


@within
def put_side(row: Int64, side: int, body: Int64, start: int) -> tuple[int, int, int]:
    """Set the levels that a Delta names of one side, at body[start]. Of one price named twice the last counts.

    Returns where its levels end, how many have changed, and the highest rank it named.
    """
    end = start + 1 + 2 * body[start]
    sign = 1 - 2 * side
    changes = 0
    highest = NO_RANK
    for i in range(start + 1, end, 2):
        rank = sign * body[i]
        changes += put(row, side, rank, body[i + 1])
        highest = max(highest, rank)
    return end, changes, highest


@inner
def lay_side(row: Int64, side: int, body: Int64, start: int) -> int:
    """Replace a side by that of a Snapshot at body[start]. Returns where its levels end."""
    n: int = body[start]
    end = start + 1 + 2 * n
    sign = 1 - 2 * side
    clear_side(row, side)
    if n == 0:
        return end
    highest = sign * body[start + 1]
    for i in range(start + 3, end, 2):
        highest = max(highest, sign * body[i])
    move(row, side, highest >> 6)
    # Best first is the venues' habit: the other way round each far level is appended, nothing moves.
    backwards = sign * body[start + 1] > sign * body[end - 2]
    for i in range(n):
        level = end - 2 - 2 * i if backwards else start + 1 + 2 * i
        put(row, side, sign * body[level], body[level + 1])
    renew_top(row, side, highest)
    return end


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
    end = lay_side(row, at.BID, body, start + 1)
    lay_side(row, at.ASK, body, end)
    row[at.TOP_DEPTH] = 0
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
    end, bid_changes, bid = put_side(row, at.BID, body, start + 3)
    _, ask_changes, ask = put_side(row, at.ASK, body, end)
    # A side whose best levels nothing has touched has no flow.
    if bid >= row[at.TOP_BIDS + at.FLOW_LEVELS - 1]:
        best, levels = renew_top(row, at.BID, bid)
        count(row, at.ORDER_FLOW, best)
        count(row, at.MULTI_FLOW, levels)
    if ask >= row[at.TOP_ASKS + at.FLOW_LEVELS - 1]:
        best, levels = renew_top(row, at.ASK, ask)
        count(row, at.ORDER_FLOW, -best)
        count(row, at.MULTI_FLOW, -levels)
    row[at.TOP_DEPTH] = 0
    count(row, at.CHURN, bid_changes + ask_changes)
    count(row, at.DELTAS, 1)
    row[at.SEQUENCE] = body[start + 1]
    row[at.BOOK_STATE] = at.SYNCED
    row[at.BOOK_DOUBT] = 0
    row[at.BOOK_TS] = row[at.LAST_TS]
    row[at.BOOK_VENUE_TS] = ts_event
    return True


def levels(row: Int64, side: int) -> list[tuple[int, int]]:
    """(price in ticks, size in lots) of one side, best first."""
    ranks, sizes = levels_of(row, side)
    return list(zip(np.abs(ranks[::-1]).tolist(), sizes[::-1].tolist(), strict=True))
