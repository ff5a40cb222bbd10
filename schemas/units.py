"""Units of time and exact decimals.

Units: times are int64 nanoseconds UTC; a decimal text and a scale give an integer of 10^-scale.
Errors: RecordRefused for what is no number, does not fit its unit or is not exact.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from schemas import limits
from schemas.errors import RecordRefused

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
BASE_TICK_NS = 100 * NS_PER_MS

NS_PER_UNIT = {"ns": 1, "us": NS_PER_US, "ms": NS_PER_MS, "s": NS_PER_S}
_OF_DURATION = {"ms": NS_PER_MS, "s": NS_PER_S, "m": 60 * NS_PER_S, "h": 3600 * NS_PER_S, "d": 86_400 * NS_PER_S}
RATE_SCALE = 12

_DURATION = re.compile(r"([1-9][0-9]{0,7})(ms|s|m|h|d)", re.ASCII)
_DECIMAL = re.compile(rf"(-?)([0-9]{{1,19}})(?:\.([0-9]{{1,{limits.DECIMALS_MAX}}}))?", re.ASCII)


def to_ns(value: int, units: Sequence[str]) -> int:
    """Nanoseconds of `value`, in the one unit of `units` that puts it between the years 2000 and 2100.

    The ranges of ns, us, ms and s do not overlap, so at most one unit fits.
    """
    for unit in units:
        ns = value * NS_PER_UNIT[unit]
        if limits.TS_MIN_NS <= ns < limits.TS_MAX_NS:
            return ns
    raise RecordRefused("implausible-time")


def duration_ns(text: str) -> int | None:
    """Nanoseconds of `500ms`, `15s`, `10m`, `1h` or `1d`, None for any other text."""
    match = _DURATION.fullmatch(text)
    return None if match is None else int(match[1]) * _OF_DURATION[match[2]]


def duration_text(ns: int) -> str:
    """The shortest text of a duration of whole milliseconds."""
    return f"{ns // NS_PER_MS}ms" if ns % NS_PER_S else f"{ns // NS_PER_S}s"


def decimals(text: str) -> int:
    """Decimals that a number needs, trailing zeros left out: "1.500" needs 1."""
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise RecordRefused("not-a-number")
    return len((match[3] or "").rstrip("0"))


def to_int(text: str, scale: int) -> int:
    """The exact integer of a decimal text in units of 10^-scale."""
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise RecordRefused("not-a-number")
    fraction = (match[3] or "").rstrip("0")
    if len(fraction) > scale:
        raise RecordRefused("finer-than-scale")
    number: int = int(match[2] + fraction) * 10 ** (scale - len(fraction))
    return -number if match[1] else number


def to_steps(text: str, scale: int, step: int) -> int:
    """The exact number of steps (ticks, lots) of `step` x 10^-scale in a decimal text."""
    steps, rest = divmod(to_int(text, scale), step)
    if rest:
        raise RecordRefused("off-step")
    return steps
