"""The documents name every command, setting, feature family and quality flag there is, and nothing that is not."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from agents import documentation
from agents.catalogue import FAMILIES
from agents.own.body import MATH
from agents.own.module import BUILTINS
from agents.view import VIEW
from app.cli import cli
from app.config import Settings, variable
from app.metrics import REGISTRY
from replay.labels import documentation as label_documentation
from schemas.labels import FAMILIES as LABELS
from schemas.vectors import Quality

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


def test_the_catalogue_page_is_the_catalogue() -> None:
    assert documentation.page() == text("features.md"), "Remedy: make docs"


def test_the_page_of_labels_is_what_their_code_says() -> None:
    assert label_documentation.page() == text("labels.md"), "Remedy: make docs"
    assert set(re.findall(r"^\| `(\w+)_H` \|", text("labels.md"), re.MULTILINE)) == set(LABELS)


def test_every_group_and_flag_is_on_the_catalogue_page() -> None:
    page = documentation.page()
    named = set(re.findall(r"^\| `(\w+?)(?:_[WN])?` \|", page, re.MULTILINE))
    assert named == set(FAMILIES)
    told = {flag for family in FAMILIES.values() for flag in documentation.flags_of(family)}
    assert told < set(documentation.MEANINGS)
    assert all(flag.name in page for flag in Quality if flag.name)


def test_all_that_a_feature_of_ones_own_may_call_is_documented() -> None:
    page = text("own-features.md")
    assert {name for name in VIEW if name not in FAMILIES} == set(re.findall(r"`(\w+)\((?:state|x)", page)) - set(
        FAMILIES
    )
    assert set(BUILTINS) | set(MATH) <= set(re.findall(r"`(\w+)`", page))


def test_every_metric_is_documented_with_its_labels() -> None:
    told = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.+) \|$", text("metrics.md"), re.MULTILINE)
    known = []
    for collector in REGISTRY._collector_to_names:
        for family in collector.describe() if hasattr(collector, "describe") else ():
            labels = getattr(family, "_labelnames", None) or getattr(collector, "_labelnames", ())
            name = family.name + "_total" * (family.type == "counter")
            known.append((name, family.type, ", ".join(f"`{label}`" for label in labels), family.documentation))
    assert sorted(told) == sorted(known), "\n".join(f"| `{name}` | {' | '.join(rest)} |" for name, *rest in known)
