"""Tape records and dead letters on the wire.

Input: events, or raw messages of one partition.
Output: wire bytes, or columns and the dead letters of what was refused.
Errors: RecordRefused for one bad record; in a batch it becomes a REFUSED row, so that offsets stay dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from schemas import limits, tape_pass
from schemas.columns import Columns
from schemas.errors import RecordRefused
from schemas.events import DEAD_LETTER, KINDS, MARKET_EVENT, RECORD_NAMES, Event
from schemas.registry import SchemaRegistry
from schemas.tape_decoder import TapeDecoder
from schemas.topics import DEAD_LETTERS, TAPE
from schemas.validate import check
from schemas.wire import Wire


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
        if len(self.key) <= limits.KEY_BYTES_MAX and len(self.original) <= limits.ORIGINAL_BYTES_MAX:
            return self
        kept = self.original[: limits.ORIGINAL_BYTES_MAX]
        cut_bytes = self.cut_bytes + len(self.original) - len(kept)
        return self._replace(key=self.key[: limits.KEY_BYTES_MAX], original=kept, cut_bytes=cut_bytes)


class TapeCodec:
    """Events to and from the wire, through the gate in both directions."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._wire = Wire(registry, f"{TAPE}-value", MARKET_EVENT)
        self._decoder = TapeDecoder(self._wire, self.decode)

    def load(self) -> None:
        """Compile what decodes batches, so that the first one need not wait for it."""
        tape_pass.load()

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
        if not isinstance(record["body"], tuple):  # the writer's is no union
            raise RecordRefused("not-avro")
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
        columns, reasons = self._decoder.decode(partition, offsets, keys, values)
        letters = [
            DeadLetter(source, partition, offsets[row], keys[row] or b"", reason, values[row] or b"").bounded()
            for row, reason in reasons.items()
        ]
        return columns, letters


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
