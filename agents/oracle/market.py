"""Features of prices, book and flow, each defined once: a function of the instrument at its Tick and an argument.

The argument is a window in steps of 100 ms, a depth in levels, or nothing. A value nobody can know is None, and the
notes say why. Blocks and trades of the insurance fund are no aggressor flow and in none of these.
Units: quote units, base units (contracts where the instrument counts contracts), basis points, ms.
"""

from __future__ import annotations

from math import sqrt

from agents.oracle.book import Side
from agents.oracle.formulas import POWERS, decimal, least_squares_slope, log_ratio
from agents.oracle.symbol import INVERSE, Symbol
from agents.oracle.windows import DELTAS_MAX, LIMB_BITS, TRADES_MAX, VARIANCE_LIMB, VARIANCE_UNIT, Sums
from schemas.units import BASE_TICK_NS, NS_PER_MS, NS_PER_S
from schemas.vectors import Quality

GAP, ONE_SIDED = int(Quality.BOOK_GAP), int(Quality.BOOK_ONE_SIDED)
WARMUP, NO_TRADES, ERROR = int(Quality.WARMUP), int(Quality.NO_TRADES), int(Quality.COMPUTATION_ERROR)
_LIMB = float(1 << LIMB_BITS)
_INVERSE_UNIT = float(1 << 60)
_STEPS_PER_S = NS_PER_S // BASE_TICK_NS


def unknown(symbol: Symbol, flag: int) -> float | None:
    """Null, and why; 0 where nothing lacks that could be there."""
    symbol.notes |= flag
    return None


def no_mid(symbol: Symbol) -> float | None:
    """Null for a mid that is not known."""
    return unknown(symbol, ONE_SIDED if symbol.book.is_whole else GAP)


# Prices of the book.


def mid_price(symbol: Symbol, _: int = 0) -> float | None:
    """(best bid + best ask) / 2."""
    return symbol.price(float(symbol.mid2)) / 2.0 if symbol.mid2 else no_mid(symbol)


def microprice(symbol: Symbol, _: int) -> float | None:
    """bid + spread * bid size / (bid size + ask size)."""
    if not symbol.mid2:
        return no_mid(symbol)
    bid, ask = symbol.book.bids.ranks[-1], -symbol.book.asks.ranks[-1]
    bid_size, ask_size = symbol.book.bids.sizes[bid], symbol.book.asks.sizes[-ask]
    share = float(bid_size) / float(bid_size + ask_size)
    return symbol.price(float(bid) + float(ask - bid) * share)


def spread(symbol: Symbol, _: int) -> float | None:
    """Best ask - best bid."""
    if not symbol.mid2:
        return no_mid(symbol)
    return symbol.price(float(-symbol.book.asks.ranks[-1] - symbol.book.bids.ranks[-1]))


def spread_bps(symbol: Symbol, _: int) -> float | None:
    """spread / mid * 10000."""
    if not symbol.mid2:
        return no_mid(symbol)
    return float(-symbol.book.asks.ranks[-1] - symbol.book.bids.ranks[-1]) * 20000.0 / float(symbol.mid2)


def log_return(symbol: Symbol, window: int) -> float | None:
    """log(mid at T / mid at T - W)."""
    if not symbol.mid2:
        return no_mid(symbol)
    before = 0 if symbol.sums[window] is None else symbol.windows.mids[-1 - window]
    return log_ratio(float(symbol.mid2), float(before)) if before else unknown(symbol, WARMUP)


def realized_volatility(symbol: Symbol, window: int) -> float | None:
    """sqrt(sum of squared log returns of the mid over the steps of 100 ms in W)."""
    if not symbol.mid2:
        return no_mid(symbol)
    sums = symbol.sums[window]
    if sums is None or sums.returns != window:
        return unknown(symbol, WARMUP)
    return sqrt((float(sums.variance_high) * VARIANCE_LIMB + float(sums.variance_low)) / VARIANCE_UNIT)


# Trades of a window.


def trades_of(symbol: Symbol, window: int) -> Sums | None:
    """Sums of a window whose trades are known and fit them; notes what lacks."""
    sums = symbol.sums[window]
    if sums is None:
        symbol.notes |= WARMUP
        return None
    if sums.buy_count + sums.sell_count > TRADES_MAX:
        symbol.notes |= ERROR
        return None
    return sums


