"""Recipe: what a dataset is made of besides the archive, in words that say the same for ever.

Output: `Recipe`, its JSON, and the id of the dataset it gives with the records it reads.
Units: times in ns UTC, durations in ns.
Errors: UsageError for what cannot be built; KeyError, TypeError, ValueError for stored recipes that are none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from agents.catalogue import find
from agents.own.native import OwnFeature, own_features
from replay.digest import json_digest
from replay.labels import compute
from replay.splits.spec import SplitSpec
from replay.splits.spec import parse as parse_split
from replay.values.spec import ValuesSpec
from schemas.errors import UsageError
from schemas.feature_sets import PLAIN, FeatureSet, load
from schemas.labels import LabelSpec, parse_all
from schemas.units import NS_PER_MS

SPLIT = "train=0.7,validation=0.15,test=0.15"
LABEL = "forward_return_5s"
_ZSCORE = re.compile(r"zscore_(.+)_(\d{1,6})")
_FOLD = re.compile(r"fold_\d+")
_NO_NAME = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Recipe:
    """What a dataset is made of. `feature_set` is what `schemas.feature_sets.load` takes: an id or a YAML file's path.

    Rows are the vectors with `from_ns <= T < to_ns`. `label_step_ns` is the grid of prices that labels are read off,
    None: the feature set's cadence; an entry is `entry_delay_ns` behind T. Rows that the flag WARMUP marks are left
    out unless `keeps_warmup`.
    """

    feature_set: str
    labels: tuple[str, ...] = (LABEL,)
    split: SplitSpec = field(default_factory=lambda: parse_split(SPLIT))
    values: ValuesSpec = field(default_factory=ValuesSpec)
    entry_delay_ns: int = 0
    label_step_ns: int | None = None
    keeps_warmup: bool = False
    symbols: tuple[str, ...] | None = None
    from_ns: int | None = None
    to_ns: int | None = None

    @cached_property
    def specs(self) -> tuple[LabelSpec, ...]:
        """The labels. Errors: UsageError."""
        return parse_all(self.labels)

    def step_ns(self, feature_set: FeatureSet) -> int:
        """Distance of the prices that labels are read off."""
        return self.label_step_ns or feature_set.cadence_ms * NS_PER_MS

    @property
    def reach_ns(self) -> int:
        """How far behind its T a row's labels see."""
        return max(compute.reach_ns(spec, self.entry_delay_ns) for spec in self.specs)

    @property
    def look_back_ns(self) -> int:
        """How far before its T a row's labels see."""
        return max(compute.look_back_ns(spec) for spec in self.specs)

    def row_look_back_ns(self, feature_set: FeatureSet) -> int:
        """How far before its T anything in a row looks: a filled feature, or the past that scales a label."""
        return max(look_back_ns(feature_set) + self.values.look_back_ns, self.look_back_ns)

    @property
    def drops_rows(self) -> bool:
        """Whether a missing value leaves a row out."""
        return any(policy.filling == "drop_row" for policy in (self.values.every, *dict(self.values.columns).values()))

    def check(self) -> FeatureSet:
        """Refuse what could never be built; the feature set. Errors: UsageError."""
        if self.symbols is not None and not self.symbols:
            raise UsageError(
                "no instrument is named", expected="at least one", was="none", action="name some, or leave them out"
            )
        if self.from_ns is not None and self.to_ns is not None and self.from_ns >= self.to_ns:
            raise UsageError(
                "the span of time is empty", expected="a first time before the end",
                was=f"{self.from_ns} to {self.to_ns} ns", action="exchange --from and --to",
            )  # fmt: skip
        feature_set = load(self.feature_set)
        compute.check(self.specs, feature_set.cadence_ms, self.step_ns(feature_set), self.entry_delay_ns)
        self.values.policies(feature_set.features)
        taken = [name for name in feature_set.features if name in self._own_columns() or _FOLD.fullmatch(name)]
        if taken:
            raise UsageError(
                f"features of {feature_set.id} have names of a dataset's own columns",
                expected=f"other names than fold_0 and {', '.join(sorted(self._own_columns()))}", was=", ".join(taken),
                action="rename these features",
            )  # fmt: skip
        return feature_set

    def _own_columns(self) -> set[str]:
        """Columns that a dataset has besides a vector's."""
        labels = {spec.name for spec in self.specs}
        return {"label_t0", "label_t1", *labels, *(f"{name}_t1" for name in labels)}

    def json(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return {
            "feature_set": self.feature_set,
            "labels": [spec.name for spec in self.specs],
            "split": self.split.json(),
            "values": self.values.json(),
            "entry_delay_ns": self.entry_delay_ns,
            "label_step_ns": self.label_step_ns,
            "keeps_warmup": self.keeps_warmup,
            "symbols": None if self.symbols is None else list(self.symbols),
            "from_ns": self.from_ns,
            "to_ns": self.to_ns,
        }

    @staticmethod
    def of(stored: Mapping[str, Any]) -> Recipe:
        """From a manifest. Errors: KeyError, TypeError, ValueError, UsageError for what `json` never makes."""
        symbols = None if stored["symbols"] is None else tuple(stored["symbols"])
        recipe = Recipe(
            feature_set=stored["feature_set"], labels=tuple(stored["labels"]), split=SplitSpec.of(stored["split"]),
            values=ValuesSpec.of(stored["values"]), entry_delay_ns=stored["entry_delay_ns"],
            label_step_ns=stored["label_step_ns"], keeps_warmup=stored["keeps_warmup"], symbols=symbols,
            from_ns=stored["from_ns"], to_ns=stored["to_ns"],
        )  # fmt: skip
        texts = [recipe.feature_set, *recipe.labels, *(symbols or ())]
        times = [recipe.from_ns, recipe.to_ns, recipe.label_step_ns]
        if not all(isinstance(text, str) for text in texts) or type(recipe.entry_delay_ns) is not int:
            raise TypeError("another JSON type")
        if not all(time is None or type(time) is int for time in times) or type(recipe.keeps_warmup) is not bool:
            raise TypeError("another JSON type")
        return recipe


def identify(recipe: Recipe, feature_set: FeatureSet, used: Sequence[Mapping[str, Any]]) -> str:
    """Id of a dataset: what it is, and the hash of recipe and inputs; where the definition's file lies says nothing."""
    about = {**recipe.json(), "feature_set": [feature_set.id, feature_set.digest()]}
    label = _NO_NAME.sub("_", recipe.specs[0].name).strip("_")
    more = f"_and_{len(recipe.specs) - 1}" if len(recipe.specs) > 1 else ""
    return f"{feature_set.name}-{feature_set.version}-{label}{more}-{json_digest([about, list(used)])[:12]}"


def look_back_ns(feature_set: FeatureSet) -> int:
    """How far before its T a vector's values look, as far as the definition bounds it.

    Windows, z-scores and clip bounds over the last N vectors, filled values. What a book or a ticker last said has no
    bound: it counts as the state at T. Neither have the last N known values of `remembering` columns behind a gap.
    """
    own = own_features(feature_set.own)
    return max((_column_ns(feature_set, name, own) for name in feature_set.features), default=0)


def remembering(feature_set: FeatureSet) -> list[str]:
    """Columns that remember their last N known values: behind a gap these lie further back than N vectors."""
    return [
        name for name in feature_set.features
        if _ZSCORE.fullmatch(name) or feature_set.policies.get(name, PLAIN).clip_count
    ]  # fmt: skip


def _column_ns(feature_set: FeatureSet, name: str, own: Mapping[str, OwnFeature]) -> int:
    cadence_ns = feature_set.cadence_ms * NS_PER_MS
    policy = feature_set.policies.get(name, PLAIN)
    more = policy.fill_ns + policy.clip_count * cadence_ns
    if name in own:
        return own[name].look_back_ns + more
    found, score = find(name), _ZSCORE.fullmatch(name)
    if found is not None:
        return found.look_back_ns + more
    assert score is not None, f"{name} is no column of a feature set that was checked"
    return int(score[2]) * cadence_ns + _column_ns(feature_set, score[1], own) + more
