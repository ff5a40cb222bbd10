"""The archive agent's sink: an archive on disk behind a single thread.

Input: batches of any archived topic.
State: the rows the writer has not yet put into a segment, and the job its thread is at.
Output: segments of the archive.
Errors: ArchiveHole, DependencyDown; a job that was not awaited to its end by its lane logs what it raised.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

from agents.ports import ArchiveBatch
from replay.archive import ArchiveWriter
from schemas.columns import Columns
from schemas.vectors import Vectors

logger = logging.getLogger(__name__)


class ArchiveFiles:
    """`agents.ports.ArchiveSink`; use it as a context manager inside the writer's.

    Whatever may write a file runs in one thread, one job after another. A thread cannot be cancelled: a lane that is
    cancelled waits for its job, and until then nobody else gets at the writer, the end of the `with` block included.
    """

    def __init__(self, writer: ArchiveWriter) -> None:
        self._writer = writer
        self._thread = ThreadPoolExecutor(1, "archive")
        self._job: Future[object] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)

    async def append(self, batch: ArchiveBatch) -> None:
        """Take rows. Errors: ArchiveHole, DependencyDown."""
        is_idle = self._job is None or self._job.done()
        if is_idle and self._writer.has_room(len(batch.offsets)):
            self._take(batch)  # writes nothing: not worth a change of threads
        else:
            await self._run(partial(self._take, batch))

    async def flush(self, topic: str, partition: int) -> None:
        """Put every row of a partition on disk. Errors: DependencyDown."""
        await self._run(partial(self._writer.flush, topic, partition))

    def _take(self, batch: ArchiveBatch) -> None:
        if not len(batch.offsets):
            return
        if isinstance(batch.rows, Columns):
            self._writer.append_tape(batch.rows)
        elif isinstance(batch.rows, Vectors):
            self._writer.append_vectors(batch.partition, batch.offsets, batch.rows)
        else:
            self._writer.append_dead_letters(batch.partition, batch.offsets, batch.rows)

    async def _run(self, job: Callable[[], object]) -> None:
        """Returns, or lets itself be cancelled, when the job has come to its end."""
        self._job = self._thread.submit(job)
        done = asyncio.wrap_future(self._job)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            while not done.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([done])
            if not done.cancelled() and (error := done.exception()) is not None:
                logger.error("the archive was not written: %s", error)
            raise
