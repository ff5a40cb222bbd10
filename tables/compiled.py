"""How functions inside the kernel are compiled: called from compiled code only.

Leaving out each function's entry from Python and from C takes a third off the time a first run spends compiling. The
kernel's own entry is in `agents.kernel`; a test that wants one of these wraps it in a compiled function of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

_Function = TypeVar("_Function", bound=Callable[..., Any])

# numba's type hints do not know these two options.
_njit: Any = njit


def inner(function: _Function) -> _Function:
    """Compile when first called.

    No `fastmath`: the order of float operations is part of every feature's definition. A division by zero gives Inf or
    NaN and so a null, never an exception out of the kernel.
    """
    compiled: _Function = _njit(
        nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
    )(function)  # fmt: skip
    return compiled
