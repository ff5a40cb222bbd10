"""What predictions are worth: each figure from its definition in plain Python, null with a reason where it has none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_folders import LABELS, table, write
from hypothesis import given, settings
from hypothesis import strategies as st
from portfolios import books
from scipy import stats
from typer.testing import CliRunner

from app.cli import cli
from replay.card.rows import Rows
from replay.evaluation import metrics, report
from replay.evaluation.evaluate import Evaluation, evaluate
from replay.evaluation.joining import load
from schemas.errors import DependencyDown, OnetapeError, SegmentTorn, UsageError
from schemas.units import NS_PER_S

RETURN, DIRECTION = LABELS
SPLITS = ("train", "validation", "test")


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path / "micro-2-forward_return_5s-0123456789ab"
    manifest = write(folder, table())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder, manifest


def rows_of(folder: Path, split: str = "test") -> pl.DataFrame:
    return pl.read_parquet(folder / f"{split}.parquet").select("instrument", "time", "label_t0", *LABELS)


def saved(tmp_path: Path, frame: pl.DataFrame, name: str = "predictions.parquet") -> Path:
    path = tmp_path / name
    frame.write_parquet(path) if name.endswith("parquet") else frame.write_csv(path)
    return path


def predicted(folder: Path, seed: int = 3, split: str = "test", label: str = RETURN) -> pl.DataFrame:
    """Predictions that know a little."""
    rows = rows_of(folder, split)
    noise = np.random.default_rng(seed).normal(0, 1, rows.height)
    values = rows[label].fill_null(0.0).to_numpy() * 2000 + noise
    if label == DIRECTION:
        values = np.clip(np.round(rows[label].fill_null(0.0).to_numpy() + noise / 2), -1, 1)
    return rows.select("instrument", "time").with_columns(prediction=pl.Series(values))


def section(found: Evaluation, at: int = 0) -> dict[str, Any]:
    """One section, through JSON as a script reads it."""
    part: dict[str, Any] = json.loads(json.dumps(found.content, allow_nan=False))["sections"][at]
    return part


def test_regression_is_what_it_is_defined_to_be(dataset: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, manifest = dataset
    said = predicted(folder)
    part = section(evaluate(folder, manifest, saved(tmp_path, said.sample(fraction=1.0, shuffle=True, seed=1))))
    both = rows_of(folder).join(said, on=["instrument", "time"]).drop_nulls(RETURN)
    true, guess = both[RETURN].to_list(), both["prediction"].to_list()
    count, mean = len(true), sum(true) / len(true)
    wrong = [t - g for t, g in zip(true, guess, strict=True)]
    expected = {
        "mse": math.fsum(w * w for w in wrong) / count, "mae": math.fsum(map(abs, wrong)) / count,
        "r2": 1 - math.fsum(w * w for w in wrong) / math.fsum((t - mean) ** 2 for t in true),
        "pearson": stats.pearsonr(true, guess)[0], "ic": stats.spearmanr(true, guess)[0],
        "ic_by_time": np.mean([
            stats.spearmanr(group[RETURN], group["prediction"])[0]
            for _, group in both.group_by("time") if group.height > 1
        ]),
    }  # fmt: skip
    assert part["rows"] == count
    assert part["metrics"] == {name: pytest.approx(value, rel=1e-9) for name, value in expected.items()}
    assert part["reasons"] == {}


def test_classification_is_what_it_is_defined_to_be(dataset: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, manifest = dataset
    chances = np.random.default_rng(5).dirichlet((1, 1, 1), rows_of(folder).height)
    said = predicted(folder, label=DIRECTION).with_columns(
        **{f"p_{each}": pl.Series(chances[:, i]) for i, each in enumerate((-1, 0, 1))}
    )
    part = section(evaluate(folder, manifest, saved(tmp_path, said), label=DIRECTION))
    both = rows_of(folder).join(said, on=["instrument", "time"]).drop_nulls(DIRECTION)
    pairs = list(zip(both[DIRECTION].to_list(), both["prediction"].to_list(), strict=True))
    recall, score, area = {}, {}, {}
    for each in (-1, 0, 1):
        hits = sum(t == p == each for t, p in pairs)
        true, guess = sum(t == each for t, _ in pairs), sum(p == each for _, p in pairs)
        recall[each], score[each] = hits / true, 2 * hits / (true + guess)
        inside, outside = (both.filter((pl.col(DIRECTION) == each) == is_in)[f"p_{each}"].to_list() for is_in in (1, 0))
        area[each] = sum((a > b) + (a == b) / 2 for a in inside for b in outside) / len(inside) / len(outside)
    told = [row[f"p_{int(row[DIRECTION])}"] for row in both.iter_rows(named=True)]
    expected = {
        "accuracy": sum(t == p for t, p in pairs) / len(pairs), "balanced_accuracy": sum(recall.values()) / 3,
        "f1_macro": sum(score.values()) / 3, **{f"f1_{each}": value for each, value in score.items()},
        "log_loss": -math.fsum(map(math.log, told)) / len(told), "auc": sum(area.values()) / 3,
        **{f"auc_{each}": value for each, value in area.items()},
    }  # fmt: skip
    assert part["metrics"] == {name: pytest.approx(value, rel=1e-9) for name, value in expected.items()}
    counted = [[sum(pair == (t, p) for pair in pairs) for p in (-1, 0, 1)] for t in (-1, 0, 1)]
    assert part["confusion"] == counted


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 3)), max_size=30))
def test_ranks_are_scipys_within_each_group(rows: list[tuple[int, int]]) -> None:
    group, values = np.array([g for g, _ in rows], np.int64), np.array([v for _, v in rows], np.float64)
    expected = np.empty(len(rows))
    for each in set(group.tolist()):
        expected[group == each] = stats.rankdata(values[group == each])
    assert metrics.ranks(values, group).tolist() == expected.tolist()


@pytest.mark.parametrize("label", [RETURN, DIRECTION])
def test_returns_of_a_class_are_those_of_its_horizon(
    dataset: tuple[Path, dict[str, Any]], tmp_path: Path, label: str
) -> None:
    folder, manifest = dataset
    found = evaluate(folder, manifest, saved(tmp_path, predicted(folder, label=label)), label=label, cost_bps=0.5)
    assert found.content["returns_of"] == RETURN
    both = rows_of(folder).join(predicted(folder, label=label), on=["instrument", "time"]).drop_nulls([label, RETURN])
    columns = both.select("instrument", "label_t0", "prediction", RETURN)
    rows = [(int(name == "V:BBB"), at, float(np.sign(said)), gain) for name, at, said, gain in columns.iter_rows()]
    assert section(found)["returns"]["net"] == pytest.approx(books(rows, 5 * NS_PER_S, 0.5e-4)[0])


def test_without_a_return_there_is_a_reason(tmp_path: Path) -> None:
    labels = ("direction_5s", "forward_volatility_5s", "forward_log_return_10s")
    manifest = write(tmp_path / "d", table(labels=labels), labels=labels)
    frame = pl.read_parquet(tmp_path / "d" / "test.parquet")
    said = saved(tmp_path, frame.select("instrument", "time", prediction=pl.lit(1.0)))
    for label, why in zip(labels[:2], ("no forward_return_5s", "which way"), strict=True):
        part = section(evaluate(tmp_path / "d", manifest, said, label=label))
        assert set(part["returns"].values()) == {None, 0}
        assert why in part["returns_reasons"]["net"]
    found = evaluate(tmp_path / "d", manifest, said, label=labels[2], cost_bps=0)
    gross = np.expm1(frame[labels[2]].drop_nulls().to_numpy())
    assert section(found)["returns"]["gross"] * section(found)["returns"]["books"] == pytest.approx(gross.sum())


def test_what_does_not_match_is_counted_and_refused(dataset: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, manifest = dataset
    said = predicted(folder)
    there = rows_of(folder)[RETURN].is_not_null()
    extra = said.head(3).with_columns(instrument=pl.lit("V:ZZZ"))
    late = said.head(1).with_columns(time=pl.col("time") + 1)
    null = said.with_columns(
        prediction=pl.when(pl.int_range(pl.len()) == there.arg_max()).then(None).otherwise("prediction")
    )
    cases = {
        "missing": (said.filter(~there | (pl.int_range(pl.len()) > 20)), int(there[:21].sum())),
        "extra": (pl.concat([said, extra, late]), 4),
        "doubled": (pl.concat([said, said.tail(2)]), 4),
    }  # fmt: skip
    for name, (frame, count) in cases.items():
        with pytest.raises(UsageError, match=r"not those of the dataset's rows.*Action.*--partial"):
            evaluate(folder, manifest, saved(tmp_path, frame))
        counted = evaluate(folder, manifest, saved(tmp_path, frame), is_partial=True).content["predictions"]
        assert counted[name] == count, name
        assert counted["matched"] + counted["missing"] == there.sum()
    assert evaluate(folder, manifest, saved(tmp_path, null), is_partial=True).content["predictions"]["missing"] == 1
    everywhere = pl.concat([predicted(folder, split=split) for split in SPLITS])
    counted = evaluate(folder, manifest, saved(tmp_path, everywhere)).content["predictions"]
    others = sum(rows_of(folder, split).height for split in SPLITS[:2])
    assert (counted["missing"], counted["extra"], counted["doubled"]) == (0, 0, 0)
    assert counted["elsewhere"] == others
    assert counted["unlabelled"] == int((~there).sum())
    all_three = evaluate(folder, manifest, saved(tmp_path, everywhere), splits=SPLITS)
    assert [part["name"] for part in all_three.content["sections"]] == list(SPLITS)


def test_rows_of_other_splits_are_looked_at_only_for_predictions_of_them(
    dataset: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, manifest = dataset
    said, train = predicted(folder), predicted(folder, split="train")
    expected = section(evaluate(folder, manifest, saved(tmp_path, said)))
    doubled = pl.concat([said, train, train.head(3)])
    counted = evaluate(folder, manifest, saved(tmp_path, doubled), is_partial=True).content["predictions"]
    assert (counted["doubled"], counted["extra"], counted["elsewhere"]) == (6, 0, train.height - 3)
    assert len(load(Rows(folder, manifest), RETURN, None, ["test"]).time) == said.height
    (folder / "train.parquet").write_bytes(b"torn")
    assert section(evaluate(folder, manifest, saved(tmp_path, said))) == expected
    with pytest.raises(SegmentTorn, match=r"train\.parquet"):
        evaluate(folder, manifest, saved(tmp_path, pl.concat([said, train])))


@pytest.mark.parametrize("form", ["parquet", "csv", "pandas", "timestamps"])
def test_files_as_people_write_them(dataset: tuple[Path, dict[str, Any]], tmp_path: Path, form: str) -> None:
    folder, manifest = dataset
    said = predicted(folder)
    expected = section(evaluate(folder, manifest, saved(tmp_path, said, "plain.parquet")))
    if form == "pandas":
        path = tmp_path / "p.parquet"
        pd.DataFrame(said.to_dict(as_series=False)).set_index("time").to_parquet(path)
    elif form == "timestamps":
        path = saved(tmp_path, said.with_columns(pl.col("time").cast(pl.Datetime("ns", "UTC"))), "t.parquet")
    else:
        path = saved(tmp_path, said, f"p.{form}")
    part = section(evaluate(folder, manifest, path))
    assert part["metrics"] == {name: pytest.approx(value, rel=1e-12) for name, value in expected["metrics"].items()}


def test_probabilities_alone_are_enough(dataset: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, manifest = dataset
    chances = np.random.default_rng(5).dirichlet((1, 1, 1), rows_of(folder).height).round(4)
    said = rows_of(folder).select("instrument", "time").with_columns(
        **{f"p_{each}": pl.Series(chances[:, i]) for i, each in enumerate((-1, 0, 1))}
    )  # fmt: skip
    part = section(evaluate(folder, manifest, saved(tmp_path, said), label=DIRECTION))
    with_classes = said.with_columns(prediction=pl.Series(np.array([-1, 0, 1])[chances.argmax(axis=1)]))
    assert part == section(evaluate(folder, manifest, saved(tmp_path, with_classes), label=DIRECTION))
    assert part["metrics"]["log_loss"] > 0
    for column, value in (("p_1", 5.0), ("p_1", -0.2)):
        with pytest.raises(UsageError, match="add up to 1"):
            evaluate(folder, manifest, saved(tmp_path, said.with_columns(pl.lit(value).alias(column))), label=DIRECTION)


def test_what_cannot_be_known_is_null_with_its_reason(dataset: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, manifest = dataset
    rows = rows_of(folder).select("instrument", "time")
    constant = section(evaluate(folder, manifest, saved(tmp_path, rows.with_columns(prediction=pl.lit(0.0)))))
    assert constant["metrics"]["ic"] is constant["metrics"]["pearson"] is constant["metrics"]["ic_by_time"] is None
    assert constant["reasons"]["ic"] == "the prediction is the same in every row"
    assert constant["metrics"]["mse"] > 0
    assert constant["returns"]["break_even_bps"] is constant["returns"]["hit_rate"] is None
    assert constant["returns_reasons"]["break_even_bps"] == "nothing is traded"
    huge = section(evaluate(folder, manifest, saved(tmp_path, rows.with_columns(prediction=pl.lit(1e300)))))
    assert huge["metrics"]["mse"] is None
    none = section(
        evaluate(folder, manifest, saved(tmp_path, rows.head(0).with_columns(prediction=pl.lit(0.0))), is_partial=True)
    )
    assert none["rows"] == 0
    assert set(none["metrics"].values()) == {None}
    assert set(none["reasons"].values()) == {metrics.NO_ROWS}


def test_one_class_only(tmp_path: Path) -> None:
    rows = table()
    place = rows.schema.get_field_index(DIRECTION)
    manifest = write(tmp_path / "d", rows.set_column(place, DIRECTION, pa.array(np.ones(len(rows)))))
    identity = pl.read_parquet(tmp_path / "d" / "test.parquet").select("instrument", "time")
    chances = {"p_-1": pl.lit(0.2), "p_0": pl.lit(0.2), "p_1": pl.lit(0.6)}
    part = section(
        evaluate(tmp_path / "d", manifest, saved(tmp_path, identity.with_columns(**chances)), label=DIRECTION)
    )
    known = {"accuracy": 1.0, "balanced_accuracy": 1.0, "f1_macro": 1.0, "f1_1": 1.0, "log_loss": -math.log(0.6)}
    assert {name: value for name, value in part["metrics"].items() if value is not None} == pytest.approx(known)
    assert part["reasons"]["auc"] == "only one class occurs"
    assert part["reasons"]["f1_0"] == "class 0 neither occurs nor is predicted"
    report.plot(evaluate(tmp_path / "d", manifest, saved(tmp_path, identity.with_columns(**chances)), label=DIRECTION),
                tmp_path / "plot.svg")  # fmt: skip


def folded(folder: Path, manifest: dict[str, Any], split: str = "test") -> pl.DataFrame:
    """Predictions for each fold, named."""
    rows = pl.read_parquet(folder / "rows.parquet")
    parts = [
        rows.filter(pl.col(fold["name"]) == split).select(
            "instrument", "time", fold=pl.lit(fold["name"]), prediction=pl.col(RETURN).fill_null(0) * (i + 1) - 1e-5
        )
        for i, fold in enumerate(manifest["folds"])
    ]
    return pl.concat(parts)


def test_every_fold_is_scored_on_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    manifest = write(folder, table(), kind="k_fold")
    said = folded(folder, manifest)
    found = evaluate(folder, manifest, saved(tmp_path, said))
    parts = [section(found, at) for at in range(3)]
    assert [part["name"] for part in parts] == ["fold_0 test", "fold_1 test", "fold_2 test"]
    frame = pl.read_parquet(folder / "rows.parquet")
    for fold, part in enumerate(parts):
        true = frame.filter(pl.col(f"fold_{fold}") == "test")[RETURN].drop_nulls()
        assert part["rows"] == len(true)
        assert part["metrics"]["mse"] == pytest.approx(float(((true * fold - 1e-5) ** 2).mean()), rel=1e-9)
    folds = found.content["folds"]["test"]
    assert folds["mse"]["mean"] == pytest.approx(np.mean([part["metrics"]["mse"] for part in parts]))
    assert folds["net"]["folds"] == 3
    plain = evaluate(folder, manifest, saved(tmp_path, said.drop("fold")))
    assert section(plain, 2) == parts[2], "each row is tested once: the fold need not be told"
    trained = evaluate(folder, manifest, saved(tmp_path, folded(folder, manifest, "train")), splits=["train"])
    assert trained.content["predictions"]["missing"] == 0
    with pytest.raises(UsageError, match="share a row"):
        evaluate(folder, manifest, saved(tmp_path, folded(folder, manifest, "train").drop("fold")), splits=["train"])
    everywhere = frame.select("instrument", "time", prediction=pl.lit(0.5))
    for splits in (["test"], ["train", "test"]):
        counted = evaluate(folder, manifest, saved(tmp_path, everywhere), splits=splits).content["predictions"]
        roles = [pl.col(fold["name"]).is_in(splits).fill_null(value=False) for fold in manifest["folds"]]
        inside = frame.filter(pl.any_horizontal(roles)).height
        assert (counted["extra"], counted["doubled"], counted["elsewhere"]) == (0, 0, frame.height - inside)
    both = pl.concat([said, folded(folder, manifest, "purged")])
    counted = evaluate(folder, manifest, saved(tmp_path, both)).content["predictions"]
    assert (counted["extra"], counted["elsewhere"]) == (0, both.height - said.height)
    strange = pl.concat([said, said.head(2).with_columns(fold=pl.lit("fold_9"))])
    with pytest.raises(UsageError, match="2 without a row"):
        evaluate(folder, manifest, saved(tmp_path, strange))


def test_files_that_are_no_predictions(dataset: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, manifest = dataset
    said = predicted(folder)
    bad = {
        "columns": said.drop("time"), "integers": said.with_columns(pl.col("time").cast(pl.Float64)),
        "numbers": said.with_columns(prediction=pl.lit("up")), "finite": said.with_columns(prediction=pl.lit(math.inf)),
        "every row": said.with_columns(time=pl.lit(None, pl.Int64)),
    }  # fmt: skip
    for why, frame in bad.items():
        with pytest.raises(UsageError, match=rf"no predictions.*{why}.*Action"):
            evaluate(folder, manifest, saved(tmp_path, frame))
    with pytest.raises(UsageError, match="classes -1, 0 and 1"):
        evaluate(folder, manifest, saved(tmp_path, said), label=DIRECTION)
    for content in (b"", b"PAR1", b"PAR1" * 9, b"\x00\xff\n\x01,", b"a,b\n1\n"):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(UsageError, match=r"no predictions.*Action"):
            evaluate(folder, manifest, tmp_path / "bad")
    with pytest.raises(UsageError, match="no predictions"):
        evaluate(folder, manifest, tmp_path / "nowhere.csv")
    path = saved(tmp_path, said)
    asked: list[dict[str, Any]] = [
        {"label": "forward_return_9s"}, {"splits": ["later"]}, {"splits": []}, {"splits": ["test", "test"]},
        {"cost_bps": -1.0}, {"cost_bps": math.nan},
    ]  # fmt: skip
    for each in asked:
        with pytest.raises(UsageError, match="Action"):
            evaluate(folder, manifest, path, **each)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(DependencyDown, match=r"onetape\[ml\]"):
        metrics.library()


def test_the_command_and_its_report(dataset: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, manifest = dataset
    said, out = saved(tmp_path, predicted(folder, label=DIRECTION), "p.csv"), tmp_path / "report"
    options = ["--datasets", str(tmp_path), "--predictions", str(said), "--label", DIRECTION, "--cost-bps", "0.5"]
    arguments = ["dataset", "evaluate", manifest["id"], *options]
    told = CliRunner().invoke(cli, [*arguments, "--out", str(out), "--json"])
    assert told.exit_code == 0, told.output
    content = json.loads(told.stdout)
    assert content["out"] == str(out)
    assert json.loads((out / "evaluation.json").read_text()) == {k: v for k, v in content.items() if k != "out"}
    svg = (out / "evaluation.svg").read_bytes()
    assert b"<svg" in svg
    assert b"confus" not in svg
    report.plot(evaluate(folder, manifest, said, label=DIRECTION, cost_bps=0.5), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == svg
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0
    assert "balanced_accuracy" in shown.stdout
    assert "no log_loss, auc" in shown.stdout
    with pytest.raises(OnetapeError, match="not empty"):
        CliRunner().invoke(cli, [*arguments, "--out", str(out)], catch_exceptions=False)


def test_plots_of_what_there_is_little_of(tmp_path: Path) -> None:
    for kind, seconds in (("time", 200), ("k_fold", 200)):
        folder = tmp_path / kind
        manifest = write(folder, table(seconds=seconds), kind=kind, folds=9)
        (folder / "rows.parquet").exists()
        rows = pq.read_table(folder / ("rows.parquet" if kind == "k_fold" else "test.parquet"))
        frame = pl.DataFrame(pl.from_arrow(rows)).select("instrument", "time")
        for content in (frame.head(0), frame.head(1), frame):
            said = saved(tmp_path, content.with_columns(prediction=pl.int_range(pl.len()) - 20.0))
            report.plot(evaluate(folder, manifest, said, is_partial=True), tmp_path / "plot.svg")
            assert "<svg" in (tmp_path / "plot.svg").read_text()
