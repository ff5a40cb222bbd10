"""Rolling windows of one instrument: running totals, and what they were at each Tick of the last minute.

Input: trades, changes of the book and of open interest; the Ticks that close buckets of 100 ms.
State: totals; of each Tick the totals at it, the mid, and the extremes of the bucket behind it.
Output: what [T - W, T) holds at Tick T, for any W on the grid up to 60 s, as the difference of two totals.
Units: lots, ticks; windows are counts of 100 ms.
"""

from __future__ import annotations

from math import floor
from operator import sub
from typing import NamedTuple

from agents.oracle.formulas import log_ratio
from schemas.limits import PRICE_TICKS_MAX, SIZE_LOTS_MAX, WINDOW_MAX_NS
from schemas.units import BASE_TICK_NS

STEPS_MAX = WINDOW_MAX_NS // BASE_TICK_NS
TRADES_MAX = (1 << 62) // SIZE_LOTS_MAX
DELTAS_MAX = (1 << 62) // (20 * SIZE_LOTS_MAX)
"""The most a window may hold for its sums to fit 64 bits, however large each of them is."""

LIMB_BITS = 34
LIMB = (1 << LIMB_BITS) - 1
VARIANCE_LIMB = float(1 << 40)
VARIANCE_UNIT = float(1 << 80)
NO_LOW = PRICE_TICKS_MAX + 1


class Sums(NamedTuple):
    """What is summed: trades by aggressor, and all that windows of the book need.

    The value of trades, price x size, has three limbs of 34 bits; for inverse contracts it is size / price in units of
    2**-60, rounded down for each trade. Squared returns are in units of 2**-80, in two limbs of 40 bits.
    """

    buy_count: int
    sell_count: int
    buy_volume: int
    sell_volume: int
    value_0: int
    value_1: int
    value_2: int
    deltas: int
    churn: int
    order_flow: int
    multi_flow: int
    returns: int
    variance_high: int
    variance_low: int
    interest: int


NOTHING = [0] * len(Sums._fields)
(BUY_COUNT, SELL_COUNT, BUY_VOLUME, SELL_VOLUME, VALUE_0, VALUE_1, VALUE_2, DELTAS, CHURN, ORDER_FLOW, MULTI_FLOW,
 RETURNS, VARIANCE_HIGH, VARIANCE_LOW, INTEREST) = range(len(NOTHING))  # fmt: skip


class Windows:
    """Totals and their history; the last entry of each list is of the last Tick and the bucket it opened."""

    __slots__ = ("birth", "highs", "history", "lows", "mids", "totals")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """No window at all: the next Tick begins them."""
        self.birth = 0
        """Time of the first Tick; windows are covered from here on."""
        self.totals = NOTHING.copy()
        self.history: list[list[int]] = []
        self.mids: list[int] = []
        self.highs = [0]
        self.lows = [NO_LOW]

    def trade(self, price: int, size: int, is_sell: int, *, is_inverse: bool) -> None:
        """Count a trade in the open bucket."""
        totals = self.totals
        totals[BUY_COUNT + is_sell] += 1
        totals[BUY_VOLUME + is_sell] += size
        value = (size << 60) // price if is_inverse else price * size
        totals[VALUE_0] += value & LIMB
        totals[VALUE_1] += value >> LIMB_BITS & LIMB
        totals[VALUE_2] += value >> 2 * LIMB_BITS
        high, low = self.highs[-1], self.lows[-1]
        self.highs[-1] = price if price > high else high
        self.lows[-1] = price if price < low else low

    def advance(self, time: int, steps: int, mid2: int) -> None:
        """Tick `time`, so many steps after the last. Ticks left out are empty buckets at the present mid."""
        if not self.birth:
            # What came before the first Tick has no bucket of its own, and no window that counts reaches back to it.
            self.clear()
            self.birth = time
            steps = 1
        elif mid2 and self.mids[-1]:
            self._step(mid2, self.mids[-1])
        for step in range(steps):
            if step and mid2:
                # A leap over several Ticks is one return and then none.
                self.totals[RETURNS] += 1
            self.history.append(self.totals.copy())
            self.mids.append(mid2)
            self.highs.append(0)
            self.lows.append(NO_LOW)
        if len(self.history) > 2 * STEPS_MAX:
            for each in (self.history, self.mids, self.highs, self.lows):
                del each[: -STEPS_MAX - 1]

    def _step(self, now: int, before: int) -> None:
        """Count the return of one step between two known mids."""
        totals = self.totals
        totals[RETURNS] += 1
        if now != before:
            logarithm = log_ratio(float(now), float(before))
            square = logarithm * logarithm * VARIANCE_UNIT
            high = floor(square / VARIANCE_LIMB)
            totals[VARIANCE_HIGH] += high
            totals[VARIANCE_LOW] += floor(square - float(high) * VARIANCE_LIMB)

    def over(self, window: int) -> Sums:
        """What a window that is covered holds at the last Tick."""
        return Sums._make(map(sub, self.totals, self.history[-1 - window]))

    def high(self, window: int) -> int:
        """Highest trade of a window, 0 without one."""
        return max(self.highs[-1 - window : -1])

    def low(self, window: int) -> int:
        """Lowest trade of a window, NO_LOW without one."""
        return min(self.lows[-1 - window : -1])
