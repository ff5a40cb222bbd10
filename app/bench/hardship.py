"""Our worker under other conditions, each in turns with our worker as it is: two of them, and bad input.

Output: figures. With bad input, what was lost: nothing may be.
Errors: CheckFailed where a record is missing, or a vector is another one because of the poison between.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from statistics import median
from typing import Final

from app.bench.curve import ends
from app.bench.duels import require
from app.bench.measure import Figure, Target
from app.bench.throughput import Ran, Runs, agreeing
from app.topics import wire_topic
from schemas.topics import DEAD_LETTERS

POISON_EVERY: Final = 99
"""One bad record behind so many good ones: 1 % of all."""
CORES_MIN: Final = 4
"""For two workers, the broker, and what measures."""


def two_workers(runs: Runs, wanted: set[str]) -> list[Figure]:
    """Two workers of one group against one."""
    del wanted
    tape, cores = runs.tape(), os.cpu_count() or 1
    ratio = _turns(runs, ("worker:one", lambda: runs.ours(tape)), ("worker:two", lambda: runs.ours(tape, 2)))
    target = Target(1.6 if cores >= CORES_MIN else None, None)
    told = f"one worker: {runs.told('worker:one')}; two: {runs.told('worker:two')}; {cores} processors in all"
    return [Figure("workers", 1 / ratio, target, told, "live")]


def poisoned(runs: Runs, wanted: set[str]) -> list[Figure]:
    """A tape with one bad record in a hundred against the same without."""
    del wanted
    clean, spoilt = runs.tape(), runs.tape("poison", POISON_EVERY)
    ratio = _turns(runs, ("worker:clean", lambda: runs.ours(clean)), ("worker:poison", lambda: runs.ours(spoilt)))
    buried = sum(ends(spoilt.settings, wire_topic(spoilt.settings, DEAD_LETTERS)))
    expected = spoilt.poison * len(runs.of["worker:poison"])
    require(buried == expected, f"{expected} dead letters", str(buried))
    require(spoilt.total - spoilt.poison == clean.total, f"{clean.total} good records", str(spoilt.total))
    equal = 0
    for pure, other in zip(runs.of["worker:clean"], runs.of["worker:poison"], strict=True):
        if pure.curve is not None and other.curve is not None:
            vectors, count = pure.curve.vectors, len(other.curve.vectors)
            require(count == len(vectors), f"{len(vectors)} vectors", str(count))
            equal += agreeing(vectors, other.curve.vectors)
    told = (
        f"the same tape without: {runs.told('worker:clean')}; with: {runs.told('worker:poison')}; "
        f"{buried:,} dead letters, {equal:,} values equal, nothing lost"
    )
    share = clean.total / spoilt.total / ratio  # of good records
    return [Figure("poison", max(100 * (1 - share), 0.0), Target(10, None, "%", at_most=True), told, "live")]


def _turns(runs: Runs, first: tuple[str, Callable[[], Ran]], second: tuple[str, Callable[[], Ran]]) -> float:
    """How many times faster the first is: the median of the rounds."""
    for name, _ in (first, second):
        runs.of[name] = []
    for _ in range(runs.sizes.rounds):
        for name, run in (first, second):
            runs.of[name].append(run())
    pairs = zip(runs.of[first[0]], runs.of[second[0]], strict=True)
    return median(a.events_per_s / b.events_per_s for a, b in pairs)
