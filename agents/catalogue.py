"""The catalogue: every feature is one decorated function; its docstring is its definition.

Output: FAMILIES by name, each with a function of (row, argument) that `value` calls by number; `find` reads a column's
name (`vwap_15s`, `bid_depth_10`) back into family and argument.
Units: an argument is a window in steps of 100 ms, a depth in levels, or nothing.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from schemas import limits
from schemas.columns import Int64
from schemas.units import BASE_TICK_NS, duration_ns, duration_text
from tables.compiled import inner

BOOK = "book"
TRADES = "trades"
TICKER = "Ticker"
FUNDING = "Funding"
POSITION = "Position"
CLOCK = "Tick"
EVERY = "every record"


class By(Enum):
    """What the last part of a family's column names is."""

    NOTHING = ""
    WINDOW = "window"
    DEPTH = "depth"


@dataclass(frozen=True, slots=True)
class Family:
    """Features that differ in their argument only. `formula` is the definition in one line, `source` the literature."""

    name: str
    group: str
    unit: str
    formula: str
    inputs: tuple[str, ...]
    source: str
    by: By
    number: int


class Feature(NamedTuple):
    """One column: a family and its argument (steps of 100 ms, or levels; 0 where there is none)."""

    family: Family
    argument: int

    @property
    def look_back_ns(self) -> int:
        """How far before T an event can still matter; 0: the state at T."""
        return self.argument * BASE_TICK_NS if self.family.by is By.WINDOW else 0


FAMILIES: dict[str, Family] = {}
_LINES = ("bid_slope", "ask_slope")
"""One level has no slope."""
_GROUP = 7
_FUNCTIONS: list[Any] = []

Function = Callable[[Int64, int], float]


def feature(unit: str, inputs: tuple[str, ...], source: str, by: By = By.NOTHING) -> Callable[[Function], Function]:
    """Register a function of (row, argument) under its own name; its docstring is the formula."""

    def register(function: Function) -> Function:
        formula = " ".join((function.__doc__ or "").split()).rstrip(".")
        group = function.__module__.rsplit(".", 1)[-1]
        FAMILIES[function.__name__] = Family(
            function.__name__, group, unit, formula, inputs, source, by, len(_FUNCTIONS)
        )  # fmt: skip
        compiled = inner(function)
        _FUNCTIONS.append(compiled)
        return compiled

    return register


def dispatcher() -> Callable[[int, Int64, int], float]:
    """The compiled function that calls a family by its number.

    A chain of comparisons becomes a jump table; numba has no other way to call one of many. Two levels of a few calls
    each, because a function clears room for the results of all its calls whenever it is entered.
    """
    groups = [_FUNCTIONS[i : i + _GROUP] for i in range(0, len(_FUNCTIONS), _GROUP)]
    inside = [_switch("number % size", "row, argument", group) for group in groups]
    switch: Callable[[int, Int64, int], float] = _switch("number // size", "number, row, argument", inside)
    return switch


def _switch(choice: str, arguments: str, functions: list[Any]) -> Any:
    lines = ["def value(number, row, argument):", f"    choice = {choice}"]
    lines += [f"    if choice == {i}: return function_{i}({arguments})" for i in range(len(functions))]
    scope: dict[str, Any] = {f"function_{i}": function for i, function in enumerate(functions)}
    scope |= {"nan": math.nan, "size": _GROUP}
    exec("\n".join([*lines, "    return nan"]), scope)
    return inner(scope["value"])


def find(name: str) -> Feature | None:
    """The feature of a column's name, None if it is none of the catalogue."""
    plain = FAMILIES.get(name)
    if plain is not None and plain.by is By.NOTHING:
        return Feature(plain, 0)
    stem, _, argument = name.rpartition("_")
    family = FAMILIES.get(stem)
    if family is None or family.by is By.NOTHING:
        return None
    if family.by is By.WINDOW:
        window_ns = duration_ns(argument)
        is_one = window_ns is not None and BASE_TICK_NS <= window_ns <= limits.WINDOW_MAX_NS
        if window_ns is None or not is_one or window_ns % BASE_TICK_NS or duration_text(window_ns) != argument:
            return None
        return Feature(family, window_ns // BASE_TICK_NS)
    levels = int(argument) if argument.isascii() and argument.isdigit() else 0
    least = 2 if stem in _LINES else 1
    return Feature(family, levels) if least <= levels <= limits.DEPTH_MAX and argument == str(levels) else None


def names() -> list[str]:
    """One column name per family, as people are told it: `vwap_W`, `bid_depth_N`."""
    ending = {By.NOTHING: "", By.WINDOW: "_W", By.DEPTH: "_N"}
    return [family.name + ending[family.by] for family in FAMILIES.values()]


def near(name: str) -> list[str]:
    """Names of the catalogue that look like this one."""
    return difflib.get_close_matches(name, names(), 3, 0.5)
