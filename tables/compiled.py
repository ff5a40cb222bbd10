"""How functions inside the kernel are compiled: called from compiled code only.

Leaving out each function's entry from Python and from C takes a third off the time a first run spends compiling. The
kernel's own entry is in `agents.kernel`; a test that wants one of these wraps it in a compiled function of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

_Function = TypeVar("_Function", bound=Callable[..., Any])

# numba's type hints do not know these options.
_njit: Any = njit
_OPTIONS = {
    "nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True,
    # No counting of references to arrays: nothing in here keeps one. Two atomic additions a call were half a Delta.
    "_nrt": False,
}  # fmt: skip


def inner(function: _Function) -> _Function:
    """Compile when first called.

    No `fastmath`: the order of float operations is part of every feature's definition. A division by zero gives Inf or
    NaN and so a null, never an exception out of the kernel.
    """
    compiled: _Function = _njit(**_OPTIONS)(function)
    return compiled


def within(function: _Function) -> _Function:
    """`inner`, laid into its caller: for what is called at a few places, for each with constants of its own."""
    compiled: _Function = _njit(**_OPTIONS, forceinline=True)(function)
    return compiled
