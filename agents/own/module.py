"""What has been read of a user's file so far: its functions, its numbers, and the way it is told what is wrong.

Errors: UsageError with file, line, the line itself and what to write instead.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from agents.view import VIEW
from schemas.errors import UsageError
from schemas.limits import POWER_MAX

Number = int | float

STATE: Final = "state"
MARK: Final = "feature"
BUILTINS: Final = {"abs": (1, 1), "min": (2, 16), "max": (2, 16), "float": (1, 1), "bool": (1, 1)}
"""Functions of Python, with the fewest and the most arguments."""
EXPECTED: Final = "arithmetic, comparisons, if, for over range(number), and functions of agents.view, math or this file"
_MATH_NUMBERS: Final = {"pi": math.pi, "e": math.e, "tau": math.tau, "inf": math.inf, "nan": math.nan}


@dataclass(slots=True)
class Checked:
    """A function that passed. `takes_state`: its first parameter is the state; `inputs` and `look_back_ns`: what it
    reads, worked out from its calls; `rounds`: of its loops."""

    node: ast.FunctionDef
    parameters: int
    takes_state: bool
    is_feature: bool = False
    unit: str = ""
    source: str = ""
    formula: str = ""
    inputs: set[str] = field(default_factory=set)
    look_back_ns: int = 0
    rounds: int = 0


@dataclass(slots=True)
class Module:
    """A user's file as far as it was read."""

    path: Path
    lines: list[str]
    imported: set[str] = field(default_factory=set)
    has_math: bool = False
    numbers: dict[str, Number] = field(default_factory=dict)
    functions: dict[str, Checked] = field(default_factory=dict)

    def where(self, line: int) -> str:
        """Line number and text."""
        text = self.lines[line - 1].strip() if 0 < line <= len(self.lines) else ""
        return f"{self.path.name}, line {line}: `{text[:120]}`"

    def refuse(self, node: ast.AST, said: str, action: str, expected: str = EXPECTED) -> NoReturn:
        """Raise UsageError at a node."""
        line = getattr(node, "lineno", 1)
        was = " ".join(ast.unparse(node).split())[:120] if isinstance(node, ast.expr) else "that line"
        raise UsageError(f"{self.where(line)} {said}", expected=expected, was=was, action=action)

    def check_new(self, node: ast.AST, name: str) -> None:
        """A name may mean one thing in a file."""
        known = name in VIEW or name in BUILTINS or name in (STATE, MARK, "math", "int", "range")
        known = known or name.startswith("__")
        if known or name in self.numbers or name in self.functions:
            self.refuse(
                node, f"gives {name} a second meaning", "choose another name", "a name that means nothing else yet"
            )

    def number(self, node: ast.AST) -> Number | None:
        """A number written out, or made of such by + - * / **; None for anything else."""
        match node:
            case ast.Constant(value=bool() | int() | float() as value):
                return self._bounded(node, value)
            case ast.Name(id=name) if name in self.numbers:
                return self.numbers[name]
            case ast.Attribute(value=ast.Name(id="math"), attr=name) if self.has_math and name in _MATH_NUMBERS:
                return _MATH_NUMBERS[name]
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
                number = self.number(operand)
                return -number if isinstance(op, ast.USub) and number is not None else number
            case ast.BinOp(left=left, op=op, right=right):
                a, b = self.number(left), self.number(right)
                return None if a is None or b is None else self._made(node, a, op, b)
        return None

    def _made(self, node: ast.BinOp, a: Number, op: ast.operator, b: Number) -> Number | None:
        try:
            match op:
                case ast.Add():
                    return self._bounded(node, a + b)
                case ast.Sub():
                    return self._bounded(node, a - b)
                case ast.Mult():
                    return self._bounded(node, a * b)
                case ast.Div():
                    return a / b
                case ast.Pow() if isinstance(b, int) and 0 <= b <= POWER_MAX:
                    return self._bounded(node, a**b)
        except (ZeroDivisionError, OverflowError):
            self.refuse(node, "is no number", "correct the arithmetic", "a finite number")
        return None

    def _bounded(self, node: ast.AST, value: Number) -> Number:
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            self.refuse(node, "is too large", "write it as a float, as 1e30", "a whole number of 64 bits")
        return value
