"""The tape's clock: which Ticks stand before an event.

Tick T stands before the first event received at T or later, so that a vector at T has seen [.., T) and nothing after.
The same rule lays Ticks into an import and, on a timer, into a live recording.

Input: receive times, in any order: one below the last Tick lays none.
State: the last Tick, and the latest receive time.
Output: `range`s of Tick times; every one goes into EVERY partition.
Units: ns UTC, multiples of `schemas.units.BASE_TICK_NS`.
"""

from __future__ import annotations

from schemas.events import Event, Kind
from schemas.topics import CLOCK_KEY
from schemas.units import BASE_TICK_NS, NS_PER_S

SILENCE_MAX_NS = 3_600 * NS_PER_S
"""Between two recordings of one archive, a longer silence is not filled with Ticks: the clock begins anew."""


class ClockLayer:
    """Says which Ticks are due. `last_tick` is where an earlier recording of the same tape ended."""

    def __init__(self, last_tick: int | None = None) -> None:
        self.last_tick = last_tick
        self._latest = 0

    def due(self, ts_recv: int) -> range:
        """Ticks that stand before an event received at `ts_recv`. The first of all is above the first event."""
        self._latest = max(self._latest, ts_recv)
        last = self.last_tick
        if last is None or ts_recv - last > SILENCE_MAX_NS:
            self.last_tick = ts_recv - ts_recv % BASE_TICK_NS
            return range(0)
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
