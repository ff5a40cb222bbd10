"""Asks PyPI whether a version in requirements.lock has a known vulnerability: `make audit`.

Input: requirements.lock; pip-audit as compose/audit.lock pins it, in the Python that runs this.
Output: one line per vulnerability on stdout; exit code 0 none known, 1 some, 3 nobody could be asked.

A package that PyPI does not tell of has not been looked at: pip-audit alone would call that a pass.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = ROOT / "requirements.lock"
ASK_S: Final = 900.0


def verdict(report: str, asked: int) -> tuple[int, list[str]]:
    """Exit code and lines of pip-audit's JSON report on so many packages."""
    try:
        found = json.loads(report)["dependencies"]
        told = [each for each in found if "vulns" in each]
    except (ValueError, KeyError, TypeError):
        return 3, ["PyPI does not answer: nothing was audited. Action: run it where the network reaches PyPI."]
    lines = [
        f"{each['name']} {each['version']}: {vulnerability['id']}, fixed in {', '.join(vulnerability['fix_versions'])}"
        for each in told
        for vulnerability in each["vulns"]
    ]
    if lines:
        return 1, [*lines, "Action: raise these versions in pyproject.toml, then `make lock`."]
    if len(told) < asked:
        return 3, [
            f"PyPI told of {len(told)} of {asked} packages: the others were not audited. "
            "Action: run it where the network reaches PyPI itself, not a mirror without its JSON API."
        ]
    return 0, [f"No known vulnerability in {len(told)} packages."]


def blocks(lock: str) -> list[str]:
    """The lock's packages for this Python and platform, each with its hashes."""
    from packaging.requirements import Requirement

    found = re.findall(r"^[\w.-]+==.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    heads = [Requirement(block.partition("\\")[0].strip()) for block in found]
    return [block for block, head in zip(found, heads, strict=True) if head.marker is None or head.marker.evaluate()]


def ask(packages: list[str]) -> str:
    """What pip-audit says of them."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as lock:
        lock.write("".join(packages))
        lock.flush()
        words = ["--requirement", lock.name, "--require-hashes", "--disable-pip", "--progress-spinner", "off"]
        command = [sys.executable, "-m", "pip_audit", *words, "--format", "json"]
        return subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=False).stdout


def main() -> int:
    """Entry point: one package first, and the others when that was answered."""
    packages = blocks(LOCK.read_text(encoding="utf-8"))
    code, lines = verdict(ask(packages[:1]), 1)
    if code != 3:
        code, lines = verdict(ask(packages), len(packages))
    print("\n".join(lines), file=sys.stderr if code == 3 else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
