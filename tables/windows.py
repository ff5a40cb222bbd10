"""Rolling windows of one row: a ring of 100 ms buckets with running integer sums.

Input: trades, and the Ticks that close buckets. An event belongs to the bucket that the last Tick opened.
State: open bucket, ring of the last 60 s, one sum per window and quantity; a Tick costs the same at any rate of events.
A Tick more than the ring ahead of the last is a hole in the clock: nobody watched, the windows begin anew.
Output: sums over [T - W, T) at Tick T, exact because Ticks sit on the bucket grid.
Units: lots, ticks; values of trades see `add_trade`.
"""

from __future__ import annotations

from schemas.columns import Int64
from schemas.units import BASE_TICK_NS
from tables import layout as at
from tables.compiled import inner

_LOW_MASK = (1 << at.VALUE_SHIFT) - 1
_BUCKETS = at.WINDOW_BUCKETS


@inner
def add_trade(row: Int64, price: int, size: int, is_sell: int) -> None:
    """Count a trade in the open bucket.

    Its value is price x size, or for an inverse contract size / price in units of 2**-60, rounded down. One rounding
    loses less than 2**-60, so a sum of such values is at most price x 2**-60 of itself too small: 1e-12 at a million
    ticks. It fits while the window's volume / lowest price stays below 2**23.
    """
    side = 1 if is_sell else 0
    row[at.OPEN + at.BUY_COUNT + side] += 1
    row[at.OPEN + at.BUY_VOLUME + side] += size
    if row[at.CONTRACT] == at.INVERSE:
        # Long division, 20 bits at a time: price <= 2**40, so no remainder shifted by 20 bits leaves int64.
        rest = size % price << at.VALUE_SHIFT
        high = (size // price << at.VALUE_SHIFT) + rest // price
        rest = rest % price << at.VALUE_SHIFT
        high = (high << at.VALUE_SHIFT) + rest // price
        rest = rest % price << at.VALUE_SHIFT
        low = rest // price
    else:
        high = price * size >> at.VALUE_SHIFT
        low = price * size & _LOW_MASK
    row[at.OPEN + at.VALUE_HIGH] += high
    row[at.OPEN + at.VALUE_LOW] += low
    row[at.OPEN_HIGH] = max(row[at.OPEN_HIGH], price)
    if row[at.OPEN_LOW] == 0 or price < row[at.OPEN_LOW]:
        row[at.OPEN_LOW] = price


@inner
def clear_open(row: Int64, mid2: int) -> None:
    """An empty bucket, opened at this mid."""
    row[at.OPEN : at.OPEN_MID] = 0
    row[at.OPEN_MID] = mid2


@inner
def close_bucket(row: Int64, slot: int) -> None:
    """Move the open bucket into the ring; each window gains it and loses the bucket that is now too old."""
    for w in range(at.WINDOW_COUNT):
        old = at.RING + (slot - _BUCKETS[w]) % at.BUCKETS * at.SUM_COUNT
        sums = at.SUMS + w * at.SUM_COUNT
        for i in range(at.SUM_COUNT):
            row[sums + i] += row[at.OPEN + i] - row[old + i]
    new = at.RING + slot * at.SUM_COUNT
    for i in range(at.SUM_COUNT):
        row[new + i] = row[at.OPEN + i]
    row[at.RING_HIGH + slot] = row[at.OPEN_HIGH]
    row[at.RING_LOW + slot] = row[at.OPEN_LOW]
    row[at.RING_MID + slot] = row[at.OPEN_MID]


@inner
def clear(row: Int64) -> None:
    """No window at all, as before birth: the next Tick begins them."""
    row[at.OPEN : at.RING_END] = 0
    row[at.BIRTH] = 0


@inner
def is_hole(row: Int64, time: int) -> bool:
    """Whether Tick `time` is further ahead of the last than the ring reaches."""
    return bool(row[at.TICK] != 0 and time // BASE_TICK_NS - row[at.TICK] // BASE_TICK_NS > at.BUCKETS)


@inner
def advance(row: Int64, time: int, mid2: int) -> None:
    """Close every bucket before Tick `time` and open the next. Ticks left out are empty buckets at the present mid.

    Behind a hole the windows begin anew: what came before the Tick is forgotten, as before the first.
    """
    if is_hole(row, time):
        clear(row)
    if row[at.BIRTH] == 0:
        # What came before the first Tick has no bucket of its own, and no window that counts reaches back to it.
        row[at.BIRTH] = time
    else:
        step = row[at.TICK] // BASE_TICK_NS
        for i in range(time // BASE_TICK_NS - step):
            close_bucket(row, (step + i) % at.BUCKETS)
            clear_open(row, mid2)
    clear_open(row, mid2)
    row[at.TICK] = time


@inner
def mid2_before(row: Int64, window: int) -> int:
    """Best bid + best ask at the Tick one window ago, 0 where unknown."""
    mid: int = row[at.RING_MID + (row[at.TICK] // BASE_TICK_NS - _BUCKETS[window]) % at.BUCKETS]
    return mid


@inner
def extremes(row: Int64, window: int, high: int, low: int) -> tuple[int, int]:
    """Highest and lowest trade of a window, given those of the next shorter one (0, 0 for the first). 0: no trade."""
    now = row[at.TICK] // BASE_TICK_NS
    shorter = _BUCKETS[window - 1] if window > 0 else 0
    for age in range(shorter + 1, _BUCKETS[window] + 1):
        slot = (now - age) % at.BUCKETS
        high = max(high, row[at.RING_HIGH + slot])
        lowest = row[at.RING_LOW + slot]
        if lowest != 0 and (low == 0 or lowest < low):
            low = lowest
    return high, low
