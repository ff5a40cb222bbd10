"""The documents name every command, setting, feature family and quality flag there is, and nothing that is not."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from agents.catalogue import CATALOGUE
from app.cli import cli
from app.config import Settings, variable
from tables.layout import WINDOWS_S

DOCS = Path(__file__).resolve().parent.parent / "docs"


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def commands() -> set[str]:
    found = set()
    root = typer.main.get_command(cli)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {})
        found |= {f"onetape {name} {each}" for each in inner} or {f"onetape {name}"}
    return found


def test_every_command_is_documented() -> None:
    told = set(re.findall(r"^\| `(onetape [a-z ]+)`", text("commands.md"), re.MULTILINE))
    assert told == commands()


def test_every_setting_is_documented_with_its_default() -> None:
    told = re.findall(r"^\| `(ONETAPE_\w+)` \| `(.*?)` \| (.+) \|$", text("settings.md"), re.MULTILINE)
    assert told == [(variable(n), str(f.default), f.description) for n, f in Settings.model_fields.items()]


def test_every_feature_is_documented() -> None:
    told = set()
    numbers = {"bid_depth_N": (5, 10, 20), "ask_depth_N": (5, 10, 20), "queue_imbalance_N": (1, 5, 10)}
    for name in re.findall(r"`([a-z_]+(?:_[WN])?)`", text("features.md").split("## Quality")[0]):
        if name.endswith("_W"):
            told |= {f"{name[:-1]}{seconds}s" for seconds in WINDOWS_S}
        elif name in numbers:
            told |= {f"{name[:-1]}{n}" for n in numbers[name]}
        else:
            told.add(name)
    assert {feature.name for feature in CATALOGUE} <= told
