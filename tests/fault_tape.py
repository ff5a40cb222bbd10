"""An endless seeded tape for runs with faults: several instruments over a few partitions, with gaps and poison in it.

Output: (key, value) messages of each partition, a market second at a time, the clock's Ticks among them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from live_worker import Raw
from tapes import START, Market, tick

from schemas.codec import TapeCodec
from schemas.events import Event, Kind
from schemas.topics import CLOCK_KEY, partition_of
from schemas.units import BASE_TICK_NS, NS_PER_MS, NS_PER_S

INSTRUMENTS: Final = tuple(f"BINANCE_USDM:S{i}USDT" for i in range(12))
GAPS: Final = 0.004
"""Share of Deltas that are lost before the tape; a Snapshot follows soon."""
REPEATS: Final = 0.01
POISON: Final = 0.01
FIFTY_MILLION: Final = b"\x80\xc2\xd7\x2f"
"""As Avro writes it."""


class FaultTape:
    """A market in motion. Everything that was laid is in `laid`, in the order of its partition."""

    def __init__(self, codec: TapeCodec, partitions: int, seed: int, events_per_s: int = 60) -> None:
        """`events_per_s` counts market seconds, all instruments together."""
        self.laid: list[Raw] = [[] for _ in range(partitions)]
        self._codec, self._chance, self._events_per_s = codec, random.Random(seed), events_per_s
        self._markets = [Market(key, self._chance) for key in INSTRUMENTS]
        self._ends = [0] * partitions
        self._second = 0
        empty: dict[str, Any] = {"sequence_previous": None, "bids": [], "asks": []}
        delta = Event(INSTRUMENTS[0], START, START, Kind.DELTA, {"sequence_first": 1, "sequence_last": 2, **empty})
        self._bomb = codec.encode(delta)[:-2] + FIFTY_MILLION
        """A Delta that ends where its bids claim to be fifty million."""

    def second(self) -> list[Raw]:
        """The next market second."""
        first, chance = START + self._second * NS_PER_S, self._chance
        due: list[tuple[int, Callable[[int], None]]] = [(first + i * BASE_TICK_NS, self._tick) for i in range(10)]
        if not self._second:
            due += [(first + 1, partial(self._open, market)) for market in self._markets]
        for _ in range(self._events_per_s):
            due.append((first + 2 + chance.randrange(NS_PER_S - 2), partial(self._move, chance.choice(self._markets))))
        for market in chance.sample(self._markets, 1):
            due.append((first + 500 * NS_PER_MS, partial(self._heal, market)))
        for at, act in sorted(due, key=lambda item: item[0]):
            act(at)
        self._second += 1
        ends, self._ends = self._ends, [len(messages) for messages in self.laid]
        return [messages[end:] for messages, end in zip(self.laid, ends, strict=True)]

    def _tick(self, at: int) -> None:
        for messages in self.laid:
            messages.append((CLOCK_KEY.encode(), self._codec.encode(tick(at))))

    def _open(self, market: Market, at: int) -> None:
        for event in market.opening(at):
            self._lay(event)

    def _heal(self, market: Market, at: int) -> None:
        """A snapshot, which ends a gap if there is one."""
        self._lay(market.opening(at)[1])

    def _move(self, market: Market, at: int) -> None:
        """The next event of a market: lost, or laid, perhaps twice, perhaps with poison behind it."""
        event, roll = market.next(at), self._chance.random()
        if event.kind == Kind.DELTA and roll < GAPS:
            return
        for _ in range(2 if roll > 1 - REPEATS else 1):
            value = self._lay(event)
        if self._chance.random() < POISON:
            key = self._chance.choice((event.key.encode(), CLOCK_KEY.encode(), b"?", b"\xff\x1b[2J\n", None))
            self._home(event.key).append((key, self._poison(value)))

    def _poison(self, good: bytes) -> bytes | None:
        """What comes of it is the gate's business; the run holds the worker to whatever that says."""
        chance = self._chance
        return chance.choice((
            None, b"", self._bomb, chance.randbytes(chance.randrange(1, 40)), good[: chance.randrange(len(good))],
            good + b"\x00", good[:4] + b"\x63" + good[5:],
        ))  # fmt: skip

    def _home(self, key: str) -> Raw:
        return self.laid[partition_of(key, len(self.laid))]

    def _lay(self, event: Event) -> bytes:
        value = self._codec.encode(event)
        self._home(event.key).append((event.key.encode(), value))
        return value
