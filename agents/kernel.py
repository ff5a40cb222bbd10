"""The compiled pass: folds records of one partition into rows and computes vectors at the Ticks of each set's cadence.

Input: the arrays of `Columns`, and a table of addresses: rows, order of names, touched flags, plan, buffers, and the
slot of each of the batch's keys (-1: another thread's).
State: rows, changed in place; every record is applied at most once per symbol (NEXT_OFFSET).
Output: vectors in tape order, within one Tick in order of instrument names, so that no batch split or restore shows.
Units: times in ns UTC.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from agents import plan
from agents.fold import fold_record, pass_tick
from agents.program import compute
from schemas.columns import Int64
from schemas.events import Kind
from tables import book, compiled
from tables import layout as at
from tables.pointers import pointer_to_floats, pointer_to_ints

_REFUSED, _TICK, _ACTIVATE = int(Kind.REFUSED), int(Kind.TICK), int(Kind.ACTIVATE)

# The table: addresses and lengths. MADE counts the vectors of each set since the buffers were emptied.
ROWS, ROW_LENGTH, ORDER, SYMBOLS, TOUCHED, SLOTS = range(6)
SETS, SET_COUNT, COLUMNS, COLUMN_COUNT, DEPTH = range(6, 11)
HEADS, VALUES, ROOM, MADE, SCRATCH, PICKED, IS_SHARED = range(11, 18)
TABLE_SIZE = 18
"""HEADS [s, HEAD_SIZE, ROOM] and VALUES [sum of widths * ROOM], set after set; SCRATCH [c] values and [c] flags."""

PICKED_MAX = 512
"""Records that are looked through at a time for an engine's own, where it shares the partition (IS_SHARED)."""

TIME, OFFSET, AVAILABLE, EPOCH, QUALITY, KEY = range(6)
"""Rows of a set's head; KEY is the rank of the instrument's name."""
HEAD_SIZE = 6

_NONE, _MADE, _FULL = range(3)

# Inputs are read only, as arrays out of Arrow are; writable ones convert. One signature, so that it compiles once.
_INTS = types.Array(types.int64, 1, "C", readonly=True)
_KINDS = types.Array(types.uint8, 1, "C", readonly=True)
_KEYS = types.Array(types.int32, 1, "C", readonly=True)
_RUN = types.int64(_INTS, types.int64, _INTS, _KINDS, _KEYS, _INTS, _INTS, _INTS, _INTS)


def _compiled(sources: int) -> Any:
    @compiled.cached({"nogil": True, "error_model": "numpy"})
    def run(
        table: Int64, first: int, offset: Int64, kind: NDArray[np.uint8], key: NDArray[np.int32], ts_event: Int64,
        ts_recv: Int64, start: Int64, body: Int64,
    ) -> int:  # fmt: skip
        """Fold records from `first` on, as long as the buffers have room.

        Returns the first record not folded; its complement (~) where there are vectors in the buffers.
        """
        _ = sources
        touched, slots = pointer_to_ints(table[TOUCHED]), pointer_to_ints(table[SLOTS])
        picked = pointer_to_ints(table[PICKED])
        has_made = False
        end = len(offset)
        for begin in range(first, len(offset), PICKED_MAX):
            count = min(PICKED_MAX, len(offset) - begin)
            if table[IS_SHARED] != 0:
                count = pick(slots, kind, key, begin, count, picked)
            for place in range(count):
                i = picked[place] if table[IS_SHARED] != 0 else begin + place
                if kind[i] == _TICK:
                    outcome = tick(table, touched, body[start[i]], offset[i], ts_recv[i])
                    if outcome == _FULL:
                        end = i
                        return ~end if has_made else end
                    has_made = has_made or outcome == _MADE
                elif kind[i] != _REFUSED and kind[i] != _ACTIVATE:
                    slot = slots[key[i]]
                    touched[slot] = 1
                    row = row_at(table, slot)
                    if offset[i] >= row[at.NEXT_OFFSET]:
                        row[at.NEXT_OFFSET] = offset[i] + 1
                        fold_record(row, kind[i], ts_event[i], ts_recv[i], body, start[i])
        return ~end if has_made else end

    return run


