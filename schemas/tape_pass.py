"""The compiled pass over the bytes of many tape records: decodes by plan and lets through what the gate lets through.

Input: records on the wire, one behind another; the plans of `schemas.tape_plan`; number and form of each record's key.
Output: the arrays of `Columns`; where each text lies in the bytes. A record that is not accepted has kind REFUSED, key
    -1 and a body of one word: fastavro and the gate decide about it, so accepting less than they do is always right.
Errors: none; whatever the bytes are, nothing is read or written outside of the arrays.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from schemas import columns, events, flat, limits, tape_plan, units
from schemas.columns import ABSENT, Int64
from schemas.events import FIELDS, FieldType, Kind
from schemas.flat import is_within
from schemas.tape_plan import CELLS, DEPTH_MAX, MARKS_MAX, SIZE, TS_EVENT, TS_RECV
from schemas.varint import BYTES_IN, NOWHERE, Bytes, kept, read_long, sources_hash, within

Int32 = NDArray[np.int32]

MALFORMED, SYMBOL, CLOCK = range(3)
"""Forms of a key."""
WORDS_MAX = CELLS + 2
"""Words of a record's body that are not levels."""
TEXTS_MAX = max(sum(field.type is FieldType.TEXT for field in fields) for fields in FIELDS.values())

_HEADER = 5
_SNAPSHOT, _TICK, _ACTIVATE = int(Kind.SNAPSHOT), int(Kind.TICK), int(Kind.ACTIVATE)

_TOP, _KIND, _FIXED, _TEXTS, _COUNTED, _BACK = range(6)
"""What a record's program changes: the free word of the body, kind, number of fixed fields, texts so far, where the
levels of the open list are counted, the place to return to."""
_STATE = 6

_INTS = types.int64[::1]
# numba's type hints leave this one out.
_tuple: Any = types.UniTuple
_SIGNATURE = _tuple(types.int64, 2)(
    BYTES_IN, _INTS, _INTS, _INTS, _INTS, types.int32[::1], BYTES_IN, types.int64[:, ::1],
    types.int64[:, :, ::1], types.uint8[::1], types.int32[::1], _INTS, _INTS, _INTS, _INTS, _INTS, _INTS,
    types.int32[::1],
)  # fmt: skip


@within
def lay_value(
    op: int, a: int, b: int, c: int, code: Int64, data: Bytes, at: int, end: int, cells: Int64, state: Int64,
    text_start: Int64, text_end: Int64,
) -> int:  # fmt: skip
    """One field into its cell; returns the place behind it."""
    if op == tape_plan.LONG:
        cells[a], at = read_long(data, at, end)
    elif op == tape_plan.OPTIONAL:
        branch, at = read_long(data, at, end)
        cells[a] = ABSENT
        if at != NOWHERE and branch != b:
            cells[a], at = read_long(data, at, end)
            if branch != 1 - b or cells[a] == ABSENT:
                at = NOWHERE
    elif op == tape_plan.FLAG:
        if at >= end or data[at] > 1:
            return NOWHERE
        cells[a] = data[at]
        at += 1
    elif op == tape_plan.ENUM:
        ordinal, at = read_long(data, at, end)
        if at == NOWHERE or ordinal < 0 or ordinal >= b:
            return NOWHERE
        cells[a] = code[c + ordinal]
        if cells[a] < 0:
            at = NOWHERE
    elif op == tape_plan.TEXT:
        size, at = read_long(data, at, end)
        if at == NOWHERE or size < 0 or size > min(end - at, limits.TEXT_BYTES_MAX) or not is_plain(data, at, size):
            return NOWHERE
        text = state[_TEXTS]
        text_start[text], text_end[text] = at, at + size
        cells[a], state[_TEXTS] = text, text + 1
        at += size
    else:
        cells[a] = b
    return at


@within
def is_plain(data: Bytes, at: int, size: int) -> bool:
    """Whether a text is of printable ASCII alone."""
    strange = False
    for place in range(at, at + size):
        strange |= (data[place] < 0x20) | (data[place] > 0x7E)
    return not strange


