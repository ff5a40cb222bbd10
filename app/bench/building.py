"""A dataset build in a process of its own: what it takes of memory, told by whoever watches the process.

Run as `python -m app.bench.building ARCHIVE DATASETS SET SPLIT LABEL..`; prints one JSON object: rows, and the seconds
of each stage.
Units: seconds of the performance counter.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.cuts import random_cuts
from replay.datasets.build import build
from replay.datasets.recipe import Recipe
from replay.reader import ArchiveReader
from replay.splits.spec import parse

CUTS = 10
"""Of the leak check, as `onetape dataset build` has them."""
PROVING = "proving"
"""The stage whose windows are as many and as long whatever the tape."""


@dataclass(slots=True)
class Stages:
    """Seconds of each stage of a build, by its name."""

    seconds: dict[str, float] = field(default_factory=dict)
    _stage: str = ""
    _begun: float = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """What a build tells."""
        if stage != self._stage:
            self.end()
            self._stage, self._begun = stage, time.perf_counter()

    def end(self) -> None:
        """The last stage is over."""
        if self._stage:
            spent = time.perf_counter() - self._begun
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + spent
        self._stage = ""

    def text(self) -> str:
        """The stages for people."""
        return ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())


def built(archive: Path, datasets: Path, spec: str, labels: Sequence[str], split: str) -> tuple[dict[str, Any], Stages]:
    """The manifest of a dataset, and how long each stage took."""
    stages = Stages()
    recipe = Recipe(spec, tuple(labels), parse(split))
    manifest = build(ArchiveReader(archive), datasets, recipe, random_cuts(CUTS, 1), told=stages)
    stages.end()
    return manifest, stages


def main(arguments: list[str]) -> None:
    """Entry point of the child."""
    archive, datasets, spec, split, *labels = arguments
    manifest, stages = built(Path(archive), Path(datasets), spec, labels, split)
    sys.stdout.write(json.dumps({"rows": manifest["rows"], "stages": stages.seconds}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
