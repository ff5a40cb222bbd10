"""Feature sets: which columns a vector has, in which order, with which parameters, and at which cadence.

Input: one YAML file per version. Published versions live here and never change; a user's own file is named by its path.
Output: `FeatureSet`, every `{window}`, `{depth}` and `zscore(F, N)` written out as a column's name.
Units: cadence in ms, a multiple of the base Tick; ages in ns.
Errors: UsageError for a set that is not there or not well formed, naming the file and the key.

An id means one definition: a file cannot take the id of a published set, and whatever keeps vectors keeps the set's
`digest` beside them.
"""

from __future__ import annotations

import hashlib
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from schemas import limits
from schemas.errors import UsageError
from schemas.labels import is_label
from schemas.limits import CADENCE_MS_MAX, COLUMNS_MAX, FILL_MAX_NS
from schemas.topics import features_topic
from schemas.units import BASE_TICK_NS, NS_PER_MS, duration_ns, duration_text

DEFAULT: Final = "micro@2"
_ENDINGS: Final = (".yaml", ".yml")
_BASE_MS: Final = BASE_TICK_NS // NS_PER_MS
_KEYS = ("name", "version", "cadence_ms", "windows", "depths", "missing", "outliers", "own_features", "features")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_ZSCORE = re.compile(r"zscore\(\s*([a-z0-9_]+)\s*,\s*([0-9]{1,6})\s*\)", re.ASCII)
_FILL = re.compile(r"forward_fill\(\s*([0-9a-z]+)\s*\)", re.ASCII)
_CLIP = re.compile(r"clip\(\s*([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*,\s*([0-9]{1,6})\s*\)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of a column's missing values and outliers.

    `fill_ns` > 0 repeats the last emitted value while it is no older; `skips_row` emits no vector where the value is
    null; `clip_sigmas` > 0 bounds a value to so many standard deviations around the mean of the `clip_count` before it.
    """

    fill_ns: int = 0
    skips_row: bool = False
    clip_sigmas: float = 0.0
    clip_count: int = 0


PLAIN: Final = Policy()
_SHORT: Final = reprlib.Repr()
"""A few lines of YAML can name a list of billions."""


class OwnFile(NamedTuple):
    """A user's file of features as it was when the set was loaded: editing the file changes no set that runs."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """A published version: its columns never change. `own` are the files its user's features are looked up in."""

    name: str
    version: int
    cadence_ms: int
    features: tuple[str, ...]
    policies: Mapping[str, Policy] = field(default_factory=dict, hash=False)
    own: tuple[OwnFile, ...] = ()

    @property
    def id(self) -> str:
        """name@version."""
        return f"{self.name}@{self.version}"

    @property
    def topic(self) -> str:
        """Topic of this set's vectors."""
        return features_topic(self.name, self.version)

    @property
    def is_published(self) -> bool:
        """Whether the id is one of ours, which alone says everything."""
        return self.id in names()

    def digest(self) -> str:
        """Hash of the definition, the user's own files included: what two sets of one id must share."""
        about = [self.id, self.cadence_ms, self.features, sorted(self.policies.items())]
        digest = hashlib.sha256(repr(about).encode())
        for _, text in self.own:
            digest.update(hashlib.sha256(text.encode()).digest())
        return digest.hexdigest()

    def json(self) -> dict[str, Any]:
        """The definition as an archive keeps it; of a user's own files the names only."""
        return {
            "cadence_ms": self.cadence_ms,
            "features": list(self.features),
            "policies": {column: asdict(policy) for column, policy in self.policies.items()},
            "own_features": [path.name for path, _ in self.own],
            "digest": self.digest(),
        }

    @staticmethod
    def of(set_id: str, stored: Mapping[str, Any]) -> FeatureSet:
        """From what `json` made, without the user's own files. Errors: KeyError, TypeError, ValueError."""
        name, version = set_id.split("@")
        policies = {str(column): Policy(**about) for column, about in stored["policies"].items()}
        columns = tuple(map(str, stored["features"]))
        return FeatureSet(name, int(version), int(stored["cadence_ms"]), columns, policies)


def names() -> list[str]:
    """Ids of all published feature sets."""
    entries = (entry.name for entry in files("schemas.feature_sets").iterdir())
    return sorted(name.removesuffix(".yaml") for name in entries if name.endswith(".yaml"))


def load(spec: str) -> FeatureSet:
    """The published set `name@version`, or the one in the YAML file of that path."""
    if spec.endswith(_ENDINGS):
        path = Path(spec)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"feature set file {spec} cannot be read", expected="a YAML file", was=str(error),
                action="name a file that is there",
            ) from None  # fmt: skip
        feature_set = _parse(spec, text, path.parent)
        if feature_set.is_published:
            raise _malformed(spec, "name and version", "an id that is not a published set's", feature_set.id)
        return feature_set
    known = names()
    if spec not in known:
        raise UsageError(
            f"feature set {spec!r} is unknown", expected=" or ".join(known), was=repr(spec),
            action="name one of these as name@version, or a .yaml file of your own",
        )  # fmt: skip
    text = files("schemas.feature_sets").joinpath(f"{spec}.yaml").read_text(encoding="utf-8")
    feature_set = _parse(f"{spec}.yaml", text, None)
    if feature_set.id != spec:
        raise _malformed(f"{spec}.yaml", "name and version", f"those of {spec}", feature_set.id)
    return feature_set


