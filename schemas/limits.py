"""Every bound on input, in one place. Beyond a bound a record is refused or a structure keeps its nearest part.

Units: bytes, levels, ticks, lots, nanoseconds, as the name says.
"""

from __future__ import annotations

KEY_BYTES_MAX = 64
TEXT_BYTES_MAX = 256
MESSAGE_BYTES_MAX = 1 << 20
ORIGINAL_BYTES_MAX = 4096

RECORD_LEVELS_MAX = 20_000
"""Level changes one Snapshot or Delta may carry on both sides together."""
LEVELS_MAX = 8192
"""Levels one side of a book keeps; beyond it the farthest level is dropped."""
DEPTH_MAX = 50
"""Best levels of a side that a feature can read."""
WINDOW_MAX_NS = 60_000_000_000
"""The longest window, and the longest hole in the clock that does not begin windows anew."""
MEMORY_MAX = 32_768
"""Numbers that the feature sets of one worker remember of a symbol: what is saved of it stays one message."""
REMEMBERED_MAX = 3600
"""Emitted values of one feature that a z-score or an outlier bound looks back on."""

SYMBOLS_MAX = 20_000
"""Symbols of one partition, at least 60 KB of memory each; at one more the worker stops, and acknowledges nothing."""

PRICE_TICKS_MAX = 1 << 40
SIZE_LOTS_MAX = 1 << 40
TRADE_VALUE_MAX = 1 << 53
"""Ticks x lots of one trade."""
SEQUENCE_MAX = (1 << 62) - 1
SCALE_MAX = 18
SCALED_MAX = 1 << 62
"""Bound of numbers in decimal units: mark, index, rates, profit and loss."""

TS_MIN_NS = 946_684_800_000_000_000
"""2000-01-01 UTC: an earlier time is a wrong unit."""
TS_MAX_NS = 4_102_444_800_000_000_000
"""2100-01-01 UTC: a later time is a wrong unit."""
