"""Who needs records that were moved away is told how to get them; nobody computes from an incomplete beginning."""

from __future__ import annotations

import re
import shlex
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cold_places import in_memory, opened, read
from commandline import result
from tapes import INSTRUMENTS, KAFKA, archive_of, market, tape

from replay.archive import live
from replay.audit import audit
from replay.driver import inputs, replay
from replay.groups import ReadCount
from replay.laying import lay
from replay.places import open_place
from replay.reader import ArchiveReader
from replay.retained import Moved, read_moved
from replay.retention import restore, retain
from replay.segments import check_bytes, check_hash, read_sidecar
from schemas.columns import Columns, to_events
from schemas.errors import ArchiveHole, UsageError
from schemas.feature_sets import load
from schemas.topics import TAPE
from schemas.units import NS_PER_S
from schemas.vectors import Vectors

SET = load("micro@2")


@pytest.fixture
def parts() -> list[Columns]:
    return tape(market(7, 1_200, 12))


@pytest.fixture
def archive(tmp_path: Path, parts: list[Columns]) -> Path:
    return archive_of(tmp_path / "archive", parts, segment_rows=100)


def test_live_writers_and_imports_go_on_behind_what_was_moved(tmp_path: Path, parts: list[Columns]) -> None:
    path, place = tmp_path / "archive", in_memory()
    with live(path, 2, 100, origin=KAFKA) as writer:
        for part in parts:
            writer.append_tape(part.slice(0, 400))
    retain(path, 0, place)
    with live(path, 2, 100, origin=KAFKA) as writer:
        assert [writer.next_offset(TAPE, partition) for partition in (0, 1)] == [400, 400]
        assert [writer.append_tape(part) for part in parts] == [len(part) - 400 for part in parts]
    kept = ArchiveReader(path).segments(0)[0].first_offset
    assert kept > 0
    assert to_events(read(path, first_offset=kept)) == to_events(parts[0].slice(kept, len(parts[0])))
    restore(path, opened=opened(place))
    assert to_events(read(path)) == to_events(parts[0])
    assert audit(path).ok


def test_a_replay_that_needs_moved_records_says_how_to_get_them(tmp_path: Path, archive: Path) -> None:
    whole, read_from = replay(ArchiveReader(archive), SET), inputs(ArchiveReader(archive))
    lay(ArchiveReader(archive), SET, NS_PER_S)
    retain(archive, 6 * NS_PER_S, open_place(str(tmp_path / "cold")))
    reader = ArchiveReader(archive)
    with pytest.raises(UsageError, match=r"moved to file:.*Action.*checkpoint") as refused:
        replay(reader, SET)
    late = int(whole.vectors.time[-1]) - 2 * NS_PER_S
    with pytest.raises(UsageError, match="moved to"):
        replay(reader, SET, from_ns=late)
    with pytest.raises(UsageError, match="moved to"):
        replay(reader, SET, from_ns=int(whole.vectors.time[0]) + 2 * NS_PER_S, with_checkpoints=True)
    assert inputs(reader) == read_from, "what a dataset was made of stays the same"
    begun = replay(reader, SET, from_ns=late, with_checkpoints=True)
    assert len(begun.starts) == 2
    expected: Vectors = whole.vectors.select(whole.vectors.time >= late)
    assert len(begun.vectors) == len(expected) > 0
    assert begun.vectors.same_bits(expected).all()
    assert set(lay(reader, SET, NS_PER_S).continued) == {0, 1}, "checkpoints count on, as if all were here"
    shutil.rmtree(archive / "checkpoints")
    with pytest.raises(UsageError, match="moved to"):
        lay(reader, SET, NS_PER_S)
    told = str(refused.value)
    while (command := re.search(r"`onetape (archive restore .*)`", told)) is not None:
        result(*shlex.split(command[1]))
        try:
            told = replay(ArchiveReader(archive), SET).content_hash
        except UsageError as error:
            told = str(error)
    assert told == whole.content_hash


