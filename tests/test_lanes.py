"""A lane has its agent save an epoch in small shares, goes on meanwhile, and leaves nothing unsaved."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from frames import instrument
from streams import START, tick_event

from agents.features import features_agent
from agents.lanes import SAVE_SYMBOLS, Ack, Epoch, Lane
from agents.ports import RawBatch
from schemas.columns import Columns, from_events
from schemas.feature_sets import DEFAULT, load
from schemas.units import BASE_TICK_NS
from schemas.vectors import Vectors
from tables.arena import applied_offset

MICRO = load(DEFAULT)
SYMBOLS = 3 * SAVE_SYMBOLS + 5
FIRST = [instrument(f"V:{i}") for i in range(SYMBOLS)]
TAPE = from_events(0, 0, [*FIRST, *(tick_event(START + i * BASE_TICK_NS) for i in range(40))])


@dataclass(frozen=True)
class Piece:
    """A batch of the tape."""

    columns: Columns
    is_first: bool
    ends_epoch: bool
    acknowledge: Ack
    partition: int = 0

    def ack(self) -> None:
        self.acknowledge()


@dataclass
class Run:
    """One lane and the features agent; an epoch lasts as long as the test lets it."""

    seconds: float = 3600.0
    rows: int = 1 << 40
    acked: list[int] = field(default_factory=list)
    saves: list[int] = field(default_factory=list)
    saved: dict[str, int] = field(default_factory=dict)
    ended: list[bool] = field(default_factory=list)

    def load(self, partition: int) -> dict[str, bytes]:
        return {}

    def save(self, partition: int, blobs: Mapping[str, bytes]) -> None:
        self.saves.append(len(blobs))
        self.saved |= {key: applied_offset(blob) for key, blob in blobs.items()}

    async def __call__(self, vectors: Vectors) -> None:
        """Vectors are not looked at."""

    async def adapt(self, raw: RawBatch, is_first: bool, ends_epoch: bool, ack: Ack) -> Piece:
        self.ended.append(ends_epoch)
        end = raw.offsets[-1] + 1 if raw.offsets else 0
        return Piece(TAPE.slice(raw.offsets[0] if raw.offsets else 0, end), is_first, ends_epoch, ack)

    async def put(self, lane: Lane, begin: int, end: int) -> None:
        await lane.put(RawBatch("t", 0, list(range(begin, end)), [], []), lambda: self.acked.append(end))

    def play(self, script: Callable[[Lane], Awaitable[None]]) -> None:
        async def live() -> None:
            lane = Lane("t", 0, Epoch(self.seconds, self.rows, asyncio.get_running_loop().time))
            agent = asyncio.create_task(features_agent(lane.batches(self.adapt), self, self, [MICRO], share=lane.share))
            await script(lane)
            lane.close()
            await asyncio.wait_for(agent, 60)

        asyncio.run(live())


async def until(condition: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + 60
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)


def test_an_epoch_is_saved_in_shares_while_batches_go_on() -> None:
    """Each state is as new as the batch after which it is saved; nothing is acknowledged before the last of them."""
    run = Run(rows=SYMBOLS)
    seen: list[tuple[int, int]] = []

    async def script(lane: Lane) -> None:
        await run.put(lane, 0, SYMBOLS)
        for i in range(SYMBOLS, SYMBOLS + 3):
            await run.put(lane, i, i + 1)
            seen.append((len(run.saves), len(run.acked)))
        await until(lambda: run.acked)

    run.play(script)
    assert max(run.saves[:4]) == SAVE_SYMBOLS
    assert sum(run.saves[:4]) == SYMBOLS
    assert all(acked == 0 for saves, acked in seen if saves < 4)
    assert run.acked == [SYMBOLS, SYMBOLS + 1, SYMBOLS + 2, SYMBOLS + 3]
    assert set(run.saved.values()) == {SYMBOLS + 2}, "closing saves what came after the epoch's end"


def test_an_idle_lane_saves_the_rest_by_itself() -> None:
    run = Run(rows=SYMBOLS)

    async def script(lane: Lane) -> None:
        await run.put(lane, 0, SYMBOLS)
        await until(lambda: run.acked)
        assert run.saves == [SAVE_SYMBOLS] * 3 + [5]

    run.play(script)
    assert run.ended == [True, False, False, False]
    assert run.acked == [SYMBOLS]


def test_a_silent_tape_ends_the_epoch_after_its_time() -> None:
    run = Run(seconds=0.05)

    async def script(lane: Lane) -> None:
        await run.put(lane, 0, SYMBOLS)
        await until(lambda: run.acked)

    run.play(script)
    assert run.ended == [False, True, False, False, False]
    assert len(run.saved) == SYMBOLS


@pytest.mark.parametrize("rows", [SYMBOLS, SYMBOLS + 2, 1 << 40])
def test_closing_saves_and_acknowledges_all_at_once(rows: int) -> None:
    """In the middle of an epoch's saves, and with records behind its end."""
    run = Run(rows=rows)

    async def script(lane: Lane) -> None:
        await run.put(lane, 0, SYMBOLS)
        await run.put(lane, SYMBOLS, SYMBOLS + 2)
        await until(lambda: len(run.ended) == 2)

    run.play(script)
    assert run.acked == [SYMBOLS, SYMBOLS + 2]
    assert set(run.saved) == {f"V:{i}" for i in range(SYMBOLS)}
    assert set(run.saved.values()) == {SYMBOLS + 1}
    assert run.ended[-1]


def test_one_epoch_ends_no_sooner_than_the_one_before_is_saved() -> None:
    run = Run(rows=1)

    async def script(lane: Lane) -> None:
        await run.put(lane, 0, SYMBOLS)
        for i in range(SYMBOLS, SYMBOLS + 20):
            await run.put(lane, i, i + 1)
        await until(lambda: lane.last_offset == SYMBOLS + 19)

    run.play(script)
    assert run.acked == [SYMBOLS, *range(SYMBOLS + 1, SYMBOLS + 21)]
    # All but the last, which closing may have brought about.
    ends = [i for i, ended in enumerate(run.ended) if ended][:-1]
    assert len(ends) > 1
    assert all(after - before >= 4 for before, after in pairwise(ends))


def test_many_states_are_saved_at_a_rate_and_a_few_at_once() -> None:
    now = [100.0]
    lane = Lane("t", 0, Epoch(1.0, 1, lambda: now[0], saves_per_s=10.0))
    assert [lane.share(1000), lane.share(1000 - SAVE_SYMBOLS)] == [SAVE_SYMBOLS, 0]
    now[0] += 0.5
    assert lane.share(900) == 0, "too few to be worth a write"
    now[0] += 0.7
    assert [lane.share(900), lane.share(880)] == [12, 0]
    now[0] += 3600
    assert [lane.share(5), lane.share(900)] == [5, SAVE_SYMBOLS - 5]
    lane.close()
    assert lane.share(800) == 800


def test_what_is_held_is_bounded_however_slowly_states_are_saved() -> None:
    now = [100.0]
    lane = Lane("t", 0, Epoch(1.0, 10, lambda: now[0], saves_per_s=1.0, held=20))
    assert lane.share(1000) == SAVE_SYMBOLS
    lane._rows = 20
    assert lane.share(900) == 900
