"""What stands in the book.

Units: levels, base units, ms.
"""

from __future__ import annotations

from agents.arithmetic import GAP, ONE_SIDED, decimal, size, unknown
from agents.catalogue import BOOK, By, feature
from schemas.columns import Int64
from schemas.limits import DEPTH_MAX
from schemas.units import NS_PER_MS
from tables import layout as at
from tables.book import is_whole, mid2
from tables.compiled import inner

_HARRIS = "Harris (2003), Trading and Exchanges"
_GOULD = "Gould, Bonart (2016), Queue imbalance as a one-tick-ahead price predictor in a limit order book"
_NAES = "Naes, Skjeltorp (2006), Order book characteristics and the volume-volatility relation"


@inner
def lots(row: Int64, top: int, count: int, depth: int) -> int:
    """Lots in the best levels of a side, as many as there are."""
    total = 0
    for i in range(min(row[count], depth)):
        total += row[top + DEPTH_MAX + i]
    return total


@feature("base", (BOOK,), _HARRIS, By.DEPTH)
def bid_depth(row: Int64, depth: int) -> float:
    """Sum of sizes of the best N bid levels."""
    return size(row, float(lots(row, at.TOP_BIDS, at.BID_COUNT, depth))) if is_whole(row) else unknown(row, GAP)


@feature("base", (BOOK,), _HARRIS, By.DEPTH)
def ask_depth(row: Int64, depth: int) -> float:
    """Sum of sizes of the best N ask levels."""
    return size(row, float(lots(row, at.TOP_ASKS, at.ASK_COUNT, depth))) if is_whole(row) else unknown(row, GAP)


@feature("1", (BOOK,), _GOULD, By.DEPTH)
def queue_imbalance(row: Int64, depth: int) -> float:
    """(B - A) / (B + A), sizes of the best N levels of each side."""
    if not is_whole(row):
        return unknown(row, GAP)
    bids = lots(row, at.TOP_BIDS, at.BID_COUNT, depth)
    asks = lots(row, at.TOP_ASKS, at.ASK_COUNT, depth)
    return float(bids - asks) / float(bids + asks) if bids + asks > 0 else unknown(row, ONE_SIDED)


@inner
def slope(row: Int64, top: int, count: int, depth: int) -> float:
    """Least squares slope of cumulative size on distance from mid over the best levels of a side."""
    mid = mid2(row)
    n = min(row[count], depth)
    if mid == 0 or n < 2:
        return unknown(row, ONE_SIDED if is_whole(row) else GAP)
    distances = 0
    sizes = 0
    cumulated = 0
    for i in range(n):
        distances += abs(2 * abs(row[top + i]) - mid)
        cumulated += row[top + DEPTH_MAX + i]
        sizes += cumulated
    mean_distance = float(distances) / float(n)
    mean_size = float(sizes) / float(n)
    products = 0.0
    squares = 0.0
    cumulated = 0
    for i in range(n):
        cumulated += row[top + DEPTH_MAX + i]
        distance = float(abs(2 * abs(row[top + i]) - mid)) - mean_distance
        products += distance * (float(cumulated) - mean_size)
        squares += distance * distance
    lots_per_half_tick = products / squares
    half_tick = decimal(0.5, row[at.TICK_SIZE], row[at.PRICE_SCALE])
    return decimal(lots_per_half_tick, row[at.LOT_SIZE], row[at.SIZE_SCALE]) / half_tick


@feature("base/quote", (BOOK,), _NAES, By.DEPTH)
def bid_slope(row: Int64, depth: int) -> float:
    """Least squares slope of cumulative size on distance from mid, best N bid levels, N at least 2."""
    return slope(row, at.TOP_BIDS, at.BID_COUNT, depth)


@feature("base/quote", (BOOK,), _NAES, By.DEPTH)
def ask_slope(row: Int64, depth: int) -> float:
    """Least squares slope of cumulative size on distance from mid, best N ask levels, N at least 2."""
    return slope(row, at.TOP_ASKS, at.ASK_COUNT, depth)


@feature("levels", (BOOK,), "count")
def bid_level_count(row: Int64, _: int) -> float:
    """Levels on the bid side."""
    return float(row[at.BID_COUNT]) if is_whole(row) else unknown(row, GAP)


@feature("levels", (BOOK,), "count")
def ask_level_count(row: Int64, _: int) -> float:
    """Levels on the ask side."""
    return float(row[at.ASK_COUNT]) if is_whole(row) else unknown(row, GAP)


@feature("ms", (BOOK,), "as observed")
def book_age_ms(row: Int64, _: int) -> float:
    """T - time of the last applied Snapshot or Delta."""
    return float(row[at.TICK] - row[at.BOOK_TS]) / float(NS_PER_MS) if is_whole(row) else unknown(row, GAP)
