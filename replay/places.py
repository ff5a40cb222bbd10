"""Places that archived segments are moved to: a folder, or any filesystem that pyarrow knows by its URI.

Input: a URI (`file:///cold`, `s3://bucket/prefix`, ...) or a folder's path.
Output: `Place`: copies of files in it, each proven by its hash after it was written.
Units: bytes.
Errors: UsageError (no such kind of place, or a URI with a password in it), DependencyDown (the place does not answer,
or refuses), SegmentTorn (what is copied is not what was archived).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from schemas.durable import sync
from schemas.errors import DependencyDown, SegmentTorn, UsageError

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of a filesystem; `uri` is how it is remembered."""

    uri: str
    filesystem: fs.FileSystem
    folder: str

    def put(self, source: Path, name: str, sha256: str) -> None:
        """Copy a file to `name` in here, unless it is there already, and read it again: its bytes must be those.

        On return it survives a crash, as far as the filesystem promises that.
        """
        target = self._path(name)
        with self._answers():
            if self._digest(target) != sha256:
                self.filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
                with source.open("rb") as content, self.filesystem.open_output_stream(target) as sink:
                    for piece in _pieces(content):
                        sink.write(piece)
            if isinstance(self.filesystem, fs.LocalFileSystem):
                written = Path(target)
                sync(written)
                for folder in list(written.parents)[: name.count("/") + 2]:
                    sync(folder)
            found = self._digest(target)
        if found != sha256:
            raise _other_bytes(source.as_posix(), f"at {self.uri}/{name}", sha256, found)

    def get(self, name: str, target: Path, sha256: str) -> None:
        """Copy `name` out of here to a file, put on disk; its bytes must be those."""
        digest = hashlib.sha256()
        with (
            self._answers(),
            self.filesystem.open_input_stream(self._path(name)) as content,
            target.open("wb") as sink,
        ):
            for piece in _pieces(content):
                digest.update(piece)
                sink.write(piece)
        sync(target)
        if digest.hexdigest() != sha256:
            raise _other_bytes(f"{self.uri}/{name}", "there", sha256, digest.hexdigest())

    def digest(self, name: str) -> str | None:
        """SHA-256 of a file, None where there is none."""
        with self._answers():
            return self._digest(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.folder.rstrip('/')}/{name}"

    def _digest(self, path: str) -> str | None:
        if self.filesystem.get_file_info(path).type != fs.FileType.File:
            return None
        digest = hashlib.sha256()
        with self.filesystem.open_input_stream(path) as content:
            for piece in _pieces(content):
                digest.update(piece)
        return digest.hexdigest()

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise DependencyDown(
                f"{self.uri} cannot be read or written", expected="a place that takes and gives files", was=str(error),
                action="check that it is there, has room and lets us in; then run the command again",
            ) from error  # fmt: skip


Opened = Callable[[str], Place]
"""Opens the place of a URI."""


def open_place(uri: str) -> Place:
    """The place at a URI or a folder's path. Errors: UsageError, DependencyDown."""
    if "://" not in uri:
        folder = Path(uri).absolute()
        return Place(folder.as_uri(), fs.LocalFileSystem(), folder.as_posix())
    if urlsplit(uri).password is not None:
        # The URI is put down in retained.json, which everybody reads.
        raise UsageError(
            "the place has a password in its URI", expected="a URI without secrets", was="one with",
            action="give the credentials as the filesystem's own settings, such as AWS_ACCESS_KEY_ID",
        )  # fmt: skip
    try:
        filesystem, folder = fs.FileSystem.from_uri(uri)
    except pa.ArrowInvalid as error:
        raise UsageError(
            f"{uri} is no place", expected="a folder, or a URI that pyarrow knows (file://, s3://, gs://, ...)",
            was=str(error), action="name a folder or such a URI",
        ) from None  # fmt: skip
    except OSError as error:
        raise DependencyDown(
            f"{uri} does not answer", expected="a place that takes and gives files", was=str(error),
            action="check that it is there and lets us in",
        ) from error  # fmt: skip
    return Place(uri.rstrip("/"), filesystem, folder)


def _pieces(content: BinaryIO | Any) -> Iterator[bytes]:
    while piece := content.read(_PIECE_BYTES):
        yield piece


def _other_bytes(name: str, where: str, expected: str, was: str | None) -> SegmentTorn:
    return SegmentTorn(
        f"{name} is torn", expected=f"sha256 {expected[:16]}... {where}",
        was="nothing" if was is None else f"{was[:16]}...",
        action="restore the file from another copy; nothing was removed",
    )  # fmt: skip
