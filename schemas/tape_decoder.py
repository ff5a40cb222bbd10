"""Raw messages of one partition as columns, in one compiled pass over all of them.

Input: keys and values as the broker gave them.
State: a decode plan for each writer's schema the wire knows; a number for each key seen.
Output: `Columns`, and why which rows are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from schemas import limits, tape_pass
from schemas.bounds import RULES, SHAPES
from schemas.columns import Columns, ColumnsBuilder, Int64, Texts
from schemas.errors import RecordRefused
from schemas.events import Event
from schemas.limits import KEYS_MAX
from schemas.tape_plan import plan
from schemas.topics import CLOCK_KEY, REFUSED_KEY
from schemas.validate import is_symbol
from schemas.wire import Wire

_REASONS = {
    tape_pass.NOT_WIRE: "not-wire-format",
    tape_pass.NOT_AVRO: "not-avro",
    tape_pass.LONGER: "trailing-bytes",
    tape_pass.MISNAMED: "key-malformed",
}
_NO_BYTES = b"\0"
"""numpy makes no array of nothing."""


class Keys(dict[bytes | None, int]):
    """Numbers of keys by first appearance; `names` and `forms` by number. A malformed key has no name.

    Keys that are too long are all one, so that nobody fills the memory with them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self._forms = bytearray()
        self._lock = Lock()

    def __missing__(self, key: bytes | None) -> int:
        if key is not None and len(key) > limits.KEY_BYTES_MAX:
            return self[None]
        name, form = _read(key)
        with self._lock:
            number = self.get(key)
            if number is None:
                number = len(self.names)
                self.names.append(name)
                self._forms.append(form)
                self[key] = number
            return number

    def forms(self) -> NDArray[np.uint8]:
        """[numbers] form of each key."""
        return np.frombuffer(bytes(self._forms), np.uint8)


def _read(key: bytes | None) -> tuple[str, int]:
    if key is None or not key.isascii():
        return "", tape_pass.MALFORMED
    name = key.decode()
    if name == CLOCK_KEY:
        return name, tape_pass.CLOCK
    return name, tape_pass.SYMBOL if is_symbol(name) else tape_pass.MALFORMED


class Slices:
    """Texts that lie in the bytes of a batch, all of ASCII."""

    __slots__ = ("_data", "_ends", "_starts")

    def __init__(self, data: bytes, starts: Int64, ends: Int64) -> None:
        self._data, self._starts, self._ends = data, starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    def to_pylist(self) -> list[str]:
        """The texts as strings."""
        text = self._data.decode("latin-1")
        return [text[start:end] for start, end in zip(self._starts.tolist(), self._ends.tolist(), strict=True)]


class TapeDecoder:
    """Decodes what the plans can express and the gate lets through; `decide` does the rest.

    `decide(key, value)` gives the event that a message is, or raises RecordRefused.
    """

    def __init__(self, wire: Wire, decide: Callable[[bytes | None, bytes | None], Event]) -> None:
        self._wire, self._decide = wire, decide
        self._keys = Keys()
        self._planned = 0
        self._plans = self._make_plans()

    def _make_plans(self) -> tuple[Int64, Int64, Int64]:
        """Ids, where each one's plan begins, and the plans; our own schema, which the wire knew first, is the first."""
        writers = dict(self._wire.writers)
        ids, entries, code = list[int](), list[int](), list[int]()
        for schema_id, writer in writers.items():
            words = plan(writer, len(code))
            if words is not None:
                ids.append(schema_id)
                entries.append(len(code))
                code += words
        assert ids[tape_pass.OURS] == next(iter(writers))
        self._planned = len(writers)
        return np.array(ids, np.int64), np.array(entries, np.int64), np.array(code, np.int64)

    def decode(
        self, partition: int, offsets: Sequence[int], keys: Sequence[bytes | None], values: Sequence[bytes | None],
    ) -> tuple[Columns, dict[int, str]]:  # fmt: skip
        """The columns, and why rows were refused."""
        columns, verdicts = self.accept(partition, offsets, keys, values)
        if not verdicts:
            return columns, {}
        accepted, events, reasons = list[int](), ColumnsBuilder(partition), dict[int, str]()
        for row, verdict in verdicts.items():
            key, value = keys[row], values[row]
            is_whole = key is not None and value is not None and len(key) <= limits.KEY_BYTES_MAX
            if is_whole and verdict != tape_pass.UNDECIDED:
                reasons[row] = _REASONS[verdict]
                continue
            try:
                events.add(offsets[row], self._decide(key, value))
                accepted.append(row)
            except RecordRefused as error:
                reasons[row] = error.reason
        columns = _with_reasons(columns, list(verdicts), reasons)
        if accepted:
            order = np.arange(len(columns))
            order[accepted] = len(columns) + np.arange(len(accepted))
            columns = Columns.concat([columns, events.columns()]).pick(order)
        return columns, reasons

    def accept(
        self, partition: int, offsets: Sequence[int], keys: Sequence[bytes | None], values: Sequence[bytes | None],
    ) -> tuple[Columns, dict[int, int]]:  # fmt: skip
        """What the pass accepts, and its verdict on each other row."""
        tape_pass.load()
        if len(self._wire.writers) != self._planned:
            self._plans = self._make_plans()
        if len(self._keys) > KEYS_MAX:
            self._keys = Keys()
        known, rows = self._keys, len(values)
        numbers = np.fromiter(map(known.__getitem__, keys), np.int32, rows)
        try:
            data = b"".join(values)  # type: ignore[arg-type]
        except TypeError:  # a tombstone; it is told from an empty value by who decides about either
            values = [value or b"" for value in values]
            data = b"".join(values)  # type: ignore[arg-type]
        lengths = np.fromiter(map(len, values), np.int64, rows)  # type: ignore[arg-type]
        (verdict, kind), (key, order) = np.empty((2, rows), np.uint8), np.empty((2, rows), np.int32)
        ts_event, ts_recv = np.empty((2, rows), np.int64)
        start = np.empty(rows + 1, np.int64)
        # A level has two words and at least two bytes.
        body = np.empty(rows * tape_pass.WORDS_MAX + len(data), np.int64)
        text_start, text_end = np.empty((2, rows * tape_pass.TEXTS_MAX), np.int64)
        key_count, text_count = tape_pass.decode(
            np.frombuffer(data or _NO_BYTES, np.uint8), lengths, *self._plans, numbers, known.forms(), SHAPES, RULES,
            verdict, kind, key, ts_event, ts_recv, start, body, text_start, text_end, order,
        )  # fmt: skip
        names = known.names
        columns = Columns(
            partition, [names[number] for number in order[:key_count].tolist()],
            Texts([Slices(data, text_start[:text_count], text_end[:text_count])]),
            np.asarray(offsets, np.int64), kind, key, ts_event, ts_recv, start, body[: start[-1]],
        )  # fmt: skip
        others = verdict.nonzero()[0]
        return columns, dict(zip(others.tolist(), verdict[others].tolist(), strict=True))


def _with_reasons(columns: Columns, others: list[int], reasons: dict[int, str]) -> Columns:
    """The columns with the key of refused rows, and the reasons of those that are."""
    columns.key[others] = len(columns.keys)
    columns.keys.append(REFUSED_KEY)
    texts = list(dict.fromkeys(reasons.values()))
    places = {text: place for place, text in enumerate(texts, len(columns.strings))}
    columns.body[columns.start[list(reasons)]] = [places[reason] for reason in reasons.values()]
    return replace(columns, strings=Texts([columns.strings, texts]))
