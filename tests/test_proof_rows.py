"""The checks of a dataset's rows: the shift test finds what is made of a label, assembly what is put together wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tapes import archive_of, market, tape

from replay.driver import replay
from replay.labels.compute import label
from replay.labels.prices import PriceGrid
from replay.proof.assembly import assembly
from replay.proof.dataset import prove_rows
from replay.proof.rows import times
from replay.proof.shift import agree, mid_ranks, shift_test
from replay.reader import ArchiveReader
from schemas.errors import CheckFailed, SegmentTorn
from schemas.feature_sets import DEFAULT, FeatureSet, load
from schemas.labels import parse_all
from schemas.units import NS_PER_MS, NS_PER_S

SET = load(DEFAULT)
LABEL, DIRECTION = "forward_return_5s", "direction_5s"
REACH = 5 * NS_PER_S
START = 1_700_000_000 * NS_PER_S


def market_rows(seed: int, rows: int = 1500, instruments: int = 2) -> dict[str, Any]:
    """Rows of random walks: features that are honest, and some that are made of the label."""
    chance = np.random.default_rng(seed)
    made: dict[str, list[Any]] = {}
    for i in range(instruments):
        steps = chance.standard_normal(rows + 5)
        price = 100 * np.exp(np.cumsum(steps) * 1e-3)
        label = price[5:] / price[:-5] - 1
        volatility = np.convolve(np.abs(steps), np.ones(60) / 60)[:rows]
        columns = {
            "instrument": [f"V:{i}"] * rows, "time": START + np.arange(rows) * NS_PER_S,
            "mid_price": price[:-5], "momentum": np.append([0.0], np.diff(price[:-5])), "volatility": volatility,
            "noise": chance.standard_normal(rows), "clock": np.arange(rows, dtype=float), "rare": steps[:rows] > 3.2,
            "scaled_label": label * -700 + 3, "copied_label": label, "next_price": price[5:], LABEL: label,
            DIRECTION: np.where(np.abs(label) > 0.003, np.sign(label), 0.0),
        }  # fmt: skip
        for name, values in columns.items():
            made.setdefault(name, []).extend(np.asarray(values).tolist())
    order = sorted(range(len(made["time"])), key=lambda i: (made["time"][i], made["instrument"][i]))
    return {name: [values[i] for i in order] for name, values in made.items()}


HONEST = ["mid_price", "momentum", "volatility", "noise", "clock", "rare"]
LEAKING = ["scaled_label", "copied_label"]


def stored(folder: Path, rows: dict[str, Any], splits: int = 1, group: int = 700) -> list[Path]:
    """The rows as files of a dataset."""
    table = pa.table({name: [float(v) if isinstance(v, bool) else v for v in values] for name, values in rows.items()})
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-table.num_rows // splits)
    files = []
    for i in range(splits):
        files.append(folder / f"{i}.parquet")
        pq.write_table(table.slice(i * size, size), files[-1], row_group_size=group, write_page_checksum=True)
    return files


@pytest.mark.parametrize("at", [[], [3], [1, 1, 2, 2, 2, 2, 2, 3, 9], [2, 2, 2, 2, 9, 9, 1, 1, 2], [9, 5, 5, 3]])
@pytest.mark.parametrize("group", [1, 2, 3, 50])
def test_times_are_distinct_and_ascending(tmp_path: Path, at: list[int], group: int) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"time": pa.array(at, pa.int64())}), file, row_group_size=group, write_page_checksum=True)
    assert times(file).tolist() == sorted(set(at))


@pytest.mark.parametrize("seed", range(8))
def test_features_made_of_the_label_are_found_and_no_others(tmp_path: Path, seed: int) -> None:
    files = stored(tmp_path, market_rows(seed))
    found = shift_test(files, HONEST + LEAKING, {LABEL: REACH, DIRECTION: REACH}, NS_PER_S)
    assert found.leaking == sorted(LEAKING)
    assert found.rows == 3000
    worst = found.worst()
    assert set(list(worst)[:2]) == set(LEAKING)
    ic, shifted, label = worst["scaled_label"]
    assert (round(ic or 0, 9), label) == (-1.0, LABEL)
    assert abs(shifted or 1) < 0.2


def test_a_leak_is_found_by_a_coarser_label_alone(tmp_path: Path) -> None:
    """Spearman's correlation of a return with its own direction is far below 1; nothing contradicts it all the same."""
    files = stored(tmp_path, market_rows(11))
    found = shift_test(files, HONEST + LEAKING, {DIRECTION: REACH}, NS_PER_S)
    assert found.leaking == sorted(LEAKING)
    assert abs(found.worst()["copied_label"][0] or 1) < 0.97


