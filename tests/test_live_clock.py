"""The live clock: whoever leads, and whatever the host's clock does, every partition gets a grid without a hole."""

from __future__ import annotations

import random
from itertools import pairwise

import tapes
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.engine import Engine
from app.clock import PAUSE_MAX_NS, tick
from app.live_clock import HostClock, LiveClock
from schemas.columns import from_events, to_events
from schemas.events import Event, Kind
from schemas.feature_sets import load
from schemas.units import BASE_TICK_NS, NS_PER_S

NOW = 1_700_000_000 * NS_PER_S + 17
WAITS = st.lists(st.integers(0, 3 * BASE_TICK_NS) | st.integers(0, 90 * NS_PER_S), min_size=1, max_size=20)


def floor(time: int) -> int:
    return time - time % BASE_TICK_NS


def assert_grid(ticks: list[int]) -> None:
    """Strictly increasing, on the grid, and no step but one base tick or a pause that nobody fills."""
    assert all(time % BASE_TICK_NS == 0 for time in ticks)
    assert all(after - before == BASE_TICK_NS or after - before > PAUSE_MAX_NS for before, after in pairwise(ticks))


@settings(deadline=None)
@given(st.lists(st.none() | st.integers(0, 100 * NS_PER_S), min_size=1, max_size=4), WAITS)
def test_every_partition_is_filled_from_its_own_last_tick(behind: list[int | None], waits: list[int]) -> None:
    last = [None if ns is None else floor(NOW - ns) for ns in behind]
    clock, now = LiveClock(last), NOW
    laid: list[list[int]] = [[] if time is None else [time] for time in last]
    for wait in waits:
        for times, due in zip(laid, clock.due(now), strict=True):
            times.extend(due)
            assert not due or due[-1] == floor(now)
        assert clock.ahead_ns(now) <= 0
        now += wait
    for times in laid:
        assert_grid(times)


def test_a_pause_beyond_the_windows_reach_gets_one_tick_at_any_moment() -> None:
    """Also in the middle of a term: an import may be an hour late, a live tape is only ever joined again."""
    clock = LiveClock([floor(NOW) - PAUSE_MAX_NS, floor(NOW) - PAUSE_MAX_NS - BASE_TICK_NS])
    assert [len(due) for due in clock.due(NOW)] == [PAUSE_MAX_NS // BASE_TICK_NS, 1]
    later = NOW + PAUSE_MAX_NS + BASE_TICK_NS
    assert [list(due) for due in clock.due(later)] == [[floor(later)]] * 2


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_a_leader_that_dies_between_partitions_leaves_no_hole(seed: int, partitions: int) -> None:
    """Leaders in succession, each killed after any number of Ticks, two at once now and then."""
    chance = random.Random(seed)
    tape: list[list[int]] = [[] for _ in range(partitions)]
    leaders: list[LiveClock] = []
    now = NOW
    for _ in range(30):
        if not leaders or chance.random() < 0.2:
            leaders.append(LiveClock([max(ticks, default=None) for ticks in tape]))
        is_killed = chance.random() < 0.3
        due = [(p, time) for p, times in enumerate(chance.choice(leaders).due(now)) for time in times]
        if is_killed:
            due = due[: chance.randrange(len(due) + 1)]
            leaders.clear()
        for partition, time in due:
            tape[partition].append(time)
        now += chance.choice([BASE_TICK_NS, BASE_TICK_NS // 3, 7 * BASE_TICK_NS])
    for times in tape:
        assert_grid(unrepeated(times))


def unrepeated(times: list[int]) -> list[int]:
    """What a reader counts: Ticks above every one before them."""
    counted: list[int] = []
    for time in times:
        if not counted or time > counted[-1]:
            counted.append(time)
    return counted


def test_a_clock_that_is_set_back_stands_until_its_time_is_reached() -> None:
    clock = LiveClock([None])
    clock.due(NOW)
    (before,) = clock.due(NOW + BASE_TICK_NS)
    back = NOW - 30 * NS_PER_S
    assert clock.due(back) == [range(0)]
    assert clock.ahead_ns(back) == before[-1] - back
    assert [list(due) for due in clock.due(NOW + 2 * BASE_TICK_NS)] == [[before[-1] + BASE_TICK_NS]]


def test_steps_of_the_hosts_clock_are_seen_and_its_drift_is_not() -> None:
    host, wall, monotonic = HostClock(), NOW, 5
    for set_by in (0, 0, 3600 * NS_PER_S, 0, -7200 * NS_PER_S, -NS_PER_S, 0):
        wall += set_by
        assert host.step_ns(wall, monotonic) == set_by
        wall, monotonic = wall + NS_PER_S, monotonic + NS_PER_S
        drift = 400_000
        assert host.step_ns(wall + drift, monotonic) == 0
        assert host.step_ns(wall, monotonic) == 0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32))
def test_two_leaders_at_once_give_the_vectors_of_one(seed: int) -> None:
    """Any Tick may come again, right behind or late: the vectors are the same to the bit but for their offsets."""
    chance = random.Random(seed)
    events = to_events(tapes.tape(tapes.market(seed % 7, events=300, seconds=5), partitions=1)[0])
    doubled: list[Event] = []
    for event in events:
        doubled.append(event)
        if event.kind is Kind.TICK:
            late = event.body["time"] - chance.choice([0, 0, 1, 5, 50]) * BASE_TICK_NS
            doubled += [tick(late)] * chance.randrange(3)
    one, two = (Engine([load("micro@1")], 0).apply(from_events(0, 0, each))[0] for each in (events, doubled))
    assert one.time.tolist() == two.time.tolist()
    assert one.instruments() == two.instruments()
    assert len(one) > 5
    assert one.values.tobytes() == two.values.tobytes()
    assert one.quality.tolist() == two.quality.tolist()
