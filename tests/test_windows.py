"""Bucket rings equal plain lists at every edge, and the logarithm keeps its bits and its precision."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from schemas.columns import Int64
from schemas.units import BASE_TICK_NS, NS_PER_S
from tables import layout as at
from tables import windows
from tables.logarithm import log_ratio

START = 1_721_347_200 * NS_PER_S


@njit
def add_trade(row: Int64, price: int, size: int, is_sell: int) -> None:
    windows.add_trade(row, price, size, is_sell)


@njit
def advance(row: Int64, time: int, mid2: int) -> None:
    windows.advance(row, time, mid2)


@njit
def reach(row: Int64, window: int) -> tuple[int, int, int]:
    return windows.highest(row, window), windows.lowest(row, window), windows.mid2_before(row, window)


@njit
def total(row: Int64, quantity: int, window: int) -> int:
    return windows.total(row, quantity, window)


@njit
def ratio(a: float, b: float) -> float:
    return log_ratio(a, b)


WINDOWS = (1, 10, 30, 77, 150, 600)


def sums(row: Int64, window: int) -> list[int]:
    return [total(row, quantity, window) for quantity in range(at.SUM_COUNT)]


def value(totals: list[int]) -> int:
    """The value in its three limbs."""
    return (((totals[at.VALUE_2] << at.VALUE_BITS) + totals[at.VALUE_1]) << at.VALUE_BITS) + totals[at.VALUE_0]


@pytest.mark.parametrize("leap", [1, 7, 40, 599, 600, 601, 5_000])
def test_rolling_sums_equal_lists(leap: int) -> None:
    """Over a thousand buckets with a leap between: sums, extremes and earlier mids of every window.

    A leap longer than the ring begins anew: its Tick is the birth, and no trade or mid before it is known.
    """
    chance = random.Random(leap)
    row = np.zeros(at.ROW_SIZE, np.int64)
    trades: list[tuple[int, int, int, int]] = []
    mids = {START: 0}
    tick = START
    birth = tick
    advance(row, tick, 0)
    for step in range(1_000):
        for _ in range(chance.choice((0, 0, 1, 3))):
            price, size, is_sell = chance.randrange(1, 1 << 30), chance.randrange(1, 1 << 20), chance.randrange(2)
            add_trade(row, price, size, is_sell)
            trades.append((tick, price, size, is_sell))
        before, tick = tick, tick + BASE_TICK_NS * (leap if step == 500 else 1)
        mid = chance.randrange(1, 1000)
        advance(row, tick, mid)
        mids |= dict.fromkeys(range(before + BASE_TICK_NS, tick + 1, BASE_TICK_NS), mid)
        if leap > at.BUCKETS and step == 500:
            birth, trades, mids = tick, [], {tick: mid}
        assert row[at.BIRTH] == birth
        for window in WINDOWS:
            length = window * BASE_TICK_NS
            if tick - length < birth:
                continue
            inside = [each for each in trades if tick - length <= each[0] < tick]
            got = sums(row, window)
            assert got[at.BUY_COUNT] == sum(not is_sell for *_, is_sell in inside)
            assert got[at.SELL_VOLUME] == sum(size for _, _, size, is_sell in inside if is_sell)
            assert value(got) == sum(price * size for _, price, size, _ in inside)
            high, low, earlier = reach(row, window)
            assert (high, low) == (
                max((p for _, p, _, _ in inside), default=0),
                min((p for _, p, _, _ in inside), default=0),
            )
            assert earlier == mids[tick - length]
        trades = [each for each in trades if each[0] >= tick - 60 * NS_PER_S]


@pytest.mark.fault("time", "equal timestamps, and events one ns beside a window's edge")
@pytest.mark.parametrize("window", WINDOWS)
def test_window_edges(window: int) -> None:
    """A trade right behind Tick T is in [T, T + W] but not in the window after it: half open."""
    row = np.zeros(at.ROW_SIZE, np.int64)
    advance(row, START, 0)
    add_trade(row, 5, 1, 0)
    seen = []
    for i in range(1, window + 2):
        advance(row, START + i * BASE_TICK_NS, 0)
        seen.append(int(sums(row, window)[at.BUY_COUNT]))
    assert seen == [1] * window + [0]


@pytest.mark.parametrize("begin", [0, (1 << 63) - 1_000])
def test_all_sums_return_to_zero(begin: int) -> None:
    """Nothing drifts, also while totals wrap around: when every trade has left, the sums are what they were."""
    row = np.zeros(at.ROW_SIZE, np.int64)
    advance(row, START, 0)
    row[at.TOTALS : at.RING] = begin
    row[at.RING : at.RING_HIGH] = begin
    for i in range(1, 2_000):
        add_trade(row, i, i, i % 2)
        advance(row, START + i * BASE_TICK_NS, 0)
    assert sums(row, 2)[at.BUY_VOLUME] + sums(row, 2)[at.SELL_VOLUME] == 1_999 + 1_998
    for i in range(2_000, 2_601):
        advance(row, START + i * BASE_TICK_NS, 0)
    assert sums(row, 600) == [0] * at.SUM_COUNT
    assert not row[at.RING_HIGH : at.RING_MID].any()


@given(price=st.integers(1, 1 << 40), size=st.integers(1, 1 << 40))
def test_inverse_value_is_the_floor_of_size_over_price(price: int, size: int) -> None:
    row = np.zeros(at.ROW_SIZE, np.int64)
    row[at.CONTRACT] = at.INVERSE
    add_trade(row, price, size, 0)
    assert value(row[at.TOTALS : at.TOTALS + at.SUM_COUNT].tolist()) == (size << 60) // price


@settings(max_examples=500)
@given(a=st.integers(1, 1 << 41), b=st.integers(1, 1 << 41))
def test_logarithm_of_any_ratio(a: int, b: int) -> None:
    assert math.isclose(ratio(float(a), float(b)), math.log(a) - math.log(b), rel_tol=1e-15, abs_tol=2e-14)
    assert ratio(float(a), float(b)) == -ratio(float(b), float(a))


@settings(max_examples=500)
@given(a=st.integers(1 << 10, 1 << 41), move=st.integers(-500, 500))
def test_logarithm_keeps_full_precision_near_one(a: int, move: int) -> None:
    """A return of a few ticks on a large price: correct to the last bits, where log(a / b) has lost half of them."""
    x = Fraction(move, a)
    if abs(x) < Fraction(1, 1000):
        exact = float(sum((-1) ** (k + 1) * x**k / k for k in range(1, 9)))
        assert math.isclose(ratio(float(a + move), float(a)), exact, rel_tol=5e-16, abs_tol=0.0)


def test_logarithm_has_these_bits() -> None:
    """The same on every CPU; a change of any of them is a change of published features."""
    bits = [ratio(a, b).hex() for a, b in ((2.0, 1.0), (3.0, 7.0), (100001.0, 100000.0), (1e12, 3.0), (5.0, 5.0))]
    assert bits == [
        "0x1.62e42fefa39efp-1", "-0x1.b1d10670aae9ap-1", "0x1.4f8aea9ae7317p-17", "0x1.a884bf1e52f70p+4", "0x0.0p+0",
    ]  # fmt: skip
