"""The compiled pass over the bytes of many tape records: decodes by plan and lets through what the gate lets through.

Input: records on the wire, one behind another; the plans of `schemas.tape_plan`; number and form of each record's key.
Output: the arrays of `Columns`; where each text lies in the bytes; a verdict on each record. One that is not accepted
    has kind REFUSED, key -1 and a body of one word. What is UNDECIDED is left to fastavro and the gate to decide, so to
    accept less than they do is always right.
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
from schemas.varint import BYTES_IN, NOWHERE, VARINT_BYTES_MAX, Bytes, inner, kept, read_long, sources_hash, within

Int32 = NDArray[np.int32]

MALFORMED, SYMBOL, CLOCK = range(3)
"""Forms of a key."""
ACCEPTED, UNDECIDED, NOT_WIRE, NOT_AVRO, LONGER, MISNAMED = range(6)
"""Verdicts, sure without fastavro and the gate; the last three of records of our own schema only: there is no head;
the bytes end, or an index is behind its list; bytes are left; the key is malformed or of another kind. What is damaged
is mostly one of these, and by an exception each takes fifty times as long as a good record."""
OURS = 0
"""Which of the plans is that of our own schema."""
SURE = -2
"""As NOWHERE: where no reader could go on."""
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
    types.int64[:, :, ::1], types.uint8[::1], types.uint8[::1], types.int32[::1], _INTS, _INTS, _INTS, _INTS, _INTS,
    _INTS, types.int32[::1],
)  # fmt: skip


@inner
def failed(data: Bytes, at: int, end: int) -> int:
    """SURE where a number that could not be read ends with the bytes, NOWHERE where it is too long."""
    for place in range(at, end):
        if data[place] < 0x80 or place - at >= VARINT_BYTES_MAX:
            return NOWHERE
    return SURE


@within
def number_at(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """`read_long`, and whether it is sure where it fails."""
    number, behind = read_long(data, at, end)
    return number, behind if behind != NOWHERE else failed(data, at, end)


@within
def index_at(data: Bytes, at: int, end: int, count: int) -> tuple[int, int]:
    """An index below `count`. fastavro takes a negative one as Python does."""
    index, at = number_at(data, at, end)
    if index >= count:
        at = SURE
    elif index < 0:
        at = NOWHERE
    return index, at


@within
def lay_value(
    op: int, a: int, b: int, c: int, code: Int64, data: Bytes, at: int, end: int, cells: Int64, state: Int64,
    text_start: Int64, text_end: Int64,
) -> int:  # fmt: skip
    """One field into its cell; returns the place behind it."""
    if op == tape_plan.LONG:
        cells[a], at = number_at(data, at, end)
    elif op == tape_plan.OPTIONAL:
        branch, at = index_at(data, at, end, 2)
        cells[a] = ABSENT
        if at >= 0 and branch != b:
            cells[a], at = number_at(data, at, end)
            if at >= 0 and cells[a] == ABSENT:
                at = NOWHERE
    elif op == tape_plan.FLAG:
        if at >= end:
            return SURE
        cells[a] = data[at]
        at = at + 1 if data[at] <= 1 else NOWHERE
    elif op == tape_plan.ENUM:
        ordinal, at = index_at(data, at, end, b)
        if at >= 0:
            cells[a] = code[c + ordinal]
            if cells[a] < 0:
                at = NOWHERE
    elif op == tape_plan.TEXT:
        size, at = number_at(data, at, end)
        if at < 0 or size > end - at:
            return at if at < 0 else SURE
        if size < 0 or size > limits.TEXT_BYTES_MAX or not is_plain(data, at, size):
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
        if at < 0:
            return at
        if count == 0:
            break
        for _ in range(count):
            body[top], at = number_at(data, at, end)
            if at < 0:
                return at
            body[top + 1], at = number_at(data, at, end)
            if at < 0:
                return at
            top += 2
    body[counted] = (top - counted) >> 1
    state[_TOP] = top
    return at


@within
def read_block(data: Bytes, at: int, end: int, may_tell_size: bool) -> tuple[int, int]:
    """(items of a list's next block, place behind its head). Every item has at least one byte."""
    count, at = number_at(data, at, end)
    if at >= 0 and count < 0:
        count = -count
        _, at = number_at(data, at, end)
        if not may_tell_size or count < 0:
            at = NOWHERE
    if at >= 0 and count > end - at:
        at = SURE
    return count, at


@within
def skip(op: int, a: int, data: Bytes, at: int, end: int) -> int:
    """The place behind a value that is left out."""
    size = a
    if op != tape_plan.SKIP_BYTES:
        size, at = number_at(data, at, end)
        if op == tape_plan.SKIP_LONG or at < 0:
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
    """Decode one record; returns the place behind it, NOWHERE or SURE where the bytes are not of the plan."""
    while at >= 0:
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
            branch, at = index_at(data, at, end, a)
            if at >= 0:
                pc = code[b + branch]
                at = at if pc >= 0 else NOWHERE
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
            body[state[_TOP] + a], at = number_at(data, at, end)
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
def is_let_through(body: Int64, start: int, cells: Int64, state: Int64, shapes: Int64, rules: Int64) -> bool:
    """Whether the gate lets a decoded record through; its fixed numbers are put in front of its levels."""
    kind, fixed = state[_KIND], state[_FIXED]
    for field in range(fixed):
        body[start + field] = cells[tape_plan.FIRST_CELL + field]
    if not is_within(kind, cells[TS_EVENT], cells[TS_RECV], body, start, state[_TOP], shapes, rules):
        return False
    if kind == _SNAPSHOT:
        asks = start + fixed + 1 + 2 * body[start + fixed]
        return not (has_doubled_price(body, start + fixed) or has_doubled_price(body, asks))
    return True


@within
def verdict_of(
    behind: int, end: int, form: int, body: Int64, start: int, cells: Int64, state: Int64, shapes: Int64, rules: Int64
) -> int:
    """What is known of a record of our own schema that was decoded up to `behind`."""
    if behind < 0:
        return NOT_AVRO if behind == SURE else UNDECIDED
    if behind < end:
        return LONGER
    if form != (CLOCK if state[_KIND] in (_TICK, _ACTIVATE) else SYMBOL):
        return MISNAMED
    return ACCEPTED if is_let_through(body, start, cells, state, shapes, rules) else UNDECIDED


def _compiled(source: int) -> Any:
    @kept
    def decode(
        data: Bytes, lengths: Int64, ids: Int64, entries: Int64, code: Int64, numbers: Int32, forms: NDArray[np.uint8],
        shapes: Int64, rules: Int64, verdict: NDArray[np.uint8], kind: NDArray[np.uint8], key: Int32, ts_event: Int64,
        ts_recv: Int64, start: Int64, body: Int64, text_start: Int64, text_end: Int64, order: Int32,
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
            has_header = end - first >= _HEADER and data[first] == 0
            if has_header and end - first <= limits.MESSAGE_BYTES_MAX:
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
            verdict[i] = verdict_of(behind, end, forms[numbers[i]], body, top, cells, state, shapes, rules)
            if verdict[i] == ACCEPTED:
                if place_of[numbers[i]] < 0:
                    place_of[numbers[i]] = keys
                    order[keys] = numbers[i]
                    keys += 1
                kind[i], key[i] = state[_KIND], place_of[numbers[i]]
                ts_event[i], ts_recv[i] = cells[TS_EVENT], cells[TS_RECV]
                top, texts = state[_TOP], state[_TEXTS]
            else:
                kind[i], key[i], ts_event[i], ts_recv[i] = 0, -1, 0, 0
                if end - first <= limits.MESSAGE_BYTES_MAX and not has_header:
                    verdict[i] = NOT_WIRE
                elif plan != OURS:
                    verdict[i] = UNDECIDED
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
