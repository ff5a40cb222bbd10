"""Far levels in blocks equal a sorted list, whatever comes and goes in whatever order; no block is lost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import Levels, Pair, Record, blocks_of

from schemas.limits import DEPTH_MAX, LEVELS_MAX
from tables import layout as at

CENTRE = 10_000_000
DEEP = 2 * at.NEAR_TICKS
"""So far from the best price every level is far."""


def both(places: list[int], size: int, centre: int = CENTRE) -> Record:
    """The same levels on both sides, by their distance from the centre."""
    return Record(False, [(centre - place, size) for place in places], [(centre + place, size) for place in places])


def begun(centre: int = CENTRE) -> Pair:
    pair = Pair()
    pair.take(Record(True, [(centre - 1, 1)], [(centre + 1, 1)]))
    return pair


def in_order(order: str, places: list[int]) -> list[int]:
    places = sorted(places, reverse=order == "descending")
    if order == "alternating":
        places = [places[i // 2 if i % 2 == 0 else -1 - i // 2] for i in range(len(places))]
    if order == "random":
        random.Random(len(places)).shuffle(places)
    return places


ORDERS = ["ascending", "descending", "alternating", "random"]


@pytest.mark.parametrize("going", ORDERS)
@pytest.mark.parametrize("coming", ORDERS)
def test_full_drained_and_full_again(coming: str, going: str) -> None:
    """More levels than a side keeps, then all of them away but the best, then some again where they were."""
    pair = begun()
    places = in_order(coming, [DEEP + 3 * i for i in range(LEVELS_MAX + 200)])
    for i in range(0, len(places), 400):
        pair.take(both(places[i : i + 400], 5))
    assert [len(reference.ranks) for reference in pair.sides] == [LEVELS_MAX] * 2
    assert row_blocks(pair) <= at.BLOCKS_MAX
    pair.restore()
    pair.take(both([DEEP + 3 * i + 1 for i in range(100)], 6))
    places = in_order(going, places)
    for i in range(0, len(places), 700):
        pair.take(both(places[i : i + 700], 0))
        pair.fill(DEPTH_MAX)
    assert [len(reference.ranks) for reference in pair.sides] == [101] * 2
    pair.take(both(places[::20], 7))


def row_blocks(pair: Pair) -> int:
    return int(max(pair.row[at.FAR_BLOCKS : at.FAR_BLOCKS + 2]))


def test_blocks_thinned_out_never_run_short() -> None:
    """Blocks kept as thin as they can be, until the side is full: nearly all blocks there are, never one more."""
    pair, place, keep = begun(), DEEP, at.SMALL // 2 + 1
    while len(pair.sides[0].ranks) < LEVELS_MAX:
        wave = list(range(place, place + min(1_500, LEVELS_MAX - len(pair.sides[0].ranks))))
        place += len(wave)
        pair.take(both(wave, 2))
        thick = [rank for block in blocks_of(pair.row, at.BID) for rank in block[keep:]]
        if len(pair.sides[0].ranks) < LEVELS_MAX:
            pair.take(both([CENTRE - rank for rank in thick], 0))
    assert 0.9 * at.BLOCKS_MAX < row_blocks(pair) <= at.BLOCKS_MAX
    # Every level that comes now pushes one out, and splits no thin block for long.
    pair.take(both(list(range(DEEP - 500, DEEP)), 3))
    pair.take(both(list(range(1, at.NEAR_TICKS // 2)), 3))
    pair.restore()


@pytest.mark.parametrize("seed", range(3))
def test_a_full_side_whose_window_moves(seed: int) -> None:
    """Levels pass to and fro between near and blocks while each new one pushes the farthest out."""
    chance, pair = random.Random(seed), begun()
    places = chance.sample(range(2, 2 * LEVELS_MAX), LEVELS_MAX + 10)
    pair.take(Record(True, [(CENTRE - i, 1) for i in places], [(CENTRE + i, 1) for i in places]))
    centre = CENTRE
    for _ in range(40):
        centre += chance.choice((-1, 1)) * chance.choice((3, 70, 500, 2_500))
        beyond = [[(abs(r), 0) for r in pair.sides[w].ranks if r > sign * centre] for w, sign in ((0, 1), (1, -1))]
        nearer = both([chance.randrange(1, 3_000) for _ in range(150)], 4, centre)
        pair.take(Record(False, beyond[0] + nearer.bids, beyond[1] + nearer.asks))
        pair.fill(DEPTH_MAX)
        if chance.random() < 0.2:
            pair.restore()


@st.composite
def changes(draw: st.DrawFn) -> tuple[Levels, str]:
    """Many levels at once, in an order: (distance from the centre, size); and what else happens."""
    first, step = draw(st.integers(1, 9_000)), draw(st.sampled_from([1, 1, 2, 7, 60]))
    places = [first + step * i for i in range(draw(st.integers(1, 160)))]
    size = draw(st.sampled_from([0, 0, 1, 9]))
    kept = draw(st.sampled_from([1, 1, 2, 5]))
    ordered = in_order(draw(st.sampled_from(ORDERS)), places)
    return [(place, size) for place in ordered if place % kept == 0], draw(st.sampled_from(["", "", "restore", "fill"]))


@settings(max_examples=150, deadline=None)
@given(st.lists(changes(), min_size=1, max_size=25))
def test_blocks_split_merge_and_drain(steps: list[tuple[Levels, str]]) -> None:
    pair = begun()
    for levels, then in steps:
        bids, asks = ([(CENTRE - sign * place, size) for place, size in levels] for sign in (1, -1))
        pair.take(Record(False, bids, asks))
        if then == "restore":
            pair.restore()
        elif then == "fill":
            pair.fill(DEPTH_MAX)
