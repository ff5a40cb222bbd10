"""`onetape leakcheck` on a dataset: what it was made of is checked again, and its rows as they lie in the files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import onetape, result
from tapes import INSTRUMENTS, archive_of, market, tape

from app.proof_commands import leakcheck
from replay.datasets.build import build
from replay.datasets.recipe import Recipe
from replay.driver import replay
from replay.proof.checks import Checks
from replay.reader import ArchiveReader
from schemas.errors import CheckFailed, SegmentTorn, UsageError
from schemas.feature_sets import DEFAULT, load
from schemas.units import NS_PER_S

SET = load(DEFAULT)
LABELS = ("forward_return_2s", "direction_5s(threshold=0.00001)", "triple_barrier_3s")
CHECKS = Checks([0.3, 0.8], 400, 7, progress=lambda done, total: None)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ArchiveReader:
    return ArchiveReader(archive_of(tmp_path_factory.mktemp("checks") / "archive", tape(market(61, 7000, 240))))


@pytest.fixture(scope="module")
def built(archive: ArchiveReader, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder of datasets, and the id of one of two instruments."""
    datasets = tmp_path_factory.mktemp("datasets")
    recipe = Recipe(DEFAULT, LABELS, entry_delay_ns=NS_PER_S, symbols=INSTRUMENTS[:2])
    return datasets, build(archive, datasets, recipe, [0.5])["id"]


@pytest.fixture
def copied(built: tuple[Path, str], tmp_path: Path) -> tuple[Path, str]:
    """The same, to be spoiled."""
    datasets, dataset_id = built
    (tmp_path / dataset_id).mkdir()
    for path in (datasets / dataset_id).iterdir():
        (tmp_path / dataset_id / path.name).write_bytes(path.read_bytes())
    return tmp_path, dataset_id


def spoil(copied: tuple[Path, str], change: Callable[[pa.Table], pa.Table]) -> None:
    """Change every file of a dataset."""
    for path in (copied[0] / copied[1]).glob("*.parquet"):
        pq.write_table(change(pq.read_table(path)), path, write_page_checksum=True)


def test_a_dataset_as_it_was_built_passes(built: tuple[Path, str], archive: ArchiveReader) -> None:
    found = CHECKS.of_dataset(*built)
    assert found.ok, found.json()
    assert found.rows is not None
    manifest = json.loads((built[0] / built[1] / "manifest.json").read_bytes())
    assert found.rows.assembly.rows == manifest["rows"]
    assert found.leaks.rows_checked > 10
    told = found.json()
    assert (told["leaking"], told["shift_leaking"], told["assembly"]["broken"]) == ([], [], {})
    assert "lookahead" not in told
    assert json.dumps(told, allow_nan=False)
    again = CHECKS.of_dataset(*built, archive)
    assert again.json() == told


def test_only_the_instruments_of_a_dataset_are_checked(built: tuple[Path, str], archive: ArchiveReader) -> None:
    whole = Checks([0.999], None).of_archive(archive, SET).leaks.rows_checked
    own = Checks([0.999], None).of_dataset(*built).leaks.rows_checked
    ours = [key in INSTRUMENTS[:2] for key in replay(archive, SET).vectors.instruments()]
    assert abs(own / whole - np.mean(ours)) < 0.05


def test_a_leak_on_purpose_is_named(built: tuple[Path, str]) -> None:
    found = Checks([0.5], 300, leaks_on_purpose=True, looks_ahead=True).of_dataset(*built)
    assert not found.ok
    assert found.leaking == [SET.features[0]]
    assert found.json()["lookahead"]["rows"] == found.leaks.rows_checked


def column(name: str, values: Callable[[pa.Table], Any]) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.schema.get_field_index(name), name, pa.array(values(table)))


def with_its_label(table: pa.Table) -> pa.Table:
    """The spread made of a label; one that moves, for the mid price of this market does not."""
    moves = np.random.default_rng(table.num_rows).standard_normal(table.num_rows)
    return column("spread", lambda _: moves * -3 + 1)(column("forward_return_2s", lambda _: moves)(table))


def test_a_feature_replaced_by_a_label_is_named(copied: tuple[Path, str]) -> None:
    """Scaled, so that no value is the label's own."""
    spoil(copied, with_its_label)
    found = CHECKS.of_dataset(*copied)
    assert not found.ok
    assert found.leaking == ["spread"]
    assert found.rows is not None
    assert found.rows.assembly.ok


def test_a_label_entered_at_once_is_not_the_recipes(copied: tuple[Path, str]) -> None:
    spoil(copied, column("label_t0", lambda table: table["time"].to_numpy()))
    found = CHECKS.of_dataset(*copied)
    assert found.rows is not None
    assert list(found.rows.assembly.broken) == ["entry"]
    assert not found.ok


def test_rows_of_other_ticks_are_found_in_the_archive(copied: tuple[Path, str]) -> None:
    """A join that is off by a second keeps every other rule."""
    earlier = NS_PER_S
    names = ["time", "ts_available", "label_t0", "label_t1", "triple_barrier_3s_t1"]

    def shifted(table: pa.Table) -> pa.Table:
        for name in names:
            table = column(name, lambda each, name=name: pa.compute.subtract(each[name], earlier))(table)
        return table

    spoil(copied, shifted)
    found = CHECKS.of_dataset(*copied)
    assert found.rows is not None
    assert list(found.rows.assembly.broken) == ["tick"]


def test_other_inputs_and_other_definitions_are_told(copied: tuple[Path, str], tmp_path: Path) -> None:
    other = ArchiveReader(archive_of(tmp_path / "other", tape(market(62, 7000, 240))))
    with pytest.raises(SegmentTorn, match="not the one this dataset"):
        CHECKS.of_dataset(*copied, other)
    path = copied[0] / copied[1] / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"feature_set_digest": "0" * 64}))
    with pytest.raises(CheckFailed, match="definition"):
        CHECKS.of_dataset(*copied)


def test_the_command_checks_archives_and_datasets(copied: tuple[Path, str], archive: ArchiveReader) -> None:
    datasets, dataset_id = copied
    options = ["--dataset", dataset_id, "--datasets", datasets, "--cuts", "3", "--window", "300"]
    told = result("leakcheck", *options, "--look-ahead")
    assert (told["leaking"], told["ok"], told["control"]["caught"]) == ([], True, True)
    assert told["rows_checked"] > 0
    assert told["lookahead"]["rows"] == told["rows_checked"]
    leaked = onetape("leakcheck", "--archive", archive.path, "--control", "--cuts", "3", "--json")
    assert leaked.returncode == 1
    assert json.loads(leaked.stdout)["leaking"] == [SET.features[0]]
    spoil(copied, with_its_label)
    spoiled = onetape("leakcheck", *options)
    assert spoiled.returncode == 1
    assert "leaking: spread" in spoiled.stdout


def test_an_archive_or_a_dataset_has_to_be_named(built: tuple[Path, str]) -> None:
    with pytest.raises(UsageError, match="nothing is named"):
        leakcheck()
    with pytest.raises(UsageError, match="its own feature set"):
        leakcheck(dataset=built[1], datasets=built[0], feature_set=DEFAULT)
