"""Faults of bytes: whatever lies on the tape is one record or one dead letter, and costs no more than its size."""

from __future__ import annotations

import copy
import random
import resource
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import live_worker as run
import pytest
import tapes
from judged import Judge, opening, ticks, trade
from ledger import Ledger
from test_tape_plan import records
from test_worker import Place
from wire_oracle import Message

from app.embedded import EmbeddedBroker
from schemas.codec import DeadLetter, DeadLetterCodec, TapeCodec
from schemas.errors import RecordRefused
from schemas.events import MARKET_EVENT, RECORD_NAMES, Kind
from schemas.registry import open_registry
from schemas.topics import DEAD_LETTERS, TAPE
from schemas.wire import Wire

BIDS, ASKS = [(100, 5), (99, 7)], [(101, 5), (102, 7)]
HEADER = b"\x00\x00\x00\x00\x01"
BILLIONS = b"\x80\xc2\xd7\x2f"
"""10^8 / 2 as a length of Avro's."""


@pytest.fixture
def judge(tmp_path: Path, ledger: Ledger) -> Judge:
    return Judge(tmp_path, ledger)


def between(judge: Judge, bad: list[Message]) -> list[Message]:
    """Bad messages with good ones before, between and behind."""
    good = judge.message(trade(101, 3, 1.5))
    spread = [each for message in bad for each in (message, good)]
    return [*judge.messages(opening(BIDS, ASKS)), *spread, *judge.messages(ticks(2, 13))]


def refused(judge: Judge, bad: list[Message]) -> list[str]:
    """Why each of them is refused; the trades between them must all be there."""
    for batch in (500, 3):
        judged = judge.judge(between(judge, bad), batch)
        assert list(judged.reasons) == [4 + 2 * place for place in range(len(bad))]
        assert judged.at(11)["trade_count_1s"] == len(bad)
    return list(judged.reasons.values())


@pytest.mark.fault("bytes", "random bytes, also behind a header that is right")
def test_random_bytes(judge: Judge) -> None:
    chance = random.Random(3)
    bad = [(b"X:Y", chance.randbytes(chance.randrange(80))) for _ in range(500)]
    bad += [(b"X:Y", HEADER + chance.randbytes(chance.randrange(40))) for _ in range(500)]
    assert set(refused(judge, bad)) <= {
        "not-wire-format",
        "unknown-schema",
        "not-avro",
        "trailing-bytes",
        "implausible-time",
    }


@pytest.mark.fault("bytes", "a record of each kind cut at every byte")
def test_cut_at_every_byte(judge: Judge) -> None:
    bad = []
    for key, value in judge.messages(records()):
        assert value is not None
        bad += [(key, value[:size]) for size in range(len(value))]
    assert set(refused(judge, bad)) == {"not-wire-format", "not-avro"}


@pytest.mark.fault("bytes", "a schema id that nobody knows")
def test_an_unknown_schema_id(judge: Judge) -> None:
    _, value = judge.message(trade(101, 3, 1.5))
    assert value is not None
    ids = (0, 98, 99, 1 << 24, (1 << 32) - 1)
    assert refused(judge, [(b"X:Y", b"\x00" + each.to_bytes(4) + value[5:]) for each in ids]) == ["unknown-schema"] * 5


@pytest.mark.fault("bytes", "trailing bytes")
def test_trailing_bytes(judge: Judge) -> None:
    bad = [(key, (value or b"") + tail) for key, value in judge.messages(records()) for tail in (b"\x00", b"x" * 99)]
    assert set(refused(judge, bad)) == {"trailing-bytes"}


@pytest.mark.fault("bytes", "a tombstone, an empty value, no key or an empty one")
def test_nothing(judge: Judge) -> None:
    _, value = judge.message(trade(101, 3, 1.5))
    bad: list[Message] = [(b"X:Y", None), (None, None), (b"X:Y", b""), (None, value), (b"", value)]
    expected = ["tombstone", "tombstone", "not-wire-format", "key-missing", "key-malformed"]
    assert refused(judge, bad) == expected


@pytest.mark.fault("bytes", "few bytes of Avro that claim 10^8 items")
def test_few_bytes_that_claim_very_many_items(judge: Judge) -> None:
    """Levels, texts and blocks that are not there: refused, and no memory is taken for them."""
    sides: dict[str, Any] = {"bids": [], "asks": []}
    body = {"sequence_first": 1, "sequence_last": 2, "sequence_previous": None, **sides}
    _, delta = judge.message(trade(1, 1, 1.5)._replace(kind=Kind.DELTA, body=body))
    _, snapshot = judge.message(trade(1, 1, 1.5)._replace(kind=Kind.SNAPSHOT, body={"sequence_last": 1, **sides}))
    _, text = judge.message(trade(1, 1, 1.5))
    assert delta is not None
    assert snapshot is not None
    assert text is not None
    claims = (BILLIONS, BILLIONS[:-1] + b"\xaf" + BILLIONS, b"\xff\xc1\xd7\x2f\x02", b"\xfe" + b"\xff" * 8 + b"\x01")
    bad = [(b"X:Y", value[:-2] + claim) for value in (delta, snapshot) for claim in claims]
    bad += [(b"X:Y", value[:-2] + claim + b"\x02\x02") for value in (delta, snapshot) for claim in claims]
    bad += [(b"X:Y", text.replace(b"\x021", claim + b"1")) for claim in claims]
    refused(judge, bad)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    reasons = set(refused(judge, bad))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reasons == {"not-avro"}
    assert peak < 16 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


