"""What is asked of the past in tests: the definition of the answer, and an agent that counts how often it ran."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence

import numpy as np

from agents.features import features_agent
from agents.ports import Batch, Emit, States
from replay.history.answer import Answer
from replay.ports import Owns
from schemas.feature_sets import FeatureSet
from schemas.vectors import Vectors


class Counting:
    """The features agent, and how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(
        self, batches: AsyncIterable[Batch], states: States, emit: Emit, feature_sets: Sequence[FeatureSet], /, *,
        owns: Owns | None = None,
    ) -> None:  # fmt: skip
        self.runs += 1
        await features_agent(batches, states, emit, feature_sets, owns=owns)


def expected(whole: Vectors, symbol: str, as_of_ns: int) -> Vectors | None:
    """The definition: the newest of the instrument's vectors that was there at that time."""
    named = np.array([name == symbol for name in whole.instruments()], np.bool_)
    rows = np.flatnonzero(named & (whole.time <= as_of_ns) & (whole.ts_available <= as_of_ns))
    return whole.select(rows[[int(np.argmax(whole.time[rows]))]]) if len(rows) else None


def assert_is(answer: Answer, whole: Vectors) -> None:
    for symbol in answer.symbols:
        wanted = expected(whole, symbol, answer.as_of_ns)
        assert (wanted is not None) == (symbol in answer.found), symbol
        if wanted is not None:
            assert answer.found[symbol].vector.same_bits(wanted).all(), symbol
