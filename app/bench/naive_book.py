"""An order book as two sorted dictionaries, and the chain of sequences that proves it.

State: sizes by price of both sides, the last sequence and when it came.
Output: of an applied Delta its order flow and the levels it changed.
Units: ticks and lots; times in ns UTC.
Source: Cont, Kukanov, Stoikov (2014) for the order flow of the best level; Xu, Gould, Howison (2018) of the best five.
"""

from __future__ import annotations

from typing import Any

from sortedcontainers import SortedDict

from schemas.limits import LEVELS_MAX
from schemas.units import NS_PER_S

_NO_LEVEL = (-(1 << 62), 0)


class NaiveBook:
    """`sequence` None: in gap. `is_fresh`: a Snapshot that no Delta has followed.

    `is_doubtful`: nobody watched for a while, and neither a Snapshot nor the chain has spoken since.
    """

    def __init__(self, epoch: int = 0) -> None:
        self.bids: SortedDict = SortedDict()
        self.asks: SortedDict = SortedDict()
        self.sequence: int | None = None
        self.is_fresh = self.is_doubtful = False
        self.epoch = epoch
        self.venue_ts = self.ts = 0

    @property
    def is_whole(self) -> bool:
        """Whether the book is known to be the venue's."""
        return self.sequence is not None and not self.is_doubtful

    def mid2(self) -> int | None:
        """Best bid + best ask."""
        if not self.is_whole or not self.bids or not self.asks:
            return None
        return int(self.bids.peekitem(-1)[0] + self.asks.peekitem(0)[0])

    def best_levels(self, count: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(price, size) of the best levels of both sides, best first."""
        return self.bids.items()[: -count - 1 : -1], self.asks.items()[:count]

    def snapshot(self, body: dict[str, Any], venue_ts: int = 0, ts: int = 0) -> bool:
        """Replace the book, unless it is whole and the Snapshot is older."""
        if self.is_whole and self.sequence is not None and body["sequence_last"] < self.sequence:
            is_late = venue_ts <= self.venue_ts if venue_ts and self.venue_ts else ts - self.ts <= NS_PER_S
            if is_late:
                return False
        bids, asks = ([(each["price"], each["size"]) for each in body[side]] for side in ("bids", "asks"))
        self.bids = SortedDict(sorted(bids)[-LEVELS_MAX:])
        self.asks = SortedDict(sorted(asks)[:LEVELS_MAX])
        self.sequence, self.is_fresh, self.epoch = body["sequence_last"], True, self.epoch + 1
        self.is_doubtful, self.venue_ts, self.ts = False, venue_ts, ts
        return True

    def delta(self, body: dict[str, Any], venue_ts: int = 0, ts: int = 0) -> tuple[int, int, int] | None:
        """Order flow of the best level, of the best five, and levels changed; None if the Delta was not applied."""
        known, last = self.sequence, body["sequence_last"]
        if known is None:
            return None
        if last < known and self.venue_ts and venue_ts > self.venue_ts + NS_PER_S:
            self._break()
            return None
        chained = body["sequence_previous"] is not None
        if last < known or (last == known and not (chained and self.is_fresh)):
            return None
        if not self._follows(known, body["sequence_first"], body["sequence_previous"]):
            self._break()
            return None
        before = self.best_levels(5)
        changes = 0
        for levels, side, farthest in ((body["bids"], self.bids, 0), (body["asks"], self.asks, -1)):
            for level in levels:
                changes += _put(side, level["price"], level["size"], farthest)
        after = self.best_levels(5)
        self.sequence, self.is_fresh, self.is_doubtful = last, False, False
        self.venue_ts, self.ts = venue_ts, ts
        flows = [flow(before, after, m) for m in range(5)]
        return flows[0], sum(flows), changes

    def _break(self) -> None:
        self.sequence = None
        self.bids.clear()
        self.asks.clear()

    def _follows(self, known: int, first: int, previous: int | None) -> bool:
        if previous is None:
            return bool(first <= known + 1 if self.is_fresh else first == known + 1)
        return bool(previous == known or (self.is_fresh and first <= known))


def _put(side: SortedDict, price: int, size: int, farthest: int) -> int:
    """Set one level of a side; 1 if it changed."""
    before = side.get(price, 0)
    if size:
        side[price] = size
        if len(side) > LEVELS_MAX:
            side.popitem(farthest)
    else:
        side.pop(price, None)
    return int(side.get(price, 0) != before)


Sides = tuple[list[tuple[int, int]], list[tuple[int, int]]]


def flow(before: Sides, after: Sides, m: int) -> int:
    """Order flow of the m-th best level of both sides, what adds to bids positive."""
    total = 0
    for side, sign in ((0, 1), (1, -1)):
        price_before, size_before = before[side][m] if m < len(before[side]) else _NO_LEVEL
        price, size = after[side][m] if m < len(after[side]) else _NO_LEVEL
        # A missing level has the worst price there is on either side.
        rank_before = sign * price_before if size_before else _NO_LEVEL[0]
        rank = sign * price if size else _NO_LEVEL[0]
        total += sign * ((size if rank >= rank_before else 0) - (size_before if rank <= rank_before else 0))
    return total