def reordered(schema: dict[str, Any]) -> None:
    for record in schema["fields"][2]["type"]:
        if record["name"] in ("Trade", "Bar", "Instrument", "Position"):
            record["fields"].reverse()


def grown(schema: dict[str, Any]) -> None:
    for record in schema["fields"][2]["type"]:
        record["fields"].insert(0, {"name": "venue_note", "type": ["null", "string"], "default": None})


def shrunk(schema: dict[str, Any]) -> None:
    for record in schema["fields"][2]["type"]:
        record["fields"] = [field for field in record["fields"] if "default" not in field]


VERSIONS: dict[str, Callable[[dict[str, Any]], None]] = {
    "today's": lambda _: None, "one with more": grown, "one with less": shrunk, "another order": reordered,
}  # fmt: skip


@pytest.mark.fault("bytes", "schemas evolve: every version written, read by every version")
@pytest.mark.parametrize("writer", VERSIONS)
@pytest.mark.parametrize("reader", VERSIONS)
def test_schemas_evolve(judge: Judge, ledger: Ledger, writer: str, reader: str) -> None:
    """By name, never by place: what both know is equal, what the reader alone knows is its default."""
    schemas = []
    for version in (writer, reader):
        schema = copy.deepcopy(MARKET_EVENT)
        VERSIONS[version](schema)
        schemas.append(schema)
    wires = [Wire(judge.registry, f"{TAPE}-value", schema) for schema in schemas]
    defaults = {field["name"]: field["default"] for each in schemas[1]["fields"][2]["type"] for field in each["fields"]
                if "default" in field}  # fmt: skip
    for event in records():
        names = [{field["name"] for field in body_of(schema, event.kind)["fields"]} for schema in schemas]
        body = {name: value for name, value in {**event.body, "venue_note": "x"}.items() if name in names[0]}
        envelope = {"ts_event": event.ts_event, "ts_recv": event.ts_recv, "body": (RECORD_NAMES[event.kind], body)}
        found = wires[1].decode(wires[0].encode(envelope))["body"][1]
        expected = {name: body[name] if name in body else defaults[name] for name in names[1]}
        ledger.received, ledger.accepted = ledger.received + 1, ledger.accepted + 1
        ledger.wrong += found != expected
        assert found == expected
    ledger.faults += 1


def body_of(schema: dict[str, Any], kind: Kind) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in schema["fields"][2]["type"] if each["name"].upper() == kind.name)
    return found


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({}) as broker:
        yield broker


@pytest.mark.fault("bytes", "all of these on the tape of a worker at work")
def test_poison_of_every_kind_in_a_worker(broker: EmbeddedBroker, tmp_path: Path, ledger: Ledger) -> None:
    """The process lives, every bad record has its letter with reason and position, and no vector is another."""
    settings = Place(broker.bootstrap, True, tmp_path, broker=broker).settings()
    codec, chance = TapeCodec(open_registry(settings.registry)), random.Random(8)
    raw: list[list[Any]] = [list(rows) for rows in run.raw_tape(tapes.tape(tapes.market(5, 3_000, 20)), settings)]
    for rows in raw:
        for message in poison(rows, chance):
            rows.insert(chance.randrange(20, len(rows)), message)
    expected = run.oracle(settings, raw)
    with run.Worker(settings, ["features"]) as worker:
        run.publish(settings, raw)
        run.wait_committed(settings, worker, [len(rows) for rows in raw])
        assert worker.stop() < 10
    found = run.outcome(settings)
    letters = DeadLetterCodec(open_registry(settings.registry))
    told, wire = {}, []
    for partition, rows in enumerate(raw):
        for offset, (key, value) in enumerate(rows):
            try:
                codec.decode(key, value)
            except RecordRefused as bad:
                letter = DeadLetter(TAPE, partition, offset, key or b"", bad.reason, value or b"").bounded()
                told[TAPE, partition, offset] = letters.encode(letter)
        for message in run.read_topic(settings, DEAD_LETTERS, partition):
            letter = letters.decode(message.value())
            wire.append(((TAPE, letter.partition, letter.offset), letters.encode(letter._replace(source=TAPE))))
    places = [(TAPE, partition, offset) for partition, rows in enumerate(raw) for offset in range(len(rows))]
    ledger.count_letters(places, wire, told)
    ledger.count_vectors(found.vectors.items(), expected.vectors)
    ledger.count_states(found.states, expected.states)
    ledger.conflicting += found.conflicts
    ledger.faults += len(told)
    assert len(told) >= 100
    ledger.check()


def poison(rows: list[Any], chance: random.Random) -> list[Message]:
    """Bad messages of all kinds, made of good ones."""
    made: list[Message] = [(b"X:Y", None), (b"X:Y", b""), (b"\xff", rows[9][1]), (b"", rows[9][1])]
    for _ in range(12):
        key, value = rows[chance.randrange(len(rows))]
        made += [
            (key, chance.randbytes(chance.randrange(60))), (key, HEADER + chance.randbytes(30)),
            (key, value[: chance.randrange(len(value))]), (key, value + b"\x00"),
            (key, b"\x00\x00\x01\x00\x00" + value[5:]), (key, HEADER + value[5:-2] + BILLIONS),
        ]  # fmt: skip
    return made
