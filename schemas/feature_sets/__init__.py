"""Feature sets: which columns a vector has, in which order, and at which cadence. One YAML file per published version.

Errors: UsageError for a set that is not there or not well formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from schemas.errors import UsageError
from schemas.topics import features_topic
from schemas.units import BASE_TICK_NS, NS_PER_MS


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """A published version: its columns never change."""

    name: str
    version: int
    cadence_ms: int
    features: tuple[str, ...]

    @property
    def id(self) -> str:
        """name@version."""
        return f"{self.name}@{self.version}"

    @property
    def topic(self) -> str:
        """Topic of this set's vectors."""
        return features_topic(self.name, self.version)


def names() -> list[str]:
    """Ids of all published feature sets."""
    entries = (entry.name for entry in files("schemas.feature_sets").iterdir())
    return sorted(name.removesuffix(".yaml") for name in entries if name.endswith(".yaml"))


def load(feature_set_id: str) -> FeatureSet:
    """The feature set `name@version`."""
    known = names()
    if feature_set_id not in known:
        raise UsageError(
            f"feature set {feature_set_id!r} is unknown", expected=" or ".join(known), was=repr(feature_set_id),
            action="name one of these, as name@version",
        )  # fmt: skip
    text = files("schemas.feature_sets").joinpath(f"{feature_set_id}.yaml").read_text(encoding="utf-8")
    return _parse(feature_set_id, yaml.safe_load(text))


def _parse(feature_set_id: str, stored: dict[str, Any]) -> FeatureSet:
    feature_set = FeatureSet(stored["name"], stored["version"], stored["cadence_ms"], tuple(stored["features"]))
    base_ms = BASE_TICK_NS // NS_PER_MS
    if feature_set.id != feature_set_id or feature_set.cadence_ms % base_ms or feature_set.cadence_ms <= 0:
        raise UsageError(
            f"feature set file {feature_set_id}.yaml contradicts itself",
            expected=f"its file name and a cadence that is a multiple of {base_ms} ms",
            was=f"{feature_set.id} at {feature_set.cadence_ms} ms", action="correct the file",
        )  # fmt: skip
    if len(set(feature_set.features)) != len(feature_set.features):
        raise UsageError(
            f"feature set {feature_set_id} names a feature twice", expected="each name once",
            was=str(sorted({f for f in feature_set.features if feature_set.features.count(f) > 1})),
            action="remove the repetition",
        )  # fmt: skip
    return feature_set
