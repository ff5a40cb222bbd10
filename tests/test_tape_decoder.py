"""The compiled decoder gives what fastavro and the gate give, of any bytes; and decides what it should by itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import RECORDS, bodies, events
from wire_oracle import FIRST, Message, damaged, decided_at_once, decided_singly

from schemas import limits, tape_pass
from schemas.codec import TapeCodec
from schemas.columns import to_events
from schemas.events import FIELDS, Event, FieldType, Kind
from schemas.registry import FileRegistry
from schemas.units import BASE_TICK_NS

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
NOW = 1_760_000_000_000_000_000
LEVEL = {"price": 7, "size": 9}


@pytest.fixture
def codec(tmp_path: Path) -> TapeCodec:
    return TapeCodec(FileRegistry(tmp_path / "registry.json"))


def message(codec: TapeCodec, event: Event) -> Message:
    return event.key.encode(), codec.encode(event)


def left(codec: TapeCodec, messages: Sequence[Message], *verdicts: int) -> list[int]:
    """Rows that the compiled pass does not accept; with `verdicts`, those of them that it gives one of these."""
    keys, values = [key for key, _ in messages], [value for _, value in messages]
    found = codec._decoder.accept(0, range(len(messages)), keys, values)[1]
    return [row for row, verdict in found.items() if not verdicts or verdict in verdicts]


def best_first(event: Event) -> Event:
    if event.kind is not Kind.SNAPSHOT:
        return event
    sides = {name: sorted(event.body[name], key=lambda level: level["price"]) for name in ("bids", "asks")}
    return event._replace(body={**event.body, "bids": sides["bids"][::-1], "asks": sides["asks"]})


@shared
@given(stream=st.lists(events().map(best_first), max_size=20))
def test_records_are_decoded_by_the_pass_alone(codec: TapeCodec, stream: list[Event]) -> None:
    messages = [message(codec, event) for event in stream]
    assert left(codec, messages) == []
    assert decided_at_once(codec, messages) == (stream, [])


EDGES = [0, 1, 19, 10**9, 1 << 40, limits.TS_MIN_NS, limits.TS_MAX_NS, 1 << 62, (1 << 63) - 1]
NUMBERS = st.sampled_from(EDGES).flatmap(lambda edge: st.sampled_from([edge - 1, edge, -edge, -edge - 1]))
TEXTS = st.text(max_size=4) | st.sampled_from(["x" * 256, "x" * 257, "é" * 128, "é" * 129, "\x7f", "~ ", "\n"])


@st.composite
def doubtful(draw: st.DrawFn) -> Event:
    """Any event, with any field and key that Avro can carry."""
    event = draw(events())
    field = draw(st.sampled_from(FIELDS[event.kind]))
    of_type = {
        FieldType.LONG: NUMBERS, FieldType.OPTIONAL: st.none() | NUMBERS, FieldType.TEXT: TEXTS,
        FieldType.FLAG: st.booleans(), FieldType.ENUM: st.sampled_from(field.symbols or ("",)),
        FieldType.LEVELS: st.lists(st.fixed_dictionaries({"price": NUMBERS, "size": NUMBERS}), max_size=3),
    }  # fmt: skip
    key = draw(st.just(event.key) | st.sampled_from(["*", "V:S", "v:s", "", "V:é", "V:" + "x" * 39, "V:" + "x" * 40]))
    return Event(
        key, draw(st.just(event.ts_event) | NUMBERS), draw(st.just(event.ts_recv) | NUMBERS), event.kind,
        {**event.body, field.name: draw(of_type[field.type])},
    )  # fmt: skip


@settings(shared, max_examples=150)
@given(stream=st.lists(doubtful() | events(), max_size=12), cuts=st.lists(st.integers(0, 12), max_size=3))
def test_the_gate_is_the_same_however_batches_are_cut(codec: TapeCodec, stream: list[Event], cuts: list[int]) -> None:
    messages = [message(codec, event) for event in stream]
    expected, letters = decided_singly(codec, messages)
    assert decided_at_once(codec, messages) == (expected, letters)
    bounds = [0, *sorted(cuts), len(messages)]
    parts = [decided_at_once(codec, messages[first:last])[0] for first, last in pairwise(bounds)]
    assert list(chain.from_iterable(parts)) == expected


@shared
@given(event=events().map(best_first), data=st.data())
def test_a_cut_or_longer_record_is_known_by_the_pass(codec: TapeCodec, event: Event, data: st.DataObject) -> None:
    key, value = message(codec, event)
    assert value is not None
    cut = data.draw(st.integers(0, len(value) - 1))
    messages: list[Message] = [(key, value[:cut]), (key, value), (key, value + b"\x00")]
    assert left(codec, messages) == [0, 2]
    assert left(codec, messages, tape_pass.LONGER) == [2]
    assert left(codec, messages, tape_pass.NOT_AVRO if cut >= 5 else tape_pass.NOT_WIRE) == [0]
    assert decided_at_once(codec, messages) == decided_singly(codec, messages)


def examples(codec: TapeCodec) -> list[Message]:
    """A few records of every kind, the same every time."""

    chance, made = Random(1), list[Message]()

    @settings(max_examples=120, database=None, derandomize=True, deadline=None)
    @given(event=st.sampled_from(RECORDS).flatmap(lambda kind: st.tuples(st.just(kind), bodies(kind))))
    def collect(event: tuple[Kind, dict[str, Any]]) -> None:
        kind, body = event
        key = "*" if kind in (Kind.TICK, Kind.ACTIVATE) else chance.choice(["V:S", "BINANCE_USDM:ETHUSDT"])
        made.append(message(codec, Event(key, chance.choice([0, NOW]), NOW + chance.randrange(10**9), kind, body)))

    collect()
    return made


@pytest.mark.fault("bytes", "random bytes, also behind a header that is right")
@pytest.mark.parametrize("count", [30_000, pytest.param(1_000_000, marks=pytest.mark.matrix)])
def test_damaged_bytes_are_the_same_value_or_the_same_refusal(codec: TapeCodec, count: int) -> None:
    chance, whole = Random(7), examples(codec)
    assert {codec.decode(*each).kind for each in whole} == set(RECORDS)
    refused = 0
    for _ in range(0, count, 1000):
        messages = [damaged(chance, whole) for _ in range(1000)]
        expected = decided_singly(codec, messages)
        assert decided_at_once(codec, messages) == expected
        refused += len(expected[1])
    assert 0.5 < refused / count < 0.99


def test_an_empty_batch(codec: TapeCodec) -> None:
    assert decided_at_once(codec, []) == ([], [])


def test_what_no_record_can_be_keeps_its_place(codec: TapeCodec) -> None:
    tick = message(codec, Event("*", NOW, NOW, Kind.TICK, {"time": NOW}))
    whole: list[Message] = [(None, tick[1]), tick, (b"*", None), (b"*", b""), (None, None), (b"V:S", tick[1])]
    whole.append((b"*", b"\x00" * (limits.MESSAGE_BYTES_MAX + 1)))
    events_, letters = decided_at_once(codec, whole)
    assert [event.kind for event in events_] == [Kind.REFUSED, Kind.TICK, *[Kind.REFUSED] * 5]
    assert [letter.reason for letter in letters] == [
        "key-missing", "tombstone", "not-wire-format", "tombstone", "key-malformed", "message-too-large",
    ]  # fmt: skip
    assert [letter.offset for letter in letters] == [FIRST, *range(FIRST + 2, FIRST + 7)]


def test_levels_come_in_any_number_of_blocks(codec: TapeCodec) -> None:
    body = {"sequence_first": 1, "sequence_last": 2, "sequence_previous": None, "bids": [LEVEL] * 3, "asks": []}
    key, value = message(codec, Event("V:S", 0, NOW, Kind.DELTA, body))
    assert value is not None
    one, three = b"\x0e\x12", b"\x06" + b"\x0e\x12" * 3 + b"\x00\x00"
    assert value.endswith(three)
    blocks = b"\x02" + one + b"\x03\x08" + one * 2 + b"\x00" + b"\x00"  # the second tells its size
    messages: list[Message] = [(key, value.removesuffix(three) + blocks)]
    assert left(codec, messages) == []
    assert decided_at_once(codec, messages)[0][0].body == body


@pytest.mark.parametrize(
    ("prices", "is_ordered"),
    [([5, 4, 3], True), ([3, 4, 5], True), ([5, 3, 4], False), ([5, 4, 5], False), ([5, 5], False)],
)
def test_a_snapshot_in_another_order_is_left_to_fastavro(codec: TapeCodec, prices: list[int], is_ordered: bool) -> None:
    side = [{"price": price, "size": 1} for price in prices]
    for bids, asks in ((side, []), ([], side)):
        event = Event("V:S", 0, NOW, Kind.SNAPSHOT, {"sequence_last": 1, "bids": bids, "asks": asks})
        messages = [message(codec, event)]
        assert left(codec, messages) == ([] if is_ordered else [0])
        assert decided_at_once(codec, messages) == decided_singly(codec, messages)


@pytest.mark.fault("market data", "10^6 symbols on the tape")
def test_a_flood_of_keys_is_forgotten_again(codec: TapeCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.tape_decoder.KEYS_MAX", 50)
    stream = [Event(f"V:S{i % 400}", 0, NOW, Kind.FUNDING, {"rate": i, "next_funding_ts": None}) for i in range(2000)]
    for first in range(0, len(stream), 100):
        part = stream[first : first + 100]
        assert decided_at_once(codec, [message(codec, event) for event in part]) == (part, [])
        assert len(codec._decoder._keys) <= 50 + 100


def test_keys_too_long_are_not_remembered(codec: TapeCodec) -> None:
    value = message(codec, Event("V:S", 0, NOW, Kind.FUNDING, {"rate": 1, "next_funding_ts": None}))[1]
    messages: list[Message] = [(b"V:S" + b"x" * size, value) for size in range(60, 200)]
    assert decided_at_once(codec, messages) == decided_singly(codec, messages)
    assert max(len(key or b"") for key in codec._decoder._keys) <= limits.KEY_BYTES_MAX


def test_texts_are_made_when_somebody_asks(codec: TapeCodec) -> None:
    trade = {"price": 7, "size": 9, "side": "SELL", "is_block": False, "is_liquidation": True, "is_insurance": False}
    stream = [Event("V:S", 0, NOW, Kind.TRADE, {**trade, "trade_id": f"t{i}"}) for i in range(5)]
    stream[3] = Event("V:S", 0, NOW, Kind.TRADE, {**trade, "trade_id": "é"})  # decided by fastavro
    keys, values = zip(*[message(codec, event) for event in stream], strict=True)
    columns, _ = codec.decode_batch("tape", 0, range(5), keys, values)
    assert to_events(columns.slice(1, 4)) == stream[1:4]
    assert to_events(columns.take(columns.offset != 2)) == stream[:2] + stream[3:]
    assert columns.strings[columns.body[columns.start[4] + 3]] == "t4"
    assert to_events(columns.concat([columns, columns.slice(0, 2)])) == stream + stream[:2]


def test_ticks_off_the_grid_are_refused(codec: TapeCodec) -> None:
    ticks = [Event("*", NOW, NOW, Kind.TICK, {"time": NOW + late}) for late in (0, 1, BASE_TICK_NS)]
    messages = [message(codec, tick) for tick in ticks]
    assert np.array_equal(left(codec, messages), [1])
    assert [letter.reason for letter in decided_at_once(codec, messages)[1]] == ["tick-off-grid"]
