"""A dataset is a recipe with its proof: rebuilt it is the same, and one that fails a proof is not there."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from tapes import INSTRUMENTS, archive_of, market, tape
from test_leakcheck import leaky_agent

from replay.archive import live
from replay.datasets.build import build
from replay.datasets.catalogue import dataset_ids, load_manifest
from replay.datasets.recipe import Recipe, identify
from replay.datasets.verify import verify
from replay.driver import replay
from replay.folder import IMPORT
from replay.parity import matches
from replay.reader import ArchiveReader
from replay.splits.spec import parse as parse_split
from replay.values.spec import parse as parse_values
from schemas.errors import CheckFailed, DependencyDown, OnetapeError, SegmentTorn, UsageError
from schemas.events import Kind
from schemas.feature_sets import DEFAULT, load

SET = load(DEFAULT)
RECIPE = Recipe(DEFAULT, ("forward_return_2s",), keeps_warmup=True)
CUTS = [0.2, 0.5, 0.83]
TAPE = tape(market(51, 2500, 40))


@pytest.fixture
def archive(tmp_path: Path) -> ArchiveReader:
    return ArchiveReader(archive_of(tmp_path / "archive", [part.slice(0, len(part) - 50) for part in TAPE]))


@pytest.mark.fault("replay", "the same dataset twice, in other processes and hash seeds")
def test_built_twice_it_is_the_same(archive: ArchiveReader, tmp_path: Path) -> None:
    datasets = tmp_path / "datasets"
    manifest = build(archive, datasets, RECIPE, CUTS)
    assert manifest["id"].startswith("micro-2-forward_return_2s-")
    assert manifest["leakcheck"]["leaking"] == []
    assert manifest["parity"] is None
    assert not manifest["reused"]
    assert manifest["rows"] == sum(manifest["splits"].values())
    assert dataset_ids(datasets) == [manifest["id"]]
    again = build(archive, datasets, RECIPE, [0.4])
    assert (again["id"], again["output_hash"], again["reused"]) == (manifest["id"], manifest["output_hash"], True)
    elsewhere = build(archive, tmp_path / "elsewhere", RECIPE, CUTS)
    assert elsewhere["output_hash"] == manifest["output_hash"]
    assert load_manifest(datasets, manifest["id"])["output_hash"] == manifest["output_hash"]
    halves = replace(RECIPE, split=parse_split("train=0.5,test=0.5"), symbols=INSTRUMENTS[:1])
    other = build(archive, datasets, halves, CUTS)
    assert other["id"] != manifest["id"]
    assert set(pl.read_parquet(datasets / other["id"] / "test.parquet")["instrument"]) == {INSTRUMENTS[0]}


def test_every_row_is_a_vector_with_its_label(archive: ArchiveReader, tmp_path: Path) -> None:
    manifest = build(archive, tmp_path, RECIPE, CUTS)
    frames = [pl.read_parquet(tmp_path / manifest["id"] / f"{name}.parquet") for name in manifest["splits"]]
    rows = pl.concat(frames)
    vectors = replay(archive, SET).vectors
    assert rows.height + manifest["purged"] + manifest["unlabelled"] == len(vectors)
    assert rows.sort("time", "instrument").equals(rows)
    mid = dict(zip(zip(vectors.instruments(), vectors.time.tolist(), strict=True), vectors.values[:, 0], strict=True))
    assert SET.features[0] == "mid_price"
    for key, time, price, label, t1 in rows.select(
        "instrument", "time", "mid_price", "forward_return_2s", "label_t1"
    ).iter_rows():
        assert price == mid[key, time]
        assert label == mid[key, t1] / price - 1.0
    for earlier, later in pairwise(frames):
        assert earlier["label_t1"].max() < later["time"].min()
    assert manifest["quality"] == {
        flag: count for flag, count in manifest["quality"].items() if 0 < count <= manifest["rows"]
    }


def test_verify_rebuilds_and_compares(archive: ArchiveReader, tmp_path: Path) -> None:
    datasets = tmp_path / "datasets"
    dataset_id = build(archive, datasets, RECIPE, CUTS)["id"]
    assert verify(datasets, dataset_id)["equal"]
    with live(archive.path, 2, origin=IMPORT) as writer:
        for part in TAPE:
            writer.append_tape(part)
    assert verify(datasets, dataset_id)["equal"], "an archive that has grown still holds the inputs"
    path = datasets / dataset_id / "test.parquet"
    table = pq.read_table(path)
    label = table["forward_return_2s"].to_numpy().copy()
    label[0] = np.nextafter(label[0], 1.0)
    pq.write_table(
        table.set_column(table.schema.get_field_index("forward_return_2s"), "forward_return_2s", [label]), path
    )
    assert not verify(datasets, dataset_id)["equal"]
    for change in (table.drop_columns("time"), table.set_column(1, table.schema.names[1], [["x"] * table.num_rows])):
        pq.write_table(change, path)
        with pytest.raises(SegmentTorn, match=r"test\.parquet.*Action"):
            verify(datasets, dataset_id)
    pl.from_arrow(table).write_parquet(path)
    assert verify(datasets, dataset_id)["equal"], "equal values, written by another library in types of its own"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SegmentTorn, match=r"test\.parquet.*Action"):
        verify(datasets, dataset_id)


@pytest.mark.parametrize("split", ["train=0.7,validation=0.15,test=0.15", "walk_forward:folds=2"])
def test_verify_finds_what_a_manifest_was_made_to_say(archive: ArchiveReader, tmp_path: Path, split: str) -> None:
    recipe = replace(RECIPE, split=parse_split(split), values=parse_values("outliers=clip(3),normalization=zscore"))
    dataset_id = build(archive, tmp_path, recipe, CUTS)["id"]
    path = tmp_path / dataset_id / "manifest.json"
    text = path.read_text()
    assert verify(tmp_path, dataset_id)["differing"] == []
    manifest = json.loads(text)
    fitted = manifest["values"]["folds"]["fold_1"] if "folds" in manifest else manifest["values"]
    fitted["columns"][SET.features[0]]["scale"] *= 1.5
    path.write_text(json.dumps(manifest))
    found = verify(tmp_path, dataset_id)
    assert (found["equal"], found["differing"]) == (False, ["values"])
    assert found["output_hash"] == found["rebuilt"] == found["stored"]
    manifest = json.loads(text)
    counts = ["embargoed", "missing_rows", "purged", "rows", "unlabelled", "warmup_rows"]
    manifest |= {name: manifest[name] + 1 for name in counts}
    ranged = "folds" if "folds" in manifest else "ranges"
    (manifest["folds"][1]["ranges"] if "folds" in manifest else manifest["ranges"])[0][2] += 1
    manifest["splits"].popitem()
    del manifest["coverage"]
    path.write_text(json.dumps(manifest))
    found = verify(tmp_path, dataset_id)
    assert (found["equal"], found["differing"]) == (False, sorted([*counts, ranged, "splits", "coverage"]))
    manifest = json.loads(text)
    told = {**manifest, "features": manifest["features"][::-1], "labels": ["forward_return_3s"], "look_back_ns": 0}
    told["recipe"] = {**manifest["recipe"], "split": {**manifest["recipe"]["split"], "embargo_ns": 10**9}}
    path.write_text(json.dumps(told))
    assert verify(tmp_path, dataset_id)["differing"] == ["features", "id", "labels", "look_back_ns"]


def test_verify_wants_the_same_inputs(archive: ArchiveReader, tmp_path: Path) -> None:
    dataset_id = build(archive, tmp_path / "datasets", RECIPE, CUTS)["id"]
    other = ArchiveReader(archive_of(tmp_path / "other", tape(market(52, 2500, 40))))
    with pytest.raises(SegmentTorn, match="not the one this dataset was built from"):
        verify(tmp_path / "datasets", dataset_id, other)


def test_a_tape_without_a_book_has_no_labels(tmp_path: Path) -> None:
    bookless = tape([event for event in market(51, 900, 10) if event.kind not in (Kind.SNAPSHOT, Kind.DELTA)])
    archive = ArchiveReader(archive_of(tmp_path / "archive", bookless))
    with pytest.raises(UsageError, match=r"no row has a label.*Action: check that the book had a Snapshot"):
        build(archive, tmp_path / "datasets", RECIPE, CUTS)


def test_a_leak_is_not_published(archive: ArchiveReader, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"not published.*mid_price.*Action"):
        build(archive, tmp_path / "datasets", RECIPE, CUTS, agent=leaky_agent)
    with pytest.raises(CheckFailed, match="nothing to compare"):
        build(archive, tmp_path / "datasets", RECIPE, [])
    assert left_in(tmp_path / "datasets") == []


def test_live_vectors_that_differ_are_not_published(archive: ArchiveReader, tmp_path: Path) -> None:
    vectors = replay(archive, SET).vectors
    with live(archive.path, 2, origin=IMPORT) as writer:
        writer.append_vectors(0, range(len(vectors)), vectors)
    archive = ArchiveReader(archive.path)
    assert build(archive, tmp_path / "good", RECIPE, CUTS)["parity"]["compared"] == len(vectors)
    changed = vectors.select(np.array([9]))
    changed.quality[0] ^= 1
    with live(archive.path, 2, origin=IMPORT) as writer:
        writer.append_vectors(0, [len(vectors)], changed)
    with pytest.raises(CheckFailed, match=r"not published.*1 conflicting.*Action"):
        build(archive, tmp_path / "bad", RECIPE, CUTS)
    assert left_in(tmp_path / "bad") == []
    assert len(matches(vectors, changed)[0]) == 1


def test_another_content_under_the_same_id_is_an_error(archive: ArchiveReader, tmp_path: Path) -> None:
    manifest = build(archive, tmp_path, RECIPE, CUTS)
    path = tmp_path / manifest["id"] / "manifest.json"
    other_code = {**manifest["code"], "sha256": "of other code"}
    path.write_text(json.dumps({**manifest, "code": other_code}))
    assert build(archive, tmp_path, RECIPE, CUTS)["code"] == other_code, "made again, and found to be the same"
    path.write_text(json.dumps({**manifest, "code": other_code, "output_hash": "0" * 64}))
    with pytest.raises(CheckFailed, match=r"another content.*Action"):
        build(archive, tmp_path, RECIPE, CUTS)
    path.write_text("{")
    with pytest.raises(CheckFailed, match="torn"):
        load_manifest(tmp_path, manifest["id"])


FIELDS = (
    "id",
    "feature_set",
    "feature_set_digest",
    "recipe",
    "archive",
    "inputs",
    "labels",
    "files",
    "output_hash",
    "code",
)
"""Of a manifest, those that are read again."""


def left_in(datasets: Path) -> list[str]:
    """What is in a folder of datasets besides whose turn it is."""
    return sorted(
        str(path.relative_to(datasets)) for path in datasets.rglob("*") if path.name not in (".work", "queue")
    )


def broken(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Manifests that lack a field, or have another JSON type in it."""
    parts = {"": FIELDS, "recipe": RECIPE.json(), "inputs": manifest["inputs"][0], "leakcheck": {"leaking": []}}
    for holder in ([], ["recipe"], ["inputs", 0], ["leakcheck"]):
        for name in parts["".join(map(str, holder[:1]))]:
            for value in (None, True, 7, "x", [], [7], {}, {"a": {}}, float("nan")):
                changed = copy.deepcopy(manifest)
                place: Any = changed
                for step in holder:
                    place = place[step]
                place[name] = value
                yield changed
                place.pop(name)
                yield changed


