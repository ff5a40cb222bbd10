"""The live clock: which Ticks are due in each partition at a wall time, and whether the host's clock was set meanwhile.

Input: wall and monotonic time; the last Tick of each partition as a new leader finds it on the tape.
State: the last Tick of each partition.
Output: `range`s of Tick times.
Units: ns; wall time is UTC.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from app.clock import PAUSE_MAX_NS, ClockLayer
from schemas.units import NS_PER_S

STEP_MIN_NS: Final = NS_PER_S
"""A host's clock that is slewed differs by far less between two looks at it."""


class LiveClock:
    """The rule of `app.clock` with the host's time in place of events, each partition from its own last Tick.

    A leader may have died when some partitions had a Tick and others had not; what it left out is due at once. Behind
    a pause of more than the windows' reach the clock begins anew with one Tick.
    """

    def __init__(self, last_ticks: Sequence[int | None]) -> None:
        """[partitions] the last Tick of each, None where the tape has none."""
        self._layers = [ClockLayer(last, silence_max_ns=PAUSE_MAX_NS) for last in last_ticks]

    def due(self, now: int) -> list[range]:
        """[partitions] Ticks up to `now`. None while `now` is below the last Tick: time stands until it is reached."""
        return [layer.due(now) for layer in self._layers]

    def ahead_ns(self, now: int) -> int:
        """How far the highest Tick of any partition is ahead of `now`; 0 if it is not."""
        return max((last - now for last in self._last_ticks()), default=0)

    def paused_ns(self, now: int) -> int:
        """How long ago the last Tick of the partition was that has waited longest for one; 0 on a new tape."""
        return max((now - last for last in self._last_ticks()), default=0)

    def _last_ticks(self) -> Iterator[int]:
        return (layer.last_tick for layer in self._layers if layer.last_tick is not None)


class HostClock:
    """Wall time against monotonic time, from one look to the next."""

    def __init__(self) -> None:
        self._offset: int | None = None

    def step_ns(self, wall: int, monotonic: int) -> int:
        """How far the clock was set since the last look, ahead or (negative) back; 0 for less than a second."""
        offset = wall - monotonic
        step = 0 if self._offset is None else offset - self._offset
        self._offset = offset
        return step if abs(step) >= STEP_MIN_NS else 0
