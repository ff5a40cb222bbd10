"""What goes on the wire comes back, and nothing else does."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import events

from schemas import limits
from schemas.codec import DeadLetter, DeadLetterCodec, TapeCodec
from schemas.columns import to_events
from schemas.errors import RecordRefused
from schemas.events import Event, Kind
from schemas.registry import FileRegistry

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def codec(tmp_path: Path) -> TapeCodec:
    return TapeCodec(FileRegistry(tmp_path / "registry.json"))


@shared
@given(event=events())
def test_round_trip(codec: TapeCodec, event: Event) -> None:
    value = codec.encode(event)
    assert value[:5] == b"\x00\x00\x00\x00\x01"
    assert codec.decode(event.key.encode(), value) == event


@shared
@given(event=events(), data=st.data())
def test_a_cut_record_is_refused(codec: TapeCodec, event: Event, data: st.DataObject) -> None:
    value = codec.encode(event)
    cut = data.draw(st.integers(0, len(value) - 1))
    with pytest.raises(RecordRefused):
        codec.decode(event.key.encode(), value[:cut])


@shared
@given(event=events(), data=st.data())
def test_changed_bytes_are_refused_or_still_pass_the_gate(codec: TapeCodec, event: Event, data: st.DataObject) -> None:
    value = bytearray(codec.encode(event))
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    columns, refused = codec.decode_batch("t", 0, [9], [event.key.encode()], [bytes(value)])
    assert columns.offset.tolist() == [9]
    assert (columns.kind[0] == Kind.REFUSED) == (len(refused) == 1)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"*", None, "tombstone"),
        (None, b"\x00\x00\x00\x00\x01", "key-missing"),
        (b"*", b"", "not-wire-format"),
        (b"*", b"\x01\x00\x00\x00\x01abc", "not-wire-format"),
        (b"*", b"\x00\x00\x00\x00\x63abc", "unknown-schema"),
        (b"*", b"\x00\x00\x00\x00\x01\xff\xff\xff\xff\x0f", "not-avro"),
        (b"*", b"\x00" * (limits.MESSAGE_BYTES_MAX + 1), "message-too-large"),
    ],
)
def test_bad_bytes_have_a_reason(codec: TapeCodec, key: bytes | None, value: bytes | None, reason: str) -> None:
    columns, refused = codec.decode_batch("tape", 2, [41], [key], [value])
    assert [(each.partition, each.offset, each.reason) for each in refused] == [(2, 41, reason)]
    assert to_events(columns)[0].body == {"reason": reason}


def test_trailing_bytes_are_refused(codec: TapeCodec) -> None:
    tick = Event("*", 10**18, 10**18, Kind.TICK, {"time": 10**18})
    with pytest.raises(RecordRefused, match="trailing-bytes"):
        codec.decode(b"*", codec.encode(tick) + b"\x00")


@pytest.mark.fault("bytes", "few bytes of Avro that claim 10^8 items")
def test_a_claimed_bomb_costs_no_memory(codec: TapeCodec) -> None:
    """A Delta whose bids claim 10^8 levels and end there."""
    delta = {"sequence_first": 1, "sequence_last": 2, "sequence_previous": None, "bids": [], "asks": []}
    value = codec.encode(Event("V:S", 10**18, 10**18, Kind.DELTA, delta))
    bomb = value[:-2] + b"\x80\xc2\xd7\x2f"
    tracemalloc.start()
    with pytest.raises(RecordRefused):
        codec.decode(b"V:S", bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.fault("bytes", "a writer whose Trade has size before price")
def test_a_recompiled_schema_is_resolved_by_name(tmp_path: Path) -> None:
    """A writer whose Trade has size before price is read by its own schema, never by position."""
    import copy

    from schemas.events import MARKET_EVENT
    from schemas.wire import Wire

    swapped = copy.deepcopy(MARKET_EVENT)
    trade = next(body for body in swapped["fields"][2]["type"] if body["name"] == "Trade")
    trade["fields"][:2] = reversed(trade["fields"][:2])
    registry = FileRegistry(tmp_path / "registry.json")
    writer = Wire(registry, "market.events.v1-value", swapped)
    body = {"price": 7, "size": 9, "side": "BUY", "trade_id": "1"}
    body |= dict.fromkeys(("is_block", "is_liquidation", "is_insurance"), False)
    value = writer.encode({"ts_event": 0, "ts_recv": 10**18, "body": ("onetape.Trade", body)})
    assert TapeCodec(registry).decode(b"V:S", value).body == body


def test_dead_letters_keep_bounded_originals(tmp_path: Path) -> None:
    codec = DeadLetterCodec(FileRegistry(tmp_path / "registry.json"))
    letter = DeadLetter("tape", 1, 5, b"k", "not-avro", b"x" * 10_000)
    again = codec.decode(codec.encode(letter))
    assert again == letter._replace(original=b"x" * limits.ORIGINAL_BYTES_MAX, cut_bytes=10_000 - len(again.original))
    assert codec.decode(codec.encode(again)) == again, "a letter that was cut once still tells how long it was"
