"""The tape's clock: which Ticks stand before an event.

Tick T stands before the first event received at T or later, so that a vector at T has seen [.., T) and nothing after.
The same rule lays Ticks into an import and, with the host's time as the event, onto a live tape (app/live_clock.py).

Input: receive times, in any order: one below the last Tick lays none.
State: the last Tick, and the latest receive time.
Output: `range`s of Tick times; every one goes into EVERY partition.
Units: ns UTC, multiples of `schemas.units.BASE_TICK_NS`.
"""

from __future__ import annotations

from schemas.events import Event, Kind
from schemas.limits import SILENCE_MAX_NS
from schemas.topics import CLOCK_KEY
from schemas.units import BASE_TICK_NS
from tables.layout import BUCKETS

PAUSE_MAX_NS = BUCKETS * BASE_TICK_NS
"""Between two recordings of one archive nobody watched. Up to this, the reach of the windows, Ticks fill the pause."""


class ClockLayer:
    """Says which Ticks are due. `last_tick` is where an earlier recording of the same tape ended.

    Behind a longer pause or silence the clock begins anew with the one Tick at or below the first event. It is a hole
    in the clock: the windows begin anew there, and that event has a bucket.
    """

    def __init__(self, last_tick: int | None = None, silence_max_ns: int = SILENCE_MAX_NS) -> None:
        self.last_tick = last_tick
        self._silence_max_ns = silence_max_ns
        self._latest = 0

    def due(self, ts_recv: int) -> range:
        """Ticks that stand before an event received at `ts_recv`. The first of a tape is above its first event."""
        longest = self._silence_max_ns if self._latest else PAUSE_MAX_NS
        self._latest = max(self._latest, ts_recv)
        floor = ts_recv - ts_recv % BASE_TICK_NS
        if self.last_tick is None:
            self.last_tick = floor
            return range(0)
        if floor - self.last_tick > longest:
            self.last_tick = floor
            return range(floor, floor + BASE_TICK_NS, BASE_TICK_NS)
        return self._until(ts_recv)

    def close(self) -> range:
        """Ticks after the last event: one above it, so that its window closes too."""
        if not self._latest:
            return range(0)
        return self._until(self._latest - self._latest % BASE_TICK_NS + BASE_TICK_NS)

    def _until(self, time: int) -> range:
        last = self.last_tick
        if last is None or time < last + BASE_TICK_NS:
            return range(0)
        due = range(last + BASE_TICK_NS, time + 1, BASE_TICK_NS)
        self.last_tick = due[-1]
        return due


def tick(time: int) -> Event:
    """The record of one Tick."""
    return Event(CLOCK_KEY, time, time, Kind.TICK, {"time": time})
