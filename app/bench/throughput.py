"""Events a second: our worker, the same job in Faust and in Quix Streams, and a consumer that does nothing, in turns.

Input: a tape prepared on the broker, read from its beginning by each.
Output: figures; every side's vectors are compared with ours.
Errors: CheckFailed where a side's vectors differ from ours: then there is nothing to compare.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

import numpy as np

from app.bench import peers, side
from app.bench.curve import Curve, ends
from app.bench.duels import require
from app.bench.market import Load, Prepared, prepare
from app.bench.measure import Figure, Target
from app.bench.place import ROLES, Place
from app.bench.rivals import bare, quix, stock_faust
from app.bench.side import Side
from app.publish import Progress
from app.topics import groups, wire_topic
from schemas.errors import DependencyDown
from schemas.topics import TAPE
from schemas.vectors import Vectors

REL_TOL: Final = 1e-9
ABS_TOL: Final = 1e-9
FIRST_VECTOR_S: Final = 90.0
LOOK_S: Final = 0.2
TAPE_LOAD: Final = Load(symbols=100, rate=10_000, seconds=120)
MANY: Final = Load(symbols=5_000, rate=10_000, seconds=30)
FEW: Final = Load(symbols=100, rate=2_000, seconds=20)
KILLED: Final = Load(symbols=5_000, rate=10_000, seconds=65)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is benched. The rivals read the same tape for as long as it takes to tell their speed."""

    tape: Load = TAPE_LOAD
    many: Load = MANY
    few: Load = FEW
    killed: Load = KILLED
    rounds: int = 3
    rival_s: float = 15.0

    def loaded(self, **chosen: Any) -> Sizes:
        """With what was chosen of a load: symbols, rate, seconds."""
        told = {name: value for name, value in chosen.items() if value is not None}
        tape, many, few, killed = (replace(load, **told) for load in (self.tape, self.many, self.few, self.killed))
        return replace(self, tape=tape, many=many, few=few, killed=killed)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a side did: records a second, the processors it had, its curve where it makes vectors."""

    events_per_s: float
    share: float
    curve: Curve | None = None

    @property
    def cpu_us(self) -> float:
        """Microseconds of a processor for a record."""
        return 1e6 * self.share / self.events_per_s


class Runs:
    """Every run of one bench, by the name of its side."""

    def __init__(self, place: Place, sizes: Sizes) -> None:
        self.place, self.sizes = place, sizes
        self.of: dict[str, list[Ran]] = {}
        self.quiets: list[float] = []
        """Of each run of ours how much of a processor it had, of each live load how many Ticks were laid in time."""
        self._tapes: dict[str, Prepared] = {}

    def tape(self, name: str = "tape", poison_every: int = 0) -> Prepared:
        """A prepared tape, made when first asked for."""
        if name not in self._tapes:
            self._tapes[name] = prepare(self.place.tape(name), self.sizes.tape, poison_every)
        return self._tapes[name]

    def ours(self, prepared: Prepared, workers: int = 1) -> Ran:
        """One run of our worker."""
        ran = run_ours(self.place, prepared, workers)
        self.quiets.append(min(ran.share / workers, 1.0))
        return ran

    def quiet(self, first: int = 0) -> float:
        """How quiet the machine was, from the `first` run on."""
        return median(self.quiets[first:]) if self.quiets[first:] else 1.0

    def rate(self, name: str) -> float:
        """Median records a second of a side."""
        return median(ran.events_per_s for ran in self.of[name])

    def told(self, name: str) -> str:
        """A side's speed, for people."""
        runs = self.of[name]
        return f"{self.rate(name) / 1e3:.4g} k/s, {median(ran.cpu_us for ran in runs):.3g} us of a processor each"


def own(runs: Runs, wanted: set[str]) -> list[Figure]:
    """Our worker alone."""
    del wanted
    runs.of["worker"] = [runs.ours(runs.tape()) for _ in range(runs.sizes.rounds)]
    load = runs.sizes.tape
    told = f"role features, {load.symbols} symbols, {runs.tape().total:,} records; {runs.told('worker')}"
    return [Figure("worker", runs.rate("worker") / 1e3, Target(None, None, "k events/s"), told, "live")]


def run_ours(place: Place, prepared: Prepared, workers: int = 1) -> Ran:
    """Our workers, their role `features` alone, until they have committed the whole tape.

    Measured from when each of them has partitions.
    """
    settings, feature_set = place.run(prepared.settings)
    group, tape = groups(settings)["features"], wire_topic(settings, TAPE)
    since: list[float] = []
    with Progress(settings, tape, [group]) as progress, ExitStack() as stack:
        running = []
        for number in range(workers):
            alone = settings.model_copy(update={"data_dir": settings.data_dir / str(number)})
            running.append(stack.enter_context(side.worker(alone, place.log(f"worker-{number}"), ROLES)))

        def alive() -> None:
            for each in running:
                each.alive()
            if not since and place.owners(group) == workers:
                since.append(time.time())

        progress.wait(lambda committed: committed == prepared.records, alive)
    curve = Curve.of(settings, feature_set)
    start = since[0] if since and workers > 1 else 0.0
    return Ran(curve.events_per_s(start), sum(each.share(*curve.span(start)) for each in running), curve)


