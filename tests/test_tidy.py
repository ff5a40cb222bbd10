"""House rules that a machine can hold: who imports whom, what may not be called where, how long things may get."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = ["schemas", "tables", "agents", "replay", "app"]
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
TOP_LEVEL = {
    "app", "agents", "tables", "schemas", "replay", "tests", "compose", "docs", "Makefile", "pyproject.toml",
    "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "requirements.lock",
}  # fmt: skip
VAGUE = {"utils", "helpers", "common", "base", "manager", "models"}
ENTRY_POINTS = {"app.cli", "app.faust_app"}

FAUST_HOMES = {"agents/bind.py", "tables/store.py"}
WALL_CLOCK = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "localtime", "sleep"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
RANDOMNESS = {"random", "secrets", "uuid"}


def tracked(pattern: str) -> list[Path]:
    """Files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    return sorted({ROOT / name for name in listed if name and (ROOT / name).exists()})


FILES = tracked("*.py")
OURS = [path for path in FILES if path.relative_to(ROOT).parts[0] in ORDER]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def modules_imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def report(found: list[str], remedy: str) -> None:
    assert not found, "\n".join([*found, f"Remedy: {remedy}"])


def test_imports_point_to_the_left() -> None:
    found = []
    for path in OURS:
        home = ORDER.index(path.relative_to(ROOT).parts[0])
        for line, module in modules_imported(TREES[path]):
            top = module.split(".")[0]
            if top in ORDER and ORDER.index(top) > home:
                found.append(f"{name_of(path)}:{line} imports {module}")
    report(found, f"a folder imports itself and folders to its left in {' <- '.join(ORDER)}; pass a port in instead")


def test_faust_stays_at_the_edge() -> None:
    found = [
        f"{name_of(path)}:{line}"
        for path in OURS
        if path.relative_to(ROOT).parts[0] != "app" and name_of(path) not in FAUST_HOMES
        for line, module in modules_imported(TREES[path])
        if module.split(".")[0] in ("faust", "mode")
    ]
    report(found, f"import faust only in app/, {' and '.join(sorted(FAUST_HOMES))}; agents take ports")


def test_environment_is_read_in_one_place() -> None:
    found = []
    for path in OURS:
        for node in ast.walk(TREES[path]):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in ("environ", "getenv")
                and name_of(path) != "app/config.py"
            ):
                found.append(f"{name_of(path)}:{node.lineno}")
    report(found, "read settings through app.config.Settings")


def test_no_wall_clock_and_no_randomness_outside_app() -> None:
    found = []
    for path in OURS:
        if path.relative_to(ROOT).parts[0] == "app":
            continue
        for line, module in modules_imported(TREES[path]):
            parts = module.split(".")
            clock = WALL_CLOCK.get(parts[0], set()) if len(parts) > 1 else set()
            if parts[0] in RANDOMNESS or module.startswith("numpy.random") or parts[-1] in clock:
                found.append(f"{name_of(path)}:{line} imports {module}")
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value).split(".")[-1]
                if node.func.attr in WALL_CLOCK.get(owner, set()) or owner == "random":
                    found.append(f"{name_of(path)}:{node.lineno} calls {ast.unparse(node.func)}")
    report(found, "time is a record of the tape and chance is an argument: take both as parameters from app/")


def test_nothing_prints_but_the_command_line() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in OURS
        if name_of(path) not in ("app/cli.py", "app/report.py")
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    report(found, "use logging, or return what should be shown to app/cli.py")


def test_files_and_functions_stay_short() -> None:
    found = []
    for path, tree in TREES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES_MAX:
            found.append(f"{name_of(path)} has {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES_MAX:
                    found.append(f"{name_of(path)}:{node.lineno} {node.name} has {length} lines")
    report(found, f"split by concept: a file has at most {FILE_LINES_MAX} lines, a function {FUNCTION_LINES_MAX}")


def test_modules_have_telling_names_and_docstrings() -> None:
    found = [f"{name_of(path)} has a vague name" for path in FILES if path.stem in VAGUE]
    found += [f"{name_of(path)} has no docstring" for path in FILES if not ast.get_docstring(TREES[path])]
    report(found, "a module is one noun, and says first what it is for")


def test_no_dead_files() -> None:
    used = {module for tree in TREES.values() for _, module in modules_imported(tree)} | ENTRY_POINTS
    found = []
    for path in FILES:
        relative = path.relative_to(ROOT).with_suffix("")
        if relative.parts[0] == "tests" and (path.stem.startswith("test_") or path.stem == "conftest"):
            continue
        parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
        if parts[0] == "tests":  # pytest puts tests/ itself on the path
            parts = parts[1:]
        module = path.stem if parts[0] == "tests" else ".".join(parts)  # tests are flat: imported by their bare name
        started = any(f"{relative.as_posix()}.py" in text or f"-m {module}" in text for text in SCRIPTS)
        if not started and module not in used and not any(each.startswith(module + ".") for each in used):
            found.append(name_of(path))
    report(found, "delete the file or use it")


SCRIPTS = [path.read_text(encoding="utf-8") for path in [ROOT / "Makefile"] if path.exists()]


def test_top_level_shows_the_architecture() -> None:
    entries = {path.relative_to(ROOT).parts[0] for path in tracked("*")}
    found = sorted(entry for entry in entries if not entry.startswith(".") and entry not in TOP_LEVEL)
    report(found, f"put it into one of {', '.join(sorted(TOP_LEVEL))}")


def test_no_large_or_generated_files() -> None:
    found = [name_of(path) for path in tracked("*") if path.stat().st_size > 1 << 20]
    report(found, "data and generated output stay out of the repository")


@pytest.mark.parametrize("name", ["tables"])
def test_lock_file_has_no_package_that_shadows_ours(name: str) -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = [line for line in lock.splitlines() if line.split("==")[0].strip() == name]
    report(found, f"{name} is the import name of PyTables: it must never be installed beside our {name}/")
