"""Split declarations: how rows are to be divided, as a text, as JSON and as a value.

Input: texts such as `train=0.7,validation=0.15,test=0.15` or `k_fold:folds=5,purge=10s,embargo=1m`.
Output: `SplitSpec`.
Units: shares are fractions of the distinct prediction times, as exact texts; durations in ns.
Errors: UsageError for what declares no split.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import comb
from typing import Any, Final

from schemas.errors import UsageError
from schemas.limits import TS_MAX_NS
from schemas.units import duration_ns

SHARES: Final = ("train", "validation", "test")
FOLDS_MAX: Final = 1_000
"""Of one split: each is a column of the dataset."""
BLOCKS_MAX: Final = 1_000_000
WINDOWS: Final = ("rolling", "expanding")

_KINDS: Final[Mapping[str, Mapping[str, str]]] = {
    "time": {"train": "0.7", "validation": "0.15", "test": "0.15"},
    "walk_forward": {"train": "", "validation": "", "test": "", "folds": "5", "window": "rolling"},
    "k_fold": {"folds": "5"},
    "combinatorial": {"folds": "6", "test_folds": "2"},
    "random": {"train": "0.7", "validation": "0.15", "test": "0.15", "blocks": "20", "seed": "0"},
}
"""What each kind is told, besides purge and embargo, and what it takes where it is not told."""
_SHARE = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,12})?|[0-9]{1,9}/[1-9][0-9]{0,8}", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)
_EXAMPLE = "train=0.7,validation=0.15,test=0.15 or k_fold:folds=5,purge=10s,embargo=1m"


@dataclass(frozen=True, slots=True)
class SplitSpec:
    """One way to divide rows; `replay.splits.folds` says what each kind means.

    `shares` are (role, text) in the order of time: fractions of the distinct times, or for a walk forward durations.
    What a kind has no use for is 0 or empty.
    """

    kind: str
    shares: tuple[tuple[str, str], ...] = ()
    folds: int = 0
    test_folds: int = 0
    window: str = ""
    blocks: int = 0
    seed: int = 0
    purge_horizon_ns: int = 0
    embargo_ns: int = 0

    def __post_init__(self) -> None:
        """Errors: UsageError for what no row could be divided by."""
        if self.kind not in _KINDS:
            raise refused(f"a kind of split: {', '.join(_KINDS)}", self.kind, _near(self.kind, _KINDS))
        if not 0 <= self.purge_horizon_ns < TS_MAX_NS or not 0 <= self.embargo_ns < TS_MAX_NS:
            raise refused(
                "a purge horizon and an embargo of 0 or more", f"{self.purge_horizon_ns}, {self.embargo_ns} ns"
            )
        if self.kind in ("time", "random"):
            self._check_partition()
        if self.kind == "walk_forward":
            self._check_walk()
        if self.kind in ("k_fold", "combinatorial"):
            self._check_folds()
        if self.kind == "random" and not (1 < self.blocks <= BLOCKS_MAX and self.seed >= 0):
            raise refused(f"2 to {BLOCKS_MAX:,} blocks and a seed of 0 or more", f"{self.blocks} and {self.seed}")

    @property
    def is_for_testing_only(self) -> bool:
        """Whether a model that does well under this split may do badly on what comes after it."""
        return self.kind == "random"

    @property
    def has_folds(self) -> bool:
        """Whether a row has a role per fold, and not just one."""
        return self.kind not in ("time", "random")

    @property
    def durations_ns(self) -> dict[str, int] | None:
        """The windows of a walk forward that is told durations, by role."""
        durations = {name: duration_ns(text) for name, text in self.shares}
        return {name: ns for name, ns in durations.items() if ns is not None} or None

    @property
    def fractions(self) -> dict[str, Fraction]:
        """The shares as exact numbers, where they are no durations."""
        return {name: Fraction(text) for name, text in self.shares}

    def json(self) -> dict[str, Any]:
        """As a manifest holds it."""
        stored: dict[str, Any] = {"kind": self.kind, **dict(self.shares)}
        for name in ("folds", "test_folds", "window", "blocks", "seed"):
            if name in _KINDS[self.kind] and (self.folds or name not in ("folds", "test_folds")):
                stored[name] = getattr(self, name)
        stored |= {"purge_horizon_ns": self.purge_horizon_ns, "embargo_ns": self.embargo_ns}
        return stored | ({"for_testing_only": True} if self.is_for_testing_only else {})

    @staticmethod
    def of(stored: Mapping[str, Any]) -> SplitSpec:
        """From a manifest. Errors: KeyError, TypeError, ValueError for what `json` never makes."""
        kind = stored["kind"]
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError("no kind of split")
        shares = tuple((name, stored[name]) for name in SHARES if name in stored)
        fields = {name: stored[name] for name in ("folds", "test_folds", "window", "blocks", "seed") if name in stored}
        times = {name: stored[name] for name in ("purge_horizon_ns", "embargo_ns")}
        texts = [text for _, text in shares] + ([fields["window"]] if "window" in fields else [])
        numbers = [value for name, value in (fields | times).items() if name != "window"]
        if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
            raise TypeError("another JSON type")
        try:
            spec = SplitSpec(kind, shares, **fields, **times)
        except UsageError as error:
            raise ValueError(error.fact) from None
        if spec.json() != dict(stored):
            raise ValueError("no split")
        return spec

    def _check_partition(self) -> None:
        names = [name for name, _ in self.shares]
        if (
            not all(_SHARE.fullmatch(text) for _, text in self.shares)
            or names != [name for name in SHARES if name in names]
            or "train" not in names
            or len(names) < 2
            or min(self.fractions.values()) <= 0
            or sum(self.fractions.values()) != 1
        ):
            told = ", ".join(f"{name}={text}" for name, text in self.shares)
            raise refused(
                "positive fractions of train and of validation, test or both that add up to 1", told or "none"
            )

    def _check_walk(self) -> None:
        if self.window not in WINDOWS:
            raise refused(f"window={' or '.join(WINDOWS)}", self.window, _near(self.window, WINDOWS))
        durations, names = self.durations_ns, [name for name, _ in self.shares]
        told = ", ".join(f"{name}={text}" for name, text in self.shares)
        if durations is not None:
            if len(durations) < len(names) or "train" not in names or "test" not in names or self.folds:
                raise refused(
                    "durations of train and test, of validation if there is one, and no number of folds", told
                )
            return
        if not 0 < self.folds <= FOLDS_MAX:
            raise refused(f"1 to {FOLDS_MAX:,} folds", str(self.folds))
        if not all(_SHARE.fullmatch(text) for _, text in self.shares) or "test" in names:
            raise refused("fractions of train and validation (the rest is tested, fold by fold), or durations", told)
        if any(share <= 0 for share in self.fractions.values()) or sum(self.fractions.values()) >= 1:
            raise refused("positive fractions that leave something to test", told)

    def _check_folds(self) -> None:
        if not 2 <= self.folds <= FOLDS_MAX:
            raise refused(f"2 to {FOLDS_MAX:,} folds", str(self.folds))
        if self.kind == "combinatorial":
            if not 0 < self.test_folds < self.folds:
                raise refused(f"1 to {self.folds - 1} test_folds of {self.folds}", str(self.test_folds))
            if (rounds := comb(self.folds, self.test_folds)) > FOLDS_MAX:
                raise refused(f"at most {FOLDS_MAX:,} ways to choose what is tested", f"{rounds:,}")


def parse(text: str) -> SplitSpec:
    """The split that a text declares: `KIND:NAME=VALUE,...`, or without a kind one by time. Errors: UsageError."""
    kind, colon, rest = text.strip().partition(":")
    if not colon and "=" in kind:
        kind, rest = "time", kind
    if kind not in _KINDS:
        raise refused(f"a kind of split: {', '.join(_KINDS)}", kind, _near(kind, _KINDS))
    known = [*_KINDS[kind], "purge", "embargo"]
    told: dict[str, str] = {}
    for part in rest.split(",") if rest.strip() else []:
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in known or name in told or not value:
            raise refused(f"{', '.join(known)} of {kind}, each once and with a value", part.strip(), _near(name, known))
        told[name] = value
    values = dict(_KINDS[kind]) | told
    if any(name in told for name in SHARES) and kind != "walk_forward":
        values |= {name: "" for name in SHARES if name not in told}
    shares = tuple((name, values[name]) for name in SHARES if values.get(name))
    if kind == "walk_forward" and "folds" not in told and any(duration_ns(share) is not None for _, share in shares):
        values["folds"] = "0"
    numbers = {name: _count(name, values[name]) for name in ("folds", "test_folds", "blocks", "seed") if name in values}
    return SplitSpec(
        kind, shares, **numbers, window=values.get("window", ""),
        purge_horizon_ns=_duration("purge", told.get("purge", "0")),
        embargo_ns=_duration("embargo", told.get("embargo", "0")),
    )  # fmt: skip


def refused(expected: str, was: str, near: list[str] | None = None) -> UsageError:
    """The error of a text that declares no split."""
    return UsageError(
        "this declares no split", expected=expected, was=repr(was[:80]),
        action=f"did you mean {', '.join(near)}?" if near else f"correct it, e.g. {_EXAMPLE}",
    )  # fmt: skip


def _near(name: str, known: Mapping[str, Any] | tuple[str, ...] | list[str]) -> list[str]:
    return difflib.get_close_matches(name, list(known), 3, 0.5)


def _count(name: str, text: str) -> int:
    if not _COUNT.fullmatch(text):
        raise refused(f"{name}= a whole number", text)
    return int(text)


def _duration(name: str, text: str) -> int:
    ns = 0 if text == "0" else duration_ns(text)
    if ns is None:
        raise refused(f"{name}= a duration such as 500ms, 10s, 5m, 1h, 1d, or 0", text)
    return ns
