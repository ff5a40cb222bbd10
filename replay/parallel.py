"""Parallel replay: threads over disjoint symbols of one partition, each running the very same agent.

Input: batches of one partition, decoded once. Every thread gets every batch and folds only the symbols it owns.
State: an agent with its engine and event loop per thread; at most BATCHES_AHEAD batches wait for a thread.
Output: the vectors of all threads, which sorted are those of one thread, bit for bit: symbols share nothing but Ticks.
Errors: the first that any thread, or the source of batches, raises. Whatever ends the work, no thread is left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Condition, Lock, Thread

import numpy as np

from agents.features import features_agent
from agents.plan import Plan
from replay.ports import Agent, Collector, Owns, feed
from schemas.columns import Columns
from schemas.feature_sets import FeatureSet
from schemas.topics import CLOCK_KEY
from schemas.vectors import Vectors

BATCHES_AHEAD = 2
_RECORD_WORK = 8
"""Folding a record takes about as long as this many numbers of a body."""

Saved = Callable[[Mapping[str, bytes]], None]
"""Called at the end of each epoch with the state of every symbol that it touched, one call at a time."""


def run(
    batches: Iterable[tuple[Columns, bool]],
    feature_set: FeatureSet,
    threads: int,
    *,
    blobs: Mapping[str, bytes] | None = None,
    saved: Saved | None = None,
    keeps: bool = True,
    agent: Agent = features_agent,
) -> Vectors:
    """Run the agent over batches, each with whether it ends an epoch, in `threads` threads from the states `blobs`.

    `keeps` False drops the vectors, for a run that is about the states.
    """
    # A set's own features are compiled here, once: the threads find them done.
    Plan([feature_set])
    shares, line = _Shares(threads), _Line(threads)
    shares.spread({key: len(blob) for key, blob in (blobs or {}).items()})
    epochs = _Epochs(threads, saved)
    collectors = [Collector(keeps=keeps) for _ in range(threads)]

    def work(thread: int) -> None:
        owns = shares.owns(thread)
        states = _Part(epochs, {key: blob for key, blob in (blobs or {}).items() if owns(key)})
        try:
            stretches = states.over(line.batches(thread))
            asyncio.run(agent(feed(stretches), states, collectors[thread], [feature_set], owns=owns))
        except BaseException as error:
            line.stop(error)

    workers = [Thread(target=work, args=(i,), name=f"replay-{i}") for i in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for columns, ends_epoch in batches:
            shares.see(columns)
            if not line.put((columns, ends_epoch)):
                break
        line.end()
        for worker in workers:
            worker.join()
    finally:
        line.stop()
        for worker in workers:
            if worker.ident is not None:
                worker.join()
    if line.error is not None:
        raise line.error
    parts = [part for collector in collectors for part in collector.parts]
    return Vectors.concat(parts) if parts else Vectors.empty(feature_set)


class _Shares:
    """Which thread folds which symbol: a new one goes to the thread with the least work so far."""

    def __init__(self, threads: int) -> None:
        self._thread_of: dict[str, int] = {CLOCK_KEY: -1}
        self._work = [0.0] * threads
        self._seen: list[str] | None = None

    def owns(self, thread: int) -> Owns:
        """Whether a symbol is of that thread. Every key of a batch is somebody's before the batch is handed over."""
        return lambda key: self._thread_of.get(key) == thread

    def see(self, columns: Columns) -> None:
        """Give every new key of a batch to a thread. Later batches of the same symbols cost nothing."""
        if columns.keys is not self._seen:
            if any(key not in self._thread_of for key in columns.keys):
                numbers = np.diff(columns.start) + _RECORD_WORK
                work = np.bincount(columns.key, numbers, len(columns.keys))
                self.spread(dict(zip(columns.keys, work.tolist(), strict=True)))
            self._seen = columns.keys

    def spread(self, work: Mapping[str, float]) -> None:
        """Count work by symbol, the new ones from the largest on."""
        known = [key for key in work if key in self._thread_of]
        for key in known:
            if key != CLOCK_KEY:
                self._work[self._thread_of[key]] += work[key]
        for key in sorted(work.keys() - set(known), key=lambda key: (-work[key], key)):
            thread = self._work.index(min(self._work))
            self._thread_of[key] = thread
            self._work[thread] += work[key] + 1


class _Line:
    """Batches on their way: every thread gets each, in order."""

    def __init__(self, threads: int) -> None:
        self.error: BaseException | None = None
        self._changed = Condition()
        self._waiting: list[deque[tuple[Columns, bool]]] = [deque() for _ in range(threads)]
        self._is_ended = self._is_stopped = False

    def put(self, batch: tuple[Columns, bool]) -> bool:
        """Hand a batch to all, once the slowest has room for it; False where the work has stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or max(map(len, self._waiting)) < BATCHES_AHEAD)
            for waiting in self._waiting:
                waiting.append(batch)
            self._changed.notify_all()
            return not self._is_stopped

    def end(self) -> None:
        """No batch follows."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    def stop(self, error: BaseException | None = None) -> None:
        """Nobody gets another batch; the first error is kept."""
        with self._changed:
            self._is_stopped = True
            self.error = self.error or error
            for waiting in self._waiting:
                waiting.clear()
            self._changed.notify_all()

    def batches(self, thread: int) -> Iterator[tuple[Columns, bool]]:
        """The batches of one thread."""
        waiting = self._waiting[thread]
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_stopped or self._is_ended or len(waiting) > 0)
                if self._is_stopped or not waiting:
                    return
                batch = waiting.popleft()
                self._changed.notify_all()
            yield batch


class _Epochs:
    """Joins what the threads save: an epoch is complete when the last thread has come to its end."""

    def __init__(self, threads: int, saved: Saved | None) -> None:
        self._threads, self._saved = threads, saved
        self._lock = Lock()
        self._open: deque[tuple[int, dict[str, bytes]]] = deque()
        self._complete = 0

    def add(self, epoch: int, blobs: Mapping[str, bytes]) -> None:
        """Take one thread's part of an epoch."""
        with self._lock:
            at = epoch - self._complete
            if at == len(self._open):
                self._open.append((0, {}))
            parts, joined = self._open[at]
            self._open[at] = (parts + 1, {**joined, **blobs})
            if parts + 1 == self._threads:
                # No thread is at a later end before it was at this one: epochs become complete in order.
                self._open.popleft()
                self._complete += 1
                if self._saved is not None:
                    self._saved({**joined, **blobs})


@dataclass(slots=True)
class _Part:
    """States of one thread's symbols."""

    epochs: _Epochs
    blobs: dict[str, bytes]
    ended: int = 0
    saved: dict[str, bytes] = field(default_factory=dict)

    def load(self, partition: int) -> dict[str, bytes]:
        """Those the replay starts from."""
        return self.blobs

    def save(self, partition: int, blobs: Mapping[str, bytes]) -> None:
        """Keep those of an epoch; a thread without a symbol that was touched saves none."""
        self.saved.update(blobs)

    def over(self, stretches: Iterator[tuple[Columns, bool]]) -> Iterator[tuple[Columns, bool]]:
        """The batches; once the agent asks for more after the end of an epoch, its part of that epoch is saved."""
        for columns, ends_epoch in stretches:
            yield columns, ends_epoch
            if ends_epoch:
                saved, self.saved = self.saved, {}
                self.epochs.add(self.ended, saved)
                self.ended += 1
