"""The state view: all that a feature of your own can know of a symbol at Tick T (docs/own-features.md).

Input: `state`, which is handed to these functions and to nothing else; windows in seconds, on the grid of 100 ms, up to
60 s; levels from 1, the best, to 50.
Output: what the built-in column of the same name gives, with the same nulls (NaN) and the same quality flags.
Units: as each column's; prices in quote units, sizes in base units, times in ns UTC.
Errors: none; a window off the grid or a level out of bounds is null with COMPUTATION_ERROR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple, TypeVar

import numpy as np

from agents.arithmetic import ERROR, GAP, ONE_SIDED, unknown
from agents.arithmetic import price as to_price
from agents.arithmetic import size as to_size
from agents.catalogue import BOOK, CLOCK, FAMILIES, Function
from agents.micro import book, flow, position, price, time, venue
from schemas.columns import Int64
from schemas.limits import DEPTH_MAX
from tables import layout as at
from tables.book import is_whole
from tables.compiled import inner
from tables.logarithm import log_ratio

State = Int64
STEPS_PER_S = 10
_ROUNDING = 1e-6


class Takes(Enum):
    """What a parameter of a view function is."""

    STATE = "state"
    SECONDS = "seconds"
    LEVELS = "levels"
    LEVEL = "level"
    NUMBER = "number"


class Viewed(NamedTuple):
    """A function of the view: compiled, with what it takes and which inputs of the tape it reads."""

    function: Any
    takes: tuple[Takes, ...]
    inputs: tuple[str, ...]


VIEW: dict[str, Viewed] = {}
_Own = TypeVar("_Own", bound=Callable[[State], float])
_Offered = TypeVar("_Offered", bound=Callable[..., float])


def feature(unit: str = "1", source: str = "") -> Callable[[_Own], _Own]:
    """Mark a function of your own file as a feature: its name is the column's, its docstring the definition."""

    def mark(function: _Own) -> _Own:
        return function

    return mark


def steps_of(seconds: float) -> int:
    """Steps of 100 ms; 0 for what is no window."""
    steps = seconds * STEPS_PER_S
    if not 0.5 < steps < at.BUCKETS + 0.5:
        return 0
    nearest = int(steps + 0.5)
    return nearest if abs(steps - nearest) < _ROUNDING else 0


def levels_of(levels: float) -> int:
    """A level or a count of levels; 0 for what is none."""
    if not 1 <= levels <= DEPTH_MAX:
        return 0
    nearest = int(levels)
    return nearest if nearest == levels else 0


_steps_of, _levels_of = inner(steps_of), inner(levels_of)


def _offer(function: _Offered, name: str, takes: tuple[Takes, ...], inputs: tuple[str, ...]) -> _Offered:
    VIEW[name] = Viewed(function, takes, inputs)
    return function


def _now(function: Function) -> Callable[[State], float]:
    """A column without an argument."""

    def read(state: State) -> float:
        return function(state, 0)

    name: str = function.__name__
    return _offer(inner(read), name, (Takes.STATE,), FAMILIES[name].inputs)


def _over(function: Function) -> Callable[[State, float], float]:
    """Columns of a window, `vwap_15s`: a function of the seconds."""

    def read(state: State, seconds: float) -> float:
        steps = _steps_of(seconds)
        return function(state, steps) if steps > 0 else unknown(state, ERROR)

    name: str = function.__name__
    return _offer(inner(read), name, (Takes.STATE, Takes.SECONDS), FAMILIES[name].inputs)


def _among(function: Function) -> Callable[[State, int], float]:
    """Columns of a depth, `bid_depth_10`: a function of the levels."""

    def read(state: State, levels: int) -> float:
        depth = _levels_of(levels)
        return function(state, depth) if depth > 0 else unknown(state, ERROR)

    name: str = function.__name__
    return _offer(inner(read), name, (Takes.STATE, Takes.LEVELS), FAMILIES[name].inputs)


def _level(function: _Offered) -> _Offered:
    return _offer(inner(function), function.__name__, (Takes.STATE, Takes.LEVEL), (BOOK,))


def _number(function: _Offered) -> _Offered:
    return _offer(inner(function), function.__name__, (Takes.NUMBER,), ())


@inner
def _place(state: State, count: int, level: int) -> int:
    """Place of a level among the best of its side; -1, with a note, for one that is not there."""
    place = _levels_of(level) - 1
    if place < 0:
        unknown(state, ERROR)
    elif not is_whole(state) or place >= state[count]:
        unknown(state, ONE_SIDED if is_whole(state) else GAP)
        place = -1
    return place


