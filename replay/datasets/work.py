"""The place of work of a datasets folder: whose turn it is, and what a killed build has left to go on with.

State: `.work/queue`, locked by the one build that runs; `.work/<id>/`, with `made_of.json` and a folder per share.
Output: an empty or a continued folder.
Errors: DependencyDown (the disk refuses).

Builds of one datasets folder run one after another, in whatever process they are: each may use all the memory and
processors it was given, and of two with one id the second finds the first one's dataset.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from replay.datasets.shares import Task
from replay.digest import code_digest
from replay.publication import disk_errors
from schemas import durable

FOLDER = ".work"
_QUEUE = "queue"
_MADE_OF = "made_of.json"
_VERIFIED = re.compile(r"verify-([a-z0-9_]+-\d+-[a-z0-9_]+-[0-9a-f]+)")
"""Name of the work folder of a verification: the dataset's id is behind the first dash."""


def made_of(tasks: Sequence[Task], cuts: Sequence[float]) -> dict[str, Any]:
    """What work must have been made of to be gone on with, besides what the id says."""
    shares = [[str(task.folder), asdict(task.share)] for task in tasks]
    return {"code": code_digest(), "shares": shares, "cuts": list(cuts)}


@contextmanager
def turn(datasets: Path, waits: Callable[[], None]) -> Iterator[None]:
    """Hold the folder's turn; `waits` is called once where another build has it. It goes with the process."""
    folder = datasets / FOLDER
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _QUEUE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def folder_of(datasets: Path, dataset_id: str) -> Path:
    """Where the work of a dataset is done."""
    return datasets / FOLDER / dataset_id


def begun(datasets: Path, dataset_id: str, about: Mapping[str, Any]) -> tuple[Path, bool]:
    """The work folder of a dataset, and whether there is work in it that was made of the same. Needs the turn."""
    folder = folder_of(datasets, dataset_id)
    told = json.loads(json.dumps(about))
    with disk_errors(folder):
        if _read(folder / _MADE_OF) == told:
            return folder, True
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        durable.write_json(folder / _MADE_OF, told)
    return folder, False


def forget(folder: Path) -> None:
    """Remove a work folder."""
    shutil.rmtree(folder, ignore_errors=True)


def unfinished(datasets: Path) -> list[dict[str, Any]]:
    """What killed builds and verifications have left: id of the dataset, `of` (build or verify), folder and bytes."""
    found = []
    for made_of in sorted((datasets / FOLDER).glob(f"*/{_MADE_OF}")):
        size = sum(path.stat().st_size for path in made_of.parent.rglob("*") if path.is_file())
        verified = _VERIFIED.fullmatch(made_of.parent.name)
        about = {"id": verified[1], "of": "verify"} if verified else {"id": made_of.parent.name, "of": "build"}
        found.append({**about, "folder": str(made_of.parent), "size_bytes": size})
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
