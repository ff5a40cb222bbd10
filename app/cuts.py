"""Where the leak check cuts a tape: the one place that draws them at random. The seed makes them repeatable."""

from __future__ import annotations

import numpy as np


def random_cuts(count: int, seed: int) -> list[float]:
    """`count` fractions of a partition, uniform in [0, 1)."""
    return [float(cut) for cut in np.random.default_rng(seed).random(count)]
