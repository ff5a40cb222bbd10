"""The oracle: every feature once more, in plain Python, as fast as a good programmer would write it.

It is the readable definition of each feature and shares no formula with the compiled engine, whose every bit is held
against it; and it is what the engine's speed is measured against. numba is never imported, numpy for the vectors only.

Input: `Columns` of one partition in offset order; records that were applied before change nothing.
State: one `Symbol` per instrument.
Output: `Vectors` of one feature set in tape order, within one Tick in order of instrument names.
"""

from __future__ import annotations

import numpy as np

from agents.oracle.program import Program
from agents.oracle.symbol import Symbol
from schemas.columns import Columns
from schemas.events import Kind
from schemas.feature_sets import FeatureSet
from schemas.units import NS_PER_MS
from schemas.vectors import Vectors

__all__ = ["Oracle"]

_TICK = int(Kind.TICK)
_KEYLESS = frozenset({int(Kind.REFUSED), int(Kind.ACTIVATE)})


class Oracle:
    """Folds one partition and computes one feature set."""

    def __init__(self, feature_set: FeatureSet, partition: int) -> None:
        """Errors: UsageError for a feature set that names what is no feature."""
        self.feature_set = feature_set
        self.partition = partition
        self.symbols: dict[str, Symbol] = {}
        self._program = Program(feature_set)
        self._cadence_ns = feature_set.cadence_ms * NS_PER_MS
        self._in_order: list[Symbol] = []
        self._heads: list[tuple[str, int, int, int, int, int]] = []
        self._values: list[list[float | None]] = []

    def apply(self, columns: Columns) -> Vectors:
        """Fold all records; the vectors of the Ticks among them."""
        begin = int(columns.start[0])
        body = columns.body[begin : int(columns.start[-1])].tolist()
        rows = zip(
            columns.offset.tolist(), columns.kind.tolist(), columns.key.tolist(), columns.ts_event.tolist(),
            columns.ts_recv.tolist(), (columns.start[:-1] - begin).tolist(), strict=True,
        )  # fmt: skip
        symbols: list[Symbol | None] = [self.symbols.get(key) for key in columns.keys]
        for offset, kind, key, ts_event, ts_recv, at in rows:
            if kind == _TICK:
                self._tick(body[at], offset, ts_recv)
            elif kind not in _KEYLESS:
                symbol = symbols[key]
                if symbol is None:
                    symbol = symbols[key] = self._begin(columns.keys[key])
                if offset >= symbol.next_offset:
                    symbol.next_offset = offset + 1
                    symbol.fold(kind, ts_event, ts_recv, body, at)
        return self._take()

    def _begin(self, key: str) -> Symbol:
        symbol = self.symbols[key] = Symbol(key)
        symbol.memory = self._program.memory()
        self._in_order = [self.symbols[each] for each in sorted(self.symbols)]
        return symbol

    def _tick(self, time: int, offset: int, available: int) -> None:
        """Advance every symbol to a Tick and, if one is due, compute its vector."""
        is_due = time % self._cadence_ns == 0
        for symbol in self._in_order:
            if offset < symbol.next_offset:
                continue
            symbol.next_offset = offset + 1
            if symbol.pass_tick(time) and is_due:
                vector = self._program.vector(symbol)
                if vector is not None:
                    self._heads.append((symbol.key, time, offset, available, symbol.book.epoch, vector[1]))
                    self._values.append(vector[0])

    def _take(self) -> Vectors:
        """The vectors since the last batch."""
        if not self._heads:
            return Vectors.empty(self.feature_set)
        names, *heads = zip(*self._heads, strict=True)
        time, offset, available, epoch, quality = (np.array(each, np.int64) for each in heads)
        keys = {name: index for index, name in enumerate(dict.fromkeys(names))}
        values = np.array(self._values, np.float64)
        self._heads, self._values = [], []
        return Vectors(
            self.feature_set, list(keys), np.array([keys[name] for name in names], np.int32), time,
            np.full(len(time), self.partition, np.int32), offset, available, epoch, quality, values,
        )  # fmt: skip
