"""The `micro` features of one symbol at one Tick, from its row.

Input: a row that has closed the bucket before Tick T.
Output: values[i] and reasons[i] per column of the catalogue; a reason is the quality flag of a null, 0 for a value.
Units: see `agents.catalogue`. Integers until the last formula; floats in a fixed order of IEEE operations.
Errors: none; a value that is not finite is null with COMPUTATION_ERROR.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from agents.catalogue import CATALOGUE, INDEX
from agents.logarithm import log_ratio
from schemas.columns import ABSENT, Int64
from schemas.limits import LEVELS_MAX
from schemas.units import NS_PER_MS, NS_PER_S
from schemas.vectors import Quality
from tables import layout as at
from tables.book import is_whole, mid2
from tables.compiled import inner
from tables.windows import extremes, mid2_before

Float64 = NDArray[np.float64]

BOOK_STALE_NS = 5 * NS_PER_S

_GAP = int(Quality.BOOK_GAP)
_STALE = int(Quality.BOOK_STALE)
_CROSSED = int(Quality.BOOK_CROSSED)
_ONE_SIDED = int(Quality.BOOK_ONE_SIDED)
_NO_TRADES = int(Quality.NO_TRADES)
_NO_EVENTS = int(Quality.NO_EVENTS)
_WARMUP = int(Quality.WARMUP)
_FUNDING_UNKNOWN = int(Quality.FUNDING_UNKNOWN)
_SKEW = int(Quality.CLOCK_SKEW)
_ERROR = int(Quality.COMPUTATION_ERROR)

_POWERS = np.array([10.0**i for i in range(19)])
_BOOK_COLUMNS = np.array([i for i, feature in enumerate(CATALOGUE) if feature.is_book_derived])
_WINDOWS_NS = at.WINDOWS_NS
_VALUE_UNIT = float(1 << at.VALUE_SHIFT)
_INVERSE_UNIT = float(1 << 60)
_INVERSE_MAX = float(1 << 22)

_MID_PRICE = INDEX["mid_price"]
_MICROPRICE = INDEX["microprice"]
_SPREAD = INDEX["spread"]
_SPREAD_BPS = INDEX["spread_bps"]
_BID_DEPTH = INDEX["bid_depth_5"]
_ASK_DEPTH = INDEX["ask_depth_5"]
_QUEUE_IMBALANCE = INDEX["queue_imbalance_1"]
_BID_LEVELS = INDEX["bid_level_count"]
_ASK_LEVELS = INDEX["ask_level_count"]
_BOOK_AGE = INDEX["book_age_ms"]
_MARK_PRICE = INDEX["mark_price"]
_INDEX_PRICE = INDEX["index_price"]
_BASIS_BPS = INDEX["basis_bps"]
_OPEN_INTEREST = INDEX["open_interest"]
_FUNDING_RATE = INDEX["funding_rate"]
_TIME_TO_FUNDING = INDEX["time_to_funding_s"]
_FEED_DELAY = INDEX["feed_delay_ms"]
_LOG_RETURN = INDEX["log_return_1s"]
_VWAP = INDEX["vwap_1s"]
_HIGH = INDEX["high_1s"]
_LOW = INDEX["low_1s"]
_TRADE_COUNT = INDEX["trade_count_1s"]
_VOLUME = INDEX["volume_1s"]
_BUY_VOLUME = INDEX["buy_volume_1s"]
_SELL_VOLUME = INDEX["sell_volume_1s"]
_SIGNED_VOLUME = INDEX["signed_volume_1s"]
_BUY_SELL_RATIO = INDEX["buy_sell_ratio_1s"]
_TRADE_IMBALANCE = INDEX["trade_imbalance_1s"]
_PRESSURE = INDEX["net_aggressor_pressure_1s"]
_AVERAGE_SIZE = INDEX["average_trade_size_1s"]
_ORDER_FLOW = INDEX["order_flow_imbalance_1s"]
_CHURN_RATE = INDEX["churn_rate_1s"]


@inner
def give(values: Float64, reasons: Int64, column: int, value: float) -> None:
    """Set a column."""
    if math.isfinite(value):
        values[column] = value
        reasons[column] = 0
    else:
        null(values, reasons, column, _ERROR)


@inner
def null(values: Float64, reasons: Int64, column: int, reason: int) -> None:
    """Set a column to null."""
    values[column] = math.nan
    reasons[column] = reason


@inner
def decimal(number: float, step: int, scale: int) -> float:
    """number * step / 10**scale: one rounding while the product is below 2**53, so decimals come out as written."""
    power: float = _POWERS[scale]
    return number * float(step) / power


@inner
def price(row: Int64, ticks: float) -> float:
    """Ticks in quote units."""
    return decimal(ticks, row[at.TICK_SIZE], row[at.PRICE_SCALE])


@inner
def size(row: Int64, lots: float) -> float:
    """Lots in base units."""
    return decimal(lots, row[at.LOT_SIZE], row[at.SIZE_SCALE])


@inner
def depth(row: Int64, side: int, count: int, levels: int) -> int:
    """Lots in the best levels of a side, as many as there are."""
    n = row[count]
    total = 0
    for i in range(max(n - levels, 0), n):
        total += row[side + LEVELS_MAX + i]
    return total


@inner
def book_features(row: Int64, time: int, values: Float64, reasons: Int64) -> int:
    """State of the book. Returns the flags that say something about the whole book."""
    if not is_whole(row):
        for column in _BOOK_COLUMNS:
            null(values, reasons, column, _GAP)
        return _GAP
    for i, levels in enumerate((5, 10, 20)):
        give(values, reasons, _BID_DEPTH + i, size(row, float(depth(row, at.BIDS, at.BID_COUNT, levels))))
        give(values, reasons, _ASK_DEPTH + i, size(row, float(depth(row, at.ASKS, at.ASK_COUNT, levels))))
    for i, levels in enumerate((1, 5, 10)):
        bids = depth(row, at.BIDS, at.BID_COUNT, levels)
        asks = depth(row, at.ASKS, at.ASK_COUNT, levels)
        if bids + asks == 0:
            null(values, reasons, _QUEUE_IMBALANCE + i, _ONE_SIDED)
        else:
            give(values, reasons, _QUEUE_IMBALANCE + i, float(bids - asks) / float(bids + asks))
    give(values, reasons, _BID_LEVELS, float(row[at.BID_COUNT]))
    give(values, reasons, _ASK_LEVELS, float(row[at.ASK_COUNT]))
    age = time - row[at.BOOK_TS]
    give(values, reasons, _BOOK_AGE, float(age) / float(NS_PER_MS))
    flags = _STALE if age > BOOK_STALE_NS else 0
    if row[at.BID_COUNT] == 0 or row[at.ASK_COUNT] == 0:
        for column in (_MID_PRICE, _MICROPRICE, _SPREAD, _SPREAD_BPS):
            null(values, reasons, column, _ONE_SIDED)
        return flags | _ONE_SIDED
    bid_at = at.BIDS + row[at.BID_COUNT] - 1
    ask_at = at.ASKS + row[at.ASK_COUNT] - 1
    bid, bid_size = row[bid_at], row[bid_at + LEVELS_MAX]
    ask, ask_size = -row[ask_at], row[ask_at + LEVELS_MAX]
    share = float(bid_size) / float(bid_size + ask_size)
    give(values, reasons, _MID_PRICE, price(row, float(bid + ask)) / 2.0)
    give(values, reasons, _MICROPRICE, price(row, float(bid) + float(ask - bid) * share))
    give(values, reasons, _SPREAD, price(row, float(ask - bid)))
    give(values, reasons, _SPREAD_BPS, float(ask - bid) * 20000.0 / float(bid + ask))
    return flags | _CROSSED if bid > ask else flags


@inner
def book_windows(row: Int64, time: int, values: Float64, reasons: Int64) -> None:
    """What the book did over each window. A book that is not whole has been dealt with by `book_features`."""
    if not is_whole(row):
        return
    now = mid2(row)
    for w in range(at.WINDOW_COUNT):
        before = mid2_before(row, w)
        if now == 0:
            null(values, reasons, _LOG_RETURN + w, _ONE_SIDED)
        elif time - row[at.BIRTH] < _WINDOWS_NS[w] or before == 0:
            null(values, reasons, _LOG_RETURN + w, _WARMUP)
        else:
            give(values, reasons, _LOG_RETURN + w, log_ratio(float(now), float(before)))
        if time - row[at.BOOK_BIRTH] < _WINDOWS_NS[w]:
            null(values, reasons, _ORDER_FLOW + w, _WARMUP)
            null(values, reasons, _CHURN_RATE + w, _WARMUP)
        else:
            sums = at.SUMS + w * at.SUM_COUNT
            give(values, reasons, _ORDER_FLOW + w, size(row, float(row[sums + at.ORDER_FLOW])))
            seconds = float(_WINDOWS_NS[w]) / float(NS_PER_S)
            give(values, reasons, _CHURN_RATE + w, float(row[sums + at.CHURN]) / seconds)


@inner
def vwap_ticks(row: Int64, sums: int, volume: int, low: int) -> float:
    """Volume-weighted price in ticks, harmonic for inverse contracts; NaN where a window's value left its int64."""
    value = float(row[sums + at.VALUE_HIGH]) * _VALUE_UNIT + float(row[sums + at.VALUE_LOW])
    if row[at.CONTRACT] != at.INVERSE:
        return value / float(volume)
    if float(volume) / float(low) >= _INVERSE_MAX:
        return math.nan
    return float(volume) * _INVERSE_UNIT / value


