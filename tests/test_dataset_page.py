"""docs/datasets.md: every example runs with the real library, every metric and column on it is there."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from dataset_folders import FEATURES, LABELS, table, write
from typer.testing import CliRunner

from app.cli import cli
from replay.datasets.files import schema_of
from replay.evaluation import metrics, returns
from schemas.feature_sets import DEFAULT, load
from schemas.labels import parse
from schemas.vectors import table_schema

PAGE = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
ID = "micro-2-forward_return_5s-0123456789ab"
NAMES = ("polars", "pandas", "manifest", "scikit-learn", "pytorch")
EXAMPLES = dict(zip(NAMES, re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), strict=True))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset where the page has one."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "datasets" / ID
    manifest = write(made, table())
    (made / "manifest.json").write_text(json.dumps(manifest))
    return made


def example(name: str) -> dict[str, Any]:
    """The names that an example leaves."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(EXAMPLES[name], f"docs/datasets.md, {name}", "exec"), names)
    return names


def test_polars(folder: Path) -> None:
    found = example("polars")["per_instrument"]
    assert found["instrument"].to_list() == ["V:AAA", "V:BBB"]
    assert found["len"].sum() == pl.read_parquet(folder / "train.parquet").height


def test_pandas() -> None:
    found = example("pandas")
    assert isinstance(found["frame"]["time"].dtype, pd.DatetimeTZDtype)
    assert found["hourly"].notna().all()


def test_scikit_learn_and_the_evaluation_of_what_it_predicts(folder: Path, tmp_path: Path) -> None:
    found = example("scikit-learn")
    assert found["predictions"].height == pl.read_parquet(folder / "test.parquet").height
    (command,) = re.findall(r"^onetape (dataset evaluate .*)$", PAGE, re.MULTILINE)
    told = CliRunner().invoke(cli, [*shlex.split(command), "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["sections"][0]["metrics"]["mse"] > 0
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"evaluation.json", "evaluation.svg"}


def test_pytorch(folder: Path) -> None:
    compile(EXAMPLES["pytorch"], "docs/datasets.md", "exec")
    pytest.importorskip("torch", reason="PyTorch is not among the locked packages: its wheels take gigabytes")
    found = example("pytorch")
    rows = pl.read_parquet(folder / "train.parquet").drop_nulls("forward_return_5s").height
    assert sum(len(target) for _, target in found["DataLoader"](found["split"], batch_size=7)) == rows
    halves = [found["Split"](folder / "train.parquet", FEATURES, LABELS[0], rank, 2) for rank in (0, 1)]
    assert sum(1 for half in halves for _ in half) == rows


def test_the_manifest_names_features_and_labels() -> None:
    found = example("manifest")
    assert (tuple(found["features"]), tuple(found["labels"])) == (FEATURES, LABELS)


def test_columns_and_metrics_are_those_there_are() -> None:
    columns = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \| (?:text|int)", PAGE, re.MULTILINE)))
    feature_set = load(DEFAULT)
    head = [name for name in table_schema(feature_set).names if name not in feature_set.features]
    assert columns == [*head, "label_t0", "label_t1"]
    told = set(
        re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`.*?) \| (?:classes|numbers) \|", PAGE, re.MULTILINE)))
    )
    assert told == {*metrics.CLASSIFICATION, *metrics.REGRESSION, "confusion"}
    table_of_returns = PAGE.partition("| return |")[2]
    told = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table_of_returns, re.MULTILINE))))
    assert told == {*returns.NAMES, "books"}


@pytest.mark.parametrize("folds", [[], ["fold_0"]])
def test_the_datasets_of_these_tests_have_the_columns_of_real_ones(folder: Path, folds: list[str]) -> None:
    feature_set = replace(load(DEFAULT), features=FEATURES, policies={})
    expected = schema_of(feature_set, [parse(label) for label in LABELS], folds)
    if folds:
        write(folder, table(), kind="k_fold", folds=1)
    found = pq.read_schema(folder / ("rows.parquet" if folds else "test.parquet"))
    assert {field.name: str(field.type) for field in found} == {field.name: str(field.type) for field in expected}
