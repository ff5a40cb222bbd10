"""Exact decimals and times."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RecordRefused
from schemas.units import decimals, to_int, to_ns, to_steps

numbers = st.decimals(min_value=-(10**9), max_value=10**9, places=9)


@given(numbers)
def test_decimal_text_is_exact(number: Decimal) -> None:
    text = f"{number:f}"
    assert Decimal(to_int(text, 12)).scaleb(-12) == number
    assert decimals(text) == max(0, -number.normalize().as_tuple().exponent)


@pytest.mark.parametrize("text", ["", "NaN", "inf", "1e5", "-", "1.", ".5", "0x10", "1_000", "٣", " 1", "9" * 20])
def test_what_is_no_plain_decimal_is_refused(text: str) -> None:
    with pytest.raises(RecordRefused, match="not-a-number"):
        to_int(text, 8)


def test_finer_than_the_scale_is_refused_not_rounded() -> None:
    with pytest.raises(RecordRefused, match="finer-than-scale"):
        to_int("0.125", 2)
    with pytest.raises(RecordRefused, match="off-step"):
        to_steps("0.3", 2, 25)
    assert to_steps("4500.250", 2, 25) == 18001


@pytest.mark.parametrize(
    ("value", "units", "ns"),
    [
        (1721347021080, ("ms", "us"), 1721347021080_000_000),
        (1680652700423575, ("ns", "us"), 1680652700423575_000),
        (1721347021080838061, ("ns", "us"), 1721347021080838061),
    ],
)
def test_the_unit_follows_from_the_range(value: int, units: tuple[str, ...], ns: int) -> None:
    assert to_ns(value, units) == ns


def test_a_time_in_an_undeclared_unit_is_refused() -> None:
    with pytest.raises(RecordRefused, match="implausible-time"):
        to_ns(1721347021, ("ms", "us"))
