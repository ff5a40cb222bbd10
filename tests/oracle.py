"""The `micro` features once more, naively and from their definitions: dict books, lists of events, Fractions.

Nothing here knows rows, buckets or running sums. A feature is (value, flag): None with the flag that says why.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from schemas.events import Event, Kind
from schemas.limits import LEVELS_MAX
from schemas.vectors import Quality

Feature = tuple[float | None, int]
WINDOWS = (1, 3, 15, 60)
S = 1_000_000_000


class DictBook:
    """A book by the venue's rules. `sequence` None: in gap. `is_fresh`: a Snapshot that no Delta has followed.

    `is_doubtful`: nobody watched for a while, and neither a Snapshot nor the chain has spoken since.
    """

    def __init__(self) -> None:
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self.sequence, self.is_fresh, self.epoch = None, False, 0
        self.is_doubtful = False
        self.venue_ts = self.ts = 0

    @property
    def is_whole(self) -> bool:
        return self.sequence is not None and not self.is_doubtful

    def best(self) -> tuple[float, int, float, int]:
        bid, ask = max(self.bids, default=-math.inf), min(self.asks, default=math.inf)
        return bid, self.bids.get(bid, 0), ask, self.asks.get(ask, 0)

    def may_be_late(self, venue_ts: int, ts: int) -> bool:
        """Whether a Snapshot below the book's sequence is older, not the first of a new sequence."""
        return venue_ts <= self.venue_ts if venue_ts and self.venue_ts else ts - self.ts <= S

    def snapshot(self, body: dict[str, Any], venue_ts: int = 0, ts: int = 0) -> bool:
        if self.is_whole and body["sequence_last"] < self.sequence and self.may_be_late(venue_ts, ts):
            return False
        sides = ({each["price"]: each["size"] for each in body[side]} for side in ("bids", "asks"))
        bids, asks = (sorted(side.items()) for side in sides)
        self.bids, self.asks = dict(bids[-LEVELS_MAX:]), dict(asks[:LEVELS_MAX])
        self.sequence, self.is_fresh, self.epoch = body["sequence_last"], True, self.epoch + 1
        self.is_doubtful, self.venue_ts, self.ts = False, venue_ts, ts
        return True

    def delta(self, body: dict[str, Any], venue_ts: int = 0, ts: int = 0) -> tuple[int, int] | None:
        """(order flow, levels changed) of an applied Delta."""
        known, first, last, previous = self.sequence, *(body[f"sequence_{x}"] for x in ("first", "last", "previous"))
        if known is not None and last < known and self.venue_ts and venue_ts > self.venue_ts + S:
            self.sequence, self.bids, self.asks = None, {}, {}
            return None
        if known is None or last < known or (last == known and (previous is None or not self.is_fresh)):
            return None
        joins = first <= known + 1 if previous is None else first <= known
        follows = first == known + 1 if previous is None else previous == known
        if not (follows or (self.is_fresh and joins)):
            self.sequence, self.bids, self.asks = None, {}, {}
            return None
        bid0, q0, ask0, r0 = self.best()
        changes = 0
        for side, levels in ((self.bids, body["bids"]), (self.asks, body["asks"])):
            for price, size in ((each["price"], each["size"]) for each in levels):
                before = side.get(price, 0)
                side[price] = size
                if size == 0:
                    del side[price]
                elif len(side) > LEVELS_MAX:
                    del side[(min if side is self.bids else max)(side)]
                changes += side.get(price, 0) != before
        bid, q, ask, r = self.best()
        self.sequence, self.is_fresh, self.is_doubtful = last, False, False
        self.venue_ts, self.ts = venue_ts, ts
        return q * (bid >= bid0) - q0 * (bid <= bid0) - r * (ask <= ask0) + r0 * (ask >= ask0), changes


