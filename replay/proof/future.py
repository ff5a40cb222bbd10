"""Other futures: what might have followed a cut instead of what did.

Input: the records after a cut, and a seed.
Output: `Columns` of the same offsets, kinds and Ticks, in arrays of their own.
Units: as in `schemas.columns`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from schemas.columns import ABSENT, Columns, Int64, ragged
from schemas.events import FIELDS, FieldType, Kind

_NUMBERS = {
    "price", "size", "bid_price", "bid_size", "ask_price", "ask_size", "mark_price", "index_price", "open_interest",
    "open", "high", "low", "close", "volume", "rate", "sentiment", "unrealized_pnl", "realized_pnl", "entry_price",
}  # fmt: skip
_PRIME = 999_983


def own(columns: Columns) -> Columns:
    """The rows in arrays of their own: nothing behind the last one can be reached."""
    return columns.pick(np.arange(len(columns)))


def poison(columns: Columns, seed: int) -> Columns:
    """The same records, and every price, size, rate and sentiment another; clocks, sequences and kinds stay."""
    others = own(columns)
    at = numbers(others)
    now = others.body[at]
    other = 1 + (now * 7 + seed % _PRIME) % _PRIME
    others.body[at] = np.where(now == ABSENT, ABSENT, other + (other == now))
    return others


def shuffle(columns: Columns, seed: int) -> Columns:
    """The same records in another order, but each Tick in its place."""
    moved = np.flatnonzero(columns.kind != Kind.TICK)
    order = np.argsort(mixed(np.arange(len(moved)), seed), kind="stable")
    if np.array_equal(order, np.arange(len(moved))):
        order = np.roll(order, 1)
    rows = np.arange(len(columns))
    rows[moved] = moved[order]
    return replace(columns.pick(rows), offset=columns.offset.copy())


def numbers(columns: Columns) -> Int64:
    """Positions in `body` of all that a market tells: prices, sizes, rates and sentiments; in no order."""
    found: list[Int64] = [np.empty(0, np.int64)]
    for kind, fields in FIELDS.items():
        at = columns.start[:-1][columns.kind == kind]
        for field in fields if len(at) else ():
            if field.type is FieldType.LEVELS:
                lengths = 2 * columns.body[at]
                found.append(ragged(at + 1, lengths))
                at = at + 1 + lengths
            else:
                if field.name in _NUMBERS:
                    found.append(at)
                at = at + 1
    return np.concatenate(found)


def mixed(values: Int64, seed: int = 0) -> NDArray[np.uint64]:
    """[n] the numbers by splitmix64: the same order on every machine and with every version of numpy."""
    mixed = values.astype(np.uint64) + np.uint64(seed % 2**63) * np.array([0x9E3779B97F4A7C15], np.uint64)
    mixed = mixed * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
