"""Datasets: features and labels of an archive as training, validation and test sets, with the proof beside them.

Input: an archive and a `Recipe`.
Output: `DIR/<id>/{train,validation,test}.parquet` and `manifest.json`; the id is made of the recipe and its inputs.
State: a folder per dataset, there as a whole or not at all.
Units: times in ns UTC; labels as in `replay.labels.forward`.
Errors: CheckFailed (a leak, live vectors that differ, another output under the same id), UsageError, and those of the
archive. A build that fails publishes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agents.features import features_agent
from replay import segments as files
from replay.catalogue import MANIFEST, load_manifest, torn_manifest
from replay.digest import code_digest, json_digest, table_digest
from replay.driver import Progress, Replayed, inputs, replay
from replay.labels.forward import Label, check_horizon, forward_return, seconds_text
from replay.parity import parity
from replay.ports import Agent
from replay.proof.leakcheck import leakcheck
from replay.publication import disk_errors, new_folder
from replay.reader import ArchiveReader
from replay.splits.by_time import SPLITS, TimeSplit, time_split
from schemas.errors import CheckFailed, SegmentTorn
from schemas.feature_sets import FeatureSet, load, located
from schemas.vectors import Quality, Vectors

LIBRARIES = ("numpy", "numba", "pyarrow")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a dataset is made of, besides the archive. `fractions` are decimal texts by split that add up to 1.

    `feature_set` is what `schemas.feature_sets.load` takes: an id, or the path of a YAML file.
    """

    feature_set: str
    horizon_s: float
    fractions: Mapping[str, str] = field(default_factory=lambda: dict(SPLITS))
    symbols: tuple[str, ...] | None = None
    from_ns: int | None = None
    to_ns: int | None = None

    def json(self) -> dict[str, Any]:
        """As a manifest holds it. The order of the splits says something, and JSON objects have none."""
        return {**asdict(self), "fractions": [list(pair) for pair in self.fractions.items()]}

    @staticmethod
    def of(stored: Mapping[str, Any]) -> Recipe:
        """From a manifest. Errors: KeyError, TypeError, ValueError for what `json` never makes."""
        symbols = None if stored["symbols"] is None else tuple(stored["symbols"])
        recipe = Recipe(**{**stored, "symbols": symbols, "fractions": dict(stored["fractions"])})
        texts = [recipe.feature_set, *recipe.fractions, *recipe.fractions.values(), *(symbols or ())]
        times = [time for time in (recipe.from_ns, recipe.to_ns) if time is not None]
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(time, int) for time in times):
            raise TypeError("another JSON type")
        if not math.isfinite(recipe.horizon_s) or not all(name.isidentifier() for name in recipe.fractions):
            raise ValueError("no recipe")
        return recipe


@dataclass(frozen=True, slots=True)
class Made:
    """A dataset in memory: one table per split, and what the manifest says about them."""

    tables: dict[str, pa.Table]
    content: dict[str, Any]


def build(
    archive: ArchiveReader,
    datasets: Path,
    recipe: Recipe,
    cuts: Sequence[float],
    *,
    threads: int = 1,
    progress: Progress | None = None,
    agent: Agent = features_agent,
) -> dict[str, Any]:
    """Build, prove and publish a dataset; `cuts` are those of the leak check. Returns the manifest.

    The same recipe over the same archive is the same id: there already, it is proven equal and left as it is
    (`reused`).
    """
    feature_set = load(recipe.feature_set)
    check_horizon(feature_set, recipe.horizon_s)
    used = inputs(archive)
    recipe = replace(recipe, feature_set=located(recipe.feature_set))
    dataset_id = identify(recipe, feature_set, used)
    whole = replay(archive, feature_set, threads=threads, progress=progress, agent=agent)
    proofs = _prove(archive, whole, cuts, agent)
    made = make(_selected(archive, whole, recipe), recipe)
    manifest = {
        "id": dataset_id,
        "feature_set": feature_set.id,
        "feature_set_digest": feature_set.digest(),
        "recipe": recipe.json(),
        "archive": str(archive.path.resolve()),
        "inputs": used,
        "events": whole.events,
        "code": {"sha256": code_digest(), **{name: version(name) for name in LIBRARIES}},
        "features": list(feature_set.features),
        **made.content,
        **proofs,
    }
    return _publish(datasets, manifest, made.tables)


