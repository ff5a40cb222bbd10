"""Records of other writers' schemas are decoded as fastavro resolves them, and by a plan wherever one can say it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest
from ledger import Ledger
from wire_oracle import Message, decided_at_once, decided_singly

from schemas import tape_pass
from schemas.codec import TapeCodec
from schemas.events import BODIES, FIELDS, MARKET_EVENT, RECORD_NAMES, Event, FieldType, Kind
from schemas.registry import FileRegistry
from schemas.tape_plan import plan
from schemas.topics import CLOCK_KEY
from schemas.units import BASE_TICK_NS

Schema = dict[str, Any]
NOW = 1_760_000_000_000_000_000
KINDS = [kind for kind in Kind if kind is not Kind.REFUSED]


def body(kind: Kind, filled: bool) -> dict[str, Any]:
    """A body the gate passes; `filled`: with levels and without nulls."""
    numbers = dict(zip((field.name for field in FIELDS[kind]), range(11, 40), strict=False))
    if kind is Kind.BAR:
        numbers |= {"low": 10, "high": 30, "start_ts": NOW}
    made: dict[str, Any] = {}
    for name, type_, symbols in FIELDS[kind]:
        values = {
            FieldType.LONG: numbers[name], FieldType.OPTIONAL: numbers[name] if filled else None,
            FieldType.FLAG: filled, FieldType.ENUM: symbols[-1 if filled else 0] if symbols else None,
            FieldType.TEXT: name if filled else "",
            FieldType.LEVELS: [{"price": 100 + n, "size": 7 + n} for n in range(3)] if filled else [],
        }  # fmt: skip
        made[name] = values[type_]
    times = {"time": NOW, "next_funding_ts": NOW + BASE_TICK_NS if filled else None}
    return {name: times.get(name, value) for name, value in made.items()}


def records() -> list[Event]:
    return [
        Event(CLOCK_KEY if kind in (Kind.TICK, Kind.ACTIVATE) else "V:S", NOW - 3, NOW, kind, body(kind, filled))
        for kind in KINDS for filled in (False, True)
    ]  # fmt: skip


def bodies_of(schema: Schema) -> list[Schema]:
    found: list[Schema] = next(field for field in schema["fields"] if field["name"] == "body")["type"]
    return found


def every_record(schema: Schema) -> Iterator[Schema]:
    """The envelope, the bodies, and the level inside the first that has one."""
    yield schema
    for each in bodies_of(schema):
        yield each
        for field in each["fields"]:
            if isinstance(field["type"], dict) and isinstance(field["type"].get("items"), dict):
                yield field["type"]["items"]


def field_of(schema: Schema, kind: Kind, name: str) -> Schema:
    record = next(each for each in bodies_of(schema) if each["name"].upper() == kind.name)
    return next(field for field in record["fields"] if field["name"] == name)


def reorder(schema: Schema) -> None:
    """Every record's fields the other way round; Level is defined where it then comes first."""
    level = copy.deepcopy(field_of(schema, Kind.SNAPSHOT, "bids")["type"]["items"])
    level["fields"].reverse()
    field_of(schema, Kind.SNAPSHOT, "bids")["type"]["items"] = "Level"
    field_of(schema, Kind.SNAPSHOT, "asks")["type"]["items"] = level
    for each in bodies_of(schema):
        each["fields"].reverse()
    schema["fields"].reverse()