@within
def lay_list(data: Bytes, at: int, end: int, state: Int64, body: Int64) -> int:
    """Levels as (price, size), in any number of blocks."""
    counted = state[_TOP]
    top = counted + 1
    while True:
        count, at = read_block(data, at, end, True)
        if at == NOWHERE:
            return NOWHERE
        if count == 0:
            break
        for _ in range(count):
            body[top], at = read_long(data, at, end)
            if at == NOWHERE:
                return NOWHERE
            body[top + 1], at = read_long(data, at, end)
            if at == NOWHERE:
                return NOWHERE
            top += 2
    body[counted] = (top - counted) >> 1
    state[_TOP] = top
    return at


@within
def read_block(data: Bytes, at: int, end: int, may_tell_size: bool) -> tuple[int, int]:
    """(items of a list's next block, place behind its head). Every item has at least one byte."""
    count, at = read_long(data, at, end)
    if at != NOWHERE and count < 0 and may_tell_size:
        count = -count
        _, at = read_long(data, at, end)
    if at == NOWHERE or count < 0 or count > end - at:
        return 0, NOWHERE
    return count, at


@within
def skip(op: int, a: int, data: Bytes, at: int, end: int) -> int:
    """The place behind a value that is left out."""
    size = a
    if op != tape_plan.SKIP_BYTES:
        size, at = read_long(data, at, end)
        if op == tape_plan.SKIP_LONG or at == NOWHERE:
            return at
    if size < 0 or size > end - at:
        return NOWHERE
    if op == tape_plan.SKIP_TEXT and not is_plain(data, at, size):
        return NOWHERE
    return at + size


@within
def run(
    code: Int64, pc: int, data: Bytes, at: int, end: int, cells: Int64, left: Int64, marks: Int64, state: Int64,
    body: Int64, text_start: Int64, text_end: Int64,
) -> int:  # fmt: skip
    """Decode one record; returns the place behind it, NOWHERE where the bytes are not of the plan."""
    while at != NOWHERE:
        op, a, b, c = code[pc], code[pc + 1], code[pc + 2], code[pc + 3]
        pc += SIZE
        if op <= tape_plan.SET:
            at = lay_value(op, a, b, c, code, data, at, end, cells, state, text_start, text_end)
        elif op == tape_plan.LEVELS:
            at = lay_list(data, at, end, state, body)
        elif op == tape_plan.KIND:
            state[_KIND], state[_FIXED] = a, b
            state[_TOP] += b
        elif op == tape_plan.GO:
            pc = a
        elif op == tape_plan.END:
            break
        elif op == tape_plan.SWITCH:
            branch, at = read_long(data, at, end)
            if at == NOWHERE or branch < 0 or branch >= a or code[b + branch] < 0:
                return NOWHERE
            pc = code[b + branch]
        elif op == tape_plan.NEXT:
            if left[a] == 0:
                left[a], at = read_block(data, at, end, b != 0)
            if left[a] == 0:
                pc = c
            left[a] = max(left[a] - 1, 0)
        elif op >= tape_plan.SKIP_LONG:
            at = skip(op, a, data, at, end)
        elif op == tape_plan.OPEN:
            state[_COUNTED] = state[_TOP]
            body[state[_TOP]] = 0
            state[_TOP] += 1
        elif op == tape_plan.PRICE:
            body[state[_TOP] + a], at = read_long(data, at, end)
        elif op == tape_plan.CLOSE:
            body[state[_COUNTED]] += 1
            state[_TOP] += 2
        elif op == tape_plan.MARK:
            marks[a] = at
        elif op == tape_plan.RECALL:
            state[_BACK], at = at, marks[a]
        else:
            at = state[_BACK]
    return at


