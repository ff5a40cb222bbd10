"""A generated tape of many symbols, heavy on the book, straight into columns: endless, seeded, the same everywhere.

Input: names of symbols, a seed, events per second of each symbol.
State: per symbol the sizes of both sides around the best, sequence, and one random state; one clock for all.
Output: `Columns` of one partition. First every symbol's Instrument, Funding, Position and Snapshot; then, per symbol,
    Deltas of about 6 levels (depth exponential, 8 ticks), a Trade for two Deltas, now and then a Ticker; a Tick each
    100 ms. About 300 levels a side; never crossed, the chain never broken.
Units: ticks and lots; times in ns UTC.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.columns import ABSENT, Columns, Int64, starts_of
from schemas.events import Kind
from schemas.topics import CLOCK_KEY
from schemas.units import BASE_TICK_NS, NS_PER_MS, NS_PER_S

BEGIN_NS = 1_760_000_000 * NS_PER_S
SPAN = 330
"""Ticks from the best within which a side has levels; some of them are empty."""
_WIDTH = 1024
"""A side's sizes by price modulo this: more than SPAN, so that no two levels meet."""
_PRICE = 100_000
_DRAWS = 4096
_WORDS_MAX = 64
"""Words a record's body has at most: two sides of at most 14 levels and the head of a Delta."""

_SNAPSHOT, _DELTA, _TRADE = int(Kind.SNAPSHOT), int(Kind.DELTA), int(Kind.TRADE)
_TICKER, _TICK = int(Kind.TICKER), int(Kind.TICK)
_INSTRUMENT, _FUNDING, _POSITION = int(Kind.INSTRUMENT), int(Kind.FUNDING), int(Kind.POSITION)

Int32 = NDArray[np.int32]
UInt64 = NDArray[np.uint64]


@njit(cache=True)
def _draw(state: UInt64, bound: int) -> int:
    """A number below `bound`. Source: Marsaglia (2003), Xorshift RNGs."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return int(x >> np.uint64(12)) % bound


@njit(cache=True)
def _put(levels: Int32, changed: Int64, count: Int64, side: int, price: int, size: int) -> None:
    """Set a level and note it among the changed ones of its side, best first, each price once."""
    levels[side, price % _WIDTH] = size
    sign = -1 if side == 0 else 1
    at = count[side]
    while at > 0 and sign * changed[side, at - 1, 0] > sign * price:
        at -= 1
    if at > 0 and changed[side, at - 1, 0] == price:
        changed[side, at - 1, 1] = size
        return
    for i in range(count[side], at, -1):
        changed[side, i] = changed[side, i - 1]
    changed[side, at, 0], changed[side, at, 1] = price, size
    count[side] += 1


@njit(cache=True)
def _move(levels: Int32, best: Int64, changed: Int64, count: Int64, side: int, size: int, far: int) -> None:
    """The best of the other side goes if the spread is one tick, and `side` gets a better best."""
    other, step = 1 - side, 1 if side == 0 else -1
    if abs(best[1] - best[0]) == 1:
        _put(levels, changed, count, other, best[other], 0)
        while levels[other, best[other] % _WIDTH] == 0:
            best[other] += step
        end = best[other] + step * (SPAN - 1)
        if levels[other, end % _WIDTH] == 0:
            _put(levels, changed, count, other, end, far)
    best[side] += step
    _put(levels, changed, count, side, best[side], size)
    beyond = best[side] - step * SPAN
    if levels[side, beyond % _WIDTH] != 0:
        _put(levels, changed, count, side, beyond, 0)


@njit(cache=True)
def _delta(
    levels: Int32, best: Int64, state: UInt64, depths: Int64, sizes: Int64, changed: Int64, count: Int64
) -> None:
    """Change about 6 levels of a symbol's book."""
    count[:] = 0
    if _draw(state, 100) < 12:
        side = _draw(state, 2)
        _move(levels, best, changed, count, side, sizes[_draw(state, _DRAWS)], sizes[_draw(state, _DRAWS)])
    for _ in range(1 + _draw(state, 12)):
        side, depth = _draw(state, 2), depths[_draw(state, _DRAWS)]
        price = best[side] + (depth if side == 1 else -depth)
        if depth > 0 and levels[side, price % _WIDTH] != 0 and _draw(state, 100) < 25:
            _put(levels, changed, count, side, price, 0)
        else:
            _put(levels, changed, count, side, price, sizes[_draw(state, _DRAWS)])


