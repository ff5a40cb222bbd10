"""A place for old segments on a filesystem that is not this machine's, and the tape read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pyarrow import fs

from replay.places import Place
from replay.reader import ArchiveReader
from schemas.columns import Columns


def in_memory() -> Place:
    """A place on a filesystem that is not this machine's."""
    return Place("mock://cold", fs._MockFileSystem(), "cold")


def opened(place: Place) -> Callable[[str], Place]:
    return {place.uri: place}.__getitem__


def read(path: Path, partition: int = 0, **chosen: int) -> Columns:
    return Columns.concat(list(ArchiveReader(path).batches(partition, **chosen)))
