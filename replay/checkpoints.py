"""Checkpoints: every symbol's state after some offset, beside the archive, so that a replay can start there.

Input: the states a replay has saved; an archive, whose segments say which records led to them.
State: `checkpoints/<feature set>-<code>/partition=<p>/{offset:019d}.parquet` and a sealed `.json` that vouches for it.
Output: `Start`: the states to begin with, and the offset behind which to read.
Units: times in ns UTC; offsets are Kafka offsets.
Errors: UsageError (another process lays checkpoints), DependencyDown (the disk refuses). One that is torn, of other
records, of another feature set or of other code is never used and no error: a replay without it is only slower.

The folder may be deleted at any time. A checkpoint exists once its sidecar does, so one that was being written when its
writer was killed is not there.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from agents.plan import Plan
from replay import segments as files
from replay.digest import code_digest, json_digest
from replay.publication import disk_errors, locked
from replay.reader import ArchiveReader
from schemas import durable
from schemas.durable import TEMPORARY
from schemas.feature_sets import FeatureSet
from tables.layout import LAYOUT_HASH

FOLDER = "checkpoints"
VERSION = 1
_SCHEMA = pa.schema([pa.field("key", pa.string(), False), pa.field("state", pa.binary(), False)])
_NAME = re.compile(r"\d{19}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a sidecar says: after which offset, at which newest Tick (ns), of what, and of which bytes.

    `inputs` chains the sha256 of every segment up to the one with `offset`; `layout` and `plan` say what lies where in
    a state, `code` is the hash of the sources that made it.
    """

    partition: int
    offset: int
    tick: int
    symbols: int
    inputs: str
    feature_set: str
    layout: str
    plan: str
    code: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Start:
    """Where a replay of a partition begins: behind `offset`, after Tick `tick`, with these states by symbol."""

    offset: int
    tick: int
    blobs: dict[str, bytes]


