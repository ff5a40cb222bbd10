"""The engine against definitions others have published, computed in other ways: polars, numpy, decimals, best quotes.

Nothing of the engine or its oracle is used for what is expected: events go into plain frames and dictionaries, windows
are polars' rolling ones, closed on the left. Sources: Cont, Kukanov, Stoikov (2014), The price impact of order book
events, eq. 2 to 4; Xu, Gould, Howison (2018), Multi-level order-flow imbalance in a limit order book, eq. 5 to 9.
"""

from __future__ import annotations

import math
import random
from decimal import Decimal, localcontext
from fractions import Fraction
from heapq import nlargest, nsmallest
from typing import Any

import numpy as np
import polars as pl
import pytest
from frames import instrument
from streams import START, tick_event

from agents.engine import Engine
from app.importer import import_recording
from app.synthetic import write_recording
from replay.reader import ArchiveReader
from schemas.columns import Columns, from_events, to_events
from schemas.events import Kind
from schemas.feature_sets import FeatureSet, Policy, load
from schemas.units import BASE_TICK_NS, NS_PER_S

MICRO = load("micro@2")
WINDOWS_S = (1, 3, 15, 60)
RECORDINGS = ("usdm_ethusdt_20240718.gz", "cm_ethusd_perp_20240808.gz")
TAPES = ["linear", "inverse", *(pytest.param(name, marks=pytest.mark.recordings) for name in RECORDINGS)]
Levels = list[tuple[int, int]]


class Market:
    """One instrument of a tape, read plainly: rows for frames, and what stood at each Tick."""

    def __init__(self) -> None:
        self.instrument: dict[str, Any] = {}
        self.ts = self.first_tick = self.sequence = 0
        self.sides: tuple[dict[int, int], dict[int, int]] = {}, {}
        self.near: tuple[Levels, Levels] = [], []
        self.told: dict[str, int] = {}
        self.trades: list[tuple[int, int, int, bool]] = []
        self.flows: list[tuple[int, int, int]] = []
        self.stood: dict[int, tuple[Levels, Levels, dict[str, int]]] = {}

    def best(self, depth: int) -> tuple[Levels, Levels]:
        """(price, size) of the best levels of both sides."""
        bids, asks = self.sides
        return nlargest(depth, bids.items()), nsmallest(depth, asks.items())

    def take(self, kind: Kind, body: dict[str, Any]) -> None:
        """One record. The tapes here have no gap; Deltas from before the Snapshot are left out."""
        if kind is Kind.INSTRUMENT:
            self.instrument = body
        elif kind is Kind.TRADE and not body["is_block"] and not body["is_insurance"]:
            self.trades.append((self.ts, body["price"], body["size"], body["side"] == "BUY"))
        elif kind in (Kind.TICKER, Kind.FUNDING):
            self.told |= {name: value for name, value in body.items() if value is not None}
        elif kind is Kind.SNAPSHOT:
            self.sequence = body["sequence_last"]
            bids, asks = ({each["price"]: each["size"] for each in body[side]} for side in ("bids", "asks"))
            self.sides = bids, asks
            self.near = self.best(5)
        elif kind is Kind.DELTA and self.sequence and body["sequence_last"] > self.sequence:
            for side, named in zip(self.sides, (body["bids"], body["asks"]), strict=True):
                side |= {each["price"]: each["size"] for each in named}
                for price in [each["price"] for each in named if not each["size"]]:
                    side.pop(price, None)
            before, self.near = self.near, self.best(5)
            self.flows.append((self.ts, order_flow(before, self.near), multi_level_order_flow(before, self.near)))


def order_flow(before: tuple[Levels, Levels], after: tuple[Levels, Levels]) -> int:
    """e_n of Cont, Kukanov and Stoikov from the best quotes before and after."""
    (bid0, bid_size0), (ask0, ask_size0) = before[0][0], before[1][0]
    (bid, bid_size), (ask, ask_size) = after[0][0], after[1][0]
    flow = (bid >= bid0) * bid_size - (bid <= bid0) * bid_size0
    return flow - (ask <= ask0) * ask_size + (ask >= ask0) * ask_size0


def multi_level_order_flow(before: tuple[Levels, Levels], after: tuple[Levels, Levels]) -> int:
    """The sum over five levels of Delta W of the bids less Delta W of the asks of Xu, Gould and Howison."""
    total = 0
    for (bid0, bid_size0), (bid, bid_size) in zip(before[0], after[0], strict=True):
        total += bid_size if bid > bid0 else bid_size - bid_size0 if bid == bid0 else -bid_size0
    for (ask0, ask_size0), (ask, ask_size) in zip(before[1], after[1], strict=True):
        total -= -ask_size0 if ask > ask0 else ask_size - ask_size0 if ask == ask0 else ask_size
    return total


