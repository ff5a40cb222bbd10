"""The order book of one generated symbol: a random walk with a queue at every price near the best.

Input: a seeded generator.
State: sizes by price, both sides; the best bid stays below the best ask and neither side runs empty.
Output: changed levels, trades that hit the best, the whole book.
Units: ticks and lots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

LEVELS = 200
LEVELS_MIN = 50
CHANGES = 6
_DRAWN = 4_096


class SyntheticBook:
    """Both sides as {price: size}."""

    def __init__(self, rng: np.random.Generator, mid: int, size: float) -> None:
        self._sizes = _drawn(lambda count: 1 + rng.lognormal(np.log(size), 1.0, count).astype(np.int64))
        self._depths = _drawn(lambda count: rng.exponential(8.0, count).astype(np.int64))
        self._chances = _drawn(lambda count: rng.integers(0, 1_000, count))
        self._bids = {mid - 1 - depth: next(self._sizes) for depth in range(LEVELS)}
        self._asks = {mid + depth: next(self._sizes) for depth in range(LEVELS)}
        self._bid, self._ask = mid - 1, mid
        self._traded: set[int] = set()

    def best(self) -> tuple[int, int, int, int]:
        """Bid price, bid size, ask price, ask size."""
        return self._bid, self._bids[self._bid], self._ask, self._asks[self._ask]

    def levels(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The whole book, best first."""
        return sorted(self._bids.items(), reverse=True), sorted(self._asks.items())

    def trade(self) -> tuple[int, int, bool]:
        """Price, size and whether the buyer was the maker. The next step shows what it took from the best."""
        is_sell = next(self._chances) < 500
        side, price = (self._bids, self._bid) if is_sell else (self._asks, self._ask)
        size = min(side[price], max(1, next(self._sizes) // 20))
        if side[price] > size:
            side[price] -= size
        self._traded.add(price)
        return price, size, is_sell

    def step(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Change a few levels of each side; the changed ones, in order of price."""
        bids = {price: self._bids[price] for price in self._traded if price in self._bids}
        asks = {price: self._asks[price] for price in self._traded if price in self._asks}
        self._traded.clear()
        chance = next(self._chances)
        if chance < 60:
            self._move_up(bids, asks)
        elif chance < 120:
            self._move_down(bids, asks)
        for _ in range(1 + next(self._chances) % CHANGES):
            depth = next(self._depths)
            if next(self._chances) < 500:
                self._change(self._bids, bids, self._bid - depth, is_best=depth == 0)
            else:
                self._change(self._asks, asks, self._ask + depth, is_best=depth == 0)
        return sorted(bids.items()), sorted(asks.items())

    def _change(self, side: dict[int, int], changed: dict[int, int], price: int, *, is_best: bool) -> None:
        if not is_best and price in side and len(side) > LEVELS_MIN and next(self._chances) < 150:
            del side[price]
            changed[price] = 0
        else:
            side[price] = changed[price] = next(self._sizes)

    def _move_up(self, bids: dict[int, int], asks: dict[int, int]) -> None:
        """The best ask is gone; a bid takes its place unless the spread was wide."""
        if self._ask - self._bid <= 2:
            del self._asks[self._ask]
            asks[self._ask] = 0
            self._ask = min(self._asks)
            self._fill(self._asks, asks, max(self._asks) + 1)
        self._bid += 1
        self._bids[self._bid] = bids[self._bid] = next(self._sizes)

    def _move_down(self, bids: dict[int, int], asks: dict[int, int]) -> None:
        if self._ask - self._bid <= 2:
            del self._bids[self._bid]
            bids[self._bid] = 0
            self._bid = max(self._bids)
            self._fill(self._bids, bids, min(self._bids) - 1)
        self._ask -= 1
        self._asks[self._ask] = asks[self._ask] = next(self._sizes)

    def _fill(self, side: dict[int, int], changed: dict[int, int], price: int) -> None:
        if len(side) < LEVELS:
            side[price] = changed[price] = next(self._sizes)


def _drawn(draw: Callable[[int], NDArray[np.int64]]) -> Iterator[int]:
    """Random numbers one by one, drawn many at a time."""
    while True:
        yield from draw(_DRAWN).tolist()
