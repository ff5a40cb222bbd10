"""What the venue tells: mark, index, open interest, funding; and how late it tells it.

A spot instrument has no such prices and a dated future no funding: null without a flag. Else the flag says what lacks.
Units: quote units, base units, seconds, ms.
"""

from __future__ import annotations

from agents.arithmetic import FUNDING_UNKNOWN, NO_EVENTS, WARMUP, decimal, size, unknown
from agents.catalogue import EVERY, FUNDING, TICKER, By, feature
from schemas.columns import ABSENT, Int64
from schemas.units import BASE_TICK_NS, NS_PER_MS, NS_PER_S, RATE_SCALE
from tables import layout as at
from tables.compiled import inner
from tables.windows import is_covered, total

_VENUE = "venue's definition"


@inner
def untold(row: Int64) -> float:
    """Null for a price that only contracts have."""
    return unknown(row, 0 if row[at.CONTRACT] == at.SPOT else NO_EVENTS)


@inner
def unfunded(row: Int64) -> float:
    """Null for what only perpetuals have."""
    return unknown(row, FUNDING_UNKNOWN if row[at.IS_PERPETUAL] != 0 else 0)


@feature("quote", (TICKER,), _VENUE)
def mark_price(row: Int64, _: int) -> float:
    """Last told."""
    mark = row[at.MARK_PRICE]
    return decimal(float(mark), 1, row[at.INDEX_SCALE]) if mark != ABSENT else untold(row)


@feature("quote", (TICKER,), _VENUE)
def index_price(row: Int64, _: int) -> float:
    """Last told."""
    index = row[at.INDEX_PRICE]
    return decimal(float(index), 1, row[at.INDEX_SCALE]) if index != ABSENT else untold(row)


@feature("bps", (TICKER,), "Hull (2018), Options, Futures, and Other Derivatives, ch. 3")
def basis_bps(row: Int64, _: int) -> float:
    """(mark - index) / index * 10000."""
    mark, index = row[at.MARK_PRICE], row[at.INDEX_PRICE]
    if ABSENT not in (mark, index):
        return float(mark - index) * 10000.0 / float(index)
    return untold(row)


@feature("base", (TICKER,), _VENUE)
def open_interest(row: Int64, _: int) -> float:
    """Last told."""
    interest = row[at.OPEN_INTEREST]
    return size(row, float(interest)) if interest != ABSENT else untold(row)


@feature("base", (TICKER,), "difference", By.WINDOW)
def open_interest_change(row: Int64, window: int) -> float:
    """Open interest at T - open interest at T - W."""
    if row[at.OPEN_INTEREST] == ABSENT:
        return untold(row)
    if not is_covered(row, window) or row[at.TICK] - row[at.INTEREST_BIRTH] < window * BASE_TICK_NS:
        return unknown(row, WARMUP)
    return size(row, float(total(row, at.INTEREST, window)))


@feature("1", (FUNDING,), _VENUE)
def funding_rate(row: Int64, _: int) -> float:
    """Last told."""
    rate = row[at.FUNDING_RATE]
    return decimal(float(rate), 1, RATE_SCALE) if rate != ABSENT else unfunded(row)


@feature("s", (FUNDING,), _VENUE)
def time_to_funding_s(row: Int64, _: int) -> float:
    """Next funding time - T; null once the time told is past."""
    due = row[at.NEXT_FUNDING_TS]
    if due == ABSENT or due < row[at.TICK]:
        return unfunded(row)
    return float(due - row[at.TICK]) / float(NS_PER_S)


@feature("ms", (EVERY,), "as observed")
def feed_delay_ms(row: Int64, _: int) -> float:
    """ts_recv - ts_event of the last event with a venue time."""
    delay = row[at.FEED_DELAY]
    return float(delay) / float(NS_PER_MS) if delay != ABSENT else unknown(row, NO_EVENTS)
