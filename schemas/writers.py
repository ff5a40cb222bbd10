"""Schemas of other writers, as far as they can be read: whoever registers one may be anyone.

Input: a schema as the registry gives it.
Output: the parsed schema, without logical types: of those fastavro makes dates and decimals.
Errors: SchemaUnknown for what is no Avro schema, and for one whose records could claim, in few bytes, a nesting without
end or more items than anybody can count: the reader would follow them until its stack or the day ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import fastavro
from fastavro.types import Schema

from schemas.errors import SchemaUnknown
from schemas.limits import ITEM_PARTS_MAX, SCHEMA_DEPTH_MAX, SCHEMA_PARTS_MAX

_LEAST_BYTES: Final = {
    "null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1,
}  # fmt: skip
_INNER: Final = ("type", "items", "values", "fields")


class Weight(NamedTuple):
    """Of one value: its fewest bytes, its most parts without those in its lists, how deep it is nested with those."""

    least: int
    most: int
    depth: int


def readable(schema: Any) -> Schema:
    """The parsed schema. Errors: SchemaUnknown."""
    try:
        parsed = fastavro.parse_schema(_physical(schema, 0))
        _weigh(parsed, {})
    except SchemaUnknown:
        raise
    except Exception as error:  # fastavro raises many types for what is no schema
        raise _refused(repr(error)[:200]) from None
    return parsed


def _refused(was: str) -> SchemaUnknown:
    return SchemaUnknown(
        "a schema cannot be read", expected="an Avro schema whose records are about as large as their bytes", was=was,
        action="register a schema without lists of nothing and without types inside themselves",
    )  # fmt: skip


def _physical(schema: Any, depth: int) -> Any:
    """A schema whose numbers are numbers, nested no deeper than anybody needs."""
    if depth > SCHEMA_DEPTH_MAX:
        raise _refused(f"one nested deeper than {SCHEMA_DEPTH_MAX}")
    if isinstance(schema, list):
        return [_physical(each, depth + 1) for each in schema]
    if isinstance(schema, dict):
        return {
            name: _physical(value, depth + 1) if name in _INNER else value
            for name, value in schema.items()
            if name != "logicalType"
        }
    return schema


def _weigh(schema: Any, known: dict[str, Weight]) -> Weight:
    """Weight of a value of a parsed schema; `known` are those of the names defined so far."""
    if isinstance(schema, str):
        if schema in _LEAST_BYTES:
            return Weight(_LEAST_BYTES[schema], 1, 1)
        if schema not in known:
            raise _refused(f"{schema} inside itself")
        return known[schema]
    weight = _of_union(schema, known) if isinstance(schema, list) else _of_type(schema, known)
    if weight.most > SCHEMA_PARTS_MAX or weight.depth > SCHEMA_DEPTH_MAX:
        raise _refused(f"{weight.most} parts, {weight.depth} deep")
    return weight


def _of_union(branches: Sequence[Any], known: dict[str, Weight]) -> Weight:
    weights = [_weigh(each, known) for each in branches]
    least = min(each.least for each in weights)
    return Weight(1 + least, 1 + max(each.most for each in weights), 1 + max(each.depth for each in weights))


def _of_type(schema: Mapping[str, Any], known: dict[str, Weight]) -> Weight:
    kind = schema["type"]
    if kind in ("array", "map"):
        item = _weigh(schema["items" if kind == "array" else "values"], known)
        # A map's items have keys.
        if item.most > ITEM_PARTS_MAX * (item.least + (kind == "map")):
            raise _refused(f"a list of {item.most} parts in {item.least} bytes")
        return Weight(1, 1, 1 + item.depth)
    if kind in ("enum", "fixed"):
        weight = Weight(schema.get("size", 1), 1, 1)
    elif kind in ("record", "error"):
        fields = [_weigh(field["type"], known) for field in schema["fields"]]
        depth = max((field.depth for field in fields), default=0)
        weight = Weight(sum(field.least for field in fields), 1 + sum(field.most for field in fields), 1 + depth)
    else:
        return _weigh(kind, known)
    known[schema["name"]] = weight
    return weight
