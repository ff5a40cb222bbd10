"""Events a second: our worker, the same job in Faust and in Quix Streams, and a consumer that does nothing, in turns.

Input: a tape prepared on the broker, read from its beginning by each.
Output: figures; every side's vectors are compared with ours.
Errors: CheckFailed where a side's vectors differ from ours: then there is nothing to compare.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

from app.bench import side
from app.bench.curve import Curve
from app.bench.market import Load, Prepared, prepare
from app.bench.measure import Figure, Target
from app.bench.place import ROLES, Place
from app.publish import Progress
from app.topics import groups, wire_topic
from schemas.topics import TAPE

TAPE_LOAD: Final = Load(symbols=100, rate=10_000, seconds=120)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is benched. The rivals read the same tape for as long as it takes to tell their speed."""

    tape: Load = TAPE_LOAD
    rounds: int = 3
    rival_s: float = 15.0

    def loaded(self, **chosen: Any) -> Sizes:
        """With what was chosen of a load: symbols, rate, seconds."""
        told = {name: value for name, value in chosen.items() if value is not None}
        return replace(self, tape=replace(self.tape, **told))


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
        self._tapes: dict[str, Prepared] = {}

    def tape(self, name: str = "tape", poison_every: int = 0) -> Prepared:
        """A prepared tape, made when first asked for."""
        if name not in self._tapes:
            self._tapes[name] = prepare(self.place.tape(name), self.sizes.tape, poison_every)
        return self._tapes[name]

    def quiet(self) -> float:
        """Median share of a processor that our workers had."""
        shares = [min(ran.share, 1.0) for name, runs in self.of.items() for ran in runs if name.startswith("worker")]
        return median(shares) if shares else 1.0

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
    runs.of["worker"] = [run_ours(runs.place, runs.tape()) for _ in range(runs.sizes.rounds)]
    load = runs.sizes.tape
    told = f"role features, {load.symbols} symbols, {runs.tape().total:,} records; {runs.told('worker')}"
    return [Figure("worker", runs.rate("worker") / 1e3, Target(None, None, "k events/s"), told, "live")]


def run_ours(place: Place, prepared: Prepared, workers: int = 1) -> Ran:
    """Our worker, its role `features` alone, until it has committed the whole tape."""
    settings, feature_set = place.run(prepared.settings)
    group, tape = groups(settings)["features"], wire_topic(settings, TAPE)
    with Progress(settings.brokers, tape, [group], settings.partitions) as progress, ExitStack() as stack:
        running = []
        for number in range(workers):
            alone = settings.model_copy(update={"data_dir": settings.data_dir / str(number)})
            running.append(stack.enter_context(side.worker(alone, place.log(f"worker-{number}"), ROLES)))

        def alive() -> None:
            for each in running:
                each.alive()

        progress.wait(lambda committed: committed == prepared.records, alive)
    curve = Curve.of(settings, feature_set)
    return Ran(curve.events_per_s, sum(each.share(*curve.span()) for each in running), curve)
