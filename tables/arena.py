"""Rows of one partition's symbols in one array, and their stored form.

State: rows [capacity, ROW_SIZE] in memory that becomes real when touched; names, and which symbols a batch has touched.
Output: one blob per symbol: header, CRC-32, name, then the words of its numbers (tables/stored.py).
Errors: StateRefused for a blob that is torn, of another layout or of another symbol. CheckFailed for a symbol beyond
    SYMBOLS_MAX: an accepted record is never left out in silence.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import zlib
from functools import cached_property

import numpy as np

from schemas.columns import Int64
from schemas.errors import CheckFailed, StateRefused
from schemas.limits import SYMBOLS_MAX
from tables import layout as at
from tables import stored
from tables.blocks import words_max
from tables.book import levels
from tables.far import copy_far

_MAGIC = b"OTSR"
_HEADER = struct.Struct("<4sHHqQQII")
"""Magic, layout version, bytes of the name, offset applied last, layout hash, plan hash, numbers of the payload, CRC-32
of the rest."""


def applied_offset(blob: bytes) -> int:
    """The offset that a stored state, as `Arena.dump` made it, has applied last."""
    applied: int = _HEADER.unpack_from(blob)[3]
    return applied


class Arena:
    """The rows of one partition."""

    def __init__(self, memory: int = 0, plan_hash: int = 0, capacity: int = 16) -> None:
        """`memory` places behind each row's own are the feature sets'; `plan_hash` says what lies there."""
        self.keys: list[str] = []
        """Name of each slot."""
        self.rows: Int64 = _rows(capacity, at.ROW_SIZE + memory)
        self.touched_flags: Int64 = np.zeros(capacity, np.int64)
        self._memory, self._plan_hash = memory, plan_hash
        self._names: list[str] = []
        self._order: Int64 = np.empty(0, np.int64)
        self._slots: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def names(self) -> list[str]:
        """All names, sorted; a new list when there are new ones."""
        self._sort()
        return self._names

    @property
    def order(self) -> Int64:
        """Slot of each of `names`."""
        self._sort()
        return self._order

    def _sort(self) -> None:
        """Once for all symbols that are new, not for each: a partition may begin with thousands."""
        if len(self._names) < len(self.keys):
            self._names = sorted(self.keys)
            self._order = np.array([self._slots[name] for name in self._names], np.int64)

    def find(self, key: str) -> int:
        """Slot of a symbol, -1 if it has none."""
        return self._slots.get(key, -1)

    def reserve(self, symbols: int) -> None:
        """Make room for so many symbols at once, before the first is there."""
        while len(self.rows) < symbols:
            self._grow()

    def slot(self, key: str) -> int:
        """Slot of a symbol, a new one if it has none. CheckFailed beyond SYMBOLS_MAX."""
        slot = self._slots.get(key)
        if slot is None:
            slot = len(self.keys)
            if slot >= SYMBOLS_MAX:
                raise _one_too_many(key)
            if slot == len(self.rows):
                self._grow()
            self.rows[slot, at.MEMORY] = self._memory
            self.keys.append(key)
            self._slots[key] = slot
        return slot

    def _grow(self) -> None:
        rows = _rows(2 * len(self.rows), self.rows.shape[1])
        for slot in range(len(self.keys)):
            _copy_live(self.rows[slot], rows[slot])
        self.rows = rows
        self.touched_flags = np.concatenate([self.touched_flags, np.zeros_like(self.touched_flags)])

    def row(self, key: str) -> Int64:
        """The row of a symbol that has one, as a view that is good until the next new symbol."""
        row: Int64 = self.rows[self._slots[key]]
        return row

    def touched(self) -> list[str]:
        """Symbols that records have named since the last clear, also if the records were all applied before."""
        return [self.keys[slot] for slot in np.flatnonzero(self.touched_flags[: len(self.keys)]).tolist()]

    def clear_touched(self) -> None:
        """Forget what was touched: it has been saved."""
        self.touched_flags[:] = 0

    def book(self, key: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Bids and asks, best first, as (ticks, lots); both empty in gap."""
        row = self.row(key)
        return levels(row, at.BID), levels(row, at.ASK)

    def dump(self, key: str) -> bytes:
        """The stored form of a symbol's row."""
        count, length = stored.dump(self._address(self._slots[key]), self._memory, *self._scratch)
        name = key.encode()
        content = name + self._words[:length].tobytes()
        applied = int(self.row(key)[at.NEXT_OFFSET]) - 1
        about = (len(name), applied, at.LAYOUT_HASH, self._plan_hash, count, zlib.crc32(content))
        return _HEADER.pack(_MAGIC, at.LAYOUT_VERSION, *about) + content

    def restore(self, key: str, blob: bytes) -> None:
        """Set a symbol's row to a stored one; it equals the dumped row in every number that is alive."""
        self._read(key, blob)
        is_new = key not in self._slots
        slot = self.slot(key)
        if not is_new:
            self.rows[slot, : at.FAR] = 0
        stored.lay(self._scratch[0], self._memory, self._address(slot))

    def _address(self, slot: int) -> int:
        return int(self.rows.ctypes.data) + slot * self.rows.strides[0]

    def _read(self, key: str, blob: bytes) -> None:
        """Bring the numbers of a blob into the scratch, after every check."""
        if len(blob) < _HEADER.size or blob[:4] != _MAGIC:
            raise _refused(key, f"a state that starts with {_MAGIC!r}", f"{len(blob)} bytes, starting {blob[:4]!r}")
        _, version, name_bytes, applied, layout_hash, plan_hash, count, checksum = _HEADER.unpack_from(blob)
        if version != at.LAYOUT_VERSION or layout_hash != at.LAYOUT_HASH:
            expected = f"layout {at.LAYOUT_VERSION}, hash {at.LAYOUT_HASH:016x}"
            raise _refused(key, expected, f"layout {version}, hash {layout_hash:016x}")
        if plan_hash != self._plan_hash:
            raise _refused(key, f"a state of these feature sets ({self._plan_hash:016x})", f"others ({plan_hash:016x})")
        content = memoryview(blob)[_HEADER.size :]
        if zlib.crc32(content) != checksum:
            raise _refused(key, f"CRC-32 {checksum:08x}", f"{zlib.crc32(content):08x}")
        name = bytes(content[:name_bytes])
        if name != key.encode():
            raise _refused(key, f"the state of {key}", f"the state of {name!r}")
        most = stored.NUMBERS_MAX + self._memory
        if count > most:
            raise _refused(key, f"at most {most} numbers", str(count))
        numbers, words = self._scratch
        length, rest = divmod(len(content) - name_bytes, 8)
        if rest or length > words_max(count):
            raise _refused(key, f"whole words, as many as {count} numbers take", f"{len(content) - name_bytes} bytes")
        self._words[:length] = np.frombuffer(content[name_bytes:], np.int64)
        reason = stored.read(words, length, count, self._memory, numbers)
        if reason:
            raise _refused(key, "a row that agrees with itself", stored.REASONS[reason])
        if stored.next_offset(self._numbers) != applied + 1:
            raise _refused(key, f"a row that has applied offset {applied}", "another")

    @cached_property
    def _scratch(self) -> tuple[int, int]:
        """Addresses of room for the numbers of a row, and for the words they take."""
        stored.load()
        numbers, words = stored.room(self._memory)
        self._numbers, self._words = np.empty(numbers, np.int64), np.empty(words, np.int64)
        return int(self._numbers.ctypes.data), int(self._words.ctypes.data)