def read(columns: Columns) -> dict[str, Market]:
    """Every instrument of a tape."""
    markets: dict[str, Market] = {}
    tick = 0
    for event in to_events(columns):
        if event.kind is Kind.TICK:
            tick = event.body["time"]
            for market in markets.values():
                market.first_tick = market.first_tick or tick
                if tick % NS_PER_S == 0:
                    market.stood[tick] = (*market.best(20), dict(market.told))
        elif event.kind not in (Kind.REFUSED, Kind.ACTIVATE):
            market = markets.setdefault(event.key, Market())
            market.ts = max(event.ts_recv, tick, market.ts)
            market.take(event.kind, event.body)
    return markets


@pytest.fixture(scope="module", params=TAPES)
def columns(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Columns:
    """A generated market or a real recording, imported."""
    folder, name = tmp_path_factory.mktemp("tape"), request.param
    format_name = "binance-coinm" if name in ("inverse", RECORDINGS[1]) else "binance-usdm"
    if name not in RECORDINGS:
        path = folder / "market.gz"
        write_recording(path, symbols=2, seconds=80, is_inverse=name == "inverse")
    else:
        path = request.getfixturevalue("recordings") / "hftbacktest" / name
    import_recording([path], format_name, archive=folder / "archive", partitions=1)
    tape = Columns.concat(list(ArchiveReader(folder / "archive").batches(0)))
    # Two minutes and a half of a recording are enough.
    end = np.searchsorted(tape.ts_recv, tape.ts_recv[0] + 150 * NS_PER_S)
    return tape.slice(0, int(end))


@pytest.fixture(scope="module")
def markets(columns: Columns) -> dict[str, Market]:
    return read(columns)


@pytest.fixture(scope="module")
def computed(columns: Columns) -> dict[str, pl.DataFrame]:
    """The engine's vectors by instrument; NaN is null."""
    return frames_of(MICRO, columns)


def frames_of(feature_set: FeatureSet, columns: Columns) -> dict[str, pl.DataFrame]:
    table = pl.DataFrame(Engine([feature_set], columns.partition).apply(columns)[0].to_table())
    return {key: table.filter(pl.col("instrument") == key).sort("time") for key in table["instrument"].unique()}


def exact(market: Market, number: int, unit: str) -> float:
    """The double nearest to a number of ticks or lots."""
    step, scale = ("tick_size", "price_scale") if unit == "price" else ("lot_size", "size_scale")
    return float(Fraction(number * market.instrument[step], 10 ** market.instrument[scale]))


def rolled(rows: list[tuple[Any, ...]], names: list[str], times: list[int], seconds: int) -> pl.DataFrame:
    """Rows within [T - W, T) of each T: sums of every column but the first, highest and lowest price."""
    frame = pl.DataFrame(rows, schema=["time", *names], orient="row")
    ticks = pl.DataFrame({"time": times, "is_tick": [True] * len(times)})
    both = pl.concat([frame, ticks], how="diagonal").sort("time", maintain_order=True)
    sums = [pl.col(name).sum() for name in names if name != "price"]
    prices = [pl.col("price").max().alias("high"), pl.col("price").min().alias("low")] if "price" in names else []
    windows = both.rolling("time", period=f"{seconds * NS_PER_S}i", closed="left").agg(*sums, *prices)
    return windows.filter(both["is_tick"].fill_null(value=False)).unique("time", keep="first").sort("time")


def assert_column(found: pl.DataFrame, name: str, expected: list[float | None], rel_tol: float = 0.0) -> int:
    """Equal, or close; returns how many values are known."""
    known = 0
    for time, value, want in zip(found["time"], found[name], expected, strict=True):
        where = f"{name} at {time}: {value}, expected {want}"
        assert (value is None) == (want is None), where
        if value is not None:
            assert math.isclose(value, want, rel_tol=rel_tol, abs_tol=rel_tol * 1e-3), where
            known += 1
    return known


@pytest.mark.parametrize("seconds", WINDOWS_S)
def test_windows_of_trades(markets: dict[str, Market], computed: dict[str, pl.DataFrame], seconds: int) -> None:
    """Sums and extremes are the doubles nearest to their decimals; ratios and averages are close to the last bits."""
    known = 0
    for key, found in computed.items():
        market = markets[key]
        rows = [(ts, p, s * b, s * (not b), int(b), int(not b), p * s, s / p) for ts, p, s, b in market.trades]
        names = ["price", "bought", "sold", "buys", "sells", "value", "inverse"]
        # A window is known from the first Tick on.
        covered = found.filter(pl.col("time") >= market.first_tick + seconds * NS_PER_S)
        early = found.filter(pl.col("time") < market.first_tick + seconds * NS_PER_S)
        assert early[f"volume_{seconds}s"].is_null().all()
        windows = rolled(rows, names, covered["time"].to_list(), seconds)
        expected: dict[str, list[float | None]] = {}
        for row in windows.iter_rows(named=True):
            for name, value in trade_features(market, row).items():
                expected.setdefault(name, []).append(value)
        for name, values in expected.items():
            tolerance = 0.0 if name in EXACT else 1e-12
            known += assert_column(covered, f"{name}_{seconds}s", values, tolerance)
    assert known > 200


EXACT = {"trade_count", "volume", "buy_volume", "sell_volume", "signed_volume", "high", "low", "trade_imbalance"}


def trade_features(market: Market, row: dict[str, int]) -> dict[str, float | None]:
    """Of one window."""
    bought, sold, buys, sells = row["bought"], row["sold"], row["buys"], row["sells"]
    sizes = {"volume": bought + sold, "buy_volume": bought, "sell_volume": sold, "signed_volume": bought - sold}
    out: dict[str, float | None] = {name: exact(market, lots, "size") for name, lots in sizes.items()}
    out["trade_count"] = buys + sells
    out["buy_sell_ratio"] = bought / sold if sold else None
    rest = ("vwap", "high", "low", "trade_imbalance", "net_aggressor_pressure", "average_trade_size")
    if not buys + sells:
        return out | dict.fromkeys(rest)
    is_inverse = market.instrument["contract"] == "INVERSE"
    ticks = (bought + sold) / row["inverse"] if is_inverse else row["value"] / (bought + sold)
    out["vwap"] = ticks * market.instrument["tick_size"] / 10 ** market.instrument["price_scale"]
    out |= {name: exact(market, row[name], "price") for name in ("high", "low")}
    out["trade_imbalance"] = (buys - sells) / (buys + sells)
    out["net_aggressor_pressure"] = (bought - sold) / (bought + sold)
    out["average_trade_size"] = exact(market, bought + sold, "size") / (buys + sells)
    return out


@pytest.mark.parametrize("seconds", WINDOWS_S)
def test_order_flow_imbalance(markets: dict[str, Market], computed: dict[str, pl.DataFrame], seconds: int) -> None:
    """Of the best quotes and of the best five levels, summed over the Deltas of a window."""
    known = 0
    for key, found in computed.items():
        market = markets[key]
        known_rows = found.filter(pl.col(f"order_flow_imbalance_{seconds}s").is_not_null())
        windows = rolled(market.flows, ["flow", "flows"], known_rows["time"].to_list(), seconds)
        for name, column in (("order_flow_imbalance", "flow"), ("multi_level_ofi_5", "flows")):
            expected = [exact(market, lots, "size") for lots in windows[column]]
            known += assert_column(known_rows, f"{name}_{seconds}s", expected)
    assert known > 20


def test_the_book_at_a_tick(markets: dict[str, Market], computed: dict[str, pl.DataFrame]) -> None:
    """Best prices and depths to the last bit; slopes as numpy fits them."""
    compared = 0
    for key, found in computed.items():
        market = markets[key]
        for row in found.filter(pl.col("mid_price").is_not_null()).iter_rows(named=True):
            bids, asks, told = market.stood[row["time"]]
            mid2, tick = bids[0][0] + asks[0][0], exact(market, 1, "price")
            assert row["mid_price"] == float(Fraction(mid2, 2) * Fraction(str(tick)))
            assert row["spread"] == exact(market, asks[0][0] - bids[0][0], "price")
            for side, levels in (("bid", bids), ("ask", asks)):
                assert row[f"{side}_depth_10"] == exact(market, sum(size for _, size in levels[:10]), "size")
                distances = [abs(2 * price - mid2) * tick / 2 for price, _ in levels[:10]]
                cumulated = np.cumsum([exact(market, size, "size") for _, size in levels[:10]])
                slope = float(np.polyfit(distances, cumulated, 1)[0])
                assert math.isclose(row[f"{side}_slope_10"], slope, rel_tol=1e-8, abs_tol=1e-6)
            for name, scale in (("mark_price", market.instrument["index_scale"]), ("rate", 12)):
                if name in told:
                    column = "funding_rate" if name == "rate" else name
                    assert row[column] == float(Fraction(told[name], 10**scale))
            compared += 1
    assert compared > 60


def test_returns_and_volatility_of_the_mids(columns: Columns) -> None:
    """Of the mids on the grid of 100 ms, by polars' logarithm, shift and rolling sum."""
    names = [f"{name}_{window}" for name in ("log_return", "realized_volatility") for window in ("700ms", "15s", "60s")]
    grid = FeatureSet("grid", 1, 100, ("mid_price", *names))
    known = 0
    for found in frames_of(grid, columns).values():
        assert (found["time"].diff().drop_nulls() == BASE_TICK_NS).all()
        mid = found["mid_price"]
        step = ((mid - mid.shift(1)) / mid.shift(1)).log1p()
        for window, steps in (("700ms", 7), ("15s", 150), ("60s", 600)):
            moved = ((mid - mid.shift(steps)) / mid.shift(steps)).log1p()
            known += assert_column(found, f"log_return_{window}", moved.to_list(), 1e-8)
            # A sum that returns to zero leaves rounding behind where it is updated step by step.
            squares = (step * step).rolling_sum(steps)
            volatility = squares.clip(lower_bound=0.0).sqrt()
            got = found[f"realized_volatility_{window}"]
            assert (got.is_null() == volatility.is_null()).all()
            assert ((got * got - squares).abs() < 1e-15).all()
            known += got.count()
    assert known > 1_000


def test_scores_and_bounds_are_rolling_moments(columns: Columns) -> None:
    """(x - mean) / standard deviation and mean +- k standard deviations, ddof 1, as polars rolls them."""
    names = ("spread_bps", "volume_1s", "order_flow_imbalance_1s")
    raw = frames_of(FeatureSet("raw", 1, 500, names), columns)
    bounded = FeatureSet("bounded", 1, 500, names, dict.fromkeys(names, Policy(clip_sigmas=1.5, clip_count=20)))
    scored = frames_of(FeatureSet("scored", 1, 500, tuple(f"zscore_{name}_20" for name in names)), columns)
    clipped = frames_of(bounded, columns)
    known = moved = 0
    for key, found in raw.items():
        for name in names:
            kept = found.select("time", x=pl.col(name)).drop_nulls()
            x = kept["x"]
            mean, deviation = x.rolling_mean(20), x.rolling_std(20, ddof=1)
            frame = kept.with_columns(
                z=(x - mean) / pl.when(deviation > 1e-9).then(deviation),
                low=(mean - 1.5 * deviation).shift(1), high=(mean + 1.5 * deviation).shift(1),
            ).with_columns(bounded=pl.col("x").clip("low", "high"))  # fmt: skip
            scores = scored[key].select("time", got=f"zscore_{name}_20")
            both = frame.join(scores, on="time").filter(pl.col("z").is_not_null())
            assert ((both["got"] - both["z"]).abs() < 1e-6).all()
            bounds = frame.join(clipped[key].select("time", got=name), on="time").filter(pl.col("low").is_not_null())
            assert ((bounds["got"] - bounds["bounded"]).abs() < 1e-6 * (1 + bounds["bounded"].abs())).all()
            known += len(both)
            moved += (bounds["got"] != bounds["x"]).sum()
    assert known > 200
    assert moved > 20


PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


def circle(part: int, whole: int) -> tuple[Decimal, Decimal]:
    """Sine and cosine of 2 pi * part / whole by their Taylor series."""
    with localcontext() as context:
        context.prec = 60
        angle = 2 * PI * part / whole
        term, sums = Decimal(1), [Decimal(0), Decimal(0)]
        for n in range(80):
            sums[n % 2] += term if n % 4 < 2 else -term
            term *= angle / (n + 1)
        return sums[1], sums[0]


def test_the_clock_is_a_point_on_a_circle() -> None:
    """Within 2 units in the last place, zeros exact, at Ticks all over some weeks."""
    chance, day, minute = random.Random(2), 86_400 * NS_PER_S, 60 * NS_PER_S
    begin = START - START % day + day
    steps = {chance.randrange(20 * day // BASE_TICK_NS) for _ in range(1_000)}
    times = {begin + step * BASE_TICK_NS for step in steps}
    times |= {begin + i * day // 8 + more for i in range(1, 40) for more in (0, minute, -minute)}
    tape = [instrument("X:Y"), *(tick_event(time) for time in sorted(times))]
    names = ("time_of_day_sin", "time_of_day_cos", "day_of_week_sin", "day_of_week_cos")
    vectors = Engine([FeatureSet("clock", 1, 100, names)], 0).apply(from_events(0, 0, tape))[0]
    assert len(vectors) == len(times)
    for time, values in zip(vectors.time.tolist(), vectors.values.tolist(), strict=True):
        # 1970-01-05 was a Monday.
        weekday = (time - 4 * day) // day % 7
        for value, want in zip(values, (*circle(time % day, day), *circle(weekday, 7)), strict=True):
            # A zero comes out of the series as what its digits leave.
            is_zero = abs(want) < Decimal("1e-40")
            assert value == 0 if is_zero else abs(Decimal(value) - want) <= 2 * Decimal(math.ulp(float(want)))
