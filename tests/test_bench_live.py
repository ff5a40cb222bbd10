"""The live bench: its load is what a venue's would be, and each part of it runs against a real Kafka."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from commandline import onetape
from hypothesis import given, settings
from strategies import events

from agents.engine import Engine
from app.bench import live, probe
from app.bench.curve import Curve
from app.bench.market import Load, Market
from app.bench.rivals import quix
from app.bench.rivals.job import Job
from app.bench.stream import Stream, names
from app.bench.throughput import Sizes, agreeing
from app.bench.wire import TapeWire, poisoned
from app.report import Report
from schemas.codec import TapeCodec
from schemas.columns import Columns, from_events, to_events
from schemas.errors import CheckFailed, UsageError
from schemas.events import Event, Kind
from schemas.feature_sets import DEFAULT, load
from schemas.registry import FileRegistry, SchemaRegistry
from schemas.topics import TAPE, partition_of
from schemas.units import BASE_TICK_NS
from schemas.vector_codec import VectorCodec
from schemas.vectors import Vectors

TINY = Sizes(tape=Load(symbols=4, rate=400, seconds=20), rounds=1, rival_s=3.0)


@pytest.fixture(scope="module")
def registry() -> Iterator[SchemaRegistry]:
    with tempfile.TemporaryDirectory() as folder:
        yield FileRegistry(Path(folder) / "schemas.json")


@settings(deadline=None)  # the first one compiles
@given(event=events())
def test_what_the_load_writes_is_what_the_codec_writes(registry: SchemaRegistry, event: Event) -> None:
    columns = from_events(0, 0, [event])
    assert TapeWire(registry).encode(columns) == [(event.key.encode(), TapeCodec(registry).encode(event))]


def test_a_part_of_columns_is_written_like_the_whole(registry: SchemaRegistry) -> None:
    stream = Stream(names(3))
    columns = Columns.concat([stream.begin(), stream.take(500)])
    wire = TapeWire(registry)
    assert wire.encode(columns.slice(0, 7)) + wire.encode(columns.slice(7, 512)) == wire.encode(columns)


def test_poison_is_refused_and_nothing_else(registry: SchemaRegistry) -> None:
    messages = TapeWire(registry).encode(Stream(names(3)).take(2_000))
    spoilt, count = poisoned(messages, 100)
    assert count == 20
    keys, values = [key for key, _ in spoilt], [value for _, value in spoilt]
    columns, refused = TapeCodec(registry).decode_batch(TAPE, 0, range(len(spoilt)), keys, values)
    assert [letter.offset for letter in refused] == list(range(100, len(spoilt), 101))
    assert len({letter.reason for letter in refused}) > 2
    good = Stream(names(3)).take(2_000)
    assert [event.body for event in to_events(columns) if event.kind is not Kind.REFUSED] == [
        event.body for event in to_events(good)
    ]


def test_a_market_is_spread_as_a_producer_would_and_has_its_rate() -> None:
    market = Market(Load(symbols=50, rate=1_000, seconds=10), 4)
    assert sorted(name for own in market.symbols for name in own) == sorted(names(50))
    assert all(partition_of(name, 4) == at for at, own in enumerate(market.symbols) for name in own)
    columns = [stream.take(market.rows(stream)) for stream in market.streams]
    events_ = sum(int((each.kind != Kind.TICK).sum()) for each in columns)
    assert events_ == pytest.approx(10_000, rel=0.02)
    for each in columns:
        assert each.ts_recv[-1] - each.ts_recv[0] == pytest.approx(10e9, rel=0.2)


def test_a_stream_can_begin_at_another_time() -> None:
    stream = Stream(names(2), rate=0.5)
    stream.begin()
    stream.pass_to(10**18)
    columns = stream.take(200)
    ticks = columns.body[columns.start[:-1][columns.kind == Kind.TICK]]
    assert ticks[0] == 10**18 + BASE_TICK_NS
    assert columns.ts_recv.min() >= 10**18


def test_the_job_the_rivals_do_gives_our_vectors(registry: SchemaRegistry) -> None:
    feature_set = load(str(files("app.bench").joinpath("live.yaml")))
    stream, job, wire = Stream(names(3), rate=50), Job(registry, feature_set), TapeWire(registry)
    columns = Columns.concat([stream.begin(), stream.take(12_000)])
    expected = Engine([feature_set], 0).apply(columns)[0]
    made: list[bytes] = []
    for offset, (key, value) in enumerate(wire.encode(columns)):
        made.extend(vector for _, vector in job.take(0, offset, key.decode(), value))
    found = VectorCodec(registry, feature_set).decode(made)
    assert agreeing(expected, found) == expected.values.size
    assert np.isfinite(found.values[-3:]).all()
    assert np.isnan(found.values[0]).any()
    wrong = found.values.copy()
    wrong[-1, feature_set.features.index("vwap_1s")] += 1e-4
    with pytest.raises(CheckFailed, match="vwap_1s"):
        agreeing(expected, replace(found, values=wrong))


def test_a_symbol_that_quix_has_stored_goes_on(registry: SchemaRegistry) -> None:
    feature_set = load(str(files("app.bench").joinpath("live.yaml")))
    stream, job = Stream(names(1)), Job(registry, feature_set)
    for offset, (key, value) in enumerate(
        TapeWire(registry).encode(Columns.concat([stream.begin(), stream.take(300)]))
    ):
        job.take(0, offset, key.decode(), value)
    symbol = job.partition(0).symbols[names(1)[0]]
    again = quix.restored(quix.stored(symbol))
    assert all(getattr(again, name) == getattr(symbol, name) for name in ("bids", "asks", "past", "flow", "epoch"))
    assert again.values() == symbol.values()


def test_a_speed_is_that_of_the_whole_tape_and_leaves_out_the_beginning() -> None:
    """Two partitions, a vector for each 100 records; the first fifth takes ten times as long."""
    at = np.concatenate([np.linspace(0, 100, 21), 100 + np.arange(1, 81) * 1.0])
    curve = Curve(at, np.arange(1, 102) * 100.0, Vectors.empty(load(DEFAULT)))
    assert curve.events_per_s() == pytest.approx(100)
    assert curve.events_per_s(since=150) == pytest.approx(100)
    with pytest.raises(CheckFailed, match="too soon"):
        curve.events_per_s(since=500)


def test_every_figure_is_documented() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "bench.md").read_text(encoding="utf-8")
    section = page.partition("## `onetape bench live`")[2].partition("\n## ")[0]
    told = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(told) == sorted(live.GROUPS)


def test_a_vectors_time_is_read_from_its_first_bytes(registry: SchemaRegistry) -> None:
    feature_set = load(DEFAULT)
    stream = Stream(names(2))
    vectors = Engine([feature_set], 0).apply(Columns.concat([stream.begin(), stream.take(500)]))[0]
    values = [value for _, value in VectorCodec(registry, feature_set).encode(vectors)]
    assert [probe.time_of(value) for value in values] == vectors.time.tolist()


@pytest.mark.kafka
def test_latencies_have_their_shape(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONETAPE_BROKERS", kafka)
    load_ = Load(symbols=8, rate=80, seconds=6)
    sizes = Sizes(tape=load_, many=load_, few=load_, rounds=1)
    payload = live.bench_live(Report(True), only="readable,burst,cadence", sizes=sizes)
    assert [figure["name"] for figure in payload["figures"]] == ["readable", "burst", "cadence"]
    assert all(figure["must"] is None and figure["value"] > -100 for figure in payload["figures"])
    assert not payload["missed"]


@pytest.mark.kafka
def test_a_killed_worker_is_timed_and_compared(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONETAPE_BROKERS", kafka)
    monkeypatch.setenv("ONETAPE_SESSION_TIMEOUT_S", "1.5")
    sizes = Sizes(killed=Load(symbols=8, rate=80, seconds=6), rounds=1)
    payload = live.bench_live(Report(True), only="recovery,rebuild", sizes=sizes)
    assert [figure["name"] for figure in payload["figures"]] == ["recovery", "rebuild"]
    assert all(figure["must"] is None and figure["value"] > 0 for figure in payload["figures"])


def test_a_set_of_ones_own_has_no_rivals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rivals"):
        live.bench_live(Report(True), only="faust", feature_set=tmp_path / "own.yaml")


@pytest.mark.kafka
def test_the_payload_has_its_shape(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONETAPE_BROKERS", kafka)
    monkeypatch.setenv("ONETAPE_BATCH_SIZE", "200")  # so that the small tape has a beginning and an end
    payload = live.bench_live(Report(True), only="aiokafka,faust,poison", sizes=TINY)
    json.dumps(payload, allow_nan=False)
    for figure in payload["figures"]:
        assert set(figure) == {"name", "value", "unit", "must", "aim", "ok", "rival", "command"}
        assert figure["value"] >= 0
        assert figure["command"] == f"onetape bench live --only {figure['name']}"
    assert {"machine", "quiet", "missed", "unsure", "left_out", "broker"} <= payload.keys()


def test_without_a_broker_the_command_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONETAPE_BROKERS", "127.0.0.1:1")
    done = onetape("bench", "live", "--only", "worker")
    assert done.returncode == 3
    assert "make kafka" in done.stderr