@inner
def trade_windows(row: Int64, time: int, values: Float64, reasons: Int64) -> None:
    """Trades and aggressor flow over each window."""
    high = 0
    low = 0
    for w in range(at.WINDOW_COUNT):
        high, low = extremes(row, w, high, low)
        if time - row[at.BIRTH] < _WINDOWS_NS[w]:
            for column in range(_VWAP, _AVERAGE_SIZE + at.WINDOW_COUNT, at.WINDOW_COUNT):
                null(values, reasons, column + w, _WARMUP)
            continue
        sums = at.SUMS + w * at.SUM_COUNT
        buys, sells = row[sums + at.BUY_COUNT], row[sums + at.SELL_COUNT]
        bought, sold = row[sums + at.BUY_VOLUME], row[sums + at.SELL_VOLUME]
        count, volume = buys + sells, bought + sold
        give(values, reasons, _TRADE_COUNT + w, float(count))
        give(values, reasons, _VOLUME + w, size(row, float(volume)))
        give(values, reasons, _BUY_VOLUME + w, size(row, float(bought)))
        give(values, reasons, _SELL_VOLUME + w, size(row, float(sold)))
        give(values, reasons, _SIGNED_VOLUME + w, size(row, float(bought - sold)))
        if sold == 0:
            null(values, reasons, _BUY_SELL_RATIO + w, _NO_TRADES)
        else:
            give(values, reasons, _BUY_SELL_RATIO + w, float(bought) / float(sold))
        if count == 0:
            for column in (_VWAP, _HIGH, _LOW, _TRADE_IMBALANCE, _PRESSURE, _AVERAGE_SIZE):
                null(values, reasons, column + w, _NO_TRADES)
            continue
        give(values, reasons, _VWAP + w, price(row, vwap_ticks(row, sums, volume, low)))
        give(values, reasons, _HIGH + w, price(row, float(high)))
        give(values, reasons, _LOW + w, price(row, float(low)))
        give(values, reasons, _TRADE_IMBALANCE + w, float(buys - sells) / float(count))
        give(values, reasons, _PRESSURE + w, float(bought - sold) / float(volume))
        lots = float(volume) * float(row[at.LOT_SIZE])
        give(values, reasons, _AVERAGE_SIZE + w, lots / (_POWERS[row[at.SIZE_SCALE]] * float(count)))


