"""The order book of one instrument, and the chain of sequences that proves it.

Input: the words of a Snapshot or a Delta, as they lie in `Columns.body`.
State: each side's ranks ascending, so that the best is the last, and its sizes by rank. A rank is the price for bids
and minus the price for asks: a higher one is better on either side.
Output: of an applied Delta its order flow and the levels it changed.
Units: ticks and lots; times in ns UTC.
Source: Cont, Kukanov, Stoikov (2014) for the order flow of the best level; Xu, Gould, Howison (2018) of the best five.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import accumulate

from schemas.columns import ABSENT
from schemas.limits import LEVELS_MAX
from schemas.units import NS_PER_S

FLOW_LEVELS = 5
NO_RANK = -(1 << 62)
"""The rank of a level that is not there: worse than any."""
SEQUENCE_RESET_NS = NS_PER_S
"""How much later than the book a record of a lower sequence must be, to show that the venue began a new sequence."""


class Side:
    """One side of the book."""

    __slots__ = ("best_ranks", "best_sizes", "ranks", "sign", "sizes")

    def __init__(self, sign: int) -> None:
        """`sign`: 1 for bids, -1 for asks."""
        self.sign = sign
        self.replace([], [])

    def replace(self, prices: list[int], sizes: list[int]) -> None:
        """Take the levels of a Snapshot, the nearest of them if there are too many."""
        sign = self.sign
        self.sizes = {sign * price: size for price, size in zip(prices, sizes, strict=True)}
        self.ranks = sorted(self.sizes)
        for rank in self.ranks[:-LEVELS_MAX]:
            del self.sizes[rank]
        del self.ranks[:-LEVELS_MAX]
        self.best_ranks, self.best_sizes = self._best()

    def _best(self) -> tuple[list[int], list[int]]:
        """Ranks and sizes of the best five levels, best first."""
        ranks = self.ranks[: -FLOW_LEVELS - 1 : -1]
        sizes = list(map(self.sizes.__getitem__, ranks))
        if len(ranks) < FLOW_LEVELS:
            sizes += [0] * (FLOW_LEVELS - len(ranks))
            ranks += [NO_RANK] * (FLOW_LEVELS - len(ranks))
        return ranks, sizes

    def change(self, body: list[int], first: int, end: int) -> tuple[int, int, int]:
        """Set the levels body[first:end] names, size 0 deletes; of one price named twice the last counts.

        A full side drops its farthest level for a nearer one and takes none farther. Returns the levels that changed,
        the order flow of the best level, and that of the best five together.
        """
        sign, ranks, sizes = self.sign, self.ranks, self.sizes
        fifth = self.best_ranks[-1]
        changed = 0
        is_near = False
        for price, size in zip(body[first:end:2], body[first + 1 : end : 2], strict=True):
            rank = sign * price
            before = sizes.get(rank, 0)
            if size == before:
                continue
            if not size:
                del sizes[rank]
                del ranks[bisect_left(ranks, rank)]
            else:
                if not before:
                    if len(ranks) == LEVELS_MAX:
                        if rank < ranks[0]:
                            continue
                        del sizes[ranks.pop(0)]
                    insort(ranks, rank)
                sizes[rank] = size
            changed += 1
            if rank >= fifth:
                is_near = True
        return (changed, *self._flow()) if is_near else (changed, 0, 0)

    def _flow(self) -> tuple[int, int]:
        """Per level: I[rank >= rank'] size - I[rank <= rank'] size', primes for before."""
        ranks_before, sizes_before = self.best_ranks, self.best_sizes
        ranks, sizes = self.best_ranks, self.best_sizes = self._best()
        if ranks == ranks_before:
            return sizes[0] - sizes_before[0], sum(sizes) - sum(sizes_before)
        flows = [
            size if rank > rank_before else -size_before if rank < rank_before else size - size_before
            for rank, size, rank_before, size_before in zip(ranks, sizes, ranks_before, sizes_before, strict=True)
        ]
        return flows[0], sum(flows)

    def prices(self, depth: int) -> list[int]:
        """Prices of the best levels, best first."""
        sign = self.sign
        return [sign * rank for rank in self.ranks[: -depth - 1 : -1]]

    def cumulated(self, depth: int) -> list[int]:
        """Lots in the best level, in the best two, and so on."""
        sizes = self.sizes
        return list(accumulate([sizes[rank] for rank in self.ranks[: -depth - 1 : -1]]))


