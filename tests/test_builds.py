"""How a dataset is built changes nothing in it: chunks, shares, engines, kills; and what a recipe asks for is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import polars as pl
import pytest
from commandline import onetape
from conftest import ROOT
from tapes import archive_of

from app.bench.stream import Stream
from app.cuts import random_cuts
from replay.archive import live
from replay.datasets import shares, work
from replay.datasets.build import build
from replay.datasets.chunks import Cutter
from replay.datasets.engines import Here, Processes, engine_of
from replay.datasets.recipe import Recipe, look_back_ns
from replay.datasets.verify import verify
from replay.driver import replay
from replay.folder import IMPORT
from replay.laying import lay
from replay.reader import ArchiveReader
from replay.splits.spec import parse as parse_split
from replay.values.parameters import load as load_parameters
from replay.values.spec import parse as parse_values
from schemas.columns import Columns
from schemas.errors import CheckFailed, DependencyDown, UsageError
from schemas.feature_sets import DEFAULT, load
from schemas.units import NS_PER_MS, NS_PER_S
from schemas.vectors import Quality, Vectors

SET = load(DEFAULT)
RECIPE = Recipe(DEFAULT, ("forward_return_2s", "triple_barrier_5s(upper=0.00002, lower=0.00002)"))
CUTS = [0.31, 0.55, 0.8]
INSTRUMENTS = ("GENERATED:A", "GENERATED:B", "GENERATED:C")


def tape() -> list[Columns]:
    """Four minutes of a market that moves: two instruments in one partition, the third in the other."""
    streams = [Stream(INSTRUMENTS[:2], 5, rate=10), Stream(INSTRUMENTS[2:], 6, rate=10, partition=1)]
    return [Columns.concat([each.begin(), each.take(rows)]) for each, rows in zip(streams, (7200, 4800), strict=True)]


TAPE = tape()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ArchiveReader:
    return ArchiveReader(archive_of(tmp_path_factory.mktemp("builds") / "archive", TAPE))


@pytest.fixture(scope="module")
def whole(archive: ArchiveReader, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The dataset of RECIPE, its folder and its manifest."""
    datasets = tmp_path_factory.mktemp("whole")
    manifest = build(archive, datasets, RECIPE, CUTS)
    return datasets / manifest["id"], manifest


def rows_of(folder: Path, manifest: dict[str, Any]) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(folder / name) for name in manifest["files"]])


@pytest.mark.parametrize(("records", "numbers"), [(97, 10**9), (10**9, 5_000), (1_000, 40_000)])
def test_chunks_change_nothing(
    archive: ArchiveReader, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    records: int, numbers: int,
) -> None:  # fmt: skip
    bounds = {"records_max": records, "numbers_max": numbers}
    monkeypatch.setattr(shares, "Cutter", lambda *given, **named: Cutter(*given, **{**named, **bounds}))
    counts: list[int] = []
    written = shares.chunks.write
    monkeypatch.setattr(shares.chunks, "write", lambda *given: (counts.append(len(given[2])), written(*given)))
    made = build(archive, tmp_path, RECIPE, CUTS)
    assert made["output_hash"] == whole[1]["output_hash"]
    assert made["leakcheck"]["rows_checked"] == whole[1]["leakcheck"]["rows_checked"] > 0
    assert len(counts) > 10
    assert max(counts) * len(SET.features) < numbers + 3 * len(SET.features)


