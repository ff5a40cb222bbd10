"""How one record changes the row of its symbol.

Input: the body of a record inside `Columns.body`.
State: the row, in place.
Units: times in ns UTC; prices in ticks, sizes in lots.
"""

from __future__ import annotations

import numpy as np

from schemas.columns import ABSENT, Int64
from schemas.events import FIELDS, Kind
from tables import layout as at
from tables.book import apply_delta, apply_snapshot, doubt, empty, is_whole, mid2
from tables.compiled import inner
from tables.windows import add_trade, advance, clear, count, is_hole

_INSTRUMENT, _SNAPSHOT, _DELTA = int(Kind.INSTRUMENT), int(Kind.SNAPSHOT), int(Kind.DELTA)
_TRADE, _TICKER, _FUNDING, _POSITION = int(Kind.TRADE), int(Kind.TICKER), int(Kind.FUNDING), int(Kind.POSITION)


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
    ]
)
_INTEREST = _place(Kind.TICKER, "open_interest")
_ENTRY_PRICE, _REALIZED_PNL = _place(Kind.POSITION, "entry_price"), _place(Kind.POSITION, "realized_pnl")


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
        for place in range(at.ROW_SIZE, at.ROW_SIZE + row[at.MEMORY]):
            row[place] = 0
        row[at.HAS_POSITION] = 0
        row[at.POSITION_SIZE] = 0
        empty(row)
        clear(row)
    row[at.HAS_INSTRUMENT] = 1
    row[at.IS_PERPETUAL] = body[start + _IS_PERPETUAL]


@inner
def set_interest(row: Int64, lots: int) -> None:
    """Take open interest; its change is counted, not from nothing but from the first telling on."""
    if row[at.OPEN_INTEREST] != ABSENT:
        count(row, at.INTEREST, lots - row[at.OPEN_INTEREST])
    row[at.OPEN_INTEREST] = lots


@inner
def set_position(row: Int64, body: Int64, start: int) -> None:
    """Take the own position; its age begins when it leaves zero or changes its sign."""
    lots = body[start]
    before = row[at.POSITION_SIZE]
    if (lots > 0 and before <= 0) or (lots < 0 and before >= 0):
        row[at.POSITION_TS] = row[at.LAST_TS]
    row[at.HAS_POSITION] = 1
    row[at.POSITION_SIZE] = lots
    row[at.ENTRY_PRICE] = body[start + _ENTRY_PRICE]
    if body[start + _REALIZED_PNL] != ABSENT:
        row[at.REALIZED_PNL] = body[start + _REALIZED_PNL]


@inner
def fold_record(row: Int64, kind: int, ts_event: int, ts_recv: int, body: Int64, start: int) -> None:
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
        if body[start + _INTEREST] != ABSENT:
            set_interest(row, body[start + _INTEREST])
    elif kind == _POSITION:
        set_position(row, body, start)
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
    if row[at.OPEN_INTEREST] != ABSENT and row[at.INTEREST_BIRTH] == 0:
        row[at.INTEREST_BIRTH] = time
    return True
