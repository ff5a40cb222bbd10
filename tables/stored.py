"""The stored form of a row: the numbers that cannot be told from others, small, in few bytes.

Input: a row as a pointer; the numbers `pack` made of one, or their bytes (tables/blocks.py).
Output: header, what each bucket added, mids, extremes, live levels, the feature sets' memory. Canonical: rows that give
    the same features have the same numbers.
Units: as in the row. Each number is a difference from its neighbour or from what others foretell, with the sign in the
    lowest bit where it can have one.
Errors: a number of `REASONS` for what is no row; nothing is laid into a row then.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

from numba import types

from schemas.columns import Int64
from schemas.limits import LEVELS_MAX, PRICE_TICKS_MAX, SCALE_MAX, SIZE_LOTS_MAX, TS_MAX_NS, TS_MIN_NS
from schemas.units import BASE_TICK_NS
from tables import compiled
from tables import layout as at
from tables.blocks import BLOCK, expand, shifted, squeeze, words_max
from tables.compiled import inner
from tables.pointers import pointer_to_ints
from tables.side import lay_levels, read_levels
from tables.windows import squared_return

_LOWEST = PRICE_TICKS_MAX + 1
_MID_MAX = 2 * PRICE_TICKS_MAX

# Where what lies in the numbers.
_SUMS = at.HEADER_SIZE
_MIDS = _SUMS + at.SUM_COUNT * at.RING_SLOTS
_HIGHS = _MIDS + at.RING_SLOTS
_RANGES = _HIGHS + at.RING_SLOTS
_LEVELS = _RANGES + at.RING_SLOTS
NUMBERS_MAX = _LEVELS + 4 * LEVELS_MAX
"""Numbers of a row without the feature sets' memory."""

REASONS = (
    "", "bytes that are not so many numbers", "a payload of another length than its row", "a Tick outside its place",
    "a scale out of range", "a step out of range", "a contract or a state of the book that is none",
    "a Tick that is none", "more levels than a side holds", "a mid that no book can have",
    "levels that are no side of a book", "levels beyond what the gate lets in",
)  # fmt: skip
(
    _FINE, _NO_NUMBERS, _LENGTH, _OUTSIDE, _SCALE, _STEP, _CONTRACT, _NO_TICK, _TOO_MANY, _NO_MID, _NO_SIDE, _BEYOND,
) = range(len(REASONS))  # fmt: skip


def room(memory: int) -> tuple[int, int]:
    """(numbers, words of their bytes) that a row with so much memory needs room for."""
    return NUMBERS_MAX + memory + BLOCK, words_max(NUMBERS_MAX + memory)


@inner
def signed(number: int) -> int:
    """A number with its sign in the lowest bit, so that small negative ones are small."""
    return (number << 1) ^ (number >> 63)


@inner
def unsigned(number: int) -> int:
    """The inverse of `signed`."""
    return shifted(number, 1) ^ -(number & 1)


def next_offset(numbers: Int64) -> int:
    """NEXT_OFFSET among the numbers of a row."""
    number = int(numbers[at.NEXT_OFFSET])
    return number >> 1 ^ -(number & 1)


@inner
def slot_behind(slot: int) -> int:
    """The next place in the ring."""
    return 0 if slot == at.BUCKETS else slot + 1


@inner
def foretold_value(row: Int64, slot: int, buys: int, sells: int, middle: int) -> int:
    """The lowest limb of a bucket's value if all of it had traded at its lowest price; it may wrap around.

    The value of an inverse contract is size / price, of which this says nothing.
    """
    if row[at.RING_LOW + slot] == 0 or row[at.CONTRACT] == at.INVERSE:
        return 0
    lowest: int = _LOWEST - row[at.RING_LOW + slot]
    return (buys + sells) * lowest - (middle << at.VALUE_BITS)


@inner
def foretold(now: int, before: int) -> tuple[int, int, int]:
    """What two neighbouring mids say of the bucket between them: its returns, and the limbs of their square."""
    if now == 0 or before == 0:
        return 0, 0, 0
    high, low = squared_return(now, before)
    return 1, high, low


@inner
def pack(row: Int64, memory: int, numbers: Int64) -> int:
    """Write the numbers of a row; returns how many."""
    for i in range(at.HEADER_SIZE):
        numbers[i] = signed(row[i])
    pack_windows(row, numbers)
    place = _LEVELS
    for side in range(2):
        place = pack_side(row, side, numbers, place)
    before = 0
    for i in range(at.ROW_SIZE, at.ROW_SIZE + memory):
        # Floats that change slowly share their first bits with the one before.
        numbers[place] = row[i] ^ before
        before = row[i]
        place += 1
    return place


