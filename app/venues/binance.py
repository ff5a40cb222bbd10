"""Binance spot, USD-M and COIN-M futures: what each frame of their raw streams says.

Input: the JSON of one frame as a value, and for a REST answer its url.
Output: drafts of records; none for a frame that only controls the connection.
Units: venue clocks in ms, on spot also in us (since 2025); numbers stay the venue's texts.
Errors: RecordRefused with `foreign-frame` for no frame of Binance, `other-format` for one of another Binance market,
    and a reason each for streams and fields that are not readable.
Source: Binance API documentation, "Diff. Book Depth Streams", "How to manage a local order book correctly".
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from app.venues.draft import Draft, Steps, steps_of
from schemas.errors import RecordRefused
from schemas.events import Kind
from schemas.units import to_ns

_COINM_SYMBOL = re.compile(r"[A-Z0-9]{1,20}USD_(PERP|[0-9]{6})", re.ASCII)
_USDM_SYMBOL = re.compile(r"[A-Z0-9]{1,30}(_[0-9]{6})?", re.ASCII)
_SPOT_SYMBOL = re.compile(r"[A-Z0-9]{1,30}", re.ASCII)
_URL_SYMBOL = re.compile(r"[?&]symbol=([A-Z0-9_]+)", re.ASCII)
_INTERVAL = re.compile(r"([1-9][0-9]{0,3})([smhdw])", re.ASCII)
"""A month ("1M") has no fixed number of seconds, so it is no interval here."""
_INTERVAL_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_INSURANCE = ("INSURANCE_FUND", "ADL")
_COINM_BTC_CONTRACT_USD, _COINM_CONTRACT_USD = 100, 10


@dataclass(frozen=True, slots=True)
class BinanceFormat:
    """One of Binance's markets: how its frames differ from the others'."""

    name: str
    venue: str
    contract: str
    symbol: re.Pattern[str]
    clock_units: tuple[str, ...]
    exchanges: frozenset[str]
    """Names of this market in the headers of recordings."""
    receive_units: tuple[str, ...] = ("ns", "us", "ms")

    @property
    def is_spot(self) -> bool:
        """Spot deltas carry no `pu`; their chain rule is U = previous u + 1."""
        return self.contract == "SPOT"

    def key(self, symbol: str) -> str:
        """The tape's key of a symbol."""
        return f"{self.venue}:{symbol}"

    def instrument(self, symbol: str, steps: Steps, index_scale: int) -> dict[str, Any]:
        """Body of the symbol's Instrument record."""
        contract_value = 1
        if self.contract == "INVERSE":
            contract_value = _COINM_BTC_CONTRACT_USD if symbol.startswith("BTCUSD") else _COINM_CONTRACT_USD
        return {
            "venue": self.venue, "symbol": symbol, **steps._asdict(), "index_scale": index_scale,
            "contract": self.contract, "is_perpetual": not self.is_spot and not symbol[-6:].isdigit(),
            "contract_value": contract_value, "funding_interval_s": None,
        }  # fmt: skip

    def drafts(self, frame: Any, url: str) -> list[Draft]:
        """Records of one frame. A snapshot's symbol comes from the url, else from the frame, else it is empty."""
        if not isinstance(frame, dict):
            raise RecordRefused("foreign-frame")
        if "lastUpdateId" in frame:
            return [self._snapshot(frame, url)]
        data = frame.get("data", frame)
        if not isinstance(data, dict):
            raise RecordRefused("foreign-frame")
        stream = frame.get("stream", "")
        name = data.get("e", "bookTicker" if data.keys() >= {"u", "s", "b", "B", "a", "A"} else None)
        if name is None:
            if "exchangeFilters" in frame or frame.keys() == {"result", "id"}:
                return []
            raise RecordRefused("unsupported-stream" if stream else "foreign-frame")
        read = _STREAMS.get(name) if isinstance(name, str) else None
        if read is None:
            raise RecordRefused("unsupported-stream")
        symbol = _text(data, "s")
        if not _is_symbol(self.symbol, symbol) or _is_other(data, name, self):
            raise RecordRefused("other-format")
        return read(self, symbol, data)

    def steps(self, frame: Any) -> dict[str, Steps]:
        """Price and size steps by symbol, where a frame is an exchangeInfo answer; else empty."""
        if not isinstance(frame, dict) or "exchangeFilters" not in frame or not isinstance(frame.get("symbols"), list):
            return {}
        found = {}
        for entry in frame["symbols"]:
            try:
                filters = {each["filterType"]: each for each in entry["filters"]}
                found[entry["symbol"]] = steps_of(filters["PRICE_FILTER"]["tickSize"], filters["LOT_SIZE"]["stepSize"])
            except (KeyError, TypeError, RecordRefused):
                # An instrument described in another way is measured like one that is not described at all.
                continue
        return found

    def is_doubled(self, draft: Draft, trade_streams: Container[str]) -> bool:
        """Whether a draft repeats trades of another of its symbol's trade streams: aggTrade sums up those of trade."""
        return draft.stream == "aggTrade" and "trade" in trade_streams

    def ts_event(self, data: dict[str, Any], *names: str) -> int:
        """ns of the first clock field that is there, else 0."""
        for name in names:
            if name in data:
                return to_ns(_integer(data, name), self.clock_units)
        return 0

    def _snapshot(self, data: dict[str, Any], url: str) -> Draft:
        match = _URL_SYMBOL.search(url)
        symbol = match[1] if match else data.get("symbol", "")
        if not isinstance(symbol, str) or (symbol and not _is_symbol(self.symbol, symbol)):
            raise RecordRefused("other-format")
        if self.is_spot == ("E" in data):
            raise RecordRefused("other-format")
        body = {
            "sequence_last": _integer(data, "lastUpdateId"),
            "bids": _levels(data, "bids"),
            "asks": _levels(data, "asks"),
        }
        return Draft(symbol, self.ts_event(data, "T", "E"), Kind.SNAPSHOT, body)