def identify(recipe: Recipe, feature_set: FeatureSet, used: list[dict[str, Any]]) -> str:
    """Id of a dataset: what it is, and the hash of recipe and inputs; where the definition's file lies says nothing."""
    about = {**recipe.json(), "feature_set": [feature_set.id, feature_set.digest()]}
    horizon = seconds_text(recipe.horizon_s).replace(".", "_")
    return f"{feature_set.name}-{feature_set.version}-fwd{horizon}s-{json_digest([about, used])[:12]}"


def make(vectors: Vectors, recipe: Recipe) -> Made:
    """Label, drop what has no label, split and purge. Rows are in order of time and instrument."""
    label = forward_return(vectors, recipe.horizon_s)
    known = label.known
    vectors, label = vectors.select(known), Label(label.name, label.value[known], label.t0[known], label.t1[known])
    split = time_split(label.t0, label.t1, recipe.fractions)
    tables = {name: _table(vectors, label).filter(pa.array(mask)) for name, mask in split.rows.items()}
    content = {
        "label": label.name,
        "rows": sum(table.num_rows for table in tables.values()),
        "splits": {name: table.num_rows for name, table in tables.items()},
        "boundaries": split.boundaries,
        "purged": int(split.purged.sum()),
        "unlabelled": int((~known).sum()),
        "quality": _quality(vectors, split),
        "output_hash": output_hash(tables),
    }
    return Made(tables, content)


def output_hash(tables: Mapping[str, pa.Table]) -> str:
    """Hash of every split's values, the same whatever wrote the files."""
    return json_digest({name: table_digest(table) for name, table in tables.items()})