@inner
def pack_windows(row: Int64, numbers: Int64) -> None:
    """What each bucket added, from the oldest to the open one. Sums may wrap around, their differences do not."""
    slot = row[at.SLOT]
    before = 0
    for i in range(at.RING_SLOTS):
        slot = slot_behind(slot)
        now, behind = at.RING + slot * at.SUM_COUNT, at.RING + slot_behind(slot) * at.SUM_COUNT
        mid, mid_behind = row[at.RING_MID + slot], row[at.RING_MID + slot_behind(slot)]
        if i == at.BUCKETS:
            behind, mid_behind = at.TOTALS, 0
        sums = _SUMS + i
        for quantity in range(at.SUM_COUNT):
            numbers[sums + quantity * at.RING_SLOTS] = row[behind + quantity] - row[now + quantity]
        returns, high, low = foretold(mid_behind, mid)
        numbers[sums + at.RETURNS * at.RING_SLOTS] -= returns
        numbers[sums + at.VARIANCE_HIGH * at.RING_SLOTS] -= high
        numbers[sums + at.VARIANCE_LOW * at.RING_SLOTS] -= low
        buys, sells = numbers[sums + at.BUY_VOLUME * at.RING_SLOTS], numbers[sums + at.SELL_VOLUME * at.RING_SLOTS]
        middle = numbers[sums + at.VALUE_1 * at.RING_SLOTS]
        numbers[sums + at.VALUE_0 * at.RING_SLOTS] -= foretold_value(row, slot, buys, sells, middle)
        for quantity in range(at.SUM_COUNT):
            numbers[sums + quantity * at.RING_SLOTS] = signed(numbers[sums + quantity * at.RING_SLOTS])
        numbers[_MIDS + i] = signed(mid - before)
        before = mid
        highest, lowest = row[at.RING_HIGH + slot], _LOWEST - row[at.RING_LOW + slot]
        numbers[_HIGHS + i] = signed(highest - (mid >> 1)) + 1 if highest != 0 else 0
        numbers[_RANGES + i] = highest - lowest if highest != 0 else 0


@inner
def pack_side(row: Int64, side: int, numbers: Int64, place: int) -> int:
    """Ranks, ascending, as steps, and sizes; returns the place behind them."""
    count: int = row[at.BID_COUNT + side]
    read_levels(row, side, numbers, place)
    for i in range(place + count - 1, place, -1):
        numbers[i] -= numbers[i - 1] + 1
    if count > 0:
        numbers[place] = signed(numbers[place])
    return place + 2 * count


@inner
def check(numbers: Int64, count: int, memory: int) -> int:
    """Whether so many numbers are a row with so much memory that compiled code can trust: _FINE, or why not.

    Steps between ranks become ranks on the way, and differences between mids become mids.
    """
    if count < _LEVELS + memory:
        return _LENGTH
    bids, asks = unsigned(numbers[at.BID_COUNT]), unsigned(numbers[at.ASK_COUNT])
    if not (0 <= bids <= LEVELS_MAX and 0 <= asks <= LEVELS_MAX):
        return _TOO_MANY
    if count != _LEVELS + 2 * (bids + asks) + memory:
        return _LENGTH
    reason = check_header(numbers)
    if reason != _FINE:
        return reason
    mid = 0
    for i in range(_MIDS, _MIDS + at.RING_SLOTS):
        mid += unsigned(numbers[i])
        if not 0 <= mid <= _MID_MAX:
            return _NO_MID
        numbers[i] = mid
    reason = check_side(numbers, _LEVELS, bids, 1)
    return reason if reason != _FINE else check_side(numbers, _LEVELS + 2 * bids, asks, -1)


@inner
def check_header(numbers: Int64) -> int:
    """`check` of numbers that no record can have set."""
    tick = unsigned(numbers[at.TICK])
    if unsigned(numbers[at.SLOT]) != tick // BASE_TICK_NS % at.RING_SLOTS:
        return _OUTSIDE
    for place in (at.PRICE_SCALE, at.SIZE_SCALE, at.INDEX_SCALE):
        if not 0 <= unsigned(numbers[place]) <= SCALE_MAX:
            return _SCALE
    if numbers[at.HAS_INSTRUMENT] != 0:
        for place in (at.TICK_SIZE, at.LOT_SIZE, at.CONTRACT_VALUE):
            if not 0 < unsigned(numbers[place]) <= PRICE_TICKS_MAX:
                return _STEP
    if not at.SPOT <= unsigned(numbers[at.CONTRACT]) <= at.INVERSE:
        return _CONTRACT
    if not at.GAP <= unsigned(numbers[at.BOOK_STATE]) <= at.SYNCED:
        return _CONTRACT
    if tick != 0 and not (TS_MIN_NS <= tick < TS_MAX_NS and tick % BASE_TICK_NS == 0):
        return _NO_TICK
    return _FINE


