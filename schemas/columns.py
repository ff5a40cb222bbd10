"""Columns: many records of one partition as a few arrays, the form in which agents and replay see the tape.

Input: events, or slices of other columns.
Output: `Columns`, rows in offset order.
Units: as in `schemas.events`; a null is ABSENT.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from schemas.events import FIELDS, Event, Field, FieldType, Kind

ABSENT = int(np.iinfo(np.int64).min)

Int64 = NDArray[np.int64]


class TextArray(Protocol):
    """Texts in a form of their own, as an Arrow array is one."""

    def __len__(self) -> int: ...
    def to_pylist(self) -> list[str]: ...


class Texts(Sequence[str]):
    """Texts of several sources, one after another, made into Python strings when one is asked for first.

    Hundreds of thousands of trade ids in an archive are nobody's input, and making strings takes longer than the rest.
    """

    __slots__ = ("_length", "_made", "_parts")

    def __init__(self, parts: Sequence[Sequence[str] | TextArray]) -> None:
        self._parts = parts
        self._length = sum(map(len, parts))
        self._made: list[str] | None = None

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._all()[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def _all(self) -> list[str]:
        if self._made is None:
            made: list[str] = []
            for part in self._parts:
                made.extend(part if isinstance(part, Sequence) else part.to_pylist())
            self._made, self._parts = made, (made,)
        return self._made


@dataclass(frozen=True, slots=True)
class Columns:
    """n records of one partition.

    The fields of row i are `body[start[i]:start[i + 1]]` in Avro order: a long as it is, null as ABSENT, a boolean as
    0 or 1, an enum as its ordinal, a string as index into `strings`, levels as their count and (price, size) pairs.
    """

    partition: int
    keys: list[str]
    strings: Sequence[str]
    offset: Int64
    kind: NDArray[np.uint8]
    key: NDArray[np.int32]
    ts_event: Int64
    ts_recv: Int64
    start: Int64
    body: Int64

    def __len__(self) -> int:
        return len(self.offset)

    def slice(self, first: int, last: int) -> Columns:
        """Rows first to last - 1, as views."""
        rows = slice(first, last)
        return Columns(
            self.partition, self.keys, self.strings, self.offset[rows], self.kind[rows], self.key[rows],
            self.ts_event[rows], self.ts_recv[rows], self.start[first : last + 1], self.body,
        )  # fmt: skip

    def take(self, mask: NDArray[np.bool_]) -> Columns:
        """The rows where mask is true, copied."""
        return self.pick(np.flatnonzero(mask))

    def pick(self, kept: Int64) -> Columns:
        """The rows of these numbers, in their order, copied."""
        lengths = np.diff(self.start)
        body = self.body[ragged(self.start[:-1][kept], lengths[kept])]
        return Columns(
            self.partition, self.keys, self.strings, self.offset[kept], self.kind[kept], self.key[kept],
            self.ts_event[kept], self.ts_recv[kept], starts_of(lengths[kept]), body,
        )  # fmt: skip

    @staticmethod
    def concat(parts: Sequence[Columns]) -> Columns:
        """One after another; all of one partition, at least one."""
        if len(parts) == 1:
            return parts[0]
        keys, key_parts = _Interner(), []
        bodies = [part.body[part.start[0] : part.start[-1]] for part in parts]
        body, ends = np.concatenate(bodies), np.cumsum([len(each) for each in bodies]).tolist()
        # Parts cut from the same columns share their strings; others follow one another, not looked at.
        tables: dict[int, Sequence[str]] = {id(part.strings): part.strings for part in parts}
        firsts = dict(zip(tables, starts_of(np.array(list(map(len, tables.values())))).tolist(), strict=False))
        for part, here, end in zip(parts, bodies, ends, strict=True):
            key_map = np.array([keys(key) for key in part.keys], np.int32)
            key_parts.append(key_map[part.key] if len(part) else part.key)
            first = firsts[id(part.strings)]
            if first:
                body[text_positions(part) - part.start[0] + end - len(here)] += first
        strings = Texts(list(tables.values())) if len(tables) > 1 else parts[0].strings
        starts = starts_of(np.concatenate([np.diff(part.start) for part in parts]))
        return Columns(
            parts[0].partition, keys.texts, strings,
            np.concatenate([p.offset for p in parts]), np.concatenate([p.kind for p in parts]),
            np.concatenate(key_parts), np.concatenate([p.ts_event for p in parts]),
            np.concatenate([p.ts_recv for p in parts]), starts, body,
        )  # fmt: skip


class _Interner:
    """Texts numbered by first appearance."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._index: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        index = self._index.get(text)
        if index is None:
            index = self._index[text] = len(self.texts)
            self.texts.append(text)
        return index


