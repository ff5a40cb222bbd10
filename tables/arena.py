"""Rows of one partition's symbols in one array, and their stored form.

State: rows [capacity, ROW_SIZE] in memory that becomes real when touched; names, and which symbols a batch has touched.
Output: one blob per symbol: header, CRC-32, then zstd over the parts of the row that are alive.
Errors: StateRefused for a blob that is torn, of another layout or of another symbol. CheckFailed for a symbol beyond
    SYMBOLS_MAX: an accepted record is never left out in silence.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import zlib

import numpy as np
import zstandard
from numpy.typing import NDArray

from schemas.columns import Int64
from schemas.errors import CheckFailed, StateRefused
from schemas.limits import LEVELS_MAX, SYMBOLS_MAX
from schemas.units import BASE_TICK_NS
from tables import layout as at
from tables.book import levels

_MAGIC = b"OTSR"
_HEADER = struct.Struct("<4sHHQII")
"""Magic, layout version, bytes of the name, layout hash, int64s of the payload, CRC-32 of all behind the header."""
_SIDES = ((at.BIDS, at.BID_COUNT), (at.ASKS, at.ASK_COUNT))
_WORDS_MAX = at.RING_END + at.BUCKETS + 1 + 4 * LEVELS_MAX


class Arena:
    """The rows of one partition."""

    def __init__(self, capacity: int = 16) -> None:
        self.keys: list[str] = []
        """Name of each slot."""
        self.rows: Int64 = _rows(capacity)
        self.touched_flags: NDArray[np.uint8] = np.zeros(capacity, np.uint8)
        self._names: list[str] = []
        self._order: NDArray[np.int32] = np.empty(0, np.int32)
        self._slots: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def names(self) -> list[str]:
        """All names, sorted; a new list when there are new ones."""
        self._sort()
        return self._names

    @property
    def order(self) -> NDArray[np.int32]:
        """Slot of each of `names`."""
        self._sort()
        return self._order

    def _sort(self) -> None:
        """Once for all symbols that are new, not for each: a partition may begin with thousands."""
        if len(self._names) < len(self.keys):
            self._names = sorted(self.keys)
            self._order = np.array([self._slots[name] for name in self._names], np.int32)

    def find(self, key: str) -> int:
        """Slot of a symbol, -1 if it has none."""
        return self._slots.get(key, -1)

    def slot(self, key: str) -> int:
        """Slot of a symbol, a new one if it has none. CheckFailed beyond SYMBOLS_MAX."""
        slot = self._slots.get(key)
        if slot is None:
            slot = len(self.keys)
            if slot >= SYMBOLS_MAX:
                raise _one_too_many(key)
            if slot == len(self.rows):
                self._grow()
            self.keys.append(key)
            self._slots[key] = slot
        return slot

    def _grow(self) -> None:
        rows = _rows(2 * len(self.rows))
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
        return levels(row, at.BIDS, at.BID_COUNT), levels(row, at.ASKS, at.ASK_COUNT)

    def dump(self, key: str) -> bytes:
        """The stored form of a symbol's row."""
        words = _pack(self.row(key))
        # Bytes of one significance together: small numbers make long runs of zeros.
        planes = np.ascontiguousarray(words.view(np.uint8).reshape(-1, 8).T)
        name = key.encode()
        content = name + zstandard.ZstdCompressor(level=3).compress(planes.tobytes())
        head = _HEADER.pack(_MAGIC, at.LAYOUT_VERSION, len(name), at.LAYOUT_HASH, len(words), zlib.crc32(content))
        return head + content

    def restore(self, key: str, blob: bytes) -> None:
        """Set a symbol's row to a stored one; it equals the dumped row in every number that is alive."""
        words = _open(key, blob)
        row = np.zeros(at.ROW_SIZE, np.int64)
        try:
            _unpack(words, row)
        except (ValueError, IndexError) as error:
            raise _refused(key, "a row that agrees with itself", str(error)) from None
        slot = self.slot(key)
        self.rows[slot, : at.BIDS] = 0
        _copy_live(row, self.rows[slot])


def _one_too_many(key: str) -> CheckFailed:
    return CheckFailed(
        f"{key} is one symbol too many for its partition", expected=f"at most {SYMBOLS_MAX} symbols", was="one more",
        action="spread the tape over more partitions; or, where the memory is there, raise SYMBOLS_MAX in "
        "schemas/limits.py",
    )  # fmt: skip


