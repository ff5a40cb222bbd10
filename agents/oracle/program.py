"""The columns of a feature set as plain functions, and what each of them remembers.

Input: an instrument at Tick T.
State: per instrument and column the values a z-score or an outlier bound looks back on, and the last one emitted.
Output: the values in the set's order, None for null, and the quality flags.
Errors: UsageError for a name that is no feature.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from math import isfinite

from agents.oracle import market, told
from agents.oracle.formulas import moments
from agents.oracle.market import ERROR, GAP, ONE_SIDED, WARMUP
from agents.oracle.symbol import Symbol
from schemas.errors import UsageError
from schemas.feature_sets import PLAIN, FeatureSet, Policy
from schemas.limits import DEPTH_MAX, REMEMBERED_MAX, WINDOW_MAX_NS
from schemas.units import BASE_TICK_NS, NS_PER_S, duration_ns, duration_text
from schemas.vectors import Quality

Function = Callable[[Symbol, int], float | None]

BOOK_STALE_NS = 5 * NS_PER_S
CROSSED, STALE, SKEW = int(Quality.BOOK_CROSSED), int(Quality.BOOK_STALE), int(Quality.CLOCK_SKEW)
CLIPPED = int(Quality.OUTLIER_CLIPPED)

_PLAIN: dict[str, Function] = {each.__name__: each for each in (*market.PLAIN, *told.PLAIN)}
_BY_WINDOW: dict[str, Function] = {each.__name__: each for each in (*market.BY_WINDOW, *told.BY_WINDOW)}
_BY_DEPTH: dict[str, Function] = {each.__name__: each for each in market.BY_DEPTH}
_ZSCORE = re.compile(r"zscore_(.+)_(\d{1,6})")


class Column:
    """One column: a function and its argument, or the z-score of another column; and its policy."""

    __slots__ = ("argument", "function", "is_emitted", "length", "place", "policy", "source")

    def __init__(self, place: int, policy: Policy) -> None:
        self.place = place
        self.policy: Policy | None = None if policy == PLAIN else policy
        self.is_emitted = False
        """False for one that only a z-score reads."""
        self.function: Function = market.mid_price
        self.argument = 0
        self.source = -1
        """Place of the column this is a z-score of, -1 if it is none."""
        self.length = 0


class Memory:
    """What one column of one instrument remembers."""

    __slots__ = ("before", "emitted", "emitted_tick", "scored")

    def __init__(self, column: Column) -> None:
        self.scored: deque[float] = deque(maxlen=column.length)
        self.before: deque[float] = deque(maxlen=column.policy.clip_count if column.policy else 0)
        self.emitted, self.emitted_tick = 0.0, 0

    def forget(self) -> None:
        """As before the first vector."""
        self.scored.clear()
        self.before.clear()
        self.emitted_tick = 0


class Program:
    """What is computed at a Tick, column by column."""

    def __init__(self, feature_set: FeatureSet) -> None:
        """Errors: UsageError."""
        self.columns: list[Column] = []
        self.windows: list[int] = []
        self.depth = 1
        self._policies = feature_set.policies
        self._places: dict[str, int] = {}
        self.outputs = [self._add(name) for name in feature_set.features]
        """Place among the columns of each of the set's features."""
        for place in self.outputs:
            self.columns[place].is_emitted = True

    def _add(self, name: str) -> int:
        """Place of a column, behind the one it reads."""
        if name in self._places:
            return self._places[name]
        stem, _, ending = name.rpartition("_")
        score = _ZSCORE.fullmatch(name)
        policy = self._policies.get(name, PLAIN)
        if name in _PLAIN:
            column = Column(len(self.columns), policy)
            column.function = _PLAIN[name]
        elif stem in _BY_WINDOW and (window := _window(ending)):
            column = Column(len(self.columns), policy)
            column.function, column.argument = _BY_WINDOW[stem], window
            self.windows = sorted({*self.windows, window})
        elif stem in _BY_DEPTH and (depth := _depth(ending)):
            column = Column(len(self.columns), policy)
            column.function, column.argument = _BY_DEPTH[stem], depth
            self.depth = max(self.depth, depth)
        elif score is not None and 2 <= int(score[2]) <= REMEMBERED_MAX:
            source = self._add(score[1])
            column = Column(len(self.columns), policy)
            column.source, column.length = source, int(score[2])
        else:
            raise UsageError(
                f"{name} is no feature the oracle knows", expected="a feature of the catalogue", was=name,
                action="correct the name",
            )  # fmt: skip
        self._places[name] = column.place
        self.columns.append(column)
        return column.place

    def memory(self) -> list[Memory]:
        """Of an instrument nothing has been emitted of."""
        return [Memory(column) for column in self.columns]

    def vector(self, symbol: Symbol) -> tuple[list[float | None], int] | None:
        """Values and quality flags; None if one is null that must be there."""
        symbol.look(self.windows, self.depth)
        quality = whole_flags(symbol)
        values: list[float | None] = []
        notes: list[int] = []
        is_skipped = False
        for column in self.columns:
            symbol.notes = 0
            if column.source < 0:
                try:
                    value = column.function(symbol, column.argument)
                except ZeroDivisionError:
                    value = float("nan")
            else:
                value = zscore(symbol, column, values[column.source], notes[column.source])
            if value is not None and not isfinite(value):
                value = market.unknown(symbol, ERROR)
            if column.policy is not None:
                value = apply_policy(symbol, column, column.policy, value)
                is_skipped |= value is None and column.is_emitted and column.policy.skips_row
            values.append(value)
            notes.append(symbol.notes)
            if column.is_emitted:
                quality |= symbol.notes
        return None if is_skipped else ([values[place] for place in self.outputs], quality)


