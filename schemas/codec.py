"""Tape records and dead letters on the wire.

Input: events, or raw messages of one partition.
Output: wire bytes, or columns and the dead letters of what was refused.
Errors: RecordRefused for one bad record; in a batch it becomes a REFUSED row, so that offsets stay dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from schemas import limits
from schemas.columns import Columns, ColumnsBuilder
from schemas.errors import RecordRefused
from schemas.events import DEAD_LETTER, KINDS, MARKET_EVENT, RECORD_NAMES, Event, Kind
from schemas.registry import SchemaRegistry
from schemas.topics import DEAD_LETTERS, TAPE
from schemas.validate import check
from schemas.wire import Wire

REFUSED_KEY = "?"
"""Key of REFUSED rows: the original may be no text at all."""


class DeadLetter(NamedTuple):
    """A refused record. `source` is a topic or a recording's file name, `offset` an offset or a line number from 1.

    `cut_bytes` counts what was cut off the end of `original`.
    """

    source: str
    partition: int
    offset: int
    key: bytes
    reason: str
    original: bytes
    cut_bytes: int = 0

    def bounded(self) -> DeadLetter:
        """The letter with no more of its key and original than is kept."""
        kept = self.original[: limits.ORIGINAL_BYTES_MAX]
        cut_bytes = self.cut_bytes + len(self.original) - len(kept)
        return self._replace(key=self.key[: limits.KEY_BYTES_MAX], original=kept, cut_bytes=cut_bytes)


class TapeCodec:
    """Events to and from the wire, through the gate in both directions."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._wire = Wire(registry, f"{TAPE}-value", MARKET_EVENT)

    def encode(self, event: Event) -> bytes:
        """Value of one record; its key is `event.key`."""
        body = (RECORD_NAMES[event.kind], event.body)
        return self._wire.encode({"ts_event": event.ts_event, "ts_recv": event.ts_recv, "body": body})

    def decode(self, key: bytes | None, value: bytes | None) -> Event:
        """One record that has passed the gate."""
        if value is None or key is None:
            raise RecordRefused("tombstone" if value is None else "key-missing")
        if len(key) > limits.KEY_BYTES_MAX:
            raise RecordRefused("key-malformed")
        record: dict[str, Any] = self._wire.decode(value)
        name, body = record["body"]
        try:
            event = Event(key.decode(), record["ts_event"], record["ts_recv"], KINDS[name], body)
        except (UnicodeDecodeError, KeyError):
            raise RecordRefused("key-malformed") from None
        check(event)
        return event

    def decode_batch(
        self,
        source: str,
        partition: int,
        offsets: Sequence[int],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
    ) -> tuple[Columns, list[DeadLetter]]:
        """Raw messages of one partition as columns, one row per message, and what was refused."""
        builder = ColumnsBuilder(partition)
        refused: list[DeadLetter] = []
        for offset, key, value in zip(offsets, keys, values, strict=True):
            try:
                builder.add(offset, self.decode(key, value))
            except RecordRefused as error:
                letter = DeadLetter(source, partition, offset, key or b"", error.reason, value or b"")
                refused.append(letter.bounded())
                builder.add(offset, Event(REFUSED_KEY, 0, 0, Kind.REFUSED, {"reason": error.reason}))
        return builder.columns(), refused


class DeadLetterCodec:
    """Dead letters to and from the wire."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._wire = Wire(registry, f"{DEAD_LETTERS}-value", DEAD_LETTER)

    def encode(self, letter: DeadLetter) -> bytes:
        """Value of one dead letter, its original bytes bounded."""
        return self._wire.encode(to_record(letter))

    def decode(self, value: bytes) -> DeadLetter:
        """One dead letter."""
        return from_record(self._wire.decode(value))


def to_record(letter: DeadLetter) -> dict[str, Any]:
    """Avro record of a dead letter, its key and original bytes bounded."""
    record = letter.bounded()._asdict()
    record["original_bytes"] = len(record["original"]) + record.pop("cut_bytes")
    return record


def from_record(record: dict[str, Any]) -> DeadLetter:
    """The inverse of `to_record`."""
    fields = dict(record)
    cut_bytes = fields.pop("original_bytes") - len(fields["original"])
    return DeadLetter(**fields, cut_bytes=cut_bytes)
