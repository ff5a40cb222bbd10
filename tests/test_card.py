"""The card of a dataset: its figures are those of the rows, it needs nothing but a browser, its bytes are fixed."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_folders import FEATURES, LABELS, table, write

from replay.card import summary as summaries
from replay.card.markup import number, share
from replay.card.page import CARD, render, write_card
from replay.card.rows import ROLES, Rows
from replay.card.summary import BINS, summarize
from schemas.errors import SegmentTorn
from schemas.feature_sets import DEFAULT, load

VOID = {"meta", "br", "path", "image", "use", "rect", "line"}
LINKING = {"src", "href", "xlink:href", "action", "data", "poster", "srcset", "background"}


class Page(HTMLParser):
    """Checks that elements nest, and that none runs or fetches anything."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name in LINKING:
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,")), value
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> str:
    """The text of a card that is a sound page by itself."""
    parser = Page()
    parser.feed(page)
    parser.close()
    assert not parser.open
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    return parser.text


@pytest.fixture(params=["time", "k_fold"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return tmp_path, write(tmp_path, table(), kind=request.param)


def frames(folder: Path, manifest: dict[str, Any]) -> dict[str, pl.DataFrame]:
    """Rows of each group, read by polars."""
    if "folds" not in manifest:
        return {name: pl.read_parquet(folder / f"{name}.parquet") for name in manifest["splits"]}
    rows = pl.read_parquet(folder / "rows.parquet")
    last = manifest["folds"][-1]["name"]
    return {name: rows.filter(pl.col(last) == name) for name in ("train", "test")}


def test_its_figures_are_those_of_the_rows(dataset: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = dataset
    rows = Rows(folder, manifest)
    found = summarize(rows, FEATURES, LABELS)
    expected = frames(folder, manifest)
    assert rows.groups == tuple(expected)
    for group, frame in enumerate(expected.values()):
        assert found.moments.rows[group] == frame.height
        assert (found.first[group], found.last[group]) == (frame["time"].min(), frame["time"].max())
        for place, name in enumerate(found.columns):
            column = frame[name].drop_nulls()
            assert found.moments.known[group, place] == len(column) == found.histogram[group, place].sum()
            assert found.moments.missing[group, place] == pytest.approx(frame[name].null_count() / frame.height)
            if len(column):
                assert found.moments.mean[group, place] == pytest.approx(column.mean(), abs=1e-12)
                assert found.moments.deviation[group, place] == pytest.approx(column.std(ddof=0), rel=1e-12)
                assert (found.moments.low[group, place], found.moments.high[group, place]) == (
                    column.min(),
                    column.max(),
                )
                low, high = found.ends[place]
                edges = np.array([-np.inf, *np.linspace(low, high, BINS + 1)[1:-1], np.inf])
                counts, _ = np.histogram(column, edges)
                assert np.abs(counts - found.histogram[group, place]).sum() <= 2, "ties at an edge may fall either way"
        label = frame[LABELS[1]]
        assert found.classes[group, len(FEATURES) + 1].tolist() == [int((label == each).sum()) for each in (-1, 0, 1)]
        for place, instrument in enumerate(found.instruments):
            count = frame.filter(pl.col("instrument") == instrument).height
            assert found.coverage[place, group].sum() == count


def test_folds_are_counted_role_by_role(tmp_path: Path) -> None:
    manifest = write(tmp_path, table(), kind="k_fold")
    rows = Rows(tmp_path, manifest)
    found = summarize(rows, FEATURES, LABELS)
    frame = pl.read_parquet(tmp_path / "rows.parquet")
    for fold, name in enumerate(rows.folds):
        for role, text in enumerate(ROLES):
            mine = frame.filter(pl.col(name) == text)
            at = fold * len(ROLES) + role
            assert found.fold_coverage[fold, role].sum() == found.fold_moments.rows[at] == mine.height
            assert manifest["folds"][fold][text] == mine.height
            assert found.fold_moments.mean[at, 0] == pytest.approx(mine[LABELS[0]].mean() or 0.0, abs=1e-15)
            classes = [int((mine[LABELS[1]] == each).sum()) for each in (-1, 0, 1)]
            assert found.fold_classes[fold, role, 1].tolist() == classes


def test_the_page_stands_by_itself_and_tells_all(dataset: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = dataset
    write_card(folder, manifest)
    page = (folder / CARD).read_text(encoding="utf-8")
    text = read(page)
    for told in (
        manifest["id"],
        manifest["output_hash"],
        "micro@2",
        *FEATURES,
        *LABELS,
        "WARMUP",
        "V:AAA",
        "next_price",
    ):
        assert told in text
    for told in (
        "no leak",
        "90 rows compared at 9 cuts",
        "caught in 5 of 5 windows",
        "not compared",
        "25.00 %",
        "2024-07-19T00:00:00.000Z",
    ):
        assert told in text
    assert f"{manifest['rows']:,}" in text
    assert ("fold_2" in text) == ("folds" in manifest)
    assert "currentColor" in page
    assert "testing only" not in text


def test_it_is_the_same_bytes(dataset: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, manifest = dataset
    once = render(folder, manifest)
    monkeypatch.setitem(mpl.rcParams, "font.size", 31.0)
    monkeypatch.setitem(mpl.rcParams, "svg.hashsalt", "another")
    for path in folder.glob("*.parquet"):
        pq.write_table(pq.read_table(path), path, row_group_size=50)
    assert render(folder, dict(sorted(manifest.items(), reverse=True))) == once, "however it was read, and by whom"
    assert mpl.rcParams["font.size"] == 31.0


def test_what_failed_is_not_green(tmp_path: Path) -> None:
    manifest = write(tmp_path, table(), kind="random")
    good = render(
        tmp_path, {**manifest, "parity": {"compared": 9, "mismatch": 0, "missing": 0, "extra": 0, "ok": True}}
    )
    assert "no leak" in good
    assert "equal" in read(good)
    assert "For testing only" in good
    control = {"feature": "next_price", "windows": 5, "found": 1, "caught": False}
    leaks = {**manifest["leakcheck"], "leaking": ["mid_price"], "control": control}
    parity = {"compared": 9, "mismatch": 1, "missing": 2, "extra": 0, "conflicting": 0, "ok": False}
    bad = render(tmp_path, {**manifest, "leakcheck": leaks, "parity": parity})
    assert re.search(r'tile bad"><span class="soft">Leak check</span><b>1 leaking', bad)
    assert re.search(r'tile bad"><span class="soft">Live = replayed</span><b>3 differ', bad)
    assert "caught in 1 of 5 windows: THE CHECK IS BLIND" in bad
    broken = {"rows": 3, "broken": {"label_t1 is behind label_t0": 2}, "ok": False}
    blind = render(tmp_path, {**manifest, "leakcheck": {**leaks, "leaking": []}, "assembly": broken})
    assert re.search(r'tile bad"><span class="soft">Leak check</span><b>blind', blind)
    assert "label_t1 is behind label_t0: 2" in blind


def test_names_of_others_stay_text(tmp_path: Path) -> None:
    hostile = ["V:<script>alert(1)</script>", "V:$\\frac{1}{2}$", "V:币安人生", 'V:"&amp;']
    manifest = write(tmp_path, table(instruments=hostile))
    text = read(render(tmp_path, {**manifest, "id": "<img src=x onerror=alert(1)>", "output_hash": "</code><script>"}))
    for told in (*hostile, "<img src=x onerror=alert(1)>", "</code><script>"):
        assert told in text


def test_little_is_enough(tmp_path: Path) -> None:
    """One row, columns without a value, a manifest without proofs, no flag, nothing missing."""
    rows = table(seconds=100, instruments=["V:A"], features=["mid_price"], labels=["forward_return_5s"])
    empty = rows.set_column(
        rows.schema.get_field_index("forward_return_5s"), "forward_return_5s", pa.nulls(100, pa.float64())
    )
    for content in (rows, empty, rows.slice(0, 1), rows.slice(0, 0)):
        folder = tmp_path / str(content.num_rows) / str(content["forward_return_5s"].null_count)
        folder.mkdir(parents=True)
        pq.write_table(content, folder / "train.parquet")
        manifest = {
            "id": "a-1-b-c", "feature_set": "a@1", "features": ["mid_price"], "labels": ["forward_return_5s"],
            "rows": content.num_rows, "splits": {"train": content.num_rows},
        }  # fmt: skip
        text = read(render(folder, manifest))
        assert "No row carries a flag" in text
        assert "No feature has a row without a value" in text


def test_a_whole_feature_set_is_one_small_page(tmp_path: Path) -> None:
    features = load(DEFAULT).features
    manifest = write(tmp_path, table(features=features, seconds=60), features=features)
    page = render(tmp_path, manifest)
    assert len(page) < 600_000
    assert page.count('class="spark"') == len(features)


def test_many_instruments_and_folds_are_bounded(tmp_path: Path) -> None:
    names = [f"V:S{i:04}" for i in range(60)]
    manifest = write(tmp_path, table(instruments=names, seconds=90), kind="k_fold", folds=45)
    text = read(render(tmp_path, manifest))
    assert "Of 60 instruments, the 40 with the most rows" in text
    assert "The first 40 of 45 folds are drawn" in text


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    manifest = write(tmp_path, table())
    path = tmp_path / "validation.parquet"
    content = path.read_bytes()
    pq.write_table(pq.read_table(path).drop_columns("spread_bps"), path)
    with pytest.raises(SegmentTorn, match=r"validation\.parquet.*spread_bps.*Action"):
        render(tmp_path, manifest)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SegmentTorn, match=r"validation\.parquet.*Action"):
        render(tmp_path, manifest)
    path.unlink()
    with pytest.raises(SegmentTorn, match=r"validation\.parquet.*Action"):
        render(tmp_path, manifest)


def test_far_values_do_not_flatten_a_histogram(tmp_path: Path) -> None:
    rows = table(seconds=2000, features=["mid_price"])
    values = rows["mid_price"].to_numpy().copy()
    values[7], values[900], values[1800] = 1e300, -1e300, np.inf
    place = rows.schema.get_field_index("mid_price")
    manifest = write(tmp_path, rows.set_column(place, "mid_price", pa.array(values)), features=["mid_price"])
    found = summarize(Rows(tmp_path, manifest), ("mid_price",), LABELS)
    assert np.abs(found.ends[0]).max() < 10
    assert (found.histogram[0, 0] > 0).sum() > BINS // 2
    assert found.moments.known[0, 0] == found.moments.rows[0] - 1, "what is not finite is no value"
    read(render(tmp_path, manifest))


def test_the_sample_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "SAMPLE_ROWS", 50)
    manifest = write(tmp_path, table(seconds=1000))
    found = summarize(Rows(tmp_path, manifest), FEATURES, LABELS)
    assert np.isfinite(found.ends).all()
    assert found.histogram.sum() == found.moments.known.sum()


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.00012345, "0.0001234"), (3.2e-7, "3.2e-7"), (94220.4, "94,220"), (1e12, "1e12")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_a_share_above_nothing_never_reads_as_nothing() -> None:
    assert [share(value) for value in (0.0, 1e-9, 0.5, 1.0)] == ["0 %", "< 0.01 %", "50.00 %", "100.00 %"]
