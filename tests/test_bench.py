"""The bench: its tape is a valid one, the naive version says what the engine says, and its output has its shape."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import streams
from commandline import onetape
from own_files import own_set
from rich.console import Console

from agents.engine import Engine
from app.bench import duels, engine, footprint, measure, peers, suite
from app.bench.naive import Naive
from app.bench.stream import Stream, names
from app.bench.tape import Sizes, generated
from app.report import Report
from schemas.columns import Columns, from_events, to_events
from schemas.errors import CheckFailed, DependencyDown, UsageError
from schemas.events import Kind
from schemas.feature_sets import DEFAULT, load
from schemas.units import BASE_TICK_NS
from schemas.validate import check

TINY = Sizes(
    symbols=3, warm_rows=2_000, rounds=2, fast_rows=500, slow_rows=500, naive_rows=500, single_rows=50,
    archive_rows=2_000, thread_rows=2_000, month_rows=2_000, memory_symbols=20,
)  # fmt: skip
WITHOUT_PEERS = "naive,decode,single,state,memory,start,month"


@pytest.fixture(scope="module")
def tape() -> Columns:
    stream = Stream(names(4))
    return Columns.concat([stream.begin(), stream.take(6_000)])


def test_every_generated_record_passes_the_gate(tape: Columns) -> None:
    events = to_events(tape)
    for event in events:
        check(event)
    deltas = [event.body for event in events if event.kind is Kind.DELTA]
    changed = np.mean([len(delta["bids"]) + len(delta["asks"]) for delta in deltas])
    assert 5 < changed < 7
    trades = [event for event in events if event.kind is Kind.TRADE]
    assert 0.4 < len(trades) / len(deltas) < 0.6
    assert len({trade.body["trade_id"] for trade in trades}) == len(trades)


def test_generated_books_are_whole_uncrossed_and_deep(tape: Columns) -> None:
    found = Engine([load(DEFAULT)], 0)
    vectors = found.apply(tape)[0]
    assert set(vectors.book_epoch.tolist()) == {1}
    for key in tape.keys[1:]:
        bids, asks = found.arena.book(key)
        assert bids[0][0] < asks[0][0]
        assert 200 < len(bids) < 400
        assert 200 < len(asks) < 400


def test_generated_ticks_stand_before_what_was_received_after_them(tape: Columns) -> None:
    ticks = tape.body[tape.start[:-1][tape.kind == Kind.TICK]]
    assert (np.diff(ticks) == BASE_TICK_NS).all()
    assert (np.diff(tape.ts_recv) >= 0).all()


def test_a_stream_is_the_same_however_it_is_taken() -> None:
    one, many = Stream(names(2), seed=3), Stream(names(2), seed=3)
    whole = one.take(900)
    parts = Columns.concat([many.take(rows) for rows in (1, 299, 600)])
    assert to_events(whole) == to_events(parts)
    assert np.array_equal(whole.offset, parts.offset)


def test_the_naive_version_agrees_with_the_engine_on_the_generated_tape() -> None:
    feature_set = load(DEFAULT)
    tape = generated(Sizes(symbols=2, warm_rows=13_500, rounds=1), 2_000)
    found, naive = Engine([feature_set], 0), Naive(feature_set.features)
    for columns in (tape.warm, *tape.rounds):
        assert duels.agreeing(found.apply(columns)[0], naive.apply(to_events(columns))) > 0


@pytest.mark.parametrize(("seed", "holes"), [(1, 0), (3, 1)])
def test_the_naive_version_agrees_with_the_engine_on_odd_streams(seed: int, holes: int) -> None:
    feature_set = load(DEFAULT)
    tape = streams.stream(seed, holes=holes)
    vectors = Engine([feature_set], 0).apply(from_events(0, 0, tape))[0]
    assert duels.agreeing(vectors, Naive(feature_set.features).apply(tape)) > 10_000


def test_a_rival_that_differs_is_no_rival() -> None:
    feature_set = load(DEFAULT)
    tape = generated(Sizes(symbols=2, warm_rows=1_000, rounds=1), 10)
    vectors = Engine([feature_set], 0).apply(tape.warm)[0]
    expected = Naive(feature_set.features).apply(to_events(tape.warm))
    next(iter(expected.values()))[0]["mid_price"] = math.nan
    with pytest.raises(CheckFailed, match="mid_price"):
        duels.agreeing(vectors, expected)


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extra."""

    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(peers, "import_module", absent)


@pytest.mark.usefixtures("no_peers")
@pytest.mark.parametrize("name", ["hftbacktest", "nautilus", "naive"])
def test_a_missing_peer_names_the_extra(name: str) -> None:
    with pytest.raises(DependencyDown, match=r"pip install -e '.\[bench\]'"):
        engine.bench_engine(Report(True), DEFAULT, only=name, sizes=TINY)