@njit(cache=True)
def _write_levels(body: Int64, at: int, changed: Int64, count: int) -> int:
    body[at] = count
    for i in range(count):
        body[at + 1 + 2 * i], body[at + 2 + 2 * i] = changed[i, 0], changed[i, 1]
    return at + 1 + 2 * count


@njit(cache=True)
def _write_trade(body: Int64, at: int, levels: Int32, best: Int64, state: UInt64, trade: int) -> int:
    """A trade that takes a part of the best level: price, size, side (0 buys), id, no block, liquidation, insurance."""
    side = _draw(state, 2)
    price = best[1 - side]
    body[at], body[at + 1] = price, 1 + levels[1 - side, price % _WIDTH] // 8
    body[at + 2], body[at + 3], body[at + 4], body[at + 5], body[at + 6] = side, trade, 0, 0, 0
    return at + 7


@njit(cache=True)
def _fill(
    kind: NDArray[np.uint8], key: Int32, ts_event: Int64, ts_recv: Int64, start: Int64, body: Int64,
    levels: Int32, best: Int64, sequence: Int64, clock: Int64, state: UInt64, depths: Int64, sizes: Int64, step: int,
) -> int:  # fmt: skip
    """Write len(kind) records; returns the number of trades. `clock`: now and the next Tick, ns."""
    changed, count = np.empty((2, 16, 2), np.int64), np.zeros(2, np.int64)
    trades, at = 0, 0
    for row in range(len(kind)):
        start[row] = at
        if clock[0] >= clock[1]:
            kind[row], key[row], ts_event[row], ts_recv[row] = _TICK, 0, clock[1], clock[1]
            body[at] = clock[1]
            clock[1] += BASE_TICK_NS
            at += 1
            continue
        symbol, chance = _draw(state, len(best)), _draw(state, 300)
        key[row], ts_recv[row], ts_event[row] = 1 + symbol, clock[0], clock[0] - (2 + chance % 7) * NS_PER_MS
        clock[0] += 1 + _draw(state, 2 * step)
        if chance < 99:
            kind[row] = _TRADE
            at = _write_trade(body, at, levels[symbol], best[symbol], state, trades)
            trades += 1
        elif chance < 102:
            kind[row] = _TICKER
            mark = 100 * best[symbol, 0] + _draw(state, 100)
            body[at : at + 5] = ABSENT
            body[at + 5], body[at + 6], body[at + 7] = mark, mark + _draw(state, 100), 1_000_000 + _draw(state, 1_000)
            at += 8
        else:
            kind[row] = _DELTA
            _delta(levels[symbol], best[symbol], state, depths, sizes, changed, count)
            last = sequence[symbol] + 1 + chance % 5
            body[at], body[at + 1], body[at + 2] = sequence[symbol] + 1, last, sequence[symbol]
            sequence[symbol] = last
            at = _write_levels(body, at + 3, changed[0], count[0])
            at = _write_levels(body, at, changed[1], count[1])
    start[len(kind)] = at
    return trades


