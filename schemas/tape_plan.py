"""Decode plans: a writer's schema, resolved against ours, as a program that `schemas.tape_pass` runs over bytes.

Input: a schema as `schemas.wire` gives it: parsed by fastavro, without logical types.
Output: instructions of SIZE words each (operation and operands), jump tables among them. Numbers go to cells, one for
    each head (TS_EVENT, TS_RECV) and field that is not levels; levels go straight to the body.
Errors: none; what a plan cannot express has none, or none for the branch of a union, and is left to fastavro. So a plan
    may do less than fastavro does, never anything else.
Source: Apache Avro 1.11, "Schema Resolution", as far as fastavro follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas import limits
from schemas.columns import ABSENT
from schemas.events import BODIES, FIELDS, KINDS, MARKET_EVENT, Field, FieldType, Kind

# What an instruction does, by its first word; a, b and c are the three behind it.
LONG = 0  # cell a = a number
OPTIONAL = 1  # cell a = null where the union's branch is b, a number where it is the other of two
FLAG = 2  # cell a = a boolean
TEXT = 3  # cell a = index of the text
ENUM = 4  # cell a = ordinal out of the table of b words at c
SET = 5  # cell a = b
KIND = 6  # the record is of kind a; levels begin behind b fixed fields
LEVELS = 7  # a list of (price, size)
OPEN = 8  # begin a list of levels
PRICE = 9  # a number is the level's price (a = 0) or size (a = 1)
CLOSE = 10  # the level is whole
NEXT = 11  # another item of the list on depth a, or to c after the last one; b: blocks may tell their size
SWITCH = 12  # go to the union's branch, out of the table of a words at b
GO = 13  # go to a
MARK = 14  # remember the place in the bytes as a
RECALL = 15  # go on at place a, and remember this one
RETURN = 16  # go back to where RECALL was
SKIP_LONG = 17
SKIP_BYTES = 18  # leave out a bytes
SKIP_TEXT = 19
SKIP_DATA = 20
END = 21

SIZE = 4
TS_EVENT, TS_RECV, FIRST_CELL = 0, 1, 2
CELLS = FIRST_CELL + max(sum(f.type is not FieldType.LEVELS for f in fields) for fields in FIELDS.values())
DEPTH_MAX = 8
"""How deep lists and records left out may be nested."""
MARKS_MAX = 4
_WORDS_MAX = 50_000

_NO_PLAN = -1
_COMPLEX = ("record", "enum", "fixed", "array", "map")
_FIXED_BYTES = {"boolean": 1, "float": 4, "double": 8}
_SKIPS = {"int": SKIP_LONG, "long": SKIP_LONG, "enum": SKIP_LONG, "string": SKIP_TEXT, "bytes": SKIP_DATA}


class _Inexpressible(Exception):
    """A plan cannot say this."""


def plan(writer: Any, first: int) -> list[int] | None:
    """The program for records of `writer`, to stand at word `first`; None where there is none."""
    try:
        return _Plan(writer, first).words
    except _Inexpressible:
        return None


class _Plan:
    def __init__(self, writer: Any, first: int) -> None:
        self.words: list[int] = []
        self._first = first
        self._named: dict[str, Any] = {}
        self._find_names(writer, 0)
        record = self._of_type(writer, "record")
        if record["name"] != _full_name(MARKET_EVENT["name"]):
            raise _Inexpressible
        fields = _fields(record)
        if not {"ts_event", "ts_recv", "body"} <= fields.keys():
            raise _Inexpressible
        for name, type_ in fields.items():
            if name == "body":
                self._union([self._body(branch) for branch in self._branches(type_)])
            elif name in ("ts_event", "ts_recv"):
                self._long(type_, "long", TS_EVENT if name == "ts_event" else TS_RECV)
            else:
                self._skip(type_, 0)
        self._put(END)

    @property
    def _here(self) -> int:
        return self._first + len(self.words)

    def _put(self, *words: int) -> int:
        """Append an instruction; returns its place in `words`."""
        at = len(self.words)
        self.words += [*words, *[0] * (SIZE - len(words))]
        if at > _WORDS_MAX:
            raise _Inexpressible
        return at

    def _put_table(self, table: list[int]) -> None:
        self.words += [*table, *[0] * (-len(table) % SIZE)]

    def _find_names(self, schema: Any, depth: int) -> None:
        if depth > 4 * DEPTH_MAX:
            raise _Inexpressible
        if isinstance(schema, list):
            for branch in schema:
                self._find_names(branch, depth + 1)
        elif isinstance(schema, dict):
            if "name" in schema:
                self._named[schema["name"]] = schema
            for field in schema.get("fields", ()):
                self._find_names(field["type"], depth + 1)
            for inner in ("items", "values", "type"):
                if isinstance(schema.get(inner), dict | list):
                    self._find_names(schema[inner], depth + 1)

    def _resolved(self, schema: Any) -> Any:
        """A schema behind its name; a type that needs no attributes as its name alone, whatever a producer added."""
        if isinstance(schema, str):
            return self._named.get(schema, schema)
        if isinstance(schema, dict) and schema["type"] not in _COMPLEX:
            return self._resolved(schema["type"])
        return schema

    def _of_type(self, schema: Any, type_: str) -> Any:
        schema = self._resolved(schema)
        if not isinstance(schema, dict) or schema["type"] != type_:
            raise _Inexpressible
        return schema

    def _branches(self, schema: Any) -> list[Any]:
        schema = self._resolved(schema)
        if not isinstance(schema, list):
            raise _Inexpressible
        return [self._resolved(branch) for branch in schema]

    def _union(self, parts: Sequence[Any]) -> None:
        """The branch that the bytes name; a part that is None, or cannot be expressed, fails."""
        switch = self._put(SWITCH, len(parts))
        table, exits = [], []
        for part in parts:
            before = len(self.words)
            table.append(self._here)
            try:
                part()
                exits.append(self._put(GO))
            except _Inexpressible:
                del self.words[before:]
                table[-1] = _NO_PLAN
        self.words[switch + 2] = self._here + SIZE
        over = self._put(GO)
        self._put_table(table)
        for at in (*exits, over):
            self.words[at + 1] = self._here

    def _body(self, writer: Any) -> Any:
        """What lays a branch of the union as our record of that name."""

        def lay() -> None:
            record = self._of_type(writer, "record")
            if record["name"] not in KINDS:
                raise _Inexpressible
            self._record(KINDS[record["name"]], _fields(record))

        return lay

    def _record(self, kind: Kind, fields: dict[str, Any]) -> None:
        ours = {field.name: field for field in FIELDS[kind]}
        fixed = [field.name for field in FIELDS[kind] if field.type is not FieldType.LEVELS]
        avro = {field["name"]: field for field in BODIES[kind]["fields"]}
        lists = [name for name in ours if name not in fixed]
        in_order = lists == [name for name in fields if name in lists]
        if any("aliases" in field for field in avro.values()):
            raise _Inexpressible
        self._put(KIND, kind, len(fixed))
        for name, type_ in fields.items():
            if name in fixed:
                self._value(ours[name], avro[name]["type"], type_, FIRST_CELL + fixed.index(name))
            elif name in lists and in_order:
                self._levels(type_)
            elif name in lists:
                self._put(MARK, lists.index(name))
                self._skip(type_, 0)
            else:
                self._skip(type_, 0)
        for name, field in ours.items():
            if name not in fields:
                default = _default(field, avro[name])
                self._put(SET, FIRST_CELL + fixed.index(name), default)
        if not in_order:
            for at, name in enumerate(lists):
                self._put(RECALL, at)
                self._levels(fields[name])
                self._put(RETURN)

    def _value(self, field: Field, ours: Any, writer: Any, cell: int) -> None:
        writer = self._resolved(writer)
        if field.type is FieldType.LONG:
            self._long(writer, ours, cell)
        elif field.type is FieldType.OPTIONAL and isinstance(writer, list):
            branches = self._branches(writer)
            if len(branches) != 2 or "null" not in branches:
                raise _Inexpressible
            null = branches.index("null")
            self._check_long(branches[1 - null], "long")
            self._put(OPTIONAL, cell, null)
        elif field.type is FieldType.OPTIONAL:
            self._long(writer, "long", cell)
        elif field.type is FieldType.ENUM:
            self._enum(field, ours, writer, cell)
        elif writer != {FieldType.FLAG: "boolean", FieldType.TEXT: "string"}.get(field.type):
            raise _Inexpressible
        else:
            self._put(FLAG if field.type is FieldType.FLAG else TEXT, cell)

    def _check_long(self, writer: Any, ours: str) -> None:
        if self._resolved(writer) not in (("int",) if ours == "int" else ("int", "long")):
            raise _Inexpressible

    def _long(self, writer: Any, ours: str, cell: int) -> None:
        self._check_long(writer, ours)
        self._put(LONG, cell)

    def _enum(self, field: Field, ours: Any, writer: Any, cell: int) -> None:
        enum = self._of_type(writer, "enum")
        if enum["name"] != _full_name(ours["name"] if isinstance(ours, dict) else ours):
            raise _Inexpressible
        ordinals = [field.symbols.index(each) if each in field.symbols else _NO_PLAN for each in enum["symbols"]]
        self._put(ENUM, cell, len(ordinals), self._here + 2 * SIZE)
        over = self._put(GO)
        self._put_table(ordinals)
        self.words[over + 1] = self._here

    def _levels(self, writer: Any) -> None:
        level = self._of_type(self._of_type(writer, "array")["items"], "record")
        fields = _fields(level)
        if level["name"] != _full_name("Level") or not {"price", "size"} <= fields.keys():
            raise _Inexpressible
        for name in ("price", "size"):
            self._check_long(fields[name], "long")
        if list(fields) == ["price", "size"]:
            self._put(LEVELS)
            return
        self._put(OPEN)
        top = self._put(NEXT, 0, 1)
        for name, type_ in fields.items():
            if name in ("price", "size"):
                self._put(PRICE, 0 if name == "price" else 1)
            else:
                self._skip(type_, 1)
        self._put(CLOSE)
        self._put(GO, self._first + top)
        self.words[top + 3] = self._here

    def _skip(self, writer: Any, depth: int) -> None:
        """Leave out a value that we have no field for."""
        if depth >= DEPTH_MAX:
            raise _Inexpressible
        schema = self._resolved(writer)
        type_ = schema["type"] if isinstance(schema, dict) else schema
        if isinstance(type_, list):
            self._union([self._skipping(branch, depth + 1) for branch in type_])
        elif type_ in _SKIPS:
            self._put(_SKIPS[type_])
        elif type_ in _FIXED_BYTES:
            self._put(SKIP_BYTES, _FIXED_BYTES[type_])
        elif type_ == "fixed":
            self._fixed(schema["size"])
        elif type_ in ("array", "map"):
            top = self._put(NEXT, depth)
            before = len(self.words)
            if type_ == "map":
                self._put(SKIP_TEXT)
            self._skip(schema["items" if type_ == "array" else "values"], depth + 1)
            if len(self.words) == before:  # items without bytes: their number has no bound
                raise _Inexpressible
            self._put(GO, self._first + top)
            self.words[top + 3] = self._here
        elif type_ == "record":
            for each in _fields(schema).values():
                self._skip(each, depth + 1)
        elif type_ != "null":
            raise _Inexpressible

    def _fixed(self, size: Any) -> None:
        if not isinstance(size, int) or not 0 <= size <= limits.MESSAGE_BYTES_MAX:
            raise _Inexpressible
        if size:
            self._put(SKIP_BYTES, size)

    def _skipping(self, writer: Any, depth: int) -> Any:
        return lambda: self._skip(writer, depth)


def _fields(record: dict[str, Any]) -> dict[str, Any]:
    """Types by name, in the order of the bytes."""
    fields = {field["name"]: field["type"] for field in record["fields"]}
    if len(fields) != len(record["fields"]):
        raise _Inexpressible
    return fields


def _default(field: Field, avro: dict[str, Any]) -> int:
    """The word of our default."""
    if field.type is FieldType.OPTIONAL and avro.get("default", 0) is None:
        return ABSENT
    if field.type in (FieldType.LONG, FieldType.OPTIONAL, FieldType.FLAG) and "default" in avro:
        return int(avro["default"])
    raise _Inexpressible


def _full_name(name: str) -> str:
    return f"{MARKET_EVENT['namespace']}.{name}"
