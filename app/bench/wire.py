"""Tape records as they stand on the wire, encoded by one compiled pass: a load generator must cost little.

Input: columns; the id of the tape's schema.
Output: key and value of every message, the bytes that `schemas.codec.TapeCodec` writes.
Errors: none; columns of a generated stream are valid.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.columns import ABSENT, Columns, Int64, starts_of
from schemas.events import FIELDS, MARKET_EVENT, FieldType, Kind
from schemas.registry import SchemaRegistry
from schemas.topics import TAPE
from schemas.varint import write_long

Bytes = NDArray[np.uint8]
Message = tuple[bytes, bytes]
"""Key and value."""

_LONG, _OPTIONAL, _FLAG, _ENUM, _TEXT, _LEVELS = (list(FieldType).index(each) for each in FieldType)
_FIELDS_MAX = max(map(len, FIELDS.values()))
_HEAD = struct.Struct(">bI")
_HEAD_BYTES = 5 + 2 * 10 + 1
_WORD_BYTES = 11
"""A long of up to 10 bytes and the branch of its union; the end of an array is one byte."""


def _plan() -> NDArray[np.int64]:
    """[kinds, fields] what stands where in a body; -1 behind its last field."""
    plan = np.full((max(Kind) + 1, _FIELDS_MAX), -1, np.int64)
    for kind, fields in FIELDS.items():
        plan[kind, : len(fields)] = [list(FieldType).index(field.type) for field in fields]
    return plan


_PLAN = _plan()


@njit(cache=True, nogil=True)
def _put_levels(out: Bytes, at: int, body: Int64, word: int) -> int:
    """An array of levels: one block, then its end."""
    count = body[word]
    if count:
        at = write_long(out, at, count)
        for i in range(word + 1, word + 1 + 2 * count):
            at = write_long(out, at, body[i])
    out[at] = 0
    return at + 1


@njit(cache=True, nogil=True)
def _encode(
    head: Bytes, plan: Int64, kind: Bytes, ts_event: Int64, ts_recv: Int64, start: Int64, body: Int64,
    text: Bytes, text_start: Int64, out: Bytes, out_start: Int64,
) -> None:  # fmt: skip
    """Write every record behind the one before; `out_start` [n+1] says where each begins."""
    at = 0
    for row in range(len(kind)):
        out_start[row] = at
        out[at : at + len(head)] = head
        at = write_long(out, at + len(head), ts_event[row])
        at = write_long(out, at, ts_recv[row])
        at = write_long(out, at, int(kind[row]) - 1)
        word = start[row]
        for field in plan[kind[row]]:
            if field < 0:
                break
            value = body[word]
            if field == _LEVELS:
                at = _put_levels(out, at, body, word)
                word += 2 * value
            elif field == _TEXT:
                first, last = text_start[value], text_start[value + 1]
                at = write_long(out, at, last - first)
                out[at : at + last - first] = text[first:last]
                at += last - first
            elif field == _OPTIONAL:
                out[at] = 0 if value == ABSENT else 2
                at = at + 1 if value == ABSENT else write_long(out, at + 1, value)
            elif field == _FLAG:
                out[at] = value
                at += 1
            else:
                at = write_long(out, at, value)
            word += 1
    out_start[len(kind)] = at


class TapeWire:
    """Encodes columns of the tape under the id its schema has in a registry."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._head = np.frombuffer(_HEAD.pack(0, registry.register(f"{TAPE}-value", MARKET_EVENT)), np.uint8)

    def encode(self, columns: Columns) -> list[Message]:
        """Key and value of each record, in order."""
        texts = [text.encode() for text in columns.strings]
        text, text_start = np.frombuffer(b"".join(texts), np.uint8), starts_of(np.array([*map(len, texts)], np.int64))
        longest = max(map(len, texts), default=0)
        words = int(columns.start[-1] - columns.start[0])
        out = np.empty(len(columns) * _HEAD_BYTES + words * (_WORD_BYTES + longest), np.uint8)
        out_start = np.empty(len(columns) + 1, np.int64)
        _encode(
            self._head, _PLAN, columns.kind, columns.ts_event, columns.ts_recv, columns.start, columns.body,
            text, text_start, out, out_start,
        )  # fmt: skip
        whole, ends = out[: out_start[-1]].tobytes(), out_start.tolist()
        keys = [key.encode() for key in columns.keys]
        return [
            (keys[key], whole[first:last])
            for key, first, last in zip(columns.key.tolist(), ends[:-1], ends[1:], strict=True)
        ]


def poisoned(messages: Sequence[Message], every: int, seed: int = 1) -> tuple[list[Message], int]:
    """The messages, and behind each `every`-th of them one that is none; returns how many those are."""
    chance = np.random.default_rng(seed)
    out: list[Message] = []
    count = 0
    for i, (key, value) in enumerate(messages):
        out.append((key, value))
        if i % every == every - 1:
            out.append((key, _spoilt(value, count, chance)))
            count += 1
    return out, count


def _spoilt(value: bytes, number: int, chance: np.random.Generator) -> bytes:
    """Cut short, with bytes behind its end, of an unknown schema, or noise."""
    ways = (value[: 6 + int(chance.integers(len(value) - 6))], value + b"\x00", b"\x00\xff\xff\xff\xff" + value[5:])
    return (*ways, chance.bytes(len(value)))[number % 4]