def _one_too_many(key: str) -> CheckFailed:
    return CheckFailed(
        f"{key} is one symbol too many for its partition", expected=f"at most {SYMBOLS_MAX} symbols", was="one more",
        action="spread the tape over more partitions; or, where the memory is there, raise SYMBOLS_MAX in "
        "schemas/limits.py",
    )  # fmt: skip


def _rows(capacity: int, length: int) -> Int64:
    """Rows of zeros. Pages stay unreal until written; huge pages would make 2 MB real for one number."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    # Room for thousands of symbols is more than the machine has, and is not meant to become real.
    flags |= getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, capacity * length * 8, flags=flags)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # A kernel built without huge pages has nothing to advise.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.int64).reshape(capacity, length)


def _copy_live(source: Int64, target: Int64) -> None:
    target[: at.NEAR] = source[: at.NEAR]
    target[at.ROW_SIZE :] = source[at.ROW_SIZE :]
    for side in (at.BID, at.ASK):
        near = at.NEAR + side * at.NEAR_TICKS
        if source[at.BID_COUNT + side] > source[at.FAR_COUNT + side]:
            target[near : near + at.NEAR_TICKS] = source[near : near + at.NEAR_TICKS]
        copy_far(source, target, side)


def _refused(key: str, expected: str, was: str) -> StateRefused:
    return StateRefused(
        f"stored state of {key} cannot be used", expected=expected, was=was,
        action="delete the worker's data folder, it is rebuilt from the changelog; if the changelog holds the same, "
        "reset the consumer group and replay the tape",
    )  # fmt: skip
