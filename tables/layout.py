"""The row: everything that is remembered of one symbol, as int64 at named places.

State: header | open bucket | window sums | ring of closed buckets | bids | asks. A row of zeros is a symbol never seen.
Units: prices in ticks, sizes in lots, times in ns UTC, unless a name says otherwise.
"""

from __future__ import annotations

from hashlib import blake2b

from schemas.limits import LEVELS_MAX
from schemas.units import BASE_TICK_NS, NS_PER_S

LAYOUT_VERSION = 1

# Header. Zero means: nothing applied, no Tick seen, not born, no book (in gap), no doubt, no Instrument.
NEXT_OFFSET = 0
"""Applied offset + 1: a record below it has been applied."""
TICK = 1
"""Time of the last Tick this symbol saw."""
BIRTH = 2
"""Time of the first Tick after the Instrument or after a hole in the clock; windows are covered from here on."""
LAST_TS = 3
"""Time of the last event: max(ts_recv, last Tick, previous event)."""
SEQUENCE = 4
BOOK_STATE = 5
BOOK_EPOCH = 6
"""Count of Snapshots applied."""
BOOK_BIRTH = 7
"""Time of the first Tick after the last applied Snapshot, or after the Delta that ended a doubt."""
BOOK_TS = 8
"""Time of the last applied Snapshot or Delta."""
BOOK_VENUE_TS = 9
"""ts_event of the last applied Snapshot or Delta, 0 where the venue gave none."""
BID_COUNT = 10
ASK_COUNT = 11
HAS_INSTRUMENT = 12
PRICE_SCALE = 13
TICK_SIZE = 14
SIZE_SCALE = 15
LOT_SIZE = 16
INDEX_SCALE = 17
CONTRACT = 18
CONTRACT_VALUE = 19
IS_PERPETUAL = 20
BOOK_DOUBT = 21
"""1 after a hole in the clock: whether the book missed anything, only the next Snapshot or Delta can say."""
# From here to FEED_DELAY, ABSENT means: no record has told it.
MARK_PRICE = 22
INDEX_PRICE = 23
OPEN_INTEREST = 24
FUNDING_RATE = 25
NEXT_FUNDING_TS = 26
FEED_DELAY = 27
"""ts_recv - ts_event of the last event with a venue time, ns."""
HEADER_SIZE = 64

TOLD_FIRST = MARK_PRICE
TOLD_LAST = FEED_DELAY

# BOOK_STATE
GAP = 0
SNAPSHOT_ONLY = 1
"""The book is a Snapshot's; the first Delta of the chain is still to come."""
SYNCED = 2
SEQUENCE_RESET_NS = NS_PER_S
"""How much later than the book a record of a lower sequence must be, to show that the venue began a new sequence."""

# CONTRACT, in the order of the Avro enum
SPOT = 0
LINEAR = 1
INVERSE = 2

# What a bucket sums. Values (price x size) are split as value = high * 2**20 + low, so that no sum can overflow.
BUY_COUNT = 0
SELL_COUNT = 1
BUY_VOLUME = 2
SELL_VOLUME = 3
VALUE_HIGH = 4
VALUE_LOW = 5
ORDER_FLOW = 6
CHURN = 7
SUM_COUNT = 8
VALUE_SHIFT = 20

WINDOWS_S = (1, 3, 15, 60)
WINDOWS_NS = tuple(seconds * NS_PER_S for seconds in WINDOWS_S)
WINDOW_BUCKETS = tuple(ns // BASE_TICK_NS for ns in WINDOWS_NS)
WINDOW_COUNT = len(WINDOWS_S)
BUCKETS = max(WINDOW_BUCKETS)

# The open bucket: sums, highest and lowest trade (0: none), mid when it was opened (0: unknown).
OPEN = HEADER_SIZE
OPEN_HIGH = OPEN + SUM_COUNT
OPEN_LOW = OPEN_HIGH + 1
OPEN_MID = OPEN_LOW + 1
SUMS = OPEN + 16
"""[WINDOW_COUNT, SUM_COUNT] sums of the closed buckets of each window."""
RING = SUMS + WINDOW_COUNT * SUM_COUNT
"""[BUCKETS, SUM_COUNT]; the bucket opened by Tick t is at t / 100 ms modulo BUCKETS."""
RING_HIGH = RING + BUCKETS * SUM_COUNT
RING_LOW = RING_HIGH + BUCKETS
RING_MID = RING_LOW + BUCKETS
"""Best bid + best ask at the Tick that opened each bucket."""
RING_END = RING_MID + BUCKETS

# A side: LEVELS_MAX ranks, then LEVELS_MAX sizes. Rank = price for bids, -price for asks: ascending, best at the end.
_PAGE = 4096 // 8
BIDS = -(-RING_END // _PAGE) * _PAGE
ASKS = BIDS + 2 * LEVELS_MAX
ROW_SIZE = ASKS + 2 * LEVELS_MAX

LAYOUT_HASH = int.from_bytes(
    blake2b(
        repr(sorted((name, value) for name, value in globals().items() if name.isupper())).encode(), digest_size=8
    ).digest(),
    "big",
)
"""Changes with every place and meaning above; a stored row of another layout is refused."""
