"""Rolling windows of one row: running totals, and a ring of what they were at each of the last 601 Ticks.

Input: trades, and the Ticks that close buckets. An event belongs to the bucket that the last Tick opened.
State: totals, ring, extremes and mids of the last 60 s. A Tick costs the same for any windows and any rate of events.
A Tick more than the ring ahead of the last is a hole in the clock: nobody watched, the windows begin anew.
Output: sums over [T - W, T) at Tick T as the difference of two totals, for any W on the grid up to 60 s.
Units: lots, ticks; values of trades see `add_trade`, squared returns `add_return`. Windows are counts of 100 ms.
"""

from __future__ import annotations

import math

from schemas.columns import Int64
from schemas.limits import PRICE_TICKS_MAX
from schemas.units import BASE_TICK_NS
from tables import layout as at
from tables.compiled import inner, within
from tables.logarithm import log_ratio

_LIMB = (1 << at.VALUE_BITS) - 1
_VARIANCE_UNIT = float(1 << 2 * at.VARIANCE_BITS)
_VARIANCE_LIMB = float(1 << at.VARIANCE_BITS)
_LOWEST = PRICE_TICKS_MAX + 1


@inner
def count(row: Int64, quantity: int, amount: int) -> None:
    """Add to a running total."""
    row[at.TOTALS + quantity] += amount


@inner
def add_trade(row: Int64, price: int, size: int, is_sell: int) -> None:
    """Count a trade in the open bucket.

    Its value is price x size, or for an inverse contract size / price in units of 2**-60, rounded down. One rounding
    loses less than 2**-60, so a sum of such values is at most price x 2**-60 of itself too small.
    """
    side = 1 if is_sell else 0
    count(row, at.BUY_COUNT + side, 1)
    count(row, at.BUY_VOLUME + side, size)
    if row[at.CONTRACT] == at.INVERSE:
        # Long division, 20 bits at a time: price <= 2**40, so no remainder shifted by 20 bits leaves int64.
        whole = size // price
        rest = size % price << 20
        high = rest // price
        rest = rest % price << 20
        middle = rest // price
        rest = rest % price << 20
        fraction = (high << 40) + (middle << 20) + rest // price
        count(row, at.VALUE_2, whole >> 2 * at.VALUE_BITS - 60)
        middle = ((whole & 255) << 60 - at.VALUE_BITS) + (fraction >> at.VALUE_BITS)
        count(row, at.VALUE_1, middle)
        count(row, at.VALUE_0, fraction & _LIMB)
    else:
        count(row, at.VALUE_1, price * size >> at.VALUE_BITS)
        count(row, at.VALUE_0, price * size & _LIMB)
    high_at = at.RING_HIGH + row[at.SLOT]
    low_at = at.RING_LOW + row[at.SLOT]
    row[high_at] = max(row[high_at], price)
    row[low_at] = max(row[low_at], _LOWEST - price)


@within
def squared_return(now: int, before: int) -> tuple[int, int]:
    """Both limbs of the squared log return of one step between two known mids, in units of 2**-80, rounded down.

    A mid is below 2**42, so the square is below 2**10 and 600 of them fit their limbs.
    """
    if now == before:
        return 0, 0
    step = log_ratio(float(now), float(before))
    square = step * step * _VARIANCE_UNIT
    high = math.floor(square / _VARIANCE_LIMB)
    return high, math.floor(square - float(high) * _VARIANCE_LIMB)


@inner
def add_return(row: Int64, now: int, before: int) -> None:
    """Add one squared return."""
    high, low = squared_return(now, before)
    count(row, at.VARIANCE_HIGH, high)
    count(row, at.VARIANCE_LOW, low)


@inner
def clear(row: Int64) -> None:
    """No window at all, as before birth: the next Tick begins them."""
    for place in range(at.TOTALS, at.RING_END):
        row[place] = 0
    row[at.BIRTH] = 0
    row[at.INTEREST_BIRTH] = 0


@inner
def is_hole(row: Int64, time: int) -> bool:
    """Whether Tick `time` is further ahead of the last than the ring reaches."""
    return bool(row[at.TICK] != 0 and time // BASE_TICK_NS - row[at.TICK] // BASE_TICK_NS > at.BUCKETS)


@inner
def open_bucket(row: Int64, slot: int, mid2: int) -> None:
    """The totals of a Tick, and an empty bucket behind it."""
    row[at.SLOT] = slot
    to = at.RING + slot * at.SUM_COUNT
    for i in range(at.SUM_COUNT):
        row[to + i] = row[at.TOTALS + i]
    row[at.RING_HIGH + slot] = 0
    row[at.RING_LOW + slot] = 0
    row[at.RING_MID + slot] = mid2


@inner
def advance(row: Int64, time: int, mid2: int) -> None:
    """Close every bucket before Tick `time` and open the next. Ticks left out are empty buckets at the present mid.

    Behind a hole the windows begin anew: what came before the Tick is forgotten, as before the first.
    """
    if is_hole(row, time):
        clear(row)
    step = time // BASE_TICK_NS
    if row[at.BIRTH] == 0:
        # What came before the first Tick has no bucket of its own, and no window that counts reaches back to it.
        clear(row)
        row[at.BIRTH] = time
        open_bucket(row, step % at.RING_SLOTS, mid2)
    else:
        before = row[at.RING_MID + row[at.SLOT]]
        slot = row[at.SLOT]
        for _ in range(step - row[at.TICK] // BASE_TICK_NS):
            if before != 0 and mid2 != 0:
                add_return(row, mid2, before)
                count(row, at.RETURNS, 1)
            before = mid2
            slot = 0 if slot == at.BUCKETS else slot + 1
            open_bucket(row, slot, mid2)
    row[at.TICK] = time


@inner
def slot_before(row: Int64, window: int) -> int:
    """Place in the ring of the Tick one window ago."""
    slot: int = row[at.SLOT] - window
    return slot + at.RING_SLOTS if slot < 0 else slot


@inner
def total(row: Int64, quantity: int, window: int) -> int:
    """Sum over [T - W, T) at Tick T, before any event behind it."""
    now: int = row[at.TOTALS + quantity]
    before: int = row[at.RING + slot_before(row, window) * at.SUM_COUNT + quantity]
    return now - before


@inner
def is_covered(row: Int64, window: int) -> bool:
    """Whether the window begins at or after the first Tick."""
    return bool(row[at.TICK] - row[at.BIRTH] >= window * BASE_TICK_NS)


@inner
def mid2_before(row: Int64, window: int) -> int:
    """Best bid + best ask at the Tick one window ago, 0 where unknown."""
    mid: int = row[at.RING_MID + slot_before(row, window)]
    return mid


@inner
def maximum(row: Int64, ring: int, window: int) -> int:
    """Largest entry of RING_HIGH or RING_LOW over the buckets of a window, 0 without a trade."""
    end = row[at.SLOT]
    first = end - window
    most = 0
    for i in range(ring + max(first, 0), ring + end):
        most = max(most, row[i])
    if first < 0:
        for i in range(ring + first + at.RING_SLOTS, ring + at.RING_SLOTS):
            most = max(most, row[i])
    return most


@inner
def highest(row: Int64, window: int) -> int:
    """Highest trade of a window in ticks, 0 without one."""
    return maximum(row, at.RING_HIGH, window)


@inner
def lowest(row: Int64, window: int) -> int:
    """Lowest trade of a window in ticks, 0 without one."""
    most = maximum(row, at.RING_LOW, window)
    return _LOWEST - most if most > 0 else 0
