"""Seeded small markets as tapes: books, trades, tickers and Ticks of several instruments over a few partitions."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from replay.archive import staged
from schemas.columns import Columns, from_events
from schemas.events import Event, Kind
from schemas.topics import CLOCK_KEY, partition_of
from schemas.units import BASE_TICK_NS, NS_PER_MS, NS_PER_S

START = 1_721_347_200 * NS_PER_S
INSTRUMENTS = ("BINANCE_USDM:ETHUSDT", "BINANCE_USDM:BTCUSDT", "BINANCE_SPOT:BTCUSDT")


class Market:
    """One instrument's own stream of events, sequences unbroken."""

    def __init__(self, key: str, chance: random.Random) -> None:
        self.key, self.chance, self.sequence, self.mid, self.trades = key, chance, 100, 20_000, 0

    def event(self, ts: int, kind: Kind, body: dict[str, object]) -> Event:
        return Event(self.key, ts - self.chance.randrange(0, 80) * NS_PER_MS, ts, kind, body)

    def opening(self, ts: int) -> list[Event]:
        venue, symbol = self.key.split(":")
        instrument = {
            "venue": venue, "symbol": symbol, "price_scale": 2, "tick_size": 1, "size_scale": 3, "lot_size": 1,
            "index_scale": 8, "contract": "SPOT" if venue.endswith("SPOT") else "LINEAR",
            "is_perpetual": not venue.endswith("SPOT"), "contract_value": 1, "funding_interval_s": 28_800,
        }  # fmt: skip
        bids = [{"price": self.mid - 1 - i, "size": self.chance.randrange(1, 900)} for i in range(30)]
        asks = [{"price": self.mid + 1 + i, "size": self.chance.randrange(1, 900)} for i in range(30)]
        snapshot = {"sequence_last": self.sequence, "bids": bids, "asks": asks}
        return [self.event(ts, Kind.INSTRUMENT, instrument), self.event(ts, Kind.SNAPSHOT, snapshot)]

    def next(self, ts: int) -> Event:
        roll = self.chance.random()
        if roll < 0.6:
            return self._delta(ts)
        if roll < 0.9:
            self.trades += 1
            side = self.chance.choice(("BUY", "SELL"))
            price = self.mid + (1 if side == "BUY" else -1)
            return self.event(ts, Kind.TRADE, {
                "price": price, "size": self.chance.randrange(1, 500), "side": side, "trade_id": str(self.trades),
                "is_block": False, "is_liquidation": False, "is_insurance": False,
            })  # fmt: skip
        if roll < 0.97:
            return self.event(ts, Kind.TICKER, {
                "sequence": self.sequence, "bid_price": self.mid - 1, "bid_size": 1, "ask_price": self.mid + 1,
                "ask_size": 2, "mark_price": self.mid * 10**6, "index_price": self.mid * 10**6 + 7, "open_interest": 5,
            })  # fmt: skip
        funding = {"rate": 10**8, "next_funding_ts": START + 3600 * NS_PER_S}
        return self.event(ts, Kind.FUNDING, funding)

    def _delta(self, ts: int) -> Event:
        previous, self.sequence = self.sequence, self.sequence + self.chance.randrange(1, 5)
        levels = [
            [{"price": self.mid + sign * (1 + offset), "size": self.chance.randrange(0, 900)}
             for offset in self.chance.sample(range(1, 40), self.chance.randrange(1, 6))]
            for sign in (-1, 1)
        ]  # fmt: skip
        levels[self.chance.randrange(2)].append(
            {"price": self.mid + self.chance.choice((-1, 1)), "size": self.chance.randrange(1, 900)}
        )
        bids = [level for side in levels for level in side if level["price"] < self.mid]
        asks = [level for side in levels for level in side if level["price"] > self.mid]
        return self.event(ts, Kind.DELTA, {
            "sequence_first": previous + 1, "sequence_last": self.sequence, "sequence_previous": previous,
            "bids": bids, "asks": asks,
        })  # fmt: skip


def market(seed: int, events: int = 3000, seconds: int = 12, instruments: Iterable[str] = INSTRUMENTS) -> list[Event]:
    """Events of a few instruments in order of receipt, without Ticks."""
    chance = random.Random(seed)
    markets = [Market(key, chance) for key in instruments]
    stream = [event for each in markets for event in each.opening(START + 5 * NS_PER_MS)]
    times = sorted(chance.randrange(10 * NS_PER_MS, seconds * NS_PER_S) for _ in range(events))
    stream.extend(chance.choice(markets).next(START + time) for time in times)
    return stream


def tape(events: Iterable[Event], partitions: int = 2) -> list[Columns]:
    """One Columns per partition: events by key, a Tick before the first event at or after each 100 ms."""
    rows: list[list[Event]] = [[] for _ in range(partitions)]
    last = 0
    for event in events:
        due = event.ts_recv // BASE_TICK_NS * BASE_TICK_NS
        last = last or due - BASE_TICK_NS
        for time in range(last + BASE_TICK_NS, due + 1, BASE_TICK_NS):
            for row in rows:
                row.append(tick(time))
        last = max(last, due)
        rows[partition_of(event.key, partitions)].append(event)
    for row in rows:
        row.append(tick(last + BASE_TICK_NS))
    return [from_events(partition, 0, row) for partition, row in enumerate(rows)]


def tick(time: int) -> Event:
    """The clock's record."""
    return Event(CLOCK_KEY, time, time, Kind.TICK, {"time": time})


KAFKA = "kafka:probe/market.events.v1"
"""Origin of archives as a worker writes them."""


def archive_of(path: Path, parts: Iterable[Columns], partitions: int = 2, segment_rows: int = 700) -> Path:
    """An archive of those columns."""
    with staged(path, partitions, segment_rows) as writer:
        for columns in parts:
            writer.append_tape(columns)
    return path
