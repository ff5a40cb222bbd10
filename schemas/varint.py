"""Numbers and floats of Avro's binary encoding, for compiled code that reads and writes them in flat bytes.

Input: bytes as an array, a place in them, and for reading the end that nothing may be read behind.
Output: the place behind what was read or written; NOWHERE where no number ends before `end`.
Errors: none; floats trust their caller to have eight bytes left.
Source: Apache Avro 1.11, "Binary encoding": zig-zag variable-length integers, little-endian floats.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

NOWHERE = -1
VARINT_BYTES_MAX = 10
FLOAT_BYTES = 8
_POSITIVE = (1 << 63) - 1

BYTES_IN = types.Array(types.uint8, 1, "C", readonly=True)
"""Type of bytes to read: those of a `bytes` object are read only, and writable ones convert."""


def _intrinsic(generator: Callable[..., Any]) -> Any:
    """A function that generates its own machine code; numba's type hints mistake what it makes."""
    made: Any = extending.intrinsic
    return made(generator)


def _float_at(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), ir.DoubleType().as_pointer())


@_intrinsic
def load_float(typing_context: Any, data: Any, at: Any) -> Any:
    """float64 of the eight bytes at data[at], wherever that is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_float_at(context, builder, signature.args[0], *arguments), align=1)

    return types.float64(data, types.int64), generate


@_intrinsic
def store_float(typing_context: Any, data: Any, at: Any, value: Any) -> Any:
    """A float64 into the eight bytes at data[at], wherever that is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, at, value = arguments
        builder.store(value, _float_at(context, builder, signature.args[0], array, at), align=1)
        return context.get_dummy_value()

    return types.void(data, types.int64, types.float64), generate


@njit(nogil=True)
def read_long(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """(number, place behind it). A number longer than ten bytes, or of more than 64 bits, ends NOWHERE."""
    number = 0
    for place in range(min(VARINT_BYTES_MAX, end - at)):
        byte = int(data[at + place])
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if place == VARINT_BYTES_MAX - 1 and byte > 1:
                break
            return ((number >> 1) & _POSITIVE) ^ -(number & 1), at + place + 1
    return 0, NOWHERE


@njit(nogil=True)
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
