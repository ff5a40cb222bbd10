"""Building: a recipe and an archive become a dataset with its proof, whole or not at all.

Input: an archive and a `Recipe`.
State: the work folder of `replay.datasets.work`, until the dataset is there.
Output: `DIR/<id>/` with Parquet files, `card.html` and `manifest.json`.
Units: times in ns UTC.
Errors: CheckFailed (a leak, live vectors that differ, another output under the same id), UsageError, and those of the
archive. A build that fails publishes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from agents.features import features_agent
from replay import segments as files
from replay.card.page import write_card
from replay.datasets import chunks, work
from replay.datasets.assembly import Assembly, Told, silent
from replay.datasets.catalogue import MANIFEST, load_manifest
from replay.datasets.engines import Engine, Here
from replay.datasets.files import output_hash, schema_of
from replay.datasets.labelled import Labeller
from replay.datasets.proving import Proof, prove, windows_of
from replay.datasets.recipe import Recipe, identify, remembering
from replay.datasets.shares import Task, behind, run, shared
from replay.digest import code_digest
from replay.driver import inputs
from replay.labels.prices import prices_set
from replay.parity import total
from replay.ports import Agent
from replay.proof.dataset import prove_rows
from replay.publication import disk_errors, new_folder
from replay.reader import ArchiveReader
from replay.segments import Segment
from schemas.errors import CheckFailed, UsageError
from schemas.feature_sets import FeatureSet, located
from schemas.units import NS_PER_MS

LIBRARIES = ("numpy", "numba", "pyarrow")


def build(
    archive: ArchiveReader,
    datasets: Path,
    recipe: Recipe,
    cuts: Sequence[float],
    *,
    engine: Engine | None = None,
    told: Told | None = None,
    agent: Agent = features_agent,
) -> dict[str, Any]:
    """Build, prove and publish a dataset; `cuts` are those of the leak check. Returns the manifest.

    The same recipe over the same archive is the same id: where it is there already and was made by this code, it is
    left as it is (`reused`). What a killed build of it has left is gone on with (`resumed`).
    """
    feature_set = recipe.check()
    archive.check_symbols(recipe.symbols or ())
    recipe = replace(recipe, feature_set=located(recipe.feature_set))
    used, datasets = inputs_of(archive, recipe), datasets.resolve()
    _check_span(archive, recipe)
    dataset_id = identify(recipe, feature_set, used)
    told = told or silent
    with work.turn(datasets, partial(told, "waiting for another build", 0, 1)):
        known = _known(datasets, dataset_id)
        if known is not None:
            _check_stored(datasets / dataset_id, recipe, feature_set, known)
            work.forget(work.folder_of(datasets, dataset_id))  # of one that was killed once its dataset was there
            return {**known, "reused": True, "resumed": False}
        engine = engine or Here()
        tasks = plan(archive, recipe, feature_set, used, parts=engine.parts, cuts=cuts, agent=agent)
        folder, resumed = work.begun(datasets, dataset_id, work.made_of(tasks, cuts))
        tasks = [replace(task, folder=folder / task.folder) for task in tasks]
        make(tasks, engine, told)
        with _forgotten_if_refused(folder):
            assembly = assembled(recipe, feature_set, tasks, told)
            proof = _proven(tasks, engine, told)
            manifest = {
                **described(recipe, feature_set, used),
                "recipe": recipe.json(),
                "archive": str(archive.path.resolve()),
                "inputs": used,
                "events": _records(tasks),
                "code": {"sha256": code_digest(), **{name: version(name) for name in LIBRARIES}},
                "leakcheck": proof.leakcheck.json(),
                "parity": total(proof.parity).json() if proof.parity else None,
                "lookahead": proof.lookahead.json(),
            }
            published = _publish(datasets, manifest, assembly)
        work.forget(folder)
    return {**published, "reused": False, "resumed": resumed}


def described(recipe: Recipe, feature_set: FeatureSet, used: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a manifest says that follows from recipe and inputs alone."""
    return {
        "id": identify(recipe, feature_set, used),
        "feature_set": feature_set.id,
        "feature_set_digest": feature_set.digest(),
        "features": list(feature_set.features),
        "labels": [spec.name for spec in recipe.specs],
        "look_back_ns": recipe.row_look_back_ns(feature_set),
        "remembering": remembering(feature_set),
    }


