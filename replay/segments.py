"""Segments: the files an archive is made of, each one Parquet file and the sidecar that vouches for it.

Output: `Segment` (one published file), `publish` (write one), `scan` (the published ones of a partition, checked).
State: `topic=<topic>/partition=<p>/{first_offset:019d}-{last_offset:019d}.parquet` and `.json` beside it.
Units: offsets are Kafka offsets; ts are ns UTC.
Errors: SegmentTorn (a file is not what its sidecar says), ArchiveHole (offsets missing or doubled between files).

A segment exists once its sidecar does: the Parquet file is complete, synced and named before the sidecar appears, so a
writer killed at any moment leaves whole segments and at most a nameless or unvouched file that the next writer removes.
Before the Parquet file gets its name, its sidecar lies ready under a temporary one: so an unvouched file without even
that has lost its sidecar, and is not a killed writer's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from replay.folder import PENDING, remedy, topics
from replay.retained import Moved, moved_of
from schemas import durable
from schemas.durable import TEMPORARY
from schemas.errors import ArchiveHole, SegmentTorn
from schemas.topics import DEAD_LETTERS, TAPE

SIDECAR_VERSION = 2
sync, write_json = durable.sync, durable.write_json
_PIECE_BYTES = 1 << 20
_NAME = re.compile(r"(\d{19})-(\d{19})\Z")


class Group(NamedTuple):
    """One row group: its rows, the first and last of the segment's keys it may hold, and where its bytes end.

    `digest` is the SHA-256 of the file's bytes from the end of the group before it to its own.
    """

    rows: int
    first_key: int
    last_key: int
    end: int
    digest: str


@dataclass(frozen=True, slots=True)
class Segment:
    """What a sidecar says about its Parquet file. `previous_offset` is the last offset archived before it, or None.

    `blocks` are its row groups by runs of consecutive offsets; `footer` is the SHA-256 of the bytes behind the last.
    """

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    previous_offset: int | None
    rows: int
    first_ts: int
    last_ts: int
    last_tick: int | None
    keys: tuple[str, ...]
    schema: str
    size_bytes: int
    sha256: str
    footer: str
    blocks: tuple[tuple[Group, ...], ...]

    @property
    def stem(self) -> str:
        """File name without suffix."""
        return f"{self.first_offset:019d}-{self.last_offset:019d}"

    def file(self, root: Path) -> Path:
        """The Parquet file under an archive's root."""
        return partition_folder(root, self.topic, self.partition) / f"{self.stem}.parquet"

    def label(self) -> str:
        """How people are told which segment it is."""
        return f"topic={self.topic}/partition={self.partition}/{self.stem}.parquet"


def partition_folder(root: Path, topic: str, partition: int) -> Path:
    """The Hive folder of one partition."""
    return root / f"topic={topic}" / f"partition={partition}"


def publish(
    root: Path, segment: Segment, schema: pa.Schema, row_groups: Iterable[pa.Table], options: Mapping[str, Any]
) -> Segment:
    """Write the Parquet file, then its sidecar; return the segment with sizes and hashes. OSError leaves no segment.

    `row_groups` are those of `segment.blocks` in order. `options` are those of a Parquet writer: codec and encodings.
    """
    folder = partition_folder(root, segment.topic, segment.partition)
    _make_folder(folder)
    parquet, temporary = segment.file(root), folder / f"{segment.stem}.parquet{TEMPORARY}"
    sidecar = parquet.with_suffix(".json")
    try:
        ends = []
        with (
            pa.OSFile(str(temporary), "wb") as sink,
            pq.ParquetWriter(sink, schema, write_page_checksum=True, **options) as writer,
        ):
            for table in row_groups:
                writer.write_table(table, row_group_size=max(1, table.num_rows))
                ends.append(sink.tell())
        sync(temporary)
        whole = vouched(segment, temporary, ends)
        ready = durable.prepare_json(sidecar, _sealed(whole))
        temporary.replace(parquet)
        sync(folder)
        ready.replace(sidecar)
        sync(folder)
    except BaseException:
        if not sidecar.exists():
            parquet.unlink(missing_ok=True)
        for left in (temporary, sidecar.with_name(sidecar.name + TEMPORARY)):
            left.unlink(missing_ok=True)
        raise
    return whole


def scan(root: Path, topic: str, partition: int, hidden: frozenset[str] = frozenset()) -> list[Segment]:
    """The published segments of a partition in offset order; `hidden` labels are left out.

    Checks sidecars, names, file sizes and the chain of offsets, in which only segments that were moved away may be
    missing; the files' bytes are checked when they are read.
    """
    segments = list(sidecars(root, topic, partition, hidden))
    for segment in segments:
        check_size(root, segment)
    for parquet in unvouched(root, topic, partition, hidden):
        raise lost(root, parquet)
    for place in breaks(chain(segments, moved_of(root, topic, partition))):
        raise _broken(root, place)
    return segments