def test_a_manifest_of_another_content_is_an_error(archive: ArchiveReader, tmp_path: Path) -> None:
    manifest = build(archive, tmp_path, RECIPE, CUTS)
    path = tmp_path / manifest["id"] / "manifest.json"
    for content in ("[]", "7", "[" * 100_000, json.dumps({**manifest, "id": "other"})):
        path.write_text(content)
        with pytest.raises(CheckFailed, match="torn"):
            load_manifest(tmp_path, manifest["id"])
    shutil.rmtree(archive.path)
    for content in broken(manifest):
        path.write_text(json.dumps(content))
        with pytest.raises(OnetapeError, match="Action"):
            verify(tmp_path, manifest["id"])


def test_a_place_that_cannot_be_written_is_an_error(archive: ArchiveReader, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for datasets in (tmp_path / "file", tmp_path / "file" / "datasets", Path("/proc/datasets")):
        with pytest.raises(DependencyDown, match=r"cannot write.*Action: check the folder"):
            build(archive, datasets, RECIPE, CUTS)
    taken = tmp_path / "datasets" / build(archive, tmp_path / "elsewhere", RECIPE, CUTS)["id"]
    taken.mkdir(parents=True)
    (taken / "notes").write_text("")
    with pytest.raises(UsageError, match="not empty"):
        build(archive, tmp_path / "datasets", RECIPE, CUTS)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (("forward_return_5s",), "forward_return_5s"),
        (("direction_500ms(threshold=0.002)",), "direction_500ms_threshold_0_002"),
        (("forward_return_1h", "mark_out_5s", "direction_5s"), "forward_return_3600s_and_2"),
    ],
)
def test_an_id_tells_the_labels(tmp_path: Path, labels: tuple[str, ...], text: str) -> None:
    dataset_id = identify(Recipe(DEFAULT, labels), SET, [])
    assert dataset_id.startswith(f"micro-2-{text}-")
    (tmp_path / dataset_id).mkdir()
    (tmp_path / dataset_id / "manifest.json").write_text("{}")
    assert dataset_ids(tmp_path) == [dataset_id]


