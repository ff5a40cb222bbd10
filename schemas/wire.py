"""The Confluent wire format: a zero byte, the schema id in four bytes big-endian, then the Avro body.

Errors: RecordRefused for bytes that are not exactly one record of a registered schema; DependencyDown when the registry
gives no answer about one.
Source: Confluent Schema Registry, "Wire format".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import fastavro
from fastavro.types import Schema as AvroSchema

from schemas import limits
from schemas.errors import RecordRefused, SchemaUnknown
from schemas.registry import SchemaRegistry
from schemas.writers import readable

_HEADER = struct.Struct(">bI")


class Wire:
    """Records of one subject; `header` is what each of ours begins with.

    Writers' schemas are asked from the registry once each.
    """

    def __init__(self, registry: SchemaRegistry, subject: str, schema: dict[str, Any]) -> None:
        self._registry = registry
        self._schema = fastavro.parse_schema(schema)
        self._id = registry.register(subject, schema)
        self.header = _HEADER.pack(0, self._id)
        self._writers: dict[int, AvroSchema] = {self._id: self._schema}
        self._unreadable: set[int] = set()

    def encode(self, record: dict[str, Any]) -> bytes:
        """Header and body of one record."""
        out = BytesIO()
        out.write(self.header)
        fastavro.schemaless_writer(out, self._schema, record)
        return out.getvalue()

    @property
    def writers(self) -> Mapping[int, AvroSchema]:
        """The schemas asked for so far, by number."""
        return self._writers

    def writer(self, schema_id: int) -> AvroSchema:
        """The parsed schema of a number, as `readable` gives it. Errors: RecordRefused for an unknown one."""
        if schema_id in self._unreadable:
            raise RecordRefused("unknown-schema")
        if schema_id not in self._writers:
            try:
                schema = self._registry.get(schema_id)
            except SchemaUnknown:
                # A registry that gives no answer is another error, and goes on up: the record may be a good one.
                raise RecordRefused("unknown-schema") from None
            try:
                self._writers[schema_id] = readable(schema)
            except SchemaUnknown:
                self._unreadable.add(schema_id)
                raise RecordRefused("unknown-schema") from None
        return self._writers[schema_id]

    def decode(self, value: bytes) -> dict[str, Any]:
        """One record; a union's branch comes as (name, record)."""
        if len(value) > limits.MESSAGE_BYTES_MAX:
            raise RecordRefused("message-too-large")
        if len(value) < _HEADER.size or value[0] != 0:
            raise RecordRefused("not-wire-format")
        schema_id = _HEADER.unpack_from(value)[1]
        writer = self.writer(schema_id)
        stream = BytesIO(value)
        stream.seek(_HEADER.size)
        reader = None if schema_id == self._id else self._schema
        try:
            record = fastavro.schemaless_reader(stream, writer, reader, return_record_name=True)
        except Exception as error:  # fastavro raises many types for bytes that are not of the schema
            raise RecordRefused("not-avro") from error
        if stream.tell() != len(value):
            raise RecordRefused("trailing-bytes")
        if not isinstance(record, dict):
            raise RecordRefused("not-avro")
        return record