@lru_cache(maxsize=4_096)
def _is_symbol(pattern: re.Pattern[str], symbol: str) -> bool:
    return pattern.fullmatch(symbol) is not None


def _is_other(data: dict[str, Any], name: str, market: BinanceFormat) -> bool:
    """Whether a frame has the marks of another Binance market than the declared one."""
    if name == "depthUpdate":
        return market.is_spot == ("pu" in data) or (market.contract == "LINEAR" and "ps" in data)
    if name == "bookTicker":
        return market.is_spot == ("e" in data)
    if name in ("trade", "aggTrade"):
        return market.is_spot != ("M" in data)
    return name == "markPriceUpdate" and market.is_spot


def _delta(market: BinanceFormat, symbol: str, data: dict[str, Any]) -> list[Draft]:
    body = {
        "sequence_first": _integer(data, "U"), "sequence_last": _integer(data, "u"),
        "sequence_previous": None if market.is_spot else _integer(data, "pu"),
        "bids": _levels(data, "b"), "asks": _levels(data, "a"),
    }  # fmt: skip
    return [Draft(symbol, market.ts_event(data, "T", "E"), Kind.DELTA, body)]


def _trade(market: BinanceFormat, symbol: str, data: dict[str, Any]) -> list[Draft]:
    # The type of a trade is given on the futures' trade stream only.
    trade_type = data.get("X", "MARKET")
    if trade_type != "MARKET" and trade_type not in _INSURANCE:
        raise RecordRefused("trade-type-unknown")
    is_buyer_maker = data.get("m")
    if not isinstance(is_buyer_maker, bool):
        raise RecordRefused("field-missing")
    trade_id = _integer(data, "a" if data["e"] == "aggTrade" else "t")
    body = {
        "price": data.get("p"), "size": data.get("q"), "side": "SELL" if is_buyer_maker else "BUY",
        "trade_id": str(trade_id), "is_block": False, "is_liquidation": False,
        "is_insurance": trade_type in _INSURANCE,
    }  # fmt: skip
    draft = Draft(symbol, market.ts_event(data, "T", "E"), Kind.TRADE, body, data["e"])
    return [_stated(draft, "price", "size")]


