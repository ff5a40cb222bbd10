"""Waits are measured event by event, whatever the batches; slow vectors are told of once a second, a backlog once."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import metrics
from app.latency import LaneLatency, Received, Slow
from schemas.columns import Columns, Int64, from_events
from schemas.events import Event, Kind
from schemas.feature_sets import DEFAULT, load
from schemas.limits import EVENTS_TIMED_MAX
from schemas.units import NS_PER_MS, NS_PER_S
from schemas.vectors import Vectors

SET = load(DEFAULT)
START = 1_700_000_000 * NS_PER_S
STEP = 100 * NS_PER_MS
KEY = "BINANCE_USDM:BTCUSDT"
NAMES = ("event_to_vector_seconds", "tick_to_vector_seconds")
FUNDING = {"rate": 1, "next_funding_ts": None}


class Clock:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.ns = START

    def __call__(self) -> int:
        return self.ns


def tape(events: list[int]) -> Columns:
    """That many events before each of some Ticks, 1 ms apart, the last Tick behind them all."""
    rows = []
    for number, count in enumerate(events):
        at = START + number * STEP
        rows += [Event(KEY, 0, at + i * NS_PER_MS, Kind.FUNDING, FUNDING) for i in range(count)]
        rows.append(Event("*", at + STEP, at + STEP, Kind.TICK, {"time": at + STEP}))
    return from_events(0, 0, rows)


def vectors_at(columns: Columns, first: int, last: int) -> Vectors:
    """A vector per Tick of a slice."""
    part = columns.slice(first, last)
    ticks = np.flatnonzero(part.kind == Kind.TICK)
    count = len(ticks)
    return replace(
        Vectors.empty(SET), keys=[KEY], key=np.zeros(count, np.int32), partition=np.zeros(count, np.int32),
        time=part.ts_recv[ticks], as_of_offset=part.offset[ticks], ts_available=part.ts_recv[ticks],
        book_epoch=np.zeros(count, np.int64), quality=np.full(count, 2, np.int64),
        values=np.zeros((count, len(SET.features))),
    )  # fmt: skip


def total(name: str) -> tuple[float, float]:
    """Samples and their sum of a histogram so far."""
    count = metrics.REGISTRY.get_sample_value(f"{name}_count", {"feature_set": SET.id})
    return count or 0.0, metrics.REGISTRY.get_sample_value(f"{name}_sum", {"feature_set": SET.id}) or 0.0


def waits(now: int, times: Int64) -> float:
    """Sum of the waits until now, in seconds; a time to come has not been waited for."""
    return float(np.maximum(now - times, 0).sum() / NS_PER_S)


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.data())
def test_every_event_is_measured_once_whatever_the_batches(events: list[int], data: st.DataObject) -> None:
    columns, clock = tape(events), Clock()
    sender = LaneLatency(0, [SET], Slow(3600, float), clock)
    before = {name: total(name) for name in NAMES}
    expected = dict.fromkeys(NAMES, 0.0)
    cuts = sorted({0, len(columns), *data.draw(st.lists(st.integers(0, len(columns))))})
    begin = 0
    for first, last in pairwise(cuts):
        sender.read(columns.slice(first, last))
        made = vectors_at(columns, first, last)
        if not len(made):
            continue
        end = int(made.as_of_offset[-1])
        arrived = columns.ts_recv[begin:end][columns.kind[begin:end] != Kind.TICK]
        begin = end
        assert sender.sending(made).tolist() == arrived.tolist()
        clock.ns += data.draw(st.integers(1, NS_PER_S))
        sender.sent(made)
        expected["event_to_vector_seconds"] += waits(clock.ns, arrived)
        expected["tick_to_vector_seconds"] += waits(clock.ns, made.time)
    for name in NAMES:
        count = sum(events) if name.startswith("event") else len(events)
        summed = pytest.approx(before[name][1] + expected[name], rel=1e-9, abs=1e-6)
        assert total(name) == (before[name][0] + count, summed)


def test_a_tape_without_ticks_is_not_remembered_for_good() -> None:
    received = Received()
    for first in range(0, 3 * EVENTS_TIMED_MAX, 10_000):
        received.add(np.arange(first, first + 10_000), np.zeros(10_000, np.int64))
    assert len(received.take(3 * EVENTS_TIMED_MAX + 10_000)) <= EVENTS_TIMED_MAX


def times(*seconds: float) -> Int64:
    return np.array([START - round(each * NS_PER_S) for each in seconds], np.int64)


def test_slow_vectors_are_told_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    slow = Slow(0.070, lambda: now[0])
    slow.judge(0, times(0.069, 0.070), START)
    assert not caplog.messages
    slow.judge(0, times(0.071, 0.01), START)
    slow.judge(1, times(0.5, 0.08), START)
    now[0] += 1
    slow.judge(1, times(0.01), START)
    assert caplog.messages == [
        "1 vectors came later than 0.07 s after their Tick, the latest after 0.071 s (ONETAPE_SLOW_VECTOR_S)",
        "2 vectors came later than 0.07 s after their Tick, the latest after 0.500 s (ONETAPE_SLOW_VECTOR_S)",
    ]


def test_a_backlog_is_told_once_and_not_as_slow_vectors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    slow = Slow(0.070, float)
    slow.judge(0, times(90), START)  # where a worker starts, it may
    slow.judge(1, times(60), START)
    slow.judge(0, times(30), START)
    slow.judge(0, times(0.01), START)
    slow.judge(1, times(0.01), START)
    slow.judge(0, times(7), START)  # where it has been up to date, it should not
    slow.forget(0)
    assert [(record.levelname, record.getMessage().partition(";")[0]) for record in caplog.records] == [
        ("INFO", "90 s behind in partition 0"), ("INFO", "up to date again"),
        ("WARNING", "7 s behind in partition 0"), ("INFO", "up to date again"),
    ]  # fmt: skip
