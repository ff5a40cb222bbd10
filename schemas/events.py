"""Events as Python values, and the Avro schema they are made of.

Units: ts_event and ts_recv in ns UTC; prices in ticks, sizes in lots (see `Instrument`).
"""

from __future__ import annotations

import json
from enum import Enum, IntEnum
from importlib.resources import files
from typing import Any, NamedTuple


class Kind(IntEnum):
    """What a record of the tape is. REFUSED keeps the offset of a record that the gate refused."""

    REFUSED = 0
    INSTRUMENT = 1
    SNAPSHOT = 2
    DELTA = 3
    TRADE = 4
    TICKER = 5
    FUNDING = 6
    BAR = 7
    EXECUTION = 8
    POSITION = 9
    NEWS = 10
    TICK = 11
    ACTIVATE = 12


class Event(NamedTuple):
    """One record of the tape: its key, both clocks and its body in Avro's field names."""

    key: str
    ts_event: int
    ts_recv: int
    kind: Kind
    body: dict[str, Any]


def _schema(name: str) -> dict[str, Any]:
    text = files("schemas").joinpath("avro", f"{name}.avsc").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


MARKET_EVENT: dict[str, Any] = _schema("market_event")
DEAD_LETTER: dict[str, Any] = _schema("dead_letter")
FEATURES_READY: dict[str, Any] = _schema("features_ready")
BODIES: dict[Kind, dict[str, Any]] = {Kind[body["name"].upper()]: body for body in MARKET_EVENT["fields"][2]["type"]}
RECORD_NAMES: dict[Kind, str] = {kind: f"onetape.{body['name']}" for kind, body in BODIES.items()}
KINDS: dict[str, Kind] = {name: kind for kind, name in RECORD_NAMES.items()}


class FieldType(Enum):
    """How a body's field is laid into int64s. LEVELS is the only one of variable length."""

    LONG = "long"
    OPTIONAL = "optional"
    FLAG = "flag"
    ENUM = "enum"
    TEXT = "text"
    LEVELS = "levels"


class Field(NamedTuple):
    """One field of a body, in Avro order."""

    name: str
    type: FieldType
    symbols: tuple[str, ...] = ()


def _fields() -> dict[Kind, tuple[Field, ...]]:
    """Field plans read from the Avro schema, so that columns and Avro cannot differ."""
    enums: dict[str, tuple[str, ...]] = {}

    def field(name: str, avro: Any) -> Field:
        if isinstance(avro, list):
            return Field(name, FieldType.OPTIONAL)
        if isinstance(avro, dict) and avro["type"] == "array":
            return Field(name, FieldType.LEVELS)
        if isinstance(avro, dict):
            enums[avro["name"]] = tuple(avro["symbols"])
            avro = avro["name"]
        if avro in enums:
            return Field(name, FieldType.ENUM, enums[avro])
        return Field(name, {"boolean": FieldType.FLAG, "string": FieldType.TEXT}.get(avro, FieldType.LONG))

    return {kind: tuple(field(f["name"], f["type"]) for f in body["fields"]) for kind, body in BODIES.items()}


FIELDS: dict[Kind, tuple[Field, ...]] = {Kind.REFUSED: (Field("reason", FieldType.TEXT),), **_fields()}
