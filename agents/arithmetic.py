"""What every feature's formula is written with: decimals of ticks and lots, nulls that say why.

Units: prices in quote units, sizes in base units (contracts where the instrument counts contracts).
Errors: none; a null is NaN, its reason stands in the row's notes. A value that is not finite is null, too.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Int64
from schemas.vectors import Quality
from tables import layout as at
from tables.book import is_whole
from tables.compiled import inner

Float64 = NDArray[np.float64]

POWERS = np.array([10.0**i for i in range(19)])

GAP = int(Quality.BOOK_GAP)
STALE = int(Quality.BOOK_STALE)
CROSSED = int(Quality.BOOK_CROSSED)
ONE_SIDED = int(Quality.BOOK_ONE_SIDED)
NO_TRADES = int(Quality.NO_TRADES)
NO_EVENTS = int(Quality.NO_EVENTS)
WARMUP = int(Quality.WARMUP)
FUNDING_UNKNOWN = int(Quality.FUNDING_UNKNOWN)
POSITION_UNKNOWN = int(Quality.POSITION_UNKNOWN)
SKEW = int(Quality.CLOCK_SKEW)
CLIPPED = int(Quality.OUTLIER_CLIPPED)
ERROR = int(Quality.COMPUTATION_ERROR)
FORESEEN = 1 << 32
"""Among the notes: a formula has said itself that its value is null. No quality flag."""


@inner
def note(row: Int64, flag: int) -> None:
    """Say something about the feature being computed."""
    row[at.NOTES] |= flag


@inner
def unknown(row: Int64, flag: int) -> float:
    """Null, and why; 0 where nothing lacks that could be there."""
    row[at.NOTES] |= flag | FORESEEN
    return math.nan


@inner
def decimal(number: float, step: int, scale: int) -> float:
    """number * step / 10**scale: one rounding while the product is below 2**53, so decimals come out as written."""
    power: float = POWERS[scale]
    return number * float(step) / power


@inner
def price(row: Int64, ticks: float) -> float:
    """Ticks in quote units."""
    return decimal(ticks, row[at.TICK_SIZE], row[at.PRICE_SCALE])


@inner
def size(row: Int64, lots: float) -> float:
    """Lots in base units."""
    return decimal(lots, row[at.LOT_SIZE], row[at.SIZE_SCALE])


@inner
def no_mid(row: Int64) -> float:
    """Null for a mid that is not known."""
    return unknown(row, ONE_SIDED if is_whole(row) else GAP)
