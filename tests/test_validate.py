"""The gate passes what is legal and names what is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from strategies import events

from schemas import limits
from schemas.errors import RecordRefused
from schemas.events import Event, Kind
from schemas.validate import check

NOW = 1_721_347_200_000_000_000
TRADE: dict[str, Any] = {"price": 5, "size": 7, "side": "BUY", "trade_id": "1", "is_block": False}
TRADE |= {"is_liquidation": False, "is_insurance": False}
DELTA: dict[str, Any] = {"sequence_first": 1, "sequence_last": 2, "sequence_previous": None, "bids": [], "asks": []}


@given(events())
def test_legal_events_pass(event: Event) -> None:
    check(event)


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (Kind.TRADE, TRADE | {"price": 0}, "price-not-positive"),
        (Kind.TRADE, TRADE | {"price": -1}, "price-not-positive"),
        (Kind.TRADE, TRADE | {"size": 0}, "size-not-positive"),
        (Kind.TRADE, TRADE | {"price": 1 << 41}, "price-too-large"),
        (Kind.TRADE, TRADE | {"size": 1 << 63}, "number-too-large"),
        (Kind.TRADE, TRADE | {"price": 1 << 30, "size": 1 << 30}, "trade-too-large"),
        (Kind.TRADE, TRADE | {"trade_id": "\x1b[31m"}, "text-malformed"),
        (Kind.TRADE, TRADE | {"trade_id": "x" * 300}, "text-malformed"),
        (Kind.DELTA, DELTA | {"sequence_first": 3}, "sequence-backwards"),
        (Kind.DELTA, DELTA | {"bids": [{"price": 1, "size": -1}]}, "size-not-positive"),
        (Kind.DELTA, DELTA | {"asks": [{"price": 1, "size": 1}] * 20_001}, "too-many-levels"),
        (Kind.SNAPSHOT, {"sequence_last": 1, "bids": [{"price": 1, "size": 0}], "asks": []}, "size-not-positive"),
        (Kind.SNAPSHOT, {"sequence_last": 1, "bids": [{"price": 1, "size": 1}] * 2, "asks": []}, "level-doubled"),
        (Kind.NEWS, {"source_id": "x", "sentiment": 2 * 10**9, "confidence": 0}, "score-out-of-range"),
    ],
)
def test_illegal_bodies_are_named(kind: Kind, body: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecordRefused) as refusal:
        check(Event("V:S", NOW, NOW, kind, body))
    assert refusal.value.reason == reason


@pytest.mark.fault("market data", "hostile symbol names")
@pytest.mark.parametrize("key", ["", "*", "nocolon", "V:", "V:a\nb", "V:" + "x" * 80, "v:S", "V:\x1b[0m", "V:..\\"])
def test_hostile_names_are_refused(key: str) -> None:
    with pytest.raises(RecordRefused, match="key-malformed"):
        check(Event(key, NOW, NOW, Kind.TRADE, TRADE))


@pytest.mark.fault("time", "a clock in us, ms or s instead of ns")
@pytest.mark.parametrize("ts", [-1, 1, NOW // 1000, NOW // 10**6, limits.TS_MAX_NS, 1 << 64])
def test_times_in_a_wrong_unit_are_refused(ts: int) -> None:
    with pytest.raises(RecordRefused, match="implausible-time"):
        check(Event("V:S", ts, NOW, Kind.TRADE, TRADE))
