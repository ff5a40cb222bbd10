"""Features of a user's own as native code: `double f(int64 *row)`, which the kernel calls by its address.

Output: `OwnFeature` by name, of every function that a set's own files declare; compiled when its address is asked for.
State: machine code, kept as long as the process; on disk in `__pycache__` beside the user's file, like Python's own.
Errors: UsageError for a file that may not be compiled, a name that is taken, and what numba refuses.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from types import CodeType
from typing import Any

import numba
from numba import types
from numba.core.errors import NumbaError

from agents import catalogue
from agents.own.file import check
from agents.own.module import Module
from agents.view import VIEW
from schemas.errors import UsageError
from schemas.feature_sets import OwnFile
from schemas.vectors import HEAD
from tables.compiled import inner, sources_digest

# numba's type hints mistake both.
_cfunc: Any = numba.cfunc
_SIGNATURE: Any = types.float64(types.CPointer(types.int64))  # type: ignore[no-untyped-call]
_LOCK = Lock()

_ENTRY = """
def _entry(_digest):
    def {name}(row):
        _ = _digest
        return 1.0 * _feature(row)
    return {name}
"""
"""numba's cache watches the file that the code is of; the digest makes it watch all that is compiled into the code."""


class OwnFeature:
    """One decorated function of a user's file."""

    def __init__(self, name: str, module: Module, function: Any, digest: int) -> None:
        checked = module.functions[name]
        self.name, self.unit, self.source, self.formula = name, checked.unit, checked.source, checked.formula
        self.inputs, self.look_back_ns = tuple(sorted(checked.inputs)), checked.look_back_ns
        self.where = module.where(checked.node.lineno)
        self._module, self._line, self._function, self._digest = module, checked.node.lineno, function, digest
        self._native: Any = None

    @property
    def address(self) -> int:
        """Of its native code, compiled now if it is not yet. Errors: UsageError."""
        with _LOCK:
            if self._native is None:
                self._native = self._compiled()
        address: int = self._native.address
        return address

    def _compiled(self) -> Any:
        # numba's cache wants code to be of a module that can be imported.
        scope: dict[str, Any] = {"__name__": __name__, "_feature": self._function}
        exec(_moved(_ENTRY.format(name=self.name), self._module.path, self._line), scope)
        entry = scope["_entry"](self._digest)
        try:
            try:
                return _cfunc(_SIGNATURE, cache=True, error_model="numpy")(entry)
            except NumbaError:
                raise
            except Exception:  # there is no room for the cache, or what lies there is damaged
                return _cfunc(_SIGNATURE, error_model="numpy")(entry)
        except NumbaError as error:
            raise self._refused(error) from None

    def _refused(self, error: NumbaError) -> UsageError:
        """What numba says, in one sentence, at the line it says it of."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        name = re.escape(self._module.path.name)
        lines = [int(line) for line in re.findall(rf'{name}", line (\d+)', text)]
        said = [line.strip() for line in text.splitlines() if line.strip() and "nopython" not in line]
        sentence = next((line for line in said if not line.startswith(("During", "File", "-", "<source"))), "no reason")
        return UsageError(
            f"{self._module.where(lines[-1] if lines else self._line)} in feature {self.name} cannot be compiled",
            expected="numbers, each name of one type all through", was=sentence[:200].rstrip(".,: "),
            action="correct the function",
        )  # fmt: skip


@inner
def _as_float(x: float) -> float:
    """What numba's own `float` does, and for a bool, too."""
    return 1.0 * x


def own_features(files: Sequence[OwnFile]) -> dict[str, OwnFeature]:
    """By name. Errors: UsageError."""
    found: dict[str, OwnFeature] = {}
    for file in files:
        for name, feature in _features(file).items():
            if name in found:
                raise UsageError(
                    f"feature {name} is there twice", expected="one function of a name in all of own_features",
                    was=f"{found[name].where} and {feature.where}", action="rename one of them",
                )  # fmt: skip
            found[name] = feature
    return found


@cache
def _features(file: OwnFile) -> dict[str, OwnFeature]:
    """Those of one file; nothing of it is run but the functions that passed the check, and those by the kernel."""
    module = check(file.path, file.text)
    names = [name for name, checked in module.functions.items() if checked.is_feature]
    if not names:
        raise UsageError(
            f"{file.path.name} has no feature", expected="a function decorated with @feature()", was="none",
            action="decorate one, or take the file out of own_features",
        )  # fmt: skip
    for name in names:
        _check_name(module, name)
    scope: dict[str, Any] = {name: VIEW[name].function for name in module.imported if name in VIEW}
    scope |= module.numbers | {"math": math, "float": _as_float, "__name__": __name__, "__builtins__": {}}
    body: list[ast.stmt] = [checked.node for checked in module.functions.values()]
    exec(compile(ast.Module(body, []), str(file.path), "exec"), scope)
    for name in module.functions:
        scope[name] = inner(scope[name])
    digest = int.from_bytes(blake2b(file.text.encode() + sources_digest(), digest_size=7).digest(), "big")
    return {name: OwnFeature(name, module, scope[name], digest) for name in names}


def _check_name(module: Module, name: str) -> None:
    taken = name in (*catalogue.FAMILIES, "instrument", *HEAD) or catalogue.find(name) is not None
    if taken or name.startswith("zscore_") or re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name) is None:
        raise UsageError(
            f"{module.where(module.functions[name].node.lineno)} has a name that cannot be a column of its own",
            expected="lower case letters, digits and _, no name of the catalogue or a vector's head, not zscore_...",
            was=name,
            action="choose another name",
        )  # fmt: skip


def _moved(source: str, path: Path, line: int) -> CodeType:
    """Compiled as if it stood in one line of a file: numba keeps the code of a file beside it, by name and line."""
    tree = ast.parse(source)
    place = ast.Pass(lineno=line, end_lineno=line, col_offset=0, end_col_offset=0)
    for node in ast.walk(tree):
        ast.copy_location(node, place)
    return compile(tree, str(path), "exec")
