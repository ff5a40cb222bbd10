"""What every bench command has in common: which figures are wanted, on what machine, the verdict, and the table.

Input: figures by name with their titles.
Output: the payload of `--json` and a table.
Errors: UsageError for a figure that does not exist.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from app.bench.measure import QUIET_MIN, Figure
from app.report import facts, grid
from schemas.errors import UsageError


def chosen(known: Collection[str], only: str | None, skip: str | None) -> list[str]:
    """Names of the figures, in order. Errors: UsageError."""
    kept = _named(known, only, "--only") or set(known)
    left = kept - _named(known, skip, "--skip")
    if not left:
        raise UsageError(
            "no figure is left", expected="at least one", was=f"--only {only} --skip {skip}", action="skip fewer"
        )
    return [name for name in known if name in left]


def _named(known: Collection[str], text: str | None, option: str) -> set[str]:
    names = {name.strip() for name in (text or "").split(",") if name.strip()}
    unknown = sorted(names - set(known))
    if unknown:
        raise UsageError(
            f"figure {', '.join(unknown)} is unknown", expected=", ".join(known), was=f"{option} {text}",
            action="name some of these, separated by commas",
        )  # fmt: skip
    return names


class Verdict:
    """What was missed, and what was missed while the machine was busy: that is `unsure`."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.missed: dict[str, list[str]] = {"missed": [], "unsure": []}

    def take(self, found: Iterable[Figure], quiet: float) -> None:
        """Figures that were measured together."""
        for figure in found:
            self.figures.append(figure)
            if not figure.ok:
                self.missed["missed" if quiet >= QUIET_MIN else "unsure"].append(figure.name)

    def payload(self, quiet: float, packages: Sequence[str]) -> dict[str, Any]:
        """The figures, the machine and the verdict."""
        figures = [figure.json() for figure in self.figures]
        return {"figures": figures, "machine": machine(packages), "quiet": round(quiet, 3), **self.missed}


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """What all of it ran on."""
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(), "processors": os.cpu_count(), "memory_gb": round(memory / 1e9, 1),
        "system": platform.platform(), "python": platform.python_version(), "versions": versions,
    }  # fmt: skip


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def show(console: Console, title: str, payload: dict[str, Any]) -> None:
    """The figures as a table, and what to think of them."""
    rows = [
        [each["name"], f"{each['value']:.4g} {each['unit']}", _bound(each, "must"), _bound(each, "aim"),
         _verdict(each), each["rival"]]
        for each in payload["figures"]
    ]  # fmt: skip
    console.print(grid(title, ["figure", "value", "must", "aim", "ok", "against"], rows))
    told = payload["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items() if version)
    console.print(facts({
        "machine": f"{told['processor']}, {told['processors']} processors, {told['memory_gb']} GB",
        "system": f"{told['system']}, Python {told['python']}", "versions": versions,
        "quiet": f"{payload['quiet']} of a processor", "left out": ", ".join(payload["left_out"]) or "nothing",
    }))  # fmt: skip
    if payload["missed"]:
        console.print(f"Missed: {', '.join(payload['missed'])}.")
    if payload["unsure"]:
        console.print(f"Missed on a busy machine, measure again: {', '.join(payload['unsure'])}.")


def _verdict(figure: dict[str, Any]) -> str:
    if figure["must"] is None:
        return "-"
    return "yes" if figure["ok"] else "NO"


def _bound(figure: dict[str, Any], name: str) -> str:
    return "-" if figure[name] is None else f"{figure[name]:g}"
