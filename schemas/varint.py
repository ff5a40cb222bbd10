"""Numbers and floats of Avro's binary encoding, for compiled code that reads and writes them in flat bytes.

Input: bytes as an array, a place in them, and for reading the end that nothing may be read behind.
Output: the place behind what was read or written; NOWHERE where no number ends before `end`.
Errors: none; floats trust their caller to have eight bytes left.
Source: Apache Avro 1.11, "Binary encoding": zig-zag variable-length integers, little-endian floats.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

NOWHERE = -1
VARINT_BYTES_MAX = 10
WORD_BYTES = FLOAT_BYTES = 8
_POSITIVE = (1 << 63) - 1
_CONTINUED = -0x7F7F7F7F7F7F7F80
"""The highest bit of every byte: another follows."""
_ONES = 0x0101010101010101

# Avro's floats are loaded as they lie, and numbers eight bytes at a time.
assert sys.byteorder == "little"

BYTES_IN = types.Array(types.uint8, 1, "C", readonly=True)
"""Type of bytes to read: those of a `bytes` object are read only, and writable ones convert."""


# numba's type hints do not know these options.
_njit: Any = njit
_Function = TypeVar("_Function", bound=Callable[..., Any])


def inner(function: _Function) -> _Function:
    """Compiled when first called, from compiled code only, which it keeps no array beyond."""
    compiled: _Function = _njit(
        nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False
    )(function)
    return compiled


def within(function: _Function) -> _Function:
    """`inner`, laid into its caller: an array is seven words at every call."""
    compiled: _Function = _njit(
        nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False, forceinline=True
    )(function)
    return compiled


def _intrinsic(generator: Callable[..., Any]) -> Any:
    """A function that generates its own machine code; numba's type hints mistake what it makes."""
    made: Any = extending.intrinsic
    return made(generator)


def _pointer(context: Any, builder: Any, array_type: Any, place: Any, type_: Any) -> Any:
    array, at = place
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), type_.as_pointer())


@_intrinsic
def load_word(typing_context: Any, data: Any, at: Any) -> Any:
    """int64 of the eight bytes at data[at], wherever that is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], arguments, ir.IntType(64)), align=1)

    return types.int64(data, types.int64), generate


@_intrinsic
def load_float(typing_context: Any, data: Any, at: Any) -> Any:
    """float64 of the eight bytes at data[at], wherever that is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], arguments, ir.DoubleType()), align=1)

    return types.float64(data, types.int64), generate


@_intrinsic
def store_float(typing_context: Any, data: Any, at: Any, value: Any) -> Any:
    """A float64 into the eight bytes at data[at], wherever that is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, at, value = arguments
        builder.store(value, _pointer(context, builder, signature.args[0], (array, at), ir.DoubleType()), align=1)
        return context.get_dummy_value()

    return types.void(data, types.int64, types.float64), generate


@inner
def read_long(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """(number, place behind it). A number longer than ten bytes, or of more than 64 bits, ends NOWHERE."""
    if end - at < WORD_BYTES:
        return _read_short(data, at, end)
    if data[at] < 0x80:
        first = int(data[at])
        return (first >> 1) ^ -(first & 1), at + 1
    word = load_word(data, at)
    # The lowest byte without its continuation bit is the last; `inside` has every bit up to its end.
    stop = ~word & _CONTINUED
    inside = stop ^ (stop - 1)
    word &= inside & ~_CONTINUED
    # Groups of seven bits close up: two to fourteen, two of those to twenty-eight, two of those.
    word = ((word & 0x7F007F007F007F00) >> 1) | (word & 0x007F007F007F007F)
    word = ((word & 0x3FFF00003FFF0000) >> 2) | (word & 0x00003FFF00003FFF)
    word = ((word & 0x0FFFFFFF00000000) >> 4) | (word & 0x000000000FFFFFFF)
    if stop != 0:
        return (word >> 1) ^ -(word & 1), at + (((inside & _ONES) * _ONES) >> 56)
    for place in range(WORD_BYTES, min(VARINT_BYTES_MAX, end - at)):
        byte = int(data[at + place])
        word |= (byte & 0x7F) << (7 * place)
        if byte < 0x80 and (place < VARINT_BYTES_MAX - 1 or byte <= 1):
            return ((word >> 1) & _POSITIVE) ^ -(word & 1), at + place + 1
    return 0, NOWHERE


@inner
def _read_short(data: Bytes, at: int, end: int) -> tuple[int, int]:
    number = 0
    for place in range(end - at):
        byte = int(data[at + place])
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at + place + 1
    return 0, NOWHERE


@inner
def write_long(data: Bytes, at: int, number: int) -> int:
    """Write a number; there must be room for ten bytes."""
    rest = np.uint64((number << 1) ^ (number >> 63))
    while rest > np.uint64(0x7F):
        data[at] = np.uint8(rest & np.uint64(0x7F)) | np.uint8(0x80)
        rest >>= np.uint64(7)
        at += 1
    data[at] = np.uint8(rest)
    return at + 1


def kept(function: Callable[..., Any]) -> Any:
    """Compiled, and kept on disk where there is a folder to write to."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


def sources_hash(*files: str | None) -> int:
    """Hash of this file and others: as a closure's value it makes numba's cache see all that a function calls."""
    digest = blake2b(digest_size=7)
    for path in (__file__, *files):
        assert path is not None
        digest.update(Path(path).read_bytes())
    return int.from_bytes(digest.digest(), "big")
