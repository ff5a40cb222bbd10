"""The folder of an archive: what it says about itself, and how it is tidied after a kill.

State: `archive.json` with the format version, the tape's partition count, each feature set's definition and the
origin, which says whose offsets the archive's are; `pending.json` while a commit moves segments in; `retained.json` of
segments that were moved away (`replay.retained`).
Errors: ArchiveMissing, UsageError (no archive of this version, another origin, partition count or feature set).
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from replay.publication import STAGING
from replay.retained import read_moved
from schemas.durable import TEMPORARY
from schemas.errors import ArchiveMissing, OnetapeError, UsageError
from schemas.feature_sets import FeatureSet, load
from schemas.feature_sets import names as published

FORMAT = "onetape-archive"
VERSION = 2
HEAD = "archive.json"
IMPORT = "import"
"""Origin of an archive that importers write: its offsets are its own, no broker has them."""
PENDING = "pending.json"
"""Names of segments that are being moved in; while it stands, readers and the next writer treat them as not there."""
_PLACE = re.compile(r"topic=([A-Za-z0-9._-]+)/partition=(\d{1,9})(/\d{19}-\d{19}\.parquet)?")


@dataclass(frozen=True, slots=True)
class Head:
    """Content of archive.json: tape partitions, `FeatureSet.json` of each feature set by id, and the origin.

    Offsets mean the same record only within one origin, so an archive takes rows of no other. An id means one
    definition, so it takes vectors of no other either.
    """

    partitions: int
    feature_sets: dict[str, dict[str, Any]]
    origin: str

    def knows(self, feature_set: FeatureSet) -> bool:
        """Whether vectors of this set are archived. Errors: UsageError where those of its id are of another one."""
        known = self.feature_sets.get(feature_set.id)
        if known is not None and known["digest"] != feature_set.digest():
            raise _other_definition(feature_set, known)
        return known is not None

    def definition(self, set_id: str) -> FeatureSet:
        """An archived feature set: the published one of that id, or what was archived of the user's own.

        Errors: UsageError for a set with features of the user's own, whose files are not in the archive.
        """
        known = self.feature_sets[set_id]
        if set_id in published():
            return load(set_id)
        if known["own_features"]:
            raise UsageError(
                f"{set_id} has features of your own", expected="its YAML file beside its Python files",
                was=f"its id; the archive names {', '.join(known['own_features'])} only",
                action="name the file with --feature-set",
            )  # fmt: skip
        return FeatureSet.of(set_id, known)

    def find(self, spec: str) -> FeatureSet:
        """The set of an id that is archived or published, or the one in a YAML file. Errors: UsageError."""
        return self.definition(spec) if spec in self.feature_sets else load(spec)

    def json(self) -> dict[str, Any]:
        """As it is stored."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def read_head(path: Path) -> Head:
    """archive.json of an archive. Errors: ArchiveMissing, UsageError for another format."""
    try:
        content = json.loads((path / HEAD).read_bytes())
        known = content["format"] == FORMAT and content["version"] == VERSION
        if content["format"] == FORMAT and content["version"] in range(1, VERSION):
            raise UsageError(
                f"{path} is of an older version", expected=f"{FORMAT} version {VERSION}",
                was=f"version {content['version']}",
                action="import the recordings again into a new archive, or use the version of onetape that wrote it",
            )  # fmt: skip
        head = Head(int(content["partitions"]), dict(content["feature_sets"]), str(content.get("origin", IMPORT)))
        for set_id, stored in head.feature_sets.items():
            _check_definition(set_id, stored)
    except OSError:
        raise ArchiveMissing(
            f"there is no archive at {path}", expected=f"a folder with {HEAD}",
            was="a folder without it" if path.is_dir() else "no such folder",
            action="name an archive with --archive, or make one with `onetape import`",
        ) from None  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise UsageError(
            f"{path / HEAD} is not of an archive this version reads", expected=f"{FORMAT} version {VERSION}",
            was="another content", action="restore archive.json, or use the version that wrote it",
        )  # fmt: skip
    return head


def remedy(path: Path) -> str:
    """What to do about a file of an archive that is missing or not what was written."""
    try:
        is_imported = read_head(path).origin == IMPORT
    except OnetapeError:
        is_imported = False
    restore = "restore the file from a copy"
    return f"{restore}, or delete the archive and import again" if is_imported else restore


