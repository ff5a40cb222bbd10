"""A window of the tape up to a cut, run again with other futures: does any vector of its past change?

Input: the states before some records, the records, those that follow, and the vectors that the whole tape gave.
Output: `LeakCheck`: rows compared and the columns that changed, of one window or the sum of several.
State: none. A window is bounded, whatever the tape is.
Errors: CheckFailed where the control is not caught.

    cut      the records after the cut are deleted
    poison   they follow with other prices, sizes, rates and sentiments
    shuffle  they follow in another order, their Ticks in place
The cut is the Tick of a vector: behind it even a feature that looks one record ahead has another record to look at, or
none. With `controls` a feature that does so (`replay.proof.leaky`) runs over the same window, and has to be found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from agents.features import features_agent
from replay.parity import differing_columns, matches
from replay.ports import Agent
from replay.proof.future import own, poison, shuffle
from replay.proof.leaky import leaky
from replay.proof.passage import run
from schemas.columns import Columns
from schemas.errors import CheckFailed
from schemas.feature_sets import FeatureSet
from schemas.vectors import Vectors

VARIANTS = ("cut", "poison", "shuffle")
AFTER_ROWS = 4096
"""Records that follow a cut in the variants that have some."""
CONTROLS = 3
"""Windows over which the leaky feature runs, where a check has so many."""
ROW = "row"
"""Named as leaking where a vector itself appears or disappears."""


@dataclass(frozen=True, slots=True)
class Window:
    """Records of one partition up to a cut, the last offset of `batches`.

    `blobs` are the states before the first of them, `after` the records behind the cut, `expected` the vectors that
    the whole tape gave for the Ticks among `batches`, all of them from `first_ns` on.
    """

    partition: int
    blobs: Mapping[str, bytes]
    batches: Sequence[Columns]
    after: Columns
    expected: Vectors
    first_ns: int = 0

    def past(self, vectors: Vectors) -> Vectors:
        """Those of the vectors that `expected` may hold: up to the cut, from `first_ns` on."""
        cut = self.batches[-1].offset[-1]
        return vectors.select((vectors.as_of_offset <= cut) & (vectors.time >= self.first_ns))


@dataclass(slots=True)
class Control:
    """The leaky feature: over how many windows it ran, and in how many it was found."""

    feature: str = ""
    windows: int = 0
    found: int = 0

    @property
    def caught(self) -> bool:
        """It ran, and was found each time."""
        return 0 < self.windows == self.found

    def json(self) -> dict[str, Any]:
        """One JSON object."""
        return {**asdict(self), "caught": self.caught}


@dataclass(slots=True)
class LeakCheck:
    """`rows_checked` vectors of `cuts` windows, how many in each variant, and in `leaking` the columns that changed."""

    cuts: int = 0
    rows_checked: int = 0
    variants: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VARIANTS, 0))
    leaking: list[str] = field(default_factory=list)
    control: Control = field(default_factory=Control)

    @property
    def ok(self) -> bool:
        """Something was compared, nothing changed, and the control was caught."""
        return self.rows_checked > 0 and not self.leaking and self.control.caught

    def json(self) -> dict[str, Any]:
        """One JSON object."""
        return {**asdict(self), "control": self.control.json(), "ok": self.ok}

    def add(self, other: LeakCheck) -> None:
        """Take in what another window gave."""
        self.cuts += other.cuts
        self.rows_checked += other.rows_checked
        self.variants = {name: rows + other.variants[name] for name, rows in self.variants.items()}
        self.leaking = sorted({*self.leaking, *other.leaking})
        self.control.feature = self.control.feature or other.control.feature
        self.control.windows += other.control.windows
        self.control.found += other.control.found

    def check_control(self) -> None:
        """Errors: CheckFailed where the leaky feature ran and was not found."""
        if self.control.windows and not self.control.caught:
            raise CheckFailed(
                "the leak check is blind: it has not found the feature that leaks on purpose",
                expected=f"{self.control.feature} named in {self.control.windows} windows",
                was=f"in {self.control.found}",
                action="do not trust its other findings; report this with the archive's `onetape archive audit`",
            )  # fmt: skip


def check(
    window: Window,
    feature_set: FeatureSet,
    *,
    beside: Sequence[FeatureSet] = (),
    agent: Agent = features_agent,
    seed: int = 0,
    controls: bool = False,
) -> LeakCheck:
    """Check one window; `beside` are feature sets that the states were made with behind `feature_set`."""
    return check_on(window, [feature_set, *beside], agent=agent, seed=seed, controls=controls)[0]


def check_on(
    window: Window, feature_sets: Sequence[FeatureSet], *, agent: Agent, seed: int, controls: bool
) -> tuple[LeakCheck, dict[str, bytes]]:
    """Check one window, and the states after its cut, which have seen nothing behind it. The first set is compared."""
    report = LeakCheck(cuts=1, rows_checked=len(window.expected))
    leaking: set[str] = set()
    after: dict[str, bytes] = {}
    for name, batches in _futures(window, seed):
        got, states = run(batches, feature_sets, window.blobs, agent)
        after = after or states
        leaking |= changed(window.expected, window.past(got))
        report.variants[name] += len(window.expected)
    report.leaking = sorted(leaking)
    if controls and len(window.after) and len(window.expected):
        report.control = _control(window, feature_sets, seed)
    return report, after


def changed(expected: Vectors, got: Vectors) -> set[str]:
    """Names of the columns in which two sides differ; ROW where one has a vector that the other has not."""
    left, right = matches(expected, got)
    found = {name for name, differs in differing_columns(expected.select(left), got.select(right)) if differs.any()}
    return found | {ROW} if len(left) != len(expected) or len(left) != len(got) else found


def window_of(
    blobs: Mapping[str, bytes], batches: Sequence[Columns], vectors: Vectors, drawn: int, first_ns: int = 0
) -> Window | None:
    """The window from the first of some batches to the cut for which the offset `drawn` stands; None without a vector.

    `blobs` are the states before the batches, `vectors` all that the whole tape gave for the Ticks among them from
    `first_ns` on.
    """
    cut = cut_at(vectors, drawn, int(batches[-1].offset[-1]))
    if cut is None:
        return None
    kept = [own(part.slice(0, _until(part, cut))) for part in batches if part.offset[0] <= cut]
    rest = [part.slice(first, first + AFTER_ROWS) for part in batches for first in [_until(part, cut)]]
    after = Columns.concat(rest)
    expected = vectors.select((vectors.as_of_offset >= batches[0].offset[0]) & (vectors.as_of_offset <= cut))
    return Window(kept[0].partition, blobs, kept, own(after.slice(0, min(AFTER_ROWS, len(after)))), expected, first_ns)


def cut_at(vectors: Vectors, drawn: int, last: int) -> int | None:
    """Offset of the last vector's Tick at or before `drawn`, else of the first behind it; `last`, which nothing
    follows, only where there is no other."""
    ticks = np.unique(vectors.as_of_offset)
    ticks = ticks[ticks < last] if (ticks < last).any() else ticks
    if not len(ticks):
        return None
    return int(ticks[max(int(np.searchsorted(ticks, drawn, side="right")) - 1, 0)])


def _until(columns: Columns, cut: int) -> int:
    return int(np.searchsorted(columns.offset, cut, side="right"))


def _futures(window: Window, seed: int) -> Iterator[tuple[str, Sequence[Columns]]]:
    """Each variant's batches."""
    yield "cut", window.batches
    if len(window.after):
        yield "poison", _followed(window, poison(window.after, seed))
        yield "shuffle", _followed(window, shuffle(window.after, seed))


def _followed(window: Window, after: Columns) -> Sequence[Columns]:
    """The window and a future, which begins in the batch of the cut: a feature may look ahead within a batch."""
    return [*window.batches[:-1], Columns.concat([window.batches[-1], after])]


def _control(window: Window, feature_sets: Sequence[FeatureSet], seed: int) -> Control:
    agent = leaky(feature_sets[0])
    seen, _ = run(_followed(window, window.after), feature_sets, window.blobs, agent)
    seen = window.past(seen)
    for _, batches in _futures(window, seed):
        got, _ = run(batches, feature_sets, window.blobs, agent)
        if changed(seen, window.past(got)) == {agent.feature}:
            return Control(agent.feature, 1, 1)
    return Control(agent.feature, 1, 0)
