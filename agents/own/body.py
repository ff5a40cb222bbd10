"""The check of one function's body, before anything is compiled.

A function may hold arithmetic, comparisons, `if`, `for` over a range of known length, and calls of functions of the
view, of `math` and of the same file above it. So it ends, gives the same bits everywhere, and sees nothing but what the
view shows it.

Errors: UsageError for the first thing that may not be there.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from typing import Final, NoReturn

from agents.own.module import BUILTINS, STATE, Checked, Module, Number
from agents.view import VIEW, Takes, levels_of, steps_of
from schemas.limits import DEPTH_MAX, POWER_MAX, ROUNDS_MAX, WINDOW_MAX_NS
from schemas.units import BASE_TICK_NS

MATH: Final = {"sqrt": 1, "fabs": 1, "isnan": 1, "isinf": 1, "isfinite": 1, "copysign": 2}
_OPERATORS: Final = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_COMPARISONS: Final = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
_WHOLE: Final = ("floor", "ceil", "int", "trunc", "round")
_REMEDIES: Final[dict[type[ast.AST], tuple[str, str]]] = {
    ast.Subscript: ("reaches into a value", "read the state through functions of agents.view, as bid_size(state, 1)"),
    ast.Attribute: ("reaches into a value", "read the state through functions of agents.view, as bid_size(state, 1)"),
    ast.While: ("is a loop that may never end", "use `for i in range(number)`, with break"),
    ast.Lambda: ("defines a function inside a function", "define it at the top of the file"),
    ast.FunctionDef: ("defines a function inside a function", "define it at the top of the file"),
    ast.AsyncFunctionDef: ("is asynchronous", "write a plain function"),
    ast.Import: ("imports inside a function", "import at the top of the file"),
    ast.ImportFrom: ("imports inside a function", "import at the top of the file"),
    ast.Global: ("shares a variable", "use a window of the view: a feature has no memory"),
    ast.Nonlocal: ("shares a variable", "use a window of the view: a feature has no memory"),
    ast.NamedExpr: ("assigns inside an expression", "assign on a line of its own"),
    ast.JoinedStr: ("makes a text", "give a number"),
    ast.ListComp: ("makes a list", "add numbers up in a `for` loop"),
    ast.GeneratorExp: ("makes a sequence", "add numbers up in a `for` loop"),
    ast.List: ("makes a list", "use numbers only"),
    ast.Dict: ("makes a dictionary", "use numbers only"),
    ast.Tuple: ("makes a tuple", "use numbers only, one name per assignment"),
}  # fmt: skip


class Body:
    """The check of one function's body: what each name is, whether it has a value, what is read and how often."""

    def __init__(self, module: Module, checked: Checked, parameters: Iterable[str]) -> None:
        self.module, self.checked = module, checked
        self.assigned = set(parameters)

    def block(self, statements: list[ast.stmt], times: int) -> bool:
        """Check statements that run `times` times. Returns whether the end of the block can be reached."""
        reached = True
        for statement in statements:
            reached = self._statement(statement, times) and reached
        return reached

    def _statement(self, node: ast.stmt, times: int) -> bool:
        match node:
            case ast.Expr(value=ast.Constant(value=str())) | ast.Pass():
                return True
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                self._expression(value, times)
                self._assign(node, name)
                return True
            case ast.AugAssign(target=ast.Name() as target, op=op, value=value):
                self._binary(node, op, value)
                self._name(ast.copy_location(ast.Name(target.id, ast.Load()), target))
                self._expression(value, times)
                self._assign(node, target.id)
                return True
            case ast.Return(value=value):
                if value is None:
                    self.module.refuse(node, "returns nothing", "return a number; math.nan is null", "a number")
                self._expression(value, times)
                return False
            case ast.Break() | ast.Continue():
                return False
            case ast.Assign(targets=[target]) if not isinstance(target, ast.Name):
                self.module.refuse(target, *_remedy(target))
            case ast.Expr(value=value):
                self._expression(value, times)
                self.module.refuse(value, "does nothing with its value", "assign it, or leave it out")
            case ast.If(test=test, body=body, orelse=orelse):
                self._expression(test, times)
                return self._branches(body, orelse, times)
            case ast.For(target=ast.Name(id=name), iter=span, body=body, orelse=[]):
                return self._loop(node, name, span, body, times)
        return self.module.refuse(node, *_remedy(node))

    def _assign(self, node: ast.AST, name: str) -> None:
        if name not in self.assigned:
            self.module.check_new(node, name)
        self.assigned.add(name)

    def _branches(self, body: list[ast.stmt], orelse: list[ast.stmt], times: int) -> bool:
        before = set(self.assigned)
        one = self.block(body, times)
        first, self.assigned = self.assigned, before
        other = self.block(orelse, times)
        if one:
            self.assigned = self.assigned & first if other else first
        return one or other

    def _loop(self, node: ast.For, name: str, span: ast.expr, body: list[ast.stmt], times: int) -> bool:
        numbers: list[Number | None] = []
        match span:
            case ast.Call(func=ast.Name(id="range"), args=args, keywords=[]) if 1 <= len(args) <= 3:
                numbers = [self.module.number(arg) for arg in args]
        whole = [number for number in numbers if type(number) is int]
        if not whole or len(whole) != len(numbers) or (len(whole) == 3 and whole[2] == 0):
            self.module.refuse(
                span, "is a loop over something else", "write the bounds as numbers", "range(..) of whole numbers"
            )
        rounds = len(range(*whole))
        self.checked.rounds += times * rounds
        self._bound(node)
        before = set(self.assigned)
        self._assign(node, name)
        self.block(body, times * max(rounds, 1))
        jumps = any(isinstance(each, ast.Break | ast.Continue) for inside in body for each in ast.walk(inside))
        if jumps or rounds == 0:
            self.assigned = before
        return True

    def _bound(self, node: ast.AST) -> None:
        if self.checked.rounds > ROUNDS_MAX:
            self.module.refuse(
                node, f"takes {self.checked.rounds:,} rounds of loops and calls", "loop over less",
                f"at most {ROUNDS_MAX:,} in one feature, those of the functions it calls included",
            )  # fmt: skip

    def _expression(self, node: ast.expr, times: int) -> None:
        if self.module.number(node) is not None:
            return
        match node:
            case ast.Name():
                self._name(node)
            case ast.BinOp(left=left, op=op, right=right):
                self._binary(node, op, right)
                self._expression(left, times)
                self._expression(right, times)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not(), operand=operand):
                self._expression(operand, times)
            case ast.BoolOp(values=values):
                for value in values:
                    self._expression(value, times)
            case ast.Compare(left=left, ops=ops, comparators=others) if all(isinstance(o, _COMPARISONS) for o in ops):
                for value in (left, *others):
                    self._expression(value, times)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                for value in (test, body, orelse):
                    self._expression(value, times)
            case ast.Call():
                self._call(node, times)
            case ast.Constant(value=value):
                what = "is null" if value is None else f"is a {type(value).__name__}, no number"
                self.module.refuse(node, what, "give a number; math.nan is null", "a number")
            case _:
                self.module.refuse(node, *_remedy(node))

    def _binary(self, node: ast.stmt | ast.expr, op: ast.operator, right: ast.expr) -> None:
        if not isinstance(op, _OPERATORS):
            self.module.refuse(node, "works on bits or matrices", "leave it out", "one of + - * / // % **")
        if isinstance(op, ast.Pow):
            power = right.value if isinstance(right, ast.Constant) else None
            if type(power) is not int or not 0 <= power <= POWER_MAX:
                self.module.refuse(
                    node, "raises to a power whose last bits differ between machines",
                    "multiply, divide, or use sqrt", f"a whole number from 0 to {POWER_MAX}, written out",
                )  # fmt: skip

    def _name(self, node: ast.Name) -> None:
        name, module = node.id, self.module
        if name in self.assigned:
            return
        if name == STATE:
            module.refuse(
                node, "uses the state otherwise than as first argument",
                "call functions of agents.view with it, as mid_price(state)", "state as first argument only",
            )  # fmt: skip
        if name in VIEW or name in module.functions or name in BUILTINS:
            module.refuse(node, f"names the function {name} without calling it", f"call it, as {name}(..)")
        local = {each.id for each in ast.walk(self.checked.node)
                 if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}  # fmt: skip
        if name in local:
            module.refuse(
                node, f"reads {name}, which may have no value here", f"give {name} a value on every way to this line",
                "a variable that has a value",
            )  # fmt: skip
        module.refuse(
            node, f"names {name}, which is not known here", "define it above, as a number or in this function",
            "a variable of this function or a number at the top of this file",
        )  # fmt: skip

    def _call(self, node: ast.Call, times: int) -> None:
        module = self.module
        if node.keywords or any(isinstance(arg, ast.Starred) for arg in node.args):
            module.refuse(node, "passes arguments by name or with *", "pass them one by one, in order")
        match node.func:
            case ast.Attribute(value=ast.Name(id="math"), attr=name):
                if not module.has_math:
                    module.refuse(node, "uses math, which is not imported", "add `import math` at the top")
                if name not in MATH:
                    _refuse_math(module, node, name)
                self._arguments(node, name, MATH[name], MATH[name], times)
            case ast.Name(id=name) if name in VIEW:
                self._call_view(node, name, times)
            case ast.Name(id=name) if name in module.functions:
                called = module.functions[name]
                self._arguments(node, name, called.parameters, called.parameters, times, called.takes_state)
                self.checked.inputs |= called.inputs
                self.checked.look_back_ns = max(self.checked.look_back_ns, called.look_back_ns)
                self.checked.rounds += times * (called.rounds + 1)
                self._bound(node)
            case ast.Name(id=name) if name in BUILTINS:
                self._arguments(node, name, *BUILTINS[name], times)
            case ast.Name(id=name) if name in _WHOLE:
                _refuse_math(module, node, name)
            case ast.Name(id=name) if name == self.checked.node.name:
                module.refuse(node, "calls itself", "use `for i in range(number)`")
            case ast.Name(id=name):
                near = difflib.get_close_matches(name, [*VIEW, *module.functions], 3, 0.6)
                module.refuse(
                    node, f"calls {name}, which is not known here", "define it above, or import it from agents.view",
                    f"for example {', '.join(near)}" if near else "a function of agents.view, math or this file",
                )  # fmt: skip
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name not in {*VIEW, *self.assigned, STATE}:
                module.refuse(node, f"calls {name}.{attribute}", "leave it out: a feature sees nothing but its state")
            case _:
                module.refuse(node, *_REMEDIES[ast.Attribute])

    def _arguments(
        self, node: ast.Call, name: str, least: int, most: int, times: int, takes_state: bool = False
    ) -> None:
        """Check how many arguments a call has, and each of them; the first is the state where one is taken."""
        if not least <= len(node.args) <= most:
            expected = f"{least}" if least == most else f"{least} to {most}"
            self.module.refuse(node, f"passes {len(node.args)} arguments to {name}", "correct the call", expected)
        for i, arg in enumerate(node.args):
            if i == 0 and takes_state:
                if not (isinstance(arg, ast.Name) and arg.id == STATE and self.checked.takes_state):
                    self.module.refuse(node, f"calls {name} without the state", f"write {name}(state, ..)",
                                       "state, this function's first parameter, as first argument")  # fmt: skip
            else:
                self._expression(arg, times)

    def _call_view(self, node: ast.Call, name: str, times: int) -> None:
        if name not in self.module.imported:
            self.module.refuse(node, f"calls {name}, which is not imported", f"add {name} to that line",
                               f"from agents.view import {name}")  # fmt: skip
        viewed = VIEW[name]
        self._arguments(node, name, len(viewed.takes), len(viewed.takes), times, viewed.takes[0] is Takes.STATE)
        self.checked.inputs |= set(viewed.inputs)
        for taken, arg in zip(viewed.takes, node.args, strict=True):
            number = self.module.number(arg)
            if taken is Takes.SECONDS:
                steps = WINDOW_MAX_NS // BASE_TICK_NS if number is None else steps_of(number)
                if steps == 0:
                    self.module.refuse(node, "names no window", "correct it", "0.1 to 60 seconds, in steps of 0.1")
                self.checked.look_back_ns = max(self.checked.look_back_ns, steps * BASE_TICK_NS)
            elif taken in (Takes.LEVEL, Takes.LEVELS) and number is not None and levels_of(number) == 0:
                self.module.refuse(node, "names no level", "correct it", f"1 (the best) to {DEPTH_MAX}")


def _remedy(node: ast.AST) -> tuple[str, str]:
    """What is wrong with a kind of node, and what to write instead."""
    return _REMEDIES.get(type(node), ("is nothing a feature may do", "leave it out"))


def _refuse_math(module: Module, node: ast.Call, name: str) -> NoReturn:
    if name in _WHOLE:
        module.refuse(
            node, f"makes a whole number with {name}, which has no defined value for null",
            "import floor or ceil from agents.view: they give floats", "floor(x) or ceil(x)",
        )  # fmt: skip
    instead = "log(x) of agents.view" if name.startswith("log") else ", ".join([*MATH, "log of agents.view"])
    module.refuse(
        node, f"calls math.{name}, whose last bits differ between machines or which is not there",
        "use these, arithmetic, or a column of the catalogue", instead,
    )  # fmt: skip
