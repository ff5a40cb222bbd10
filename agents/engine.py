"""The engine of one partition: columns in, vectors out.

Input: `Columns` of the partition in offset order; records that were applied before change nothing.
State: an `Arena`, one row per symbol.
Output: `Vectors` in tape order, within one Tick in order of instrument names.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents import kernel
from agents.catalogue import CATALOGUE, INDEX
from schemas.columns import Columns
from schemas.errors import UsageError
from schemas.events import Kind
from schemas.feature_sets import FeatureSet
from schemas.topics import CLOCK_KEY
from schemas.units import NS_PER_MS
from schemas.vectors import Vectors
from tables.arena import Arena

_KEYLESS = np.zeros(256, np.bool_)
_KEYLESS[[Kind.REFUSED, Kind.TICK, Kind.ACTIVATE]] = True


class Engine:
    """Folds one partition and computes one feature set."""

    def __init__(self, feature_set: FeatureSet, partition: int) -> None:
        unknown = [name for name in feature_set.features if name not in INDEX]
        if unknown:
            raise UsageError(
                f"feature set {feature_set.id} names unknown features", expected="names of the micro catalogue",
                was=", ".join(unknown), action="correct the names in the feature set's YAML file",
            )  # fmt: skip
        kernel.load()
        self.feature_set = feature_set
        self.partition = partition
        self.arena = Arena()
        self._chosen = np.array([INDEX[name] for name in feature_set.features], np.int64)
        self._cadence = feature_set.cadence_ms * NS_PER_MS
        self._values = np.empty(len(CATALOGUE))
        self._reasons = np.zeros(len(CATALOGUE), np.int64)
        self._none = Vectors.empty(feature_set)
        self._no_head = np.empty((kernel.OUTPUT_ROWS, 0), np.int64)
        self._batch_keys: list[str] | None = None
        self._slots: NDArray[np.int32] = np.empty(0, np.int32)
        self._unknown = False

    def apply(self, columns: Columns) -> Vectors:
        """Fold all records; the vectors of the Ticks among them."""
        slots = self._map(columns)
        arena = self.arena
        room = kernel.ticks_of(self._cadence, columns.kind, columns.start, columns.body) * len(arena)
        head = np.empty((kernel.OUTPUT_ROWS, room), np.int64) if room else self._no_head
        values = np.empty((room, len(self._chosen))) if room else self._none.values
        m = kernel.run(
            columns.offset, columns.kind, columns.key, columns.ts_event, columns.ts_recv, columns.start, columns.body,
            slots, arena.rows, arena.order, arena.touched_flags, self._chosen, self._cadence, head, values,
            self._values, self._reasons,
        )  # fmt: skip
        if m == 0:
            return self._none
        if m < room:
            # Rows foreseen for Ticks that came twice are given back, not kept alive behind a view.
            head, values = head[:, :m].copy(), values[:m].copy()
        return Vectors(
            self.feature_set, arena.names, head[kernel.KEY].astype(np.int32), head[kernel.TIME],
            np.full(m, self.partition, np.int32), head[kernel.OFFSET], head[kernel.AVAILABLE], head[kernel.EPOCH],
            head[kernel.QUALITY], values,
        )  # fmt: skip

    def _map(self, columns: Columns) -> NDArray[np.int32]:
        """Slot of each of the batch's keys; a key that only refused records carry gets none."""
        keys = columns.keys
        if keys is not self._batch_keys or len(keys) != len(self._slots):
            # Slices of one batch share their list of keys: it is looked up once. The clock's key needs no row.
            self._slots = np.array([0 if key == CLOCK_KEY else self.arena.find(key) for key in keys], np.int32)
            self._batch_keys = keys
            self._unknown = bool((self._slots < 0).any())
        slots = self._slots
        if self._unknown:
            used = columns.key[~_KEYLESS[columns.kind]]
            for key in np.unique(used[slots[used] < 0]).tolist():
                slots[key] = self.arena.slot(keys[key])
            self._unknown = bool((slots < 0).any())
        return slots
