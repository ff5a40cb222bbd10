"""Notifications that vectors can be read: what `features.ready.v1` carries.

Output: Avro in the Confluent wire format, one record per vector, keyed by instrument.
State: the bytes of every instrument told of.
Units: time in ns UTC.
Errors: RecordRefused for a value that is no notification.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from schemas.events import FEATURES_READY
from schemas.registry import SchemaRegistry
from schemas.topics import READY
from schemas.vectors import Vectors
from schemas.wire import Wire


@dataclass(frozen=True, slots=True)
class Ready:
    """The vector of an instrument at a time can be read, or a newer one. `count` features of it are not null."""

    instrument: str
    feature_set: str
    time: int
    count: int
    partition: int
    as_of_offset: int


class ReadyCodec:
    """Notifications to and from the wire."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._wire = Wire(registry, f"{READY}-value", FEATURES_READY)
        self._texts: dict[str, tuple[bytes, bytes]] = {}

    def encode(self, vectors: Vectors) -> list[tuple[bytes, bytes]]:
        """(key, value) of each vector's notification, in order: the bytes of Avro, most of them made once."""
        header, feature_set = self._wire.header, _text(vectors.feature_set.id)
        keys = [self._text_of(name) for name in vectors.keys]
        counts = np.count_nonzero(~np.isnan(vectors.values), axis=1).tolist()
        columns = (vectors.key, vectors.time, vectors.partition, vectors.as_of_offset)
        messages = []
        for count, key, time, partition, offset in zip(counts, *(each.tolist() for each in columns), strict=True):
            name, instrument = keys[key]
            numbers = _long(time) + _long(count) + _long(partition) + _long(offset)
            messages.append((name, header + instrument + feature_set + numbers))
        return messages

    def decode(self, value: bytes) -> Ready:
        """One notification."""
        return Ready(**self._wire.decode(value))

    def _text_of(self, instrument: str) -> tuple[bytes, bytes]:
        """An instrument as key and as text of the record."""
        if instrument not in self._texts:
            self._texts[instrument] = instrument.encode(), _text(instrument)
        return self._texts[instrument]


def _text(text: str) -> bytes:
    words = text.encode()
    return _long(len(words)) + words


@lru_cache(maxsize=4096)
def _long(number: int) -> bytes:
    """A long as Avro has it: the sign in the last bit, then seven bits a byte, the lowest first."""
    left = number << 1 if number >= 0 else (-number << 1) - 1
    made = bytearray()
    while left > 127:
        made.append(left & 127 | 128)
        left >>= 7
    made.append(left)
    return bytes(made)
