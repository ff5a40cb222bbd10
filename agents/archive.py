"""The archive agent: every row of every archived topic goes to the sink, and is acknowledged once it is on disk.

Input: batches of one partition of one topic.
Errors: what the sink raises; nothing since the last flush is then acknowledged.
"""

from __future__ import annotations

from collections.abc import AsyncIterable

from agents.ports import ArchiveBatch, ArchiveSink


async def archive_agent(batches: AsyncIterable[ArchiveBatch], sink: ArchiveSink) -> None:
    """Archive batches until they end."""
    unsaved: list[ArchiveBatch] = []
    async for batch in batches:
        await sink.append(batch)
        unsaved.append(batch)
        if batch.ends_epoch:
            await sink.flush(batch.topic, batch.partition)
            for saved in unsaved:
                saved.ack()
            unsaved.clear()