def starts_of(lengths: NDArray[np.integer[Any]]) -> Int64:
    """[n + 1] starts of n consecutive runs."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def ragged(starts: Int64, lengths: Int64) -> Int64:
    """Positions of runs: starts[0], starts[0] + 1, ... for lengths[0], then the next run."""
    total = int(lengths.sum())
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(total, dtype=np.int64)


def text_positions(columns: Columns) -> Int64:
    """Positions in `body` that hold string indices. No kind has a text behind levels, so they are at fixed places."""
    found: list[Int64] = []
    for kind, fields in FIELDS.items():
        places = [i for i, field in enumerate(fields) if field.type is FieldType.TEXT]
        if places:
            rows = np.flatnonzero(columns.kind == kind)
            found.extend(columns.start[rows] + place for place in places)
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _put_body(out: list[int], fields: tuple[Field, ...], body: dict[str, Any], strings: _Interner) -> None:
    for name, type_, symbols in fields:
        value = body[name]
        if type_ is FieldType.LONG or type_ is FieldType.FLAG:
            out.append(value)
        elif type_ is FieldType.OPTIONAL:
            out.append(ABSENT if value is None else value)
        elif type_ is FieldType.LEVELS:
            out.append(len(value))
            for level in value:
                out.append(level["price"])
                out.append(level["size"])
        elif type_ is FieldType.ENUM:
            out.append(symbols.index(value))
        else:
            out.append(strings(value))


class ColumnsBuilder:
    """Collects records of one partition; `columns()` gives them and starts anew."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self._begin()

    def _begin(self) -> None:
        self._keys, self._strings = _Interner(), _Interner()
        self._head: list[tuple[int, int, int, int, int]] = []
        self._ends: list[int] = [0]
        self._body: list[int] = []

    def __len__(self) -> int:
        return len(self._head)

    def add(self, offset: int, event: Event) -> None:
        """Append one record. A body that is not of its kind raises KeyError or ValueError."""
        key, ts_event, ts_recv, kind, body = event
        _put_body(self._body, FIELDS[kind], body, self._strings)
        self._ends.append(len(self._body))
        self._head.append((offset, kind, self._keys(key), ts_event, ts_recv))

    def columns(self) -> Columns:
        """Everything added since the last call."""
        head = np.array(self._head, np.int64).reshape(-1, 5)
        built = Columns(
            self.partition, self._keys.texts, self._strings.texts, np.ascontiguousarray(head[:, 0]),
            head[:, 1].astype(np.uint8), head[:, 2].astype(np.int32), np.ascontiguousarray(head[:, 3]),
            np.ascontiguousarray(head[:, 4]), np.array(self._ends, np.int64), np.array(self._body, np.int64),
        )  # fmt: skip
        self._begin()
        return built


def from_events(partition: int, first_offset: int, events: Iterable[Event]) -> Columns:
    """Columns of events at consecutive offsets."""
    builder = ColumnsBuilder(partition)
    for offset, event in enumerate(events, first_offset):
        builder.add(offset, event)
    return builder.columns()


def _get_body(fields: tuple[Field, ...], values: list[int], strings: Sequence[str]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    at = 0
    for name, type_, symbols in fields:
        value = values[at]
        at += 1
        if type_ is FieldType.LEVELS:
            run = values[at : at + 2 * value]
            body[name] = [{"price": p, "size": s} for p, s in zip(run[::2], run[1::2], strict=True)]
            at += 2 * value
        elif type_ is FieldType.OPTIONAL:
            body[name] = None if value == ABSENT else value
        elif type_ is FieldType.FLAG:
            body[name] = bool(value)
        elif type_ is FieldType.ENUM:
            body[name] = symbols[value]
        else:
            body[name] = strings[value] if type_ is FieldType.TEXT else value
    return body


def to_events(columns: Columns) -> list[Event]:
    """The records as Python values."""
    starts = columns.start.tolist()
    rows = zip(
        columns.kind.tolist(), columns.key.tolist(), columns.ts_event.tolist(), columns.ts_recv.tolist(),
        starts[:-1], starts[1:], strict=True,
    )  # fmt: skip
    kinds = {kind.value: kind for kind in Kind}
    return [
        Event(columns.keys[key], ts_event, ts_recv, kinds[kind],
              _get_body(FIELDS[kinds[kind]], columns.body[first:last].tolist(), columns.strings))
        for kind, key, ts_event, ts_recv, first, last in rows
    ]  # fmt: skip