def chain(segments: Iterable[Segment], moved: Iterable[Moved]) -> list[Segment | Moved]:
    """Segments of a partition here and elsewhere, in offset order."""
    return sorted([*segments, *moved], key=lambda link: (link.first_offset, link.last_offset))


def unvouched(root: Path, topic: str, partition: int, hidden: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Parquet files of a partition whose sidecar was lost, not those a writer has just named or a commit moves."""
    folder = partition_folder(root, topic, partition)
    for parquet in sorted(folder.glob("*.parquet")):
        if not _NAME.match(parquet.stem) or f"{folder.parent.name}/{folder.name}/{parquet.name}" in hidden:
            continue
        sidecar = parquet.with_suffix(".json")
        is_under_way = sidecar.exists() or sidecar.with_name(sidecar.name + TEMPORARY).exists()
        # Asked once more last: a writer beside us may have finished in between, and a next one may have tidied up.
        if not (is_under_way or (root / PENDING).exists() or sidecar.exists()) and parquet.exists():
            yield parquet


def lost(root: Path, parquet: Path) -> ArchiveHole:
    """The error that names a segment without sidecar."""
    label = parquet.relative_to(root).with_suffix(".json")
    return ArchiveHole(
        f"sidecar {label} is not in the archive", expected="a sidecar beside every segment",
        was=f"{parquet.name} alone", action=remedy(root),
    )  # fmt: skip


def unwritten(root: Path, partitions: int, hidden: frozenset[str] = frozenset()) -> list[int]:
    """Tape partitions that have no segment though the tape, or vectors made of it, have some.

    Every one has Ticks, so none stays empty for longer than a flush.
    """
    written = {
        (topic, partition)
        for topic, there in topics(root).items()
        for partition in there
        for path in partition_folder(root, topic, partition).glob("*.json")
        if topic != DEAD_LETTERS and f"topic={topic}/partition={partition}/{path.stem}.parquet" not in hidden
    }
    return [partition for partition in range(partitions) if written and (TAPE, partition) not in written]


def sidecars(root: Path, topic: str, partition: int, hidden: frozenset[str] = frozenset()) -> Iterator[Segment]:
    """Every sidecar of a partition by first offset, each checked against its own seal and name."""
    folder = partition_folder(root, topic, partition)
    for path in sorted(folder.glob("*.json")):
        if f"{folder.parent.name}/{folder.name}/{path.stem}.parquet" not in hidden:
            yield read_sidecar(path, topic, partition)


def names(root: Path, topic: str, partition: int) -> list[str]:
    """Names of the sidecars of a partition."""
    return sorted(path.name for path in partition_folder(root, topic, partition).glob("*.json"))


@dataclass(frozen=True, slots=True)
class Break:
    """Offsets first..last that are missing before a segment, or doubled by it; `first` None: from the beginning on."""

    segment: Segment | Moved
    first: int | None
    last: int
    is_double: bool


def breaks(segments: Iterable[Segment | Moved]) -> Iterator[Break]:
    """Every place where one segment does not continue the one before it."""
    end: int | None = None
    for segment in segments:
        if end is None and segment.previous_offset is not None:
            yield Break(segment, None, segment.previous_offset, False)
        elif end is not None and segment.first_offset > end + 1:
            yield Break(segment, end + 1, segment.first_offset - 1, False)
        elif end is not None and segment.first_offset <= end:
            yield Break(segment, segment.first_offset, min(end, segment.last_offset), True)
        end = segment.last_offset if end is None else max(end, segment.last_offset)


def _broken(root: Path, place: Break) -> ArchiveHole:
    segment = place.segment
    where = f"of {segment.topic} partition {segment.partition}"
    if place.is_double:
        return ArchiveHole(
            f"offsets {place.first}..{place.last} {where} are archived twice",
            expected="every offset once", was=segment.label(),
            action="move the segment that does not belong here out of the archive, with its .json file",
        )  # fmt: skip
    offsets = f"offsets up to {place.last}" if place.first is None else f"offsets {place.first}..{place.last}"
    return ArchiveHole(
        f"{offsets} {where} are not in the archive", expected=f"a segment that ends at {place.last}",
        was=f"none before {segment.label()}", action=remedy(root),
    )  # fmt: skip


def torn(root: Path, segment: Segment, expected: str, was: str) -> SegmentTorn:
    """The error that names a segment that is not what was written."""
    return SegmentTorn(
        f"segment {segment.label()} (offsets {segment.first_offset}..{segment.last_offset}) is torn",
        expected=expected, was=was, action=remedy(root),
    )  # fmt: skip


def _gone(root: Path, segment: Segment) -> ArchiveHole:
    return ArchiveHole(
        f"offsets {segment.first_offset}..{segment.last_offset} of {segment.topic} partition {segment.partition} "
        "are not in the archive",
        expected=f"the file {segment.label()}", was="only its .json sidecar", action=remedy(root),
    )  # fmt: skip


def check_hash(root: Path, segment: Segment) -> None:
    """The whole file against its sidecar: any changed bit is SegmentTorn. Errors: ArchiveHole where it is gone."""
    check_size(root, segment)
    try:
        found = sha256_of(segment.file(root))
    except FileNotFoundError:
        raise _gone(root, segment) from None
    if found != segment.sha256:
        raise torn(root, segment, f"sha256 {segment.sha256[:16]}...", f"{found[:16]}...")


def vouched(segment: Segment, path: Path, ends: Sequence[int]) -> Segment:
    """The segment with the size and the hashes of a file whose row groups end at these bytes."""
    whole, digests, at = hashlib.sha256(), list[str](), 0
    with path.open("rb") as file:
        for end in (*ends, path.stat().st_size):
            digests.append(_digest(file, end - at, whole))
            at = end
    placed = iter(zip(ends, digests, strict=False))
    blocks = tuple(
        tuple(group._replace(end=end, digest=digest) for group in block for end, digest in [next(placed)])
        for block in segment.blocks
    )
    return replace(segment, size_bytes=at, sha256=whole.hexdigest(), footer=digests[-1], blocks=blocks)


def check_bytes(root: Path, segment: Segment, first: int, end: int, digest: str) -> None:
    """A run of the file's bytes against what the sidecar says of them: any changed bit is SegmentTorn.

    Errors: ArchiveHole where the file is gone, as when it is moved away while it is read.
    """
    try:
        with segment.file(root).open("rb") as file:
            file.seek(first)
            found = _digest(file, end - first)
    except FileNotFoundError:
        raise _gone(root, segment) from None
    if found != digest:
        raise torn(root, segment, f"sha256 {digest[:16]}... of bytes {first}..{end - 1}", f"{found[:16]}...")


def _digest(file: BinaryIO, length: int, *others: Any) -> str:
    """Hex SHA-256 of the next bytes of a file, which go to `others`, too."""
    digest = hashlib.sha256()
    while length > 0 and (piece := file.read(min(length, _PIECE_BYTES))):
        length -= len(piece)
        for each in (digest, *others):
            each.update(piece)
    return digest.hexdigest()


def check_size(root: Path, segment: Segment) -> None:
    """Whether the file is there and as long as it was. Errors: ArchiveHole, SegmentTorn."""
    try:
        size_bytes = segment.file(root).stat().st_size
    except FileNotFoundError:
        raise _gone(root, segment) from None
    if size_bytes != segment.size_bytes:
        raise torn(root, segment, f"{segment.size_bytes} bytes", f"{size_bytes} bytes")


def read_sidecar(path: Path, topic: str, partition: int) -> Segment:
    """One sidecar, checked. Errors: SegmentTorn; ArchiveHole where it is gone, as when it has just been moved away."""
    root, label = path.parents[2], f"topic={topic}/partition={partition}/{path.name}"
    name = _NAME.match(path.stem)
    try:
        sealed: dict[str, Any] = json.loads(path.read_bytes())
        values = dict(sealed["segment"])
        version, seal = sealed["version"], sealed["seal"]
        if isinstance(version, int) and 0 < version < SIDECAR_VERSION:
            raise SegmentTorn(
                f"sidecar {label} is of an older version", expected=f"version {SIDECAR_VERSION}",
                was=f"version {version}", action="import again, or use the version of onetape that wrote the archive",
            )  # fmt: skip
        blocks = tuple(tuple(Group(*group) for group in block) for block in values["blocks"])
        segment = Segment(**{**values, "keys": tuple(values["keys"]), "blocks": blocks})
        intact = seal == _seal(segment) and version == SIDECAR_VERSION
    except FileNotFoundError:
        raise ArchiveHole(
            f"sidecar {label} is not in the archive", expected="a sidecar that was listed", was="none any more",
            action=remedy(root),
        ) from None  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):
        name, intact = None, False
    if name is None or not intact:
        raise SegmentTorn(
            f"sidecar {label} is torn", expected=f"a sealed sidecar of version {SIDECAR_VERSION}",
            was="another content", action=remedy(root),
        )  # fmt: skip
    place = (topic, partition, int(name[1]), int(name[2]))
    if place != (segment.topic, segment.partition, segment.first_offset, segment.last_offset):
        raise SegmentTorn(
            f"sidecar {label} is in the wrong place", expected=f"the sidecar of {label}", was=segment.label(),
            action="move the segment back to where its sidecar says, or restore it from a copy",
        )  # fmt: skip
    if segment.rows != segment.last_offset - segment.first_offset + 1:
        raise torn(root, segment, "one row per offset", f"{segment.rows} rows")
    if sum(group.rows for block in segment.blocks for group in block) != segment.rows:
        raise torn(root, segment, f"row groups of {segment.rows} rows", "others")
    return segment


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        sync(folder.parent)
        sync(folder.parent.parent)


def _content(segment: Segment) -> dict[str, Any]:
    return {field.name: getattr(segment, field.name) for field in fields(Segment)}


def _seal(segment: Segment) -> str:
    text = json.dumps(_content(segment), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _sealed(segment: Segment) -> dict[str, Any]:
    return {"version": SIDECAR_VERSION, "segment": _content(segment), "seal": _seal(segment)}


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