def verify(
    datasets: Path,
    dataset_id: str,
    archive: ArchiveReader | None = None,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Rebuild a dataset from its manifest and compare with what is stored: `equal`, and the three hashes.

    `archive` stands in for the one the manifest names. It may have grown since; the recorded inputs must be there, and
    the feature set must be the one that was built from.
    """
    manifest = load_manifest(datasets, dataset_id)
    try:
        recipe, folder = Recipe.of(manifest["recipe"]), datasets / dataset_id
    except (KeyError, TypeError, ValueError, OverflowError):
        raise torn_manifest(dataset_id) from None
    archive = archive or ArchiveReader(Path(manifest["archive"]))
    ends = _check_inputs(archive, manifest["inputs"])
    feature_set = load(recipe.feature_set)
    if (feature_set.id, feature_set.digest()) != (manifest["feature_set"], manifest["feature_set_digest"]):
        raise CheckFailed(
            f"the definition of {manifest['feature_set']} has changed since {dataset_id} was built",
            expected=f"digest {manifest['feature_set_digest'][:16]}...",
            was=f"{feature_set.id}, digest {feature_set.digest()[:16]}...",
            action=f"restore {recipe.feature_set}, or give the changed set a new version and build anew",
        )  # fmt: skip
    whole = replay(archive, feature_set, last_offsets=ends, threads=threads, progress=progress)
    made = make(_selected(archive, whole, recipe), recipe)
    rebuilt = made.content["output_hash"]
    stored = output_hash({name: _read(folder / f"{name}.parquet", table.schema) for name, table in made.tables.items()})
    expected = manifest["output_hash"]
    equal = expected == rebuilt == stored
    return {"id": dataset_id, "equal": equal, "output_hash": expected, "rebuilt": rebuilt, "stored": stored}


def _prove(archive: ArchiveReader, whole: Replayed, cuts: Sequence[float], agent: Agent) -> dict[str, Any]:
    """Leak check, and parity where live vectors are archived. Errors: CheckFailed."""
    feature_set = whole.feature_set
    leaks = leakcheck(archive, feature_set, cuts, agent=agent)
    if not leaks.ok:
        raise CheckFailed(
            "the dataset is not published: its features depend on the future" if leaks.leaking
            else "the dataset is not published: the leak check had nothing to compare",
            expected="no value that changes when later records are deleted",
            was=f"{', '.join(leaks.leaking) or 'no row'} at {leaks.cuts} cuts",
            action="run `onetape leakcheck` on the archive and correct the features it names"
            if leaks.leaking else "use a longer tape, or more cuts",
        )  # fmt: skip
    if not archive.head.knows(feature_set):
        return {"leakcheck": leaks.json(), "parity": None}
    live = parity(archive, feature_set, replayed=whole, in_flight=True)
    if not live.ok:
        raise CheckFailed(
            "the dataset is not published: its vectors are not those that were live",
            expected="every archived live vector, bit for bit",
            was=f"{live.compared} compared, {live.mismatch} different, {live.missing} missing, {live.extra} extra, "
            f"{live.conflicting} conflicting",
            action="run `onetape parity` on the archive: it names the first differences",
        )  # fmt: skip
    return {"leakcheck": leaks.json(), "parity": live.json()}


def _selected(archive: ArchiveReader, whole: Replayed, recipe: Recipe) -> Vectors:
    """The recipe's instruments and span of a whole replay."""
    archive.check_symbols(recipe.symbols or ())
    vectors = whole.vectors
    keep = vectors.time == vectors.time
    if recipe.symbols is not None:
        wanted = [i for i, key in enumerate(vectors.keys) if key in recipe.symbols]
        keep &= [key in wanted for key in vectors.key.tolist()]
    if recipe.from_ns is not None:
        keep &= vectors.time >= recipe.from_ns
    if recipe.to_ns is not None:
        keep &= vectors.time < recipe.to_ns
    return vectors.select(keep)


def _table(vectors: Vectors, label: Label) -> pa.Table:
    table = vectors.to_table()
    for name, values in ((label.name, label.value), ("label_t0", label.t0), ("label_t1", label.t1)):
        table = table.append_column(name, pa.array(values))
    return table


def _quality(vectors: Vectors, split: TimeSplit) -> dict[str, int]:
    """Rows of the dataset that carry each quality flag."""
    kept = vectors.quality[~split.purged]
    return {flag.name or "": int((kept & flag != 0).sum()) for flag in Quality if (kept & flag != 0).any()}


def _check_inputs(archive: ArchiveReader, used: list[dict[str, Any]]) -> dict[int, int]:
    """Last offset by partition of the recorded inputs, which must be in the archive unchanged. Errors: SegmentTorn."""
    there = {each["file"]: each["sha256"] for each in inputs(archive)}
    for each in used:
        if there.get(each["file"]) != each["sha256"]:
            raise SegmentTorn(
                f"input {each['file']} is not the one this dataset was built from",
                expected=f"sha256 {each['sha256'][:16]}...", was=str(there.get(each["file"], "no such file"))[:16],
                action="restore the segment, or build the dataset anew",
            )  # fmt: skip
    return {each["partition"]: each["last_offset"] for each in used}


def _publish(datasets: Path, manifest: dict[str, Any], tables: Mapping[str, pa.Table]) -> dict[str, Any]:
    folder = datasets / manifest["id"]
    if (folder / MANIFEST).exists():
        known = load_manifest(datasets, manifest["id"])
        if known["output_hash"] != manifest["output_hash"]:
            raise CheckFailed(
                f"{manifest['id']} is there with another content", expected=f"output {known['output_hash'][:16]}...",
                was=f"{manifest['output_hash'][:16]}... from the same recipe and inputs",
                action="the code has changed: publish the feature set as a new version, or remove the old dataset",
            )  # fmt: skip
        return {**manifest, "reused": True}
    with new_folder(folder) as staging, disk_errors(folder):
        for name, table in tables.items():
            path = staging / f"{name}.parquet"
            pq.write_table(table, path, compression="zstd", write_page_checksum=True)
            files.sync(path)
        files.write_json(staging / MANIFEST, manifest)
    return {**manifest, "reused": False}


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    """A split in the types it was built with: what wrote the file may name equal values by other types."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read().cast(schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SegmentTorn(
            f"{path.parent.name}/{path.name} is torn", expected="the file that was built", was=str(error),
            action="remove the dataset and build it anew",
        ) from None  # fmt: skip