@inner
def check_side(numbers: Int64, place: int, count: int, sign: int) -> int:
    """`check` of the levels of one side."""
    rank = 0
    for i in range(place, place + count):
        step = unsigned(numbers[i]) if i == place else numbers[i] + 1
        size = numbers[i + count]
        if (i > place and step <= 0) or size <= 0:
            return _NO_SIDE
        if step > 2 * PRICE_TICKS_MAX or size > SIZE_LOTS_MAX:
            return _BEYOND
        rank += step
        if sign * rank <= 0:
            return _NO_SIDE
        if sign * rank > PRICE_TICKS_MAX:
            return _BEYOND
        numbers[i] = rank
    return _FINE


@inner
def unpack(numbers: Int64, memory: int, row: Int64) -> None:
    """The inverse of `pack`, of numbers that have passed `check`, into a row of zeros."""
    for i in range(at.HEADER_SIZE):
        row[i] = unsigned(numbers[i])
    unpack_windows(numbers, row)
    place = _LEVELS
    for side in range(2):
        lay_levels(row, side, numbers, place, row[at.BID_COUNT + side])
        place += 2 * row[at.BID_COUNT + side]
    before = 0
    for i in range(at.ROW_SIZE, at.ROW_SIZE + memory):
        before ^= numbers[place]
        row[i] = before
        place += 1
    row[at.MEMORY] = memory


@inner
def unpack_windows(numbers: Int64, row: Int64) -> None:
    """Totals count from the oldest Tick on."""
    slot = row[at.SLOT]
    for i in range(at.RING_SLOTS):
        slot = slot_behind(slot)
        mid = numbers[_MIDS + i]
        row[at.RING_MID + slot] = mid
        if numbers[_HIGHS + i] != 0:
            highest = unsigned(numbers[_HIGHS + i] - 1) + (mid >> 1)
            row[at.RING_HIGH + slot] = highest
            row[at.RING_LOW + slot] = _LOWEST - (highest - numbers[_RANGES + i])
        to, sums = at.RING + slot * at.SUM_COUNT, _SUMS + i
        for quantity in range(at.SUM_COUNT):
            row[to + quantity] = row[at.TOTALS + quantity]
            row[at.TOTALS + quantity] += unsigned(numbers[sums + quantity * at.RING_SLOTS])
        returns, high, low = foretold(numbers[_MIDS + i + 1] if i < at.BUCKETS else 0, mid)
        row[at.TOTALS + at.RETURNS] += returns
        row[at.TOTALS + at.VARIANCE_HIGH] += high
        row[at.TOTALS + at.VARIANCE_LOW] += low
        buys = unsigned(numbers[sums + at.BUY_VOLUME * at.RING_SLOTS])
        sells = unsigned(numbers[sums + at.SELL_VOLUME * at.RING_SLOTS])
        middle = unsigned(numbers[sums + at.VALUE_1 * at.RING_SLOTS])
        row[at.TOTALS + at.VALUE_0] += foretold_value(row, slot, buys, sells, middle)


def _compiled(sources: int) -> tuple[Any, Any, Any]:
    @compiled.cached({"nogil": True, "error_model": "numpy"})
    def dump(row: int, memory: int, numbers: int, words: int) -> tuple[int, int]:
        """Pack a row and squeeze it; all are addresses. Returns (numbers, words)."""
        _ = sources
        count = pack(pointer_to_ints(row), memory, pointer_to_ints(numbers))
        return count, squeeze(pointer_to_ints(numbers), count, pointer_to_ints(words))

    @compiled.cached({"nogil": True, "error_model": "numpy"})
    def read(words: int, length: int, count: int, memory: int, numbers: int) -> int:
        """Expand so many words into so many numbers, and check them. Returns a number of REASONS."""
        _ = sources
        if not expand(pointer_to_ints(words), length, count, pointer_to_ints(numbers)):
            return _NO_NUMBERS
        return check(pointer_to_ints(numbers), count, memory)

    @compiled.cached({"nogil": True, "error_model": "numpy"})
    def lay(numbers: int, memory: int, row: int) -> None:
        """Unpack numbers that `read` has found fine into a row of zeros."""
        _ = sources
        unpack(pointer_to_ints(numbers), memory, pointer_to_ints(row))

    return dump, read, lay


def load() -> None:
    """Compile, or read from the cache: seconds the first time, then a moment, then nothing."""
    with _LOADING:
        for function, signature in _SIGNATURES:
            if not function.signatures:
                function.compile(signature)
                function.disable_compile()


_LOADING = Lock()
_INT: Any = types.int64
_TWO: Any = types.UniTuple(_INT, 2)  # type: ignore[no-untyped-call]
dump, read, lay = _compiled(int.from_bytes(compiled.sources_digest(), "little") >> 1)
_SIGNATURES = (
    (dump, _TWO(_INT, _INT, _INT, _INT)),
    (read, _INT(_INT, _INT, _INT, _INT, _INT)),
    (lay, types.void(_INT, _INT, _INT)),
)