def prices_of(symbol: Symbol, window: int) -> Sums | None:
    """The same for what needs a trade."""
    sums = trades_of(symbol, window)
    if sums is not None and not sums.buy_count + sums.sell_count:
        symbol.notes |= NO_TRADES
        return None
    return sums


def vwap(symbol: Symbol, window: int) -> float | None:
    """sum(price * size) / sum(size); inverse contracts: sum(size) / sum(size / price)."""
    sums = prices_of(symbol, window)
    if sums is None:
        return None
    value = (float(sums.value_2) * _LIMB + float(sums.value_1)) * _LIMB + float(sums.value_0)
    volume = float(sums.buy_volume + sums.sell_volume)
    return symbol.price(volume * _INVERSE_UNIT / value if symbol.contract == INVERSE else value / volume)


def vwap_deviation_bps(symbol: Symbol, window: int) -> float | None:
    """(mid - vwap) / vwap * 10000."""
    mid, average = mid_price(symbol), vwap(symbol, window)
    return None if mid is None or average is None else (mid - average) / average * 10000.0


def high(symbol: Symbol, window: int) -> float | None:
    """Highest trade price."""
    return None if prices_of(symbol, window) is None else symbol.price(float(symbol.windows.high(window)))


def low(symbol: Symbol, window: int) -> float | None:
    """Lowest trade price."""
    return None if prices_of(symbol, window) is None else symbol.price(float(symbol.windows.low(window)))


def trade_count(symbol: Symbol, window: int) -> float | None:
    """Buys + sells."""
    sums = trades_of(symbol, window)
    return None if sums is None else float(sums.buy_count + sums.sell_count)


def volume(symbol: Symbol, window: int) -> float | None:
    """Buy volume + sell volume."""
    sums = trades_of(symbol, window)
    return None if sums is None else symbol.size(float(sums.buy_volume + sums.sell_volume))


def buy_volume(symbol: Symbol, window: int) -> float | None:
    """Sum of sizes, aggressor buys."""
    sums = trades_of(symbol, window)
    return None if sums is None else symbol.size(float(sums.buy_volume))


def sell_volume(symbol: Symbol, window: int) -> float | None:
    """Sum of sizes, aggressor sells."""
    sums = trades_of(symbol, window)
    return None if sums is None else symbol.size(float(sums.sell_volume))


def signed_volume(symbol: Symbol, window: int) -> float | None:
    """Buy volume - sell volume."""
    sums = trades_of(symbol, window)
    return None if sums is None else symbol.size(float(sums.buy_volume - sums.sell_volume))


def buy_sell_ratio(symbol: Symbol, window: int) -> float | None:
    """Buy volume / sell volume."""
    sums = trades_of(symbol, window)
    if sums is None:
        return None
    return float(sums.buy_volume) / float(sums.sell_volume) if sums.sell_volume else unknown(symbol, NO_TRADES)


def trade_imbalance(symbol: Symbol, window: int) -> float | None:
    """(buys - sells) / (buys + sells), counts."""
    sums = prices_of(symbol, window)
    if sums is None:
        return None
    return float(sums.buy_count - sums.sell_count) / float(sums.buy_count + sums.sell_count)


def net_aggressor_pressure(symbol: Symbol, window: int) -> float | None:
    """Signed volume / volume."""
    sums = prices_of(symbol, window)
    if sums is None:
        return None
    return float(sums.buy_volume - sums.sell_volume) / float(sums.buy_volume + sums.sell_volume)


def average_trade_size(symbol: Symbol, window: int) -> float | None:
    """Volume / trade count."""
    sums = prices_of(symbol, window)
    if sums is None:
        return None
    count = float(sums.buy_count + sums.sell_count)
    return float(sums.buy_volume + sums.sell_volume) * float(symbol.lot_size) / (POWERS[symbol.size_scale] * count)


# What the Deltas of a window did to the book.


def book_of(symbol: Symbol, window: int) -> Sums | None:
    """Sums of a window all through which the book was whole; notes what lacks."""
    book, sums = symbol.book, symbol.sums[window]
    if not book.is_whole:
        symbol.notes |= GAP
    elif sums is None or symbol.tick - book.birth < window * BASE_TICK_NS:
        symbol.notes |= WARMUP
    elif sums.deltas > DELTAS_MAX:
        symbol.notes |= ERROR
    else:
        return sums
    return None


