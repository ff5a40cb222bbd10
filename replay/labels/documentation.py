"""The labels as a page for people: `make docs` writes docs/labels.md.

Input: the families, and the parameters that their names take.
Output: Markdown.
"""

from __future__ import annotations

from pathlib import Path

from replay.labels.families import FAMILIES, Family
from schemas import labels

PAGE = Path(__file__).resolve().parents[2] / "docs" / "labels.md"

HEAD = """# Labels

Generated from the code by `make docs`. A label says what happened behind a prediction time, for a model to learn.
Labels look into the future, so they are declared apart from features: a [feature set](feature-sets.md) that names one
is refused.

A label is named by its family and its horizon H (`500ms`, `5s`, `10m`, `1h`, `1d`) and, where they are not the
defaults, its parameters: `forward_return_5s`, `direction_30s(threshold=0.002)`, `triple_barrier_60s(upper=0.002,
lower=0.001)`. Horizons of one family are as many labels as you name.

- T is the Tick a row is of: its features know nothing behind it. e = T + entry delay is the entry, x = e + H the
  exit; the entry delay is what an order would need to get there, 0 unless you say otherwise. P is the mid price.
- Prices are known at every step of a grid, which comes off the tape as feature vectors do: a multiple of 100 ms that
  divides the cadence of the feature set. Horizons and entry delay are multiples of the step. "The steps in [a, b]"
  are from each time of the grid to the next, from a to b.
- Every row carries its label's interval [t0, t1]: t0 = e, and t1 is when the label is known, x unless told otherwise.
  Splits purge by it. No price behind t1 decides a label; the table says which labels also read prices before t0.
- There is no label where a time of the grid in [e, x] is missing (the tape ends, or nobody watched) or its mid is
  unknown (no whole book). So it is behind a barrier touched before the gap, too: else, of the rows before a gap, only
  those that moved would have a label. A row without any of its labels is left out of a dataset and counted; one that
  lacks some has nulls.
- The same bits on every machine, and wherever the tape is cut: squared returns are summed as integers of 2^-80,
  logarithm and square root are those of the features.
"""


def page() -> str:
    """The whole page."""
    return "".join([HEAD, _table(), _sources()])


def _table() -> str:
    lines = ["\n## Families\n", "| label | unit | parameters | definition |", "|---|---|---|---|"]
    for family in FAMILIES.values():
        defaults = labels.FAMILIES[family.name]
        told = ", ".join(f"`{name}={value.normalize():f}`" for name, value in defaults.items())
        cells = f"| `{family.name}_H` | {family.unit} | {told} | {family.formula} |"
        lines.append(cells.replace("|  |", "| |"))
    return "\n".join([*lines, ""])


def _sources() -> str:
    named: dict[str, list[Family]] = {}
    for family in FAMILIES.values():
        named.setdefault(family.source, []).append(family)
    lines = [f"- {', '.join(f'`{each.name}`' for each in families)}: {source}" for source, families in named.items()]
    return "\n".join(["", *lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
