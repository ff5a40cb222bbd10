"""Laying records onto a tape: offsets, Ticks in every partition, and where the records are written to.

Input: events that passed the gate, in the order of the tape, and dead letters.
State: the next offset of each partition, the clock, at most CHUNK_ROWS records per partition as columns being built.
Output: columns and dead letters for an archive's writer; encoded records for a broker.
Units: offsets dense per partition; times in ns UTC.
Errors: those of the archive's writer and of `publish`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from app.clock import ClockLayer, tick
from replay.archive import ArchiveWriter
from replay.reader import ArchiveReader
from schemas.codec import DeadLetter, DeadLetterCodec, TapeCodec
from schemas.columns import ColumnsBuilder, to_events
from schemas.events import Event, Kind
from schemas.registry import SchemaRegistry
from schemas.topics import DEAD_LETTERS, TAPE, partition_of

CHUNK_ROWS = 10_000
LETTERS_PARTITION = 0

Publish = Callable[[str, int, bytes, bytes], None]
"""Called with topic, partition, key and value of each record, in order per partition."""


@dataclass(frozen=True, slots=True)
class TapeEnd:
    """Where an archived tape ends: its last Tick, and how each instrument is read."""

    last_tick: int | None = None
    instruments: dict[str, dict[str, Any]] = field(default_factory=dict)


def tape_end(archive: Path) -> TapeEnd:
    """End of the tape in an archive. Reads the whole tape once, for its Instruments."""
    reader = ArchiveReader(archive)
    ticks = []
    instruments = {}
    for partition in reader.partitions():
        tail = reader.tail(partition)
        if tail is not None and tail.last_tick is not None:
            ticks.append(tail.last_tick)
        for columns in reader.batches(partition):
            is_instrument = columns.kind == Kind.INSTRUMENT
            if np.any(is_instrument):
                instruments.update({event.key: event.body for event in to_events(columns.take(is_instrument))})
    return TapeEnd(max(ticks, default=None), instruments)


class TapeLayer:
    """Lays records in order. Say where to with `write_to` and `publish_to` before the first one."""

    def __init__(self, partitions: int, last_tick: int | None = None) -> None:
        self.records = 0
        self._partitions = partitions
        self._clock = ClockLayer(last_tick)
        self._writer: ArchiveWriter | None = None
        self._builders: list[ColumnsBuilder] = []
        self._offsets: list[int] = []
        self._letters: list[DeadLetter] = []
        self._letters_offset = 0
        self._publish: Publish | None = None

    def write_to(self, writer: ArchiveWriter) -> None:
        """Write to an archive, from its next offsets on."""
        self._writer = writer
        self._builders = [ColumnsBuilder(partition) for partition in range(self._partitions)]
        self._offsets = [writer.next_offset(TAPE, partition) or 0 for partition in range(self._partitions)]
        self._letters_offset = writer.next_offset(DEAD_LETTERS, LETTERS_PARTITION) or 0

    def publish_to(self, publish: Publish, registry: SchemaRegistry) -> None:
        """Publish to a broker."""
        self._publish = publish
        self._codec, self._letter_codec = TapeCodec(registry), DeadLetterCodec(registry)

    def lay(self, event: Event) -> None:
        """Lay one record behind the Ticks that are due before it."""
        for time in self._clock.due(event.ts_recv):
            self._lay_tick(time)
        self._put(partition_of(event.key, self._partitions), event)

    def refuse(self, letter: DeadLetter) -> None:
        """Lay one dead letter."""
        if self._publish is not None:
            value = self._letter_codec.encode(letter)
            self._publish(DEAD_LETTERS, partition_of(letter.key.decode(), self._partitions), letter.key, value)
        if self._writer is not None:
            self._letters.append(letter)
            if len(self._letters) >= CHUNK_ROWS:
                self._write_letters()

    def close(self) -> None:
        """Lay the last Tick and write what is left."""
        for time in self._clock.close():
            self._lay_tick(time)
        for partition in range(len(self._builders)):
            self._write(partition)
        self._write_letters()

    def _lay_tick(self, time: int) -> None:
        event = tick(time)
        for partition in range(self._partitions):
            self._put(partition, event)

    def _put(self, partition: int, event: Event) -> None:
        self.records += 1
        if self._publish is not None:
            self._publish(TAPE, partition, event.key.encode(), self._codec.encode(event))
        if self._writer is not None:
            builder = self._builders[partition]
            builder.add(self._offsets[partition], event)
            self._offsets[partition] += 1
            if len(builder) >= CHUNK_ROWS:
                self._write(partition)

    def _write(self, partition: int) -> None:
        if self._writer is not None and len(self._builders[partition]):
            self._writer.append_tape(self._builders[partition].columns())

    def _write_letters(self) -> None:
        if self._writer is not None and self._letters:
            last = self._letters_offset + len(self._letters)
            self._writer.append_dead_letters(LETTERS_PARTITION, range(self._letters_offset, last), self._letters)
            self._letters_offset, self._letters = last, []
