"""How functions inside the kernel are compiled: called from compiled code only.

Leaving out each function's entry from Python and from C takes a third off the time a first run spends compiling. The
kernel's own entry is in `agents.kernel`; a test that wants one of these wraps it in a compiled function of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from pathlib import Path
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


@cache
def sources_digest() -> bytes:
    """[8] hash of everything that compiled code can depend on: the sources and schemas of these three folders.

    numba's cache watches the file of the compiled function alone; as a closure's value this makes it watch all.
    """
    digest = blake2b(digest_size=8)
    root = Path(__file__).parents[1]
    for folder in ("schemas", "tables", "agents"):
        for path in sorted(found for pattern in ("*.py", "*.avsc") for found in (root / folder).rglob(pattern)):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.digest()


def cached(options: dict[str, Any]) -> Callable[[_Function], _Function]:
    """Compile and keep the code on disk, or only in memory where no folder can be written to."""

    def compile_(function: _Function) -> _Function:
        try:
            compiled: _Function = _njit(cache=True, **options)(function)
        except RuntimeError:  # numba has found neither a folder beside the file nor one of the user's
            compiled = _njit(**options)(function)
        return compiled

    return compile_