def test_vectors_of_which_some_were_moved_are_not_given_as_all(tmp_path: Path, parts: list[Columns]) -> None:
    path, place = tmp_path / "archive", in_memory()
    made = replay(ArchiveReader(archive_of(tmp_path / "whole", parts)), SET).vectors
    with live(path, 2, 100, origin=KAFKA) as writer:
        for part in parts:
            writer.append_tape(part)
        for row in range(len(made)):
            writer.append_vectors(0, [row], made.select(np.array([row])))
            writer.flush(SET.topic)
    retain(path, 6 * NS_PER_S, place)
    assert {each.topic for each in read_moved(path)} == {TAPE, SET.topic}
    with pytest.raises(UsageError, match="restore"):
        ArchiveReader(path).vectors(SET)
    restore(path, opened=opened(place))
    assert ArchiveReader(path).vectors(SET).vectors.same_bits(made.sorted()).all()


def test_readers_see_all_or_are_told_while_segments_move(archive: Path, parts: list[Columns]) -> None:
    place, done, faults = in_memory(), threading.Event(), list[str]()
    seen = {"all": 0, "told": 0}

    def look() -> None:
        while not done.is_set():
            try:
                found = read(archive)
            except UsageError:
                seen["told"] += 1
                continue
            seen["all"] += 1
            if len(found) != len(parts[0]):
                faults.append(f"{len(found)} rows")

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for _ in range(6):
            retain(archive, 0, place)
            restore(archive, opened=opened(place))
    finally:
        done.set()
        reader.join()
    assert not faults
    assert sum(seen.values()) > 0


@dataclass(slots=True)
class OnFirst(ReadCount):
    """Calls once a row group was read."""

    call: Callable[[], object] = lambda: None

    def add(self, rows: int, size_bytes: int) -> None:
        super(OnFirst, self).add(rows, size_bytes)
        if self.groups == 1:
            self.call()


def test_a_reader_within_a_segment_that_is_moved_is_told(tmp_path: Path) -> None:
    place = in_memory()
    path = archive_of(tmp_path / "archive", tape(market(7, 15_000, 12), 1), 1, segment_rows=14_000)
    reader = ArchiveReader(path)
    segment = reader.segments(0)[0]
    wanted = INSTRUMENTS[:2]
    reader.decoded = OnFirst(call=lambda: retain(path, 0, place))
    with pytest.raises(UsageError, match=r"moved to mock://cold.*Action.*archive restore"):
        list(reader.batches(0, symbols=wanted, read_ahead=False))
    assert reader.decoded.groups == 1
    group = segment.blocks[0][0]
    for check in (lambda: check_bytes(path, segment, 0, group.end, group.digest), lambda: check_hash(path, segment)):
        with pytest.raises(ArchiveHole, match=r"not in the archive"):
            check()
    sidecar = segment.file(path).with_suffix(".json")
    with pytest.raises(ArchiveHole, match=r"sidecar .* is not in the archive"):
        read_sidecar(sidecar, TAPE, 0)
    restore(path, opened=opened(place))
    assert len(list(ArchiveReader(path).batches(0, symbols=wanted))) > 0


def test_a_restored_span_leaves_the_rest_away(archive: Path, parts: list[Columns]) -> None:
    place = in_memory()
    retain(archive, 0, place)
    moved = [each for each in read_moved(archive) if each.partition == 0]
    middle: Moved = moved[len(moved) // 2]
    done = restore(archive, middle.first_ts, middle.last_ts, opened=opened(place))
    assert middle.label() in done.segments
    there = read(archive, first_offset=middle.first_offset, last_offset=middle.last_offset)
    assert to_events(there) == to_events(parts[0].slice(middle.first_offset, middle.last_offset + 1))
    with pytest.raises(UsageError, match="moved to"):
        read(archive, first_offset=middle.first_offset)
    assert audit(archive, with_places=True, opened=opened(place)).ok
