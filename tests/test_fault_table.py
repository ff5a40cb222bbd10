"""Every fault of docs/reliability.md has a test that names it, and every such test is in its row."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
SHOWN = re.compile(r"`(test_\w+)`")


def rows() -> Iterator[tuple[str, str, str]]:
    """(area, fault, shown by) of each row."""
    area = ""
    for line in PAGE.partition("\n## Faults\n")[2].splitlines():
        if line.startswith("### "):
            area = line.removeprefix("### ")
        elif line.startswith("## "):
            return
        elif line.startswith("| ") and not line.startswith("| fault |"):
            fault, _, shown = (cell.strip() for cell in line.strip("|").split(" | "))
            yield area, fault, shown


def marked() -> Iterator[tuple[str, str, str]]:
    """(area, fault, test) of each marker."""
    for path in sorted(Path(ROOT, "tests").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                        area, fault = (ast.literal_eval(value) for value in mark.args)
                        yield area, fault, node.name


def test_every_fault_of_the_table_is_shown_by_the_tests_that_name_it() -> None:
    named: dict[tuple[str, str], set[str]] = {}
    for area, fault, test in marked():
        named.setdefault((area, fault), set()).add(test)
    told = {(area, fault): set(SHOWN.findall(shown)) for area, fault, shown in rows()}
    assert named == {row: tests for row, tests in told.items() if tests}


@pytest.mark.parametrize(("area", "fault", "shown"), list(rows()))
def test_a_fault_without_a_test_says_why(area: str, fault: str, shown: str) -> None:
    assert SHOWN.search(shown) or shown.startswith("not shown: "), (area, fault)