def whole_flags(symbol: Symbol) -> int:
    """Flags that say something about the whole vector, whatever its columns are."""
    book = symbol.book
    flags = SKEW if symbol.feed_delay is not None and symbol.feed_delay < 0 else 0
    if not book.is_whole:
        return flags | GAP
    if symbol.tick - book.ts > BOOK_STALE_NS:
        flags |= STALE
    if not symbol.mid2:
        return flags | ONE_SIDED
    return flags | CROSSED if book.bids.ranks[-1] > -book.asks.ranks[-1] else flags


def zscore(symbol: Symbol, column: Column, value: float | None, notes: int) -> float | None:
    """(value - mean) / standard deviation (ddof 1) over the last emitted values of its source, this one included."""
    symbol.notes = notes
    if value is None:
        return None
    scored: deque[float] = symbol.memory[column.place].scored
    scored.append(value)
    if len(scored) < column.length:
        return market.unknown(symbol, WARMUP)
    mean, deviation = moments(scored)
    return (value - mean) / deviation if deviation else market.unknown(symbol, ERROR)


def apply_policy(symbol: Symbol, column: Column, policy: Policy, value: float | None) -> float | None:
    """Bound an outlier, then fill a gap. The bounds come from raw values, what fills from emitted ones."""
    memory: Memory = symbol.memory[column.place]
    if policy.clip_count and value is not None:
        raw = value
        if len(memory.before) == policy.clip_count:
            mean, deviation = moments(memory.before)
            reach = policy.clip_sigmas * deviation
            value = min(max(raw, mean - reach), mean + reach)
            if value != raw:
                symbol.notes |= CLIPPED
        memory.before.append(raw)
    if policy.fill_ns:
        if value is not None:
            memory.emitted, memory.emitted_tick = value, symbol.tick
        elif memory.emitted_tick and symbol.tick - memory.emitted_tick <= policy.fill_ns:
            value = memory.emitted
    return value


def _window(text: str) -> int:
    """Steps of 100 ms of a window as it is written, 0 if it is none."""
    ns = duration_ns(text)
    if ns is None or ns > WINDOW_MAX_NS or ns % BASE_TICK_NS or duration_text(ns) != text:
        return 0
    return ns // BASE_TICK_NS


def _depth(text: str) -> int:
    """Levels, 0 if it is no depth."""
    depth = int(text) if text.isascii() and text.isdigit() else 0
    return depth if depth <= DEPTH_MAX and text == str(depth) else 0
