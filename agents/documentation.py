"""The catalogue as a page for people: `make docs` writes docs/features.md.

Input: the catalogue, the published default set, and the code of the features, which tells the flags each can raise.
Output: Markdown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numba.core.dispatcher import Dispatcher

from agents import arithmetic, micro
from agents.catalogue import FAMILIES, By, Family, find
from schemas import feature_sets
from schemas.feature_sets import FeatureSet
from schemas.units import BASE_TICK_NS, duration_text
from schemas.vectors import Quality

PAGE = Path(__file__).resolve().parent.parent / "docs" / "features.md"

GROUPS = {"price": "Prices", "flow": "Flow", "book": "Order book", "venue": "Perpetuals and the feed",
          "position": "Position", "time": "Time"}  # fmt: skip
ENDINGS = {By.NOTHING: "", By.WINDOW: "_W", By.DEPTH: "_N"}

MEANINGS = {
    Quality.BOOK_GAP: "no snapshot yet, the venue's sequence broke, or nobody watched for more than 60 s",
    Quality.BOOK_STALE: "the book has not changed for more than 5 s; its values are given",
    Quality.BOOK_CROSSED: "the best bid is above the best ask; values are given",
    Quality.NO_TRADES: "the window holds no trade",
    Quality.WARMUP: "the window, or the series of a z-score, is not full yet: at the start, and anew behind an "
    "Instrument with other scales; a window also behind a hole of more than 60 s in the clock and, where it reads the "
    "book, behind a snapshot",
    Quality.POSITION_UNKNOWN: "no Position record has told it: size 0, entry at the mid",
    Quality.FUNDING_UNKNOWN: "a perpetual without a funding rate, or whose next funding time is past",
    Quality.CLOCK_SKEW: "the venue's clock is ahead of ours; values are given",
    Quality.OUTLIER_CLIPPED: "a value lay beyond the bound that the set puts on it, and became that bound",
    Quality.NO_EVENTS: "mark, index or open interest of a contract, or the feed delay, was never told",
    Quality.COMPUTATION_ERROR: "a formula gave no finite number, or a window holds more than its sums can",
    Quality.BOOK_ONE_SIDED: "a side of the book is empty, or too short for what is asked of it",
}

HEAD = """# Features

Generated from the code by `make docs`. Any of these can be a column of a [feature set](feature-sets.md), and so can a
z-score of any of them. The published set `{id}` has one vector per instrument every {cadence}, with the windows and
depths named in the last column. What is not here can be written in a few lines:
[a feature of your own](own-features.md).

- T is the Tick a vector is of. `_W` is a window, the half-open interval [T - W, T): a multiple of 100 ms up to 60 s,
  written `_500ms` or `_15s`. A feature without a window looks at the state at T. `_N` is the best N levels of a side, 1
  to 50, or as many as there are.
- Prices are in quote units, sizes in base units (contracts where the instrument counts contracts).
- A value that cannot be known is null, never NaN or infinite, and the [quality flags](#quality-flags) say why: the
  tables name those a feature can raise.
- Integers until the last formula, then IEEE operations in one fixed order: the same bits on every machine.
"""


def page() -> str:
    """The whole page."""
    published = feature_sets.load(feature_sets.DEFAULT)
    cadence = duration_text(published.cadence_ms * 1_000_000)
    head = HEAD.format(id=published.id, cadence=cadence)
    parts = [head, *(_group(group, title, published) for group, title in GROUPS.items()), _flags()]
    return "".join(parts)


def _group(group: str, title: str, published: FeatureSet) -> str:
    families = [family for family in FAMILIES.values() if family.group == group]
    about = (getattr(micro, group).__doc__ or "").split("Units:")[0].strip()
    titles = f"| feature | unit | definition | reads | flags | in `{published.id}` |"
    lines = [f"\n## {title}\n", about, "", titles, "|---|---|---|---|---|---|"]
    for family in families:
        flags = " ".join(flag.name or "" for flag in flags_of(family))
        cells = [f"`{family.name}{ENDINGS[family.by]}`", family.unit, family.formula.replace("|", "\\|"),
                 ", ".join(family.inputs), flags, _chosen(family, published)]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    sources: dict[str, list[str]] = {}
    for family in families:
        sources.setdefault(family.source, []).append(f"`{family.name}`")
    written = [f"- {', '.join(names)}: {source}" for source, names in sources.items() if "(" in source]
    return "\n".join([*lines, *(["", *written] if written else []), ""])


def _chosen(family: Family, published: FeatureSet) -> str:
    """The windows or depths of a family in a set."""
    found = [feature for feature in map(find, published.features) if feature is not None and feature.family is family]
    if family.by is By.NOTHING:
        return "yes" if found else ""
    is_window = family.by is By.WINDOW
    return " ".join(duration_text(each.argument * BASE_TICK_NS) if is_window else str(each.argument) for each in found)


def flags_of(family: Family) -> list[Quality]:
    """The flags a feature's code can raise, but the one of a computation that fails."""
    found: set[Quality] = set()
    _collect(getattr(getattr(micro, family.group), family.name), found, set())
    return sorted(found - {Quality.COMPUTATION_ERROR})


def _collect(function: Any, found: set[Quality], seen: set[int]) -> None:
    """Flags that a compiled function names, or one that it calls."""
    seen.add(id(function))
    for name, value in _named(function.py_func):
        if isinstance(value, Dispatcher):
            if id(value) not in seen:
                _collect(value, found, seen)
        elif name in _FLAGS:
            found.add(_FLAGS[name])


def _named(function: Any) -> Iterator[tuple[str, object]]:
    known = function.__globals__
    return ((name, known[name]) for name in function.__code__.co_names if name in known)


_FLAGS = {
    name: Quality(value)
    for name, value in vars(arithmetic).items()
    if name.isupper() and type(value) is int and value in Quality._value2member_map_
}


def _flags() -> str:
    rows = [f"| {flag.value} | {flag.name} | {meaning} |" for flag, meaning in MEANINGS.items()]
    others = ", ".join(flag.name or "" for flag in Quality if flag not in MEANINGS)
    return "\n".join([
        "\n## Quality flags\n", "`quality` is a bit mask of what holds for the whole vector and for its columns.", "",
        "| bit | flag | meaning |", "|---|---|---|", *rows, "",
        f"{others} belong to features of bars and news, which no published set has.", "",
    ])  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
