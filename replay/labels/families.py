"""The labels, one function each: its docstring is its definition, and docs/labels.md is made of them.

Input: `Ahead`, the rows whose prices are all known from entry to exit, and the label asked for.
Output: FAMILIES by name; of each row its value, and where that is known before the exit, the point at which it is.
Units: each function's decorator names its own. Floats in a fixed order of IEEE operations, and no function of libm
but the exact square root: the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.labels import passes
from replay.labels.prices import Floats, PriceGrid
from schemas.columns import Int64
from schemas.labels import LabelSpec

SIGMAS = "sigmas"
_AFML = "López de Prado (2018), Advances in Financial Machine Learning"


@dataclass(frozen=True, slots=True)
class Ahead:
    """k rows whose entry is known, and every price on the grid from entry to exit.

    `at` [k] is the T of each; `entry` and `exit` [k] are points of the grid, `horizon` steps apart; `run` [n] as
    `passes.runs` has it.
    """

    grid: PriceGrid
    run: Int64
    at: Int64
    entry: Int64
    horizon: int

    @property
    def exit(self) -> Int64:
        """[k] points of the exits."""
        return self.entry + self.horizon

    @property
    def entry_price(self) -> Floats:
        """[k] P(e)."""
        return self.grid.mid[self.entry]

    @property
    def exit_price(self) -> Floats:
        """[k] P(x)."""
        return self.grid.mid[self.exit]

    def past_volatility(self) -> Floats:
        """[k] root of the summed squared log returns over (e - H, e]; NaN where a price of [e - H, e] is unknown."""
        is_whole = self.run[self.entry] >= self.horizon
        first = np.where(is_whole, self.entry - self.horizon, self.entry)
        return np.where(is_whole, self._volatility(first, self.entry), np.nan)

    def future_volatility(self) -> Floats:
        """[k] the same over (e, x]."""
        return self._volatility(self.entry, self.exit)

    def _volatility(self, first: Int64, last: Int64) -> Floats:
        found: Floats = passes.volatilities(passes.squares(self.grid.mid, self.run), first, last)
        return found


class Ended(NamedTuple):
    """[k] values, and the point of the grid at which each is known."""

    value: Floats
    end: Int64


Function = Callable[[Ahead, LabelSpec], Floats | Ended]


@dataclass(frozen=True, slots=True)
class Family:
    """Labels that differ in horizon and parameters only."""

    name: str
    unit: str
    formula: str
    source: str
    function: Function


FAMILIES: dict[str, Family] = {}


def label(unit: str, source: str) -> Callable[[Function], Function]:
    """Register a function under its own name; its docstring is the formula."""

    def register(function: Function) -> Function:
        formula = " ".join((function.__doc__ or "").split()).rstrip(".")
        FAMILIES[function.__name__] = Family(function.__name__, unit, formula, source, function)
        return function

    return register


@label("1", "Campbell, Lo, MacKinlay (1997), The Econometrics of Financial Markets, 1.4")
def forward_return(ahead: Ahead, _: LabelSpec) -> Floats:
    """P(x) / P(e) - 1."""
    return ahead.exit_price / ahead.entry_price - 1.0


@label("1", "Campbell, Lo, MacKinlay (1997), The Econometrics of Financial Markets, 1.4")
def forward_log_return(ahead: Ahead, _: LabelSpec) -> Floats:
    """log(P(x) / P(e))."""
    found: Floats = passes.log_ratios(ahead.exit_price, ahead.entry_price)
    return found


@label("-1, 0, 1", "Ntakaris et al. (2018), Benchmark dataset for mid-price forecasting of limit order book data")
def direction(ahead: Ahead, spec: LabelSpec) -> Floats:
    """1 where the forward return is above threshold, -1 where it is below -threshold, else 0."""
    threshold = spec.parameter("threshold")
    moved = ahead.exit_price / ahead.entry_price - 1.0
    return (moved > threshold).astype(np.float64) - (moved < -threshold).astype(np.float64)


@label("1", "return per unit of volatility, after Sharpe (1994), The Sharpe ratio")
def risk_adjusted_return(ahead: Ahead, spec: LabelSpec) -> Floats:
    """log(P(x) / P(e)) / sqrt(sum of squared log returns of the mid over the steps in [e - H, e]); none where that is
    0 or unknown."""
    moved = passes.log_ratios(ahead.exit_price, ahead.entry_price)
    return _over(moved, ahead.past_volatility())


@label("-1, 0, 1", f"{_AFML}, 3.4")
def triple_barrier(ahead: Ahead, spec: LabelSpec) -> Ended:
    """1 where the mid first reaches P(e) * (1 + upper), -1 where it first reaches P(e) * (1 - lower), 0 where it
    reaches neither by x; t1 is the first touch, or x. With sigmas > 0 both widths are sigmas * sqrt(sum of squared
    log returns of the mid over the steps in [e - H, e]); none where that is 0 or unknown."""
    price = ahead.entry_price
    above: Any = spec.parameter("upper")
    below: Any = spec.parameter("lower")
    if spec.parameter(SIGMAS) > 0:
        above = below = spec.parameter(SIGMAS) * ahead.past_volatility()
    upper, lower = price * (1.0 + above), price * (1.0 - below)
    # A width too small for a float would be touched at once by both; so would one that is 0. NaN is not above either.
    is_known = (upper > price) & (lower < price)
    touch = passes.touches(*passes.pyramid(ahead.grid.mid), ahead.entry + 1, ahead.exit, upper, lower)
    end = np.where(is_known & (touch >= 0), touch, ahead.exit)
    at_end = ahead.grid.mid[end]
    value = (at_end >= upper).astype(np.float64) - (at_end <= lower).astype(np.float64)
    return Ended(np.where(is_known, value, np.nan), end)


@label("1", "Andersen, Bollerslev, Diebold, Labys (2003), Modeling and forecasting realized volatility")
def forward_volatility(ahead: Ahead, _: LabelSpec) -> Floats:
    """sqrt(sum of squared log returns of the mid over the steps in [e, x])."""
    return ahead.future_volatility()


@label("1", "Huang, Stoll (1996), Dealer versus auction markets: a paired comparison of execution costs")
def mark_out(ahead: Ahead, _: LabelSpec) -> Floats:
    """s * (P(x) - p) / p, with p the vwap and s the sign of the signed volume of the trades in the step that ends at
    T: the gain by x of who took liquidity then; none without trades, or where as much was sold as bought."""
    grid = ahead.grid
    assert grid.vwap is not None, "prices_set of these labels has it"
    assert grid.signed_volume is not None, "prices_set of these labels has it"
    place = np.minimum(np.searchsorted(grid.time, ahead.at), len(grid.time) - 1)
    is_there = grid.time[place] == ahead.at
    paid = np.where(is_there, grid.vwap[place], np.nan)
    side = np.where(is_there, np.sign(grid.signed_volume[place]), np.nan)
    return np.where(side == 0.0, np.nan, side * _over(ahead.exit_price - paid, paid))


def _over(a: Floats, b: NDArray[np.float64]) -> Floats:
    """a / b, NaN where b is 0 or unknown."""
    found: Floats = np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0.0)
    return found
