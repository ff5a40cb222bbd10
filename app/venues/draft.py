"""Drafts: records whose numbers are still the venue's texts, and the exact way from texts to ticks and lots.

Input: drafts of one symbol.
State: `Needs`, the finest decimals a symbol's texts need; `Scales`, the steps they are counted in.
Output: `Event`s that passed the gate.
Units: texts as the venue wrote them; ticks, lots, 10^-index_scale and 10^-12 in events.
Errors: RecordRefused for a text that is no number, is finer than its step, or does not pass the gate.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import lru_cache, partial
from math import gcd
from typing import Any, NamedTuple

from schemas import limits
from schemas.errors import RecordRefused
from schemas.events import Event, Kind
from schemas.units import RATE_SCALE, decimals, to_int, to_steps
from schemas.validate import check

INDEX_DECIMALS_MIN = 8
_TEXTS_CACHED = 65_536
_TEXTS_COLLECTED = 50_000


class Amount(Enum):
    """What a text counts, which decides the step it must be a multiple of."""

    PRICE = "price"
    SIZE = "size"
    INDEX = "index"
    RATE = "rate"


TEXT_FIELDS: dict[Kind, tuple[tuple[str, Amount], ...]] = {
    Kind.SNAPSHOT: (),
    Kind.DELTA: (),
    Kind.TRADE: (("price", Amount.PRICE), ("size", Amount.SIZE)),
    Kind.TICKER: (
        ("bid_price", Amount.PRICE), ("bid_size", Amount.SIZE), ("ask_price", Amount.PRICE),
        ("ask_size", Amount.SIZE), ("mark_price", Amount.INDEX), ("index_price", Amount.INDEX),
        ("open_interest", Amount.SIZE),
    ),
    Kind.FUNDING: (("rate", Amount.RATE),),
    Kind.BAR: (
        ("open", Amount.PRICE), ("high", Amount.PRICE), ("low", Amount.PRICE), ("close", Amount.PRICE),
        ("volume", Amount.SIZE),
    ),
}  # fmt: skip
"""Fields of a draft that are texts. Levels of Snapshot and Delta are lists [price, size, ...] of texts."""


class Draft(NamedTuple):
    """A record before its numbers are read. `symbol` is empty where the frame does not name it.

    `stream` is the venue's name of a trade's stream: it may tell the same trades on two.
    """

    symbol: str
    ts_event: int
    kind: Kind
    body: dict[str, Any]
    stream: str = ""


class Steps(NamedTuple):
    """Price and size steps of an instrument as its venue states them."""

    price_scale: int
    tick_size: int
    size_scale: int
    lot_size: int


def steps_of(tick_text: str, lot_text: str) -> Steps:
    """Steps of the venue's texts: "0.050" is 5 units of 10^-2."""
    price_scale, size_scale = decimals(tick_text), decimals(lot_text)
    steps = Steps(price_scale, to_int(tick_text, price_scale), size_scale, to_int(lot_text, size_scale))
    if steps.tick_size <= 0 or steps.lot_size <= 0:
        raise RecordRefused("step-out-of-range")
    return steps


class Need:
    """The finest scale that every text of one amount needs, as far as the largest of them then still fits."""

    def __init__(self, units_max: int) -> None:
        self._units_max = units_max
        self._texts: set[str] = set()
        self._decimals = 0
        self._whole_max = 0
        self._divisor = 0

    def see(self, text: Any) -> None:
        """Take one text into account. What is no number, or too large, is not: the second pass refuses it."""
        if isinstance(text, str):
            self._texts.add(text)
            if len(self._texts) >= _TEXTS_COLLECTED:
                self._fold()

    def scale(self, least: int = 0) -> int:
        """Decimals to count in."""
        self._fold()
        scale = max(self._decimals, least)
        while scale > least and (self._whole_max + 1) * 10**scale > self._units_max:
            scale -= 1
        return min(scale, limits.SCALE_MAX)

    def adopt(self, other: Need) -> None:
        """Need what the other needs too."""
        other._fold()
        self._decimals = max(self._decimals, other._decimals)
        self._whole_max = max(self._whole_max, other._whole_max)
        self._divisor = gcd(self._divisor, other._divisor)

    def divides_by(self, scale: int, step: int) -> bool:
        """Whether every text is a whole number of steps."""
        self._fold()
        return bool(self._divisor % (step * 10 ** (limits.DECIMALS_MAX - scale)) == 0)

    def _fold(self) -> None:
        for text in self._texts:
            try:
                needed, number = decimals(text), abs(to_int(text, limits.DECIMALS_MAX))
            except RecordRefused:
                continue
            whole = number // 10**limits.DECIMALS_MAX
            if whole <= self._units_max:
                self._decimals = max(self._decimals, needed)
                self._whole_max = max(self._whole_max, whole)
                self._divisor = gcd(self._divisor, number)
        self._texts.clear()


