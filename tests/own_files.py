"""Files of features of one's own, as tests write them."""

from __future__ import annotations

from pathlib import Path

from agents.view import VIEW
from schemas.feature_sets import OwnFile

HEAD = f"from agents.view import {', '.join(['feature', *VIEW])}\nimport math\n"
"""Imports of all there is."""


def own_file(folder: Path, text: str, name: str = "mine.py") -> OwnFile:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return OwnFile(path, text)
