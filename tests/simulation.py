"""The whole features worker, simulated: its own code on a virtual log, group, disk and Redis, with faults at random.

A plan is a list of shares of the tape and markers of faults, made from a seed (tests/plans.py); the same seed and plan
give the same run. What is the product's own and what is virtual: tests/virtual_worker.py.

    python tests/simulation.py --kills 100000 [--seed 1]

runs seeds until so many kills have happened, on all processors, and prints the ledger; a failure prints its seed and
the shortest plan that still fails.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import random
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from typing import Any, Final

import arguments
from ledger import Ledger
from plans import (
    WORKERS,
    DelayChangelog,
    DelayOutput,
    Kill,
    LoseStore,
    Pause,
    Publish,
    Rebalance,
    RedisDown,
    Step,
    plan_of,
)  # fmt: skip
from streams import stream
from virtual import Disk, World
from virtual_worker import CHANGELOG, MICRO, REGISTRY, Worker, take

from agents.engine import Engine
from schemas.codec import DeadLetterCodec, TapeCodec
from schemas.topics import DEAD_LETTERS, TAPE
from schemas.vector_codec import VectorCodec
from schemas.vectors import Vectors
from tables import store

PARTITIONS: Final = 2
TAPES: Final = 4
TAPE_S: Final = 6.0
POISON: Final = 25
"""One record of so many is none."""
CALM_S: Final = 4.0
"""Without faults, in the end: Redis is tried again each second."""
AMID_FAULTS: Final = 0.8
"""Of the tape; the rest comes when all is well: what Redis has missed of a killed worker it gets with a later Tick."""
LIMIT_S: Final = 300.0
BLOCK: Final = 50
"""Seeds that a process is given at once."""


@dataclass(frozen=True)
class Tape:
    """Messages of each partition, and what must come of them."""

    messages: list[list[tuple[bytes, bytes]]]
    vectors: list[dict[Any, bytes]]
    states: list[dict[str, bytes]]
    letters: list[dict[Any, bytes]]


@cache
def tape_of(number: int) -> Tape:
    """One of a few tapes: odd markets (tests/streams.py), poison among them, and the agent's work on it at once."""
    chance, codec, writer = random.Random(f"tape {number}"), TapeCodec(REGISTRY), VectorCodec(REGISTRY, MICRO)
    tape = Tape([], [], [], [])
    for partition in range(PARTITIONS):
        good = [(e.key.encode(), codec.encode(e)) for e in stream(PARTITIONS * number + partition, TAPE_S)]
        mixed: list[tuple[bytes, bytes]] = []
        for key, value in good:
            if chance.random() < 1 / POISON:
                mixed.append((key, chance.choice((value[: chance.randrange(len(value))], value + b"\0", b"junk"))))
            mixed.append((key, value))
        columns, refused = codec.decode_batch(TAPE, partition, range(len(mixed)), *zip(*mixed, strict=True))
        assert len(refused) == len(mixed) - len(good)
        engine = Engine([MICRO], partition)
        (vectors,) = engine.apply(columns)
        values = [value for _, value in writer.encode(vectors)]
        tape.messages.append(mixed)
        tape.vectors.append(dict(zip(identities(vectors), values, strict=True)))
        tape.states.append({key: engine.arena.dump(key) for key in engine.arena.keys})
        letter = DeadLetterCodec(REGISTRY)
        tape.letters.append({(TAPE, partition, each.offset): letter.encode(each) for each in refused})
    return tape


def identities(vectors: Vectors) -> list[tuple[str, str, int]]:
    return [
        (vectors.feature_set.id, key, t) for key, t in zip(vectors.instruments(), vectors.time.tolist(), strict=True)
    ]


def _uncounted() -> Ledger:
    """There are no files, no recordings and no readers but Redis here."""
    return Ledger(dup_visible=None, torn=None, gap_undetected=None, recovery_ms_max=None)


