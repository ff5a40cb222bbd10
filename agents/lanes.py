"""Lanes: one run of an agent per partition and assignment, fed with whole batches.

A lane hands batches to its agent and says when an epoch ends: after so many seconds, even if nothing more comes, or
after so many rows. An agent with thousands of states to save asks the lane for its share: a few after each batch, and
after batches without rows while nothing else waits; the next epoch ends no sooner than that is done. Closing a lane
gives the agent a last batch without rows that ends the epoch and has everything saved and acknowledged, before the
partition goes to another worker or this one stops.

Input: `RawBatch` messages with their acknowledgement.
State: at most `WAITING` batches per lane; what waits when a lane closes is dropped, unacknowledged, and read again.
Errors: TapeHole when a batch does not continue the one before it. The first exception of an agent goes to `fail`;
    from then on nothing is handed over.
Units: seconds of the injected monotonic clock; rows.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from agents.ports import RawBatch
from schemas.errors import CheckFailed

WAITING: Final = 2
SAVE_SYMBOLS: Final = 16
"""States an agent saves after a batch, a millisecond or two of work: the next batch waits no longer for it."""
PAUSE_S: Final = 0.02
"""How long a lane without a batch leaves the others their turn between two saves."""

B_co = TypeVar("B_co", covariant=True)
Ack = Callable[[], object]


class TapeHole(CheckFailed):
    """Records have gone between two batches."""


class Adapt(Protocol[B_co]):
    """Makes what an agent takes out of what the broker gave. The raw batch has no rows when it only ends the epoch."""

    async def __call__(self, raw: RawBatch, is_first: bool, ends_epoch: bool, ack: Ack) -> B_co:
        """The batch. `ack` acknowledges it."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """When an epoch ends: after `seconds`, or after `rows` rows if sooner. `clock` is monotonic, in seconds.

    Of more than SAVE_SYMBOLS states, `saves_per_s` are saved a second: an epoch of thousands lasts the longer. Once the
    batches behind its end have `held` rows, which are not acknowledged until then, the rest is saved at once.
    """

    seconds: float
    rows: int
    clock: Callable[[], float]
    saves_per_s: float = math.inf
    held: int = sys.maxsize


class Lane:
    """One partition under one assignment."""

    def __init__(self, topic: str, partition: int, epoch: Epoch) -> None:
        self.topic, self.partition = topic, partition
        self.last_offset = -1
        self._epoch = epoch
        self._waiting: deque[tuple[RawBatch, Ack]] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._closing = False
        self._listed = 0
        """States of an ended epoch that the agent has still to save."""
        self._rows = 0
        """Rows handed over since the epoch began, or since the one before was saved."""
        self._credit, self._credited = float(SAVE_SYMBOLS), epoch.clock()
        """States that may be saved at once, and when that was worked out."""

    async def put(self, raw: RawBatch, ack: Ack) -> None:
        """Hand over a batch; waits while the lane is full and drops it if the lane closes."""
        while len(self._waiting) >= WAITING and not self._closing:
            self._room.clear()
            await self._room.wait()
        if not self._closing:
            self._waiting.append((raw, ack))
            self._changed.set()

    def close(self) -> None:
        """Let the agent finish the batch it has, save, and end."""
        self._closing = True
        self._room.set()
        self._changed.set()

    def share(self, listed: int) -> int:
        """How many of the states that wait for it are saved after this batch.

        All of them when the lane closes, or when as many rows are held as may be.
        """
        time, rate = self._epoch.clock(), self._epoch.saves_per_s
        earned = (time - self._credited) * rate if rate < math.inf else math.inf
        self._credit, self._credited = min(SAVE_SYMBOLS, self._credit + earned), time
        is_due = self._closing or self._rows >= self._epoch.held
        now = listed if is_due else min(listed, int(self._credit))
        if not is_due and now < min(listed, SAVE_SYMBOLS // 2):
            now = 0  # a write of one state costs as much as one of many
        self._credit = max(self._credit - now, 0.0)
        self._listed = listed - now
        return now

    async def batches(self, adapt: Adapt[B_co]) -> AsyncIterator[B_co]:
        """The agent's input."""
        clock = self._epoch.clock
        is_first, is_saved, began = True, True, clock()
        while not (self._closing and is_saved and not self._listed):
            item = await self._take(self._patience(is_saved, began))
            if item is None and is_saved and not self._listed:
                continue
            raw, ack = item or (RawBatch(self.topic, self.partition, [], [], []), _nothing)
            if is_saved:
                began, self._rows = clock(), 0
            self._rows += len(raw.offsets)
            over = item is None or clock() - began >= self._epoch.seconds or self._rows >= self._epoch.rows
            was_listed = self._listed > 0
            ends_epoch = self._closing or (over and not was_listed)
            if raw.offsets:
                self._check(raw)
                self.last_offset = raw.offsets[-1]
            batch = await adapt(raw, is_first, ends_epoch, ack)
            yield batch
            is_first, is_saved = False, ends_epoch or (is_saved and item is None)
            if was_listed and not self._listed:
                # The next epoch begins when this one is acknowledged.
                began, self._rows = clock(), 0

    def _patience(self, is_saved: bool, began: float) -> float | None:
        """How long to wait for a batch: without states that could be saved meanwhile, until the epoch ends."""
        if self._listed:
            return PAUSE_S
        return None if is_saved else max(0.0, began + self._epoch.seconds - self._epoch.clock())

    def _check(self, raw: RawBatch) -> None:
        """A state that has missed a record must not be saved. A batch that comes again does no harm."""
        if 0 <= self.last_offset < raw.offsets[0] - 1:
            raise TapeHole(
                f"offsets are missing in {raw.topic} partition {raw.partition}",
                expected=f"offset {self.last_offset + 1}", was=str(raw.offsets[0]),
                action="start the worker again: it goes on behind the hole, and says so; lengthen the retention",
            )  # fmt: skip

    async def _take(self, seconds: float | None) -> tuple[RawBatch, Ack] | None:
        """The next batch, or None when the lane closes or the time is up."""
        while not self._closing:
            if self._waiting:
                self._room.set()
                return self._waiting.popleft()
            self._changed.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                return None
        return None


