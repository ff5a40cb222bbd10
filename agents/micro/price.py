"""Prices: of the book, of trades, and how they moved.

Units: quote units, basis points.
"""

from __future__ import annotations

import math

from agents.arithmetic import ERROR, NO_TRADES, WARMUP, no_mid, price, unknown
from agents.catalogue import BOOK, TRADES, By, feature
from schemas.columns import Int64
from schemas.limits import DEPTH_MAX
from tables import layout as at
from tables.book import mid2
from tables.compiled import inner
from tables.logarithm import log_ratio
from tables.windows import highest, is_covered, lowest, mid2_before, total

_HARRIS = "Harris (2003), Trading and Exchanges"
_LIMB = float(1 << at.VALUE_BITS)
_INVERSE_UNIT = float(1 << 60)
_VARIANCE_LIMB = float(1 << at.VARIANCE_BITS)
_VARIANCE_UNIT = float(1 << 2 * at.VARIANCE_BITS)


@feature("quote", (BOOK,), _HARRIS)
def mid_price(row: Int64, _: int) -> float:
    """(best bid + best ask) / 2."""
    mid = mid2(row)
    return price(row, float(mid)) / 2.0 if mid != 0 else no_mid(row)


@feature("quote", (BOOK,), "Gatheral, Oomen (2010), Zero-intelligence realized variance estimation")
def microprice(row: Int64, _: int) -> float:
    """bid + spread * bid size / (bid size + ask size)."""
    if mid2(row) == 0:
        return no_mid(row)
    bid, ask = row[at.TOP_BIDS], -row[at.TOP_ASKS]
    bid_size, ask_size = row[at.TOP_BIDS + DEPTH_MAX], row[at.TOP_ASKS + DEPTH_MAX]
    share = float(bid_size) / float(bid_size + ask_size)
    return price(row, float(bid) + float(ask - bid) * share)


@feature("quote", (BOOK,), _HARRIS)
def spread(row: Int64, _: int) -> float:
    """Best ask - best bid."""
    if mid2(row) == 0:
        return no_mid(row)
    return price(row, float(-row[at.TOP_ASKS] - row[at.TOP_BIDS]))


@feature("bps", (BOOK,), _HARRIS)
def spread_bps(row: Int64, _: int) -> float:
    """spread / mid * 10000."""
    mid = mid2(row)
    if mid == 0:
        return no_mid(row)
    return float(-row[at.TOP_ASKS] - row[at.TOP_BIDS]) * 20000.0 / float(mid)


@feature("1", (BOOK,), "Campbell, Lo, MacKinlay (1997), The Econometrics of Financial Markets, 1.4", By.WINDOW)
def log_return(row: Int64, window: int) -> float:
    """log(mid at T / mid at T - W)."""
    now = mid2(row)
    if now == 0:
        return no_mid(row)
    before = mid2_before(row, window)
    if not is_covered(row, window) or before == 0:
        return unknown(row, WARMUP)
    return log_ratio(float(now), float(before))


@feature("1", (BOOK,), "Andersen, Bollerslev, Diebold, Labys (2003), Modeling and forecasting realized volatility",
         By.WINDOW)  # fmt: skip
def realized_volatility(row: Int64, window: int) -> float:
    """sqrt(sum of squared log returns of the mid over the steps of 100 ms in W)."""
    if mid2(row) == 0:
        return no_mid(row)
    if not is_covered(row, window) or total(row, at.RETURNS, window) != window:
        return unknown(row, WARMUP)
    high, low = total(row, at.VARIANCE_HIGH, window), total(row, at.VARIANCE_LOW, window)
    return math.sqrt((float(high) * _VARIANCE_LIMB + float(low)) / _VARIANCE_UNIT)


@inner
def volume_of(row: Int64, window: int) -> int:
    """Lots traded in a window; 0, with a note, where its prices are unknown."""
    if not is_covered(row, window):
        unknown(row, WARMUP)
        return 0
    trades = total(row, at.BUY_COUNT, window) + total(row, at.SELL_COUNT, window)
    if trades == 0 or trades > at.TRADES_MAX:
        unknown(row, NO_TRADES if trades == 0 else ERROR)
        return 0
    return total(row, at.BUY_VOLUME, window) + total(row, at.SELL_VOLUME, window)


@feature("quote", (TRADES,), "Berkowitz, Logue, Noser (1988), The total cost of transactions on the NYSE", By.WINDOW)
def vwap(row: Int64, window: int) -> float:
    """sum(price * size) / sum(size); inverse contracts: sum(size) / sum(size / price)."""
    volume = volume_of(row, window)
    if volume == 0:
        return math.nan
    high, middle = total(row, at.VALUE_2, window), total(row, at.VALUE_1, window)
    value = (float(high) * _LIMB + float(middle)) * _LIMB + float(total(row, at.VALUE_0, window))
    if row[at.CONTRACT] == at.INVERSE:
        return price(row, float(volume) * _INVERSE_UNIT / value)
    return price(row, value / float(volume))


@feature("bps", (BOOK, TRADES), "distance of the mid from the volume-weighted price", By.WINDOW)
def vwap_deviation_bps(row: Int64, window: int) -> float:
    """(mid - vwap) / vwap * 10000."""
    mid, average = mid_price(row, 0), vwap(row, window)
    return (mid - average) / average * 10000.0


@feature("quote", (TRADES,), "extremum", By.WINDOW)
def high(row: Int64, window: int) -> float:
    """Highest trade price."""
    return price(row, float(highest(row, window))) if volume_of(row, window) > 0 else math.nan


@feature("quote", (TRADES,), "extremum", By.WINDOW)
def low(row: Int64, window: int) -> float:
    """Lowest trade price."""
    return price(row, float(lowest(row, window))) if volume_of(row, window) > 0 else math.nan