def test_the_payload_has_its_shape() -> None:
    payload = engine.bench_engine(Report(True), DEFAULT, only=WITHOUT_PEERS, sizes=TINY)
    json.dumps(payload, allow_nan=False)
    measured = dict.fromkeys(figure["name"].partition(":")[0] for figure in payload["figures"])
    assert list(measured) == [name for name in engine.FIGURES if name in WITHOUT_PEERS.split(",")]
    for figure in payload["figures"]:
        assert set(figure) == {"name", "value", "unit", "must", "aim", "ok", "rival", "command"}
        assert figure["value"] > 0
        assert figure["command"] == f"onetape bench engine --only {figure['name'].partition(':')[0]}"
    assert {"processor", "processors", "versions"} <= set(payload["machine"])
    assert 0 < payload["quiet"] <= 1
    assert sorted(payload["missed"] + payload["unsure"]) == sorted(
        figure["name"] for figure in payload["figures"] if not figure["ok"]
    )
    assert payload["left_out"] == [name for name in engine.FIGURES if name not in measured]


@pytest.mark.parametrize(
    ("value", "at_most", "ok"), [(20.0, False, True), (19.9, False, False), (20.0, True, True), (20.1, True, False)]
)
def test_a_figure_is_held_against_what_it_must_be(value: float, at_most: bool, ok: bool) -> None:
    figure = measure.Figure("name:part", value, measure.Target(20, 40, at_most=at_most), "rival")
    assert figure.ok is ok
    assert figure.command == "onetape bench engine --only name"


def test_a_figure_without_a_bound_is_never_missed() -> None:
    assert measure.Figure("name", 0.1, measure.Target(None, None), "rival").ok


def test_two_threads_need_two_processors_to_be_quiet() -> None:
    assert measure.Span(1.0, 1.0, threads=2).quiet == 0.5
    assert measure.Span(1.0, 1.3).quiet == 1.0
    watch = measure.Stopwatch([measure.Span(1.0, 1.0), measure.Span(1.0, 0.2), measure.Span(1.0, 0.4)])
    assert watch.quiet() == 0.4
    assert watch.quiet(1) == pytest.approx(0.3)
    assert measure.Stopwatch().quiet() == 1.0


def test_a_set_of_ones_own_is_benched_from_its_file(tmp_path: Path) -> None:
    """Also where a process of its own loads it."""
    payload = engine.bench_engine(Report(True), str(own_set(tmp_path)), only="memory,start", sizes=TINY)
    assert payload["feature_set"] == "own@3"
    assert [figure["name"] for figure in payload["figures"]] == ["memory", "start"]


def test_a_folder_without_recordings_is_told_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match=r"no recordings in .*--recordings"):
            engine.bench_engine(Report(True), DEFAULT, only="single", recordings=folder, sizes=TINY)
    assert "Batches of one record" not in capsys.readouterr().err


def test_a_figure_without_a_bound_is_neither_fine_nor_missed() -> None:
    figures = [
        measure.Figure(name, 2.0, measure.Target(must, None), "rival").json()
        for name, must in (("bound", 1), ("missed", 3), ("free", None))
    ]
    console = Console(record=True, width=160)
    payload = {"figures": figures, "feature_set": DEFAULT, "machine": suite.machine([]), "quiet": 1.0, "left_out": []}
    engine.show(console, payload | {"missed": ["missed"], "unsure": []})
    lines = {line.split()[1]: line.split() for line in console.export_text().splitlines() if "rival" in line}
    assert {name: cells[-4] for name, cells in lines.items()} == {"bound": "yes", "missed": "NO", "free": "-"}


def test_figures_are_chosen_by_name() -> None:
    assert suite.chosen(engine.FIGURES, "start, oracle", None) == ["oracle", "start"]
    assert "month" not in suite.chosen(engine.FIGURES, None, "month")
    with pytest.raises(UsageError, match="nosuch"):
        suite.chosen(engine.FIGURES, "nosuch", None)
    with pytest.raises(UsageError, match="no figure"):
        suite.chosen(engine.FIGURES, "month", "month")


def test_a_batch_of_one_is_one_record() -> None:
    columns = generated(Sizes(symbols=2, warm_rows=10, rounds=1), 40).rounds[0]
    events = [event for event in to_events(columns) if event.kind is not Kind.TICK]
    for cut in (footprint.singles, footprint.named_singles):
        assert [event for each in cut(columns) for event in to_events(each)] == events
    assert all(len(each.keys) == 1 for each in footprint.named_singles(columns))


def test_the_command_refuses_what_it_does_not_know() -> None:
    done = onetape("bench", "engine", "--only", "nosuch")
    assert done.returncode == 2
    assert "nosuch" in done.stderr
    assert "Action:" in done.stderr
