"""The one gate: no record enters the tape, and none leaves the wire, that has not passed `check`.

Input: an `Event`.
Errors: RecordRefused with a reason; what passes fits its int64 columns and every bound of `schemas.limits`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from schemas import limits
from schemas.errors import RecordRefused
from schemas.events import FIELDS, Event, FieldType, Kind
from schemas.topics import CLOCK_KEY
from schemas.units import BASE_TICK_NS

_KEY = re.compile(r"[A-Z0-9_]{1,24}:[A-Za-z0-9._/@-]{1,39}", re.ASCII)
_CLOCK_KINDS = (Kind.TICK, Kind.ACTIVATE)


def check(event: Event) -> None:
    """Pass a record or raise RecordRefused."""
    key, ts_event, ts_recv, kind, body = event
    if kind in _CLOCK_KINDS:
        _need(key == CLOCK_KEY, "key-malformed")
    else:
        _need(is_symbol(key), "key-malformed")
    _need(ts_event == 0 or limits.TS_MIN_NS <= ts_event < limits.TS_MAX_NS, "implausible-time")
    _need(limits.TS_MIN_NS <= ts_recv < limits.TS_MAX_NS, "implausible-time")
    for name, type_, symbols in FIELDS[kind]:
        value = body[name]
        if type_ is FieldType.TEXT:
            _need(len(value.encode()) <= limits.TEXT_BYTES_MAX and value.isprintable(), "text-malformed")
        elif type_ is FieldType.ENUM:
            _need(value in symbols, "unknown-symbol")
        elif type_ in (FieldType.LONG, FieldType.OPTIONAL) and value is not None:
            _need(-limits.SCALED_MAX < value < limits.SCALED_MAX, "number-too-large")
    rule = _RULES.get(kind)
    if rule is not None:
        rule(body)


def is_symbol(key: str) -> bool:
    """Whether a key is VENUE:SYMBOL in letters that no log line or path can mistake."""
    return _KEY.fullmatch(key) is not None


def _need(holds: bool, reason: str) -> None:
    if not holds:
        raise RecordRefused(reason)


def _price(value: int) -> None:
    _need(value > 0, "price-not-positive")
    _need(value <= limits.PRICE_TICKS_MAX, "price-too-large")


def _size(value: int, *, may_be_zero: bool) -> None:
    _need(value > 0 or (may_be_zero and value == 0), "size-not-positive")
    _need(value <= limits.SIZE_LOTS_MAX, "size-too-large")


def _instrument(body: dict[str, Any]) -> None:
    for scale in ("price_scale", "size_scale", "index_scale"):
        _need(0 <= body[scale] <= limits.SCALE_MAX, "scale-out-of-range")
    for step in ("tick_size", "lot_size", "contract_value"):
        _need(0 < body[step] <= limits.PRICE_TICKS_MAX, "step-out-of-range")


def _levels(body: dict[str, Any], *, may_be_zero: bool) -> None:
    _need(len(body["bids"]) + len(body["asks"]) <= limits.RECORD_LEVELS_MAX, "too-many-levels")
    for side in (body["bids"], body["asks"]):
        for level in side:
            _price(level["price"])
            _size(level["size"], may_be_zero=may_be_zero)


def _sequence(*values: int | None) -> None:
    for value in values:
        _need(value is None or 0 <= value <= limits.SEQUENCE_MAX, "sequence-out-of-range")


def _snapshot(body: dict[str, Any]) -> None:
    _sequence(body["sequence_last"])
    _levels(body, may_be_zero=False)
    for side in (body["bids"], body["asks"]):
        _need(len({level["price"] for level in side}) == len(side), "level-doubled")


def _delta(body: dict[str, Any]) -> None:
    _sequence(body["sequence_first"], body["sequence_last"], body["sequence_previous"])
    _need(body["sequence_first"] <= body["sequence_last"], "sequence-backwards")
    _levels(body, may_be_zero=True)


def _trade(body: dict[str, Any]) -> None:
    _price(body["price"])
    _size(body["size"], may_be_zero=False)
    _need(body["price"] * body["size"] <= limits.TRADE_VALUE_MAX, "trade-too-large")


def _ticker(body: dict[str, Any]) -> None:
    _sequence(body["sequence"])
    for name in ("bid_price", "ask_price", "mark_price", "index_price"):
        _need(body[name] is None or body[name] > 0, "price-not-positive")
    for name in ("bid_size", "ask_size", "open_interest"):
        _need(body[name] is None or body[name] >= 0, "size-not-positive")


def _funding(body: dict[str, Any]) -> None:
    at = body["next_funding_ts"]
    _need(at is None or limits.TS_MIN_NS <= at < limits.TS_MAX_NS, "implausible-time")


def _bar(body: dict[str, Any]) -> None:
    for name in ("open", "high", "low", "close"):
        _price(body[name])
    _need(body["low"] <= min(body["open"], body["close"]), "bar-inconsistent")
    _need(body["high"] >= max(body["open"], body["close"]), "bar-inconsistent")
    _size(body["volume"], may_be_zero=True)


def _news(body: dict[str, Any]) -> None:
    _need(abs(body["sentiment"]) <= 10**9 and 0 <= body["confidence"] <= 10**9, "score-out-of-range")


def _tick(body: dict[str, Any]) -> None:
    _need(limits.TS_MIN_NS <= body["time"] < limits.TS_MAX_NS, "implausible-time")
    _need(body["time"] % BASE_TICK_NS == 0, "tick-off-grid")


def _activate(body: dict[str, Any]) -> None:
    _need(body["version"] > 0, "version-out-of-range")


_RULES: dict[Kind, Callable[[dict[str, Any]], None]] = {
    Kind.INSTRUMENT: _instrument, Kind.SNAPSHOT: _snapshot, Kind.DELTA: _delta, Kind.TRADE: _trade,
    Kind.TICKER: _ticker, Kind.FUNDING: _funding, Kind.BAR: _bar, Kind.NEWS: _news,
    Kind.TICK: _tick, Kind.ACTIVATE: _activate,
}  # fmt: skip