class Symbol:
    """Everything an instrument has said, as lists; times are ts = max(ts_recv, last Tick, previous event)."""

    def __init__(self) -> None:
        self.tick = self.ts = self.book_ts = 0
        self.instrument: dict[str, Any] | None = None
        self.book = DictBook()

    def begin(self, instrument: dict[str, Any]) -> None:
        epoch = self.book.epoch
        self.instrument, self.book = instrument, DictBook()
        self.book.epoch = epoch
        self.birth = self.book_birth = 0
        self.trades: list[tuple[int, dict[str, Any]]] = []
        self.changes: list[tuple[int, int, int]] = []
        self.mids: list[tuple[int, int | None]] = []
        self.told: dict[str, int | None] = {}

    def pass_tick(self, time: int) -> bool:
        if self.instrument is None or time <= (self.tick or self.ts):
            return False
        if self.tick and time - self.tick > 60 * S:
            self.birth, self.book_birth, self.mids, self.book.is_doubtful = 0, 0, [], True
        self.tick, self.birth = time, self.birth or time
        self.book_birth = self.book_birth or (time if self.book.is_whole else 0)
        return True


def take(symbol: Symbol, event: Event) -> None:
    """One record."""
    symbol.ts = max(symbol.ts, event.ts_recv, symbol.tick)
    kind, body = event.kind, event.body
    if kind is Kind.INSTRUMENT:
        if symbol.instrument is None or any(
            body[k] != symbol.instrument[k] for k in body if k not in ("is_perpetual", "funding_interval_s")
        ):
            symbol.begin(body)
        symbol.instrument = body
    elif symbol.instrument is None:
        return
    if event.ts_event:
        symbol.told["delay"] = event.ts_recv - event.ts_event
    if kind is Kind.SNAPSHOT and symbol.book.snapshot(body, event.ts_event, symbol.ts):
        symbol.book_ts, symbol.book_birth = symbol.ts, 0
    elif kind is Kind.DELTA and (applied := symbol.book.delta(body, event.ts_event, symbol.ts)) is not None:
        symbol.changes.append((symbol.ts, *applied))
        symbol.book_ts = symbol.ts
    if kind in (Kind.SNAPSHOT, Kind.DELTA):
        bid, _, ask, _ = symbol.book.best()
        is_known = symbol.book.is_whole and symbol.book.bids and symbol.book.asks
        symbol.mids.append((symbol.ts, int(bid + ask) if is_known else None))
    elif kind is Kind.TRADE and not body["is_block"] and not body["is_insurance"]:
        symbol.trades.append((symbol.ts, body))
    elif kind is Kind.TICKER:
        symbol.told |= {k: body[k] for k in ("mark_price", "index_price", "open_interest") if body[k] is not None}
    elif kind is Kind.FUNDING:
        symbol.told |= body


def mid_at(symbol: Symbol, time: int) -> int | None:
    """Best bid + best ask after everything before `time`."""
    return next((mid for ts, mid in reversed(symbol.mids) if ts < time), None)


def price(symbol: Symbol, ticks: Fraction | int) -> float:
    """The nearest double to the exact decimal."""
    return float(Fraction(ticks) * symbol.instrument["tick_size"] / 10 ** symbol.instrument["price_scale"])


def size(symbol: Symbol, lots: Fraction | int) -> float:
    """The nearest double to the exact decimal."""
    return float(Fraction(lots) * symbol.instrument["lot_size"] / 10 ** symbol.instrument["size_scale"])


