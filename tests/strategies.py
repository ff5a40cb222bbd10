"""Hypothesis strategies: any event that passes the gate, and streams of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from schemas import limits
from schemas.events import FIELDS, Event, Field, FieldType, Kind
from schemas.topics import CLOCK_KEY
from schemas.units import BASE_TICK_NS

SYMBOLS = ("BINANCE_USDM:ETHUSDT", "BINANCE_SPOT:BTCUSDT", "BINANCE_COINM:ETHUSD_PERP")
times = st.integers(limits.TS_MIN_NS, limits.TS_MAX_NS - 1)
ticks = st.integers(1, 1 << 24)
lots = st.integers(1, 1 << 24)
sequences = st.integers(0, limits.SEQUENCE_MAX)


def levels(*, may_be_zero: bool) -> st.SearchStrategy[list[dict[str, int]]]:
    """Level lists of a Snapshot or a Delta."""
    sizes = st.integers(0, 1 << 30) if may_be_zero else lots
    level = st.fixed_dictionaries({"price": ticks, "size": sizes})
    return st.lists(level, max_size=6, unique_by=lambda each: each["price"])


def _field(kind: Kind, field: Field) -> st.SearchStrategy[Any]:
    if field.type is FieldType.LEVELS:
        return levels(may_be_zero=kind is Kind.DELTA)
    if field.type is FieldType.FLAG:
        return st.booleans()
    if field.type is FieldType.ENUM:
        return st.sampled_from(field.symbols)
    if field.type is FieldType.TEXT:
        return st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
    return st.none() | ticks if field.type is FieldType.OPTIONAL else ticks


def bodies(kind: Kind) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies of one kind that the gate passes."""
    fields: dict[str, st.SearchStrategy[Any]] = {field.name: _field(kind, field) for field in FIELDS[kind]}
    if kind is Kind.INSTRUMENT:
        fields |= {name: st.integers(0, limits.SCALE_MAX) for name in ("price_scale", "size_scale", "index_scale")}
    elif kind is Kind.DELTA:
        fields |= {"sequence_first": st.integers(0, 1 << 20), "sequence_last": st.integers(1 << 20, 1 << 40)}
    elif kind is Kind.FUNDING:
        fields |= {"next_funding_ts": st.none() | times, "rate": st.integers(-(10**12), 10**12)}
    elif kind is Kind.BAR:
        fields |= {"low": st.integers(1, 10), "high": st.integers(30, 40), "open": st.integers(10, 30)}
        fields |= {"close": st.integers(10, 30), "start_ts": times}
    elif kind is Kind.NEWS:
        fields |= {"sentiment": st.integers(-(10**9), 10**9), "confidence": st.integers(0, 10**9)}
    elif kind is Kind.TICK:
        grid = st.integers(limits.TS_MIN_NS // BASE_TICK_NS + 1, limits.TS_MAX_NS // BASE_TICK_NS - 1)
        fields |= {"time": grid.map(lambda step: step * BASE_TICK_NS)}
    return st.fixed_dictionaries(fields)


RECORDS = [kind for kind in Kind if kind is not Kind.REFUSED]


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Any event that the gate passes."""
    kind = draw(st.sampled_from(RECORDS))
    key = CLOCK_KEY if kind in (Kind.TICK, Kind.ACTIVATE) else draw(st.sampled_from(SYMBOLS))
    return Event(key, draw(st.just(0) | times), draw(times), kind, draw(bodies(kind)))
