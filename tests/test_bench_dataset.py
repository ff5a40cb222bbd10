"""The bench of datasets: its figures, rows that are compared before they count, and what it says without Feast."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from commandline import onetape
from rich.console import Console

from app.bench import dataset, retrieval
from app.bench.building import Stages
from app.bench.dataset import Sizes, bench_dataset, resident, tree
from app.bench.measure import Stopwatch
from app.report import Report
from replay.splits.fold import Role
from schemas.errors import CheckFailed, UsageError
from schemas.feature_sets import DEFAULT, load

TINY = Sizes(rounds=1, joined_rows=12_000, month_rows=25_000, memory_rows=(25_000, 40_000))


@pytest.fixture(scope="module")
def side() -> Iterator[retrieval.Prepared]:
    with retrieval.prepared(load(DEFAULT), DEFAULT, TINY.joined_rows) as made:
        yield made


def test_every_figure_but_feasts(capsys: pytest.CaptureFixture[str]) -> None:
    payload = bench_dataset(Report(True), DEFAULT, skip="feast", sizes=TINY)
    capsys.readouterr()
    figures = {each["name"]: each for each in payload["figures"]}
    assert list(figures) == ["month", "memory", "memory:longer", "asof", "asof:parquet"]
    assert payload["left_out"] == ["feast"]
    assert payload["feature_set"] == DEFAULT
    assert all(each["value"] > 0 for each in figures.values())
    assert {name: each["must"] for name, each in figures.items()} == {
        "month": 300, "memory": 4, "memory:longer": 1.5, "asof": 1, "asof:parquet": None,
    }  # fmt: skip
    assert figures["asof"]["command"] == "onetape bench dataset --only asof"
    for stage in ("replaying", "proving", "labels", "splits", "writing"):
        assert stage in figures["month"]["rival"]
    dataset.show(Console(file=sys.stdout, width=160), payload)
    assert "polars" in capsys.readouterr().out


def test_our_rows_are_a_builds(side: retrieval.Prepared) -> None:
    made = retrieval.ours(side)
    rows, found = made.rows(), made.roles()
    assert len(rows) == len(found) > 10_000
    assert {Role.TRAIN, Role.VALIDATION, Role.TEST, Role.PURGED} == {Role(each) for each in np.unique(found)}
    assert (~np.isnan(rows.labels)).any(axis=1).all()
    assert len(side.vectors()) > len(rows)


def test_other_rows_are_no_figure(side: retrieval.Prepared) -> None:
    made = retrieval.ours(side)
    assert retrieval.against_polars(Stopwatch(), side, made, 1)[0].value > 0
    theirs = retrieval.by_polars(side.folder / "vectors.arrow", retrieval._entities(made), side.feature_set, made)
    retrieval._check_polars(made, theirs)
    one = pl.int_range(pl.len()) == 7
    for column, what in (("spread_bps", "features"), (retrieval.LABELS[1], "labels"), ("role", "roles")):
        other = theirs.with_columns(pl.when(one).then(pl.col(column) + 1).otherwise(pl.col(column)).alias(column))
        with pytest.raises(CheckFailed, match=f"the same {what}"):
            retrieval._check_polars(made, other)
    known = theirs.with_columns(pl.when(one).then(None).otherwise(pl.col("mid_price")).alias("mid_price"))
    with pytest.raises(CheckFailed, match="the same features"):
        retrieval._check_polars(made, known)
    part = replace(made, parts=[(rows.select(np.arange(9)), found[:9]) for rows, found in made.parts])
    with pytest.raises(CheckFailed):
        retrieval._check_polars(part, theirs)


def test_the_memory_of_a_process_is_that_of_its_children_too() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        found = tree(parent.pid)
        assert len(found) == 2
        assert all(resident(pid) > 1_000_000 for pid in found)
        parent.communicate(b"\n")
    assert resident(parent.pid) == 0


def test_stages_are_told_apart() -> None:
    stages = Stages()
    for stage, done in (("replaying", 0), ("replaying", 1), ("writing", 0), ("replaying", 2)):
        stages(stage, done, 2)
    stages.end()
    stages.end()
    assert list(stages.seconds) == ["replaying", "writing"]
    assert all(seconds >= 0 for seconds in stages.seconds.values())


@pytest.mark.parametrize("python", ["/nowhere/python", sys.executable])
def test_without_feast_it_says_where_to_get_it(python: str) -> None:
    done = onetape("bench", "dataset", "--only", "feast", "--feast", python, "--json")
    assert done.returncode == 3
    action = json.loads(done.stdout)["error"]["action"]
    assert "pip install 'feast[duckdb]>=0.67'" in action
    assert "--skip feast" in action


def test_a_figure_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="months is unknown"):
        bench_dataset(Report(True), DEFAULT, only="months")
