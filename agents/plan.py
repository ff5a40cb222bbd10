"""The plan: feature sets as numbers the kernel follows, so that any set runs on the one compiled kernel.

Input: feature sets.
Output: SETS [s, SET_SIZE] and COLUMNS [c, COLUMN_SIZE], int64; how much memory the columns need behind a row's own
places, and a hash of what lies where in it: a stored row of another plan is refused.
Units: places in the row; ns; windows in steps of 100 ms.
Errors: UsageError for a name that is no feature, with near matches.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from agents import catalogue, micro
from agents.catalogue import By
from agents.own.native import OwnFeature, own_features
from schemas.columns import Int64
from schemas.errors import UsageError
from schemas.feature_sets import PLAIN, FeatureSet, Policy
from schemas.limits import DEPTH_MAX, MEMORY_MAX, REMEMBERED_MAX
from schemas.units import NS_PER_MS
from tables import layout as at

# Of a set: cadence in ns, its columns, how many of them it emits.
CADENCE, FIRST, END, WIDTH = range(4)
SET_SIZE = 4
# Of a column. NUMBER is its family's, or one of the two below.
NUMBER, ARGUMENT, OUTPUT, SOURCE, LENGTH, MEMORY, FILL_NS, FILL_MEMORY = range(8)
SKIPS, CLIP_COUNT, CLIP_SIGMAS, CLIP_MEMORY = range(8, 12)
COLUMN_SIZE = 12
ZSCORE, OWN = -1, -2
"""A z-score of the column SOURCE; a user's own function at the address ARGUMENT."""
HIDDEN = -1
"""OUTPUT of a column that only a z-score reads."""

_ZSCORE = re.compile(r"zscore_(.+)_(\d{1,6})")
assert micro.__all__, "the catalogue is filled by importing its features"


class Plan:
    """What one engine computes."""

    def __init__(self, feature_sets: Sequence[FeatureSet]) -> None:
        """Errors: UsageError."""
        self.feature_sets = tuple(feature_sets)
        self.memory = 0
        """int64s behind a row's own places."""
        self.depth = at.FLOW_LEVELS
        """Levels of a side that some column reads."""
        self._columns: list[list[int]] = []
        self._names: dict[str, int] = {}
        self._own: dict[str, OwnFeature] = {}
        self._about: list[tuple[Any, ...]] = []
        sets = [self._add(feature_set) for feature_set in self.feature_sets]
        if self.memory > MEMORY_MAX:
            raise _too_much(self.memory, self._about)
        self.sets: Int64 = np.array(sets, np.int64).reshape(-1, SET_SIZE)
        self.columns: Int64 = np.array(self._columns, np.int64).reshape(-1, COLUMN_SIZE)
        text = repr(self._about).encode()
        self.hash = int.from_bytes(blake2b(text, digest_size=8).digest(), "big") if self.memory else 0
        """Of the memory's places and meaning; 0 without any."""

    def _add(self, feature_set: FeatureSet) -> list[int]:
        first = len(self._columns)
        self._names.clear()
        self._own = own_features(feature_set.own)
        self._feature_set = feature_set
        for name in feature_set.features:
            self._column(name)
        for output, name in enumerate(feature_set.features):
            self._columns[self._names[name]][OUTPUT] = output
        cadence_ns = feature_set.cadence_ms * NS_PER_MS
        return [cadence_ns, first, len(self._columns), len(feature_set.features)]

    def _column(self, name: str) -> int:
        """Position of a column, behind every column it reads."""
        if name in self._names:
            return self._names[name]
        column = [0] * COLUMN_SIZE
        column[OUTPUT] = HIDDEN
        score = _ZSCORE.fullmatch(name)
        found = catalogue.find(name)
        if name in self._own:
            column[NUMBER], column[ARGUMENT] = OWN, self._own[name].address
            self.depth = DEPTH_MAX
        elif found is not None:
            column[NUMBER], column[ARGUMENT] = found.family.number, found.argument
            self.depth = max(self.depth, found.argument if found.family.by is By.DEPTH else 0)
        elif score is not None and 2 <= int(score[2]) <= REMEMBERED_MAX:
            column[NUMBER], column[SOURCE], column[LENGTH] = ZSCORE, self._column(score[1]), int(score[2])
            column[MEMORY] = self._remember(name, "zscore", column[LENGTH] + 1)
        else:
            raise _unknown(self._feature_set, name, self._own)
        policy = self._feature_set.policies.get(name, PLAIN)
        self._apply(column, name, policy)
        self._names[name] = len(self._columns)
        self._columns.append(column)
        return self._names[name]

    def _apply(self, column: list[int], name: str, policy: Policy) -> None:
        column[SKIPS] = int(policy.skips_row)
        if policy.fill_ns:
            column[FILL_NS], column[FILL_MEMORY] = policy.fill_ns, self._remember(name, "fill", 2)
        if policy.clip_count:
            column[CLIP_COUNT] = policy.clip_count
            column[CLIP_SIGMAS] = int(np.float64(policy.clip_sigmas).view(np.int64))
            column[CLIP_MEMORY] = self._remember(name, "clip", policy.clip_count + 1)

    def _remember(self, name: str, purpose: str, places: int) -> int:
        """The first of so many places behind the row's own."""
        about = self._feature_set
        texts = [file.text for file in about.own]
        self._about.append((about.id, about.cadence_ms, name, purpose, places, *texts))
        place = at.ROW_SIZE + self.memory
        self.memory += places
        return place


def _unknown(feature_set: FeatureSet, name: str, own: Iterable[str]) -> UsageError:
    near = [*difflib.get_close_matches(name, own, 3, 0.5), *catalogue.near(name)]
    return UsageError(
        f"feature set {feature_set.id} names {name}, which is no feature",
        expected=f"for example {', '.join(near)}" if near else "a feature of docs/features.md, or one of own_features",
        was=name, action="correct the name in the feature set's YAML file (windows are 100ms to 60s, depths 1 to 50)",
    )  # fmt: skip


def _too_much(memory: int, about: list[tuple[Any, ...]]) -> UsageError:
    largest = sorted(about, key=lambda each: -each[4])[:3]
    return UsageError(
        "the feature sets remember too much of each symbol", expected=f"at most {MEMORY_MAX} values",
        was=f"{memory}, most for {', '.join(f'{each[3]} of {each[2]} ({each[4]})' for each in largest)}",
        action="look back on fewer values, or in fewer columns",
    )  # fmt: skip
