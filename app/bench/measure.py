"""Measuring: pieces of work timed in turns, and figures held against what they must and should reach.

Output: `Figure`s; of all timed work of ours, how much of its time this process had a processor.
Units: seconds of the performance counter; a figure's unit stands in it.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, TypeVar

Result = TypeVar("Result")
Other = TypeVar("Other")

QUIET_MIN = 0.8
"""Share of a processor below which the machine was busy with other things, and a missed figure says nothing."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must and should reach."""

    must: float | None
    aim: float | None
    unit: str = "x"
    at_most: bool = False
    """Whether the figure must stay below, not reach."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure. `rival` says what it was measured against and what each side did."""

    name: str
    value: float
    target: Target
    rival: str
    bench: str = "engine"
    """The command that measures it."""

    @property
    def ok(self) -> bool:
        """Whether it is what it must be."""
        must = self.target.must
        if must is None:
            return True
        return self.value <= must if self.target.at_most else self.value >= must

    @property
    def command(self) -> str:
        """What measures it again."""
        return f"onetape bench {self.bench} --only {self.name.partition(':')[0]}"

    def json(self) -> dict[str, Any]:
        """As scripts read it."""
        return {
            "name": self.name, "value": float(f"{self.value:.4g}"), "unit": self.target.unit,
            "must": self.target.must, "aim": self.target.aim, "ok": self.ok, "rival": self.rival,
            "command": self.command,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Span:
    """How long a piece of work took, and how long processors worked on it."""

    seconds: float
    cpu_seconds: float
    threads: int = 1

    @property
    def share(self) -> float:
        """Processors it had on average."""
        return self.cpu_seconds / self.seconds if self.seconds > 0 else 1.0

    @property
    def quiet(self) -> float:
        """Share of a processor that each of its threads had, at most 1."""
        return min(self.share / self.threads, 1.0)


@dataclass(slots=True)
class Stopwatch:
    """Times work. What our own work got of the processors tells how quiet the machine was."""

    spans: list[Span] = field(default_factory=list)

    def time(self, work: Callable[[], Result], *, threads: int = 1, is_rival: bool = False) -> tuple[Span, Result]:
        """Run it once, without the garbage collector; how long it took, and its result."""
        with _no_collector():
            cpu, begun = _cpu_seconds(), time.perf_counter()
            result = work()
            seconds, cpu = time.perf_counter() - begun, _cpu_seconds() - cpu
        span = Span(seconds, cpu, threads)
        if not is_rival:
            self.spans.append(span)
        return span, result

    def quiet(self, first: int = 0) -> float:
        """Median over our own spans, from the `first` on, of the share of a processor they had."""
        return median(span.quiet for span in self.spans[first:]) if self.spans[first:] else 1.0


def _cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


@contextmanager
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@dataclass(frozen=True, slots=True)
class Duel:
    """Rounds of both sides in turns."""

    ours: list[Span]
    theirs: list[Span]

    @property
    def ratio(self) -> float:
        """How many times faster we are: the median of the rounds."""
        return median(b.seconds / a.seconds for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def cpu_ratio(self) -> float:
        """The same in processor time, which a busy machine changes less."""
        return median(b.cpu_seconds / a.cpu_seconds for a, b in zip(self.ours, self.theirs, strict=True))


def duel(
    watch: Stopwatch, rounds: int, ours: Callable[[int], Result], theirs: Callable[[int], Other],
    check: Callable[[int, Result, Other], None] | None = None, threads: int = 1,
) -> Duel:  # fmt: skip
    """Round 0 of ours, of theirs, round 1 of ours, of theirs; what each gave is checked between the rounds.

    `threads`: how many of ours shall run at once.
    """
    mine: list[Span] = []
    other: list[Span] = []
    for i in range(rounds):
        span, our_result = watch.time(partial(ours, i), threads=threads)
        mine.append(span)
        span, their_result = watch.time(partial(theirs, i), is_rival=True)
        other.append(span)
        if check is not None:
            check(i, our_result, their_result)
    return Duel(mine, other)


def rate(spans: Sequence[Span], events: float) -> str:
    """Events per second of the median round, for people."""
    per_second = events / median(span.seconds for span in spans)
    return f"{per_second / 1e6:.2f} M/s" if per_second >= 1e5 else f"{per_second / 1e3:.1f} k/s"
