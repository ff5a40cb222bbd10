"""Seeded streams of one partition with all that happens to it: gaps, repeats, late Ticks, odd books, resets, holes."""

from __future__ import annotations

import random
from typing import Any

from schemas.events import Event, Kind
from schemas.topics import CLOCK_KEY
from schemas.units import BASE_TICK_NS, NS_PER_MS, NS_PER_S

START = 1_721_347_200 * NS_PER_S
CONTRACTS = {"USDM:A": "LINEAR", "SPOT:B": "SPOT", "COINM:C": "INVERSE", "USDM:QUIET": "LINEAR"}


class Market:
    """One instrument. Futures chain their Deltas by `sequence_previous`, spot by `sequence_first`."""

    def __init__(self, key: str, chance: random.Random) -> None:
        self.key, self.chance, self.contract = key, chance, CONTRACTS[key]
        self.mid = {"LINEAR": 20_000, "SPOT": 6_000_000, "INVERSE": 268_000}[self.contract]
        self.sequence, self.tick_size = chance.randrange(10**6), 1
        self.interest, self.position = 10**9, 0

    def event(self, ts: int, kind: Kind, body: dict[str, Any]) -> Event:
        delay = self.chance.choice((0, 3, 70, -1500)) * NS_PER_MS + self.chance.randrange(1000)
        return Event(self.key, self.chance.choice((0, ts - delay)), ts, kind, body)

    def instrument(self, ts: int) -> Event:
        return self.event(ts, Kind.INSTRUMENT, {
            "venue": self.key.split(":")[0], "symbol": self.key.split(":")[1], "price_scale": 2,
            "tick_size": self.tick_size, "size_scale": 3, "lot_size": 1, "index_scale": 8, "contract": self.contract,
            "is_perpetual": self.contract != "SPOT", "contract_value": 10, "funding_interval_s": None,
        })  # fmt: skip

    def levels(self, n: int, sign: int, *, may_be_zero: bool) -> list[dict[str, int]]:
        """Levels on one side, a few beyond the mid so that books cross; `sign` -1 for bids."""
        prices = {self.mid + sign * (1 + int(self.chance.expovariate(0.1)) - self.chance.choice((0, 0, 0, 4)))
                  for _ in range(n)}  # fmt: skip
        size = self.chance.randrange
        ordered = sorted(prices, reverse=sign < 0)
        if self.chance.random() < 0.3:
            self.chance.shuffle(ordered)
        return [{"price": p, "size": 0 if may_be_zero and size(2) else size(1, 900)} for p in ordered]

    def snapshot(self, ts: int) -> Event:
        n = self.chance.choice((0, 1, 30, 30, 30))
        bids, asks = self.levels(n, -1, may_be_zero=False), self.levels(30, 1, may_be_zero=False)
        sequence = self.sequence - self.chance.choice((0, 0, 0, 5000))
        return self.event(ts, Kind.SNAPSHOT, {"sequence_last": max(sequence, 0), "bids": bids, "asks": asks})

    def delta(self, ts: int) -> Event:
        roll = self.chance.random()
        if 0.5 < roll < 0.504:  # the venue begins a new sequence
            self.sequence //= 2
        known = self.sequence
        if roll < 0.02:  # some Deltas are lost
            known += 7
        first, last = known + 1, known + self.chance.randrange(1, 5)
        if roll > 0.97:  # repeated or from before the Snapshot
            first, last = known - 3, known
        self.sequence = max(self.sequence, last)
        self.mid += self.chance.choice((0, 0, 0, -1, 1))
        bids, asks = (self.levels(self.chance.randrange(4), sign, may_be_zero=True) for sign in (-1, 1))
        if self.chance.random() < 0.01 and bids:  # one side is wiped out
            bids = [{"price": price, "size": 0} for price in range(self.mid - 80, self.mid + 9)]
        return self.event(ts, Kind.DELTA, {
            "sequence_first": first, "sequence_last": last,
            "sequence_previous": None if self.contract == "SPOT" else first - 1, "bids": bids, "asks": asks,
        })  # fmt: skip

    def trade(self, ts: int) -> Event:
        odd = self.chance.choice(("is_block", "is_insurance", "is_liquidation", None, None, None, None, None))
        flags = {name: name == odd for name in ("is_block", "is_liquidation", "is_insurance")}
        return self.event(ts, Kind.TRADE, {
            "price": max(self.mid + self.chance.randrange(-5, 6), 1), "size": self.chance.randrange(1, 500),
            "side": self.chance.choice(("BUY", "SELL")), "trade_id": str(ts), **flags,
        })  # fmt: skip

    def told(self, ts: int) -> Event:
        if self.chance.random() < 0.3:
            nexts = self.chance.choice((None, ts - NS_PER_S, ts + 20 * NS_PER_S))
            return self.event(
                ts, Kind.FUNDING, {"rate": self.chance.randrange(-(10**9), 10**9), "next_funding_ts": nexts}
            )
        self.interest += self.chance.randrange(-400, 500)
        names = ("sequence", "bid_price", "bid_size", "ask_price", "ask_size", "mark_price", "index_price")
        body = {name: self.chance.choice((None, self.chance.randrange(10**9, 10**12))) for name in names}
        return self.event(ts, Kind.TICKER, body | {"open_interest": self.chance.choice((None, self.interest))})

    def held(self, ts: int) -> Event:
        """The own position: grown, turned around or closed; an account tells more or less of it."""
        self.position = self.chance.choice((0, -self.position, self.position + self.chance.randrange(-50, 60)))
        entry = self.mid * 10**6 + self.chance.randrange(10**6)
        return self.event(ts, Kind.POSITION, {
            "size": self.position, "entry_price": self.chance.choice((None, entry, entry)), "unrealized_pnl": None,
            "realized_pnl": self.chance.choice((None, self.chance.randrange(-(10**10), 10**10))),
        })  # fmt: skip

    def next(self, ts: int) -> Event:
        roll = self.chance.random()
        if roll < 0.002:
            self.tick_size = 3 - self.tick_size
            return self.instrument(ts)
        if roll < 0.03:
            return self.snapshot(ts)
        if roll < 0.62:
            return self.delta(ts)
        if roll < 0.95:
            return self.trade(ts)
        if roll < 0.98:
            return self.told(ts)
        if roll < 0.99:
            return self.held(ts)
        return self.event(ts, Kind.NEWS, {"source_id": "n", "sentiment": 0, "confidence": 0})


