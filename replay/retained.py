"""What an archive remembers of segments that were moved to another place, or deleted, when they had become old.

State: `retained.json`: each such segment with its offsets, times, size, hash and place, under a seal. A segment named
in it does not count as one of the archive's files, whatever of it still lies there: the moment the file is renamed into
place is the moment the segment is moved, or is back.
Output: `Moved`, `read_moved`, `write_moved`.
Units: offsets are Kafka offsets; ts are ns UTC; bytes.
Errors: SegmentTorn where the file is not what was written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from replay.digest import json_digest
from schemas import durable
from schemas.errors import SegmentTorn

RETAINED = "retained.json"
VERSION = 1
DELETED = ""
"""Place of what is nowhere any more."""
SCRATCH = ".retention"
"""Folder for what is being made; whoever moves segments out or in holds its lock."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A segment that is not in the archive's folder: what its sidecar said, and the URI where it is, or DELETED."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    previous_offset: int | None
    first_ts: int
    last_ts: int
    size_bytes: int
    sha256: str
    sidecar_sha256: str
    place: str

    @property
    def rows(self) -> int:
        """Offsets it holds: each has a row."""
        return self.last_offset - self.first_offset + 1

    def label(self) -> str:
        """The Parquet file's name below the archive."""
        return f"topic={self.topic}/partition={self.partition}/{self.first_offset:019d}-{self.last_offset:019d}.parquet"

    def sidecar_label(self) -> str:
        """The sidecar's name below the archive."""
        return self.label().removesuffix(".parquet") + ".json"

    def copies(self) -> tuple[str, str]:
        """Names of the Parquet file and the sidecar below the place: no other archive's files have them."""
        stem = self.label().removesuffix(".parquet")
        return f"{stem}-{self.sha256[:16]}.parquet", f"{stem}-{self.sidecar_sha256[:16]}.json"


def read_moved(root: Path) -> list[Moved]:
    """Every segment that is elsewhere, by topic, partition and offset. Errors: SegmentTorn."""
    path = root / RETAINED
    try:
        sealed = json.loads(path.read_bytes())
        moved = [Moved(**each) for each in sealed["moved"]]
        is_whole = sealed["version"] == VERSION and sealed["seal"] == json_digest(sealed["moved"])
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise SegmentTorn(
            f"{path} is torn", expected=f"a sealed list of version {VERSION}", was="another content",
            action="restore the file from a copy: it names the segments that were moved out of the archive",
        )  # fmt: skip
    return moved


def moved_of(root: Path, topic: str, partition: int) -> list[Moved]:
    """Those of one partition, by offset. Errors: SegmentTorn."""
    return [each for each in read_moved(root) if (each.topic, each.partition) == (topic, partition)]


def write_moved(root: Path, moved: Iterable[Moved]) -> None:
    """Put the list down; on return it survives a crash. Needs the lock of SCRATCH. OSError leaves the one before."""
    ordered = sorted(moved, key=lambda each: (each.topic, each.partition, each.first_offset))
    content = [asdict(each) for each in ordered]
    ready = durable.prepare_json(
        root / SCRATCH / RETAINED, {"version": VERSION, "moved": content, "seal": json_digest(content)}
    )
    ready.replace(root / RETAINED)
    durable.sync(root)
