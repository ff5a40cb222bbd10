"""How long events and Ticks wait for their vectors, and a word when it is too long.

Input: the rows of each batch, the vectors made of them before and after the broker has them.
Output: the latency histograms of app/metrics.py; at most one warning a second about slow vectors.
State: per partition and feature set, when the events were received that no vector is made of yet.
Units: nanoseconds since 1970 for times, seconds for waits.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from app import metrics
from schemas.columns import Columns, Int64
from schemas.events import Kind
from schemas.feature_sets import FeatureSet
from schemas.limits import EVENTS_TIMED_MAX
from schemas.units import NS_PER_S
from schemas.vectors import Quality, Vectors

logger = logging.getLogger(__name__)

BACKLOG_S: Final = 5.0
"""Vectors of a Tick that is older are no slow vectors: whoever works off a backlog says so once."""

TOLD_EVERY_S: Final = 1.0

NO_TIMES: Final = np.empty(0, np.int64)
_IS_EVENT: Final = np.array([kind not in (Kind.REFUSED, Kind.TICK, Kind.ACTIVATE) for kind in range(256)], np.bool_)


def _count_flags(name: str, quality: Int64) -> None:
    for flag in Quality(int(np.bitwise_or.reduce(quality))):
        flagged = int(np.count_nonzero(quality & flag))
        metrics.vectors_flagged_total.labels(name, str(flag.name).lower()).inc(flagged)


class Received:
    """When records were received, in the order of their offsets; the oldest go when there are too many."""

    def __init__(self) -> None:
        self._parts: deque[tuple[Int64, Int64]] = deque()
        self._count = 0

    def add(self, offsets: Int64, times: Int64) -> None:
        """[n] offsets behind all before, and when each was received."""
        if len(offsets):
            self._parts.append((offsets, times))
            self._count += len(offsets)
        while self._count > EVENTS_TIMED_MAX and len(self._parts) > 1:
            self._count -= len(self._parts.popleft()[0])

    def take(self, end: int) -> Int64:
        """Times of those below offset `end`, which are forgotten."""
        taken = []
        while self._parts and self._parts[0][0][0] < end:
            offsets, times = self._parts.popleft()
            cut = int(np.searchsorted(offsets, end))
            taken.append(times[:cut])
            self._count -= cut
            if cut < len(offsets):
                self._parts.appendleft((offsets[cut:], times[cut:]))
        return np.concatenate(taken) if taken else NO_TIMES


class Slow:
    """Tells of slow vectors once a second at most, and once of a backlog, over all partitions of a worker."""

    def __init__(self, limit_s: float, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._limit_s, self._clock = limit_s, clock
        self._behind: set[int] = set()
        self._was_live: set[int] = set()
        self._count, self._worst_s, self._told = 0, 0.0, -TOLD_EVERY_S

    def judge(self, partition: int, times: Int64, now_ns: int) -> None:
        """[m] T of vectors the broker has as of now; the wait for the Tick is the cadence and not counted."""
        waits = (now_ns - times) / NS_PER_S
        if waits.min() > BACKLOG_S:
            self._fall_behind(partition, float(waits.min()))
            return
        self._was_live.add(partition)
        self._catch_up(partition)
        late = waits[waits > self._limit_s]
        if len(late):
            self._count += len(late)
            self._worst_s = max(self._worst_s, float(late.max()))
        self._tell()

    def forget(self, partition: int) -> None:
        """The partition is not ours any more."""
        self._was_live.discard(partition)
        self._catch_up(partition)

    def _fall_behind(self, partition: int, wait_s: float) -> None:
        """A worker that starts has a backlog by right; one that was up to date has lost ground."""
        if not self._behind:
            level = logging.WARNING if partition in self._was_live else logging.INFO
            logger.log(
                level,
                "%.0f s behind in partition %d; slow vectors are told again when it is up to date",
                wait_s,
                partition,
            )
        self._behind.add(partition)

    def _catch_up(self, partition: int) -> None:
        if partition in self._behind:
            self._behind.remove(partition)
            if not self._behind:
                logger.info("up to date again")

    def _tell(self) -> None:
        now = self._clock()
        if self._count and now - self._told >= TOLD_EVERY_S:
            logger.warning(
                "%d vectors came later than %g s after their Tick, the latest after %.3f s (ONETAPE_SLOW_VECTOR_S)",
                self._count, self._limit_s, self._worst_s,
            )  # fmt: skip
            self._count, self._worst_s, self._told = 0, 0.0, now


class LaneLatency:
    """What one partition's vectors were waited for, under one assignment."""

    def __init__(self, partition: int, sets: Sequence[FeatureSet], slow: Slow, now_ns: Callable[[], int]) -> None:
        """`now_ns` is the wall clock."""
        self._partition, self._slow, self._now_ns = partition, slow, now_ns
        self._received = {each.id: Received() for each in sets}
        self._sent = NO_TIMES

    def read(self, columns: Columns) -> None:
        """Rows that are about to be applied."""
        is_event = _IS_EVENT[columns.kind]
        offsets, times = columns.offset[is_event], columns.ts_recv[is_event]
        for received in self._received.values():
            received.add(offsets, times)

    def sending(self, vectors: Vectors) -> Int64:
        """Vectors of one feature set, at least one; when the events were received that they are the first to hold."""
        self._sent = self._received[vectors.feature_set.id].take(int(vectors.as_of_offset.max()))
        return self._sent

    def sent(self, vectors: Vectors) -> None:
        """The broker has the vectors that were being sent."""
        now, name = self._now_ns(), vectors.feature_set.id
        metrics.event_to_vector.labels(name).observe_ages(now, self._sent)
        metrics.tick_to_vector.labels(name).observe_ages(now, vectors.time)
        metrics.vectors_total.labels(name).inc(len(vectors))
        _count_flags(name, vectors.quality)
        self._slow.judge(self._partition, vectors.time, now)

    def close(self) -> None:
        """The lane has ended."""
        self._slow.forget(self._partition)