@dataclass(slots=True)
class Checkpoints:
    """The checkpoints of one feature set that this code has laid beside an archive.

    `ignored` names those that were found unfit, and why. `made_by` are the hashes of all but the records that decides a
    state or a vector: feature set, layout, plan and code.
    """

    archive: ArchiveReader
    feature_set: FeatureSet
    ignored: list[str] = field(default_factory=list)
    made_by: dict[str, str] = field(init=False)
    _chains: dict[int, tuple[list[int], list[str]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.made_by = {
            "feature_set": self.feature_set.digest(), "layout": f"{LAYOUT_HASH:016x}",
            "plan": f"{Plan([self.feature_set]).hash:016x}", "code": code_digest(),
        }  # fmt: skip

    @property
    def folder(self) -> Path:
        """Where they lie. Another feature set, layout or code has another folder."""
        made = self.made_by
        code = json_digest([made["layout"], made["plan"], made["code"]])
        return self.archive.path / FOLDER / f"{made['feature_set'][:12]}-{code[:12]}"

    def of_other_code(self) -> list[str]:
        """What to say about checkpoints of this feature set that other code has laid."""
        others = [path for path in self.folder.parent.glob(f"{self.folder.name[:12]}-*") if path != self.folder]
        return [
            f"{self._label(path)}: laid by other code, `onetape archive checkpoint` lays new ones" for path in others
        ]

    def newest(self, partition: int, *, before_ns: int | None = None, last_offset: int | None = None) -> Start | None:
        """The newest fit one whose every Tick is before `before_ns`, at or before an offset; None without one."""
        for sidecar in sorted(self._partition(partition).glob("*.json"), reverse=True):
            found = self._read_sidecar(sidecar, partition)
            if isinstance(found, str):
                self.ignored.append(f"{self._label(sidecar)}: {found}")
                continue
            if before_ns is not None and found.tick >= before_ns:
                continue
            if last_offset is not None and found.offset > last_offset:
                continue
            blobs = self._read_states(sidecar.with_suffix(".parquet"), found)
            if isinstance(blobs, str):
                self.ignored.append(f"{self._label(sidecar.with_suffix('.parquet'))}: {blobs}")
                continue
            return Start(found.offset, found.tick, blobs)
        return None

    def write(self, partition: int, offset: int, tick: int, blobs: Mapping[str, bytes]) -> int:
        """Lay one; on return it survives a crash. Returns its bytes. DependencyDown leaves nothing."""
        folder = self._partition(partition)
        parquet = folder / f"{offset:019d}.parquet"
        temporary, sidecar = parquet.with_name(parquet.name + TEMPORARY), parquet.with_suffix(".json")
        names = sorted(blobs)
        table = pa.Table.from_arrays(
            [pa.array(names, pa.string()), pa.array([blobs[name] for name in names], pa.binary())], schema=_SCHEMA
        )
        with disk_errors(folder):
            try:
                _make_folder(folder)
                pq.write_table(table, temporary, compression="none", use_dictionary=False, write_page_checksum=True)
                durable.sync(temporary)
                about = Checkpoint(
                    partition, offset, tick, len(names), self.chain(partition, offset), **self.made_by,
                    size_bytes=temporary.stat().st_size, sha256=files.sha256_of(temporary),
                )  # fmt: skip
                # What a sidecar of the same name vouched for was unfit: it goes before its file is another.
                sidecar.unlink(missing_ok=True)
                temporary.replace(parquet)
                durable.sync(folder)
                durable.write_json(sidecar, _sealed(about))
            except BaseException:
                temporary.unlink(missing_ok=True)
                if not sidecar.exists():
                    parquet.unlink(missing_ok=True)
                raise
        return about.size_bytes

    @contextmanager
    def laying(self) -> Iterator[None]:
        """Hold the lock of who lays checkpoints, and remove what a killed one has left."""
        with disk_errors(self.archive.path):
            _make_folder(self.folder)
        with locked(self.folder):
            with disk_errors(self.folder):
                for left in self.folder.glob(f"partition=*/*{TEMPORARY}"):
                    left.unlink()
                for parquet in self.folder.glob("partition=*/*.parquet"):
                    if not parquet.with_suffix(".json").exists():
                        parquet.unlink()
            yield

    def _partition(self, partition: int) -> Path:
        return self.folder / f"partition={partition}"

    def _label(self, path: Path) -> str:
        return path.relative_to(self.archive.path).as_posix()

    def _read_sidecar(self, path: Path, partition: int) -> Checkpoint | str:
        """What a sidecar says, or why it does not count."""
        try:
            sealed = json.loads(path.read_bytes())
            about = Checkpoint(**sealed["checkpoint"])
            intact = sealed == _sealed(about) and _NAME.fullmatch(path.stem) is not None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "torn"
        if not intact:
            return "torn"
        if (about.partition, about.offset) != (partition, int(path.stem)):
            return "in the wrong place"
        if {name: getattr(about, name) for name in self.made_by} != self.made_by:
            return "of another feature set or of other code"
        if about.inputs != self.chain(partition, about.offset):
            return "of other records than the archive's"
        return about

    def _read_states(self, path: Path, about: Checkpoint) -> dict[str, bytes] | str:
        """The states of a checkpoint, or why they do not count."""
        try:
            content = path.read_bytes()
            if len(content) != about.size_bytes or hashlib.sha256(content).hexdigest() != about.sha256:
                return "torn"
            table = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
            names, states = table["key"].to_pylist(), table["state"].to_pylist()
        except (pa.ArrowException, OSError, KeyError, ValueError):
            return "torn"
        blobs = dict(zip(names, states, strict=True))
        return blobs if len(blobs) == about.symbols else "torn"

    def chain(self, partition: int, offset: int) -> str:
        """Hash of all segments, here and moved away, up to the one that holds an offset; empty where none does."""
        if partition not in self._chains:
            digest, lasts, chains = "", list[int](), [""]
            for segment in self.archive.links(partition):
                lasts.append(segment.last_offset)
                digest = json_digest([digest, segment.label(), segment.sha256])
                chains.append(digest)
            self._chains[partition] = (lasts, chains)
        lasts, chains = self._chains[partition]
        place = bisect_right(lasts, offset - 1)
        return chains[place + 1] if place < len(lasts) else ""


def sidecars(archive: Path) -> list[Path]:
    """The sidecars of all checkpoints beside an archive, of any feature set and code."""
    return sorted(archive.glob(f"{FOLDER}/*/partition=*/*.json"))


def is_whole(sidecar: Path) -> bool:
    """Whether every byte of a checkpoint, of any feature set and code, is what was written."""
    try:
        sealed = json.loads(sidecar.read_bytes())
        about, parquet = sealed["checkpoint"], sidecar.with_suffix(".parquet")
        return bool(
            sealed["seal"] == json_digest(about)
            and int(sidecar.stem) == about["offset"]
            and parquet.stat().st_size == about["size_bytes"]
            and files.sha256_of(parquet) == about["sha256"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sealed(about: Checkpoint) -> dict[str, object]:
    return {"version": VERSION, "checkpoint": asdict(about), "seal": json_digest(asdict(about))}


def _make_folder(folder: Path) -> None:
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in made:
        durable.sync(each.parent)