@dataclass
class Run:
    """One plan on one world."""

    seed: int
    plan: Sequence[Step]
    ledger: Ledger = field(default_factory=_uncounted)

    def __post_init__(self) -> None:
        self.ledger.seed = self.seed
        self.world = World(self.seed, PARTITIONS)
        self.tape = tape_of(self.seed % TAPES)
        self.workers: dict[str, Worker] = {}
        self.wanted = set(WORKERS[:2])

    def play(self) -> Ledger:
        """Everything of the plan, then the rest of the tape with all well, then a clean stop."""
        self._supervise()
        for step in self.plan:
            self._do(step)
        self.world.delayed.clear()
        self.world.redis_is_down_until = self.world.now
        self.world.run(lambda: False, CALM_S)
        self.wanted |= {WORKERS[0]}
        self._publish(1.0, 1.0)
        ends = [len(messages) for messages in self.tape.messages]
        is_done = self.world.run(lambda: self.world.group.committed == ends, LIMIT_S)
        self.world.run(lambda: False, CALM_S)
        self.wanted.clear()
        for worker in self.workers.values():
            worker.stop()
        is_done &= self.world.run(lambda: not self.world.processes, LIMIT_S)
        self.ledger.lost += not is_done
        self._count()
        for worker in list(self.world.processes):
            worker.kill()
        return self.ledger

    def _do(self, step: Step) -> None:
        world, worker = self.world, self.workers.get(getattr(step, "worker", ""))
        is_alive = worker is not None and worker.is_alive
        match step:
            case Publish(share, seconds):
                self._publish(share)
                world.run(lambda: False, seconds)
            case Kill(_, steps) if is_alive:
                worker.fuse = worker.fuse or steps
                if not steps:
                    worker.kill()
            case LoseStore(name):
                self.ledger.faults += 1
                if is_alive:
                    worker.kill()
                world.disks.pop(name, None)
            case Rebalance(name):
                self.ledger.faults += 1
                self.wanted ^= {name}
                if is_alive:
                    worker.stop()
            case Pause(_, seconds) if is_alive:
                self.ledger.faults += 1
                worker.awake_at = world.now + seconds
            case DelayChangelog(seconds, longer):
                self.ledger.faults += 1
                world.delayed[CHANGELOG] = world.now + seconds, longer
            case DelayOutput(seconds, longer):
                self.ledger.faults += 1
                world.delayed[DEAD_LETTERS] = world.delayed[MICRO.topic] = world.now + seconds, longer
            case RedisDown(seconds):
                self.ledger.faults += 1
                world.redis_is_down_until = world.now + seconds

    def _publish(self, share: float, most: float = AMID_FAULTS) -> None:
        """So much more of every partition, up to a share of it all."""
        for partition, messages in enumerate(self.tape.messages):
            log = self.world.logs[TAPE, partition]
            end = min(len(log) + int(share * len(messages)) + 1, int(most * len(messages)))
            log.extend(messages[len(log) : end])

    def _supervise(self) -> None:
        """Start what is wanted and does not run, some time later."""
        for name in sorted(self.wanted):
            if name not in self.workers or not self.workers[name].is_alive:
                self.workers[name] = Worker(self.world, name)
        self.world.at(self.world.now + self.world.chance.uniform(0.1, 2.0), self._supervise)

    def _count(self) -> None:
        """Everything that is left, against the oracle."""
        world, tape, ledger = self.world, self.tape, self.ledger
        ledger.kills, ledger.kills_at_points = world.kills, world.kills_at_points
        codec, letters = VectorCodec(REGISTRY, MICRO), DeadLetterCodec(REGISTRY)
        for partition in range(PARTITIONS):
            values = [value for _, value in world.logs[MICRO.topic, partition]]
            ledger.count_vectors(zip(identities(codec.decode(values)), values, strict=True), tape.vectors[partition])
            buried = [value for _, value in world.logs[DEAD_LETTERS, partition]]
            places = [(each.source, each.partition, each.offset) for each in map(letters.decode, buried)]
            received = [(TAPE, partition, offset) for offset in range(len(tape.messages[partition]))]
            ledger.count_letters(received, zip(places, buried, strict=True), tape.letters[partition])
            changelog = Disk()
            take(changelog, world.logs[CHANGELOG, partition])
            held = {key.decode(): store.unpack(value)[1] for key, value in changelog.values.items()}
            ledger.count_states(held, tape.states[partition])
            newest = {(partition, identity[1]): value for identity, value in sorted(tape.vectors[partition].items())}
            ledger.count_latest({place: value for place, (_, value) in world.latest.items()}, newest)


def simulate(seed: int, plan: Sequence[Step] | None = None) -> Ledger:
    """The ledger of one seed."""
    logging.disable(logging.CRITICAL)
    try:
        return Run(seed, plan_of(seed) if plan is None else plan).play()
    finally:
        logging.disable(logging.NOTSET)


def shrink(seed: int) -> list[Step]:
    """The plan of a seed that fails, without the steps it fails without."""
    plan = plan_of(seed)
    at = 0
    while at < len(plan):
        shorter = plan[:at] + plan[at + 1 :]
        if simulate(seed, shorter).ok:
            at += 1
        else:
            plan = shorter
    return plan


def check(seed: int) -> Ledger:
    """The ledger of one seed. Errors: AssertionError with the seed, the shortest plan and its ledger."""
    ledger = simulate(seed)
    if not ledger.ok:
        plan = shrink(seed)
        raise AssertionError(f"simulation.simulate({seed}, {plan})\n{simulate(seed, plan).line()}")
    return ledger


def simulate_all(firsts: Iterable[int]) -> Iterator[Ledger]:
    """The ledgers of blocks of seeds, in their order, on all processors. Errors: as `check`."""
    firsts, processors = iter(firsts), os.cpu_count() or 1
    with ProcessPoolExecutor(processors, get_context("spawn")) as pool:
        running = deque(pool.submit(_block, first) for first in itertools.islice(firsts, 2 * processors))
        try:
            while running:
                yield from running.popleft().result()
                running.extend(pool.submit(_block, first) for first in itertools.islice(firsts, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def _block(first: int) -> list[Ledger]:
    return [check(seed) for seed in range(first, first + BLOCK)]


def main() -> int:
    """Run seeds until so many kills have happened."""
    parser = argparse.ArgumentParser(description="Simulate the features worker under faults.")
    parser.add_argument("--kills", type=arguments.count, default=2000, help="kills at least")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    asked = parser.parse_args()
    total, began = _uncounted(), time.monotonic()
    for seeds, ledger in enumerate(simulate_all(itertools.count(asked.seed, BLOCK)), 1):
        total += ledger
        if not seeds % (20 * BLOCK) or total.kills >= asked.kills:
            print(f"{seeds} seeds, {total.kills} kills, {time.monotonic() - began:.0f} s", file=sys.stderr)
        if total.kills >= asked.kills:
            break
    total.seed = asked.seed
    print(total.line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