@within
def has_doubled_price(body: Int64, at: int) -> bool:
    """Whether a price may stand twice among the levels counted at `at`: they neither only rise nor only fall."""
    rises, falls = True, True
    for level in range(1, body[at]):
        step = body[at + 1 + 2 * level] - body[at - 1 + 2 * level]
        rises &= step > 0
        falls &= step < 0
    return not (rises or falls)


@within
def is_accepted(
    form: int, body: Int64, start: int, cells: Int64, state: Int64, shapes: Int64, rules: Int64
) -> bool:  # fmt: skip
    """Whether the gate lets a decoded record through; its fixed numbers are put in front of its levels."""
    kind, fixed = state[_KIND], state[_FIXED]
    if form != (CLOCK if kind in (_TICK, _ACTIVATE) else SYMBOL):
        return False
    for field in range(fixed):
        body[start + field] = cells[tape_plan.FIRST_CELL + field]
    if not is_within(kind, cells[TS_EVENT], cells[TS_RECV], body, start, state[_TOP], shapes, rules):
        return False
    if kind == _SNAPSHOT:
        asks = start + fixed + 1 + 2 * body[start + fixed]
        return not (has_doubled_price(body, start + fixed) or has_doubled_price(body, asks))
    return True


def _compiled(source: int) -> Any:
    @kept
    def decode(
        data: Bytes, lengths: Int64, ids: Int64, entries: Int64, code: Int64, numbers: Int32, forms: NDArray[np.uint8],
        shapes: Int64, rules: Int64, kind: NDArray[np.uint8], key: Int32, ts_event: Int64, ts_recv: Int64, start: Int64,
        body: Int64, text_start: Int64, text_end: Int64, order: Int32,
    ) -> tuple[int, int]:  # fmt: skip
        """Decode all records; returns how many keys (their numbers in `order`) and texts there are."""
        _ = source
        cells, left = np.zeros(CELLS, np.int64), np.zeros(DEPTH_MAX, np.int64)
        marks, state = np.zeros(MARKS_MAX, np.int64), np.zeros(_STATE, np.int64)
        place_of = np.full(len(forms), -1, np.int32)
        plan, keys, texts, top, end = 0, 0, 0, 0, 0
        for i in range(len(lengths)):
            first, end = end, end + lengths[i]
            start[i] = top
            behind = NOWHERE
            if _HEADER <= end - first <= limits.MESSAGE_BYTES_MAX and data[first] == 0:
                id_ = (data[first + 1] << 24) | (data[first + 2] << 16) | (data[first + 3] << 8) | data[first + 4]
                if ids[plan] != id_:
                    plan = 0
                    while plan < len(ids) - 1 and ids[plan] != id_:
                        plan += 1
                if ids[plan] == id_:
                    left[:] = 0
                    state[_TOP], state[_TEXTS] = top, texts
                    behind = run(
                        code, entries[plan], data, first + _HEADER, end, cells, left, marks, state, body, text_start,
                        text_end,
                    )  # fmt: skip
            form = forms[numbers[i]]
            if behind == end and is_accepted(form, body, top, cells, state, shapes, rules):
                if place_of[numbers[i]] < 0:
                    place_of[numbers[i]] = keys
                    order[keys] = numbers[i]
                    keys += 1
                kind[i], key[i] = state[_KIND], place_of[numbers[i]]
                ts_event[i], ts_recv[i] = cells[TS_EVENT], cells[TS_RECV]
                top, texts = state[_TOP], state[_TEXTS]
            else:
                kind[i], key[i], ts_event[i], ts_recv[i] = 0, -1, 0, 0
                body[top] = 0
                top += 1
        start[len(lengths)] = top
        return keys, texts

    return decode


def load() -> None:
    """Compile the pass, or read it from the cache: seconds the first time, then a moment, then nothing."""
    with _LOADING:
        if not decode.signatures:
            decode.compile(_SIGNATURE)
            decode.disable_compile()


_LOADING = Lock()
decode = _compiled(
    sources_hash(
        __file__, columns.__file__, events.__file__, flat.__file__, limits.__file__, tape_plan.__file__, units.__file__
    )
)