@inner
def told_features(row: Int64, time: int, values: Float64, reasons: Int64) -> int:
    """What venues tell: mark, index, open interest, funding; and how late they tell it. Returns flags.

    A spot instrument has no such prices, a dated future no funding: null without a flag. Else the flag says what lacks.
    """
    unknown = 0 if row[at.CONTRACT] == at.SPOT else _NO_EVENTS
    mark, index = row[at.MARK_PRICE], row[at.INDEX_PRICE]
    for column in (_MARK_PRICE, _INDEX_PRICE, _BASIS_BPS, _OPEN_INTEREST):
        null(values, reasons, column, unknown)
    if mark != ABSENT:
        give(values, reasons, _MARK_PRICE, decimal(float(mark), 1, row[at.INDEX_SCALE]))
    if index != ABSENT:
        give(values, reasons, _INDEX_PRICE, decimal(float(index), 1, row[at.INDEX_SCALE]))
        if mark != ABSENT:
            give(values, reasons, _BASIS_BPS, float(mark - index) * 10000.0 / float(index))
    if row[at.OPEN_INTEREST] != ABSENT:
        give(values, reasons, _OPEN_INTEREST, size(row, float(row[at.OPEN_INTEREST])))
    unknown = _FUNDING_UNKNOWN if row[at.IS_PERPETUAL] != 0 else 0
    null(values, reasons, _FUNDING_RATE, unknown)
    null(values, reasons, _TIME_TO_FUNDING, unknown)
    if row[at.FUNDING_RATE] != ABSENT:
        give(values, reasons, _FUNDING_RATE, decimal(float(row[at.FUNDING_RATE]), 1, 12))
    if row[at.NEXT_FUNDING_TS] != ABSENT and row[at.NEXT_FUNDING_TS] >= time:
        seconds = float(row[at.NEXT_FUNDING_TS] - time) / float(NS_PER_S)
        give(values, reasons, _TIME_TO_FUNDING, seconds)
    if row[at.FEED_DELAY] == ABSENT:
        null(values, reasons, _FEED_DELAY, _NO_EVENTS)
        return 0
    give(values, reasons, _FEED_DELAY, float(row[at.FEED_DELAY]) / float(NS_PER_MS))
    return _SKEW if row[at.FEED_DELAY] < 0 else 0


@inner
def compute(row: Int64, time: int, values: Float64, reasons: Int64) -> int:
    """All columns of a symbol at Tick `time`. Returns the flags of the whole vector; a null's own stand in reasons."""
    flags = book_features(row, time, values, reasons)
    book_windows(row, time, values, reasons)
    trade_windows(row, time, values, reasons)
    return flags | told_features(row, time, values, reasons)