def hidden_segments(path: Path) -> frozenset[str]:
    """Labels of segments that do not count, whatever of them lies in the folder: not yet moved in, or moved away."""
    return pending_segments(path) | {each.label() for each in read_moved(path)}


def pending_segments(path: Path) -> frozenset[str]:
    """Labels of segments an unfinished commit has moved in."""
    try:
        labels = json.loads((path / PENDING).read_bytes())["segments"]
        return frozenset(label for label in labels if _PLACE.fullmatch(label))
    except FileNotFoundError:
        return frozenset()
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{path / PENDING} is torn", expected="a list of segments", was="another content",
            action="restore the archive from a copy",
        ) from None  # fmt: skip


def topics(path: Path) -> dict[str, list[int]]:
    """Topics of an archive and their partitions, ascending."""
    found: dict[str, list[int]] = {}
    for folder in sorted(path.glob("topic=*/partition=*")):
        place = _PLACE.fullmatch(f"{folder.parent.name}/{folder.name}")
        if place:
            found.setdefault(place[1], []).append(int(place[2]))
    return {topic: sorted(partitions) for topic, partitions in found.items()}


def sweep(path: Path) -> None:
    """Remove what a killed writer left: staging, half-moved and half-written segments. Needs the lock.

    What is left of segments that were moved away belongs to `replay.retention`.

    A Parquet file without sidecar is a killed writer's only where the sidecar lies ready beside it; else it stays.
    """
    for label in sorted(pending_segments(path)):
        (path / label).with_suffix(".json").unlink(missing_ok=True)
        (path / label).unlink(missing_ok=True)
    (path / PENDING).unlink(missing_ok=True)
    shutil.rmtree(path / STAGING, ignore_errors=True)
    for parquet in path.glob("topic=*/partition=*/*.parquet"):
        if not parquet.with_suffix(".json").exists() and parquet.with_suffix(f".json{TEMPORARY}").exists():
            parquet.unlink()
    for left in [*path.glob(f"*{TEMPORARY}"), *path.glob(f"topic=*/partition=*/*{TEMPORARY}")]:
        left.unlink()


def checked_head(path: Path, partitions: int, origin: str) -> Head:
    """archive.json, which must be of that origin and that many partitions."""
    head = read_head(path)
    if head.origin != origin:
        raise UsageError(
            f"{path} is the archive of another tape, whose offsets mean other records", expected=f"origin {origin}",
            was=f"origin {head.origin}",
            action="name another --archive" if origin == IMPORT
            else "archive into another folder: set ONETAPE_ARCHIVE_DIR",
        )  # fmt: skip
    if head.partitions != partitions:
        raise UsageError(
            f"{path} has another partition count", expected=f"{partitions} tape partitions",
            was=str(head.partitions), action="use the archive's count, or write another archive",
        )  # fmt: skip
    return head


def refuse_other_content(path: Path) -> None:
    """Refuse a path where something else lives."""
    leftovers = {STAGING, HEAD + TEMPORARY}
    if not path.is_dir() or any(entry.name not in leftovers for entry in path.iterdir()):
        raise UsageError(
            f"{path} is not an archive", expected="an archive, an empty folder or a new name",
            was="a folder with other content" if path.is_dir() else "a file", action="name another folder",
        )  # fmt: skip


def _check_definition(set_id: str, stored: dict[str, Any]) -> None:
    """Errors: KeyError, TypeError, ValueError for what `FeatureSet.json` never makes."""
    FeatureSet.of(set_id, stored)
    if not isinstance(stored["digest"], str) or not all(isinstance(name, str) for name in stored["own_features"]):
        raise TypeError("another JSON type")


def _other_definition(feature_set: FeatureSet, known: dict[str, Any]) -> UsageError:
    now = feature_set.json()
    columns = sorted(set(known["features"]) ^ set(feature_set.features))
    differ = [key for key in ("cadence_ms", "features", "policies", "own_features") if known[key] != now[key]]
    was = f"{', '.join(differ) or 'own_features'} ({', '.join(columns[:5]) or 'the same columns'})"
    return UsageError(
        f"{feature_set.id} in the archive has another definition", expected="one definition per id and version",
        was=f"different: {was}", action="give the changed feature set a new version",
    )  # fmt: skip
