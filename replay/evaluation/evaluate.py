"""Evaluation: a model's predictions for a dataset, per split or fold, as one JSON object and a plot.

Input: a dataset's folder and manifest, a file of predictions.
Output: `Evaluation`; `write` lays `evaluation.json` and `evaluation.svg`.
Units: see `replay.evaluation.metrics` and `replay.evaluation.returns`.
Errors: UsageError for a label or split there is none of, and for predictions that do not match the rows; DependencyDown
where scikit-learn is missing or the disk refuses; SegmentTorn.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from replay.card.rows import Rows
from replay.card.summary import CLASSES, is_class
from replay.evaluation import metrics, predictions, returns
from replay.evaluation.joining import Section, load, sections
from replay.evaluation.metrics import Measured
from replay.evaluation.returns import Returns
from schemas.errors import UsageError
from schemas.labels import LabelSpec, parse
from schemas.units import duration_text

DIRECTIONAL = ("forward_return", "forward_log_return", "direction", "risk_adjusted_return", "triple_barrier")
"""Families whose sign says which way the price goes."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One section with what was measured of it."""

    section: Section
    measured: Measured
    matrix: list[list[int]] | None
    returns: Returns

    def json(self) -> dict[str, Any]:
        """One JSON object; what cannot be known is null, with its reason."""
        about: dict[str, Any] = {
            "name": self.section.name, "split": self.section.split, "fold": self.section.fold,
            "rows": len(self.section.truth), "metrics": self.measured.values, "reasons": self.measured.reasons,
            "returns": {**self.returns.measured.values, "books": self.returns.books},
            "returns_reasons": self.returns.measured.reasons,
        }  # fmt: skip
        return about if self.matrix is None else {**about, "confusion": self.matrix}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`content` is the JSON object; `scored` what a plot is drawn of."""

    content: dict[str, Any]
    scored: list[Scored]
    is_class: bool


def evaluate(
    folder: Path,
    manifest: Mapping[str, Any],
    file: Path,
    *,
    label: str | None = None,
    splits: Sequence[str] = ("test",),
    cost_bps: float = 1.0,
    is_partial: bool = False,
) -> Evaluation:
    """Score the predictions in a file against a label (None: the dataset's first) in some splits of every fold."""
    spec = _label(manifest, label)
    rows = Rows(folder, manifest)
    _check(rows, splits, cost_bps)
    metrics.library()
    traded, why = _returns_label(manifest, spec)
    said = predictions.read(file, is_class=is_class(spec.name))
    table = load(rows, spec.name, traded, splits)
    found, counts = sections(rows, table, said, splits, is_partial=is_partial)
    scored = [_score(each, spec, traded, why, cost_bps) for each in found]
    content = {
        "dataset": manifest["id"], "output_hash": manifest.get("output_hash"), "label": spec.name,
        "is_for_testing_only": (manifest.get("recipe") or {}).get("split", {}).get("kind") == "random",
        "task": "classification" if is_class(spec.name) else "regression", "splits": list(splits),
        "cost_bps": cost_bps, "returns_of": traded, "predictions": {"rows": len(said.time), **counts.json()},
        "classes": list(CLASSES) if is_class(spec.name) else None, "sections": [each.json() for each in scored],
        "folds": _over_folds(scored) if rows.folds else None,
    }  # fmt: skip
    return Evaluation(content, scored, is_class(spec.name))


def _score(section: Section, spec: LabelSpec, traded: str | None, why: str, cost_bps: float) -> Scored:
    matrix = None
    if is_class(spec.name):
        measured, matrix = metrics.classification(section.truth, section.predicted, section.probabilities)
    else:
        measured = metrics.regression(section.truth, section.predicted, section.time)
    if traded is None:
        return Scored(section, measured, matrix, returns.unknown(why))
    is_log = parse(traded).family == "forward_log_return"
    gain = np.expm1(section.gain) if is_log else section.gain
    made = returns.after_cost(
        section.predicted, gain, section.instrument, section.entry, horizon_ns=spec.horizon_ns, cost_bps=cost_bps
    )
    return Scored(section, measured, matrix, made)


def _over_folds(scored: Sequence[Scored]) -> dict[str, Any]:
    """Mean and standard deviation of every metric over the folds in which it is known, per split."""
    found: dict[str, Any] = {}
    for split in dict.fromkeys(each.section.split for each in scored):
        mine = [each for each in scored if each.section.split == split]
        about: dict[str, Any] = {}
        for name in [*mine[0].measured.values, *returns.NAMES]:
            values = [{**each.measured.values, **each.returns.measured.values}[name] for each in mine]
            known = [value for value in values if value is not None]
            mean, deviation = (float(np.mean(known)), float(np.std(known))) if known else (None, None)
            about[name] = {"mean": mean, "deviation": deviation, "folds": len(known)}
        found[split] = about
    return found


def _label(manifest: Mapping[str, Any], wanted: str | None) -> LabelSpec:
    there = list(manifest["labels"])
    name = there[0] if wanted is None else parse(wanted).name
    if name not in there:
        near = difflib.get_close_matches(name, there, 3, 0.3) or there[:3]
        raise UsageError(
            f"{manifest['id']} has no label {name}", expected=", ".join(there), was=name,
            action=f"choose {' or '.join(near)}, or build a dataset with that label",
        )  # fmt: skip
    return parse(name)


def _check(rows: Rows, splits: Sequence[str], cost_bps: float) -> None:
    unknown = [split for split in splits if split not in rows.groups]
    if unknown or not splits or len(set(splits)) < len(splits):
        raise UsageError(
            f"the dataset has no split {', '.join(unknown)}" if unknown else "no splits are named, or one twice",
            expected=", ".join(rows.groups), was=", ".join(splits) or "none", action="name some of these, each once",
        )  # fmt: skip
    if not 0 <= cost_bps <= 10_000:
        raise UsageError(
            "the cost is no share of a trade", expected="0 to 10,000 basis points", was=f"{cost_bps:g}",
            action="give the cost of buying or selling, e.g. --cost-bps 1",
        )  # fmt: skip


def _returns_label(manifest: Mapping[str, Any], spec: LabelSpec) -> tuple[str | None, str]:
    """The column whose return a position in this label earns, else why there is none."""
    if spec.family not in DIRECTIONAL:
        return None, f"{spec.family} does not say which way the price goes"
    horizon = duration_text(spec.horizon_ns)
    for family in ("forward_return", "forward_log_return"):
        if f"{family}_{horizon}" in manifest["labels"]:
            return f"{family}_{horizon}", ""
    return None, f"the dataset has no forward_return_{horizon}: build it with that label, too"