@compiled.inner
def pick(slots: Int64, kind: NDArray[np.uint8], key: NDArray[np.int32], begin: int, count: int, picked: Int64) -> int:
    """Positions of the Ticks and of the records whose symbols are this engine's, among `count` records from `begin`.

    Without a branch: which symbol comes next is chance, and guessing it wrong costs more than reading it.
    """
    found = 0
    for i in range(begin, begin + count):
        picked[found] = i
        found += int((slots[key[i]] >= 0) | (kind[i] == _TICK))
    return found


@compiled.inner
def row_at(table: Int64, slot: int) -> Int64:
    """The row of a slot, as a pointer: an array would cost seven words at each call, and a check at each index."""
    row: Int64 = pointer_to_ints(table[ROWS] + 8 * slot * table[ROW_LENGTH])
    return row


@compiled.inner
def tick(table: Int64, touched: Int64, time: int, offset: int, available: int) -> int:
    """Advance every symbol to a Tick and compute what is due; _FULL, and nothing done, without room for it."""
    symbols, room = table[SYMBOLS], table[ROOM]
    sets, made = pointer_to_ints(table[SETS]), pointer_to_ints(table[MADE])
    is_due = False
    for s in range(table[SET_COUNT]):
        if time % sets[s * plan.SET_SIZE + plan.CADENCE] == 0:
            is_due = True
            if made[s] + symbols > room:
                return _FULL
    order = pointer_to_ints(table[ORDER])
    for rank in range(symbols):
        row = row_at(table, order[rank])
        # A symbol no record has named is not there yet; the row of one that has is never all zero.
        if row[at.NEXT_OFFSET] == 0:
            continue
        touched[order[rank]] = 1
        if offset < row[at.NEXT_OFFSET]:
            continue
        row[at.NEXT_OFFSET] = offset + 1
        if pass_tick(row, time) and is_due:
            book.fill_top(row, table[DEPTH])
            vectors_of(table, row, time, offset, available, rank)
    return _MADE if is_due else _NONE


@compiled.inner
def vectors_of(table: Int64, row: Int64, time: int, offset: int, available: int, rank: int) -> None:
    """The vectors of one symbol, one of each set that is due."""
    sets, made = pointer_to_ints(table[SETS]), pointer_to_ints(table[MADE])
    columns_ = pointer_to_ints(table[COLUMNS])
    values = pointer_to_floats(table[SCRATCH])
    flags = pointer_to_ints(table[SCRATCH] + 8 * table[COLUMN_COUNT])
    room = table[ROOM]
    before = 0
    for s in range(table[SET_COUNT]):
        about = s * plan.SET_SIZE
        width = sets[about + plan.WIDTH]
        m = made[s]
        if time % sets[about + plan.CADENCE] == 0:
            out = pointer_to_floats(table[VALUES] + 8 * (before * room + m * width))
            quality = compute(row, columns_, sets[about + plan.FIRST], sets[about + plan.END], values, flags, out)
            if quality >= 0:
                head = pointer_to_ints(table[HEADS] + 8 * (s * HEAD_SIZE * room + m))
                head[TIME * room], head[OFFSET * room], head[AVAILABLE * room] = time, offset, available
                head[EPOCH * room], head[QUALITY * room], head[KEY * room] = row[at.BOOK_EPOCH], quality, rank
                made[s] = m + 1
        before += width


def load() -> None:
    """Compile the kernel, or read it from the cache: seconds the first time, then a moment, then nothing."""
    with _LOADING:
        if not run.signatures:
            run.compile(_RUN)
            run.disable_compile()


_LOADING = Lock()
run = _compiled(int.from_bytes(compiled.sources_digest(), "little") >> 1)