def test_files_and_row_groups_change_nothing_and_a_sample_little(tmp_path: Path) -> None:
    rows = market_rows(12)
    names = HONEST + LEAKING
    whole = shift_test(stored(tmp_path / "a", rows), names, {LABEL: REACH}, NS_PER_S)
    cut = shift_test(stored(tmp_path / "b", rows, 3, 64), names, {LABEL: REACH}, NS_PER_S)
    assert whole == cut
    sample = shift_test(stored(tmp_path / "a", rows), names, {LABEL: REACH}, NS_PER_S, sample_rows=1000)
    assert 990 <= sample.rows <= 1000
    assert sample.leaking == whole.leaking
    for few, all_ in zip(sample.found, whole.found, strict=True):
        assert (few.ic or 0) == pytest.approx(all_.ic or 0, abs=0.1)


def test_the_shifted_feature_is_that_of_the_same_instrument_one_reach_earlier(tmp_path: Path) -> None:
    """A feature that tells the label of five rows later agrees when shifted, and so is taken for none of the label."""
    rows = market_rows(13)
    label = np.array(rows[LABEL])
    rows["early"] = np.concatenate([label[10:], np.full(10, np.nan)])
    found = shift_test(stored(tmp_path, rows), ["early"], {LABEL: REACH}, NS_PER_S).found[0]
    assert abs(found.ic or 1) < 0.2
    assert found.ic_shifted == pytest.approx(1)
    assert not found.is_leaking
    off_grid = shift_test(stored(tmp_path, rows), ["early"], {LABEL: REACH - NS_PER_S // 2}, NS_PER_S).found[0]
    assert off_grid.ic_shifted == pytest.approx(1)


def test_what_too_few_rows_say_is_not_known(tmp_path: Path) -> None:
    rows = {name: values[:90] for name, values in market_rows(14).items()}
    found = shift_test(stored(tmp_path, rows), HONEST + LEAKING, {LABEL: REACH}, NS_PER_S)
    assert found.leaking == []
    assert all(each.ic is None for each in found.found)
    constant = {**market_rows(15), "flat": [1.0] * 3000, "unknown": [float("nan")] * 3000, DIRECTION: [0.0] * 3000}
    constant["almost"] = [0.0] * 2990 + [1.0] * 10
    constant[DIRECTION][-10:] = [1.0] * 10
    found = shift_test(stored(tmp_path, constant), ["flat", "unknown", "almost"], {DIRECTION: REACH}, NS_PER_S)
    assert found.leaking == []
    assert found.json()["worst"]["flat"] == [None, None, DIRECTION]


def test_correlation_is_spearmans() -> None:
    from scipy.stats import rankdata, spearmanr

    chance = np.random.default_rng(3)
    for ties in (2, 5, 1000):
        left = chance.integers(0, ties, 400).astype(float)
        right = left + chance.integers(0, 3 * ties, 400)
        assert mid_ranks(left) == pytest.approx(rankdata(left))
        assert agree(left, right)[0] == pytest.approx(spearmanr(left, right).statistic)


@given(values=hnp.arrays(np.float64, st.integers(100, 300), elements=st.integers(-50, 50)), classes=st.integers(2, 9))
def test_what_is_coarser_does_not_contradict(values: np.ndarray, classes: int) -> None:
    """Whatever the ties: a value and its own class agree wholly, either way, and with the opposite sign."""
    coarse = np.floor(values / classes)
    counts = [np.unique(each, return_counts=True)[1] for each in (values, coarse)]
    if min(len(values) - count.max() for count in counts) >= 30:
        assert agree(values, coarse)[1] == pytest.approx(1)
        assert agree(-coarse, values)[1] == pytest.approx(-1)


# Assembly


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ArchiveReader:
    return ArchiveReader(archive_of(tmp_path_factory.mktemp("rows") / "archive", tape(market(51, 1500, 40))))


@pytest.fixture(scope="module")
def dataset(archive: ArchiveReader) -> pa.Table:
    """Rows with a label of two seconds, entered at once."""
    vectors = replay(archive, SET).vectors
    (spec,) = parse_all(["forward_return_2s"])
    mid = vectors.values[:, vectors.feature_set.features.index("mid_price")]
    value = np.full(len(vectors), np.nan)
    for key in range(len(vectors.keys)):
        mine = vectors.key == key
        grid = PriceGrid(vectors.time[mine], mid[mine])
        step_ns = SET.cadence_ms * NS_PER_MS
        value[mine] = label(spec, grid, grid.time, step_ns=step_ns, entry_delay_ns=0).value
    t1 = vectors.time + 2 * NS_PER_S
    table = vectors.to_table().append_column(spec.name, pa.array(value))
    table = table.append_column("label_t0", pa.array(vectors.time)).append_column("label_t1", pa.array(t1))
    return table.append_column("triple_barrier_2s_t1", pa.array(t1 - NS_PER_S)).filter(pa.array(~np.isnan(value)))


REACHES = {"forward_return_2s": 2 * NS_PER_S, "triple_barrier_2s": 2 * NS_PER_S}


def written(folder: Path, table: pa.Table, gap_s: int = 3, group: int = 13) -> list[Path]:
    """Two files, the second `gap_s` seconds behind the first."""
    time = table["time"].to_numpy()
    middle = time[0] + 18 * NS_PER_S
    parts = {"train": time < middle, "test": time >= middle + (gap_s - 1) * NS_PER_S}
    for name, mask in parts.items():
        pq.write_table(table.filter(pa.array(mask)), folder / f"{name}.parquet", row_group_size=group)
    return [folder / f"{name}.parquet" for name in parts]


def test_rows_as_they_have_to_be(dataset: pa.Table, archive: ArchiveReader, tmp_path: Path) -> None:
    files = written(tmp_path, dataset)
    found = assembly(files, SET.features, REACHES, 0, is_by_time=True, archive=archive)
    assert found.json() == {"rows": sum(pq.read_metadata(file).num_rows for file in files), "broken": {}, "ok": True}
    found.check()


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pa.Table], pa.Table]:
    """A table with one column changed."""
    return lambda table: table.set_column(
        table.schema.get_field_index(name), name, pa.array(change(table[name].to_numpy().copy()))
    )


