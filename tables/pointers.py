"""What compiled code needs that numba has no words for: arrays by their address, calls by address, bits of floats.

What the kernel needs besides a batch goes in as one table of addresses and lengths: each array among a compiled
function's arguments costs 65 ns a call, and of these none changes from batch to batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types

_INTS: Any = types.CPointer(types.int64)  # type: ignore[no-untyped-call]
_FLOATS: Any = types.CPointer(types.float64)  # type: ignore[no-untyped-call]


def intrinsic(generator: Callable[..., Any]) -> Any:
    """A function that generates its own machine code; numba's type hints mistake what it makes."""
    made: Any = extending.intrinsic
    return made(generator)


@intrinsic
def pointer_to_ints(typing_context: Any, address: Any) -> Any:
    """int64 address -> pointer to int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())

    return _INTS(types.int64), generate


@intrinsic
def pointer_to_floats(typing_context: Any, address: Any) -> Any:
    """int64 address -> pointer to float64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.DoubleType().as_pointer())

    return _FLOATS(types.int64), generate


@intrinsic
def call_at(typing_context: Any, address: Any, row: Any) -> Any:
    """Call the C function `double (int64 *)` at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.DoubleType(), [ir.IntType(64).as_pointer()])
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1]])

    return types.float64(types.int64, _INTS), generate


@intrinsic
def to_bits(typing_context: Any, number: Any) -> Any:
    """The bits of a float64 as an int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


@intrinsic
def from_bits(typing_context: Any, bits: Any) -> Any:
    """The float64 of an int64's bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate
