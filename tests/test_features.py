"""The features agent's order of writes: killed anywhere, restarted from what was saved, nothing is lost or differs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import pytest
from streams import stream

from agents.engine import Engine
from agents.features import features_agent, load
from schemas import feature_sets
from schemas.columns import Columns, from_events
from schemas.feature_sets import DEFAULT
from schemas.vectors import Vectors
from tables import layout as at
from tables.arena import applied_offset

MICRO = feature_sets.load(DEFAULT)
EPOCH = 6


class Killed(Exception):
    """The process ends here."""


@dataclass
class World:
    """What outlives a process: the broker's commit, saved states, what was emitted. `fuse`: steps to the next kill.

    `most` states are saved after a batch, 0: all of them.
    """

    tape: Columns
    chance: random.Random
    committed: int = 0
    states: dict[str, bytes] = field(default_factory=dict)
    emitted: dict[tuple[str, int], bytes] = field(default_factory=dict)
    repeats: int = 0
    fuse: int = 1 << 30
    most: int = 0
    left: int = 0
    apart: int = 0

    def step(self) -> None:
        self.fuse -= 1
        if self.fuse <= 0:
            raise Killed

    def load(self, partition: int) -> dict[str, bytes]:
        applied = {applied_offset(blob) for blob in self.states.values()}
        self.apart += len(applied) > 1
        self.left = 0
        return dict(self.states)

    def share(self, listed: int) -> int:
        now = self.chance.randrange(1, self.most + 1) if self.most else listed
        self.left = max(listed - now, 0)
        return now

    def save(self, partition: int, blobs: Mapping[str, bytes]) -> None:
        """One state after another: a kill may fall between two of them."""
        for key, blob in self.chance.sample(sorted(blobs.items()), len(blobs)):
            self.step()
            self.states[key] = blob

    async def __call__(self, vectors: Vectors) -> None:
        for i, key in enumerate(vectors.instruments()):
            self.step()
            row = vectors.select([i])
            value = row.bits().tobytes() + row.quality.tobytes() + row.as_of_offset.tobytes()
            identity = key, int(row.time[0])
            assert self.emitted.setdefault(identity, value) == value, "a repeat that differs"
            self.repeats += 1

    async def batches(self) -> AsyncIterator[Piece]:
        """From the commit on, in batches that no earlier process had."""
        begin, n, since = self.committed, 0, 0
        while begin < len(self.tape) or self.left:
            # An epoch ends no sooner than the one before is saved; saves go on without records, too.
            size = 0 if self.left and self.chance.random() < 0.3 else self.chance.randrange(1, 120)
            to = min(begin + size, len(self.tape))
            n, since = n + 1, since + 1
            ends_epoch = not self.left and (since >= EPOCH or to == len(self.tape))
            yield Piece(self, self.tape.slice(begin, to), n == 1, ends_epoch, to)
            begin, since = to, 0 if ends_epoch else since
        if self.committed < len(self.tape):
            yield Piece(self, self.tape.slice(begin, begin), False, True, begin)
            while self.left:
                yield Piece(self, self.tape.slice(begin, begin), False, False, begin)

    def check(self) -> None:
        """Of what a kill leaves: each state is that of its offset, and none lacks a record before the commit."""
        begun = load(self, [MICRO], 0).arena
        for key, blob in self.states.items():
            applied = applied_offset(blob)
            alone = Engine([MICRO], 0)
            alone.apply(self.tape.slice(0, applied + 1))
            assert alone.arena.dump(key) == blob, "a wrong state"
        behind = Engine([MICRO], 0)
        behind.apply(self.tape.slice(0, self.committed))
        for key in behind.arena.keys:
            assert begun.find(key) >= 0, "a state is lost"
            assert begun.row(key)[at.NEXT_OFFSET] >= behind.arena.row(key)[at.NEXT_OFFSET], "a record is lost"


@dataclass(frozen=True)
class Piece:
    """A batch of the world."""

    world: World
    columns: Columns
    is_first: bool
    ends_epoch: bool
    end: int
    partition: int = 0

    def ack(self) -> None:
        self.world.step()
        self.world.committed = max(self.world.committed, self.end)


@pytest.fixture(scope="module")
def tape() -> Columns:
    return from_events(0, 0, stream(21, seconds=40.0))


@pytest.mark.parametrize("most", [0, 1, 3])
@pytest.mark.parametrize("seed", range(8))
def test_kills_lose_nothing_and_repeat_the_same_bytes(tape: Columns, seed: int, most: int) -> None:
    """However the saves of an epoch are spread: no vector is lost or differs, no state is wrong."""
    world = World(tape, random.Random(seed), most=most)
    kills = 0
    while world.committed < len(tape):
        world.fuse = world.chance.randrange(1, 60) if kills < 25 else 1 << 30
        try:
            asyncio.run(features_agent(world.batches(), world, world, [MICRO], share=world.share))
        except Killed:
            kills += 1
            world.fuse = 1 << 30
            world.check()
    whole = Engine([MICRO], 0).apply(tape)[0]
    expected = {
        (key, int(time)): row.bits().tobytes() + row.quality.tobytes() + row.as_of_offset.tobytes()
        for i, (key, time) in enumerate(zip(whole.instruments(), whole.time, strict=True))
        for row in [whole.select([i])]
    }
    assert world.emitted == expected
    assert kills > 5
    # Kills have fallen between two saves of an epoch.
    assert world.apart > 2
    world.check()


def test_nothing_is_acknowledged_before_the_end_of_an_epoch(tape: Columns) -> None:
    world = World(tape, random.Random(1))

    async def without_end() -> AsyncIterator[Piece]:
        async for piece in world.batches():
            yield Piece(world, piece.columns, piece.is_first, False, piece.end)

    asyncio.run(features_agent(without_end(), world, world, [MICRO]))
    assert world.committed == 0
    assert world.states == {}
    assert world.emitted


def test_a_partition_that_comes_back_starts_from_its_states(tape: Columns) -> None:
    """Unsaved work of an earlier assignment is dropped with its batches: another worker has done it since."""
    world = World(tape, random.Random(2))
    half = len(tape) // 2

    async def twice() -> AsyncIterator[Piece]:
        yield Piece(world, tape.slice(0, half), True, False, half)
        yield Piece(world, tape.slice(0, half), True, True, half)

    asyncio.run(features_agent(twice(), world, world, [MICRO]))
    assert world.committed == half
    assert world.repeats == 2 * len(world.emitted)