def test_what_is_there_is_looked_at_before_it_is_given(archive: ArchiveReader, tmp_path: Path) -> None:
    manifest = build(archive, tmp_path, RECIPE, CUTS)
    path = tmp_path / manifest["id"] / "test.parquet"
    whole = path.read_bytes()
    frame = pl.read_parquet(path)
    frame.with_columns(pl.col("mid_price") + 1.0).write_parquet(path)
    with pytest.raises(CheckFailed, match="another content"):
        build(archive, tmp_path, RECIPE, CUTS)
    path.unlink()
    with pytest.raises(SegmentTorn, match="torn"):
        build(archive, tmp_path, RECIPE, CUTS)
    path.write_bytes(whole)
    assert build(archive, tmp_path, RECIPE, CUTS)["reused"]


def test_a_feature_named_as_a_column_is_refused_at_once(archive: ArchiveReader, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("")
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nversion: 1\nown_features: [own.py]\nfeatures: [mid_price, label_t0]\n")
    with pytest.raises(UsageError, match=r"names of a dataset's own columns.*label_t0.*Action"):
        build(archive, tmp_path / "d", replace(RECIPE, feature_set=str(path)), CUTS)


@pytest.mark.parametrize("dataset_id", ["..", "../archive", "micro-1-fwd5s-x", "a/b", "", "%2e%2e", "x" * 5000, "a\0b"])
def test_unknown_ids_stay_inside_the_folder(tmp_path: Path, dataset_id: str) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match=r"no dataset.*Action"):
        load_manifest(tmp_path / "datasets", dataset_id)


