"""What the engine costs beside its speed over many records: small batches, memory, stored states, the start.

Output: figures, all of them at most something.
Errors: CheckFailed where a process of the bench's own fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from numba import njit

from agents.engine import Engine
from app.bench import child
from app.bench.measure import Figure, Stopwatch, Target, duel
from app.bench.tape import Sizes, fold, generated, warmed
from schemas.columns import Columns
from schemas.errors import CheckFailed
from schemas.events import Kind
from schemas.feature_sets import FeatureSet
from tables.arena import Arena

_GB, _KB, _US = 1e9, 1e3, 1e6
_REPEATS = 10
"""Saves of a round: one of each symbol takes a millisecond, which any neighbour on the machine spoils."""


@njit(cache=True)
def _nothing(offset: Any, kind: Any, key: Any, ts_event: Any, ts_recv: Any, start: Any, body: Any) -> int:
    return 0


@njit(cache=True)
def _bare() -> int:
    return 0


def batch_of_one(watch: Stopwatch, feature_set: FeatureSet, sizes: Sizes) -> list[Figure]:
    """A batch of one record against a compiled call that takes such a batch and returns.

    First the records of one batch each by itself, which share its list of names; then each as if it had been decoded by
    itself, so that its name is looked up, too; then against a call that does not even take the batch.
    """
    _bare()
    return [
        _one_by_one(watch, feature_set, sizes, "single", Target(6, 3, at_most=True), singles),
        _one_by_one(watch, feature_set, sizes, "single:named", Target(None, None, at_most=True), named_singles),
        _one_by_one(watch, feature_set, sizes, "single:bare", Target(None, None, at_most=True), singles, is_bare=True),
    ]


def _one_by_one(
    watch: Stopwatch, feature_set: FeatureSet, sizes: Sizes, name: str, target: Target,
    cut: Callable[[Columns], list[Columns]], is_bare: bool = False,
) -> Figure:  # fmt: skip
    tape = generated(sizes, sizes.single_rows)
    engine = warmed(feature_set, tape)
    batches = [cut(columns) for columns in tape.rounds]
    arrays = [[_arrays(batch) for batch in each] for each in batches]
    _nothing(*arrays[0][0])

    def ours(i: int) -> None:
        for batch in batches[i]:
            engine.apply(batch)

    def theirs(i: int) -> None:
        if is_bare:
            for _ in arrays[i]:
                _bare()
        else:
            for each in arrays[i]:
                _nothing(*each)

    found = duel(watch, sizes.rounds, ours, theirs)
    ns = [
        1e9 * median(span.seconds / len(batch) for span, batch in zip(spans, batches, strict=True))
        for spans in (found.ours, found.theirs)
    ]
    taken = "nothing" if is_bare else "a batch's seven arrays"
    told = f"an empty compiled function that takes {taken}, {ns[1]:.0f} ns; Engine.apply {ns[0]:.0f} ns"
    return Figure(name, 1 / found.ratio, target, told)


def singles(columns: Columns) -> list[Columns]:
    """Each record of a symbol as a batch. Without Ticks: they are work for all symbols."""
    return [columns.slice(i, i + 1) for i in np.flatnonzero(columns.kind != Kind.TICK).tolist()]


def named_singles(columns: Columns) -> list[Columns]:
    """The same, and each has its own list of the one name that is in it."""
    return [replace(each, keys=[each.keys[int(each.key[0])]], key=np.zeros(1, np.int32)) for each in singles(columns)]


def _arrays(batch: Columns) -> tuple[Any, ...]:
    return batch.offset, batch.kind, batch.key, batch.ts_event, batch.ts_recv, batch.start, batch.body


def stored_state(watch: Stopwatch, feature_set: FeatureSet, sizes: Sizes) -> list[Figure]:
    """What is saved of a symbol, as `Arena.dump` gives it, after more than a minute; and how long both ways take."""
    tape = generated(sizes, sizes.naive_rows)
    engine = warmed(feature_set, tape)
    arena, fresh = engine.arena, Engine([feature_set], 0).arena
    arena.dump(arena.keys[0])
    lengths: list[int] = []
    saves: list[float] = []
    loads: list[float] = []
    for columns in tape.rounds:
        fold(engine, columns)
        span, blobs = watch.time(partial(_dump, arena))
        saves.append(span.seconds / (_REPEATS * len(blobs)))
        lengths += map(len, blobs.values())
        span, _ = watch.time(partial(_restore, fresh, blobs))
        loads.append(span.seconds / (_REPEATS * len(blobs)))
    levels = median(len(side) for key in engine.arena.keys for side in engine.arena.book(key))
    told = f"median of {len(lengths)} states, {levels:.0f} levels a side; largest {max(lengths) / _KB:.1f} kB"
    return [
        Figure("state", median(lengths) / _KB, Target(12, 6, "kB", at_most=True), told),
        Figure("state:save", _US * median(saves), Target(60, 30, "us", at_most=True), "Arena.dump of each symbol"),
        Figure("state:load", _US * median(loads), Target(150, 60, "us", at_most=True), "Arena.restore of each symbol"),
    ]


def _dump(arena: Arena) -> dict[str, bytes]:
    for _ in range(_REPEATS):
        blobs = {key: arena.dump(key) for key in arena.keys}
    return blobs


def _restore(arena: Arena, blobs: Mapping[str, bytes]) -> None:
    for _ in range(_REPEATS):
        for key, blob in blobs.items():
            arena.restore(key, blob)


def memory(watch: Stopwatch, spec: str, sizes: Sizes) -> list[Figure]:
    """Resident memory of many symbols with books, in a process of its own."""
    found = run("memory", str(sizes.memory_symbols), spec)
    each = found["bytes"] / found["symbols"] / _KB
    told = f"{found['symbols']:,} symbols, about 300 levels a side, after 62 s: {each:.0f} kB each"
    return [Figure("memory", found["bytes"] / _GB, Target(1.0, 0.6, "GB", at_most=True), told)]


def first_vector(watch: Stopwatch, spec: str, sizes: Sizes) -> list[Figure]:
    """From the start of a process to its first vector; the first of them fills the compile cache."""
    run("start", spec)
    seconds = [watch.time(lambda: run("start", spec))[0].seconds for _ in range(sizes.rounds)]
    told = f"python -m app.bench.child, compile cache warm, median of {len(seconds)}"
    return [Figure("start", median(seconds), Target(3.0, 1.5, "s", at_most=True), told)]


def run(*arguments: str) -> dict[str, int]:
    """What a process of the bench's own prints."""
    done = subprocess.run(
        [sys.executable, "-m", child.__name__, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CheckFailed(
            "a process of the bench failed", expected="exit code 0",
            was=f"{done.returncode}: {done.stderr[-300:].strip()}",
            action=f"run `python -m {child.__name__} {' '.join(arguments)}` by itself",
        )  # fmt: skip
    printed: dict[str, int] = json.loads(done.stdout)
    return printed
