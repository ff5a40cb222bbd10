"""Files of features of one's own, as tests write them."""

from __future__ import annotations

from pathlib import Path

from agents.view import VIEW
from schemas.feature_sets import OwnFile

HEAD = f"from agents.view import {', '.join(['feature', *VIEW])}\nimport math\n"
"""Imports of all there is."""
OWN_FEATURES = f"""{HEAD}
@feature()
def mine(state):
    return spread(state) * queue_imbalance(state, 5) + order_flow_imbalance(state, 1)

@feature()
def other(state):
    return mine(state) * log(microprice(state) / vwap(state, 1)) * sqrt(volume(state, 1))
"""
OWN_SET = """
name: own
version: 3
cadence_ms: 200
own_features: [mine.py]
features:
  - mine: {missing: forward_fill(2s)}
  - other: {outliers: "clip(2, 20)"}
  - zscore(mine, 10)
  - mid_price
"""


def own_file(folder: Path, text: str, name: str = "mine.py") -> OwnFile:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return OwnFile(path, text)


def own_set(folder: Path) -> Path:
    """A set of features of one's own with z-scores and policies: its YAML file."""
    own_file(folder, OWN_FEATURES)
    path = folder / "mine.yaml"
    path.write_text(OWN_SET, encoding="utf-8")
    return path
