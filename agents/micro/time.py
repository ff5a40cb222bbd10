"""Where T lies in the day and in the week, UTC, as points on a circle.

Units: 1.
"""

from __future__ import annotations

from agents.catalogue import CLOCK, feature
from agents.trigonometry import cosine_of_turn, sine_of_turn
from schemas.columns import Int64
from schemas.units import NS_PER_S
from tables import layout as at
from tables.compiled import inner

_CIRCLE = "point on a circle"
_DAY_NS = 86_400 * NS_PER_S
_MONDAY = 3
"""Days from the Monday before 1970-01-01, a Thursday."""


@inner
def weekday(row: Int64) -> int:
    """0 Monday to 6 Sunday."""
    day: int = (row[at.TICK] // _DAY_NS + _MONDAY) % 7
    return day


@feature("1", (CLOCK,), _CIRCLE)
def time_of_day_sin(row: Int64, _: int) -> float:
    """sin(2 pi * time since midnight / day)."""
    return sine_of_turn(row[at.TICK] % _DAY_NS, _DAY_NS)


@feature("1", (CLOCK,), _CIRCLE)
def time_of_day_cos(row: Int64, _: int) -> float:
    """cos(2 pi * time since midnight / day)."""
    return cosine_of_turn(row[at.TICK] % _DAY_NS, _DAY_NS)


@feature("1", (CLOCK,), _CIRCLE)
def day_of_week_sin(row: Int64, _: int) -> float:
    """sin(2 pi * day / 7), day 0 Monday to 6 Sunday."""
    return sine_of_turn(weekday(row), 7)


@feature("1", (CLOCK,), _CIRCLE)
def day_of_week_cos(row: Int64, _: int) -> float:
    """cos(2 pi * day / 7), day 0 Monday to 6 Sunday."""
    return cosine_of_turn(weekday(row), 7)
