"""Audit: is every offset of every partition in the archive exactly once, and is every file what was written.

Input: an archive.
Output: `Audit`, which names holes, doubles, torn files (checkpoints too) and files no sidecar vouches for.
Errors: ArchiveMissing, UsageError; what is wrong inside the archive is reported, not raised.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from replay import checkpoints
from replay import segments as files
from replay.folder import PENDING, hidden_segments, read_head, topics
from replay.groups import row_groups
from replay.segments import Segment
from schemas.errors import OnetapeError, SegmentTorn
from schemas.topics import TAPE


@dataclass(slots=True)
class Audit:
    """Counts and findings; `holes` and `doubles` are {topic, partition, first, last}, offsets inclusive.

    `first` of a hole is None where what is missing is the beginning, `last` too where it is a whole tape partition.
    `torn` names segments whose sidecar was lost as well, and `checkpoints` whose bytes are not what was written.
    """

    partitions: int = 0
    segments: int = 0
    offsets: int = 0
    checkpoints: int = 0
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


def audit(path: Path) -> Audit:
    """Read every byte of every segment and every checkpoint of an archive."""
    head, report = read_head(path), Audit()
    hidden = hidden_segments(path)
    report.unpublished.extend(sorted(hidden))
    if (path / PENDING).exists():
        report.unpublished.append(PENDING)
    for topic, partitions in topics(path).items():
        for partition in partitions:
            report.partitions += 1
            _audit_partition(path, topic, partition, hidden, report)
    for partition in files.unwritten(path, head.partitions, hidden):
        report.holes.append({"topic": TAPE, "partition": partition, "first": None, "last": None})
    _audit_checkpoints(path, report)
    return report


def _audit_checkpoints(path: Path, report: Audit) -> None:
    for sidecar in checkpoints.sidecars(path):
        report.checkpoints += 1
        if not checkpoints.is_whole(sidecar):
            label = sidecar.with_suffix(".parquet").relative_to(path).as_posix()
            report.torn.append(f"checkpoint {label} is torn. Action: delete it and its .json; no replay uses it")


def _audit_partition(path: Path, topic: str, partition: int, hidden: frozenset[str], report: Audit) -> None:
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
    for place in files.breaks(published):
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


def _place(segment: Segment, first: int | None, last: int) -> dict[str, Any]:
    return {"topic": segment.topic, "partition": segment.partition, "first": first, "last": last}
