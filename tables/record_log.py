"""The record logs of RocksDB, its WAL and its MANIFEST, looked through before RocksDB opens them.

RocksDB 9.8.4 never returns from opening a log in which a flipped bit has made a record's type one of those of logs that
are used again. Ours never are: their records are whole, or the first, a middle or the last part of one.

Input: a database's folder, closed.
Source: RocksDB's wiki, "Write Ahead Log File Format": blocks of 32 KiB; a record is a CRC of 4 bytes, its length in 2,
    its type in 1, and its content; what is left of a block is too short for a record, or zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

BLOCK: Final = 32 << 10
HEAD: Final = 7
LAST_TYPE: Final = 4


def foreign_record(folder: Path) -> str | None:
    """The name of a log with a record of another type than ours, the first; None if there is none."""
    for path in sorted([*folder.glob("MANIFEST-*"), *folder.glob("*.log")]):
        if _has_foreign(path.read_bytes()):
            return path.name
    return None


def _has_foreign(log: bytes) -> bool:
    at = 0
    while at + HEAD <= len(log):
        left = BLOCK - at % BLOCK
        kind = log[at + HEAD - 1]
        if left < HEAD or not kind:
            at += left
            continue
        if kind > LAST_TYPE:
            return True
        at += HEAD + int.from_bytes(log[at + 4 : at + 6], "little")
    return False
