"""Labels agree with what others make of the same prices: polars, pandas, the engine's own windows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from streams import stream

from agents.engine import Engine
from replay.labels.compute import label
from replay.labels.prices import PriceGrid, prices_set
from schemas.columns import from_events
from schemas.feature_sets import FeatureSet
from schemas.labels import LabelSpec, parse
from schemas.units import BASE_TICK_NS, NS_PER_S

START = 1_721_347_200 * NS_PER_S
SPECS = [parse("mark_out_1s")]


def walk(seed: int, points: int) -> PriceGrid:
    """Prices of a random walk, a second apart, none of them a barrier's own."""
    chance = np.random.default_rng(seed)
    mid = 100.0 * np.exp(np.cumsum(chance.normal(0.0, 0.0007, points)))
    vwap = mid * (1.0 + chance.normal(0.0, 0.0001, points))
    return PriceGrid(START + np.arange(points) * NS_PER_S, mid, vwap, chance.integers(-2, 3, points).astype(np.float64))


def made(text: str | LabelSpec, grid: PriceGrid) -> np.ndarray:
    spec = parse(text) if isinstance(text, str) else text
    return label(spec, grid, grid.time, step_ns=NS_PER_S, entry_delay_ns=0).value


@pytest.mark.parametrize("steps", [1, 7, 60])
def test_polars_shifts_and_rolls_to_the_same(steps: int) -> None:
    grid = walk(1, 500)
    mid, paid, side = pl.col("mid"), pl.col("vwap"), pl.col("signed").sign()
    squares = mid.log().diff().pow(2)
    past = squares.rolling_sum(steps, min_samples=steps).sqrt()
    found = pl.DataFrame({"mid": grid.mid, "vwap": grid.vwap, "signed": grid.signed_volume}).select(
        forward_return=mid.shift(-steps) / mid - 1,
        forward_log_return=(mid.shift(-steps) / mid).log(),
        forward_volatility=past.shift(-steps),
        risk_adjusted_return=(mid.shift(-steps) / mid).log() / past,
        mark_out=pl.when(side != 0).then(side * (mid.shift(-steps) - paid) / paid),
    )
    exact = made(f"forward_return_{steps}s", grid)
    assert np.array_equal(exact, found["forward_return"].to_numpy(), equal_nan=True)
    for family in found.columns:
        ours, theirs = made(f"{family}_{steps}s", grid), found[family].to_numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-12, err_msg=family)
        assert np.isfinite(ours).sum() > 250


@pytest.mark.parametrize(("upper", "lower"), [("0.002", "0.002"), ("0.001", "0.004"), ("0.5", "0.0015")])
def test_pandas_finds_the_first_touch_of_the_path_of_returns(upper: str, lower: str) -> None:
    """As snippet 3.2 of López de Prado (2018) has it: of each path of returns the earliest beyond either width."""
    grid = walk(2, 400)
    close = pd.Series(grid.mid, index=pd.DatetimeIndex(grid.time.astype("datetime64[ns]")))
    spec = parse(f"triple_barrier_20s(upper={upper}, lower={lower})")
    ours = label(spec, grid, grid.time, step_ns=NS_PER_S, entry_delay_ns=0)
    seen = set()
    for place, begin in enumerate(close.index[:-20]):
        path = close[begin : begin + pd.Timedelta("20s")] / close[begin] - 1
        up, down = path.index[path > float(upper)], path.index[path < -float(lower)]
        first = min([*up[:1], *down[:1]], default=path.index[-1])
        assert ours.t1[place] == first.value
        assert ours.value[place] == (0 if not len(up) + len(down) else 1 if first in up else -1)
        seen.add(ours.value[place])
    assert np.isnan(ours.value[-20:]).all()
    assert len(seen) == 3 or upper == "0.5"


@pytest.mark.parametrize("seed", range(3))
def test_the_volatility_ahead_is_what_the_engine_will_call_realized(seed: int) -> None:
    """Over streams with gaps, resets and silence, prices taken off the tape as a build takes them."""
    columns = from_events(0, 0, stream(seed))
    reference = FeatureSet("probe", 1, 100, ("mid_price", "log_return_3s", "realized_volatility_3s"))
    prices, known = Engine([prices_set(100, SPECS), reference], 0).apply(columns)
    compared = 0
    for key in range(len(prices.keys)):
        grid = PriceGrid.of(prices.select(prices.key == key))
        mine = known.select(known.key == key)
        later = np.searchsorted(mine.time, mine.time + 3 * NS_PER_S)
        for family, column in (("forward_log_return_3s", 1), ("forward_volatility_3s", 2)):
            ours = label(parse(family), grid, mine.time, step_ns=BASE_TICK_NS, entry_delay_ns=0)
            rows = np.flatnonzero(np.isfinite(ours.value))
            assert (mine.time[later[rows]] == ours.t1[rows]).all()
            engine = mine.values[later[rows], column]
            both = np.isfinite(engine)  # the engine's windows begin anew with an Instrument, prices do not
            np.testing.assert_allclose(ours.value[rows][both], engine[both], rtol=1e-9, atol=1e-13)
            compared += int(both.sum())
        gone = np.isnan(mine.values[:, 0])
        there = label(parse("mark_out_1s"), grid, mine.time, step_ns=BASE_TICK_NS, entry_delay_ns=0)
        assert np.isnan(there.value[gone]).all()
    assert compared > 500
