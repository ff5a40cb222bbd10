"""Trading on predictions as somebody does it who walks through every book: what returns after cost are held to."""

from __future__ import annotations

import math
from collections.abc import Sequence


def books(rows: Sequence[tuple[int, int, float, float]], horizon: int, cost: float) -> tuple[float, float, int]:
    """Net return and what was traded, a book at a time, by somebody who walks through them; rows by entry."""
    times = sorted({entry for _, entry, _, _ in rows})
    step = math.gcd(*(time - times[0] for time in times)) or horizon
    phases = math.ceil(horizon / step)
    found: dict[tuple[int, int], list[tuple[int, float, float]]] = {}
    for instrument, entry, position, gain in rows:
        found.setdefault((instrument, (entry - times[0]) // step % phases), []).append((entry, position, gain))
    net = traded = 0.0
    for book in found.values():
        holding, until = 0.0, None
        for entry, position, gain in sorted(book):
            assert until is None or entry >= until, "holdings of a book never overlap"
            if until is not None and until < entry:
                traded, net, holding = traded + abs(holding), net - abs(holding) * cost, 0.0
            traded, net = traded + abs(position - holding), net - abs(position - holding) * cost
            net, holding, until = net + position * gain, position, entry + horizon
        traded, net = traded + abs(holding), net - abs(holding) * cost
    return net / len(found), traded, len(found)
