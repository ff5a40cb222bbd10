"""Random offsets to cut an archive's tape at, for the leak check. The seed makes them repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from replay.reader import ArchiveReader


def random_cuts(archive: Path, count: int, seed: int) -> dict[int, list[int]]:
    """`count` offsets over all tape partitions of an archive, each partition drawn by its share of the records."""
    reader = ArchiveReader(archive)
    spans = {p: (s[0].first_offset, s[-1].last_offset) for p in reader.partitions() if (s := reader.segments(p))}
    if not spans:
        return {}
    generator = np.random.default_rng(seed)
    sizes = np.array([last - first + 1 for first, last in spans.values()], np.float64)
    drawn = generator.choice(list(spans), size=count, p=sizes / sizes.sum())
    cuts: dict[int, list[int]] = {}
    for partition in drawn.tolist():
        first, last = spans[partition]
        cuts.setdefault(partition, []).append(int(generator.integers(first, last + 1)))
    return {partition: sorted(offsets) for partition, offsets in sorted(cuts.items())}
