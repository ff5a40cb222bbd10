"""What the worker's middle makes of one partition's messages, held against the oracle and counted into a ledger.

Input: messages as they lie on the tape: keys and values, good and bad.
Output: the vectors, every 100 ms, of `micro@1`'s features; why each refused record was refused.
The compiled decoder and kernel are held against fastavro, the gate and the oracle, record by record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from agreement import sizes
from frames import instrument
from ledger import Ledger
from wire_oracle import FIRST, Message, decided_singly

from agents.engine import Engine
from agents.oracle import Oracle
from agents.oracle.book import Book
from schemas.codec import DeadLetter, DeadLetterCodec, TapeCodec
from schemas.columns import from_events
from schemas.events import Event, Kind
from schemas.feature_sets import FeatureSet, load
from schemas.registry import FileRegistry
from schemas.topics import CLOCK_KEY
from schemas.units import BASE_TICK_NS, NS_PER_S
from schemas.vector_codec import VectorCodec
from schemas.vectors import Quality, Vectors

KEY = "X:Y"
START = 1_721_347_200 * NS_PER_S
TENTHS = FeatureSet("micro", 1, 100, load("micro@1").features)
Levels = Sequence[tuple[int, int]]


def at(tenths: float) -> int:
    """So many tenths of a second after START, in ns."""
    return START + round(tenths * BASE_TICK_NS)


def tick(tenths: int) -> Event:
    """The clock."""
    return Event(CLOCK_KEY, at(tenths), at(tenths), Kind.TICK, {"time": at(tenths)})


def ticks(first: int, end: int) -> list[Event]:
    """The clock from one tenth of a second up to before another."""
    return [tick(tenths) for tenths in range(first, end)]


def opening(bids: Levels, asks: Levels, sequence: int = 100, tenths: float = 0.2) -> list[Event]:
    """Two Ticks, and between them the Instrument and the Snapshot."""
    about = instrument(KEY)._replace(ts_recv=at(tenths))
    return [tick(0), about, snapshot(sequence, bids, asks, tenths), tick(1)]


def snapshot(sequence: int, bids: Levels, asks: Levels, tenths: float) -> Event:
    """A Snapshot received then; the venue's clock says the same."""
    body = {"sequence_last": sequence, "bids": _levels(bids), "asks": _levels(asks)}
    return Event(KEY, at(tenths), at(tenths), Kind.SNAPSHOT, body)


def delta(first: int, last: int, previous: int | None, bids: Levels = (), *, tenths: float) -> Event:
    """A Delta received then; `previous` None: of a spot market."""
    body = {"sequence_first": first, "sequence_last": last, "sequence_previous": previous}
    return Event(KEY, at(tenths), at(tenths), Kind.DELTA, {**body, "bids": _levels(bids), "asks": []})


def trade(price: int, size: int, tenths: float, side: str = "BUY") -> Event:
    """A trade received then."""
    flags = dict.fromkeys(("is_block", "is_liquidation", "is_insurance"), False)
    body = {"price": price, "size": size, "side": side, "trade_id": "1", **flags}
    return Event(KEY, at(tenths), at(tenths), Kind.TRADE, body)


def _levels(levels: Levels) -> list[dict[str, int]]:
    return [{"price": price, "size": size} for price, size in levels]


class Judged(NamedTuple):
    """`reasons`: of each refused record, by its place among the messages. `books`: both sides, best first."""

    vectors: Vectors
    reasons: dict[int, str]
    books: dict[str, tuple[list[tuple[int, int]], list[tuple[int, int]]]]

    def at(self, tenths: int, key: str = KEY) -> dict[str, float]:
        """The features of a vector so many tenths of a second after START."""
        return dict(zip(TENTHS.features, self.vectors.values[self._row(tenths, key)].tolist(), strict=True))

    def flags(self, tenths: int, key: str = KEY) -> Quality:
        """Its quality."""
        return Quality(int(self.vectors.quality[self._row(tenths, key)]))

    def _row(self, tenths: int, key: str) -> int:
        names = np.array(self.vectors.instruments())
        (row,) = np.flatnonzero((self.vectors.time == at(tenths)) & (names == key))
        return int(row)


class Judge:
    """Counts everything it is shown into one ledger; one fault each time."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        registry = FileRegistry(folder / "registry.json")
        self.registry, self.codec, self._ledger = registry, TapeCodec(registry), ledger
        self._letters, self._vectors = DeadLetterCodec(registry), VectorCodec(registry, TENTHS)

    def message(self, event: Event) -> Message:
        """A record as it lies on the tape."""
        return event.key.encode(), self.codec.encode(event)

    def messages(self, events: Iterable[Event]) -> list[Message]:
        """Records as they lie on the tape."""
        return [self.message(event) for event in events]

    def judge(self, messages: Sequence[Message], batch: int = 500) -> Judged:
        """Decode and fold in batches, and hold everything against the oracle."""
        engine, oracle, found, letters = Engine([TENTHS], 3), Oracle(TENTHS, 3), [], list[DeadLetter]()
        for first in range(0, len(messages), batch):
            part = messages[first : first + batch]
            offsets = range(FIRST + first, FIRST + first + len(part))
            keys, values = [key for key, _ in part], [value for _, value in part]
            columns, refused = self.codec.decode_batch("tape", 3, offsets, keys, values)
            assert columns.offset.tolist() == list(offsets)
            found.append(engine.apply(columns)[0])
            letters += refused
        vectors = Vectors.concat(found)
        events, expected = decided_singly(self.codec, messages)
        self._count(vectors, oracle.apply(from_events(3, FIRST, events)), len(messages), letters, expected)
        books = {key: engine.arena.book(key) for key in engine.arena.keys}
        told = {key: repr(_sides(each.book)) for key, each in oracle.symbols.items()}
        held = {key: repr(list(book)).encode() for key, book in books.items()}
        self._ledger.count_states(held, {key: text.encode() for key, text in told.items()})
        self._ledger.check()
        return Judged(vectors, {letter.offset - FIRST: letter.reason for letter in letters}, books)

    def _count(
        self, vectors: Vectors, expected: Vectors, received: int, letters: list[DeadLetter], refused: list[DeadLetter]
    ) -> None:
        identities = [
            [(TENTHS.id, key, time) for key, time in zip(each.instruments(), each.time.tolist(), strict=True)]
            for each in (vectors, expected)
        ]
        wire, told = ([value for _, value in self._vectors.encode(each)] for each in (vectors, expected))
        self._ledger.count_vectors(zip(identities[0], wire, strict=True), dict(zip(identities[1], told, strict=True)))
        self._ledger.count_letters(
            (("tape", 3, FIRST + row) for row in range(received)),
            ((("tape", 3, letter.offset), self._letters.encode(letter)) for letter in letters),
            {("tape", 3, letter.offset): self._letters.encode(letter) for letter in refused},
        )
        self._ledger.faults += 1


def _sides(book: Book) -> list[list[tuple[int, int]]]:
    """Both sides, best first; nothing in gap."""
    sides = (book.bids, book.asks) if book.is_known else ()
    return [sorted(sizes(side).items(), reverse=side.sign > 0) for side in sides] or [[], []]