def against_rivals(runs: Runs, wanted: set[str]) -> list[Figure]:
    """Our worker and each rival that is wanted, in turns."""
    names = [name for name in RIVALS if name in wanted]
    if "quix" in names:
        peers.peer("quixstreams")
    prepared = runs.tape()
    runs.of |= {"worker:turns": []} | {name: [] for name in names}
    compared = dict.fromkeys(names, 0)
    for _ in range(runs.sizes.rounds):
        ours = runs.ours(prepared)
        runs.of["worker:turns"].append(ours)
        for name in names:
            theirs = RIVALS[name].run(runs.place, prepared, runs.sizes)
            runs.of[name].append(theirs)
            if ours.curve is not None and theirs.curve is not None:
                compared[name] += agreeing(ours.curve.vectors, theirs.curve.vectors)
    return [_figure(runs, name, compared[name]) for name in names]


def _figure(runs: Runs, name: str, compared: int) -> Figure:
    rival = RIVALS[name]
    ratios = [a.events_per_s / b.events_per_s for a, b in zip(runs.of["worker:turns"], runs.of[name], strict=True)]
    equal = f"; {compared:,} values equal to {REL_TOL:g}" if compared else ""
    told = f"{rival.told()}: {runs.told(name)}{equal}; ours: {runs.told('worker:turns')}"
    return Figure(name, median(ratios) * rival.scale, rival.target, told, "live")


def run_rival(module: str, place: Place, prepared: Prepared, sizes: Sizes) -> Ran:
    """A rival that makes vectors, until it is through or its time is up."""
    settings, feature_set = place.run(prepared.settings)
    topic = wire_topic(settings, feature_set.topic)
    with Side(settings, place.log("rival"), module) as rival:
        _wait(lambda: sum(ends(settings, topic)) > 0, rival, FIRST_VECTOR_S)
        deadline, seen = time.monotonic() + sizes.rival_s, 0
        while time.monotonic() < deadline:
            rival.alive()
            before, seen = seen, sum(ends(settings, topic))
            if seen == before and time.monotonic() > deadline - sizes.rival_s / 2:
                break
            time.sleep(sizes.rival_s / 10)
    curve = Curve.of(settings, feature_set)
    return Ran(curve.events_per_s(), rival.share(*curve.span()), curve)


def run_bare(module: str, place: Place, prepared: Prepared, sizes: Sizes) -> Ran:
    """A rival that tells its own speed, for nothing comes out of it."""
    del sizes
    settings, _ = place.run(prepared.settings)
    with Side(settings, place.log("rival"), module, str(prepared.total)) as rival:
        return Ran(**json.loads(rival.line()))


def _wait(until: Callable[[], bool], running: Side, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        running.alive()
        if time.monotonic() > deadline:
            raise DependencyDown(
                "a side of the bench does nothing", expected=f"a first vector within {seconds:g} s", was="none",
                action="look whether it can read from this broker, or leave it out with --skip",
            )  # fmt: skip
        time.sleep(LOOK_S)


def agreeing(ours: Vectors, theirs: Vectors) -> int:
    """How many values of theirs are equal to ours. Errors: CheckFailed for a vector or a value that is not."""
    places = {place: i for i, place in enumerate(zip(ours.instruments(), ours.time.tolist(), strict=True))}
    wanted = list(zip(theirs.instruments(), theirs.time.tolist(), strict=True))
    unknown = [place for place in wanted if place not in places]
    require(not unknown, "vectors that we have, too", f"{len(unknown)} others, {unknown[:1]}")
    mine = ours.values[[places[place] for place in wanted]]
    equal = np.isclose(mine, theirs.values, REL_TOL, ABS_TOL, equal_nan=True)
    if not equal.all():
        row, column = np.argwhere(~equal)[0]
        where = f"{ours.feature_set.features[column]} of {wanted[row]}"
        require(False, f"{where} {mine[row, column]}", f"{theirs.values[row, column]}")
    return int(equal.size)


@dataclass(frozen=True, slots=True)
class Rival:
    """Another way to do the job: how it is run, and what the ratio to it must be."""

    module: str
    start: Callable[[str, Place, Prepared, Sizes], Ran]
    target: Target
    packages: tuple[str, ...]
    scale: float = 1.0

    def run(self, place: Place, prepared: Prepared, sizes: Sizes) -> Ran:
        """One run."""
        return self.start(self.module, place, prepared, sizes)

    def told(self) -> str:
        """What it is, for people."""
        return " on ".join(peers.version(package) for package in self.packages)


RIVALS: Final = {
    "aiokafka": Rival(bare.__name__, run_bare, Target(35, 60, "%"), ("aiokafka",), 100.0),
    "faust": Rival(stock_faust.__name__, run_rival, Target(30, 80), ("faust-streaming", "aiokafka")),
    "quix": Rival(quix.__name__, run_rival, Target(5, 12), ("quixstreams", "confluent-kafka")),
}
