"""Audit: is every offset of every partition in the archive exactly once, and is every file what was written.

Input: an archive.
Output: `Audit`, which names holes, doubles, torn files (checkpoints too) and files no sidecar vouches for.
Errors: ArchiveMissing, UsageError; what is wrong inside the archive is reported, not raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from replay import checkpoints
from replay import segments as files
from replay.folder import PENDING, hidden_segments, pending_segments, read_head, topics
from replay.groups import row_groups
from replay.places import Opened, Place, open_place
from replay.retained import DELETED, Moved, read_moved
from replay.retention import leftovers
from replay.segments import Segment
from schemas.errors import OnetapeError, SegmentTorn
from schemas.topics import TAPE


@dataclass(slots=True)
class Audit:
    """Counts and findings; `holes` and `doubles` are {topic, partition, first, last}, offsets inclusive.

    `first` of a hole is None where what is missing is the beginning, `last` too where it is a whole tape partition.
    `torn` names segments whose sidecar was lost as well, and checkpoints whose bytes are not what was written.
    `offsets` were read here; `moved_offsets` are in segments that were moved away, read there where `is_moved_read`,
    and `deleted_offsets` were deleted as too old: neither is a hole.
    """

    partitions: int = 0
    segments: int = 0
    offsets: int = 0
    checkpoints: int = 0
    moved: int = 0
    moved_offsets: int = 0
    deleted_offsets: int = 0
    is_moved_read: bool = False
    holes: list[dict[str, Any]] = field(default_factory=list)
    doubles: list[dict[str, Any]] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    unpublished: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing missing, doubled or torn. Unpublished files are a killed writer's or no segment, and harmless."""
        return not (self.holes or self.doubles or self.torn)

    def json(self) -> dict[str, Any]:
        """One JSON object."""
        return {**asdict(self), "ok": self.ok}


def audit(path: Path, *, with_places: bool = False, opened: Opened = open_place) -> Audit:
    """Read every byte of every segment and every checkpoint of an archive; `with_places` those moved away, too."""
    head, report = read_head(path), Audit()
    hidden, moved = hidden_segments(path), read_moved(path)
    report.unpublished.extend(sorted(pending_segments(path)) + leftovers(path))
    if (path / PENDING).exists():
        report.unpublished.append(PENDING)
    for topic, partitions in topics(path).items():
        for partition in partitions:
            report.partitions += 1
            here = [each for each in moved if (each.topic, each.partition) == (topic, partition)]
            _audit_partition(path, topic, partition, hidden, here, report)
    for partition in files.unwritten(path, head.partitions, hidden):
        report.holes.append({"topic": TAPE, "partition": partition, "first": None, "last": None})
    for each in moved:
        report.moved += each.place != DELETED
        report.moved_offsets += each.rows * (each.place != DELETED)
        report.deleted_offsets += each.rows * (each.place == DELETED)
    if with_places:
        _audit_places(moved, opened, report)
    _audit_checkpoints(path, report)
    return report


def _audit_places(moved: Iterable[Moved], opened: Opened, report: Audit) -> None:
    """Read every byte of the segments that were moved away, where they are now."""
    report.is_moved_read = True
    places: dict[str, Place] = {}
    for each in moved:
        if each.place == DELETED:
            continue
        place = places[each.place] if each.place in places else places.setdefault(each.place, opened(each.place))
        for name, expected in zip(each.copies(), (each.sha256, each.sidecar_sha256), strict=True):
            found = place.digest(name)
            if found is None and expected == each.sha256:
                report.holes.append(_place(each, each.first_offset, each.last_offset))
            elif found != expected:
                was = "missing" if found is None else "not what was moved there"
                report.torn.append(f"{each.place}/{name} is {was}. Action: put a copy of it there")


def _audit_checkpoints(path: Path, report: Audit) -> None:
    for sidecar in checkpoints.sidecars(path):
        report.checkpoints += 1
        if not checkpoints.is_whole(sidecar):
            label = sidecar.with_suffix(".parquet").relative_to(path).as_posix()
            report.torn.append(f"checkpoint {label} is torn. Action: delete it and its .json; no replay uses it")


def _audit_partition(
    path: Path, topic: str, partition: int, hidden: frozenset[str], moved: Sequence[Moved], report: Audit
) -> None:
    folder = files.partition_folder(path, topic, partition)
    published: list[Segment] = []
    for sidecar in sorted(folder.glob("*.json")):
        if f"{folder.parent.name}/{folder.name}/{sidecar.stem}.parquet" in hidden:
            continue
        try:
            segment = files.read_sidecar(sidecar, topic, partition)
        except SegmentTorn as error:
            report.torn.append(str(error))
            continue
        published.append(segment)
    lost = list(files.unvouched(path, topic, partition, hidden))
    report.torn.extend(str(files.lost(path, parquet)) for parquet in lost)
    for parquet in sorted({*folder.glob("*.parquet")}.difference(lost)):
        label = f"{folder.parent.name}/{folder.name}/{parquet.name}"
        if not parquet.with_suffix(".json").exists() and label not in hidden:
            report.unpublished.append(label)
    for place in files.breaks(files.chain(published, moved)):
        # A segment whose sidecar is gone or torn shows as the hole it leaves, if another follows.
        found = report.doubles if place.is_double else report.holes
        found.append(_place(place.segment, place.first, place.last))
    for segment in published:
        if not segment.file(path).exists():
            report.holes.append(_place(segment, segment.first_offset, segment.last_offset))
            continue
        report.segments += 1
        try:
            report.offsets += sum(table.num_rows for table in row_groups(path, segment))
        except OnetapeError as error:
            report.torn.append(str(error))


def _place(segment: Segment | Moved, first: int | None, last: int) -> dict[str, Any]:
    return {"topic": segment.topic, "partition": segment.partition, "first": first, "last": last}
