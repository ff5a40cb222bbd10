"""Files that are on disk when a call returns, and whole whenever the machine stops.

Errors: OSError when the disk refuses; the old file then stays as it was.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"
"""Suffix of a file that is still being written."""


def write_json(path: Path, content: dict[str, Any] | list[Any]) -> None:
    """Write a JSON file so that it is either the old one or the whole new one, and on disk."""
    temporary = prepare_json(path, content)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def prepare_json(path: Path, content: dict[str, Any] | list[Any]) -> Path:
    """Write what shall be at `path` beside it, whole and on disk; returns where, to be renamed."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync(path: Path) -> None:
    """Put a file, or a folder's names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
