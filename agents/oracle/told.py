"""Features that need no window of the market: what the venue and the account told last, and the clock.

A spot instrument has no mark, index and open interest and a dated future no funding: null without a flag.
Units: quote units, base units, seconds, ms.
"""

from __future__ import annotations

from agents.oracle.formulas import circle, decimal
from agents.oracle.market import WARMUP, mid_price, unknown
from agents.oracle.symbol import INVERSE, SPOT, Symbol
from schemas.units import BASE_TICK_NS, NS_PER_MS, NS_PER_S, RATE_SCALE
from schemas.vectors import Quality

NO_EVENTS, FUNDING_UNKNOWN = int(Quality.NO_EVENTS), int(Quality.FUNDING_UNKNOWN)
POSITION_UNKNOWN = int(Quality.POSITION_UNKNOWN)
PNL_SCALE = 8
DAY_NS = 86_400 * NS_PER_S


def untold(symbol: Symbol) -> float | None:
    """Null for what only contracts have."""
    return unknown(symbol, 0 if symbol.contract == SPOT else NO_EVENTS)


def unfunded(symbol: Symbol) -> float | None:
    """Null for what only perpetuals have."""
    return unknown(symbol, FUNDING_UNKNOWN if symbol.is_perpetual else 0)


def mark_price(symbol: Symbol, _: int) -> float | None:
    """Last told."""
    mark = symbol.mark_price
    return untold(symbol) if mark is None else decimal(float(mark), 1, symbol.index_scale)


def index_price(symbol: Symbol, _: int) -> float | None:
    """Last told."""
    index = symbol.index_price
    return untold(symbol) if index is None else decimal(float(index), 1, symbol.index_scale)


def basis_bps(symbol: Symbol, _: int) -> float | None:
    """(mark - index) / index * 10000."""
    mark, index = symbol.mark_price, symbol.index_price
    return untold(symbol) if mark is None or index is None else float(mark - index) * 10000.0 / float(index)


def open_interest(symbol: Symbol, _: int) -> float | None:
    """Last told."""
    interest = symbol.open_interest
    return untold(symbol) if interest is None else symbol.size(float(interest))


def open_interest_change(symbol: Symbol, window: int) -> float | None:
    """Open interest at T - open interest at T - W."""
    if symbol.open_interest is None:
        return untold(symbol)
    sums = symbol.sums[window]
    if sums is None or symbol.tick - symbol.interest_birth < window * BASE_TICK_NS:
        return unknown(symbol, WARMUP)
    return symbol.size(float(sums.interest))


def funding_rate(symbol: Symbol, _: int) -> float | None:
    """Last told."""
    rate = symbol.funding_rate
    return unfunded(symbol) if rate is None else decimal(float(rate), 1, RATE_SCALE)


def time_to_funding_s(symbol: Symbol, _: int) -> float | None:
    """Next funding time - T; null once the time told is past."""
    due = symbol.next_funding_ts
    return unfunded(symbol) if due is None or due < symbol.tick else float(due - symbol.tick) / float(NS_PER_S)


def feed_delay_ms(symbol: Symbol, _: int) -> float | None:
    """ts_recv - ts_event of the last event with a venue time."""
    delay = symbol.feed_delay
    return unknown(symbol, NO_EVENTS) if delay is None else float(delay) / float(NS_PER_MS)


# The own position. Before its first record it is unknown: 0, its entry the mid, every value with a flag.


def is_told(symbol: Symbol) -> bool:
    """Whether a Position record has told it; notes if not."""
    if not symbol.has_position:
        symbol.notes |= POSITION_UNKNOWN
    return symbol.has_position


def position_size(symbol: Symbol, _: int = 0) -> float | None:
    """Signed size; 0 while unknown."""
    return symbol.size(float(symbol.position)) if is_told(symbol) else 0.0


def position_side(symbol: Symbol, _: int) -> float | None:
    """1 long, -1 short, 0 flat or unknown."""
    size = symbol.position if is_told(symbol) else 0
    return 1.0 if size > 0 else -1.0 if size < 0 else 0.0


def entry_price(symbol: Symbol, _: int = 0) -> float | None:
    """Average entry price; the mid while flat or unknown."""
    if is_told(symbol):
        if symbol.entry_price is not None:
            return decimal(float(symbol.entry_price), 1, symbol.index_scale)
        if symbol.position:
            return unknown(symbol, POSITION_UNKNOWN)
    return mid_price(symbol)


def unrealized_pnl(symbol: Symbol, _: int) -> float | None:
    """(mid - entry) * size; inverse: contract value * size * (1 / entry - 1 / mid)."""
    if not is_told(symbol) or not symbol.position:
        return 0.0
    if symbol.entry_price is None:
        return unknown(symbol, POSITION_UNKNOWN)
    mid, entry = mid_price(symbol), decimal(float(symbol.entry_price), 1, symbol.index_scale)
    if mid is None:
        return None
    size = symbol.size(float(symbol.position))
    if symbol.contract == INVERSE:
        return float(symbol.contract_value) * size * (1.0 / entry - 1.0 / mid)
    return (mid - entry) * size


def realized_pnl(symbol: Symbol, _: int) -> float | None:
    """Last told; 0 while unknown."""
    if is_told(symbol):
        if symbol.realized_pnl is not None:
            return decimal(float(symbol.realized_pnl), 1, PNL_SCALE)
        symbol.notes |= POSITION_UNKNOWN
    return 0.0


def exposure(symbol: Symbol, _: int) -> float | None:
    """size * mid, signed; inverse: size * contract value."""
    if not is_told(symbol) or not symbol.position:
        return 0.0
    size = symbol.size(float(symbol.position))
    if symbol.contract == INVERSE:
        return size * float(symbol.contract_value)
    mid = mid_price(symbol)
    return None if mid is None else size * mid


def position_age_s(symbol: Symbol, _: int) -> float | None:
    """T - time at which the position last left 0 or changed its sign; 0 while flat or unknown."""
    if not is_told(symbol) or not symbol.position:
        return 0.0
    return float(symbol.tick - symbol.position_ts) / float(NS_PER_S)


# Where T lies in the day and in the week, UTC, as points on a circle.


def weekday(symbol: Symbol) -> int:
    """0 Monday to 6 Sunday; 1970-01-01 was a Thursday."""
    return (symbol.tick // DAY_NS + 3) % 7


def time_of_day_sin(symbol: Symbol, _: int) -> float | None:
    """sin(2 pi * time since midnight / day)."""
    return circle(symbol.tick % DAY_NS, DAY_NS)[0]


def time_of_day_cos(symbol: Symbol, _: int) -> float | None:
    """cos(2 pi * time since midnight / day)."""
    return circle(symbol.tick % DAY_NS, DAY_NS)[1]


def day_of_week_sin(symbol: Symbol, _: int) -> float | None:
    """sin(2 pi * day / 7)."""
    return circle(weekday(symbol), 7)[0]


def day_of_week_cos(symbol: Symbol, _: int) -> float | None:
    """cos(2 pi * day / 7)."""
    return circle(weekday(symbol), 7)[1]


PLAIN = (
    mark_price, index_price, basis_bps, open_interest, funding_rate, time_to_funding_s, feed_delay_ms,
    position_size, position_side, entry_price, unrealized_pnl, realized_pnl, exposure, position_age_s,
    time_of_day_sin, time_of_day_cos, day_of_week_sin, day_of_week_cos,
)  # fmt: skip
BY_WINDOW = (open_interest_change,)