@pytest.mark.parametrize("name", ["here", "processes", "ray"])
def test_engines_change_nothing(
    archive: ArchiveReader, whole: tuple[Path, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    with engine_of("ray" if name == "ray" else "local", 1 if name == "here" else 3) as engine:
        assert (type(engine) is Here, type(engine) is Processes) == (name == "here", name == "processes")
        made = build(archive, tmp_path, RECIPE, CUTS, engine=engine)
        same = set(made) - {"leakcheck", "reused", "resumed"}
        assert {name: made[name] for name in same} == {name: whole[1][name] for name in same}
        assert made["leakcheck"]["rows_checked"] == whole[1]["leakcheck"]["rows_checked"]
        assert made["leakcheck"]["control"]["caught"]
        with pytest.raises(UsageError, match="no row"):
            build(archive, tmp_path, replace(RECIPE, labels=("forward_return_1h",)), CUTS, engine=engine)


def test_an_unknown_engine_and_a_cluster_that_is_not_there_are_errors() -> None:
    with pytest.raises(UsageError, match=r"no engine 'dask'.*Action"), engine_of("dask", 1):
        pass
    with pytest.raises(DependencyDown, match=r"Ray does not answer.*Action"), engine_of("ray", 1, "127.0.0.1:1"):
        pass


KILLED = dedent("""
    import os, sys
    from functools import partial
    from pathlib import Path
    from replay.datasets import shares
    from replay.datasets.build import build
    from replay.datasets.chunks import Cutter
    from replay.datasets.recipe import Recipe
    from replay.reader import ArchiveReader

    shares.Cutter = partial(Cutter, records_max=500)
    real, left = shares.chunks.write, [int(sys.argv[3])]

    def write(*given):
        real(*given)
        left[0] -= 1
        if not left[0]:
            os._exit(9)

    shares.chunks.write = write
    recipe = Recipe("micro@2", tuple(sys.argv[4:]))
    build(ArchiveReader(Path(sys.argv[1])), Path(sys.argv[2]), recipe, [0.31, 0.55, 0.8])
""")


@pytest.mark.fault("replay", "a build is killed at every write")
def test_a_killed_build_goes_on_behind_its_last_chunk(
    archive: ArchiveReader, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", KILLED, str(archive.path), str(tmp_path), "9", *RECIPE.labels]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 9, done.stderr
    (left,) = work.unfinished(tmp_path)
    assert left["id"] == whole[1]["id"]
    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(shares, "Cutter", partial(Cutter, records_max=500))
    made = build(archive, tmp_path, RECIPE, CUTS, told=lambda *stage: told.append(stage))
    assert (made["resumed"], made["output_hash"]) == (True, whole[1]["output_hash"])
    stage, first, total = told[0]
    assert (stage, total) == ("replaying", sum(len(part) for part in TAPE))
    assert first > total // 5, "what was done is not done again"
    assert work.unfinished(tmp_path) == []
    assert (tmp_path / made["id"] / "card.html").stat().st_size > 10_000


def test_work_of_other_cuts_is_not_gone_on_with(archive: ArchiveReader, tmp_path: Path) -> None:
    folder, resumed = work.begun(tmp_path, "x-1-y-z", {"cuts": [0.5]})
    (folder / "chunk").write_text("")
    assert (resumed, work.begun(tmp_path, "x-1-y-z", {"cuts": [0.5]})[1]) == (False, True)
    assert not work.begun(tmp_path, "x-1-y-z", {"cuts": [0.4]})[1]
    assert not (folder / "chunk").exists()


def test_rows_are_those_the_recipe_asks_for(archive: ArchiveReader, whole: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = whole
    rows = rows_of(folder, manifest)
    vectors = replay(archive, SET).vectors
    is_warm = vectors.quality & Quality.WARMUP == 0
    assert manifest["warmup_rows"] == int((~is_warm).sum()) > 0
    assert rows.height + sum(manifest[name] for name in ("purged", "unlabelled", "warmup_rows")) == len(vectors)
    assert (rows["quality"] & Quality.WARMUP.value).max() == 0
    assert rows["label_t1"].ge(rows["time"] + 2 * NS_PER_S).all()
    touched = rows.drop_nulls(RECIPE.specs[1].name)
    assert touched[f"{RECIPE.specs[1].name}_t1"].is_between(touched["label_t0"] + 1, touched["label_t1"]).all()
    assert set(touched[RECIPE.specs[1].name]) == {-1.0, 0.0, 1.0}
    assert manifest["assembly"]["ok"]
    assert set(manifest["lookahead"]["changed"]) == set(SET.features)
    assert len(manifest["shift"]) > 0


def test_a_span_is_that_part_of_the_whole(archive: ArchiveReader, tmp_path: Path) -> None:
    """With and without checkpoints; more than there is gives what there is."""
    whole = replay(archive, SET).vectors
    first, last = int(whole.time[0]), int(whole.time[-1])
    middle = first + (last - first) // 2 // NS_PER_S * NS_PER_S
    half = replace(RECIPE, from_ns=middle, split=parse_split("train=0.6,test=0.4"))
    made = build(archive, tmp_path / "a", half, CUTS)
    rows = rows_of(tmp_path / "a" / made["id"], made)
    assert rows["time"].min() == middle == made["coverage"]["first"]
    lay(archive, SET, 30 * NS_PER_S)
    again = build(archive, tmp_path / "b", replace(half, to_ns=last + 10**15), CUTS)
    assert rows_of(tmp_path / "b" / again["id"], again).equals(rows)
    assert again["events"] < made["events"], "it began at a checkpoint"
    assert again["leakcheck"]["rows_checked"] > 0
    with pytest.raises(UsageError, match="no row"):
        build(archive, tmp_path / "c", replace(half, from_ns=last + 10**15), CUTS)


@pytest.mark.parametrize("seed", range(4))
def test_a_span_inside_the_tape_is_proven_in_it(archive: ArchiveReader, tmp_path: Path, seed: int) -> None:
    """Windows lie in the span, begin in gaps of a symbol's offsets, too; live vectors before it are none too many."""
    path = tmp_path / "archive"
    shutil.copytree(archive.path, path)
    vectors = replay(archive, SET).vectors
    with live(path, 2, origin=IMPORT) as writer:
        writer.append_vectors(0, range(len(vectors)), vectors)
    first = int(vectors.time[0])
    recipe = replace(
        RECIPE, from_ns=first + 100 * NS_PER_S, to_ns=first + 170 * NS_PER_S, split=parse_split("train=0.6,test=0.4"),
        symbols=INSTRUMENTS[seed % 2 : 2 : 1] or INSTRUMENTS[:1],
    )  # fmt: skip
    made = build(ArchiveReader(path), tmp_path / "d", recipe, random_cuts(6, seed))
    assert made["leakcheck"]["rows_checked"] > 50
    assert made["leakcheck"]["control"]["caught"]
    assert made["parity"]["compared"] > 50
    assert made["parity"]["ok"]
    rows = rows_of(tmp_path / "d" / made["id"], made)
    assert rows["time"].min() == recipe.from_ns
    assert rows["time"].max() < recipe.to_ns
    with live(path, 2, origin=IMPORT) as writer:
        writer.append_vectors(0, [len(vectors)], changed_at(vectors, first + 120 * NS_PER_S, recipe.symbols[0]))
    with pytest.raises(CheckFailed, match="1 conflicting"):
        build(ArchiveReader(path), tmp_path / "e", recipe, random_cuts(6, seed))


def changed_at(vectors: Vectors, time: int, key: str) -> Vectors:
    changed = vectors.select((vectors.time == time) & (np.array(vectors.instruments()) == key))
    changed.quality[0] ^= 1
    return changed


def test_a_tape_that_grows_is_the_same_span(archive: ArchiveReader, tmp_path: Path) -> None:
    path = archive_of(tmp_path / "archive", [part.slice(0, len(part) - 700) for part in TAPE])
    first = int(replay(ArchiveReader(path), SET).vectors.time[0])
    recipe = replace(RECIPE, to_ns=first + 120 * NS_PER_S, split=parse_split("train=0.6,test=0.4"))
    made = build(ArchiveReader(path), tmp_path / "d", recipe, CUTS)
    with live(path, 2, origin=IMPORT) as writer:
        for part in TAPE:
            writer.append_tape(part)
    again = build(ArchiveReader(path), tmp_path / "d", recipe, CUTS)
    assert (again["id"], again["reused"]) == (made["id"], True)


def test_an_entry_is_later_and_finer_than_the_cadence(archive: ArchiveReader, tmp_path: Path) -> None:
    recipe = replace(
        RECIPE, labels=("forward_return_1500ms",), entry_delay_ns=300 * NS_PER_MS, label_step_ns=100 * NS_PER_MS
    )
    made = build(archive, tmp_path, recipe, CUTS)
    rows = rows_of(tmp_path / made["id"], made)
    assert (rows["label_t0"] - rows["time"]).unique().to_list() == [300 * NS_PER_MS]
    assert (rows["label_t1"] - rows["label_t0"]).unique().to_list() == [1500 * NS_PER_MS]
    fine = replay(archive, replace(SET, name="fine", cadence_ms=100, features=("mid_price",))).vectors
    price = dict(zip(zip(fine.instruments(), fine.time.tolist(), strict=True), fine.values[:, 0], strict=True))
    for key, t0, t1, value in rows.select("instrument", "label_t0", "label_t1", "forward_return_1500ms").iter_rows():
        assert value == price[key, t1] / price[key, t0] - 1.0


def test_folds_keep_intervals_apart(archive: ArchiveReader, tmp_path: Path) -> None:
    """By the rows of the file alone: no train row knows of an instant that a test row's label does."""
    small = replace(SET, name="small", features=("mid_price", "volume_1s"))
    path = tmp_path / "small.yaml"
    path.write_text("name: small\nversion: 1\nfeatures: [mid_price, volume_1s]\n")
    recipe = replace(
        RECIPE, feature_set=str(path), split=parse_split("combinatorial:folds=4,test_folds=2,purge=1s,embargo=3s")
    )
    made = build(archive, tmp_path, recipe, CUTS)
    rows = pl.read_parquet(tmp_path / made["id"] / "rows.parquet")
    assert len(made["folds"]) == 6
    back = max(look_back_ns(small), NS_PER_S)
    for fold in made["folds"]:
        roles = rows[fold["name"]]
        counts = {name: int((roles == name).sum()) for name in ("train", "test", "purged", "embargoed")}
        assert counts == {name: fold[name] for name in counts}
        assert min(counts["train"], counts["test"], counts["purged"]) > 0
        train, test = rows.filter(roles == "train"), rows.filter(roles == "test")
        for (time, end), (first, last) in product(
            train.select("time", "label_t1").unique().iter_rows(), test.select("time", "label_t1").unique().iter_rows()
        ):
            assert end + NS_PER_S < first or time - back > last + 3 * NS_PER_S
    assert made["embargoed"] > 0
    assert verify(tmp_path, made["id"])["equal"]


def test_values_are_fitted_on_train_rows_and_served_as_fitted(archive: ArchiveReader, tmp_path: Path) -> None:
    policies = "missing=forward_fill(5s),outliers=clip(3),normalization=zscore; mid_price: normalization=none"
    recipe = replace(RECIPE, values=parse_values(policies), symbols=INSTRUMENTS[:2])
    made = build(archive, tmp_path, recipe, CUTS)
    plain = build(archive, tmp_path, replace(recipe, values=parse_values("missing=forward_fill(5s)")), CUTS)
    parameters = load_parameters(tmp_path / made["id"])
    for name in made["files"]:
        stored, raw = (pl.read_parquet(tmp_path / each["id"] / name) for each in (made, plain))
        values = raw.select(SET.features).to_numpy()
        np.testing.assert_array_equal(stored.select(SET.features).to_numpy(), parameters.apply(values))
        clipped = (stored["quality"] & Quality.OUTLIER_CLIPPED.value).to_numpy() != 0
        np.testing.assert_array_equal(clipped, parameters.clipped(values).any(axis=1))
    train = pl.read_parquet(tmp_path / made["id"] / "train.parquet")
    assert abs(train["spread"].mean() or 0) < 1e-9
    assert train["spread"].std(ddof=0) == pytest.approx(1.0)


def test_rows_with_a_missing_value_can_be_left_out(archive: ArchiveReader, tmp_path: Path) -> None:
    recipe = replace(RECIPE, values=parse_values("vwap_1s: missing=drop_row"))
    made = build(archive, tmp_path, recipe, CUTS)
    rows = rows_of(tmp_path / made["id"], made)
    assert rows["vwap_1s"].null_count() == 0
    assert made["missing_rows"] > 0


def test_the_command_tells_how_far_it_is(archive: ArchiveReader, tmp_path: Path) -> None:
    events = tmp_path / "events"
    done = onetape(
        "dataset", "build", "--archive", str(archive.path), "--datasets", str(tmp_path / "d"), "--label", "mark_out_2s",
        "--label", "forward_volatility_5s", "--split", "walk_forward:folds=2,train=0.5", "--events",
        str(events), "--processes", "2", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["labels"] == ["mark_out_2s", "forward_volatility_5s"]
    told = [json.loads(line) for line in events.read_text().splitlines()]
    assert {"replaying", "proving", "labels", "splits", "writing"} <= {each["stage"] for each in told}
    for each in told:
        assert set(each) == {"event", "stage", "done", "total", "seconds", "per_second", "remaining_seconds"}
        assert 0 <= each["done"] <= each["total"]
    shown = onetape("dataset", "show", made["id"], "--datasets", str(tmp_path / "d"))
    assert "card.html" in shown.stdout
