"""The archive agent's sink: whoever is cancelled, and however slow the disk, no row is lost or written twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tapes import KAFKA, market, tape

from agents.bind import ArchiveReader as ArchiveBatches
from agents.ports import RawBatch
from app.archive_files import ArchiveFiles
from replay import segments
from replay.archive import live
from replay.audit import audit
from replay.reader import ArchiveReader
from schemas import limits
from schemas.codec import DeadLetter, DeadLetterCodec, TapeCodec
from schemas.columns import Columns, to_events
from schemas.registry import open_registry
from schemas.topics import DEAD_LETTERS, TAPE

WHOLE = tape(market(3, 2_000, 8), 1)[0]
SLOW_S = 0.3


@dataclass
class Part:
    """Some rows of the tape as the agent gets them."""

    rows: Columns
    topic: str = TAPE
    ends_epoch: bool = True

    @property
    def partition(self) -> int:
        return self.rows.partition

    @property
    def offsets(self) -> Sequence[int]:
        return [int(offset) for offset in self.rows.offset]

    def ack(self) -> None:
        """Nobody counts."""


def part(first: int, last: int) -> Part:
    return Part(WHOLE.slice(first, last))


@contextmanager
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Putting a file on disk takes SLOW_S; the event is set as soon as the first one begins."""
    began, sync = threading.Event(), segments.sync

    def slow(path: Path) -> None:
        began.set()
        if path.is_file():
            threading.Event().wait(SLOW_S)
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(segments, "sync", slow)
        yield began


async def cancelled_while_writing(sink: ArchiveFiles, began: threading.Event) -> None:
    """A lane that has to give up in the middle of its flush, more than once."""
    flushing = asyncio.create_task(sink.flush(TAPE, 0))
    assert await asyncio.to_thread(began.wait, 5)
    flushing.cancel()
    await asyncio.sleep(0)
    flushing.cancel()
    await asyncio.wait([flushing])
    assert flushing.cancelled()


def assert_whole(path: Path, rows: int) -> None:
    found = audit(path)
    assert found.ok
    assert found.offsets == rows
    stored = [event for batch in ArchiveReader(path).batches(0) for event in to_events(batch)]
    assert stored == to_events(WHOLE.slice(0, rows))


def test_a_lane_cancelled_in_its_flush_loses_no_row_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next lane appends and flushes again what it was not told to be on disk, and more."""
    path = tmp_path / "archive"

    async def run() -> None:
        with live(path, 1, origin=KAFKA) as writer, ArchiveFiles(writer) as sink:
            await sink.append(part(0, 1_000))
            with slow_disk(monkeypatch) as began:
                await cancelled_while_writing(sink, began)
                await sink.append(part(0, 2_000))
                await sink.flush(TAPE, 0)
            assert audit(path).offsets == 2_000, "flushed is on disk"

    asyncio.run(run())
    assert_whole(path, 2_000)


def test_the_archive_closes_after_the_job_of_a_cancelled_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "archive"

    async def run() -> None:
        with slow_disk(monkeypatch) as began, live(path, 1, origin=KAFKA) as writer, ArchiveFiles(writer) as sink:
            await sink.append(part(0, 1_000))
            flushing = asyncio.create_task(sink.flush(TAPE, 0))
            assert await asyncio.to_thread(began.wait, 5)
            flushing.cancel()
            await sink.append(part(1_000, 1_500))

    asyncio.run(run())
    assert_whole(path, 1_500)


def test_rows_taken_while_a_file_is_written_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "archive"

    async def run() -> None:
        with slow_disk(monkeypatch), live(path, 1, 300, origin=KAFKA) as writer, ArchiveFiles(writer) as sink:
            await asyncio.gather(*(sink.append(part(at, at + 100)) for at in range(0, 900, 100)))
            await sink.flush(TAPE, 0)
            assert writer.pending_rows == 0

    asyncio.run(run())
    assert_whole(path, 900)


def test_a_flush_writes_its_own_partition_only(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    first, second = tape(market(3, 600, 4), 2)

    async def run() -> None:
        with live(path, 2, origin=KAFKA) as writer, ArchiveFiles(writer) as sink:
            await sink.append(Part(first))
            await sink.append(Part(second))
            await sink.flush(TAPE, 1)
            assert audit(path).offsets == len(second)
            assert writer.pending_rows == len(first)

    asyncio.run(run())
    assert audit(path).offsets == len(first) + len(second)


def test_a_foreign_message_among_the_dead_letters_is_archived_as_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Bad input never stops the worker: every offset gets its row, and a log line tells which is foreign."""
    registry = open_registry(str(tmp_path / "schemas.json"))
    letters = DeadLetterCodec(registry)
    ours = DeadLetter(TAPE, 1, 7, b"A:B", "undecodable", b"bytes")
    other = ours._replace(offset=8)
    values = [letters.encode(ours), b"garbage" * 1_000, None, letters.encode(other)]
    raw = RawBatch("live." + DEAD_LETTERS, 0, [4, 5, 6, 7], [b"", b"k" * 100, None, b""], values)
    reader = ArchiveBatches(TapeCodec(registry), letters, {}, "live.")

    async def run() -> None:
        with live(tmp_path / "archive", 1, origin=KAFKA) as writer, ArchiveFiles(writer) as sink:
            await sink.append(await reader(raw, True, True, lambda: None))

    asyncio.run(run())
    found = list(ArchiveReader(tmp_path / "archive").dead_letters())
    assert [(partition, offset) for partition, offset, _ in found] == [(0, offset) for offset in raw.offsets]
    assert [letter for _, _, letter in found][::3] == [ours, other]
    assert [(each.source, each.partition, each.offset) for _, _, each in found][1:3] == [
        (DEAD_LETTERS, 0, 5),
        (DEAD_LETTERS, 0, 6),
    ]
    assert [len(each.original) for _, _, each in found] == [5, limits.ORIGINAL_BYTES_MAX, 0, 5]
    assert "partition 0 offset 5 is no dead letter" in caplog.text
