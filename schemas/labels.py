"""Labels by name: what may be asked of the future. Apart from features, so that no feature set can hold one.

Input: texts such as `forward_return_5s` or `triple_barrier_60s(upper=0.002, lower=0.001)`.
Output: `LabelSpec`.
Units: horizons in ns; parameters are exact decimals, fractions of a price unless the family says otherwise.
Errors: UsageError for a text that declares no label, naming the nearest.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from schemas.errors import UsageError
from schemas.limits import TS_MAX_NS
from schemas.units import duration_ns, duration_text

FAMILIES: Final[dict[str, dict[str, Decimal]]] = {
    "forward_return": {},
    "forward_log_return": {},
    "direction": {"threshold": Decimal("0.001")},
    "risk_adjusted_return": {},
    "triple_barrier": {"upper": Decimal("0.001"), "lower": Decimal("0.001"), "sigmas": Decimal(0)},
    "forward_volatility": {},
    "mark_out": {},
}
"""Every family with its parameters and their defaults; `replay.labels` computes them."""
_LABEL = re.compile(r"([a-z_]+)_([0-9]+(?:ms|s|m|h|d))(?:\((.*)\))?", re.ASCII | re.DOTALL)
_PARAMETER = re.compile(r"\s*([a-z_]+)\s*=\s*([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class LabelSpec:
    """A family, its horizon in ns, and its parameters in the family's order."""

    family: str
    horizon_ns: int
    parameters: tuple[tuple[str, Decimal], ...] = ()

    @property
    def name(self) -> str:
        """The column's name: equal labels have equal names, whichever way they were written."""
        defaults = FAMILIES[self.family]
        told = [f"{name}={value.normalize():f}" for name, value in self.parameters if value != defaults[name]]
        name = f"{self.family}_{duration_text(self.horizon_ns)}"
        return f"{name}({', '.join(told)})" if told else name

    def parameter(self, name: str) -> float:
        """A parameter's value."""
        return float(dict(self.parameters)[name])


def is_label(name: str) -> bool:
    """Whether a name is that of a label, with or without parameters."""
    match = _LABEL.fullmatch(name)
    return match is not None and match[1] in FAMILIES


def parse(text: str) -> LabelSpec:
    """The label a text declares. Errors: UsageError."""
    match = _LABEL.fullmatch(text.strip())
    if match is None or match[1] not in FAMILIES:
        near = difflib.get_close_matches(text.partition("(")[0], [f"{each}_5s" for each in FAMILIES], 3, 0.3)
        raise _refused(text, f"a label with its horizon, for example {', '.join(near or ['forward_return_5s'])}", text)
    horizon_ns = duration_ns(match[2])
    if horizon_ns is None or not 0 < horizon_ns < TS_MAX_NS:
        raise _refused(text, "a horizon above 0, such as 500ms, 5s or 1h", match[2])
    defaults = FAMILIES[match[1]]
    values = dict(defaults)
    given: set[str] = set()
    for part in match[3].split(",") if match[3] is not None and match[3].strip() else []:
        told = _PARAMETER.fullmatch(part)
        if told is None or told[1] not in defaults or told[1] in given:
            expected = f"{', '.join(f'{name}=number' for name in defaults) or 'no parameter'}, each once"
            raise _refused(text, expected, part.strip())
        given.add(told[1])
        try:
            values[told[1]] = Decimal(told[2])
        except InvalidOperation:
            raise _refused(text, "a decimal number", told[2]) from None
    return LabelSpec(match[1], horizon_ns, tuple(values.items()))


def parse_all(texts: list[str] | tuple[str, ...]) -> tuple[LabelSpec, ...]:
    """The labels of several texts, at least one, each once, in their order. Errors: UsageError."""
    specs = tuple(parse(text) for text in texts)
    names = [spec.name for spec in specs]
    if not specs or len(set(names)) < len(names):
        raise _refused(", ".join(texts) or "none", "at least one label, each once", ", ".join(names) or "none")
    return specs


def _refused(text: str, expected: str, was: str) -> UsageError:
    return UsageError(
        f"{text[:80]!r} declares no label", expected=expected, was=repr(was[:80]),
        action="see docs/labels.md for the labels there are",
    )  # fmt: skip