def _nothing() -> None:
    """Acknowledgement of a batch without rows."""


class Lanes:
    """Every lane of one agent."""

    def __init__(
        self, run: Callable[[Lane], Awaitable[None]], epoch: Epoch, fail: Callable[[BaseException], None]
    ) -> None:
        self._run, self._epoch, self._fail = run, epoch, fail
        self._lanes: dict[tuple[str, int], tuple[Lane, asyncio.Task[None]]] = {}
        self._closed_generation = -1
        self._failed = False

    async def put(self, raw: RawBatch, generation: int, ack: Ack) -> None:
        """Hand a batch to its partition's lane; one of an assignment that was closed is dropped."""
        if self._failed or generation <= self._closed_generation:
            return
        place = (raw.topic, raw.partition)
        if place not in self._lanes:
            lane = Lane(raw.topic, raw.partition, self._epoch)
            task = asyncio.create_task(self._guard(lane), name=f"{raw.topic}-{raw.partition}")
            self._lanes[place] = (lane, task)
        await self._lanes[place][0].put(raw, ack)

    def handed(self) -> dict[tuple[str, int], int]:
        """Topic and partition of each lane that had a batch: one after the last offset its agent was given."""
        return {place: lane.last_offset + 1 for place, (lane, _) in self._lanes.items() if lane.last_offset >= 0}

    async def close(self, generation: int, seconds: float) -> bool:
        """Close every lane of an assignment. False if an agent did not end within `seconds` and was cancelled.

        A cancelled agent is waited for: one that is writing a file ends when the file is written.
        """
        self._closed_generation = max(self._closed_generation, generation)
        closing, self._lanes = self._lanes, {}
        for lane, _ in closing.values():
            lane.close()
        tasks = [task for _, task in closing.values()]
        if not tasks:
            return True
        _, late = await asyncio.wait(tasks, timeout=0 if self._failed else seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        return not late

    async def _guard(self, lane: Lane) -> None:
        try:
            await self._run(lane)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # an agent's bug ends the worker before anything more is acknowledged
            self._failed = True
            self._fail(error)