def stream(seed: int, seconds: float = 75.0, rate: float = 60.0, holes: int = 0) -> list[Event]:
    """A partition's records in order. A Tick T stands before the first record received at or after T.

    `holes` parts the stream by pauses without Ticks: longer than any window, or just as long as the longest.
    """
    chance = random.Random(seed)
    markets = [Market(key, chance) for key in CONTRACTS]
    events: list[Event] = []
    ts = START + chance.randrange(NS_PER_S)
    tick = (ts // BASE_TICK_NS + 1) * BASE_TICK_NS
    end = ts + int(seconds * NS_PER_S)
    laid = tick - BASE_TICK_NS
    known: set[str] = set()
    pauses = [ts + int((end - ts) * (i + 1) / (holes + 1)) for i in range(holes)]
    paused = 0
    while ts < end + paused:
        ts += int(chance.expovariate(rate) * NS_PER_S) if chance.random() > 0.0005 else chance.randrange(8 * NS_PER_S)
        if pauses and ts >= pauses[0] + paused:
            pauses.pop(0)
            steps = chance.choice((599, 600, 601, 36_000, 500_000))
            before, tick = ts, tick + (steps - 1) * BASE_TICK_NS
            # With a Tick before the first event, or without: that is a fault, harmless behind a hole only.
            ts = tick + (chance.choice((-1, 1)) if steps > 600 else 1) * chance.randrange(1, BASE_TICK_NS)
            paused += ts - before
        # Silent times are told by Ticks, mostly by each, sometimes by the last alone.
        if ts > tick + NS_PER_S and chance.random() < 0.5:
            tick = ts // BASE_TICK_NS * BASE_TICK_NS
        while tick <= ts:
            events.append(tick_event(tick))
            laid, tick = tick, tick + BASE_TICK_NS
        if chance.random() < 0.01:
            events.append(tick_event(laid - BASE_TICK_NS * chance.randrange(8)))  # doubled or late
        market = markets[0 if chance.random() < 0.4 else chance.randrange(len(markets))]
        if market.key == "USDM:QUIET" and chance.random() < 0.95:
            continue
        if market.key not in known and chance.random() < 0.7:
            known.add(market.key)
            events += [market.instrument(ts), market.snapshot(ts)]
        late = chance.choice((0, 0, 0, chance.randrange(3 * NS_PER_S)))
        events.append(market.next(ts - late))
    return events


def tick_event(time: int) -> Event:
    """The clock."""
    return Event(CLOCK_KEY, time, time, Kind.TICK, {"time": time})