@contextmanager
def _forgotten_if_refused(folder: Path) -> Iterator[None]:
    """The same would be refused again: there is nothing to go on with."""
    try:
        yield
    except (CheckFailed, UsageError):
        work.forget(folder)
        raise


def _records(tasks: Sequence[Task]) -> int:
    """Records of the tape that were passed, those of all symbols, whoever of several shares has passed them."""
    spans: dict[int, tuple[int, int]] = {}
    for task in tasks:
        for chunk in chunks.read_all(task.folder):
            first, last = spans.get(task.share.partition, (chunk.first_offset, chunk.last_offset))
            spans[task.share.partition] = (min(first, chunk.first_offset), max(last, chunk.last_offset))
    return sum(last + 1 - first for first, last in spans.values())


def inputs_of(archive: ArchiveReader, recipe: Recipe) -> list[dict[str, Any]]:
    """The segments that a recipe may read: none that begins behind its span, so that an archive may grow."""
    end_ns = None if recipe.to_ns is None else recipe.to_ns + recipe.reach_ns
    beyond = {
        segment.label() for partition in archive.partitions() for segment in archive.links(partition)
        if end_ns is not None and isinstance(segment, Segment) and segment.first_ts >= end_ns
    }  # fmt: skip
    return [each for each in inputs(archive) if each["file"] not in beyond]