@_level
def bid_price(state: State, level: int) -> float:
    """Price of a bid level, 1 the best."""
    place = _place(state, at.BID_COUNT, level)
    return to_price(state, float(state[at.TOP_BIDS + place])) if place >= 0 else math.nan


@_level
def ask_price(state: State, level: int) -> float:
    """Price of an ask level, 1 the best."""
    place = _place(state, at.ASK_COUNT, level)
    return to_price(state, float(-state[at.TOP_ASKS + place])) if place >= 0 else math.nan


@_level
def bid_size(state: State, level: int) -> float:
    """Size of a bid level, 1 the best."""
    place = _place(state, at.BID_COUNT, level)
    return to_size(state, float(state[at.TOP_BIDS + DEPTH_MAX + place])) if place >= 0 else math.nan


@_level
def ask_size(state: State, level: int) -> float:
    """Size of an ask level, 1 the best."""
    place = _place(state, at.ASK_COUNT, level)
    return to_size(state, float(state[at.TOP_ASKS + DEPTH_MAX + place])) if place >= 0 else math.nan


@inner
def time_ns(state: State) -> int:
    """T."""
    time: int = state[at.TICK]
    return time


_offer(time_ns, "time_ns", (Takes.STATE,), (CLOCK,))


@_number
def log(x: float) -> float:
    """Natural logarithm; null where x is not above 0."""
    if not 0.0 < x < math.inf:
        return math.nan
    # A quarter of each keeps the largest x below the end of the floats.
    return log_ratio(x * 0.25, 0.25) if x > 1.0 else log_ratio(x, 1.0)


@_number
def sqrt(x: float) -> float:
    """Square root; null below 0."""
    return math.sqrt(x)


@_number
def floor(x: float) -> float:
    """The whole number at or below x, as a float."""
    whole: float = np.floor(x)
    return whole


@_number
def ceil(x: float) -> float:
    """The whole number at or above x, as a float."""
    whole: float = np.ceil(x)
    return whole


mid_price = _now(price.mid_price)
microprice = _now(price.microprice)
spread = _now(price.spread)
spread_bps = _now(price.spread_bps)
log_return = _over(price.log_return)
realized_volatility = _over(price.realized_volatility)
vwap = _over(price.vwap)
vwap_deviation_bps = _over(price.vwap_deviation_bps)
high = _over(price.high)
low = _over(price.low)

trade_count = _over(flow.trade_count)
volume = _over(flow.volume)
buy_volume = _over(flow.buy_volume)
sell_volume = _over(flow.sell_volume)
signed_volume = _over(flow.signed_volume)
buy_sell_ratio = _over(flow.buy_sell_ratio)
trade_imbalance = _over(flow.trade_imbalance)
net_aggressor_pressure = _over(flow.net_aggressor_pressure)
average_trade_size = _over(flow.average_trade_size)
order_flow_imbalance = _over(flow.order_flow_imbalance)
multi_level_ofi_5 = _over(flow.multi_level_ofi_5)
churn_rate = _over(flow.churn_rate)

bid_depth = _among(book.bid_depth)
ask_depth = _among(book.ask_depth)
queue_imbalance = _among(book.queue_imbalance)
bid_slope = _among(book.bid_slope)
ask_slope = _among(book.ask_slope)
bid_level_count = _now(book.bid_level_count)
ask_level_count = _now(book.ask_level_count)
book_age_ms = _now(book.book_age_ms)

mark_price = _now(venue.mark_price)
index_price = _now(venue.index_price)
basis_bps = _now(venue.basis_bps)
open_interest = _now(venue.open_interest)
open_interest_change = _over(venue.open_interest_change)
funding_rate = _now(venue.funding_rate)
time_to_funding_s = _now(venue.time_to_funding_s)
feed_delay_ms = _now(venue.feed_delay_ms)

position_size = _now(position.position_size)
position_side = _now(position.position_side)
entry_price = _now(position.entry_price)
unrealized_pnl = _now(position.unrealized_pnl)
realized_pnl = _now(position.realized_pnl)
exposure = _now(position.exposure)
position_age_s = _now(position.position_age_s)

time_of_day_sin = _now(time.time_of_day_sin)
time_of_day_cos = _now(time.time_of_day_cos)
day_of_week_sin = _now(time.day_of_week_sin)
day_of_week_cos = _now(time.day_of_week_cos)