def at(row: int, by: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[row] += by
        return values

    return change


BROKEN: list[tuple[str, Callable[[pa.Table], pa.Table], dict[str, int]]] = [
    ("available early", changed("ts_available", at(20, -1)), {"available": 1}),
    ("available late", changed("ts_available", at(20, 1)), {"available": 1}),
    ("entry", changed("label_t0", at(3, 1)), {"entry": 1}),
    ("no interval", changed("label_t1", lambda t1: t1 - 2 * NS_PER_S), {"exit": -1}),
    ("longer than its reach", changed("label_t1", at(5, 1)), {"exit": 1}),
    ("a barrier touched behind the interval", changed("triple_barrier_2s_t1", at(5, NS_PER_S + 1)), {"exit": 1}),
    ("a barrier touched at entry", changed("triple_barrier_2s_t1", at(5, -NS_PER_S)), {"exit": 1}),
    ("another Tick", changed("as_of_offset", at(7, 1)), {"tick": 1}),
    ("another partition", changed("partition", lambda p: (p + 1).astype(np.int32)), {"tick": -1}),
    ("a row twice", lambda table: pa.concat_tables([table.slice(0, 9), table.slice(8)]), {"order": 1}),
    ("rows exchanged", lambda table: pa.concat_tables([table.slice(1, 1), table.slice(0, 1), table.slice(2)]),
     {"order": 1}),
    ("times backwards", lambda table: pa.concat_tables([table.slice(13, 13), table.slice(0, 13), table.slice(26)]),
     {"order": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "spoil", "broken"), BROKEN, ids=[each[0] for each in BROKEN])
def test_each_rule_names_what_breaks_it(
    dataset: pa.Table, archive: ArchiveReader, tmp_path: Path, what: str, spoil: Any, broken: dict[str, int]
) -> None:
    found = assembly(written(tmp_path, spoil(dataset)), SET.features, REACHES, 0, is_by_time=True, archive=archive)
    assert list(found.broken) == list(broken), what
    assert all(found.broken[rule] == count or count < 0 for rule, count in broken.items())
    with pytest.raises(CheckFailed, match="put together"):
        found.check()


def test_a_label_among_the_features_is_named(dataset: pa.Table, tmp_path: Path) -> None:
    files = written(tmp_path, dataset)
    found = assembly(files, ["mid_price", "direction_5s"], REACHES, 0, is_by_time=True)
    assert found.broken == {"names": 1}


def test_intervals_that_reach_into_the_next_split_are_named(dataset: pa.Table, tmp_path: Path) -> None:
    """The last label ends with the first row behind it: equal instants overlap. In folds a row's role says it."""
    files = written(tmp_path, dataset, gap_s=2)
    assert assembly(files, SET.features, REACHES, 0, is_by_time=True).broken == {"splits": 1}
    assert assembly(files, SET.features, REACHES, 0, is_by_time=False).ok


def test_a_time_in_two_files_is_named(dataset: pa.Table, tmp_path: Path) -> None:
    files = written(tmp_path, dataset)
    found = assembly([files[0], files[0]], SET.features, REACHES, 0, is_by_time=False)
    assert found.broken == {"order": len(set(pq.read_table(files[0])["time"].to_pylist()))}


def test_an_entry_delay_belongs_to_the_interval(dataset: pa.Table, tmp_path: Path) -> None:
    later = changed("label_t0", lambda t0: t0 + NS_PER_S // 2)(dataset)
    files = written(tmp_path, later)
    assert assembly(files, SET.features, REACHES, NS_PER_S // 2, is_by_time=True).ok
    assert "entry" in assembly(files, SET.features, REACHES, 0, is_by_time=True).broken


def test_a_torn_file_is_told(dataset: pa.Table, tmp_path: Path) -> None:
    files = written(tmp_path, dataset)
    files[1].write_bytes(files[1].read_bytes()[:-200])
    with pytest.raises(SegmentTorn, match=r"test\.parquet"):
        assembly(files, SET.features, REACHES, 0, is_by_time=True)
    with pytest.raises(SegmentTorn, match=r"test\.parquet"):
        shift_test(files, ["mid_price"], {"forward_return_2s": REACH}, NS_PER_S)


def test_the_proof_of_a_dataset_is_both(dataset: pa.Table, archive: ArchiveReader, tmp_path: Path) -> None:
    """By the names, horizons and delay that the dataset was made with."""
    specs = parse_all(["forward_return_2s", "triple_barrier_2s"])
    files = [path.name for path in written(tmp_path, dataset.append_column(specs[1].name, dataset[specs[0].name]))]
    found = prove_rows(tmp_path, files, SET, specs, 0, is_by_time=True, archive=archive)
    found.check()
    assert found.ok
    told = found.json()
    assert told["assembly"] == {"rows": found.shift.rows, "broken": {}, "ok": True}
    assert told["shift_leaking"] == []
    assert len(told["shift"]) == 10
    assert "entry" in prove_rows(tmp_path, files, SET, specs, 1, is_by_time=True).assembly.broken


def test_a_feature_that_is_a_label_keeps_a_dataset_out(tmp_path: Path) -> None:
    rows = market_rows(16) | {"partition": [0] * 3000, "as_of_offset": list(range(3000))}
    rows |= {"ts_available": rows["time"], "label_t0": rows["time"]}
    rows["label_t1"] = [time + REACH for time in rows["time"]]
    made = FeatureSet("made", 1, 1000, ("noise", "scaled_label"))
    files = [path.name for path in stored(tmp_path, rows)]
    found = prove_rows(tmp_path, files, made, parse_all([LABEL]), 0, is_by_time=True)
    assert found.assembly.ok
    assert not found.ok
    with pytest.raises(CheckFailed, match="scaled_label"):
        found.check()