def plan(
    archive: ArchiveReader,
    recipe: Recipe,
    feature_set: FeatureSet,
    used: Sequence[Mapping[str, Any]],
    *,
    parts: int = 1,
    cuts: Sequence[float] = (),
    agent: Agent = features_agent,
) -> list[Task]:
    """The tasks of a build, their folders relative to a work folder."""
    ends = {each["partition"]: each["last_offset"] for each in used}
    back_ns = max(recipe.look_back_ns, recipe.values.look_back_ns)
    first_ns = None if recipe.from_ns is None else recipe.from_ns - back_ns
    end_ns = None if recipe.to_ns is None else recipe.to_ns + recipe.reach_ns
    windows = windows_of(archive, ends, cuts, first_ns, end_ns)
    prices = prices_set(recipe.step_ns(feature_set) // NS_PER_MS, recipe.specs)
    shares = shared(archive, ends, recipe.symbols, parts, windows)
    # The assembly holds a chunk of every share at once.
    numbers_max = max(chunks.CHUNK_NUMBERS // max(1, len(shares)), chunks.CHUNK_NUMBERS_MIN)
    return [
        Task(
            archive.path.resolve(), Path(f"share-{i:04d}"), share, feature_set, prices,
            archive.segments(share.partition)[0].first_offset, ends[share.partition], first_ns, end_ns, numbers_max,
            agent,
        )
        for i, share in enumerate(shares)
    ]  # fmt: skip


def make(tasks: Sequence[Task], engine: Engine, told: Told) -> None:
    """Every chunk of every task."""
    total, done = sum(task.last_offset + 1 - task.first_offset for task in tasks), 0

    def passed(offsets: int) -> None:
        nonlocal done
        done += offsets
        told("replaying", min(done, total), total)

    if isinstance(engine, Here):
        engine.run(partial(run, passed=passed), tasks, lambda: None)
    else:
        engine.run(run, tasks, lambda: told("replaying", sum(map(behind, tasks)), total))


def assembled(recipe: Recipe, feature_set: FeatureSet, tasks: Sequence[Task], told: Told) -> Assembly:
    """Labels, splits and fitted values of what the tasks have made. Errors: UsageError."""
    shares = [Labeller(task.folder, recipe, feature_set, task.prices) for task in tasks]
    assembly = Assembly(recipe, feature_set, recipe.row_look_back_ns(feature_set), shares, told)
    assembly.label()
    assembly.split()
    assembly.fit()
    return assembly


def _proven(tasks: Sequence[Task], engine: Engine, told: Told) -> Proof:
    """The proofs of all shares. Errors: CheckFailed."""
    proof, done = Proof(), 0

    def tell() -> None:
        nonlocal done
        told("proving", done, max(len(tasks), 1))
        done = min(done + 1, len(tasks))

    tell()
    for each in engine.run(prove, tasks, tell):
        proof.add(each)
    leaks = proof.leakcheck
    leaks.check_control()
    if not leaks.ok:
        raise CheckFailed(
            "the dataset is not published: its features depend on the future" if leaks.leaking
            else "the dataset is not published: the leak check had nothing to compare",
            expected="no value that changes when later records are deleted or others",
            was=f"{', '.join(leaks.leaking) or 'no row'} at {leaks.cuts} cuts",
            action="run `onetape leakcheck` on the archive and correct the features it names"
            if leaks.leaking else "use a longer tape, or more cuts",
        )  # fmt: skip
    live = total(proof.parity)
    if proof.parity and not live.ok:
        raise CheckFailed(
            "the dataset is not published: its vectors are not those that were live",
            expected="every archived live vector, bit for bit",
            was=f"{live.compared} compared, {live.mismatch} different, {live.missing} missing, {live.extra} extra, "
            f"{live.conflicting} conflicting",
            action="run `onetape parity` on the archive: it names the first differences",
        )  # fmt: skip
    return proof


def _known(datasets: Path, dataset_id: str) -> dict[str, Any] | None:
    """The manifest of a dataset that is there; None where there is none or other code has made it."""
    if not (datasets / dataset_id / MANIFEST).exists():
        return None
    known = load_manifest(datasets, dataset_id)
    return known if known["code"]["sha256"] == code_digest() else None


def _check_stored(folder: Path, recipe: Recipe, feature_set: FeatureSet, known: Mapping[str, Any]) -> None:
    """A dataset is there only if its files are what was built. Errors: SegmentTorn, CheckFailed."""
    schema = schema_of(feature_set, recipe.specs, [fold["name"] for fold in known.get("folds", [])])
    stored = output_hash(folder, schema, known["files"])
    if stored != known["output_hash"]:
        raise CheckFailed(
            f"{folder.name} is there with another content", expected=f"output {known['output_hash'][:16]}...",
            was=f"{stored[:16]}... in its files", action="remove the dataset and build it anew",
        )  # fmt: skip


def _check_span(archive: ArchiveReader, recipe: Recipe) -> None:
    """Errors: UsageError for a span of which the archive has nothing, or labels that end behind it."""
    segments = [segment for partition in archive.partitions() for segment in archive.segments(partition)]
    ticks = [segment.last_tick for segment in segments if segment.last_tick is not None]
    if not ticks:
        return
    first, last = min(segment.first_ts for segment in segments if segment.first_ts), max(ticks)
    begin = max(first, first if recipe.from_ns is None else recipe.from_ns)
    if begin + recipe.reach_ns > last or (recipe.to_ns is not None and recipe.to_ns <= first):
        there = " to ".join(f"{np.datetime64(ns, 'ns')}Z" for ns in (first, last))
        raise UsageError(
            "the archive has no row with a label in this span",
            expected=f"a span within {there}, longer than {recipe.reach_ns / 1e9:g} s of entry delay and horizon",
            was=" to ".join("the beginning" if ns is None and i == 0 else "the end" if ns is None
                            else f"{np.datetime64(ns, 'ns')}Z" for i, ns in enumerate((recipe.from_ns, recipe.to_ns))),
            action="choose another --from and --to, or a shorter horizon",
        )  # fmt: skip


def _publish(datasets: Path, manifest: dict[str, Any], assembly: Assembly) -> dict[str, Any]:
    """Write everything into a hidden folder and give it its name. Errors: CheckFailed."""
    folder, recipe = datasets / manifest["id"], assembly.recipe
    if (folder / MANIFEST).exists():
        known, found = load_manifest(datasets, manifest["id"]), assembly.write(None)
        if known["output_hash"] == found["output_hash"]:
            return known
        raise CheckFailed(
            f"{manifest['id']} is there with another content", expected=f"output {known['output_hash'][:16]}...",
            was=f"{found['output_hash'][:16]}... from the same recipe and inputs",
            action="the code has changed: publish the feature set as a new version, or remove the old dataset",
        )  # fmt: skip
    with new_folder(folder) as staging, disk_errors(folder):
        manifest = {**manifest, **assembly.write(staging)}
        rows = prove_rows(
            staging, manifest["files"], assembly.feature_set, recipe.specs, recipe.entry_delay_ns,
            is_by_time=recipe.split.kind == "time",
        )  # fmt: skip
        rows.check()
        manifest |= rows.json()
        write_card(staging, manifest)
        files.write_json(staging / MANIFEST, manifest)
    return manifest