def located(spec: str) -> str:
    """The same set, named so that it is found from any folder."""
    return str(Path(spec).resolve()) if spec.endswith(_ENDINGS) else spec


def load_all(specs: str, find: Callable[[str], FeatureSet] = load) -> list[FeatureSet]:
    """Feature sets of a comma-separated list, each id once, at least one; in order of ids, however they are listed."""
    found = sorted((find(spec.strip()) for spec in specs.split(",") if spec.strip()), key=lambda each: each.id)
    if not found or len({each.id for each in found}) < len(found):
        raise UsageError(
            f"feature sets {specs!r} cannot run together", expected="at least one, each id once", was=specs,
            action="name each set once, separated by commas",
        )  # fmt: skip
    return found


def _malformed(file: str, key: str, expected: str, was: object) -> UsageError:
    told = was[:200] if isinstance(was, str) else _SHORT.repr(was)
    return UsageError(
        f"{key} of feature set file {file} is wrong", expected=expected, was=told, action="correct the file"
    )


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(str(key.value))
        return dict(super().construct_mapping(node, deep))


def _parse(file: str, text: str, folder: Path | None) -> FeatureSet:
    try:
        stored = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _malformed(file, "the text", "YAML, each key once", " ".join(str(error).split())) from None
    if not isinstance(stored, dict):
        raise _malformed(file, "the top level", f"a mapping of {', '.join(_KEYS)}", type(stored).__name__)
    for key in stored:
        if key not in _KEYS:
            raise _malformed(file, f"key {_SHORT.repr(key)}", f"one of {', '.join(_KEYS)}", key)
    name, version, cadence_ms = stored.get("name"), stored.get("version"), stored.get("cadence_ms", 1000)
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise _malformed(file, "name", "lower case letters, digits and _", name)
    if type(version) is not int or not 1 <= version <= 9_999:
        raise _malformed(file, "version", "a number from 1", version)
    if type(cadence_ms) is not int or cadence_ms % _BASE_MS or not _BASE_MS <= cadence_ms <= CADENCE_MS_MAX:
        expected = f"a multiple of {_BASE_MS} ms up to {CADENCE_MS_MAX}"
        raise _malformed(file, "cadence_ms", expected, cadence_ms)
    columns = dict(_columns(file, stored))
    policies = {column: policy for column, policy in columns.items() if policy != PLAIN}
    own = tuple(_own(file, each, folder) for each in _list(file, stored, "own_features"))
    return FeatureSet(name, version, cadence_ms, tuple(columns), policies, own)


def _list(file: str, stored: dict[str, Any], key: str) -> list[Any]:
    found = stored.get(key, [])
    if not isinstance(found, list):
        raise _malformed(file, key, "a list", found)
    return found