class Needs:
    """What the texts of one symbol need."""

    def __init__(self) -> None:
        self.price = Need(limits.PRICE_TICKS_MAX)
        self.size = Need(limits.SIZE_LOTS_MAX)
        self.index = Need(limits.SCALED_MAX)
        self._of = {Amount.PRICE: self.price, Amount.SIZE: self.size, Amount.INDEX: self.index}
        self._see = {
            kind: tuple((name, self._of[amount].see) for name, amount in fields if amount in self._of)
            for kind, fields in TEXT_FIELDS.items()
        }

    def see(self, draft: Draft) -> None:
        """Take every text of a draft into account."""
        body = draft.body
        if draft.kind in (Kind.SNAPSHOT, Kind.DELTA):
            see_price, see_size = self.price.see, self.size.see
            for level in body["bids"] + body["asks"]:
                see_price(level[0])
                see_size(level[1])
            return
        for name, see in self._see[draft.kind]:
            see(body[name])

    def adopt(self, other: Needs) -> None:
        """Need what the other needs too."""
        for amount, need in self._of.items():
            need.adopt(other._of[amount])

    def steps(self) -> Steps:
        """Steps of one unit in the last decimal that was ever needed."""
        return Steps(self.price.scale(), 1, self.size.scale(), 1)

    def refined(self, stated: Steps) -> Steps:
        """The stated steps, or finer ones where the texts seen do not divide by them."""
        price = (stated.price_scale, stated.tick_size)
        if not self.price.divides_by(*price):
            price = (max(stated.price_scale, self.price.scale()), 1)
        size = (stated.size_scale, stated.lot_size)
        if not self.size.divides_by(*size):
            size = (max(stated.size_scale, self.size.scale()), 1)
        return Steps(*price, *size)

    def index_scale(self) -> int:
        """Decimals of mark and index prices."""
        return self.index.scale(INDEX_DECIMALS_MIN)


class Reader:
    """Reads the drafts of one instrument exactly."""

    def __init__(self, key: str, instrument: dict[str, Any]) -> None:
        self.key = key
        self._price = _steps_reader(instrument["price_scale"], instrument["tick_size"])
        self._size = _steps_reader(instrument["size_scale"], instrument["lot_size"])
        readers: dict[Amount, Callable[[str], int]] = {
            Amount.PRICE: self._price,
            Amount.SIZE: self._size,
            Amount.INDEX: partial(to_int, scale=instrument["index_scale"]),
            Amount.RATE: partial(to_int, scale=RATE_SCALE),
        }
        self._fields = {
            kind: tuple((name, readers[amount]) for name, amount in fields) for kind, fields in TEXT_FIELDS.items()
        }

    def event(self, draft: Draft, ts_recv: int) -> Event:
        """The record of a draft, through the gate. The draft's body becomes the event's."""
        body = draft.body
        if draft.kind in (Kind.SNAPSHOT, Kind.DELTA):
            body["bids"] = self._levels(body["bids"])
            body["asks"] = self._levels(body["asks"])
        for name, read in self._fields[draft.kind]:
            text = body[name]
            if text is not None:
                if not isinstance(text, str):
                    raise RecordRefused("number-not-text")
                body[name] = read(text)
        event = Event(self.key, draft.ts_event, ts_recv, draft.kind, body)
        check(event)
        return event

    def _levels(self, levels: list[list[str]]) -> list[dict[str, int]]:
        price, size = self._price, self._size
        return [{"price": price(level[0]), "size": size(level[1])} for level in levels]


def _steps_reader(scale: int, step: int) -> Callable[[str], int]:
    """Texts repeat far more often than they differ, so their integers are kept."""

    @lru_cache(maxsize=_TEXTS_CACHED)
    def read(text: str) -> int:
        if text.startswith("-"):
            # Also minus zero, which would read as the size that deletes a level.
            raise RecordRefused("negative-number")
        return to_steps(text, scale, step)

    return read
