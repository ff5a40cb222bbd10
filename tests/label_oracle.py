"""Every label once more, from its definition, in plain Python: one row at a time, nothing shared with `replay.labels`.

Input: prices by time, as dictionaries in which a time without a known price is left out.
Output: the value (None: no label) and its interval [t0, t1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import floor, sqrt

from agents.oracle.formulas import log_ratio
from schemas.labels import LabelSpec

Row = tuple[float | None, int, int]


@dataclass(frozen=True)
class Tape:
    """What was known when: mids, and of the trades of the step before each time their vwap and signed volume."""

    mid: Mapping[int, float]
    vwap: Mapping[int, float]
    signed_volume: Mapping[int, float]
    step: int

    def prices(self, first: int, last: int) -> list[float] | None:
        """Prices at every time of the grid from `first` to `last`, None if one is not known."""
        found = [self.mid.get(time) for time in range(first, last + 1, self.step)]
        return None if None in found else [price for price in found if price is not None]


def volatility(prices: list[float] | None) -> float | None:
    if prices is None:
        return None
    steps = (log_ratio(now, before) for before, now in pairwise(prices))
    return sqrt(float(sum(floor(step * step * 2.0**80) for step in steps)) / 2.0**80)


def label(spec: LabelSpec, tape: Tape, at: int, delay: int) -> Row:
    entry, leave = at + delay, at + delay + spec.horizon_ns
    prices = tape.prices(entry, leave)
    if prices is None:
        return None, entry, leave
    before = volatility(tape.prices(entry - spec.horizon_ns, entry))
    first, last = prices[0], prices[-1]
    match spec.family:
        case "forward_return":
            return last / first - 1.0, entry, leave
        case "forward_log_return":
            return log_ratio(last, first), entry, leave
        case "direction":
            moved = last / first - 1.0
            threshold = spec.parameter("threshold")
            return 1.0 if moved > threshold else -1.0 if moved < -threshold else 0.0, entry, leave
        case "risk_adjusted_return":
            return log_ratio(last, first) / before if before else None, entry, leave
        case "forward_volatility":
            return volatility(prices), entry, leave
        case "mark_out":
            return mark_out(tape, at, last), entry, leave
        case _:
            return triple_barrier(spec, tape, prices, before, entry)


def mark_out(tape: Tape, at: int, last: float) -> float | None:
    paid, volume = tape.vwap.get(at), tape.signed_volume.get(at)
    if not paid or not volume:
        return None
    return (last - paid) / paid if volume > 0 else -((last - paid) / paid)


def triple_barrier(spec: LabelSpec, tape: Tape, prices: list[float], before: float | None, entry: int) -> Row:
    leave = entry + spec.horizon_ns
    above, below = spec.parameter("upper"), spec.parameter("lower")
    if spec.parameter("sigmas") > 0:
        if not before:
            return None, entry, leave
        above = below = spec.parameter("sigmas") * before
    for place, price in enumerate(prices[1:], 1):
        if price >= prices[0] * (1.0 + above):
            return 1.0, entry, entry + place * tape.step
        if price <= prices[0] * (1.0 - below):
            return -1.0, entry, entry + place * tape.step
    return 0.0, entry, leave