def more(*types: Any) -> Callable[[Schema], None]:
    """More fields, before, between and behind those we know."""

    def change(schema: Schema) -> None:
        for place, record in enumerate(list(every_record(schema))):
            for number, type_ in enumerate(types):
                first = again = copy.deepcopy(type_)
                if isinstance(first, dict) and "name" in first:
                    first["name"] = again = f"{first['name']}{place}_{number}"
                for at in {0, len(record["fields"]) // 2, len(record["fields"])}:
                    field = {"name": f"more{number}_{at}", "type": again if at else first}
                    record["fields"].insert(at + 1 if at else 0, field)

    return change


def without(schema: Schema) -> None:
    """No field that has a default."""
    for record in every_record(schema):
        record["fields"] = [field for field in record["fields"] if "default" not in field]


def plain(schema: Schema) -> None:
    """Never null."""
    for each in bodies_of(schema):
        for field in each["fields"]:
            if isinstance(field["type"], list):
                field["type"] = "long"
                field.pop("default")


def nulls_last(schema: Schema) -> None:
    for each in bodies_of(schema):
        for field in each["fields"]:
            if isinstance(field["type"], list):
                field["type"] = field["type"][::-1]
                field.pop("default")


def narrow(schema: Schema) -> None:
    """Numbers of 32 bits, but for times."""
    for record in list(every_record(schema))[1:]:
        for field in record["fields"]:
            if field["type"] == "long" and field["name"] not in ("time", "start_ts"):
                field["type"] = "int"


def other_symbols(schema: Schema) -> None:
    field_of(schema, Kind.TRADE, "side")["type"]["symbols"] = ["UNKNOWN", "SELL", "BUY"]
    field_of(schema, Kind.INSTRUMENT, "contract")["type"]["symbols"] = ["INVERSE", "OPTION", "SPOT", "LINEAR"]


def other_branches(schema: Schema) -> None:
    """Bodies in another order, among them one we do not know."""
    union = bodies_of(schema)
    auction = {"type": "record", "name": "Auction", "fields": [{"name": "x", "type": "long"}]}
    union[:] = [auction, *union[3:], *union[:3]]


def annotated(schema: Schema) -> None:
    """As other producers write types."""
    for field in schema["fields"][:2]:
        field["type"] = {"type": "long", "logicalType": "timestamp-micros"}
    field_of(schema, Kind.TRADE, "trade_id")["type"] = {"type": "string", "avro.java.string": "String"}
    field_of(schema, Kind.FUNDING, "next_funding_ts")["type"] = [
        {"type": "null"}, {"type": "long", "logicalType": "timestamp-millis"},
    ]  # fmt: skip


def recursive(schema: Schema) -> None:
    schema["fields"].insert(0, {"name": "link", "type": {
        "type": "record", "name": "Link", "fields": [{"name": "next", "type": ["null", "Link"]}],
    }})  # fmt: skip


POINT = {"type": "record", "name": "Point", "fields": [{"name": "x", "type": "double"}, {"name": "n", "type": "null"}]}
EXPRESSIBLE: dict[str, Callable[[Schema], None]] = {
    "the same": lambda schema: None,
    "other documentation": lambda schema: schema.update(doc="?"),
    "reordered": reorder,
    "without defaults": without,
    "plain": plain,
    "nulls last": nulls_last,
    "narrow": narrow,
    "other symbols": other_symbols,
    "other branches": other_branches,
    "annotated": annotated,
    "more numbers": more("long", "int", "boolean", "float", "double", "null"),
    "more texts": more("string", "bytes", {"type": "fixed", "name": "Hash", "size": 16}),
    "more enums": more({"type": "enum", "name": "Venue", "symbols": ["A", "B"]}),
    "more records": more(POINT, {"type": "array", "items": "string"}, {"type": "map", "values": "long"}),
    "more unions": more(
        ["null", "string", "long"], {"type": "array", "items": ["long", {"type": "array", "items": "int"}]}
    ),
}  # fmt: skip


def of_bytes(name: str, kind: Kind) -> Callable[[Schema], None]:
    return lambda schema: field_of(schema, kind, name).update(type="bytes")


def renamed(schema: Schema) -> None:
    schema["namespace"] = "elsewhere"


def no_union(schema: Schema) -> None:
    next(field for field in schema["fields"] if field["name"] == "body").update(
        type=next(each for each in bodies_of(schema) if each["name"] == "Funding")
    )


def of_nothing(schema: Schema) -> None:
    schema["fields"].append({"name": "nothing", "type": {"type": "array", "items": "null"}})


def nested(item: Any, levels: int) -> Any:
    for _ in range(levels):
        item = {"type": "array", "items": item}
    return item


def wide(schema: Schema, parts: int) -> None:
    """A list whose items have many parts, all but one of no bytes."""
    fields = [{"name": f"n{n}", "type": "null" if n else "boolean"} for n in range(parts)]
    item = {"type": "record", "name": "Wide", "fields": fields}
    schema["fields"].append({"name": "wide", "type": {"type": "array", "items": item}})


LEFT_TO_FASTAVRO: dict[str, Callable[[Schema], None]] = {
    "a text as bytes": of_bytes("trade_id", Kind.TRADE),
    "a scale of 64 bits": lambda schema: field_of(schema, Kind.INSTRUMENT, "price_scale").update(type="long"),
    "a price as double": lambda schema: field_of(schema, Kind.TRADE, "price").update(type="double"),
    "a price that may be null": lambda schema: field_of(schema, Kind.TRADE, "price").update(type=["null", "long"]),
    "no price": lambda schema: field_of(schema, Kind.TRADE, "price").update(name="px"),
    "no receipt": lambda schema: schema["fields"].pop(1),
    "another namespace": renamed,
    "a body that is no union": no_union,
}
UNREADABLE: dict[str, Callable[[Schema], None]] = {
    "a type inside itself": recursive,
    "a list of nothing": of_nothing,
    "a list of empty records": more({"type": "array", "items": {"type": "record", "name": "E", "fields": []}}),
    "a list of short and wide records": lambda schema: wide(schema, 40),
    "lists in lists": more(nested("long", 70)),
    "a record of very many": lambda schema: schema["fields"].append({"name": "more", "type": deep(7, 30)}),
    "a name nobody knows": more("Nobody"),
    "no branch": more([]),
}
"""What nobody reads: few bytes of it could claim hours of work, or a nesting that ends the process."""


def written(schema: Schema, event: Event) -> dict[str, Any] | None:
    """The record in the writer's words; None where it cannot say it."""
    name = RECORD_NAMES[event.kind].replace("onetape", schema["namespace"])
    union = next(field for field in schema["fields"] if field["name"] == "body")["type"]
    value: Any = (name, event.body) if isinstance(union, list) else event.body
    record = {"ts_event": event.ts_event, "ts_recv": event.ts_recv, "body": value}
    return _filled(schema, record, schema)


def _filled(schema: Any, value: Any, root: Schema) -> Any:
    """`value` with something for every field we do not know."""
    if isinstance(schema, list) and isinstance(value, tuple):
        name = value[0].rpartition(".")[2]
        branch = next((each for each in schema if isinstance(each, dict) and each["name"] == name), None)
        return (value[0], _filled(branch, value[1], root))
    if isinstance(schema, dict) and schema["type"] == "record" and isinstance(value, dict):
        unknown = {"px": 5, "more": None}
        return {
            field["name"]: _filled(field["type"], value[field["name"]], root) if field["name"] in value
            else unknown.get(field["name"], _anything(field["type"])) for field in schema["fields"]
        }  # fmt: skip
    if isinstance(schema, dict) and schema["type"] == "array" and isinstance(value, list):
        items = schema["items"] if isinstance(schema["items"], dict) else _level(root)
        return [_filled(items, each, root) for each in value]
    if schema == "bytes" and isinstance(value, str):
        return value.encode()
    return value


def _level(root: Schema) -> Schema:
    return next(record for record in every_record(root) if record["name"] == "Level")


def _anything(type_: Any) -> Any:
    name = type_["type"] if isinstance(type_, dict) else type_
    if isinstance(type_, list):
        return "left out" if "string" in type_ else None if "null" in type_ else 5
    values: dict[str, Any] = {
        "long": -(1 << 40), "int": 7, "boolean": True, "float": 0.5, "double": 0.25, "null": None, "string": "left out",
        "bytes": b"\xff\x00", "fixed": b"0123456789abcdef", "enum": "B", "map": {"a": 1, "b": 2},
        "record": {"x": 1.5, "n": None, "next": {"next": None}},
    }  # fmt: skip
    if name == "array":
        return ["a", "b"] if type_["items"] == "string" else [None] * 3 if type_["items"] == "null" else [3, [1, 2]]
    if isinstance(type_, str) and type_ not in values:
        return values[{"Hash": "fixed", "Venu": "enum"}.get(type_[:4], "record")]
    return values[name]


def messages(registry: FileRegistry, change: Callable[[Schema], None]) -> tuple[int, list[Message]]:
    """The id of a changed schema, and every record that can be written by it."""
    schema = copy.deepcopy(MARKET_EVENT)
    change(schema)
    schema_id = registry.register("elsewhere", schema)
    parsed, made = fastavro.parse_schema(copy.deepcopy(schema)), list[Message]()
    for event in records():
        out = BytesIO()
        try:
            fastavro.schemaless_writer(out, parsed, written(schema, event))
        except (ValueError, TypeError, AttributeError, KeyError, StopIteration):
            continue
        made.append((event.key.encode(), b"\x00" + schema_id.to_bytes(4, "big") + out.getvalue()))
    assert made
    return schema_id, made


def left(codec: TapeCodec, made: list[Message]) -> dict[int, int]:
    """Verdicts on the rows that the pass does not accept."""
    return codec._decoder.accept(0, range(len(made)), [key for key, _ in made], [value for _, value in made])[1]


@pytest.mark.fault("bytes", "schemas evolve: every version written, read by every version")
@pytest.mark.parametrize("case", EXPRESSIBLE)
def test_a_plan_decodes_what_fastavro_resolves(tmp_path: Path, case: str) -> None:
    registry = FileRegistry(tmp_path / "registry.json")
    codec = TapeCodec(registry)
    schema_id, made = messages(registry, EXPRESSIBLE[case])
    expected = decided_singly(codec, made)
    assert len(expected[0]) >= (len(KINDS) if case == "plain" else 2 * len(KINDS))
    assert expected[1] == []
    assert codec._wire.writers.keys() >= {schema_id}
    assert left(codec, made) == {}
    assert decided_at_once(codec, made) == expected
    assert decided_at_once(TapeCodec(registry), made * 2) == decided_singly(codec, made * 2), "not yet asked for"
    cut: list[Message] = [(key, (value or b"")[:at]) for key, value in made for at in range(5, len(value or b""), 3)]
    assert decided_at_once(codec, cut) == decided_singly(codec, cut)


@pytest.mark.parametrize("case", LEFT_TO_FASTAVRO)
def test_what_a_plan_cannot_say_is_left_to_fastavro(tmp_path: Path, case: str) -> None:
    registry = FileRegistry(tmp_path / "registry.json")
    codec = TapeCodec(registry)
    _, made = messages(registry, LEFT_TO_FASTAVRO[case])
    expected = decided_singly(codec, made)
    assert set(left(codec, made).values()) == {tape_pass.UNDECIDED}
    assert decided_at_once(codec, made) == expected


@pytest.mark.fault("bytes", "a writer's schema of types inside themselves, or of lists of nothing")
@pytest.mark.parametrize("case", UNREADABLE)
def test_a_schema_whose_records_may_be_without_end_is_refused(tmp_path: Path, case: str, ledger: Ledger) -> None:
    registry = FileRegistry(tmp_path / "registry.json")
    codec, schema = TapeCodec(registry), copy.deepcopy(MARKET_EVENT)
    UNREADABLE[case](schema)
    header = b"\x00" + registry.register("elsewhere", schema).to_bytes(4, "big")
    for tail in (b"", b"\x02" * 50_000, b"\xfe" * 8 + b"\x7f"):
        expected = decided_singly(codec, [(b"V:S", header + tail)])
        found = decided_at_once(codec, [(b"V:S", header + tail)])
        assert found == expected
        assert [letter.reason for letter in found[1]] == ["unknown-schema"]
        ledger.received, ledger.refused = ledger.received + 1, ledger.refused + len(found[1])
    ledger.faults += 1


def test_a_symbol_we_do_not_know_is_refused(tmp_path: Path) -> None:
    registry = FileRegistry(tmp_path / "registry.json")
    codec, schema = TapeCodec(registry), copy.deepcopy(MARKET_EVENT)
    other_symbols(schema)
    trade = {**body(Kind.TRADE, True), "side": "UNKNOWN"}
    out, schema_id = BytesIO(), registry.register("elsewhere", schema)
    record = {"ts_event": 0, "ts_recv": NOW, "body": ("onetape.Trade", trade)}
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), record)
    for _ in range(2):
        letters = decided_at_once(codec, [(b"V:S", b"\x00" + schema_id.to_bytes(4, "big") + out.getvalue())])[1]
        assert [letter.reason for letter in letters] == ["not-avro"]


def deep(levels: int, width: int) -> Any:
    """A record of records, each named once and used `width` times: the program doubles with every level."""
    inner: Any = "long"
    for level in range(levels):
        first = {"name": "f0", "type": inner}
        rest = [{"name": f"f{n}", "type": f"L{level - 1}" if level else "long"} for n in range(1, width)]
        inner = {"type": "record", "name": f"L{level}", "fields": [first, *rest]}
    return inner


@pytest.mark.parametrize("schema", [
    "long", [], ["null", MARKET_EVENT], {"type": "array", "items": "long"}, BODIES[Kind.TRADE], deep(30, 1),
], ids=str)  # fmt: skip
def test_other_schemas_have_no_plan(schema: Any) -> None:
    assert plan(fastavro.parse_schema(copy.deepcopy(schema)), 0) is None


def test_a_schema_that_unfolds_without_end_has_no_plan() -> None:
    schema = copy.deepcopy(MARKET_EVENT)
    schema["fields"].append({"name": "more", "type": deep(7, 30)})
    assert plan(fastavro.parse_schema(schema), 0) is None
