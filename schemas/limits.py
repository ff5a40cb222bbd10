"""Every bound on input, in one place. Beyond a bound a record is refused or a structure keeps its nearest part.

Bounds of settings stand with them in app/config.py. tests/test_limits.py finds a bound that stands elsewhere.

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
"""Symbols of one partition, at least 60 KB of memory each; at one more the worker stops, and acknowledges nothing.

Also of one recording that is imported.
"""
KEYS_MAX = 4 * SYMBOLS_MAX
"""Keys that a decoder remembers; a flood of other ones makes them be learned anew."""

PRICE_TICKS_MAX = 1 << 40
SIZE_LOTS_MAX = 1 << 40
TRADE_VALUE_MAX = 1 << 53
"""Ticks x lots of one trade."""
SEQUENCE_MAX = (1 << 62) - 1
SCALE_MAX = 18
DECIMALS_MAX = 24
"""Decimals of a venue's text; its whole part has at most 19 digits."""
SCALED_MAX = 1 << 62
"""Bound of numbers in decimal units: mark, index, rates, profit and loss."""

TS_MIN_NS = 946_684_800_000_000_000
"""2000-01-01 UTC: an earlier time is a wrong unit."""
TS_MAX_NS = 4_102_444_800_000_000_000
"""2100-01-01 UTC: a later time is a wrong unit."""

SCHEMA_DEPTH_MAX = 64
"""How deep the records of another writer may be nested."""
SCHEMA_PARTS_MAX = 10_000
"""Parts of one such record, all that lies in its lists left out."""
ITEM_PARTS_MAX = 32
"""Parts per byte of what stands in a list: more, and a short record could claim hours of work."""
UNKNOWN_LOOKUPS_MAX = 100
"""The schema registry's server is asked again about unknown ids after so many look-ups of such."""
REGISTRY_BYTES_MAX = 4 << 20
"""Of one answer of that server."""

LINE_BYTES_MAX = 16 << 20
"""Of a recording."""
CLOCK_JUMP_MAX_NS = 3_600_000_000_000
"""A receive clock that moves by more than this between two frames is no clock of one recording."""
SILENCE_MAX_NS = 3_600_000_000_000
"""Inside one recording a silence up to this is filled with Ticks: somebody watched, and nothing happened."""
FRAMES_UNRECOGNISED_MAX = 1_000
"""A recording whose first frames are all unreadable is of another format."""
RESPONSES_HELD_MAX = 1_000
"""Answers of a recording that wait for the stream to reach their time."""
DELTAS_HELD_MAX = 10_000
HELD_MAX_NS = 5_000_000_000
"""Deltas that wait for the Snapshot they follow, and how long they may be received before it."""

GROUP_BYTES_MAX = 1 << 29
"""Refuse a row group of an archive that would expand beyond this: no archive of ours has one."""
RECORDS_SEARCHED_MAX = 4_000_000
"""Records of a partition that are read back for its last Tick: those of a minute, up to 67,000 records a second."""
EVENTS_TIMED_MAX = 1 << 18
"""Receipts per partition and feature set that wait for their vector; a tape without Ticks makes none of them."""
RECEIPTS_SERVED_MAX = 1 << 16
"""Receipts of events that wait with their vectors for Redis; the oldest are forgotten."""

CADENCE_MS_MAX = 60_000
FILL_MAX_NS = 3_600_000_000_000
"""How old a value may be that a feature set fills in."""
COLUMNS_MAX = 1_000
"""Features of one set."""
POWER_MAX = 16
"""Exponent in a feature of the user's own."""
ROUNDS_MAX = 10_000
"""Rounds of all loops and calls of such a feature together, those of the functions it calls included."""
