"""Flow: trades by their aggressor, and orders as the book shows them.

Blocks and trades of the insurance fund are in none of these: they are no aggressor flow.
Units: base units, trades, level changes per second.
"""

from __future__ import annotations

import math

from agents.arithmetic import ERROR, GAP, NO_TRADES, POWERS, WARMUP, size, unknown
from agents.catalogue import BOOK, TRADES, By, feature
from schemas.columns import Int64
from schemas.units import BASE_TICK_NS, NS_PER_S
from tables import layout as at
from tables.book import is_whole
from tables.compiled import inner
from tables.windows import is_covered, total

_CHORDIA = "Chordia, Roll, Subrahmanyam (2002), Order imbalance, liquidity, and market returns"
_STEPS_PER_S = NS_PER_S // BASE_TICK_NS


@inner
def trades_known(row: Int64, window: int) -> bool:
    """Whether the trades of a window are known and fit their sums; notes what lacks."""
    if not is_covered(row, window):
        unknown(row, WARMUP)
        return False
    if total(row, at.BUY_COUNT, window) + total(row, at.SELL_COUNT, window) > at.TRADES_MAX:
        unknown(row, ERROR)
        return False
    return True


@inner
def lots(row: Int64, window: int, bought: int, sold: int) -> float:
    """bought * buy volume + sold * sell volume in base units."""
    if not trades_known(row, window):
        return math.nan
    buys, sells = total(row, at.BUY_VOLUME, window), total(row, at.SELL_VOLUME, window)
    return size(row, float(bought * buys + sold * sells))


@feature("trades", (TRADES,), "count", By.WINDOW)
def trade_count(row: Int64, window: int) -> float:
    """Buys + sells."""
    if not trades_known(row, window):
        return math.nan
    return float(total(row, at.BUY_COUNT, window) + total(row, at.SELL_COUNT, window))


@feature("base", (TRADES,), "sum", By.WINDOW)
def volume(row: Int64, window: int) -> float:
    """Buy volume + sell volume."""
    return lots(row, window, 1, 1)


@feature("base", (TRADES,), "sum", By.WINDOW)
def buy_volume(row: Int64, window: int) -> float:
    """Sum of sizes, aggressor buys."""
    return lots(row, window, 1, 0)


@feature("base", (TRADES,), "sum", By.WINDOW)
def sell_volume(row: Int64, window: int) -> float:
    """Sum of sizes, aggressor sells."""
    return lots(row, window, 0, 1)


@feature("base", (TRADES,), "Lee, Ready (1991), Inferring trade direction from intraday data", By.WINDOW)
def signed_volume(row: Int64, window: int) -> float:
    """Buy volume - sell volume."""
    return lots(row, window, 1, -1)


@feature("1", (TRADES,), "ratio", By.WINDOW)
def buy_sell_ratio(row: Int64, window: int) -> float:
    """Buy volume / sell volume."""
    if not trades_known(row, window):
        return math.nan
    sold = total(row, at.SELL_VOLUME, window)
    return float(total(row, at.BUY_VOLUME, window)) / float(sold) if sold > 0 else unknown(row, NO_TRADES)


@feature("1", (TRADES,), _CHORDIA, By.WINDOW)
def trade_imbalance(row: Int64, window: int) -> float:
    """(buys - sells) / (buys + sells), counts."""
    if not trades_known(row, window):
        return math.nan
    buys, sells = total(row, at.BUY_COUNT, window), total(row, at.SELL_COUNT, window)
    return float(buys - sells) / float(buys + sells) if buys + sells > 0 else unknown(row, NO_TRADES)


@feature("1", (TRADES,), _CHORDIA, By.WINDOW)
def net_aggressor_pressure(row: Int64, window: int) -> float:
    """Signed volume / volume."""
    if not trades_known(row, window):
        return math.nan
    bought, sold = total(row, at.BUY_VOLUME, window), total(row, at.SELL_VOLUME, window)
    return float(bought - sold) / float(bought + sold) if bought + sold > 0 else unknown(row, NO_TRADES)


@feature("base", (TRADES,), "mean", By.WINDOW)
def average_trade_size(row: Int64, window: int) -> float:
    """Volume / trade count."""
    if not trades_known(row, window):
        return math.nan
    count = total(row, at.BUY_COUNT, window) + total(row, at.SELL_COUNT, window)
    if count == 0:
        return unknown(row, NO_TRADES)
    traded = total(row, at.BUY_VOLUME, window) + total(row, at.SELL_VOLUME, window)
    power: float = POWERS[row[at.SIZE_SCALE]]
    return float(traded) * float(row[at.LOT_SIZE]) / (power * float(count))


@inner
def book_known(row: Int64, window: int) -> bool:
    """Whether the book was whole all through a window and its flow fits its sums; notes what lacks."""
    if not is_whole(row):
        unknown(row, GAP)
        return False
    if row[at.TICK] - row[at.BOOK_BIRTH] < window * BASE_TICK_NS:
        unknown(row, WARMUP)
        return False
    if total(row, at.DELTAS, window) > at.DELTAS_MAX:
        unknown(row, ERROR)
        return False
    return True


@feature("base", (BOOK,), "Cont, Kukanov, Stoikov (2014), The price impact of order book events", By.WINDOW)
def order_flow_imbalance(row: Int64, window: int) -> float:
    """Sum per Delta of I[b >= b'] q - I[b <= b'] q' - I[a <= a'] r + I[a >= a'] r', best level."""
    return size(row, float(total(row, at.ORDER_FLOW, window))) if book_known(row, window) else math.nan


@feature("base", (BOOK,), "Xu, Gould, Howison (2018), Multi-level order-flow imbalance in a limit order book",
         By.WINDOW)  # fmt: skip
def multi_level_ofi_5(row: Int64, window: int) -> float:
    """Order flow imbalance of the m-th best level, summed over m = 1..5."""
    return size(row, float(total(row, at.MULTI_FLOW, window))) if book_known(row, window) else math.nan


@feature("1/s", (BOOK,), "Hasbrouck, Saar (2013), Low-latency trading", By.WINDOW)
def churn_rate(row: Int64, window: int) -> float:
    """Levels that Deltas changed / W."""
    if not book_known(row, window):
        return math.nan
    return float(total(row, at.CHURN, window)) / (float(window) / float(_STEPS_PER_S))