def _ticker_body(**known: Any) -> dict[str, Any]:
    return {
        "sequence": None, "bid_price": None, "bid_size": None, "ask_price": None, "ask_size": None,
        "mark_price": None, "index_price": None, "open_interest": None, **known,
    }  # fmt: skip


def _book_ticker(market: BinanceFormat, symbol: str, data: dict[str, Any]) -> list[Draft]:
    body = _ticker_body(
        sequence=_integer(data, "u"), bid_price=data.get("b"), bid_size=data.get("B"),
        ask_price=data.get("a"), ask_size=data.get("A"),
    )  # fmt: skip
    draft = Draft(symbol, market.ts_event(data, "T", "E"), Kind.TICKER, body)
    return [_stated(draft, "bid_price", "bid_size", "ask_price", "ask_size")]


def _mark_price(market: BinanceFormat, symbol: str, data: dict[str, Any]) -> list[Draft]:
    # T is the next funding time here, not the time of the event. Delivery contracts have no funding: r "" and T 0.
    ts_event = market.ts_event(data, "E")
    drafts = [_stated(Draft(symbol, ts_event, Kind.TICKER, _ticker_body(
        mark_price=data.get("p"), index_price=data.get("i"))), "mark_price")]  # fmt: skip
    if data.get("r"):
        at = _integer(data, "T")
        body = {"rate": data["r"], "next_funding_ts": to_ns(at, market.clock_units) if at else None}
        drafts.append(Draft(symbol, ts_event, Kind.FUNDING, body))
    return drafts


def _kline(market: BinanceFormat, symbol: str, data: dict[str, Any]) -> list[Draft]:
    bar = data.get("k")
    if not isinstance(bar, dict) or not isinstance(bar.get("x"), bool):
        raise RecordRefused("field-missing")
    interval = _INTERVAL.fullmatch(_text(bar, "i"))
    if interval is None:
        raise RecordRefused("interval-unknown")
    body = {
        "interval_s": int(interval[1]) * _INTERVAL_S[interval[2]], "open": bar.get("o"), "high": bar.get("h"),
        "low": bar.get("l"), "close": bar.get("c"), "volume": bar.get("v"), "is_closed": bar["x"],
        "start_ts": to_ns(_integer(bar, "t"), market.clock_units),
    }  # fmt: skip
    draft = Draft(symbol, market.ts_event(data, "E"), Kind.BAR, body)
    return [_stated(draft, "open", "high", "low", "close", "volume")]


_STREAMS = {
    "depthUpdate": _delta, "trade": _trade, "aggTrade": _trade, "bookTicker": _book_ticker,
    "markPriceUpdate": _mark_price, "kline": _kline,
}  # fmt: skip


def _stated(draft: Draft, *names: str) -> Draft:
    for name in names:
        if draft.body[name] is None:
            raise RecordRefused("field-missing")
    return draft


def _integer(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    if type(value) is not int:
        raise RecordRefused("field-missing")
    return value


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str):
        raise RecordRefused("field-missing")
    return value


def _levels(data: dict[str, Any], name: str) -> list[list[Any]]:
    levels = data.get(name)
    if not isinstance(levels, list):
        raise RecordRefused("field-missing")
    for level in levels:
        if type(level) is not list or len(level) < 2 or type(level[0]) is not str or type(level[1]) is not str:
            raise RecordRefused("level-malformed")
    return levels


FORMATS = (
    BinanceFormat(
        "binance-usdm", "BINANCE_USDM", "LINEAR", _USDM_SYMBOL, ("ms",), frozenset({"BINANCE_FUTURES"})
    ),
    BinanceFormat(
        "binance-coinm", "BINANCE_COINM", "INVERSE", _COINM_SYMBOL, ("ms",), frozenset({"BINANCE_DELIVERY"})
    ),
    BinanceFormat(
        "binance-spot", "BINANCE_SPOT", "SPOT", _SPOT_SYMBOL, ("ms", "us"), frozenset({"BINANCE"})
    ),
)  # fmt: skip