def _own(file: str, name: object, folder: Path | None) -> OwnFile:
    path = (folder or Path()) / str(name)
    if folder is None or not isinstance(name, str) or path.suffix != ".py" or not path.is_file():
        raise _malformed(file, "own_features", "Python files beside the YAML file", name)
    try:
        return OwnFile(path.resolve(), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _malformed(file, "own_features", "Python files in UTF-8", f"{name}: {error}") from None


def _columns(file: str, stored: dict[str, Any]) -> Iterator[tuple[str, Policy]]:
    """Every column's name, written out, with its policy."""
    values: dict[str, list[Any]] = {"window": _windows(file, stored), "depth": _depths(file, stored)}
    default = _policy(file, "", stored, PLAIN)
    seen: set[str] = set()
    for item in _list(file, stored, "features"):
        text, about = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, {})
        if not isinstance(text, str) or not isinstance(about, dict) or set(about) - {"missing", "outliers"}:
            raise _malformed(file, "features", "names, or `name: {missing: .., outliers: ..}`", item)
        used = [key for key in values if f"{{{key}}}" in text]
        for key in used:
            if not values[key]:
                raise _malformed(file, f"{key}s", f"at least one, for {text}", "none")
        for chosen in product(*(values[key] for key in used)):
            written = text
            for key, value in zip(used, chosen, strict=True):
                written = written.replace(f"{{{key}}}", str(value))
            column = _column(file, text, written)
            if column in seen or len(seen) >= COLUMNS_MAX:
                raise _malformed(file, f"feature {column}", f"each name once, at most {COLUMNS_MAX}", "one too many")
            seen.add(column)
            yield column, _policy(file, f"feature {column}: ", about, default)
    if not seen:
        raise _malformed(file, "features", f"1 to {COLUMNS_MAX} columns", "none")


def _windows(file: str, stored: dict[str, Any]) -> list[str]:
    found = _list(file, stored, "windows")
    for text in found:
        ns = duration_ns(text) if isinstance(text, str) else None
        if ns is None or ns % BASE_TICK_NS or ns > limits.WINDOW_MAX_NS or duration_text(ns) != text:
            raise _malformed(file, "windows", "steps of 100ms up to 60s, written as 500ms, 1500ms or 15s", text)
    return found


def _depths(file: str, stored: dict[str, Any]) -> list[int]:
    found = _list(file, stored, "depths")
    for levels in found:
        if type(levels) is not int or not 1 <= levels <= limits.DEPTH_MAX:
            raise _malformed(file, "depths", f"numbers of levels from 1 to {limits.DEPTH_MAX}", levels)
    return found


def _column(file: str, text: str, written: str) -> str:
    """A column's name: `zscore(F, N)` is named zscore_F_N."""
    score = _ZSCORE.fullmatch(written)
    if is_label(score[1] if score else written):
        raise _malformed(file, "features", "features only: a label looks into the future (dataset build --label)", text)
    column = written if score is None else f"zscore_{score[1]}_{int(score[2])}"
    if _NAME.fullmatch(column) is None:
        raise _malformed(file, "features", "a feature's name, zscore(name, N), {window} or {depth}", text)
    if score is not None and not 2 <= int(score[2]) <= limits.REMEMBERED_MAX:
        raise _malformed(file, f"feature {text}", f"a z-score over 2 to {limits.REMEMBERED_MAX} values", score[2])
    return column


def _policy(file: str, where: str, about: Mapping[str, Any], default: Policy) -> Policy:
    missing, outliers = about.get("missing"), about.get("outliers")
    fill_ns, skips_row = default.fill_ns, default.skips_row
    sigmas, count = default.clip_sigmas, default.clip_count
    if "missing" in about:
        fill = _FILL.fullmatch(missing) if isinstance(missing, str) else None
        age = duration_ns(fill[1]) if fill is not None else None
        if missing not in (None, "null", "skip_row") and (age is None or age > FILL_MAX_NS):
            raise _malformed(file, f"{where}missing", "null, skip_row or forward_fill(5s), at most an hour", missing)
        fill_ns, skips_row = age or 0, missing == "skip_row"
    if "outliers" in about:
        clip = _CLIP.fullmatch(outliers) if isinstance(outliers, str) else None
        if outliers not in (None, "none") and not (
            clip and float(clip[1]) > 0 and 2 <= int(clip[2]) <= limits.REMEMBERED_MAX
        ):
            expected = f"none or clip(4, 600): standard deviations, 2 to {limits.REMEMBERED_MAX} values"
            raise _malformed(file, f"{where}outliers", expected, outliers)
        sigmas, count = (float(clip[1]), int(clip[2])) if clip else (0.0, 0)
    return Policy(fill_ns, skips_row, sigmas, count)