def test_unknown_feature_sets_and_symbols_are_refused(archive: ArchiveReader, tmp_path: Path) -> None:
    for recipe in (
        Recipe("micro@9"),
        replace(RECIPE, labels=("forward_return_2300ms",)),
        replace(RECIPE, labels=("mid_price",)),
        replace(RECIPE, labels=("forward_return_1000000d",)),
        replace(RECIPE, entry_delay_ns=1),
        replace(RECIPE, label_step_ns=300_000_000),
        replace(RECIPE, symbols=("X:Y",)),
        replace(RECIPE, values=parse_values("midprice: normalization=zscore")),
        replace(RECIPE, from_ns=5, to_ns=5),
    ):
        with pytest.raises(UsageError, match="Action"):
            build(archive, tmp_path / "datasets", recipe, CUTS)
    assert not (tmp_path / "datasets").exists()


def test_a_set_of_ones_own_is_a_recipe_too(
    archive: ArchiveReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found again from any folder, its file may lie elsewhere, and a change of its definition is told."""
    monkeypatch.chdir(tmp_path)
    text = "name: mine\nversion: 2\ncadence_ms: 500\nfeatures: [mid_price, volume_500ms: {missing: forward_fill(2s)}]\n"
    Path("mine.yaml").write_text(text)
    manifest = build(
        archive,
        tmp_path / "datasets",
        replace(RECIPE, feature_set="mine.yaml", labels=("forward_return_1500ms",)),
        CUTS,
    )
    assert (manifest["feature_set"], manifest["feature_set_digest"]) == ("mine@2", load("mine.yaml").digest())
    assert manifest["id"].startswith("mine-2-forward_return_1500ms-")
    Path("copy.yaml").write_text(text)
    again = build(
        archive, tmp_path / "copies", replace(RECIPE, feature_set="copy.yaml", labels=("forward_return_1500ms",)), CUTS
    )
    assert (again["id"], again["output_hash"]) == (manifest["id"], manifest["output_hash"])
    monkeypatch.chdir("/")
    assert verify(tmp_path / "datasets", manifest["id"])["equal"]
    (tmp_path / "mine.yaml").write_text(text.replace("2s", "3s"))
    with pytest.raises(CheckFailed, match=r"definition of mine@2 has changed.*Action: restore .*mine\.yaml"):
        verify(tmp_path / "datasets", manifest["id"])
    changed = build(
        archive,
        tmp_path / "datasets",
        replace(RECIPE, feature_set=str(tmp_path / "mine.yaml"), labels=("forward_return_1500ms",)),
        CUTS,
    )
    assert changed["id"] != manifest["id"]
