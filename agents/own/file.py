"""A user's file of features, checked: it is read and never run.

A file may hold imports of `agents.view` and `math`, numbers, and functions of numbers and the state.

Output: `Module`: the functions that passed, without decorators and annotations, and the numbers.
Errors: UsageError for the first thing that may not be there.
"""

from __future__ import annotations

import ast
import difflib
from pathlib import Path
from warnings import catch_warnings, simplefilter

from agents.own.body import Body
from agents.own.module import MARK, STATE, Checked, Module
from agents.view import VIEW
from schemas.errors import UsageError

_VIEW = "agents.view"


def check(path: Path, text: str) -> Module:
    """The file's functions and numbers. Errors: UsageError for the first thing that may not be there."""
    module = Module(path, text.splitlines())
    try:
        with catch_warnings():
            simplefilter("ignore")  # what Python finds odd, such as `1 is x`, is refused below
            compile(text, path.name, "exec", dont_inherit=True)  # finds what parsing alone lets pass
            tree = ast.parse(text)
        for node in tree.body:
            _statement(module, node)
    except SyntaxError as error:
        line = error.lineno or 1
        raise UsageError(
            f"{module.where(line)} is not Python", expected="Python", was=str(error.msg), action="correct the line"
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UsageError(
            f"{path.name} cannot be read", expected="a short file of Python", was=str(error) or type(error).__name__,
            action="write it more simply",
        ) from None  # fmt: skip
    return module


def _statement(module: Module, node: ast.stmt) -> None:
    """One statement at the top of the file."""
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return
        case ast.ImportFrom(module="__future__", names=[ast.alias(name="annotations")]):
            return
        case ast.Import(names=[ast.alias(name="math", asname=None)]):
            module.has_math = True
            return
        case ast.ImportFrom(module=name, names=names, level=0) if name == _VIEW:
            for alias in names:
                _import(module, node, alias)
            return
        case ast.Import() | ast.ImportFrom():
            module.refuse(
                node, "imports what is not for features", "leave it out",
                "`from agents.view import ...` and `import math`",
            )  # fmt: skip
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=value)
            | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
        ):
            module.check_new(node, name)
            number = module.number(value)
            if number is None:
                module.refuse(value, "is no number", "give the number, or work it out inside the function", "a number")
            module.numbers[name] = number
            return
        case ast.FunctionDef(name=name):
            module.check_new(node, name)
            module.functions[name] = _function(module, node)
            return
    module.refuse(
        node, "does something when the file is read", "move it into a feature, or into another file",
        "only imports, numbers and functions at the top of the file",
    )  # fmt: skip


def _import(module: Module, node: ast.AST, alias: ast.alias) -> None:
    if alias.asname is not None or (alias.name not in VIEW and alias.name not in (MARK, "State")):
        near = difflib.get_close_matches(alias.name, VIEW, 3, 0.5)
        expected = f"for example {', '.join(near)}" if near else "functions that agents.view has, under their own names"
        module.refuse(node, f"imports {alias.name}{' as another name' if alias.asname else ''}",
                      "correct the name; docs/own-features.md lists them", expected)  # fmt: skip
    module.imported.add(alias.name)


def _function(module: Module, node: ast.FunctionDef) -> Checked:
    arguments = node.args
    plain = arguments.args
    if (
        arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg or arguments.kwarg or arguments.defaults
        or getattr(node, "type_params", None)
    ):  # fmt: skip
        module.refuse(node, "has parameters of another kind", "name them plainly, without defaults and *", "(state, x)")
    takes_state = bool(plain) and plain[0].arg == STATE
    checked = Checked(node, len(plain), takes_state)
    for decorator in node.decorator_list:
        _decorator(module, decorator, checked)
    if checked.is_feature and not (takes_state and len(plain) == 1):
        module.refuse(
            node, "takes something else than a feature does", f"write `def {node.name}(state):`", "one parameter: state"
        )
    for parameter in plain[takes_state:]:
        module.check_new(node, parameter.arg)
    checked.formula = " ".join((ast.get_docstring(node) or "").split()).rstrip(".")
    body = Body(module, checked, {parameter.arg for parameter in plain[takes_state:]})
    if body.block(node.body, 1):
        module.refuse(node, "does not return a number on every way through", "end it with a return", "a number")
    node.decorator_list, node.returns = [], None
    for parameter in plain:
        parameter.annotation = None
    return checked


def _decorator(module: Module, node: ast.expr, checked: Checked) -> None:
    match node:
        case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords) if name == MARK:
            about = {keyword.arg: keyword.value for keyword in keywords}
            texts = {key: value.value for key, value in about.items() if isinstance(value, ast.Constant)}
            is_text = all(isinstance(text, str) for text in texts.values()) and len(texts) == len(keywords)
            if is_text and set(texts) <= {"unit", "source"} and MARK in module.imported and not checked.is_feature:
                checked.is_feature = True
                checked.unit, checked.source = str(texts.get("unit", "1")), str(texts.get("source", ""))
                return
    module.refuse(
        node, "decorates a function otherwise", "leave it out, or import feature",
        '`@feature(unit="..", source="..")` of agents.view, once',
    )  # fmt: skip
