"""The compiled pass: folds records of one partition into rows and computes vectors at the Ticks of a cadence.

Input: the arrays of `Columns`, rows of an arena, and `slots`: the row of each of the batch's keys.
State: rows, changed in place; every record is applied at most once per symbol (NEXT_OFFSET).
Output: vectors in tape order, within one Tick in order of instrument names, so that no batch split or restore shows.
Units: times in ns UTC.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from agents import catalogue, logarithm, micro
from agents.micro import Float64, compute
from schemas import columns, events, limits, units, vectors
from schemas.columns import ABSENT, Int64
from schemas.events import FIELDS, Kind
from tables import book, compiled, layout, windows
from tables import layout as at
from tables.book import apply_delta, apply_snapshot, doubt, empty, is_whole, mid2
from tables.compiled import inner
from tables.windows import add_trade, advance, clear, is_hole

_REFUSED, _TICK, _ACTIVATE = int(Kind.REFUSED), int(Kind.TICK), int(Kind.ACTIVATE)
_INSTRUMENT, _SNAPSHOT, _DELTA = int(Kind.INSTRUMENT), int(Kind.SNAPSHOT), int(Kind.DELTA)
_TRADE, _TICKER, _FUNDING = int(Kind.TRADE), int(Kind.TICKER), int(Kind.FUNDING)


def _place(kind: Kind, name: str) -> int:
    """Place of a field in a record's body."""
    return [field.name for field in FIELDS[kind]].index(name)


_SCALES = np.array(
    [
        (_place(Kind.INSTRUMENT, "price_scale"), at.PRICE_SCALE),
        (_place(Kind.INSTRUMENT, "tick_size"), at.TICK_SIZE),
        (_place(Kind.INSTRUMENT, "size_scale"), at.SIZE_SCALE),
        (_place(Kind.INSTRUMENT, "lot_size"), at.LOT_SIZE),
        (_place(Kind.INSTRUMENT, "index_scale"), at.INDEX_SCALE),
        (_place(Kind.INSTRUMENT, "contract"), at.CONTRACT),
        (_place(Kind.INSTRUMENT, "contract_value"), at.CONTRACT_VALUE),
    ]
)
_IS_PERPETUAL = _place(Kind.INSTRUMENT, "is_perpetual")
_IS_BLOCK, _IS_INSURANCE = _place(Kind.TRADE, "is_block"), _place(Kind.TRADE, "is_insurance")
_SIDE = _place(Kind.TRADE, "side")
_TOLD = np.array(
    [
        (_place(Kind.TICKER, "mark_price"), at.MARK_PRICE),
        (_place(Kind.TICKER, "index_price"), at.INDEX_PRICE),
        (_place(Kind.TICKER, "open_interest"), at.OPEN_INTEREST),
    ]
)

TIME, OFFSET, AVAILABLE, EPOCH, QUALITY, KEY = range(6)
"""Rows of the kernel's integer output [6, m]; KEY is the rank of the instrument's name."""
OUTPUT_ROWS = 6


@inner
def set_instrument(row: Int64, body: Int64, start: int) -> None:
    """Take scales; where they differ from those known, all that was read by the old ones is forgotten."""
    same = row[at.HAS_INSTRUMENT] != 0
    for field, place in _SCALES:
        same = same and row[place] == body[start + field]
    if not same:
        for field, place in _SCALES:
            row[place] = body[start + field]
        for place in range(at.TOLD_FIRST, at.TOLD_LAST + 1):
            row[place] = ABSENT
        empty(row)
        clear(row)
    row[at.HAS_INSTRUMENT] = 1
    row[at.IS_PERPETUAL] = body[start + _IS_PERPETUAL]


@inner
def fold(row: Int64, kind: int, ts_event: int, ts_recv: int, body: Int64, start: int) -> None:
    """Apply one record of a symbol. Before its first Instrument nothing can be read, so nothing is kept."""
    row[at.LAST_TS] = max(ts_recv, row[at.TICK], row[at.LAST_TS])
    if kind == _INSTRUMENT:
        set_instrument(row, body, start)
    elif row[at.HAS_INSTRUMENT] == 0:
        return
    if ts_event != 0:
        row[at.FEED_DELAY] = ts_recv - ts_event
    if kind == _DELTA:
        apply_delta(row, body, start, ts_event)
    elif kind == _TRADE:
        # Neither meets the book: blocks are agreed elsewhere, the insurance fund takes over positions.
        if body[start + _IS_BLOCK] == 0 and body[start + _IS_INSURANCE] == 0:
            add_trade(row, body[start], body[start + 1], body[start + _SIDE])
    elif kind == _SNAPSHOT:
        apply_snapshot(row, body, start, ts_event)
    elif kind == _TICKER:
        for field, place in _TOLD:
            if body[start + field] != ABSENT:
                row[place] = body[start + field]
    elif kind == _FUNDING:
        row[at.FUNDING_RATE] = body[start]
        row[at.NEXT_FUNDING_TS] = body[start + 1]