def state_features(symbol: Symbol, now: int) -> tuple[dict[str, Feature], int]:
    """What stands in the book, and flags of the whole vector."""
    names = ["mid_price", "microprice", "spread", "spread_bps", "bid_level_count", "ask_level_count", "book_age_ms"]
    names += [f"{side}_depth_{n}" for side in ("bid", "ask") for n in (5, 10, 20)]
    names += [f"queue_imbalance_{n}" for n in (1, 5, 10)]
    if not symbol.book.is_whole:
        return dict.fromkeys(names, (None, Quality.BOOK_GAP)), Quality.BOOK_GAP
    bids, asks = symbol.book.bids, symbol.book.asks
    bid_sizes = [bids[price] for price in sorted(bids, reverse=True)]
    ask_sizes = [asks[price] for price in sorted(asks)]
    age = now - symbol.book_ts
    out: dict[str, Feature] = {
        "bid_level_count": (len(bids), 0), "ask_level_count": (len(asks), 0), "book_age_ms": (age / 1e6, 0),
    }  # fmt: skip
    for n in (5, 10, 20):
        out[f"bid_depth_{n}"] = size(symbol, sum(bid_sizes[:n])), 0
        out[f"ask_depth_{n}"] = size(symbol, sum(ask_sizes[:n])), 0
    for n in (1, 5, 10):
        b, a = sum(bid_sizes[:n]), sum(ask_sizes[:n])
        out[f"queue_imbalance_{n}"] = ((b - a) / (b + a), 0) if a + b else (None, Quality.BOOK_ONE_SIDED)
    flags = Quality.BOOK_STALE if age > 5 * S else 0
    if not bids or not asks:
        return out | dict.fromkeys(names[:4], (None, Quality.BOOK_ONE_SIDED)), flags | Quality.BOOK_ONE_SIDED
    bid, ask = max(bids), min(asks)
    out["mid_price"] = price(symbol, Fraction(bid + ask, 2)), 0
    out["microprice"] = price(symbol, Fraction(bid * asks[ask] + ask * bids[bid], asks[ask] + bids[bid])), 0
    out["spread"] = price(symbol, ask - bid), 0
    out["spread_bps"] = float(Fraction(ask - bid) / Fraction(bid + ask, 2) * 10_000), 0
    return out, flags | (Quality.BOOK_CROSSED if bid > ask else 0)


def book_window(symbol: Symbol, now: int, seconds: int) -> dict[str, Feature]:
    """Mid and level changes over [now - W, now)."""
    names, since = ("log_return", "order_flow_imbalance", "churn_rate"), now - seconds * S
    if not symbol.book.is_whole:
        return dict.fromkeys(names, (None, Quality.BOOK_GAP))
    out: dict[str, Feature] = dict.fromkeys(names, (None, Quality.WARMUP))
    mid, before = mid_at(symbol, now), mid_at(symbol, since)
    if mid is None:
        out["log_return"] = None, Quality.BOOK_ONE_SIDED
    elif before is not None and since >= symbol.birth:
        out["log_return"] = math.log1p((mid - before) / before), 0
    if since >= symbol.book_birth:
        inside = [each for each in symbol.changes if since <= each[0] < now]
        out["order_flow_imbalance"] = size(symbol, sum(flow for _, flow, _ in inside)), 0
        out["churn_rate"] = sum(changes for _, _, changes in inside) / seconds, 0
    return out


def trade_window(symbol: Symbol, now: int, seconds: int) -> dict[str, Feature]:
    """Trades over [now - W, now)."""
    of_sizes = ("volume", "buy_volume", "sell_volume", "signed_volume")
    of_trades = ("vwap", "high", "low", "trade_imbalance", "net_aggressor_pressure", "average_trade_size")
    since = now - seconds * S
    if since < symbol.birth:
        return dict.fromkeys(("trade_count", "buy_sell_ratio", *of_sizes, *of_trades), (None, Quality.WARMUP))
    trades = [body for ts, body in symbol.trades if since <= ts < now]
    buys = [body["size"] for body in trades if body["side"] == "BUY"]
    sells = [body["size"] for body in trades if body["side"] == "SELL"]
    bought, sold, volume = sum(buys), sum(sells), sum(buys) + sum(sells)
    lots = (volume, bought, sold, bought - sold)
    out: dict[str, Feature] = {name: (size(symbol, n), 0) for name, n in zip(of_sizes, lots, strict=True)}
    out["trade_count"] = len(trades), 0
    out["buy_sell_ratio"] = (bought / sold, 0) if sold else (None, Quality.NO_TRADES)
    if not trades:
        return out | dict.fromkeys(of_trades, (None, Quality.NO_TRADES))
    if symbol.instrument["contract"] == "INVERSE":
        vwap = Fraction(volume / math.fsum(body["size"] / body["price"] for body in trades))
    else:
        vwap = Fraction(sum(body["size"] * body["price"] for body in trades), volume)
    out["vwap"] = price(symbol, vwap), 0
    out["high"] = price(symbol, max(body["price"] for body in trades)), 0
    out["low"] = price(symbol, min(body["price"] for body in trades)), 0
    out["trade_imbalance"] = (len(buys) - len(sells)) / len(trades), 0
    out["net_aggressor_pressure"] = (bought - sold) / volume, 0
    out["average_trade_size"] = size(symbol, Fraction(volume, len(trades))), 0
    return out


