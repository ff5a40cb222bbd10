"""One instrument: how each record changes what is known of it, and what a Tick closes.

Input: records of the instrument in tape order, their bodies as they lie in `Columns.body`; Ticks.
State: scales, book, windows, what the venue and the account have told, what the columns of the feature set remember.
Units: ticks and lots; times in ns UTC; prices that do not sit on ticks in 10**-index_scale.
"""

from __future__ import annotations

from typing import Any

from agents.oracle.book import Book
from agents.oracle.formulas import decimal
from agents.oracle.windows import CHURN, DELTAS, INTEREST, MULTI_FLOW, ORDER_FLOW, STEPS_MAX, Sums, Windows
from schemas.columns import ABSENT
from schemas.events import FIELDS, Kind
from schemas.units import BASE_TICK_NS

_INSTRUMENT, _SNAPSHOT, _DELTA = int(Kind.INSTRUMENT), int(Kind.SNAPSHOT), int(Kind.DELTA)
_TRADE, _TICKER, _FUNDING, _POSITION = int(Kind.TRADE), int(Kind.TICKER), int(Kind.FUNDING), int(Kind.POSITION)
SPOT, LINEAR, INVERSE = range(3)

_SCALES = ("price_scale", "tick_size", "size_scale", "lot_size", "index_scale", "contract", "contract_value")


def _places(kind: Kind) -> dict[str, int]:
    """Where in a record's body each field stands; none that is named here stands behind levels."""
    return {field.name: place for place, field in enumerate(FIELDS[kind])}


_OF_INSTRUMENT, _OF_TRADE, _OF_TICKER = _places(Kind.INSTRUMENT), _places(Kind.TRADE), _places(Kind.TICKER)
_OF_POSITION, _OF_FUNDING = _places(Kind.POSITION), _places(Kind.FUNDING)
_PRICE, _SIZE, _SIDE = _OF_TRADE["price"], _OF_TRADE["size"], _OF_TRADE["side"]
_IS_BLOCK, _IS_INSURANCE = _OF_TRADE["is_block"], _OF_TRADE["is_insurance"]


