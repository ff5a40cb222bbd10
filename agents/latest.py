"""The latest agent: out of every batch of feature vectors, the newest of each instrument goes to the sink.

Input: batches of one partition of a features topic.
Output: at most one `Latest` per instrument and batch.
Errors: what the sink raises; the batch is then not acknowledged.
"""

from __future__ import annotations

from collections.abc import AsyncIterable

from agents.ports import Latest, LatestSink, VectorBatch


def newest_of(batch: VectorBatch) -> list[Latest]:
    """The newest vector of each instrument in a batch; of equal times the later message."""
    newest: dict[str, Latest] = {}
    times = batch.vectors.time.tolist()
    for instrument, time, value in zip(batch.vectors.instruments(), times, batch.values, strict=True):
        known = newest.get(instrument)
        if known is None or time >= known.time:
            newest[instrument] = Latest(instrument, time, value)
    return list(newest.values())


async def latest_agent(batches: AsyncIterable[VectorBatch], sink: LatestSink) -> None:
    """Serve batches until they end. A batch is acknowledged once the sink has its newest vectors."""
    async for batch in batches:
        newest = newest_of(batch)
        if newest:
            await sink.put(newest)
        batch.ack()
