"""Runs the columns of one feature set over one row: values, z-scores, outlier bounds, filled gaps, flags.

Input: a row at Tick T with its best levels filled in, columns of a `Plan` one after another (`base`: the first place of
    one of them).
State: what the columns remember, behind the row's own places: float64s as their bits.
Output: the emitted values in the set's order and the quality flags.
Units: as each feature's.
"""

from __future__ import annotations

import math

from agents import catalogue, micro
from agents.arithmetic import CLIPPED, CROSSED, ERROR, FORESEEN, GAP, ONE_SIDED, SKEW, STALE, WARMUP, Float64, unknown
from agents.plan import (
    ARGUMENT,
    CLIP_COUNT,
    CLIP_MEMORY,
    CLIP_SIGMAS,
    COLUMN_SIZE,
    FILL_MEMORY,
    FILL_NS,
    LENGTH,
    MEMORY,
    NUMBER,
    OUTPUT,
    OWN,
    SKIPS,
    SOURCE,
    ZSCORE,
)  # fmt: skip
from schemas.columns import ABSENT, Int64
from schemas.units import NS_PER_S
from tables import layout as at
from tables.book import is_whole
from tables.compiled import inner
from tables.pointers import call_at, from_bits, to_bits

BOOK_STALE_NS = 5 * NS_PER_S
SKIPPED = -1

assert micro.__all__, "the catalogue is filled by importing its features"
value_of = catalogue.dispatcher()


@inner
def whole_flags(row: Int64) -> int:
    """Flags that say something about the whole vector, whatever its columns are."""
    flags = SKEW if row[at.FEED_DELAY] != ABSENT and row[at.FEED_DELAY] < 0 else 0
    if not is_whole(row):
        return flags | GAP
    if row[at.TICK] - row[at.BOOK_TS] > BOOK_STALE_NS:
        flags |= STALE
    if row[at.BID_COUNT] == 0 or row[at.ASK_COUNT] == 0:
        return flags | ONE_SIDED
    return flags | CROSSED if row[at.TOP_BIDS] > -row[at.TOP_ASKS] else flags


@inner
def remember(row: Int64, memory: int, length: int, value: float) -> None:
    """Append to a series: [count, ring of the last `length` values]."""
    row[memory + 1 + row[memory] % length] = to_bits(value)
    row[memory] += 1


@inner
def moments(row: Int64, memory: int, length: int) -> tuple[float, float]:
    """Mean and standard deviation (ddof 1) of a full series, summed from the oldest to the newest.

    The mean is summed as a distance from the oldest, so that equal values deviate by exactly 0.
    """
    oldest = row[memory] % length
    first = from_bits(row[memory + 1 + oldest])
    total = 0.0
    for i in range(length):
        place = oldest + i
        total += from_bits(row[memory + 1 + (place if place < length else place - length)]) - first
    mean = first + total / float(length)
    squares = 0.0
    for i in range(length):
        place = oldest + i
        distance = from_bits(row[memory + 1 + (place if place < length else place - length)]) - mean
        squares += distance * distance
    return mean, math.sqrt(squares / float(length - 1))


@inner
def zscore(row: Int64, columns: Int64, base: int, value: float) -> float:
    """(value - mean) / standard deviation over the last values of its source, this one included."""
    memory, length = columns[base + MEMORY], columns[base + LENGTH]
    remember(row, memory, length, value)
    if row[memory] < length:
        return unknown(row, WARMUP)
    mean, deviation = moments(row, memory, length)
    return (value - mean) / deviation


@inner
def clipped(row: Int64, columns: Int64, base: int, value: float) -> float:
    """The value within its bounds; the series remembers it as it was."""
    memory, length = columns[base + CLIP_MEMORY], columns[base + CLIP_COUNT]
    bounded = value
    if row[memory] >= length:
        mean, deviation = moments(row, memory, length)
        reach = from_bits(columns[base + CLIP_SIGMAS]) * deviation
        bounded = min(max(value, mean - reach), mean + reach)
        if bounded != value:
            row[at.NOTES] |= CLIPPED
    remember(row, memory, length, value)
    return bounded


@inner
def filled(row: Int64, columns: Int64, base: int, value: float) -> float:
    """The value, or the last one that was emitted if it is not too old."""
    memory = columns[base + FILL_MEMORY]
    if not math.isnan(value):
        row[memory], row[memory + 1] = row[at.TICK], to_bits(value)
    elif row[memory] != 0 and row[at.TICK] - row[memory] <= columns[base + FILL_NS]:
        value = from_bits(row[memory + 1])
    return value


@inner
def derived(row: Int64, columns: Int64, base: int, values: Float64) -> float:
    """A value that is no family's: a z-score, or a user's own function."""
    if columns[base + NUMBER] == OWN:
        own: float = call_at(columns[base + ARGUMENT], row)
        return own
    source: float = values[columns[base + SOURCE]]
    if not math.isnan(source):
        row[at.NOTES] &= ~FORESEEN
        source = zscore(row, columns, base, source)
    return source


@inner
def compute(row: Int64, columns: Int64, first: int, end: int, values: Float64, flags: Int64, out: Float64) -> int:
    """The vector of one set into `out`. Returns its quality flags, SKIPPED if a value that must be there is null."""
    quality = whole_flags(row)
    is_skipped = False
    for c in range(first, end):
        base = c * COLUMN_SIZE
        number = columns[base + NUMBER]
        if number >= 0:
            row[at.NOTES] = 0
            value = value_of(number, row, columns[base + ARGUMENT])
        else:
            row[at.NOTES] = flags[columns[base + SOURCE]] if number == ZSCORE else 0
            value = derived(row, columns, base, values)
        if not math.isfinite(value):
            value = math.nan
            if row[at.NOTES] & FORESEEN == 0:
                row[at.NOTES] |= ERROR
        elif columns[base + CLIP_COUNT] > 0:
            value = clipped(row, columns, base, value)
        if columns[base + FILL_NS] > 0:
            value = filled(row, columns, base, value)
        values[c], flags[c] = value, row[at.NOTES]
        output = columns[base + OUTPUT]
        if output >= 0:
            out[output] = value
            quality |= row[at.NOTES] & ~FORESEEN
            is_skipped = is_skipped or (columns[base + SKIPS] != 0 and math.isnan(value))
    row[at.NOTES] = 0
    return SKIPPED if is_skipped else quality
