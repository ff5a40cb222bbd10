"""Notifications that vectors can be read: what `features.ready.v1` carries.

Output: Avro in the Confluent wire format, one record per vector, keyed by instrument.
State: the bytes of every instrument and count told of.
Units: time in ns UTC.
Errors: RecordRefused for a value that is no notification.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        self._heads: dict[tuple[str, str], tuple[bytes, bytes]] = {}
        self._counts = _Longs()

    def encode(self, vectors: Vectors) -> list[tuple[bytes, bytes]]:
        """(key, value) of each vector's notification, in order: the bytes of Avro, most of them made once."""
        heads = [self._head(vectors.feature_set.id, name) for name in vectors.keys]
        counts = np.count_nonzero(~np.isnan(vectors.values), axis=1).tolist()
        ticks = zip(*(each.tolist() for each in (vectors.time, vectors.partition, vectors.as_of_offset)), strict=True)
        messages = []
        known, time, as_of = None, b"", b""
        for key, count, tick in zip(vectors.key.tolist(), counts, ticks, strict=True):
            if tick != known:  # most vectors are of the same Tick as the one before
                known, time, as_of = tick, _long(tick[0]), _long(tick[1]) + _long(tick[2])
            name, head = heads[key]
            messages.append((name, head + time + self._counts[count] + as_of))
        return messages

    def decode(self, value: bytes) -> Ready:
        """One notification."""
        return Ready(**self._wire.decode(value))

    def _head(self, feature_set_id: str, instrument: str) -> tuple[bytes, bytes]:
        """Key of an instrument's messages, and what their values begin with."""
        known = self._heads.get((feature_set_id, instrument))
        if known is None:
            head = self._wire.header + _text(instrument) + _text(feature_set_id)
            known = self._heads[feature_set_id, instrument] = instrument.encode(), head
        return known


def _text(text: str) -> bytes:
    words = text.encode()
    return _long(len(words)) + words


class _Longs(dict[int, bytes]):
    """Numbers that come again as Avro has them."""

    def __missing__(self, number: int) -> bytes:
        self[number] = _long(number)
        return self[number]


def _long(number: int) -> bytes:
    """A long as Avro has it: the sign in the last bit, then seven bits a byte, the lowest first."""
    left = number << 1 if number >= 0 else (-number << 1) - 1
    made = bytearray()
    while left > 127:
        made.append(left & 127 | 128)
        left >>= 7
    made.append(left)
    return bytes(made)
