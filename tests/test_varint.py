"""Compiled numbers are the numbers fastavro writes and reads."""

from __future__ import annotations

from io import BytesIO

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from schemas import varint
from schemas.varint import FLOAT_BYTES, NOWHERE, Bytes

compiling = settings(deadline=None)
LONG = fastavro.parse_schema("long")
longs = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 70).map(lambda bits: min(2**bits, 2**63) - 1)


@njit
def write(data: Bytes, number: int) -> int:
    return varint.write_long(data, 0, number)


@njit
def read(data: Bytes, end: int) -> tuple[int, int]:
    return varint.read_long(data, 0, end)


@njit
def move_float(source: Bytes, at: int, target: Bytes, to: int) -> None:
    varint.store_float(target, to, varint.load_float(source, at))


@compiling
@given(longs, st.binary(max_size=10))
def test_numbers_are_those_of_fastavro(number: int, behind: bytes) -> None:
    out = BytesIO()
    fastavro.schemaless_writer(out, LONG, number)
    room = np.zeros(varint.VARINT_BYTES_MAX, np.uint8)
    end = write(room, number)
    assert room[:end].tobytes() == out.getvalue()
    assert read(room, end) == (number, end)
    followed = np.frombuffer(out.getvalue() + behind, np.uint8)
    assert read(followed, len(followed)) == (number, end)
    assert read(room, end - 1) == (0, NOWHERE), "a number that is cut off"


@compiling
@given(st.binary(max_size=14) | st.binary(max_size=14).map(lambda data: bytes(byte | 0x80 for byte in data) + b"\x01"))
def test_any_bytes_are_the_same_number_or_none(data: bytes) -> None:
    number, end = read(np.frombuffer(data, np.uint8), len(data))
    if end == NOWHERE:
        return
    stream = BytesIO(data)
    assert (number, end) == (fastavro.schemaless_reader(stream, LONG, None), stream.tell())


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 20, b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x00"])
def test_what_is_no_64_bit_number_ends_nowhere(data: bytes) -> None:
    assert read(np.frombuffer(data, np.uint8), len(data)) == (0, NOWHERE)


@compiling
@given(st.binary(min_size=FLOAT_BYTES, max_size=FLOAT_BYTES), st.integers(0, 9), st.integers(0, 9))
def test_a_float_keeps_its_bytes_at_any_place(data: bytes, at: int, to: int) -> None:
    source, target = np.zeros(20, np.uint8), np.zeros(20, np.uint8)
    source[at : at + FLOAT_BYTES] = np.frombuffer(data, np.uint8)
    move_float(source, at, target, to)
    assert target[to : to + FLOAT_BYTES].tobytes() == data