class Symbol:
    """Everything the features of one instrument read. What no record has told is None."""

    __slots__ = (
        "ask_lots", "bid_lots", "book", "contract", "contract_value", "entry_price", "feed_delay", "funding_rate",
        "has_position", "index_price", "index_scale", "interest_birth", "is_perpetual", "key", "lot_size",
        "mark_price", "memory", "mid2", "next_funding_ts", "next_offset", "notes", "open_interest", "position",
        "position_ts", "price_scale", "realized_pnl", "scales", "size_scale", "sums", "tick", "tick_size", "ts",
        "windows",
    )  # fmt: skip

    # Set by the first Instrument, and anew by one of other scales:
    price_scale: int
    tick_size: int
    size_scale: int
    lot_size: int
    index_scale: int
    contract: int
    contract_value: int
    is_perpetual: int
    mark_price: int | None
    index_price: int | None
    open_interest: int | None
    funding_rate: int | None
    next_funding_ts: int | None
    feed_delay: int | None
    """ts_recv - ts_event of the last event with a venue time."""
    has_position: bool
    position: int
    entry_price: int | None
    realized_pnl: int | None

    def __init__(self, key: str) -> None:
        self.key = key
        self.next_offset = 0
        """Records below it have been applied."""
        self.scales: list[int] | None = None
        """None before the first Instrument: nothing can be read then, so nothing is kept."""
        self.tick = 0
        """The last Tick."""
        self.ts = 0
        """Event time: never before the last Tick and the event before."""
        self.book, self.windows = Book(), Windows()
        self.interest_birth = 0
        """Time of the first Tick after open interest was first told, or after a hole in the clock."""
        self.position_ts = 0
        """When the position last left zero or changed its sign."""
        self.memory: list[Any] = []
        """What the columns remember, in the order of the program's columns."""
        # Of the Tick whose vector is being computed:
        self.notes = 0
        """Quality flags of the feature at hand."""
        self.mid2 = 0
        self.sums: dict[int, Sums | None] = {}
        """By window; None if it begins before the first Tick."""
        self.bid_lots: list[int] = []
        self.ask_lots: list[int] = []
        """Lots in the best level, in the best two, and so on."""

    def price(self, ticks: float) -> float:
        """Ticks in quote units."""
        return decimal(ticks, self.tick_size, self.price_scale)

    def size(self, lots: float) -> float:
        """Lots in base units."""
        return decimal(lots, self.lot_size, self.size_scale)

    def fold(self, kind: int, ts_event: int, ts_recv: int, body: list[int], at: int) -> None:
        """Apply one record."""
        self.ts = ts_recv if ts_recv > self.ts else self.ts
        if self.scales is None and kind != _INSTRUMENT:
            return
        if kind == _INSTRUMENT:
            self._take_instrument(body, at)
        if ts_event:
            self.feed_delay = ts_recv - ts_event
        if kind == _DELTA:
            changes = self.book.delta(body, at, ts_event, self.ts)
            if changes is not None:
                totals = self.windows.totals
                totals[DELTAS] += 1
                totals[CHURN] += changes[0]
                totals[ORDER_FLOW] += changes[1]
                totals[MULTI_FLOW] += changes[2]
        elif kind == _TRADE:
            # Neither meets the book: blocks are agreed elsewhere, the insurance fund takes over positions.
            if not body[at + _IS_BLOCK] and not body[at + _IS_INSURANCE]:
                is_inverse = self.contract == INVERSE
                self.windows.trade(body[at + _PRICE], body[at + _SIZE], body[at + _SIDE], is_inverse=is_inverse)
        elif kind == _SNAPSHOT:
            self.book.snapshot(body, at, ts_event, self.ts)
        elif kind == _TICKER:
            self._take_ticker(body, at)
        elif kind == _POSITION:
            self._take_position(body, at)
        elif kind == _FUNDING:
            self.funding_rate = body[at + _OF_FUNDING["rate"]]
            self.next_funding_ts = _told(body[at + _OF_FUNDING["next_funding_ts"]])

    def _take_instrument(self, body: list[int], at: int) -> None:
        """Take scales; where they differ from those known, all that was read by the old ones is forgotten."""
        scales = [body[at + _OF_INSTRUMENT[name]] for name in _SCALES]
        self.is_perpetual = body[at + _OF_INSTRUMENT["is_perpetual"]]
        if scales == self.scales:
            return
        self.scales = scales
        (self.price_scale, self.tick_size, self.size_scale, self.lot_size, self.index_scale, self.contract,
         self.contract_value) = scales  # fmt: skip
        self.mark_price = self.index_price = self.open_interest = None
        self.funding_rate = self.next_funding_ts = self.feed_delay = None
        self.has_position, self.position = False, 0
        self.entry_price = self.realized_pnl = None
        self.interest_birth = 0
        self.book.drop()
        self.windows.clear()
        for memory in self.memory:
            memory.forget()

    def _take_ticker(self, body: list[int], at: int) -> None:
        mark, index = _told(body[at + _OF_TICKER["mark_price"]]), _told(body[at + _OF_TICKER["index_price"]])
        interest = _told(body[at + _OF_TICKER["open_interest"]])
        if mark is not None:
            self.mark_price = mark
        if index is not None:
            self.index_price = index
        if interest is not None:
            # Its change is counted from the first telling on, not from nothing.
            if self.open_interest is not None:
                self.windows.totals[INTEREST] += interest - self.open_interest
            self.open_interest = interest

    def _take_position(self, body: list[int], at: int) -> None:
        size, before = body[at + _OF_POSITION["size"]], self.position
        if (size > 0 and before <= 0) or (size < 0 and before >= 0):
            self.position_ts = self.ts
        self.has_position, self.position = True, size
        self.entry_price = _told(body[at + _OF_POSITION["entry_price"]])
        realized = _told(body[at + _OF_POSITION["realized_pnl"]])
        if realized is not None:
            self.realized_pnl = realized

    def pass_tick(self, time: int) -> bool:
        """Close the bucket before Tick `time`; False for a late or doubled one, and before the first Instrument."""
        if self.scales is None or time <= self.tick or (not self.tick and time <= self.ts):
            return False
        windows, book = self.windows, self.book
        steps = time // BASE_TICK_NS - self.tick // BASE_TICK_NS
        if self.tick and steps > STEPS_MAX:
            # A hole in the clock: nobody watched, so windows begin anew and the book must prove itself.
            book.doubt()
            windows.clear()
            self.interest_birth = 0
        self.mid2 = book.mid2()
        windows.advance(time, steps, self.mid2)
        self.tick = time
        self.ts = time if time > self.ts else self.ts
        if not book.birth and book.is_whole:
            book.birth = time
        if not self.interest_birth and self.open_interest is not None:
            self.interest_birth = time
        return True

    def look(self, spans: list[int], depth: int) -> None:
        """Read what the features of a vector share: each window's sums, the best levels."""
        windows, reach = self.windows, (self.tick - self.windows.birth) // BASE_TICK_NS
        self.sums = {window: windows.over(window) if window <= reach else None for window in spans}
        self.bid_lots, self.ask_lots = self.book.bids.cumulated(depth), self.book.asks.cumulated(depth)


def _told(number: int) -> int | None:
    return None if number == ABSENT else number
