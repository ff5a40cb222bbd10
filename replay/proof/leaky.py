"""A feature that leaks, on purpose: the control of the leak check, which has to catch it.

Input: batches of the tape, as every agent.
Output: the vectors of the features agent, but one column tells of the record that follows the Tick in the batch.
Units: as the record has them; nothing real is meant by them.

What a check finds says something only if it would have found something. A feature like this one is what a careless
`shift(-1)`, a centred window or a join by nearest time comes to.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.features import features_agent
from agents.ports import Batch, Emit, States
from replay.ports import Owns
from replay.proof.future import numbers
from schemas.columns import ABSENT, Columns
from schemas.feature_sets import FeatureSet
from schemas.vectors import Vectors


@dataclass(frozen=True, slots=True)
class Leaky:
    """The features agent with one leaking column; an `Agent`."""

    feature: str

    def __call__(
        self, batches: AsyncIterable[Batch], states: States, emit: Emit, feature_sets: Sequence[FeatureSet], /, *,
        owns: Owns | None = None,
    ) -> Coroutine[Any, Any, None]:  # fmt: skip
        """Run until `batches` ends."""
        now: list[Columns] = []

        async def watched() -> AsyncIterator[Batch]:
            async for batch in batches:
                now[:] = [batch.columns]
                yield batch

        async def spoil(vectors: Vectors) -> None:
            if self.feature in vectors.feature_set.features:
                column = vectors.feature_set.features.index(self.feature)
                vectors.values[:, column] = ahead(now[0], vectors)
            await emit(vectors)

        return features_agent(watched(), states, spoil, feature_sets, owns=owns)


def leaky(feature_set: FeatureSet) -> Leaky:
    """One whose first column leaks."""
    return Leaky(feature_set.features[0])


def ahead(columns: Columns, vectors: Vectors) -> NDArray[np.float64]:
    """[m] the first number of the first record behind each vector's Tick that tells any.

    Where records follow but none tells a number: how many, negative. Where none follows in the batch: 0.
    """
    at = numbers(columns)
    at = np.sort(at[columns.body[at] != ABSENT])
    behind = np.searchsorted(columns.offset, vectors.as_of_offset, side="right")
    following = len(columns) - behind
    place = np.searchsorted(at, columns.start[behind])
    told = np.append(columns.body[at], 0)[place]
    return np.where(place < len(at), told, -following).astype(np.float64)
