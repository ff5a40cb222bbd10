"""Small recordings written by hand, and what an import makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from app.importer import ImportReport, import_recording
from replay.reader import ArchiveReader
from schemas.columns import to_events
from schemas.events import Event, Kind
from schemas.units import NS_PER_S

PARTITIONS = 4
T0 = 1_721_347_200 * NS_PER_S + 30_000_000


def read_tape(archive: Path) -> list[list[Event]]:
    """Events by partition; offsets must be dense."""
    reader = ArchiveReader(archive)
    tape: list[list[Event]] = [[] for _ in range(reader.head.partitions)]
    for partition in reader.partitions():
        for columns in reader.batches(partition):
            assert columns.offset.tolist() == list(range(len(tape[partition]), len(tape[partition]) + len(columns)))
            tape[partition].extend(to_events(columns))
    return tape


def market_events(tape: list[list[Event]]) -> list[Event]:
    return [event for partition in tape for event in partition if event.kind is not Kind.TICK]


def delta(sequence: int, price: str = "100.10") -> dict[str, Any]:
    data = {"e": "depthUpdate", "E": T0 // 10**6, "T": T0 // 10**6, "s": "AUSDT", "U": sequence, "u": sequence,
            "pu": sequence - 1, "b": [[price, "1.5"]], "a": []}  # fmt: skip
    return {"stream": "ausdt@depth", "data": data}


def snapshot(sequence: int) -> dict[str, Any]:
    time = T0 // 10**6
    return {"lastUpdateId": sequence, "E": time, "T": time, "bids": [["100.00", "1"]], "asks": [["100.20", "2"]]}


def write_lines(path: Path, frames: list[tuple[int, Any]], ending: str = "\n") -> Path:
    """A plain recording of (receive clock, frame); bytes are written as they are."""
    lines = [
        f"{clock} ".encode() + (frame if isinstance(frame, bytes) else orjson.dumps(frame)) for clock, frame in frames
    ]
    path.write_bytes(b"\n".join(lines) + ending.encode())
    return path


def frames_every(step_ns: int, *frames: Any) -> list[tuple[int, Any]]:
    return [(T0 + index * step_ns, frame) for index, frame in enumerate(frames)]


def import_to(folder: Path, *files: Path, format_name: str = "binance-usdm") -> tuple[ImportReport, list[list[Event]]]:
    report = import_recording(files, format_name, archive=folder / "archive", partitions=PARTITIONS)
    return report, read_tape(folder / "archive")
