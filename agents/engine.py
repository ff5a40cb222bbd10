"""The engine of one partition: columns in, vectors out.

Input: `Columns` of the partition in offset order; records that were applied before change nothing.
State: an `Arena`, one row per symbol; buffers that vectors are copied out of.
Output: `Vectors` of each feature set in tape order, within one Tick in order of instrument names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from agents import kernel
from agents.plan import WIDTH, Plan
from schemas.columns import Columns, Int64
from schemas.events import Kind
from schemas.feature_sets import FeatureSet
from schemas.topics import CLOCK_KEY
from schemas.vectors import Vectors
from tables.arena import Arena

_KEYLESS = np.zeros(256, np.bool_)
_KEYLESS[[Kind.REFUSED, Kind.TICK, Kind.ACTIVATE]] = True
_BUFFER_VECTORS = 512
"""Vectors of a set that are computed before they are copied out, or one of each symbol if those are more."""
_UNKNOWN, _FOREIGN = -2, -1


class Engine:
    """Folds one partition and computes some feature sets in the same pass.

    `owns` leaves out the symbols it is false for: engines that share a partition's records, each with its own symbols,
    together give what one alone would.
    """

    def __init__(
        self, feature_sets: Sequence[FeatureSet], partition: int, owns: Callable[[str], bool] | None = None
    ) -> None:
        """Errors: UsageError for a feature set that names what is no feature."""
        self.plan = Plan(feature_sets)
        kernel.load()
        self.partition = partition
        self.arena = Arena(self.plan.memory, self.plan.hash)
        self._owns = owns
        self._none = [Vectors.empty(feature_set) for feature_set in self.plan.feature_sets]
        self._widths: list[int] = self.plan.sets[:, WIDTH].tolist()
        self._table = np.zeros(kernel.TABLE_SIZE, np.int64)
        self._picked = np.zeros(kernel.PICKED_MAX, np.int64)
        self._made = np.zeros(len(self._widths), np.int64)
        self._scratch = np.zeros(2 * len(self.plan.columns), np.int64)
        self._heads: Int64 = np.empty(0, np.int64)
        self._values: NDArray[np.float64] = np.empty(0)
        self._order: Int64 = np.empty(0, np.int64)
        self._known = -1
        self._batch_keys: list[str] | None = None
        self._slots: Int64 = np.empty(0, np.int64)
        self._key_count = 0
        self._unknown = False

    def apply(self, columns: Columns) -> list[Vectors]:
        """Fold all records; the vectors of the Ticks among them, one entry per feature set."""
        if columns.keys is not self._batch_keys or self._unknown or len(columns.keys) != self._key_count:
            self._map(columns)
        if len(self.arena.keys) != self._known:
            self._arrange()
        made: list[list[Vectors]] = []
        first, count = 0, len(columns.offset)
        while first < count:
            first = kernel.run(
                self._table, first, columns.offset, columns.kind, columns.key, columns.ts_event, columns.ts_recv,
                columns.start, columns.body,
            )  # fmt: skip
            if first < 0:
                first = ~first
                made.append(self._take())
        if not made:
            return self._none
        return [parts[0] if len(parts) == 1 else Vectors.concat(parts) for parts in zip(*made, strict=True)]

    def _take(self) -> list[Vectors]:
        """The vectors in the buffers, copied out; the buffers are empty then."""
        room = int(self._table[kernel.ROOM])
        heads = self._heads.reshape(len(self._widths), kernel.HEAD_SIZE, room)
        taken: list[Vectors] = []
        before = 0
        for s, (width, m) in enumerate(zip(self._widths, self._made.tolist(), strict=True)):
            head = heads[s, :, :m].copy()
            values = self._values[before : before + m * width].reshape(m, width).copy()
            before += room * width
            taken.append(Vectors(
                self.plan.feature_sets[s], self.arena.names, head[kernel.KEY].astype(np.int32), head[kernel.TIME],
                np.full(m, self.partition, np.int32), head[kernel.OFFSET], head[kernel.AVAILABLE], head[kernel.EPOCH],
                head[kernel.QUALITY], values,
            ))  # fmt: skip
        self._made[:] = 0
        return taken

    def _arrange(self) -> None:
        """Tell the kernel where everything is, after there are new symbols."""
        arena, plan, table = self.arena, self.plan, self._table
        self._known = len(arena)
        room = max(_BUFFER_VECTORS, self._known)
        if room != table[kernel.ROOM]:
            self._heads = np.empty(len(self._widths) * kernel.HEAD_SIZE * room, np.int64)
            self._values = np.empty(sum(self._widths) * room)
        self._order = arena.order
        table[kernel.ROWS], table[kernel.TOUCHED] = _address(arena.rows), _address(arena.touched_flags)
        table[kernel.ROW_LENGTH] = arena.rows.shape[1]
        table[kernel.ORDER], table[kernel.SYMBOLS] = _address(self._order), self._known
        table[kernel.SETS], table[kernel.SET_COUNT] = _address(plan.sets), len(plan.sets)
        table[kernel.COLUMNS], table[kernel.COLUMN_COUNT] = _address(plan.columns), len(plan.columns)
        table[kernel.DEPTH], table[kernel.ROOM] = plan.depth, room
        table[kernel.HEADS], table[kernel.VALUES] = _address(self._heads), _address(self._values)
        table[kernel.PICKED], table[kernel.IS_SHARED] = _address(self._picked), self._owns is not None
        table[kernel.MADE], table[kernel.SCRATCH] = _address(self._made), _address(self._scratch)

    def _map(self, columns: Columns) -> None:
        """Slot of each of the batch's keys; a key that only refused records carry gets none.

        Slices of one batch share their list of keys: it is looked up once.
        """
        keys = columns.keys
        slots = [self._find(key) for key in keys]
        if _UNKNOWN in slots:
            used = np.bincount(columns.key[~_KEYLESS[columns.kind]], minlength=len(keys))
            for key, slot in enumerate(slots):
                if slot == _UNKNOWN and used[key]:
                    slots[key] = self.arena.slot(keys[key])
        if len(keys) > len(self._slots):
            self._slots = np.empty(2 * len(keys), np.int64)
            self._table[kernel.SLOTS] = _address(self._slots)
        self._slots[: len(keys)] = slots
        self._batch_keys, self._key_count, self._unknown = keys, len(keys), _UNKNOWN in slots

    def _find(self, key: str) -> int:
        if key == CLOCK_KEY or (self._owns is not None and not self._owns(key)):
            return _FOREIGN
        slot = self.arena.find(key)
        return _UNKNOWN if slot < 0 else slot


def _address(array: NDArray[np.int64] | NDArray[np.float64]) -> int:
    return int(array.ctypes.data)
