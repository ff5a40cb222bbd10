"""Retention: segments that have become old are moved to another place, or deleted, and come back when asked for.

Input: an archive; how long its records are kept, counted back from its newest Tick; a `Place`.
State: `retained.json` (`replay.retained`); one process at a time, beside a writer and readers.
Output: `Retained`, `Restored`: what was moved out or in.
Units: ns of tape time; bytes.
Errors: UsageError (nowhere to move to, no Tick to count from, another process at it), DependencyDown (the disk or the
place refuses), SegmentTorn (a file is not what was written).

A segment is copied and its copy read again; then `retained.json` names it, and from then on the archive's own files
of it do not count; then they are removed. It comes back the other way round. So it can be read in one place at least
whenever the machine stops, and the next run removes what was left over. Copies stay at the place when segments come
back. The newest segment of each partition always stays, as do dead letters, which tell no time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from replay.folder import HEAD, topics
from replay.places import Opened, Place, open_place
from replay.publication import disk_errors, empty, locked
from replay.reader import ArchiveReader
from replay.retained import DELETED, SCRATCH, Moved, read_moved, write_moved
from replay.segments import Segment
from schemas.durable import sync
from schemas.errors import UsageError
from schemas.topics import DEAD_LETTERS

TOGETHER = 64
"""Segments that are copied before `retained.json` is written anew."""
Progress = Callable[[int, int], None]
"""Called with segments done and segments in all."""


@dataclass(slots=True)
class Retained:
    """`segments` that were older than `before_ns` and are now at `place`, DELETED or, in a dry run, still here."""

    before_ns: int
    place: str
    is_dry_run: bool
    segments: list[str] = field(default_factory=list)
    offsets: int = 0
    size_bytes: int = 0

    def json(self) -> dict[str, Any]:
        """One JSON object."""
        return asdict(self)


@dataclass(slots=True)
class Restored:
    """`segments` that are back; `deleted` names those asked for that are nowhere."""

    segments: list[str] = field(default_factory=list)
    offsets: int = 0
    size_bytes: int = 0
    deleted: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """One JSON object."""
        return asdict(self)


def retain(
    path: Path,
    keep_ns: int,
    place: Place | None,
    *,
    deletes: bool = False,
    is_dry_run: bool = False,
    progress: Progress | None = None,
) -> Retained:
    """Move segments whose records are all older than `keep_ns` before the newest Tick; without a place, delete them."""
    if place is None and not (deletes or is_dry_run):
        raise UsageError(
            "old segments have nowhere to go", expected="a place, or leave to delete them", was="neither",
            action="name a folder or URI with --to, or say --delete",
        )  # fmt: skip
    archive = ArchiveReader(path)
    before_ns = _newest_tick(archive) - keep_ns
    done = Retained(before_ns, DELETED if place is None else place.uri, is_dry_run)
    if is_dry_run:
        _count(done, list(_old(archive, before_ns)))
        return done
    if place is not None:
        _refuse_archive(place)
    with _alone(path):
        old = list(_old(archive, before_ns))
        for first in range(0, len(old), TOGETHER):
            part = old[first : first + TOGETHER]
            _move_out(path, part, place)
            _count(done, part)
            if progress is not None:
                progress(first + len(part), len(old))
    return done


def restore(
    path: Path,
    from_ns: int | None = None,
    to_ns: int | None = None,
    *,
    opened: Opened = open_place,
    progress: Progress | None = None,
) -> Restored:
    """Bring back segments that have records in [from, to)."""
    ArchiveReader(path)
    done, places = Restored(), dict[str, Place]()
    with _alone(path):
        asked = _asked(read_moved(path), from_ns, to_ns)
        done.deleted.extend(each.label() for each in asked if each.place == DELETED)
        wanted = [each for each in asked if each.place != DELETED]
        for first in range(0, len(wanted), TOGETHER):
            part = wanted[first : first + TOGETHER]
            for each in part:
                if each.place not in places:
                    places[each.place] = opened(each.place)
                _move_in(path, each, places[each.place])
            with disk_errors(path):
                back = set(part)
                write_moved(path, [each for each in read_moved(path) if each not in back])
            _count(done, part)
            if progress is not None:
                progress(first + len(part), len(wanted))
    return done


def _refuse_archive(place: Place) -> None:
    """Refuse this archive itself, or any other, as the place: what was copied onto itself would then be removed."""
    if place.digest(HEAD) is not None:
        raise UsageError(
            f"{place.uri} is an archive", expected="a place for copies", was=f"a folder with {HEAD}",
            action="name another folder with --to",
        )  # fmt: skip


def _count(done: Retained | Restored, part: Sequence[Segment | Moved]) -> None:
    done.segments.extend(each.label() for each in part)
    done.offsets += sum(each.rows for each in part)
    done.size_bytes += sum(each.size_bytes for each in part)


def _newest_tick(archive: ArchiveReader) -> int:
    tails = [archive.tail(partition) for partition in archive.partitions()]
    ticks = [tail.last_tick for tail in tails if tail is not None and tail.last_tick is not None]
    if not ticks:
        raise UsageError(
            f"{archive.path} has no Tick to count from", expected="a tape with Ticks", was="none",
            action="wait until the tape has some",
        )  # fmt: skip
    return max(ticks)


def _old(archive: ArchiveReader, before_ns: int) -> Iterator[Segment]:
    """The oldest segments of each partition as long as all their records are before a time; never the newest one."""
    for topic, partitions in topics(archive.path).items():
        if topic == DEAD_LETTERS:
            continue
        for partition in partitions:
            segments = archive.segments(partition, topic)[:-1]
            old = list(takewhile(lambda segment: segment.last_ts < before_ns, segments))
            # One whose records were all refused tells no time: it goes with those behind it.
            while old and not old[-1].last_ts:
                old.pop()
            yield from old


def _asked(moved: Iterable[Moved], from_ns: int | None, to_ns: int | None) -> list[Moved]:
    asked: list[Moved] = []
    for each in moved:
        is_behind = bool(asked) and (asked[-1].topic, asked[-1].partition) == (each.topic, each.partition)
        is_within = (from_ns is None or each.last_ts >= from_ns) and (to_ns is None or each.first_ts < to_ns)
        # One that tells no time comes with the one before it.
        if is_within if each.last_ts else is_behind or from_ns is None:
            asked.append(each)
    return asked


def _move_out(path: Path, part: Sequence[Segment], place: Place | None) -> None:
    moved = []
    for segment in part:
        parquet = segment.file(path)
        sidecar = parquet.with_suffix(".json")
        with disk_errors(path):
            vouches = hashlib.sha256(sidecar.read_bytes()).hexdigest()
        each = Moved(
            segment.topic, segment.partition, segment.first_offset, segment.last_offset, segment.previous_offset,
            segment.first_ts, segment.last_ts, segment.size_bytes, segment.sha256, vouches,
            DELETED if place is None else place.uri,
        )  # fmt: skip
        if place is not None:
            for source, name, digest in zip((parquet, sidecar), each.copies(), (each.sha256, vouches), strict=True):
                place.put(source, name, digest)
        moved.append(each)
    with disk_errors(path):
        write_moved(path, [*read_moved(path), *moved])
        _remove(path, moved)


def _move_in(path: Path, moved: Moved, place: Place) -> None:
    """Lay a segment's files where they belong. They count from the moment `retained.json` does not name them."""
    target = path / moved.label()
    ready = path / SCRATCH / target.name
    parquet, sidecar = moved.copies()
    place.get(parquet, ready, moved.sha256)
    place.get(sidecar, ready.with_suffix(".json"), moved.sidecar_sha256)
    with disk_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".parquet", ".json"):
            ready.with_suffix(suffix).replace(target.with_suffix(suffix))
        sync(target.parent)


def _remove(path: Path, moved: Iterable[Moved]) -> None:
    """Remove what is left here of segments that are elsewhere."""
    changed = set()
    for each in moved:
        for left in (path / each.sidecar_label(), path / each.label()):
            if left.exists():
                left.unlink()
                changed.add(left.parent)
    for folder in sorted(changed):
        sync(folder)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of whoever moves segments, and finish what a killed one left. Errors: UsageError."""
    scratch = path / SCRATCH
    with disk_errors(path):
        scratch.mkdir(exist_ok=True)
    with locked(scratch):
        with disk_errors(path):
            empty(scratch)
            _remove(path, read_moved(path))
        yield


def leftovers(path: Path) -> list[str]:
    """Files of segments that are elsewhere, which a killed process left here: harmless, the next run removes them."""
    return [
        label for each in read_moved(path) for label in (each.label(), each.sidecar_label()) if (path / label).exists()
    ]