def order_flow_imbalance(symbol: Symbol, window: int) -> float | None:
    """Sum per Delta of I[b >= b'] q - I[b <= b'] q' - I[a <= a'] r + I[a >= a'] r', best level."""
    sums = book_of(symbol, window)
    return None if sums is None else symbol.size(float(sums.order_flow))


def multi_level_ofi_5(symbol: Symbol, window: int) -> float | None:
    """Order flow imbalance of the m-th best level, summed over m = 1..5."""
    sums = book_of(symbol, window)
    return None if sums is None else symbol.size(float(sums.multi_flow))


def churn_rate(symbol: Symbol, window: int) -> float | None:
    """Levels that Deltas changed / W."""
    sums = book_of(symbol, window)
    return None if sums is None else float(sums.churn) / (float(window) / float(_STEPS_PER_S))


# What stands in the book.


def best_lots(cumulated: list[int], depth: int) -> int:
    """Lots in the best levels of a side, as many as there are."""
    return cumulated[min(depth, len(cumulated)) - 1] if cumulated else 0


def bid_depth(symbol: Symbol, depth: int) -> float | None:
    """Sum of sizes of the best N bid levels."""
    return symbol.size(float(best_lots(symbol.bid_lots, depth))) if symbol.book.is_whole else unknown(symbol, GAP)


def ask_depth(symbol: Symbol, depth: int) -> float | None:
    """Sum of sizes of the best N ask levels."""
    return symbol.size(float(best_lots(symbol.ask_lots, depth))) if symbol.book.is_whole else unknown(symbol, GAP)


def queue_imbalance(symbol: Symbol, depth: int) -> float | None:
    """(B - A) / (B + A), sizes of the best N levels of each side."""
    if not symbol.book.is_whole:
        return unknown(symbol, GAP)
    bids, asks = best_lots(symbol.bid_lots, depth), best_lots(symbol.ask_lots, depth)
    return float(bids - asks) / float(bids + asks) if bids + asks else unknown(symbol, ONE_SIDED)


def slope(symbol: Symbol, side: Side, cumulated: list[int], depth: int) -> float | None:
    """Least squares slope of cumulative size on distance from mid, best N levels of a side, in base per quote."""
    mid2, prices = symbol.mid2, side.prices(depth)
    if not mid2:
        return no_mid(symbol)
    if len(prices) < 2:
        return unknown(symbol, ONE_SIDED)
    distances = [abs(2 * price - mid2) for price in prices]
    lots_per_half_tick = least_squares_slope(distances, cumulated[: len(prices)])
    half_tick = decimal(0.5, symbol.tick_size, symbol.price_scale)
    return symbol.size(lots_per_half_tick) / half_tick


def bid_slope(symbol: Symbol, depth: int) -> float | None:
    """Slope of the bids."""
    return slope(symbol, symbol.book.bids, symbol.bid_lots, depth)


def ask_slope(symbol: Symbol, depth: int) -> float | None:
    """Slope of the asks."""
    return slope(symbol, symbol.book.asks, symbol.ask_lots, depth)


def bid_level_count(symbol: Symbol, _: int) -> float | None:
    """Levels on the bid side."""
    return float(len(symbol.book.bids.ranks)) if symbol.book.is_whole else unknown(symbol, GAP)


def ask_level_count(symbol: Symbol, _: int) -> float | None:
    """Levels on the ask side."""
    return float(len(symbol.book.asks.ranks)) if symbol.book.is_whole else unknown(symbol, GAP)


def book_age_ms(symbol: Symbol, _: int) -> float | None:
    """T - time of the last applied Snapshot or Delta."""
    book = symbol.book
    return float(symbol.tick - book.ts) / float(NS_PER_MS) if book.is_whole else unknown(symbol, GAP)


PLAIN = (mid_price, microprice, spread, spread_bps, bid_level_count, ask_level_count, book_age_ms)
BY_DEPTH = (bid_depth, ask_depth, queue_imbalance, bid_slope, ask_slope)
BY_WINDOW = (
    log_return, realized_volatility, vwap, vwap_deviation_bps, high, low, trade_count, volume, buy_volume, sell_volume,
    signed_volume, buy_sell_ratio, trade_imbalance, net_aggressor_pressure, average_trade_size, order_flow_imbalance,
    multi_level_ofi_5, churn_rate,
)  # fmt: skip
