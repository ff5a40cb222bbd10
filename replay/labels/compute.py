"""Labels of one instrument: what will have happened behind each prediction time, and over which interval.

Input: a label by name, a grid of prices, and prediction times.
Output: `Labelled`, a value and the interval [t0, t1] per prediction time; how far behind and before it prices must go.
Units: times in ns UTC, durations in ns; each family's unit is in docs/labels.md.
Errors: UsageError for labels that no grid of this step can give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from replay.labels import passes
from replay.labels.families import FAMILIES, SIGMAS, Ahead, Ended
from replay.labels.prices import Floats, PriceGrid
from schemas.columns import Int64
from schemas.errors import UsageError
from schemas.labels import LabelSpec
from schemas.limits import TS_MAX_NS
from schemas.units import BASE_TICK_NS, NS_PER_MS, duration_text


@dataclass(frozen=True, slots=True)
class Labelled:
    """One label of m rows: `value` [m] is NaN where there is none. Row i is entered at t0[i] and known at t1[i]."""

    value: Floats
    t0: Int64
    t1: Int64


def label(spec: LabelSpec, grid: PriceGrid, at: Int64, *, step_ns: int, entry_delay_ns: int) -> Labelled:
    """The label at each prediction time T of `at` [m].

    Entry e = T + entry delay, exit x = e + horizon, P the mid price. There is no label where a time of the grid in
    [e, x] is missing or its mid unknown, also behind a barrier that was touched by then: else, of the rows before a
    hole, only those that moved would have one. The grid must reach `reach_ns` behind T and `look_back_ns` before it;
    what lies farther changes no bit.
    """
    t0 = at + entry_delay_ns
    t1 = t0 + spec.horizon_ns
    value = np.full(len(at), np.nan)
    horizon = spec.horizon_ns // step_ns
    run = passes.runs(grid.time, grid.mid, step_ns)
    entry = np.searchsorted(grid.time, t0)
    rows = np.flatnonzero(entry + horizon < len(grid.time))
    rows = rows[(grid.time[entry[rows]] == t0[rows]) & (run[entry[rows] + horizon] >= horizon)]
    if len(rows):
        made = FAMILIES[spec.family].function(Ahead(grid, run, at[rows], entry[rows], horizon), spec)
        if isinstance(made, Ended):
            t1[rows] = grid.time[made.end]
            made = made.value
        value[rows] = np.where(np.isfinite(made), made, np.nan)
    return Labelled(value, t0, t1)


def reach_ns(spec: LabelSpec, entry_delay_ns: int) -> int:
    """How far behind T the grid must go."""
    return entry_delay_ns + spec.horizon_ns


def look_back_ns(spec: LabelSpec) -> int:
    """How far before T the grid must go, whatever the entry delay."""
    past = spec.family == "risk_adjusted_return" or dict(spec.parameters).get(SIGMAS, 0) > 0
    return spec.horizon_ns if past else 0


def check(specs: Sequence[LabelSpec], cadence_ms: int, step_ns: int, entry_delay_ns: int) -> None:
    """Refuse what a grid of this step cannot give to vectors of this cadence. Errors: UsageError."""
    cadence = duration_text(cadence_ms * NS_PER_MS)
    if step_ns <= 0 or step_ns % BASE_TICK_NS or cadence_ms * NS_PER_MS % step_ns:
        raise UsageError(
            "prices for labels cannot be this step apart", expected=f"a multiple of 100ms that divides {cadence}",
            was=_text(step_ns), action="choose a step of which the cadence of the feature set is a multiple",
        )  # fmt: skip
    step = duration_text(step_ns)
    if not 0 <= entry_delay_ns < TS_MAX_NS or entry_delay_ns % step_ns:
        raise UsageError(
            "no price is this long behind a vector", expected=f"an entry delay of 0 or a multiple of {step}",
            was=_text(entry_delay_ns), action="choose an entry delay on the grid of prices, or a finer step",
        )  # fmt: skip
    for spec in specs:
        if spec.horizon_ns % step_ns or spec.horizon_ns <= 0 or spec.horizon_ns + entry_delay_ns >= TS_MAX_NS:
            raise UsageError(
                f"the horizon of {spec.name} does not lie on the grid of prices", expected=f"a multiple of {step}",
                was=_text(spec.horizon_ns), action="choose another horizon, or a finer step",
            )  # fmt: skip
        _check_widths(spec)


def _check_widths(spec: LabelSpec) -> None:
    told = dict(spec.parameters)
    if SIGMAS in told and told[SIGMAS] == 0 and not all(told[name] > 0 for name in ("upper", "lower")):
        raise UsageError(
            f"a barrier of {spec.name} lies at the entry price", expected="upper and lower above 0, or sigmas above 0",
            was=", ".join(f"{name}={value}" for name, value in told.items()), action="give each barrier a width",
        )  # fmt: skip


def _text(ns: int) -> str:
    return f"{ns} ns" if ns % NS_PER_MS else duration_text(ns)
