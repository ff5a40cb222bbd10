"""The stored form of a row: the words that cannot be told from others, small.

Input: a row; the words `pack` made of one.
Output: header, what each bucket added, mids, live levels, the feature sets' memory. Canonical: rows that give the same
    features have the same words.
Units: as in the row. Each word is a small number: a difference from its neighbour or from what others foretell, with
    the sign in the lowest bit.
Errors: ValueError or IndexError for words that are no row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Int64
from schemas.limits import LEVELS_MAX, PRICE_TICKS_MAX, SCALE_MAX, SIZE_LOTS_MAX, TS_MAX_NS, TS_MIN_NS
from schemas.units import BASE_TICK_NS
from tables import layout as at
from tables.logarithm import log_ratios
from tables.side import levels_of, set_levels

WORDS_MAX = at.RING_END + 2 * at.RING_SLOTS + 4 * LEVELS_MAX
"""Words of a row without the feature sets' memory."""
_BUCKETS = at.RING_SLOTS
_LOWEST = PRICE_TICKS_MAX + 1
_LIMB = float(1 << at.VARIANCE_BITS)


def pack(row: Int64) -> Int64:
    """The words of a row."""
    slots = _slots(row)
    ring = row[at.RING : at.RING_HIGH].reshape(_BUCKETS, at.SUM_COUNT)[slots]
    # What each bucket added, from the oldest to the open one. Sums may wrap around, their differences do not.
    added = np.vstack([ring[1:], row[at.TOTALS : at.TOTALS + at.SUM_COUNT]]) - ring
    high, low, mid = (row[place : place + _BUCKETS][slots] for place in (at.RING_HIGH, at.RING_LOW, at.RING_MID))
    added -= _foretold(mid)
    added[:, at.VALUE_0] -= _value(added, low)
    parts = [row[: at.HEADER_SIZE], _signed(added.T.ravel()), _signed(_delta(mid))]
    parts += [
        _signed(np.where(high != 0, high - mid // 2, 0)),
        _signed(np.where(low != 0, low - _LOWEST + mid // 2, 0)),
    ]
    parts += [(high != 0).astype(np.int64)]
    for side in (at.BID, at.ASK):
        ranks, sizes = levels_of(row, side)
        parts += [_signed(_delta(ranks)), sizes]
    return np.concatenate([*parts, row[at.ROW_SIZE :]])


def unpack(words: Int64, row: Int64) -> None:
    """The inverse of `pack`, into a row of zeros."""
    place = 0

    def take(n: int) -> Int64:
        nonlocal place
        place += n
        if n < 0 or place > len(words):
            raise ValueError("a length beyond the payload")
        return words[place - n : place]

    row[: at.HEADER_SIZE] = take(at.HEADER_SIZE)
    if row[at.SLOT] != int(row[at.TICK]) // BASE_TICK_NS % _BUCKETS:
        raise ValueError("a Tick outside its place")
    _check_header(row)
    slots = _slots(row)
    added = _unsigned(take(_BUCKETS * at.SUM_COUNT)).reshape(at.SUM_COUNT, _BUCKETS).T.copy()
    mid = np.cumsum(_unsigned(take(_BUCKETS)))
    high, low = _unsigned(take(_BUCKETS)) + mid // 2, _unsigned(take(_BUCKETS)) + _LOWEST - mid // 2
    is_traded = take(_BUCKETS) != 0
    high, low = np.where(is_traded, high, 0), np.where(is_traded, low, 0)
    added[:, at.VALUE_0] += _value(added, low)
    added += _foretold(mid)
    totals = np.cumsum(added, axis=0)
    row[at.RING : at.RING_HIGH].reshape(_BUCKETS, at.SUM_COUNT)[slots[1:]] = totals[:-1]
    row[at.TOTALS : at.TOTALS + at.SUM_COUNT] = totals[-1]
    row[at.RING_HIGH + slots], row[at.RING_LOW + slots], row[at.RING_MID + slots] = high, low, mid
    for side in (at.BID, at.ASK):
        n = int(row[at.BID_COUNT + side])
        if not 0 <= n <= LEVELS_MAX:
            raise ValueError("more levels than a side holds")
        steps, sizes = _unsigned(take(n)), take(n)
        ranks = np.cumsum(steps)
        sign = 1 if side == at.BID else -1
        prices = sign * ranks
        if (steps[1:] <= 0).any() or (prices <= 0).any() or (sizes <= 0).any():
            raise ValueError("levels that are no side of a book")
        if (prices > PRICE_TICKS_MAX).any() or (sizes > SIZE_LOTS_MAX).any():
            raise ValueError("levels beyond what the gate lets in")
        set_levels(row, side, ranks, sizes)
    row[at.ROW_SIZE :] = take(len(row) - at.ROW_SIZE)
    if place != len(words):
        raise ValueError("a payload longer than its row")


def _check_header(row: Int64) -> None:
    """Refuse numbers that compiled code trusts and no record can have set. Errors: ValueError."""
    scales, steps = (
        row[[at.PRICE_SCALE, at.SIZE_SCALE, at.INDEX_SCALE]],
        row[[at.TICK_SIZE, at.LOT_SIZE, at.CONTRACT_VALUE]],
    )
    if scales.min() < 0 or scales.max() > SCALE_MAX:
        raise ValueError("a scale out of range")
    if row[at.HAS_INSTRUMENT] and (steps.min() <= 0 or steps.max() > PRICE_TICKS_MAX):
        raise ValueError("a step out of range")
    if not (at.SPOT <= row[at.CONTRACT] <= at.INVERSE and at.GAP <= row[at.BOOK_STATE] <= at.SYNCED):
        raise ValueError("a contract or a state of the book that is none")
    tick = int(row[at.TICK])
    if tick and not (TS_MIN_NS <= tick < TS_MAX_NS and tick % BASE_TICK_NS == 0):
        raise ValueError("a Tick that is none")


def _slots(row: Int64) -> Int64:
    """Places in the ring from the oldest Tick to the last."""
    slots: Int64 = (int(row[at.SLOT]) + 1 + np.arange(_BUCKETS)) % _BUCKETS
    return slots


def _foretold(mid: Int64) -> Int64:
    """[RING_SLOTS, SUM_COUNT] what the mids alone say of each bucket: its return, as `windows.add_return` counts it."""
    told = np.zeros((_BUCKETS, at.SUM_COUNT), np.int64)
    before, after = mid[:-1], mid[1:]
    is_known = (before != 0) & (after != 0)
    told[:-1, at.RETURNS] = is_known
    moved = np.flatnonzero(is_known & (before != after))
    step = log_ratios(after[moved].astype(np.float64), before[moved].astype(np.float64))
    square = np.nan_to_num(step * step * (_LIMB * _LIMB))
    high = np.floor(square / _LIMB)
    told[moved, at.VARIANCE_HIGH] = high.astype(np.int64)
    told[moved, at.VARIANCE_LOW] = np.floor(square - high * _LIMB).astype(np.int64)
    return told


def _value(added: Int64, low: Int64) -> Int64:
    """The value of each bucket if all of it had traded at its lowest price; it may wrap around."""
    volume = added[:, at.BUY_VOLUME] + added[:, at.SELL_VOLUME]
    value: Int64 = np.where(low != 0, volume * (_LOWEST - low), 0)
    return value


def _delta(values: Int64) -> Int64:
    steps: Int64 = values.copy()
    steps[1:] -= values[:-1]
    return steps


def _signed(values: Int64) -> Int64:
    """Numbers with their sign in the lowest bit, so that small negative ones are small."""
    folded: NDArray[np.int64] = (values << 1) ^ (values >> 63)
    return folded


def _unsigned(values: Int64) -> Int64:
    """The inverse of `_signed`."""
    unfolded: NDArray[np.int64] = ((values >> 1) & np.int64((1 << 63) - 1)) ^ -(values & 1)
    return unfolded
