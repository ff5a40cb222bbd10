"""Feature vectors between flat arrays and Avro, one compiled pass over a batch in each direction.

Input: a vector is one text, H whole numbers and F floats; NaN stands for null.
Output: the bytes fastavro would write; of what was read, which records are exactly one vector of the plan's writer.
Errors: none; a record that does not fit its plan is left to fastavro, which alone refuses, and says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from threading import Lock
from typing import Any, Final, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from schemas import limits, varint
from schemas.varint import BYTES_IN, FLOAT_BYTES, NOWHERE, VARINT_BYTES_MAX, Bytes, inner, kept, sources_hash

Int64 = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

SKIPPED: Final = -1
_TEXT, _LONG, _INT, _FLOAT, _OPTIONAL = range(5)
_KINDS = {"string": _TEXT, "long": _LONG, "int": _INT, "double": _FLOAT}
_BRANCHES = 2
"""First bytes of a union's branches, 0 and 2, make 2."""
_NULLABLE = (["null", "double"], ["double", "null"])
_READ_AS = {_TEXT: (_TEXT,), _LONG: (_LONG, _INT), _INT: (_INT,), _FLOAT: (_FLOAT,), _OPTIONAL: (_OPTIONAL, _FLOAT)}
"""As which types a field may be written, to be read as one."""
_INT_MIN, _INT_MAX = -(1 << 31), (1 << 31) - 1

_STARTS: Any = types.Array(types.int64, 1, "C", readonly=True)
_TABLE: Any = types.Array(types.int64, 2, "C", readonly=True)
_ROWS: Any = types.Array(types.float64, 2, "C", readonly=True)
_SIGNATURES = {
    "lay": types.int64(BYTES_IN, BYTES_IN, _STARTS, _TABLE, _ROWS, types.uint8[::1], types.int64[::1]),
    "take": types.void(
        BYTES_IN, _STARTS, BYTES_IN, _TABLE, types.int64[:, ::1], types.int64[:, ::1], types.float64[:, ::1],
        types.boolean[::1],
    ),
}  # fmt: skip


class Taken(NamedTuple):
    """What a pass has read of m records: where each one's text begins and ends, its numbers and its floats.

    A row of `is_taken` False says nothing yet.
    """

    texts: Int64
    numbers: Int64
    floats: Floats
    is_taken: Flags

    @staticmethod
    def nothing(count: int, numbers: int, floats: int) -> Taken:
        """Room for `count` records; what a writer does not know is null."""
        return Taken(
            np.zeros((count, 2), np.int64), np.zeros((numbers, count), np.int64),
            np.full((count, floats), np.nan), np.zeros(count, np.bool_),
        )  # fmt: skip


def plan_of(writer: Any, reader: Any) -> Int64 | None:
    """[steps, 4] how a writer's record is read: type, place, null's first byte, how many such fields come in a row.

    A place is among the texts, the numbers or the floats of `reader`, which has one text, longs or ints, and doubles
    that may be null. None: this writer is not read by a pass.
    """
    if not isinstance(writer, dict) or any(writer.get(about) != reader[about] for about in ("type", "name")):
        return None
    missing = _wanted(reader)
    if len({field["name"] for field in writer["fields"]}) < len(writer["fields"]):
        return None
    plan: list[list[int]] = []
    for field in writer["fields"]:
        written, null = _kind(field["type"])
        kind, place = missing.pop(field["name"], (written, SKIPPED))
        if written not in _READ_AS.get(kind, ()):
            return None
        # What may be null is read as it was written, a number as what it has to be.
        kind = written if kind == _OPTIONAL else kind
        if kind == _OPTIONAL and plan and plan[-1][:3] == [kind, place - plan[-1][3], null]:
            plan[-1][3] += 1
        else:
            plan.append([kind, place, null, 1])
    # Only what may be null has a default.
    is_whole = all(kind == _OPTIONAL for kind, _ in missing.values())
    return np.array(plan, np.int64).reshape(-1, 4) if is_whole else None


