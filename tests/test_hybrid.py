"""A side of near and far levels equals one sorted list and a dict, after every record, wherever its window lies."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import SIDES, Levels, Pair, Record, empty

from schemas.limits import DEPTH_MAX, LEVELS_MAX, PRICE_TICKS_MAX
from tables import layout as at
from tables import side

SIZES = st.sampled_from([0, 0, 1, 2, 900, 1 << 40])
STEPS = st.one_of(
    st.integers(-8, 8),
    st.integers(-at.NEAR_TICKS - 70, at.NEAR_TICKS + 70),
    st.sampled_from([-64, -1, 1, 63, 64, 960, 1023, 1024, -1023, -1024, 5000, -5000]),
    st.integers(-PRICE_TICKS_MAX, PRICE_TICKS_MAX),
)


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    """Prices around centres that leap; sides that run empty; both sides anywhere, crossed as well."""
    centre = draw(st.sampled_from([1, 700, 100_000, PRICE_TICKS_MAX]))
    found = []
    for i in range(draw(st.integers(1, 12))):
        is_snapshot = i == 0 or draw(st.integers(0, 9)) == 0
        sides = []
        for _ in SIDES:
            steps = draw(st.lists(STEPS, max_size=12, unique=is_snapshot))
            prices = [min(max(centre + step, 1), PRICE_TICKS_MAX) for step in steps]
            if is_snapshot:
                prices = list(dict.fromkeys(prices))
            sides.append([(price, draw(SIZES.filter(bool)) if is_snapshot else draw(SIZES)) for price in prices])
        found.append(Record(is_snapshot, *sides))
        named = [price for levels in sides for price, _ in levels]
        if named and draw(st.booleans()):
            centre = draw(st.sampled_from(named))
    return found


@settings(max_examples=300, deadline=None)
@given(records(), st.integers(at.FLOW_LEVELS, DEPTH_MAX))
def test_near_and_far_equal_one_sorted_side_and_a_dict(found: list[Record], depth: int) -> None:
    pair = Pair()
    for record in found:
        pair.take(record)
        pair.fill(depth)


def drift(chance: random.Random, pair: Pair, *, steps: int, jump: int, spread: int, centre: int = 500_000) -> None:
    """Deltas around a price that walks, and now and then leaps by up to `jump`; what is left behind is deleted late."""
    for _ in range(steps):
        centre += chance.choice((-1, 0, 0, 1)) * chance.randrange(1, 40)
        if chance.random() < 0.03:
            centre += chance.randrange(-jump, jump + 1)
        centre = min(max(centre, spread + 1), PRICE_TICKS_MAX - spread)
        sides: list[Levels] = []
        for reference, sign in zip(pair.sides, (1, -1), strict=True):
            changed = []
            for _ in range(chance.randrange(8)):
                depth = min(int(chance.expovariate(3 / spread)), spread)
                changed.append((centre - sign * depth, chance.choice((0, 1, 5, 7))))
            beyond = [abs(rank) for rank in reference.ranks[-40:] if rank > sign * centre]
            changed += [(price, 0) for price in beyond if chance.random() < 0.7]
            chance.shuffle(changed)
            sides.append(changed)
        pair.take(Record(is_snapshot=False, bids=sides[0], asks=sides[1]))
        if chance.random() < 0.1:
            pair.fill(chance.randrange(at.FLOW_LEVELS, DEPTH_MAX + 1))


@pytest.mark.parametrize(
    ("seed", "jump", "spread"), [(1, 10, 40), (2, 3_000, 600), (3, 40_000, 5_000), (4, 200, 1_500), (5, 1 << 40, 900)]
)
def test_a_walk_over_thousands_of_ticks(seed: int, jump: int, spread: int) -> None:
    chance, pair = random.Random(seed), Pair()
    pair.take(Record(is_snapshot=True, bids=[(499_999, 1)], asks=[(500_001, 1)]))
    drift(chance, pair, steps=1_500, jump=jump, spread=spread)


@pytest.mark.parametrize("step", [1, 3, 700])
def test_full_sides(step: int) -> None:
    """8,192 levels, and more: the farthest give way to nearer ones, also while the window moves."""
    chance, pair, centre = random.Random(step), Pair(), 10_000_000
    places = chance.sample(range(1, LEVELS_MAX + 100), LEVELS_MAX + 50)
    pair.take(Record(True, [(centre - step * i, i) for i in places], [(centre + step * i, i) for i in sorted(places)]))
    for _ in range(10):
        nearer = [(centre - step * i - chance.randrange(step), 3) for i in chance.sample(range(6_000), 40)]
        pair.take(Record(False, nearer, [(2 * centre - price, 3) for price, _ in nearer]))
        drift(chance, pair, steps=8, jump=400 * step, spread=300 * step, centre=centre)
        assert max(len(reference.ranks) for reference in pair.sides) > LEVELS_MAX - 400


def test_a_side_that_runs_empty_and_comes_back_elsewhere() -> None:
    pair = Pair()
    pair.take(Record(True, [(1000 + i, 1) for i in range(3)], [(2000, 1)]))
    for price in (1, 1 << 40, 5_000, 900_000, 1_002):
        pair.take(Record(False, [(rank, 0) for rank in pair.sides[0].ranks], [(2000, 0)]))
        pair.fill(DEPTH_MAX)
        pair.take(Record(False, [(price, 4)], [(2000, 4)]))
    empty(pair.row)
    assert [side.levels_of(pair.row, which)[0].tolist() for which in SIDES] == [[], []]
    pair.take(Record(True, [], []))


@pytest.mark.parametrize("seed", range(4))
def test_levels_laid_back_into_a_row_are_the_same_side(seed: int) -> None:
    """Restored rows go on as if never stored, wherever the window was: it is not stored."""
    chance, pair = random.Random(seed), Pair()
    pair.take(Record(is_snapshot=True, bids=[(499_999, 1)], asks=[(500_001, 1)]))
    for _ in range(6):
        drift(chance, pair, steps=60, jump=chance.choice((10, 3_000)), spread=chance.choice((5, 100, 4_000)))
        pair.restore()
        pair.fill(DEPTH_MAX)


FLOW_CASES = [
    # bids before, asks before, bids set, asks set, flow of the best, flow of five levels
    ([(100, 5)], [(101, 7)], [(100, 8)], [], 3, 3),
    ([(100, 5)], [(101, 7)], [(100, 0), (99, 4)], [], -5, -5),
    ([(100, 5), (99, 2)], [(103, 7)], [(101, 4)], [], 4, 4 + 5 + 2),
    ([(100, 5), (99, 2)], [(103, 7)], [(99, 6)], [], 0, 4),
    ([(100, 5)], [(101, 7), (102, 3)], [], [(101, 0)], 7, 7 + 3),
    ([(100, 5)], [(103, 7)], [], [(102, 1)], -1, -1 - 7),
    ([(100 - i, 1) for i in range(6)], [(101, 1)], [(95, 9)], [], 0, 0),
    ([(100 - i, 1) for i in range(6)], [(101, 1)], [(96, 0)], [], 0, -1),
]


@pytest.mark.parametrize(("bids", "asks", "bids_set", "asks_set", "best", "five"), FLOW_CASES)
def test_order_flow_by_hand(
    bids: Levels, asks: Levels, bids_set: Levels, asks_set: Levels, best: int, five: int
) -> None:
    pair = Pair()
    pair.take(Record(True, bids, asks))
    pair.take(Record(False, bids_set, asks_set))
    assert (pair.row[at.TOTALS + at.ORDER_FLOW], pair.row[at.TOTALS + at.MULTI_FLOW]) == (best, five)