def told_features(symbol: Symbol, now: int) -> tuple[dict[str, Feature], int]:
    """What the venue told last."""
    instrument, told = symbol.instrument, symbol.told
    assert instrument is not None
    lacks = 0 if instrument["contract"] == "SPOT" else int(Quality.NO_EVENTS)
    no_funding = int(Quality.FUNDING_UNKNOWN) if instrument["is_perpetual"] else 0
    names = ("mark_price", "index_price", "basis_bps", "open_interest")
    out: dict[str, Feature] = dict.fromkeys(names, (None, lacks))
    out |= {"funding_rate": (None, no_funding), "time_to_funding_s": (None, no_funding)}
    out["feed_delay_ms"] = None, Quality.NO_EVENTS
    mark, index, delay = told.get("mark_price"), told.get("index_price"), told.get("delay")
    for name, value in (("mark_price", mark), ("index_price", index)):
        if value is not None:
            out[name] = float(Fraction(value, 10 ** instrument["index_scale"])), 0
    if mark is not None and index is not None:
        out["basis_bps"] = float(Fraction(mark - index, index) * 10_000), 0
    if told.get("open_interest") is not None:
        out["open_interest"] = size(symbol, told["open_interest"]), 0
    if told.get("rate") is not None:
        out["funding_rate"] = float(Fraction(told["rate"], 10**12)), 0
    if (told.get("next_funding_ts") or 0) >= now:
        out["time_to_funding_s"] = (told["next_funding_ts"] - now) / 1e9, 0
    if delay is not None:
        out["feed_delay_ms"] = delay / 1e6, 0
    return out, Quality.CLOCK_SKEW if delay is not None and delay < 0 else 0


def vector(symbol: Symbol, now: int) -> tuple[dict[str, float | None], int]:
    """All features of a symbol at Tick `now`, and the quality flags."""
    features, flags = state_features(symbol, now)
    told, skew = told_features(symbol, now)
    features |= told
    for seconds in WINDOWS:
        window = book_window(symbol, now, seconds) | trade_window(symbol, now, seconds)
        features |= {f"{name}_{seconds}s": feature for name, feature in window.items()}
    quality = flags | skew
    for _, why in features.values():
        quality |= why
    return {name: value for name, (value, _) in features.items()}, int(quality)


def replay(events: list[Event], cadence_ns: int = S) -> dict[tuple[str, int], tuple[dict[str, float | None], int, int]]:
    """(features, quality, book epoch) by instrument and Tick. Lists are pruned to what a window can reach."""
    symbols: dict[str, Symbol] = {}
    out = {}
    for event in events:
        if event.kind is Kind.TICK:
            now = event.body["time"]
            for key, symbol in symbols.items():
                if symbol.pass_tick(now) and now % cadence_ns == 0:
                    symbol.trades = [each for each in symbol.trades if each[0] >= now - 60 * S]
                    symbol.changes = [each for each in symbol.changes if each[0] >= now - 60 * S]
                    out[key, now] = (*vector(symbol, now), symbol.book.epoch)
        elif event.kind is not Kind.ACTIVATE:
            take(symbols.setdefault(event.key, Symbol()), event)
    return out
