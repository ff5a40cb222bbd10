"""Plans of the simulation: shares of the tape with markers of faults between them, made from a seed.

Units: shares of the tape; seconds of the simulated world.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from virtual import SESSION_S

WORKERS: Final = ("first", "second", "third")


@dataclass(frozen=True)
class Publish:
    """The next records of every partition, and seconds until what comes next."""

    share: float
    seconds: float


@dataclass(frozen=True)
class Kill:
    """SIGKILL, now or after so many steps: between emit and save, between save and commit, in a recovery."""

    worker: str
    steps: int


@dataclass(frozen=True)
class LoseStore:
    """SIGKILL, and the disk is gone."""

    worker: str


@dataclass(frozen=True)
class Rebalance:
    """A worker that runs is stopped cleanly; one that does not is started."""

    worker: str


@dataclass(frozen=True)
class Pause:
    """SIGSTOP, and SIGCONT after so many seconds."""

    worker: str
    seconds: float


@dataclass(frozen=True)
class DelayChangelog:
    """For some seconds a state takes longer to reach the changelog, by so many seconds."""

    seconds: float
    longer: float


@dataclass(frozen=True)
class DelayOutput:
    """The same for vectors and dead letters."""

    seconds: float
    longer: float


@dataclass(frozen=True)
class RedisDown:
    """Redis takes nothing for so many seconds."""

    seconds: float


Step = Publish | Kill | LoseStore | Rebalance | Pause | DelayChangelog | DelayOutput | RedisDown


def plan_of(seed: int) -> list[Step]:
    """Shares of the tape with markers between them: any, or the few in a row that do harm together."""
    chance = random.Random(f"plan {seed}")
    steps: list[Step] = []
    worker = WORKERS[0]
    for _ in range(chance.randrange(3, 12)):
        worker = worker if chance.random() < 0.6 else chance.choice(WORKERS[:2])  # one is hit again, as in life
        steps.append(_share(chance))
        if chance.random() < 0.2:
            steps += chance.choice((_behind, _zombie))(chance, worker)
        else:
            steps.append(_any(chance, worker))
    return steps


def _share(chance: random.Random) -> Publish:
    return Publish(
        chance.choice((0.0, 0.01, 0.1)) * chance.random(), chance.choice((0.05, 0.3, 1.0, 2.5)) * chance.random()
    )


def _any(chance: random.Random, worker: str) -> Step:
    kinds: list[Callable[[], Step]] = [
        lambda: Kill(worker, chance.choice((0, chance.randrange(1, 8), chance.randrange(1, 30)))),
        lambda: LoseStore(worker),
        lambda: Rebalance(chance.choice(WORKERS)),
        lambda: Pause(worker, chance.choice((0.5, 1.0, 1.5, 3.0)) * SESSION_S),
        lambda: DelayChangelog(chance.uniform(0.5, 6.0), chance.uniform(0.3, 4.0)),
        lambda: DelayOutput(chance.uniform(0.5, 6.0), chance.uniform(0.3, 4.0)),
        lambda: RedisDown(chance.uniform(0.1, 5.0)),
    ]
    return chance.choices(kinds, (40, 15, 12, 11, 13, 5, 4))[0]()


def _behind(chance: random.Random, worker: str) -> list[Step]:
    """The changelog is behind a worker's disk when it is killed; it goes on from the disk, which is lost then."""
    return [
        DelayChangelog(chance.uniform(0.5, 2.0), chance.uniform(0.5, 3.0)), Publish(0.05, chance.uniform(0.5, 1.5)),
        Kill(worker, 0), Publish(0.0, chance.uniform(3.0, 8.0)), LoseStore(worker),
    ]  # fmt: skip


def _zombie(chance: random.Random, worker: str) -> list[Step]:
    """What a stopped worker had not sent comes long after another has its partitions; then every disk is lost."""
    return [
        DelayChangelog(chance.uniform(0.5, 2.0), chance.uniform(0.3, 1.0)), Publish(0.05, chance.uniform(0.5, 1.5)),
        Pause(worker, chance.uniform(1.5, 3.0) * SESSION_S), Publish(0.05, chance.uniform(5.0, 9.0)),
        *(LoseStore(each) for each in WORKERS),
    ]  # fmt: skip
