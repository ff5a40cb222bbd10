"""Publication: a folder that appears whole or not at all, one writer at a time.

State: a hidden folder `.NAME.staging` beside the target while it is written; a lock that goes with the process.
Errors: UsageError (another process is writing), DependencyDown (the disk refuses).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas.durable import sync
from schemas.errors import DependencyDown, UsageError

STAGING = ".staging"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `path` when the block ends well; else nothing stays behind.

    Errors: UsageError where something is at `path` already, before any work is done for it; DependencyDown. What a
    killed writer left in the hidden folder is removed first.
    """
    refuse_content(path)
    staging = path.parent / f".{path.name}{STAGING}"
    with disk_errors(path):
        made = [folder for folder in staging.parents if not folder.exists()]
        staging.mkdir(parents=True, exist_ok=True)
    with locked(staging):
        try:
            with disk_errors(path):
                empty(staging)
            yield staging
            with disk_errors(path):
                sync(staging)
                staging.rename(path)
                sync(path.parent)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            with suppress(OSError):
                for folder in made:
                    folder.rmdir()
            raise


def refuse_content(path: Path) -> None:
    """Refuse a place for output where something is already. Errors: UsageError."""
    with disk_errors(path):
        is_folder = path.is_dir()
        is_free = not any(path.iterdir()) if is_folder else not path.exists()
    if not is_free:
        raise UsageError(
            f"{path} is not empty", expected="a new name or an empty folder",
            was="a folder with content" if is_folder else "a file", action="name another folder",
        )  # fmt: skip


def empty(folder: Path) -> None:
    """Remove everything in a folder."""
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock (it goes with the process): one writer at a time."""
    with disk_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another process is writing to {folder}", expected="one writer", was="two",
                action="stop the other worker or import, or wait until it ends",
            ) from None  # fmt: skip
        yield
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a refusal of the disk into an error with an Action."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DependencyDown(
            f"cannot write to {path}", expected="a writable folder with free space", was=str(error),
            action="free space on the disk and start again" if full else "check the folder and its permissions",
        ) from error  # fmt: skip