class Book:
    """Both sides. `is_known` False: in gap until the next Snapshot."""

    __slots__ = (
        "asks", "bids", "birth", "epoch", "is_doubtful", "is_fresh", "is_known", "sequence", "ts", "venue_ts",
    )  # fmt: skip

    def __init__(self) -> None:
        self.bids, self.asks = Side(1), Side(-1)
        self.is_known = False
        self.is_fresh = False
        """A Snapshot's; the first Delta of the chain is still to come."""
        self.is_doubtful = False
        """Nobody watched for a while; whether the book missed anything, only the next Snapshot or Delta can say."""
        self.epoch = 0
        """Snapshots applied."""
        self.birth = 0
        """Time of the first Tick after the last Snapshot, or after the Delta that ended a doubt; 0: not yet."""
        self.sequence = 0
        self.ts = 0
        """Time of the last applied Snapshot or Delta."""
        self.venue_ts = 0
        """Its ts_event, 0 where the venue gave none."""

    @property
    def is_whole(self) -> bool:
        """Whether it is known to be the venue's."""
        return self.is_known and not self.is_doubtful

    def mid2(self) -> int:
        """Best bid + best ask, 0 where the mid is unknown."""
        if self.is_known and not self.is_doubtful and self.bids.ranks and self.asks.ranks:
            return self.bids.ranks[-1] - self.asks.ranks[-1]
        return 0

    def doubt(self) -> None:
        """Nobody watched for a while: as in gap until a Snapshot, or a Delta that continues the chain."""
        self.is_doubtful = True
        self.birth = 0

    def drop(self) -> None:
        """No book: in gap."""
        self.is_known = False
        self.bids.replace([], [])
        self.asks.replace([], [])

    def snapshot(self, body: list[int], at: int, ts_event: int, ts: int) -> bool:
        """Replace the book, unless it is whole and newer."""
        sequence = body[at]
        if self.is_whole and sequence < self.sequence:
            # A lower sequence came late, or is the first of a new sequence of the venue's.
            is_dated = ts_event != 0 and self.venue_ts != 0
            is_late = ts_event <= self.venue_ts if is_dated else ts - self.ts <= SEQUENCE_RESET_NS
            if is_late:
                return False
        bids = at + 2
        asks = bids + 2 * body[bids - 1] + 1
        end = asks + 2 * body[asks - 1]
        self.bids.replace(body[bids : asks - 1 : 2], body[bids + 1 : asks - 1 : 2])
        self.asks.replace(body[asks:end:2], body[asks + 1 : end : 2])
        self.sequence, self.is_known, self.is_fresh, self.is_doubtful = sequence, True, True, False
        self.epoch += 1
        self.birth = 0
        self.ts, self.venue_ts = ts, ts_event
        return True

    def delta(self, body: list[int], at: int, ts_event: int, ts: int) -> tuple[int, int, int] | None:
        """Apply the next Delta of the chain; where one lacks, the book is in gap.

        Returns the levels changed and the order flow of the best level and of the best five; None if not applied.
        """
        if not self.is_known:
            return None
        known, first, last, previous = self.sequence, body[at], body[at + 1], body[at + 2]
        if last < known and self.venue_ts != 0 and ts_event - self.venue_ts > SEQUENCE_RESET_NS:
            self.drop()
            return None
        is_chained = previous != ABSENT
        if last < known or (last == known and not (self.is_fresh and is_chained)):
            return None
        if is_chained:
            follows = previous == known or (self.is_fresh and first <= known)
        else:
            follows = first == known + 1 or (self.is_fresh and first <= known)
        if not follows:
            self.drop()
            return None
        bids = at + 4
        asks = bids + 2 * body[bids - 1] + 1
        bids_changed, bid_flow, bid_flows = self.bids.change(body, bids, asks - 1)
        asks_changed, ask_flow, ask_flows = self.asks.change(body, asks, asks + 2 * body[asks - 1])
        self.sequence = last
        self.is_fresh = self.is_doubtful = False
        self.ts, self.venue_ts = ts, ts_event
        return bids_changed + asks_changed, bid_flow - ask_flow, bid_flows - ask_flows