@inner
def pass_tick(row: Int64, time: int) -> bool:
    """Advance one symbol to Tick `time`; False for a late or doubled Tick and for a symbol without Instrument."""
    if row[at.HAS_INSTRUMENT] == 0 or time <= row[at.TICK]:
        return False
    if row[at.TICK] == 0 and time <= row[at.LAST_TS]:
        # Late, too, though this symbol has seen no Tick before: it would open a bucket before what is already known.
        return False
    if is_hole(row, time):
        doubt(row)
    advance(row, time, mid2(row))
    if is_whole(row) and row[at.BOOK_BIRTH] == 0:
        row[at.BOOK_BIRTH] = time
    return True


# Inputs are read only, as arrays out of Arrow are; writable ones convert. One signature, so that it compiles once.
_INTS = types.Array(types.int64, 1, "C", readonly=True)
_KINDS = types.Array(types.uint8, 1, "C", readonly=True)
_KEYS = types.Array(types.int32, 1, "C", readonly=True)
_TICKS_OF = types.int64(types.int64, _KINDS, _INTS, _INTS)
_RUN = types.int64(
    _INTS, _KINDS, _KEYS, _INTS, _INTS, _INTS, _INTS, types.int32[::1], types.int64[:, ::1], types.int32[::1],
    types.uint8[::1], types.int64[::1], types.int64, types.int64[:, ::1], types.float64[:, ::1], types.float64[::1],
    types.int64[::1],
)  # fmt: skip


def _sources_hash() -> int:
    """Hash of every module that is compiled into the kernel.

    numba's cache watches the file of the compiled function alone; as a closure's value this hash makes it watch all.
    """
    digest = blake2b(digest_size=7)
    tables = (book, compiled, layout, windows)
    for module in (*tables, catalogue, logarithm, micro, columns, events, limits, units, vectors):
        if module.__file__ is not None:
            digest.update(Path(module.__file__).read_bytes())
    return int.from_bytes(digest.digest(), "big")


def _compiled(sources: int) -> tuple[Any, Any]:
    @njit(nogil=True, cache=True)
    def ticks_of(cadence: int, kind: NDArray[np.uint8], start: Int64, body: Int64) -> int:
        """Ticks whose time is a multiple of the cadence: each may give one vector per symbol."""
        _ = sources
        count = 0
        for i in range(len(kind)):
            if kind[i] == _TICK and body[start[i]] % cadence == 0:
                count += 1
        return count

    @njit(nogil=True, cache=True, error_model="numpy")
    def run(
        offset: Int64, kind: NDArray[np.uint8], key: NDArray[np.int32], ts_event: Int64, ts_recv: Int64,
        start: Int64, body: Int64, slots: NDArray[np.int32], rows: Int64, order: NDArray[np.int32],
        touched: NDArray[np.uint8], chosen: Int64, cadence: int, head: Int64, out: Float64,
        values: Float64, reasons: Int64,
    ) -> int:  # fmt: skip
        """Fold all records; returns the number of vectors written to head and out."""
        _ = sources
        m = 0
        for i in range(len(offset)):
            if kind[i] == _TICK:
                time = body[start[i]]
                for rank in range(len(order)):
                    row = rows[order[rank]]
                    # A symbol no record has named is not there yet; the row of one that has is never all zero.
                    if row[at.NEXT_OFFSET] == 0:
                        continue
                    touched[order[rank]] = 1
                    if offset[i] < row[at.NEXT_OFFSET]:
                        continue
                    row[at.NEXT_OFFSET] = offset[i] + 1
                    if not pass_tick(row, time) or time % cadence != 0:
                        continue
                    flags = compute(row, time, values, reasons)
                    for column in range(len(chosen)):
                        out[m, column] = values[chosen[column]]
                        flags |= reasons[chosen[column]]
                    head[TIME, m], head[OFFSET, m], head[AVAILABLE, m] = time, offset[i], ts_recv[i]
                    head[EPOCH, m], head[QUALITY, m], head[KEY, m] = row[at.BOOK_EPOCH], flags, rank
                    m += 1
            elif kind[i] not in (_REFUSED, _ACTIVATE):
                slot = slots[key[i]]
                touched[slot] = 1
                row = rows[slot]
                if offset[i] >= row[at.NEXT_OFFSET]:
                    row[at.NEXT_OFFSET] = offset[i] + 1
                    fold(row, kind[i], ts_event[i], ts_recv[i], body, start[i])
        return m

    return ticks_of, run


def load() -> None:
    """Compile the kernel, or read it from the cache: seconds the first time, then a moment, then nothing."""
    with _LOADING:
        for function, signature in ((ticks_of, _TICKS_OF), (run, _RUN)):
            if not function.signatures:
                function.compile(signature)
                function.disable_compile()


_LOADING = Lock()
SOURCES_HASH = _sources_hash()
ticks_of, run = _compiled(SOURCES_HASH)