def _rows(capacity: int) -> Int64:
    """Rows of zeros. Pages stay unreal until written; huge pages would make 2 MB real for one number."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    # Room for thousands of symbols is more than the machine has, and is not meant to become real.
    flags |= getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, capacity * at.ROW_SIZE * 8, flags=flags)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # A kernel built without huge pages has nothing to advise.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.int64).reshape(capacity, at.ROW_SIZE)


def _copy_live(source: Int64, target: Int64) -> None:
    target[: at.BIDS] = source[: at.BIDS]
    for side, count in _SIDES:
        n = int(source[count])
        for start in (side, side + LEVELS_MAX):
            target[start : start + n] = source[start : start + n]


def _delta(values: Int64) -> Int64:
    return np.diff(values, prepend=np.int64(0))


def _pack(row: Int64) -> Int64:
    """Header, open bucket, sums, buckets that are not empty, mids and live levels, neighbours as differences."""
    buckets = row[at.RING : at.RING_HIGH].reshape(at.BUCKETS, at.SUM_COUNT)
    high, low = row[at.RING_HIGH : at.RING_LOW], row[at.RING_LOW : at.RING_MID]
    used = np.flatnonzero(buckets.any(axis=1) | (high != 0) | (low != 0))
    parts = [row[: at.RING], np.array([len(used)]), _delta(used), buckets[used].T.ravel(), high[used], low[used]]
    parts.append(_delta(row[at.RING_MID : at.RING_END]))
    for side, count in _SIDES:
        n = int(row[count])
        parts += [_delta(row[side : side + n]), row[side + LEVELS_MAX : side + LEVELS_MAX + n]]
    return np.concatenate(parts)


def _unpack(words: Int64, row: Int64) -> None:
    """The inverse of `_pack` into a row of zeros. ValueError or IndexError for words that are no row."""
    place = 0

    def take(n: int) -> Int64:
        nonlocal place
        place += n
        if n < 0 or place > len(words):
            raise ValueError("a length beyond the payload")
        return words[place - n : place]

    row[: at.RING] = take(at.RING)
    n = int(take(1)[0])
    used = np.cumsum(take(n))
    if n and not (int(np.min(used)) >= 0 and int(np.max(used)) < at.BUCKETS):
        raise ValueError("a bucket outside the ring")
    buckets = row[at.RING : at.RING_HIGH].reshape(at.BUCKETS, at.SUM_COUNT)
    buckets[used] = take(n * at.SUM_COUNT).reshape(at.SUM_COUNT, n).T
    row[at.RING_HIGH + used] = take(n)
    row[at.RING_LOW + used] = take(n)
    row[at.RING_MID : at.RING_END] = np.cumsum(take(at.BUCKETS))
    for side, count in _SIDES:
        n = int(row[count])
        if not 0 <= n <= LEVELS_MAX:
            raise ValueError("more levels than a side holds")
        steps, sizes = take(n), take(n)
        ranks = np.cumsum(steps)
        sign = 1 if side == at.BIDS else -1
        if (steps[1:] <= 0).any() or (sign * ranks <= 0).any() or (sizes <= 0).any():
            raise ValueError("levels that are no side of a book")
        row[side : side + n] = ranks
        row[side + LEVELS_MAX : side + LEVELS_MAX + n] = sizes
    if place != len(words):
        raise ValueError("a payload longer than its row")
    _check_sums(row)


def _check_sums(row: Int64) -> None:
    now = int(row[at.TICK]) // BASE_TICK_NS
    buckets = row[at.RING : at.RING_HIGH].reshape(at.BUCKETS, at.SUM_COUNT)
    sums = row[at.SUMS : at.RING].reshape(at.WINDOW_COUNT, at.SUM_COUNT)
    for window, length in enumerate(at.WINDOW_BUCKETS):
        slots = (now - 1 - np.arange(length)) % at.BUCKETS
        if not np.array_equal(buckets[slots].sum(axis=0), sums[window]):
            raise ValueError("window sums that differ from their buckets")


def _open(key: str, blob: bytes) -> Int64:
    """The payload of a blob, after every check that needs no row."""
    if len(blob) < _HEADER.size or blob[:4] != _MAGIC:
        raise _refused(key, f"a state that starts with {_MAGIC!r}", f"{len(blob)} bytes, starting {blob[:4]!r}")
    _, version, name_bytes, layout_hash, count, checksum = _HEADER.unpack_from(blob)
    if version != at.LAYOUT_VERSION or layout_hash != at.LAYOUT_HASH:
        expected = f"layout {at.LAYOUT_VERSION}, hash {at.LAYOUT_HASH:016x}"
        raise _refused(key, expected, f"layout {version}, hash {layout_hash:016x}")
    content = blob[_HEADER.size :]
    if zlib.crc32(content) != checksum:
        raise _refused(key, f"CRC-32 {checksum:08x}", f"{zlib.crc32(content):08x}")
    name = content[:name_bytes]
    if name != key.encode():
        raise _refused(key, f"the state of {key}", f"the state of {name!r}")
    if count > _WORDS_MAX:
        raise _refused(key, f"at most {_WORDS_MAX} numbers", str(count))
    try:
        planes = zstandard.ZstdDecompressor().decompress(content[name_bytes:], max_output_size=8 * count)
    except zstandard.ZstdError as error:
        raise _refused(key, "a zstd frame", str(error)) from None
    if len(planes) != 8 * count:
        raise _refused(key, f"{8 * count} bytes inside", str(len(planes)))
    words: Int64 = np.frombuffer(planes, np.uint8).reshape(8, -1).T.copy().view(np.int64).ravel()
    return words


def _refused(key: str, expected: str, was: str) -> StateRefused:
    return StateRefused(
        f"stored state of {key} cannot be used", expected=expected, was=was,
        action="delete the worker's data folder, it is rebuilt from the changelog; if the changelog holds the same, "
        "reset the consumer group and replay the tape",
    )  # fmt: skip
