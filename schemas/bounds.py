"""What compiled code trusts of columns, checked of those that no gate has let in: an archive may be anyone's.

Input: `Columns` out of a file.
Errors: ValueError that names the offset and the reason, as `schemas.validate.check` would have given it.
Units: as in `schemas.events`; the limits are those of `schemas.limits`.
"""

from __future__ import annotations

import numpy as np

from schemas import flat, limits
from schemas.columns import ABSENT, Columns, Int64, to_events
from schemas.errors import RecordRefused
from schemas.events import FIELDS, Field, FieldType, Kind
from schemas.validate import check

_PRICE, _STEP = (1, limits.PRICE_TICKS_MAX), (1, limits.PRICE_TICKS_MAX)
_SCALE, _SEQUENCE = (0, limits.SCALE_MAX), (0, limits.SEQUENCE_MAX)
_TIME = (limits.TS_MIN_NS, limits.TS_MAX_NS - 1)
_LARGE = limits.SCALED_MAX - 1
_ANY = (ABSENT, np.iinfo(np.int64).max)
_BOUNDS: dict[Kind, dict[str, tuple[int, int]]] = {
    Kind.INSTRUMENT: {
        **dict.fromkeys(("price_scale", "size_scale", "index_scale"), _SCALE),
        **dict.fromkeys(("tick_size", "lot_size", "contract_value"), _STEP),
    },
    Kind.SNAPSHOT: {"sequence_last": _SEQUENCE},
    Kind.DELTA: dict.fromkeys(("sequence_first", "sequence_last", "sequence_previous"), _SEQUENCE),
    Kind.TRADE: {"price": _PRICE, "size": (1, limits.SIZE_LOTS_MAX)},
    Kind.TICKER: {
        "sequence": _SEQUENCE,
        **dict.fromkeys(("bid_price", "ask_price", "mark_price", "index_price"), (1, _LARGE)),
        **dict.fromkeys(("bid_size", "ask_size", "open_interest"), (0, _LARGE)),
    },
    Kind.FUNDING: {"next_funding_ts": _TIME},
    Kind.BAR: {**dict.fromkeys(("open", "high", "low", "close"), _PRICE), "volume": (0, limits.SIZE_LOTS_MAX)},
    Kind.NEWS: {"sentiment": (-(10**9), 10**9), "confidence": (0, 10**9)},
    Kind.TICK: {"time": _TIME},
    Kind.ACTIVATE: {"version": (1, _LARGE)},
}
"""Least and greatest number of a field, where it has narrower ones than its type."""


def _of_type(field: Field) -> tuple[int, int]:
    if field.type is FieldType.ENUM:
        return 0, len(field.symbols) - 1
    if field.type is FieldType.FLAG:
        return 0, 1
    return _ANY if field.type is FieldType.TEXT else (-_LARGE, _LARGE)


def _tables() -> tuple[Int64, Int64]:
    """[kinds, 3] fixed fields, whether levels follow, their least size; [kinds, fields, 3] least, greatest, null."""
    fixed = {kind: [f for f in fields if f.type is not FieldType.LEVELS] for kind, fields in FIELDS.items()}
    shapes = np.zeros((len(Kind), 3), np.int64)
    rules = np.zeros((len(Kind), max(map(len, fixed.values())), 3), np.int64)
    for kind, fields in fixed.items():
        shapes[kind] = len(fields), len(FIELDS[kind]) > len(fields), kind is Kind.SNAPSHOT
        for place, field in enumerate(fields):
            low, high = _BOUNDS.get(kind, {}).get(field.name, _of_type(field))
            # A number that is within bounds anyway stands for "no null".
            rules[kind, place] = low, high, ABSENT if field.type is FieldType.OPTIONAL else low
    return shapes, rules


SHAPES, RULES = _tables()


def check_numbers(columns: Columns) -> None:
    """Refuse what the gate refuses for a number; a Snapshot that names a price twice passes. Errors: ValueError."""
    flat.load()
    row = flat.outside(
        columns.kind, columns.ts_event, columns.ts_recv, columns.start, columns.body, SHAPES, RULES
    )  # fmt: skip
    if row >= 0:
        raise ValueError(f"offset {columns.offset[row]}: {_reason(columns.slice(row, row + 1))}")


def _reason(row: Columns) -> str:
    try:
        check(to_events(row)[0])
    except RecordRefused as refused:
        return refused.reason
    except (IndexError, ValueError):
        pass
    return "a body of another length than its kind's"
