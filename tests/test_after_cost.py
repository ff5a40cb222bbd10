"""Returns after cost: books that never overlap, each change of a position paid once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portfolios import books

from replay.evaluation import returns
from schemas.units import NS_PER_S


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 7), st.integers(1, 3), st.floats(0, 50))
def test_returns_are_those_of_books_that_never_overlap(
    data: st.DataObject, horizon_s: int, instruments: int, cost_bps: float
) -> None:
    keys = st.tuples(st.integers(0, instruments - 1), st.integers(0, 25))
    drawn = data.draw(st.lists(keys, min_size=1, max_size=40, unique=True))
    positions = data.draw(st.lists(st.sampled_from((-2.5, 0.0, 1.0)), min_size=len(drawn), max_size=len(drawn)))
    gains = data.draw(st.lists(st.floats(-0.1, 0.1), min_size=len(drawn), max_size=len(drawn)))
    horizon = horizon_s * NS_PER_S
    found = returns.after_cost(
        np.array(positions), np.array(gains), np.array([key for key, _ in drawn]),
        np.array([at for _, at in drawn]) * NS_PER_S, horizon_ns=horizon, cost_bps=cost_bps,
    )  # fmt: skip
    rows = [
        (key, at * NS_PER_S, float(np.sign(position)), gain)
        for (key, at), position, gain in zip(drawn, positions, gains, strict=True)
    ]
    net, traded, count = books(rows, horizon, cost_bps * 1e-4)
    values = found.measured.values
    assert found.books == count
    assert values["net"] == pytest.approx(net, abs=1e-12)
    assert values["turnover"] == pytest.approx(traded / len(rows))
    assert found.curve[-1] == pytest.approx(net, abs=1e-12)
    assert values["gross"] is not None
    assert values["cost"] is not None
    assert values["gross"] - values["cost"] == pytest.approx(net, abs=1e-12)
    if traded:
        assert values["break_even_bps"] == pytest.approx(values["gross"] * count / traded * 1e4, abs=1e-6)


def test_a_constant_position_pays_twice() -> None:
    """In once, out once, however many overlapping rows hold it: the cost is that of one trade, not of all rows."""
    count, horizon = 100, 10 * NS_PER_S
    entry = np.arange(count) * NS_PER_S
    found = returns.after_cost(
        np.ones(count), np.full(count, 0.001), np.zeros(count, np.int64), entry, horizon_ns=horizon, cost_bps=2
    )
    assert found.books == 10
    assert found.measured.values["cost"] == pytest.approx(2 * 2e-4)
    assert found.measured.values["gross"] == pytest.approx(0.001 * 10), (
        "ten holdings one behind the other, not a hundred"
    )
    assert found.measured.values["sharpe_per_row"] is not None
    assert found.measured.values["hit_rate"] == 1.0
