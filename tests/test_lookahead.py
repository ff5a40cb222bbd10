"""The look-ahead report runs the records in the order of the venue's clock, and counts what that changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapes import market, tape

from agents.features import features_agent
from replay.proof.lookahead import WORST, LookAhead, by_venue, look_ahead
from replay.proof.passage import run
from replay.proof.window import Window, window_of
from schemas.columns import Columns, from_events, to_events
from schemas.events import Event, Kind
from schemas.feature_sets import DEFAULT, FeatureSet, load
from schemas.units import NS_PER_MS

SET = load(DEFAULT)
DELAY = "feed_delay_ms"


def window(columns: Columns, fraction: float = 0.8, feature_set: FeatureSet = SET) -> Window:
    """The window from the beginning of a tape to about a fraction of it."""
    vectors, _ = run([columns], [feature_set], {}, features_agent)
    found = window_of({}, [columns], vectors, int(fraction * len(columns)))
    assert found is not None
    return found


def delayed(seed: int, delays_ms: Sequence[int], untimed: int = 0) -> Columns:
    """A tape of one partition whose records have these delays in turn; every `untimed`-th tells no venue time."""
    events = []
    for i, event in enumerate(market(seed, 600, 8)):
        told = event.ts_recv - delays_ms[i % len(delays_ms)] * NS_PER_MS
        events.append(event._replace(ts_event=0 if untimed and i % untimed == 0 else told))
    return tape(events, 1)[0]


def expected_order(seen: Window, shift_ns: int) -> list[Event]:
    """From the definition: a list to which each record, and then each Tick, is put where it belongs."""
    cut = int(seen.batches[-1].offset[-1])
    columns = Columns.concat([*seen.batches, seen.after])
    ticks, records, latest = [], list[tuple[int, Event]](), dict[str, int]()
    for offset, event in zip(columns.offset.tolist(), to_events(columns), strict=True):
        if event.kind is Kind.TICK:
            if offset <= cut:
                ticks.append(event)
            continue
        time = event.ts_event + shift_ns if event.ts_event else latest.get(event.key, event.ts_recv)
        if event.ts_event:
            latest[event.key] = max(time, latest.get(event.key, 0))
        # Received behind the window, it is of the window only if it is of before its last Tick.
        if offset <= cut or time < seen.batches[-1].ts_recv[-1]:
            place = len(records)
            while place and records[place - 1][0] > time:
                place -= 1
            records.insert(place, (time, event._replace(ts_recv=time)))
    ordered: list[Event] = []
    for time, event in records:
        while ticks and ticks[0].body["time"] <= time:
            ordered.append(ticks.pop(0))
        ordered.append(event)
    return [*ordered, *ticks]


@given(
    seed=st.integers(0, 10**6), delays=st.lists(st.integers(-2000, 900), min_size=1, max_size=7),
    untimed=st.sampled_from([0, 2, 3, 10]), fraction=st.floats(0.3, 1), shift=st.integers(-500, 500),
)  # fmt: skip
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_order_is_that_of_the_venue(
    seed: int, delays: list[int], untimed: int, fraction: float, shift: int
) -> None:
    seen = window(delayed(seed, delays, untimed), fraction)
    ordered = by_venue(seen, shift * NS_PER_MS)
    assert to_events(ordered) == expected_order(seen, shift * NS_PER_MS)
    assert (np.diff(ordered.offset) == 1).all()


def test_without_delay_nothing_changes() -> None:
    seen = window(delayed(3, [0]))
    found = look_ahead(seen, SET)
    assert found.rows == len(seen.expected) > 10
    assert set(found.changed.values()) == set(found.aligned.values()) == {0}
    assert list(found.changed) == list(SET.features)
    assert (found.least_ns, found.most_ns) == (0, 0)


@pytest.mark.parametrize("delay", [-1300, 700])
def test_equal_delays_are_a_difference_of_two_clocks(delay: int) -> None:
    """Aligned, nothing is left of it; as it is, everything that trades make changes."""
    found = look_ahead(window(delayed(4, [delay])), SET)
    assert (found.least_ns, found.most_ns) == (delay * NS_PER_MS, delay * NS_PER_MS)
    assert set(found.aligned.values()) == {0}
    assert found.changed["volume_1s"] > 0.9 * found.rows
    assert found.changed[DELAY] >= 0.9 * found.rows


def test_the_share_is_that_of_rows_that_differ_from_a_run_in_that_order() -> None:
    columns = delayed(5, [0, 120, 40, 300])
    seen = window(columns)
    found = look_ahead(seen, SET)
    got, _ = run([from_events(0, 0, expected_order(seen, 0))], [SET], {}, features_agent)
    there = dict(zip(zip(got.instruments(), got.time.tolist(), strict=True), got.bits(), strict=True))
    rows = zip(seen.expected.instruments(), seen.expected.time.tolist(), seen.expected.bits(), strict=True)
    differs = np.array([there[key, time] != bits if (key, time) in there else [True] * 112 for key, time, bits in rows])
    assert [found.changed[name] for name in SET.features] == differs.sum(axis=0).tolist()
    told = found.json()
    assert told["changed"] == {name: found.changed[name] / found.rows for name in told["changed"]}
    assert list(told["changed"].values()) == sorted(told["changed"].values(), reverse=True)
    assert found.worst() == dict(list(told["changed"].items())[:WORST])
    assert told["delay_ns"] == {"least": 0, "most": 300 * NS_PER_MS}


def test_a_vector_that_is_gone_has_changed_in_every_feature() -> None:
    """By venue time the instrument becomes known only behind the first Ticks."""
    columns = delayed(6, [0])
    late = replace(columns, ts_event=columns.ts_event + (columns.kind == Kind.INSTRUMENT) * 3_500 * NS_PER_MS)
    found = look_ahead(window(late), SET)
    assert min(found.changed.values()) >= 3 * 2


def test_windows_add_up_and_states_go_with_them() -> None:
    columns = delayed(7, [0, 90])
    other = FeatureSet("beside", 1, 500, ("mid_price", "zscore_mid_price_5"))
    half = len(columns) // 2
    first, blobs = run([columns.slice(0, half)], [SET, other], {}, features_agent)
    assert len(first)
    rest = columns.slice(half, len(columns))
    vectors, _ = run([rest], [SET, other], blobs, features_agent)
    seen = window_of(blobs, [rest], vectors, len(columns) - 40)
    assert seen is not None
    total = LookAhead()
    for each in (look_ahead(seen, SET, beside=[other]), look_ahead(window(delayed(8, [50, 500])), SET)):
        rows, volume = total.rows + each.rows, total.changed.get("volume_1s", 0) + each.changed["volume_1s"]
        total.add(each)
        assert (total.rows, total.changed["volume_1s"]) == (rows, volume)
    assert (total.least_ns, total.most_ns) == (0, 500 * NS_PER_MS)


def test_without_a_venue_time_nothing_is_told_of_delays() -> None:
    columns = delayed(9, [0], untimed=1)
    found = look_ahead(window(columns), SET)
    assert (found.least_ns, found.most_ns) == (None, None)
    assert set(found.changed.values()) == {0}
    assert LookAhead().json() == {
        "rows": 0, "changed": {}, "changed_aligned": {}, "delay_ns": {"least": None, "most": None}
    }  # fmt: skip
