"""The own position, as the last Position record told it.

Before the first one the position is unknown: 0, its entry the mid, every value with POSITION_UNKNOWN.
Units: base units (contracts where the instrument counts contracts); profit in quote units, in base units for inverse
contracts; ages in seconds.
"""

from __future__ import annotations

from agents.arithmetic import POSITION_UNKNOWN, decimal, note, size, unknown
from agents.catalogue import BOOK, POSITION, feature
from agents.micro.price import mid_price
from schemas.columns import ABSENT, Int64
from schemas.units import NS_PER_S
from tables import layout as at
from tables.compiled import inner

_ACCOUNT = "account's own records"
PNL_SCALE = 8


@inner
def is_known(row: Int64) -> bool:
    """Whether a Position record has told it; notes if not."""
    if row[at.HAS_POSITION] == 0:
        note(row, POSITION_UNKNOWN)
        return False
    return True


@feature("base", (POSITION,), _ACCOUNT)
def position_size(row: Int64, _: int) -> float:
    """Signed size; 0 while unknown."""
    return size(row, float(row[at.POSITION_SIZE])) if is_known(row) else 0.0


@feature("1", (POSITION,), _ACCOUNT)
def position_side(row: Int64, _: int) -> float:
    """1 long, -1 short, 0 flat or unknown."""
    lots = row[at.POSITION_SIZE] if is_known(row) else 0
    return 1.0 if lots > 0 else -1.0 if lots < 0 else 0.0


@feature("quote", (POSITION, BOOK), _ACCOUNT)
def entry_price(row: Int64, _: int) -> float:
    """Average entry price; the mid while flat or unknown."""
    known = is_known(row)
    if known and row[at.ENTRY_PRICE] != ABSENT:
        return decimal(float(row[at.ENTRY_PRICE]), 1, row[at.INDEX_SCALE])
    if known and row[at.POSITION_SIZE] != 0:
        return unknown(row, POSITION_UNKNOWN)
    return mid_price(row, 0)


@feature("quote", (POSITION, BOOK), "marked to the mid")
def unrealized_pnl(row: Int64, _: int) -> float:
    """(mid - entry) * size; inverse: contract value * size * (1 / entry - 1 / mid)."""
    if not is_known(row) or row[at.POSITION_SIZE] == 0:
        return 0.0
    if row[at.ENTRY_PRICE] == ABSENT:
        return unknown(row, POSITION_UNKNOWN)
    mid, entry = mid_price(row, 0), entry_price(row, 0)
    if row[at.CONTRACT] == at.INVERSE:
        return float(row[at.CONTRACT_VALUE]) * position_size(row, 0) * (1.0 / entry - 1.0 / mid)
    return (mid - entry) * position_size(row, 0)


@feature("quote", (POSITION,), _ACCOUNT)
def realized_pnl(row: Int64, _: int) -> float:
    """Last told; 0 while unknown."""
    if not is_known(row):
        return 0.0
    if row[at.REALIZED_PNL] == ABSENT:
        note(row, POSITION_UNKNOWN)
        return 0.0
    return decimal(float(row[at.REALIZED_PNL]), 1, PNL_SCALE)


@feature("quote", (POSITION, BOOK), "notional")
def exposure(row: Int64, _: int) -> float:
    """size * mid, signed; inverse: size * contract value."""
    if not is_known(row) or row[at.POSITION_SIZE] == 0:
        return 0.0
    if row[at.CONTRACT] == at.INVERSE:
        return position_size(row, 0) * float(row[at.CONTRACT_VALUE])
    return position_size(row, 0) * mid_price(row, 0)


@feature("s", (POSITION,), "as observed")
def position_age_s(row: Int64, _: int) -> float:
    """T - time at which the position last left 0 or changed its sign; 0 while flat or unknown."""
    if not is_known(row) or row[at.POSITION_SIZE] == 0:
        return 0.0
    return float(row[at.TICK] - row[at.POSITION_TS]) / float(NS_PER_S)
