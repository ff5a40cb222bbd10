"""Policies for values: what is done about unknown values, outliers and scale, as a text, as JSON and as a value.

Input: texts such as `missing=forward_fill(5s),outliers=clip(4),normalization=zscore; mid_price: normalization=none`.
Output: `ValuesSpec`.
Units: ages in ns; bounds of outliers in standard deviations or as shares of the rows, exact decimal texts.
Errors: UsageError for what declares no policy, or names a column that is not there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Final

from schemas.errors import UsageError
from schemas.units import duration_ns, duration_text

EVERY: Final = "*"
"""What stands for every column that has no policy of its own."""
MISSING: Final = ("null", "forward_fill", "interpolate", "drop_row")
OUTLIERS: Final = ("none", "clip", "quantile")
NORMALIZATIONS: Final = ("none", "zscore", "robust", "minmax")
_AGED: Final = ("forward_fill", "interpolate")
_CHOICE = re.compile(r"([a-z_]+)(?:\(([^()]*)\))?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)
_PART = re.compile(r",(?![^()]*\))")
_EXAMPLE = "missing=forward_fill(5s),outliers=clip(4),normalization=zscore"


@dataclass(frozen=True, slots=True)
class Policy:
    """What is done to one column, in this order. The texts are canonical: `of` makes them.

    `missing`: null leaves an unknown value unknown; forward_fill(AGE) takes the instrument's last known value if it is
    at most AGE old; interpolate(AGE) continues the line through its last two known values if both are at most AGE old:
    the line to the NEXT known value would tell a row of its future; drop_row leaves the row out of the dataset.
    `outliers`: clip(K) puts what is more than K standard deviations from the mean onto that bound, quantile(LOW, HIGH)
    what is outside these quantiles. `normalization`: zscore (value - mean) / standard deviation, robust
    (value - median) / interquartile range, minmax (value - lowest) / (highest - lowest). Mean, deviation and quantiles
    are those of the known values of rows for training, after filling; those of a normalization also after clipping.
    """

    missing: str = "null"
    outliers: str = "none"
    normalization: str = "none"

    @staticmethod
    def of(told: Mapping[str, str], default: Policy) -> Policy:
        """`default` but for what is told. Errors: UsageError."""
        readers = {"missing": _missing, "outliers": _outliers, "normalization": _normalization}
        for name in told:
            if name not in readers:
                raise refused(f"{', '.join(readers)}", name, readers)
        return replace(default, **{name: readers[name](text) for name, text in told.items()})

    @property
    def max_age_ns(self) -> int:
        """Beyond this age a known value stands in for none; 0 where none ever does."""
        name, arguments = _split(self.missing)
        return (duration_ns(arguments[0]) or 0) if name in _AGED else 0

    @property
    def filling(self) -> str:
        """The missing policy without its age."""
        return _split(self.missing)[0]

    @property
    def deviations(self) -> Fraction | None:
        """K of clip(K)."""
        name, arguments = _split(self.outliers)
        return Fraction(arguments[0]) if name == "clip" else None

    @property
    def quantiles(self) -> tuple[Fraction, Fraction] | None:
        """LOW and HIGH of quantile(LOW, HIGH)."""
        name, arguments = _split(self.outliers)
        return (Fraction(arguments[0]), Fraction(arguments[1])) if name == "quantile" else None


@dataclass(frozen=True, slots=True)
class ValuesSpec:
    """A policy for every column, and those of columns that have their own. Without any, values stay as they are."""

    every: Policy = Policy()
    columns: tuple[tuple[str, Policy], ...] = ()

    def policies(self, features: Sequence[str]) -> list[Policy]:
        """The policy of each feature. Errors: UsageError where a column with a policy of its own is no feature."""
        own = dict(self.columns)
        for name in own:
            if name not in features:
                raise refused("a feature of the set", name, features)
        return [own.get(name, self.every) for name in features]

    @property
    def is_empty(self) -> bool:
        """Whether values stay as they are."""
        return all(policy == Policy() for policy in (self.every, *dict(self.columns).values()))

    @property
    def look_back_ns(self) -> int:
        """How much further back than its features a row looks: a filled value is as old as its policy lets it be."""
        return max(policy.max_age_ns for policy in (self.every, *dict(self.columns).values()))

    def json(self) -> dict[str, Any]:
        """As a manifest holds it: policies by column, `*` for the others."""
        return {EVERY: asdict(self.every), **{name: asdict(policy) for name, policy in self.columns}}

    @staticmethod
    def of(stored: Mapping[str, Any]) -> ValuesSpec:
        """From a manifest. Errors: KeyError, TypeError, ValueError for what `json` never makes."""
        policies = {}
        for name, told in stored.items():
            if not isinstance(told, dict) or not all(isinstance(text, str) for text in told.values()):
                raise TypeError("another JSON type")
            try:
                policies[name] = Policy.of(told, Policy())
            except UsageError as error:
                raise ValueError(error.fact) from None
        spec = ValuesSpec(policies.pop(EVERY), tuple(policies.items()))
        if spec.json() != dict(stored):
            raise ValueError("no policies")
        return spec


def parse(text: str) -> ValuesSpec:
    """Policies of a text: sections split by `;`, one for every column and others that begin with `COLUMN:`.

    A column's section says only what differs from the one for every column. Errors: UsageError.
    """
    sections: dict[str, dict[str, str]] = {}
    for section in text.split(";") if text.strip() else []:
        head, colon, body = section.partition(":")
        column = head.strip() if colon else EVERY
        if not column or column in sections:
            raise refused("sections of different columns", section.strip() or "an empty one")
        sections[column] = _told(body if colon else section)
    every = Policy.of(sections.pop(EVERY, {}), Policy())
    return ValuesSpec(every, tuple((name, Policy.of(told, every)) for name, told in sections.items()))


def refused(expected: str, was: str, known: Sequence[str] | Mapping[str, Any] = ()) -> UsageError:
    """The error of a text that declares no policy."""
    near = difflib.get_close_matches(was, list(known), 3, 0.5)
    return UsageError(
        "this declares no policy for values", expected=expected, was=repr(was[:80]),
        action=f"did you mean {', '.join(near)}?" if near else f"correct it, e.g. {_EXAMPLE}",
    )  # fmt: skip


def _told(body: str) -> dict[str, str]:
    told: dict[str, str] = {}
    for part in _PART.split(body):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name in told:
            raise refused("NAME=POLICY, each name once", part.strip() or "nothing")
        told[name] = value
    return told


def _split(text: str) -> tuple[str, list[str]]:
    match = _CHOICE.fullmatch(text)
    if match is None:
        return text, []
    return match[1], [each.strip() for each in match[2].split(",")] if match[2] is not None else []


def _missing(text: str) -> str:
    name, arguments = _split(text)
    if name not in MISSING:
        raise refused(f"missing={', '.join(MISSING)}", text, MISSING)
    if name not in _AGED:
        if arguments:
            raise refused(f"missing={name} without an age", text)
        return name
    age_ns = duration_ns(arguments[0]) if len(arguments) == 1 else None
    if age_ns is None:
        raise refused(f"missing={name}(AGE), beyond which a known value says nothing, such as {name}(5s)", text)
    return f"{name}({duration_text(age_ns)})"


def _outliers(text: str) -> str:
    name, arguments = _split(text)
    numbers = [Fraction(each) for each in arguments if _NUMBER.fullmatch(each)]
    if name not in OUTLIERS:
        raise refused(f"outliers={', '.join(OUTLIERS)}", text, OUTLIERS)
    if len(numbers) != len(arguments) or len(numbers) != OUTLIERS.index(name):
        raise refused("outliers=none, clip(K) or quantile(LOW, HIGH)", text)
    if name == "clip" and not numbers[0]:
        raise refused("outliers=clip(K) with K above 0", text)
    if name == "quantile" and not numbers[0] < numbers[1] <= 1:
        raise refused("outliers=quantile(LOW, HIGH) with LOW below HIGH, and HIGH at most 1", text)
    return f"{name}({', '.join(arguments)})" if arguments else name


def _normalization(text: str) -> str:
    if text not in NORMALIZATIONS:
        raise refused(f"normalization={', '.join(NORMALIZATIONS)}", text, NORMALIZATIONS)
    return text