def _wanted(reader: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Each field's type and its place among the texts, the numbers or the floats."""
    counts: Counter[int] = Counter()
    wanted = {}
    for field in reader["fields"]:
        kind, _ = _kind(field["type"])
        among = _LONG if kind == _INT else kind
        wanted[field["name"]] = kind, counts[among]
        counts[among] += 1
    return wanted


def _kind(avro: Any) -> tuple[int, int]:
    """(type, first byte of null) of a field's Avro type; NOWHERE for one that no pass reads."""
    if isinstance(avro, list):
        return (_OPTIONAL, 2 * avro.index("null")) if avro in _NULLABLE else (NOWHERE, 0)
    return _KINDS.get(str(avro), NOWHERE), 0


@inner
def take_one(
    data: Bytes, at: int, end: int, plan: Int64, row: int, texts: Int64, numbers: Int64, floats: Floats
) -> int:
    """Read one record's fields; returns the place behind the last, NOWHERE if they do not follow the plan."""
    line = floats[row]
    for step in range(len(plan)):
        kind, place, null, count = plan[step, 0], plan[step, 1], plan[step, 2], plan[step, 3]
        if kind == _OPTIONAL:
            left = count
            while left:
                # A loop of its own: its end is foretold, where a choice in it would wait for each byte.
                while left and end - at > FLOAT_BYTES and data[at] == _BRANCHES - null:
                    if place >= 0:
                        line[place + count - left] = varint.load_float(data, at + 1)
                    at += 1 + FLOAT_BYTES
                    left -= 1
                if left:
                    if at >= end or data[at] != null:
                        return NOWHERE
                    if place >= 0:
                        line[place + count - left] = np.nan
                    at += 1
                    left -= 1
            continue
        if kind == _FLOAT:
            if end - at < FLOAT_BYTES:
                return NOWHERE
            if place >= 0:
                line[place] = varint.load_float(data, at)
            at += FLOAT_BYTES
            continue
        number, at = varint.read_long(data, at, end)
        if at < 0:
            return NOWHERE
        if kind == _TEXT:
            if number < 0 or number > end - at:
                return NOWHERE
            if place >= 0:
                texts[row, 0], texts[row, 1] = at, at + number
            at += number
        else:
            if kind == _INT and (number < _INT_MIN or number > _INT_MAX):
                return NOWHERE
            if place >= 0:
                numbers[place, row] = number
    return at


def _compiled(source: int) -> dict[str, Any]:
    # As a closure's value the hash makes numba's cache see the content of the files, not only the date of this one.
    @kept
    def lay(header: Bytes, texts: Bytes, starts: Int64, numbers: Int64, floats: Floats, out: Bytes, ends: Int64) -> int:
        """Records one after another into `out`, row i behind ends[i]; returns the place behind the last."""
        _ = source
        at = 0
        for i in range(len(floats)):
            ends[i] = at
            for place in range(len(header)):
                out[at + place] = header[place]
            at = varint.write_long(out, at + len(header), starts[i + 1] - starts[i])
            for place in range(starts[i], starts[i + 1]):
                out[at] = texts[place]
                at += 1
            for field in range(len(numbers)):
                at = varint.write_long(out, at, numbers[field, i])
            for value in floats[i]:
                # A null's eight bytes are written over by what follows: no branch that nobody can foretell.
                known = not np.isnan(value)
                out[at] = 2 * known
                varint.store_float(out, at + 1, value)
                at += 1 + FLOAT_BYTES * known
        ends[len(floats)] = at
        return at

    @kept
    def take(
        data: Bytes, starts: Int64, header: Bytes, plan: Int64,
        texts: Int64, numbers: Int64, floats: Floats, is_taken: Flags,
    ) -> None:  # fmt: skip
        """Read each record that begins with `header`, is not taken, and follows `plan` to its last byte."""
        _ = source
        for i in range(len(starts) - 1):
            at, end = starts[i], starts[i + 1]
            if is_taken[i] or end - at < len(header) or end - at > limits.MESSAGE_BYTES_MAX:
                continue
            same = True
            for place in range(len(header)):
                same &= data[at + place] == header[place]
            if same:
                at = take_one(data, at + len(header), end, plan, i, texts, numbers, floats)
                is_taken[i] = at == end

    return {"lay": lay, "take": take}


def load() -> None:
    """Compile the passes, or read them from the cache: a second the first time, then a moment, then nothing."""
    with _LOADING:
        for name, function in _PASSES.items():
            if not function.signatures:
                function.compile(_SIGNATURES[name])
                function.disable_compile()


def laid(header: bytes, texts: Sequence[bytes], numbers: Int64, floats: Floats) -> tuple[bytes, list[int]]:
    """Records one after another, and the m + 1 places between which each stands; `numbers` [H, m], `floats` [m, F]."""
    load()
    joined = b"".join(texts)
    fixed = len(header) + VARINT_BYTES_MAX * (1 + len(numbers)) + (1 + FLOAT_BYTES) * floats.shape[1]
    out, ends = np.empty(len(texts) * fixed + len(joined), np.uint8), np.empty(len(texts) + 1, np.int64)
    size = _PASSES["lay"](
        np.frombuffer(header, np.uint8), np.frombuffer(joined, np.uint8), starts_of(texts), numbers, floats, out, ends
    )
    return out[:size].tobytes(), ends.tolist()


def take(data: bytes, starts: Int64, header: bytes, plan: Int64, taken: Taken) -> None:
    """Read the records of `data` that begin with `header`, follow `plan` and are not taken."""
    load()
    _PASSES["take"](np.frombuffer(data, np.uint8), starts, np.frombuffer(header, np.uint8), plan, *taken)


def starts_of(parts: Sequence[bytes]) -> Int64:
    """[m + 1] where each of m texts begins and ends in all of them joined."""
    starts = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=starts[1:])
    return starts


_LOADING = Lock()
_PASSES = _compiled(sources_hash(__file__, limits.__file__))