class Stream:
    """The tape; each `take` goes on where the last one ended."""

    def __init__(self, symbols: Sequence[str], seed: int = 1, *, rate: float = 100, partition: int = 0) -> None:
        """`rate`: events per second of each symbol, on average."""
        chance = np.random.default_rng(seed)
        self.keys = [CLOCK_KEY, *symbols]
        self.partition = partition
        self.offset = self._trades = 0
        self._step = int(NS_PER_S / (rate * len(symbols)))
        self._depths = np.minimum(chance.exponential(8.0, _DRAWS), SPAN - 1).astype(np.int64)
        self._sizes = 1 + chance.lognormal(6.0, 1.0, _DRAWS).astype(np.int64)
        self._state = np.array([0x9E3779B97F4A7C15 ^ seed], np.uint64)
        self._best = _PRICE + np.tile(np.array([0, 1], np.int64), (len(symbols), 1))
        self._sequence = np.full(len(symbols), 1_000, np.int64)
        self._clock = np.array([BEGIN_NS, BEGIN_NS + BASE_TICK_NS], np.int64)
        self._levels = np.zeros((len(symbols), 2, _WIDTH), np.int32)
        near = _PRICE + np.arange(SPAN)
        self._levels[:, 0, (near - SPAN + 1) % _WIDTH] = chance.choice(self._sizes, (len(symbols), SPAN))
        self._levels[:, 1, (near + 1) % _WIDTH] = chance.choice(self._sizes, (len(symbols), SPAN))

    @property
    def time(self) -> int:
        """Receive time of the next event, ns."""
        return int(self._clock[0])

    def pass_to(self, time: int) -> None:
        """Nothing happens until then, a multiple of 100 ms; the next Tick is 100 ms later."""
        self._clock[:] = time, time + BASE_TICK_NS

    def begin(self) -> Columns:
        """Every symbol's Instrument, Funding, Position and Snapshot."""
        kinds = (_INSTRUMENT, _FUNDING, _POSITION, _SNAPSHOT)
        bodies: list[Int64] = []
        strings = ["GENERATED"]
        for symbol, name in enumerate(self.keys[1:]):
            strings.append(name.partition(":")[2])
            # Venue, symbol, price in 0.01, size in 0.001, index in 0.0001, LINEAR, perpetual, 1, funding each 8 h.
            bodies.append(np.array([0, 1 + symbol, 2, 1, 3, 1, 4, 1, 1, 1, 8 * 3_600]))
            bodies.append(np.array([100_000_000, self.time + 3_600 * NS_PER_S]))
            bodies.append(np.array([250 - 500 * (symbol % 2), 100 * _PRICE, ABSENT, 0]))
            bodies.append(np.concatenate([[self._sequence[symbol]], self._side(symbol, 0), self._side(symbol, 1)]))
        rows = len(bodies)
        kind = np.tile(np.array(kinds, np.uint8), rows // len(kinds))
        key = np.repeat(np.arange(1, len(self.keys), dtype=np.int32), len(kinds))
        now = np.full(rows, self.time)
        start = starts_of(np.array([len(body) for body in bodies]))
        return self._columns(strings, kind, key, now, now.copy(), start, np.concatenate(bodies))

    def _side(self, symbol: int, side: int) -> Int64:
        """A side as in a record's body: count, then price and size of each level, best first."""
        price = self._best[symbol, side] + (1 if side else -1) * np.arange(SPAN)
        size = self._levels[symbol, side, price % _WIDTH]
        return np.concatenate([[SPAN], np.column_stack([price, size]).ravel()])

    def take(self, rows: int) -> Columns:
        """The next `rows` records."""
        kind, key = np.empty(rows, np.uint8), np.empty(rows, np.int32)
        ts_event, ts_recv = np.empty(rows, np.int64), np.empty(rows, np.int64)
        start, body = np.empty(rows + 1, np.int64), np.empty(rows * _WORDS_MAX, np.int64)
        trades = _fill(
            kind, key, ts_event, ts_recv, start, body, self._levels, self._best, self._sequence, self._clock,
            self._state, self._depths, self._sizes, self._step,
        )  # fmt: skip
        strings = [str(trade) for trade in range(self._trades, self._trades + trades)]
        self._trades += trades
        return self._columns(strings, kind, key, ts_event, ts_recv, start, body[: start[-1]].copy())

    def _columns(
        self, strings: list[str], kind: NDArray[np.uint8], key: Int32, ts_event: Int64, ts_recv: Int64, start: Int64,
        body: Int64,
    ) -> Columns:  # fmt: skip
        offset = np.arange(self.offset, self.offset + len(kind), dtype=np.int64)
        self.offset += len(kind)
        return Columns(self.partition, self.keys, strings, offset, kind, key, ts_event, ts_recv, start, body)


def names(count: int) -> list[str]:
    """Names of generated symbols."""
    return [f"GENERATED:SYM{i:04d}" for i in range(count)]
