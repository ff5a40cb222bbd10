"""Verifying: a dataset made again from its manifest, and compared with what is stored.

Input: a datasets folder and an id; the archive the manifest names, or another one with the same records.
State: a work folder, for as long as it takes.
Output: whether the three hashes are equal: the manifest's, the rebuilt one, and that of the stored files; and what else
the manifest says of the rows that is not what was rebuilt.
Errors: CheckFailed (the feature set's definition has changed), SegmentTorn (an input is another one), those of the
archive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from replay.datasets import files, work
from replay.datasets.assembly import Told, silent
from replay.datasets.build import assembled, described, make, plan
from replay.datasets.catalogue import load_manifest, torn_manifest
from replay.datasets.engines import Engine, Here
from replay.datasets.recipe import Recipe
from replay.driver import inputs
from replay.reader import ArchiveReader
from schemas.errors import CheckFailed, OnetapeError, SegmentTorn
from schemas.feature_sets import FeatureSet, load


def verify(
    datasets: Path,
    dataset_id: str,
    archive: ArchiveReader | None = None,
    *,
    engine: Engine | None = None,
    told: Told | None = None,
) -> dict[str, Any]:
    """Rebuild a dataset from its manifest and compare with what is stored: `equal`, the three hashes, and `differing`.

    `differing` names what the manifest tells of the rows (counts, ranges, fitted values, ...) otherwise than the
    rebuilt rows do.

    `archive` stands in for the one the manifest names. It may have grown since; the recorded inputs must be there, and
    the feature set must be the one that was built from.
    """
    manifest, told = load_manifest(datasets, dataset_id), told or silent
    recipe = recipe_of(manifest)
    feature_set = same_definition(manifest, recipe)
    archive = archive or ArchiveReader(Path(manifest["archive"]))
    used = manifest["inputs"]
    check_inputs(archive, used)
    engine = engine or Here()
    with work.turn(datasets, partial(told, "waiting for another build", 0, 1)):
        name = f"verify-{dataset_id}"
        tasks = plan(archive, recipe, feature_set, used, parts=engine.parts)
        folder, _ = work.begun(datasets, name, work.made_of(tasks, []))
        tasks = [replace(task, folder=folder / task.folder) for task in tasks]
        make(tasks, engine, told)
        rebuilt = assembled(recipe, feature_set, tasks, told).write(None)
        work.forget(folder)
    schema = files.schema_of(feature_set, recipe.specs, [fold["name"] for fold in rebuilt.get("folds", [])])
    stored = files.output_hash(datasets / dataset_id, schema, rebuilt["files"])
    expected = manifest["output_hash"]
    told_now = {**described(recipe, feature_set, used), **rebuilt}
    differing = sorted(name for name, value in told_now.items() if _text(manifest.get(name)) != _text(value))
    return {
        "id": dataset_id, "equal": not differing and expected == stored, "output_hash": expected,
        "rebuilt": rebuilt["output_hash"], "stored": stored, "differing": differing,
    }  # fmt: skip


def recipe_of(manifest: Mapping[str, Any]) -> Recipe:
    """The recipe of a manifest. Errors: CheckFailed for what is none."""
    try:
        recipe = Recipe.of(manifest["recipe"])
        assert recipe.specs
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, AssertionError, OnetapeError):
        raise torn_manifest(manifest["id"]) from None
    return recipe


def check_inputs(archive: ArchiveReader, used: Sequence[Mapping[str, Any]]) -> None:
    """The recorded inputs must be in the archive unchanged. Errors: SegmentTorn."""
    there = {each["file"]: each["sha256"] for each in inputs(archive)}
    for each in used:
        if there.get(each["file"]) != each["sha256"]:
            raise SegmentTorn(
                f"input {each['file']} is not the one this dataset was built from",
                expected=f"sha256 {each['sha256'][:16]}...", was=str(there.get(each["file"], "no such file"))[:16],
                action="restore the segment, or build the dataset anew",
            )  # fmt: skip


def same_definition(manifest: Mapping[str, Any], recipe: Recipe) -> FeatureSet:
    """The feature set that a dataset was built with. Errors: CheckFailed where its definition has changed."""
    feature_set = load(recipe.feature_set)
    if (feature_set.id, feature_set.digest()) != (manifest["feature_set"], manifest["feature_set_digest"]):
        raise CheckFailed(
            f"the definition of {manifest['feature_set']} has changed since {manifest['id']} was built",
            expected=f"digest {manifest['feature_set_digest'][:16]}...",
            was=f"{feature_set.id}, digest {feature_set.digest()[:16]}...",
            action=f"restore {recipe.feature_set}, or give the changed set a new version and build anew",
        )  # fmt: skip
    return feature_set


def _text(value: Any) -> str:
    """A part of a manifest as the JSON it is written as: 1 and 1.0 and true differ."""
    return json.dumps(value, sort_keys=True)
