"""The live bench: its load is what a venue's would be, and each part of it runs against a real Kafka."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import onetape
from hypothesis import given, settings
from strategies import events

from app.bench import live
from app.bench.market import Load, Market
from app.bench.stream import Stream, names
from app.bench.throughput import Sizes
from app.bench.wire import TapeWire, poisoned
from app.report import Report
from schemas.codec import TapeCodec
from schemas.columns import Columns, from_events, to_events
from schemas.events import Event, Kind
from schemas.registry import FileRegistry, SchemaRegistry
from schemas.topics import TAPE, partition_of
from schemas.units import BASE_TICK_NS

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


@pytest.mark.kafka
def test_the_payload_has_its_shape(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONETAPE_BROKERS", kafka)
    payload = live.bench_live(Report(True), only="worker", sizes=TINY)
    json.dumps(payload, allow_nan=False)
    for figure in payload["figures"]:
        assert set(figure) == {"name", "value", "unit", "must", "aim", "ok", "rival", "command"}
        assert figure["value"] > 0
        assert figure["command"] == f"onetape bench live --only {figure['name']}"
    assert {"machine", "quiet", "missed", "unsure", "left_out", "broker"} <= payload.keys()


def test_without_a_broker_the_command_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONETAPE_BROKERS", "127.0.0.1:1")
    done = onetape("bench", "live", "--only", "worker")
    assert done.returncode == 3
    assert "make kafka" in done.stderr
