"""The latest agent: out of every batch of feature vectors, the newest of each instrument goes to the sink.

Input: batches of one partition of a features topic.
Output: at most one vector per instrument and batch to the sink; then every vector of the batch to `announce`.
Errors: what the sink or `announce` raises; the batch is then not acknowledged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agents.ports import Announce, LatestSink, Telling, VectorBatch
from schemas.vectors import Vectors

TELLING_MAX: Final = 16
"""Batches whose notifications may be under way."""


def newest_rows(vectors: Vectors) -> NDArray[np.intp]:
    """[m] the newest row of each instrument, in order; of equal times the later row."""
    order = np.lexsort((vectors.time, vectors.key))
    key = vectors.key[order]
    is_last = np.ones(len(key), np.bool_)
    is_last[:-1] = key[1:] != key[:-1]
    return np.sort(order[is_last])


async def latest_agent(batches: AsyncIterable[VectorBatch], sink: LatestSink, announce: Announce) -> None:
    """Serve batches until they end.

    1. Put the newest vector of each instrument; it can be read when this returns.
    2. Announce every vector of the batch.
    3. Acknowledge the batch once its notifications are on the broker, at the latest at the end of the epoch; the next
       batches are served meanwhile.
    """
    telling: deque[tuple[VectorBatch, Telling]] = deque()
    async for batch in batches:
        vectors, values = batch.vectors, batch.values
        if len(vectors):
            rows = newest_rows(vectors)
            if len(rows) < len(vectors):
                await sink.put(vectors.select(rows), [values[row] for row in rows.tolist()])
            else:
                await sink.put(vectors, values)
        telling.append((batch, announce(vectors)))
        while telling and (batch.ends_epoch or len(telling) > TELLING_MAX or telling[0][1].done()):
            told, notifications = telling.popleft()
            await notifications
            told.ack()
