"""The `micro` features written down plainly: sorted dictionaries, deques, and each window read anew for each vector.

Input: events in tape order, as Python values.
State: per instrument its book, and every trade, level change and Tick of the last minute.
Output: per instrument and Tick of the cadence: features by name, quality, book epoch.
Units: as in `agents.catalogue`. Prices are kept in ticks and sizes in lots; floats come in with the formulas.
Nothing here knows rows, buckets or running sums, so it is both the definition that tests hold the engine to and what
the engine's speed is measured against. A feature is (value, flags): None with the flag that says why it is unknown.
Policies of a feature set are not applied.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from statistics import fmean
from typing import Any

from sortedcontainers import SortedDict

from app.bench.naive_book import NaiveBook
from schemas.events import Event, Kind
from schemas.units import BASE_TICK_NS, NS_PER_MS, NS_PER_S
from schemas.vectors import Quality

Feature = tuple[float | None, int]
Features = dict[str, Feature]

MINUTE = 60 * NS_PER_S
DAY = 86_400 * NS_PER_S
WINDOWS_S = (1, 3, 15, 60)
_ERROR = int(Quality.COMPUTATION_ERROR)
_ZSCORE = re.compile(r"zscore_(.+)_(\d+)")
_SCALES = ("price_scale", "tick_size", "size_scale", "lot_size", "index_scale", "contract", "contract_value")


class NaiveSymbol:
    """Everything an instrument has said that a window may still reach."""

    def __init__(self) -> None:
        self.tick = self.ts = 0
        self.instrument: dict[str, Any] = {}
        self.book = NaiveBook()
        self.histories: dict[str, deque[float]] = {}

    def begin(self) -> None:
        """Forget what the scales before gave their meaning to."""
        self.book = NaiveBook(self.book.epoch)
        self.birth = self.book_birth = 0
        self.trades: deque[tuple[int, int, int, bool]] = deque()
        """Time, price, size, whether the aggressor buys."""
        self.changes: deque[tuple[int, int, int, int]] = deque()
        """Time, order flow of the best level, of the best five, levels changed."""
        self.ticks: deque[tuple[int | None, int | None]] = deque(maxlen=601)
        """At each Tick of 100 ms: best bid + best ask, open interest."""
        self.told: dict[str, int | None] = {}
        self.delay: int | None = None
        self.position: dict[str, int | None] = {}
        self.position_since = 0
        self.histories = {}

    def take(self, event: Event) -> None:
        """One record."""
        _, ts_event, ts_recv, kind, body = event
        self.ts = max(self.ts, ts_recv, self.tick)
        if kind is Kind.INSTRUMENT:
            if any(body[name] != self.instrument.get(name) for name in _SCALES):
                self.begin()
            self.instrument = body
        elif not self.instrument:
            return
        if ts_event:
            self.delay = ts_recv - ts_event
        if kind is Kind.DELTA:
            changed = self.book.delta(body, ts_event, self.ts)
            if changed is not None:
                self.changes.append((self.ts, *changed))
        elif kind is Kind.TRADE:
            if not body["is_block"] and not body["is_insurance"]:
                self.trades.append((self.ts, body["price"], body["size"], body["side"] == "BUY"))
        elif kind is Kind.SNAPSHOT:
            if self.book.snapshot(body, ts_event, self.ts):
                self.book_birth = 0
        elif kind is Kind.TICKER:
            self.told |= {name: value for name, value in body.items() if value is not None}
        elif kind is Kind.FUNDING:
            self.told |= body
        elif kind is Kind.POSITION:
            before, size = self.position.get("size") or 0, body["size"]
            if size and before * size <= 0:
                self.position_since = self.ts
            realized = self.position.get("realized_pnl") if body["realized_pnl"] is None else body["realized_pnl"]
            self.position = {**body, "realized_pnl": realized}

    def pass_tick(self, time: int) -> bool:
        """Close what came before a Tick; False for a late or doubled one."""
        if not self.instrument or time <= (self.tick or self.ts):
            return False
        steps = (time - self.tick) // BASE_TICK_NS
        if self.tick and steps > 600:
            # Nobody watched for longer than any window: all of them begin anew.
            self.birth = self.book_birth = 0
            self.ticks.clear()
            self.trades.clear()
            self.changes.clear()
            self.book.is_doubtful = True
        self.ticks.extend([(self.book.mid2(), self.told.get("open_interest"))] * (steps if self.birth else 1))
        self.tick, self.birth = time, self.birth or time
        if self.book.is_whole and not self.book_birth:
            self.book_birth = time
        for past in (self.trades, self.changes):
            while past and past[0][0] < time - MINUTE:
                past.popleft()
        return True


def price(symbol: NaiveSymbol, ticks: float) -> float:
    """Ticks in quote units."""
    return float(ticks * symbol.instrument["tick_size"] / 10 ** symbol.instrument["price_scale"])


def size(symbol: NaiveSymbol, lots: float) -> float:
    """Lots in base units."""
    return float(lots * symbol.instrument["lot_size"] / 10 ** symbol.instrument["size_scale"])


def book_features(symbol: NaiveSymbol, now: int) -> tuple[Features, int]:
    """What stands in the book, and flags of the whole vector."""
    of_mid = ["mid_price", "microprice", "spread", "spread_bps"]
    of_sides = [f"{side}_depth_{n}" for side in ("bid", "ask") for n in (5, 10, 20)]
    of_sides += ["bid_slope_10", "ask_slope_10", *(f"queue_imbalance_{n}" for n in (1, 5, 10))]
    book = symbol.book
    if not book.is_whole:
        names = [*of_mid, *of_sides, "bid_level_count", "ask_level_count", "book_age_ms"]
        return dict.fromkeys(names, (None, Quality.BOOK_GAP)), Quality.BOOK_GAP
    bids, asks = book.best_levels(20)
    age = now - book.ts
    out: Features = {"bid_level_count": (float(len(book.bids)), 0), "ask_level_count": (float(len(book.asks)), 0)}
    out["book_age_ms"] = age / NS_PER_MS, 0
    for n in (5, 10, 20):
        out[f"bid_depth_{n}"] = size(symbol, sum(lots for _, lots in bids[:n])), 0
        out[f"ask_depth_{n}"] = size(symbol, sum(lots for _, lots in asks[:n])), 0
    for n in (1, 5, 10):
        b, a = (sum(lots for _, lots in side[:n]) for side in (bids, asks))
        out[f"queue_imbalance_{n}"] = ((b - a) / (b + a), 0) if a + b else (None, Quality.BOOK_ONE_SIDED)
    flags = int(Quality.BOOK_STALE) if age > 5 * NS_PER_S else 0
    mid2 = book.mid2()
    for name, side in (("bid_slope_10", bids[:10]), ("ask_slope_10", asks[:10])):
        out[name] = (None, Quality.BOOK_ONE_SIDED) if mid2 is None else slope_of(symbol, side, mid2)
    if mid2 is None:
        return out | dict.fromkeys(of_mid, (None, Quality.BOOK_ONE_SIDED)), flags | Quality.BOOK_ONE_SIDED
    (bid, bid_size), (ask, ask_size) = bids[0], asks[0]
    out["mid_price"] = price(symbol, mid2) / 2, 0
    out["microprice"] = price(symbol, (bid * ask_size + ask * bid_size) / (bid_size + ask_size)), 0
    out["spread"] = price(symbol, ask - bid), 0
    out["spread_bps"] = (ask - bid) / (mid2 / 2) * 10_000, 0
    return out, flags | (Quality.BOOK_CROSSED if bid > ask else 0)


def slope_of(symbol: NaiveSymbol, side: Sequence[tuple[int, int]], mid2: int) -> Feature:
    """Least squares: base units that stand within one more quote unit of distance from the mid."""
    if len(side) < 2:
        return None, Quality.BOOK_ONE_SIDED
    distances = [abs(2 * ticks - mid2) for ticks, _ in side]
    depths = [sum(lots for _, lots in side[: i + 1]) for i in range(len(side))]
    x, y = fmean(distances), fmean(depths)
    covariance = sum((a - x) * (b - y) for a, b in zip(distances, depths, strict=True))
    variance = sum((a - x) ** 2 for a in distances)
    # Of a crossed book all levels may be equally far.
    return (size(symbol, covariance / variance) / price(symbol, 0.5), 0) if variance else (None, _ERROR)


def book_window(symbol: NaiveSymbol, now: int, seconds: int) -> Features:
    """Mid and level changes over [now - W, now)."""
    names = ("log_return", "realized_volatility", "order_flow_imbalance", "multi_level_ofi_5", "churn_rate")
    if not symbol.book.is_whole:
        return dict.fromkeys(names, (None, Quality.BOOK_GAP))
    out: Features = dict.fromkeys(names, (None, Quality.WARMUP))
    since, mid2 = now - seconds * NS_PER_S, symbol.book.mid2()
    mids = [mid for mid, _ in islice(reversed(symbol.ticks), seconds * 10 + 1)][::-1]
    if mid2 is None:
        out |= dict.fromkeys(("log_return", "realized_volatility"), (None, Quality.BOOK_ONE_SIDED))
    elif len(mids) > seconds * 10:
        if mids[0] is not None:
            out["log_return"] = math.log1p((mid2 - mids[0]) / mids[0]), 0
        steps = [math.log1p((b - a) / a) for a, b in pairwise(mids) if a is not None and b is not None]
        if len(steps) == seconds * 10:
            out["realized_volatility"] = math.sqrt(sum(step**2 for step in steps)), 0
    if since >= symbol.book_birth:
        inside = [change for change in symbol.changes if change[0] >= since]
        out["order_flow_imbalance"] = size(symbol, sum(flow for _, flow, _, _ in inside)), 0
        out["multi_level_ofi_5"] = size(symbol, sum(flow for _, _, flow, _ in inside)), 0
        out["churn_rate"] = sum(levels for _, _, _, levels in inside) / seconds, 0
    return out


def trade_window(symbol: NaiveSymbol, now: int, seconds: int, mid: Feature) -> Features:
    """Trades over [now - W, now)."""
    of_sizes = ("volume", "buy_volume", "sell_volume", "signed_volume")
    of_trades = ("vwap", "high", "low", "trade_imbalance", "net_aggressor_pressure", "average_trade_size")
    of_both = "vwap_deviation_bps"
    since = now - seconds * NS_PER_S
    if since < symbol.birth:
        out: Features = dict.fromkeys(("trade_count", "buy_sell_ratio", *of_sizes, *of_trades), (None, Quality.WARMUP))
        return out | {of_both: (None, mid[1] | Quality.WARMUP)}
    trades = [trade for trade in symbol.trades if trade[0] >= since]
    buys = [lots for _, _, lots, is_buy in trades if is_buy]
    sells = [lots for _, _, lots, is_buy in trades if not is_buy]
    bought, sold = sum(buys), sum(sells)
    volume = bought + sold
    sizes = (volume, bought, sold, bought - sold)
    out = {name: (size(symbol, lots), 0) for name, lots in zip(of_sizes, sizes, strict=True)}
    out["trade_count"] = float(len(trades)), 0
    out["buy_sell_ratio"] = (bought / sold, 0) if sold else (None, Quality.NO_TRADES)
    if not trades:
        return out | dict.fromkeys(of_trades, (None, Quality.NO_TRADES)) | {of_both: (None, mid[1] | Quality.NO_TRADES)}
    if symbol.instrument["contract"] == "INVERSE":
        vwap = price(symbol, volume / sum(lots / ticks for _, ticks, lots, _ in trades))
    else:
        vwap = price(symbol, sum(ticks * lots for _, ticks, lots, _ in trades) / volume)
    out["vwap"] = vwap, 0
    out[of_both] = ((mid[0] - vwap) / vwap * 10_000, 0) if mid[0] is not None else mid
    out["high"] = price(symbol, max(ticks for _, ticks, _, _ in trades)), 0
    out["low"] = price(symbol, min(ticks for _, ticks, _, _ in trades)), 0
    out["trade_imbalance"] = (len(buys) - len(sells)) / len(trades), 0
    out["net_aggressor_pressure"] = (bought - sold) / volume, 0
    out["average_trade_size"] = size(symbol, volume) / len(trades), 0
    return out


def told_features(symbol: NaiveSymbol, now: int) -> tuple[Features, int]:
    """What the venue told last."""
    instrument, told = symbol.instrument, symbol.told
    lacks = 0 if instrument["contract"] == "SPOT" else int(Quality.NO_EVENTS)
    no_funding = int(Quality.FUNDING_UNKNOWN) if instrument["is_perpetual"] else 0
    of_ticker = ("mark_price", "index_price", "basis_bps", "open_interest", "open_interest_change_60s")
    out: Features = dict.fromkeys(of_ticker, (None, lacks))
    out |= dict.fromkeys(("funding_rate", "time_to_funding_s"), (None, no_funding))
    out["feed_delay_ms"] = None, Quality.NO_EVENTS
    mark, index, interest = (told.get(name) for name in ("mark_price", "index_price", "open_interest"))
    if mark is not None:
        out["mark_price"] = mark / 10 ** instrument["index_scale"], 0
    if index is not None:
        out["index_price"] = index / 10 ** instrument["index_scale"], 0
        if mark is not None:
            out["basis_bps"] = (mark - index) / index * 10_000, 0
    if interest is not None:
        out["open_interest"] = size(symbol, interest), 0
        before = symbol.ticks[0][1] if len(symbol.ticks) == 601 else None
        change = (None, int(Quality.WARMUP)) if before is None else (size(symbol, interest - before), 0)
        out["open_interest_change_60s"] = change
    rate, next_funding = told.get("rate"), told.get("next_funding_ts")
    if rate is not None:
        out["funding_rate"] = rate / 10**12, 0
    if next_funding is not None and next_funding >= now:
        out["time_to_funding_s"] = (next_funding - now) / NS_PER_S, 0
    if symbol.delay is not None:
        out["feed_delay_ms"] = symbol.delay / NS_PER_MS, 0
    return out, int(Quality.CLOCK_SKEW) if symbol.delay is not None and symbol.delay < 0 else 0


def position_features(symbol: NaiveSymbol, now: int, mid: Feature) -> Features:
    """What we hold. Nothing told counts as flat, and says so."""
    names = ("position_size", "position_side", "unrealized_pnl", "realized_pnl", "exposure", "position_age_s")
    unknown = int(Quality.POSITION_UNKNOWN)
    if not symbol.position:
        return {**dict.fromkeys(names, (0.0, unknown)), "entry_price": (mid[0], mid[1] | unknown)}
    instrument, told = symbol.instrument, symbol.position
    lots, entry_told, realized = told["size"] or 0, told["entry_price"], told["realized_pnl"]
    held = size(symbol, lots)
    is_inverse = instrument["contract"] == "INVERSE"
    out: Features = dict.fromkeys(names, (0.0, 0))
    out["position_size"] = held, 0
    out["realized_pnl"] = (0.0, unknown) if realized is None else (realized / 10**8, 0)
    entry = None if entry_told is None else entry_told / 10 ** instrument["index_scale"]
    out["entry_price"] = (entry, 0) if entry is not None else (None, unknown) if lots else mid
    if not lots:
        return out
    out["position_side"] = math.copysign(1.0, lots), 0
    out["position_age_s"] = (now - symbol.position_since) / NS_PER_S, 0
    out["unrealized_pnl"] = mid if entry is not None else (None, unknown)
    out["exposure"] = mid
    if mid[0] is not None and entry is not None:
        inverse = instrument["contract_value"] * held * (1 / entry - 1 / mid[0]) if is_inverse else 0.0
        out["unrealized_pnl"] = inverse if is_inverse else (mid[0] - entry) * held, 0
    if is_inverse:
        out["exposure"] = held * instrument["contract_value"], 0
    elif mid[0] is not None:
        out["exposure"] = held * mid[0], 0
    return out


def clock_features(now: int) -> Features:
    """Where in the day and in the week the Tick lies, UTC; Monday is day 0."""
    day = 2 * math.pi * (now % DAY) / DAY
    week = 2 * math.pi * ((now // DAY + 3) % 7) / 7
    out: Features = {"time_of_day_sin": (math.sin(day), 0), "time_of_day_cos": (math.cos(day), 0)}
    return out | {"day_of_week_sin": (math.sin(week), 0), "day_of_week_cos": (math.cos(week), 0)}


def zscore(symbol: NaiveSymbol, column: str, length: int, feature: Feature) -> Feature:
    """A feature against its own last `length` values, the present one included."""
    value, flags = feature
    if value is None:
        return None, flags
    history = symbol.histories.setdefault(column, deque(maxlen=length))
    history.append(value)
    if len(history) < length:
        return None, Quality.WARMUP
    if min(history) == max(history):
        return None, _ERROR
    mean = fmean(history)
    return (value - mean) / math.sqrt(sum((x - mean) ** 2 for x in history) / (length - 1)), 0


def vector(symbol: NaiveSymbol, now: int, columns: Sequence[str]) -> tuple[dict[str, float | None], int]:
    """The chosen columns of a symbol at Tick `now`, and the quality flags."""
    features, flags = book_features(symbol, now)
    told, skew = told_features(symbol, now)
    mid = features["mid_price"]
    features |= told | clock_features(now) | position_features(symbol, now, mid)
    for seconds in WINDOWS_S:
        window = book_window(symbol, now, seconds) | trade_window(symbol, now, seconds, mid)
        features |= {f"{name}_{seconds}s": feature for name, feature in window.items()}
    for column in columns:
        if (found := _ZSCORE.fullmatch(column)) is not None:
            features[column] = zscore(symbol, column, int(found[2]), features[found[1]])
    quality = flags | skew
    for column in columns:
        quality |= features[column][1]
    return {column: features[column][0] for column in columns}, int(quality)


class Naive:
    """Folds one partition; what `agents.engine.Engine` does, without haste."""

    def __init__(self, columns: Sequence[str], cadence_ms: int = 1_000) -> None:
        self._columns, self._cadence = columns, cadence_ms * NS_PER_MS
        self._symbols: SortedDict = SortedDict()

    def apply(self, events: Iterable[Event]) -> dict[tuple[str, int], tuple[dict[str, float | None], int, int]]:
        """Features, quality and book epoch by instrument and Tick."""
        out = {}
        for event in events:
            if event.kind is Kind.TICK:
                now = event.body["time"]
                for key, symbol in self._symbols.items():
                    if symbol.pass_tick(now) and now % self._cadence == 0:
                        out[key, now] = (*vector(symbol, now, self._columns), symbol.book.epoch)
            elif event.kind is not Kind.ACTIVATE and event.kind is not Kind.REFUSED:
                if event.key not in self._symbols:
                    self._symbols[event.key] = NaiveSymbol()
                self._symbols[event.key].take(event)
        return out
