"""A generated market, written as a raw recording in Binance's futures format: what `onetape demo` imports.

It is a recording like any other, so that the demo goes through the real import: exchange information, a REST snapshot
that arrives after deltas, deltas with their chain, best prices of the same update id, trades at the best, mark prices.

Input: a seed and a size. The same arguments give the same bytes.
State: one book per symbol while it is written.
Output: a gzip file of lines `<receive clock ns> <json>`.
Units: venue clock ms, receive clock ns, prices and sizes as the venue's texts; rates per second.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

from app.synthetic_book import SyntheticBook
from schemas.units import NS_PER_MS, NS_PER_S

START_NS = 1_736_121_600 * NS_PER_S
"""2025-01-06 00:00 UTC."""
SNAPSHOT_AFTER_S = 0.4
SNAPSHOT_TAKES_S = 0.15
FUNDING_INTERVAL_MS = 8 * 3_600 * 1_000
DELTAS_PER_S = (70.0, 35.0, 20.0)
TRADES_PER_DELTA = 0.6
COMPRESSION = 5


class Listing(NamedTuple):
    """One instrument of the generated venue. Prices start at `price` ticks; texts show `price_decimals`."""

    symbol: str
    price: int
    price_decimals: int
    size_decimals: int


LINEAR = (
    Listing("BTCUSDT", 942_137, 1, 3),
    Listing("ETHUSDT", 336_852, 2, 3),
    Listing("SOLUSDT", 21_873, 2, 0),
    Listing("XRPUSDT", 24_105, 4, 1),
)
INVERSE = (Listing("BTCUSD_PERP", 942_140, 1, 0), Listing("ETHUSD_PERP", 336_860, 2, 0))


@dataclass(frozen=True, slots=True)
class SyntheticReport:
    """What was written: frames of the venue, and the lines with injected faults."""

    frames: int
    symbols: tuple[str, ...]
    dropped_deltas: int
    insurance_trades: int
    off_tick_frames: int


def write_recording(
    path: Path,
    *,
    seed: int = 7,
    symbols: int = 3,
    seconds: int = 180,
    is_inverse: bool = False,
    with_faults: bool = False,
) -> SyntheticReport:
    """Write one recording to import as `binance-usdm`, or as `binance-coinm` when `is_inverse`.

    `with_faults` drops one delta of the first symbol (a snapshot follows within a second) and adds an insurance-fund
    trade and a trade off the tick, which an import refuses.
    """
    listings = (INVERSE if is_inverse else LINEAR)[:symbols]
    if not listings or len(listings) < symbols or seconds < 2:
        raise ValueError(f"1 to {len(INVERSE if is_inverse else LINEAR)} symbols and at least 2 seconds")
    feeds = []
    for index, listing in enumerate(listings):
        rng = np.random.default_rng([seed, index])
        feeds.append(_Feed(listing, rng, seconds, DELTAS_PER_S[index % len(DELTAS_PER_S)], is_inverse))
        feeds[-1].run(with_faults=with_faults and index == 0)
    lines = sorted((line for feed in feeds for line in feed.lines), key=lambda line: line[0])
    with path.open("wb") as file, gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0) as out:
        out.write(b"%d %s\n" % (START_NS, _exchange_info(listings)))
        out.writelines(b"%d %s\n" % line for line in lines)
    faults = int(with_faults)
    return SyntheticReport(len(lines), tuple(each.symbol for each in listings), faults, faults, faults)


def _exchange_info(listings: tuple[Listing, ...]) -> bytes:
    def step(decimals: int) -> str:
        return f"{10**-decimals:.{decimals}f}"

    symbols = [
        {
            "symbol": each.symbol, "contractType": "PERPETUAL", "status": "TRADING",
            "filters": [
                {"filterType": "PRICE_FILTER", "tickSize": step(each.price_decimals)},
                {"filterType": "LOT_SIZE", "stepSize": step(each.size_decimals)},
            ],
        }
        for each in listings
    ]  # fmt: skip
    server_time = START_NS // NS_PER_MS
    return orjson.dumps({"timezone": "UTC", "serverTime": server_time, "exchangeFilters": [], "symbols": symbols})


class _Feed:
    """Streams of one symbol: [(receive ns, json)]."""

    def __init__(
        self, listing: Listing, rng: np.random.Generator, seconds: int, deltas_per_s: float, is_inverse: bool
    ) -> None:
        self.lines: list[tuple[int, bytes]] = []
        self._listing, self._rng, self._is_inverse = listing, rng, is_inverse
        self._seconds, self._deltas_per_s = seconds, deltas_per_s
        self._book = SyntheticBook(rng, listing.price, 3_000 if listing.size_decimals else 200)
        self._update_id = 5_000_000_000_000 + int(rng.integers(1_000_000))
        self._trade_id = 4_000_000_000 + int(rng.integers(1_000_000))
        self._previous = self._update_id
        self._best_shown = self._book.best()
        self._received = 0
        self._pair = f'"ps":"{listing.symbol.split("_")[0]}",' if is_inverse else ""

    def run(self, *, with_faults: bool) -> None:
        """Generate everything."""
        count = int(self._seconds * self._deltas_per_s)
        times_ns = np.sort(self._rng.integers(0, self._seconds * NS_PER_S, count)).tolist()
        latency_ns = (self._rng.lognormal(1.5, 0.5, count) * NS_PER_MS).astype(np.int64).tolist()
        trades = self._rng.poisson(TRADES_PER_DELTA, count).tolist()
        snapshots = [SNAPSHOT_AFTER_S]
        drop_at = -1
        if with_faults:
            drop_at = int(count * 0.4)
            snapshots.append(times_ns[drop_at] / NS_PER_S + SNAPSHOT_AFTER_S)
        marks = 0
        for index, time_ns in enumerate(times_ns):
            while marks * NS_PER_S <= time_ns:
                self._mark_price(marks * NS_PER_S)
                marks += 1
            if snapshots and time_ns >= snapshots[0] * NS_PER_S:
                snapshots.pop(0)
                self._snapshot(time_ns)
            self._received = max(self._received + 1_000, START_NS + time_ns + latency_ns[index])
            for _ in range(trades[index]):
                self._trade(time_ns)
            self._delta(time_ns, is_dropped=index == drop_at)
        if with_faults:
            self._refusable(times_ns[count // 2])

    def _emit(self, stream: str, data: str, received: int | None = None) -> None:
        if received is None:
            self._received += 3_000
            received = self._received
        text = f'{{"stream":"{self._listing.symbol.lower()}@{stream}","data":{data}}}'
        self.lines.append((received, text.encode()))

    def _price(self, ticks: int) -> str:
        return _text(ticks, self._listing.price_decimals)

    def _size(self, lots: int) -> str:
        return _text(lots, self._listing.size_decimals)

    def _levels(self, levels: list[tuple[int, int]]) -> str:
        return ",".join(f'["{self._price(price)}","{self._size(size)}"]' for price, size in levels)

    def _delta(self, time_ns: int, *, is_dropped: bool) -> None:
        bids, asks = self._book.step()
        first, self._update_id = self._update_id + 1, self._update_id + int(1 + len(bids) + len(asks))
        time = (START_NS + time_ns) // NS_PER_MS
        if not is_dropped:
            self._emit(
                "depth@0ms",
                f'{{"e":"depthUpdate","E":{time + 3},"T":{time},"s":"{self._listing.symbol}",{self._pair}'
                f'"U":{first},"u":{self._update_id},"pu":{self._previous},'
                f'"b":[{self._levels(bids)}],"a":[{self._levels(asks)}]}}',
            )
        self._previous = self._update_id
        if self._book.best() != self._best_shown:
            self._best_shown = self._book.best()
            bid, bid_size, ask, ask_size = self._best_shown
            self._emit(
                "bookTicker",
                f'{{"e":"bookTicker","u":{self._update_id},"s":"{self._listing.symbol}",{self._pair}'
                f'"b":"{self._price(bid)}","B":"{self._size(bid_size)}",'
                f'"a":"{self._price(ask)}","A":"{self._size(ask_size)}","T":{time},"E":{time + 3}}}',
            )

    def _trade(self, time_ns: int) -> None:
        price, size, is_buyer_maker = self._book.trade()
        self._emit("trade", self._trade_json(time_ns, self._price(price), size, is_buyer_maker, "MARKET"))

    def _trade_json(self, time_ns: int, price: str, size: int, is_buyer_maker: bool, trade_type: str) -> str:
        time = (START_NS + time_ns) // NS_PER_MS
        self._trade_id += 1
        return (
            f'{{"e":"trade","E":{time + 2},"T":{time},"s":"{self._listing.symbol}","t":{self._trade_id},'
            f'"p":"{price}","q":"{self._size(size)}","X":"{trade_type}","m":{"true" if is_buyer_maker else "false"}}}'
        )

    def _mark_price(self, time_ns: int) -> None:
        time = (START_NS + time_ns) // NS_PER_MS
        bid, _, ask, _ = self._book.best()
        mid = (bid + ask) * 10 ** (8 - self._listing.price_decimals) // 2
        drift = int(self._rng.integers(-mid // 50_000, mid // 50_000))
        rate = 10_000 + int(self._rng.integers(-500, 500))
        next_funding = time - time % FUNDING_INTERVAL_MS + FUNDING_INTERVAL_MS
        index = "" if self._is_inverse else f'"i":"{_text(mid + drift, 8)}",'
        self._emit(
            "markPrice@1s",
            f'{{"e":"markPriceUpdate","E":{time},"s":"{self._listing.symbol}","p":"{_text(mid + drift // 2, 8)}",'
            f'"P":"{_text(mid, 8)}",{index}"r":"{_text(rate, 8)}","T":{next_funding}}}',
            START_NS + time_ns + 4 * NS_PER_MS,
        )

    def _snapshot(self, time_ns: int) -> None:
        """The book as it is now; it arrives later, after deltas that follow it."""
        bids, asks = self._book.levels()
        time = (START_NS + time_ns) // NS_PER_MS
        text = (
            f'{{"lastUpdateId":{self._update_id},"E":{time},"T":{time},"symbol":"{self._listing.symbol}",'
            f'"bids":[{self._levels(bids)}],"asks":[{self._levels(asks)}]}}'
        )
        self.lines.append((START_NS + time_ns + int(SNAPSHOT_TAKES_S * NS_PER_S), text.encode()))

    def _refusable(self, time_ns: int) -> None:
        """A trade of the insurance fund, which is no market trade, and a price between two ticks, which is none."""
        price = self._price(self._listing.price)
        received = START_NS + time_ns + 50 * NS_PER_MS
        self._emit("trade", self._trade_json(time_ns, price, 7, True, "INSURANCE_FUND"), received)
        self._emit("trade", self._trade_json(time_ns, f"{price}5", 7, True, "MARKET"), received + 1)


def _text(value: int, decimals: int) -> str:
    if not decimals:
        return str(value)
    whole, rest = divmod(value, 10**decimals)
    return f"{whole}.{rest:0{decimals}d}"
