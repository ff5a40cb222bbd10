"""Stored vectors: what was computed of the past, kept beside the archive so that nobody computes it again.

State: `computed/<feature set>-<code>/partition=<p>/instrument=<i>/<first T>/vectors.parquet` and a sealed `.json` that
vouches for it: a span of one instrument's vectors. The folder may be deleted at any time.
Units: times in ns UTC, spans half-open [from, to); bytes.
Errors: OSError where the disk refuses to keep a span. One that is torn, or of other records, another feature set or
other code is never used and no error.

All spans together take at most KEPT_BYTES: beyond it the oldest go.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from replay import segments as files
from replay.checkpoints import Checkpoints
from replay.digest import json_digest
from replay.rows import check_columns
from schemas import durable
from schemas.durable import TEMPORARY
from schemas.vectors import Vectors, table_schema

FOLDER = "computed"
KEPT_BYTES = 4 << 30
"""A span of an hour at a cadence of a second takes about 1 MB."""
VERSION = 1


@dataclass(frozen=True, slots=True)
class Span:
    """Where one instrument's vectors of `from_ns <= T < to_ns` belong."""

    partition: int
    instrument: str
    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What a sidecar says: which span, made of which records, up to which Tick, by what, of which bytes.

    The records are those before `next_offset`, the newest Tick among them is `through_ns`; `inputs` chains the sha256
    of their segments. `made_by` are the hashes of feature set, layout, plan and code.
    """

    span: Span
    next_offset: int
    through_ns: int
    inputs: str
    made_by: dict[str, str]
    rows: int
    size_bytes: int
    sha256: str

    def answers(self, as_of_ns: int, next_offset: int) -> bool:
        """Whether no vector of the span that was known at `as_of_ns` can be missing, the tape being that long now."""
        return min(as_of_ns, self.span.to_ns - 1) <= self.through_ns or self.next_offset == next_offset


class StoredVectors:
    """The spans of one feature set that this code has computed over an archive."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._feature_set = checkpoints.feature_set
        self._root = checkpoints.archive.path / FOLDER

    def folder(self, span: Span) -> Path:
        """Where a span lies."""
        place = f"partition={span.partition}/instrument={quote(span.instrument, safe='')}/{span.from_ns:019d}"
        return self._root / self._checkpoints.folder.name / place

    def read(self, span: Span, as_of_ns: int, next_offset: int) -> Vectors | None:
        """The vectors of a span, None where it is not there, not fit, or ends before `as_of_ns` could be answered."""
        folder = self.folder(span)
        try:
            sealed = json.loads((folder / "vectors.json").read_bytes())
            about = Stored(**{**sealed["stored"], "span": Span(**sealed["stored"]["span"])})
            if sealed != _sealed(about) or (about.span, about.made_by) != (span, self._checkpoints.made_by):
                return None
            if about.inputs != self._checkpoints.chain(span.partition, about.next_offset - 1):
                return None
            if not about.answers(as_of_ns, next_offset):
                return None
            path = folder / "vectors.parquet"
            if path.stat().st_size != about.size_bytes or files.sha256_of(path) != about.sha256:
                return None
            table = pq.ParquetFile(path, page_checksum_verification=True).read()
            check_columns(table, table_schema(self._feature_set))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
            return None
        return Vectors.from_table(table, self._feature_set) if table.num_rows == about.rows else None

    def write(self, span: Span, next_offset: int, through_ns: int, vectors: Vectors) -> None:
        """Keep a span. Needs its lock (`alone`). Errors: OSError leaves nothing that would be used."""
        folder = self.folder(span)
        parquet, sidecar = folder / "vectors.parquet", folder / "vectors.json"
        temporary = parquet.with_name(parquet.name + TEMPORARY)
        try:
            pq.write_table(vectors.to_table(), temporary, compression="zstd", write_page_checksum=True)
            inputs = self._checkpoints.chain(span.partition, next_offset - 1)
            about = Stored(
                span, next_offset, through_ns, inputs, self._checkpoints.made_by, len(vectors),
                temporary.stat().st_size, files.sha256_of(temporary),
            )  # fmt: skip
            sidecar.unlink(missing_ok=True)
            temporary.replace(parquet)
            durable.write_json(sidecar, _sealed(about))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._make_room(folder)

    @contextmanager
    def alone(self, span: Span) -> Iterator[None]:
        """Hold a span's lock, once nobody else does, thread or process. Errors: OSError."""
        folder = self.folder(span)
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue  # removed in between, for room or by hand
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not _is_there(folder, descriptor):
                    continue
                yield
                return
            finally:
                os.close(descriptor)

    def _make_room(self, kept: Path) -> None:
        """Remove the oldest spans, of any feature set and code, while all take more than KEPT_BYTES; never `kept`."""
        spans: list[tuple[int, int, Path]] = []
        for parquet in self._root.glob("*/*/*/*/vectors.parquet"):
            with suppress(OSError):
                about = parquet.stat()
                spans.append((about.st_mtime_ns, about.st_size, parquet.parent))
        too_many = sum(size for _, size, _ in spans) - KEPT_BYTES
        for _, size, folder in sorted(spans):
            if too_many <= 0:
                return
            if folder != kept and _removed(folder):
                too_many -= size


def _removed(folder: Path) -> bool:
    """Remove a span, unless somebody is at work there."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in sorted(folder.iterdir()):
            path.unlink()
        folder.rmdir()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _is_there(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sealed(about: Stored) -> dict[str, object]:
    return {"version": VERSION, "stored": asdict(about), "seal": json_digest(asdict(about))}
