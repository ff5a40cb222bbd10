"""The command line as a process of its own, the way a person or a script runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def onetape(*arguments: str | Path, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own."""
    command = [sys.executable, "-m", "app.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def result(*arguments: str | Path) -> dict[str, Any]:
    """The JSON object of a command that must succeed without a word of warning."""
    done = onetape(*arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded
