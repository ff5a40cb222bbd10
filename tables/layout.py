"""The row: everything that is remembered of one symbol, as int64 at named places.

State: header | best levels | running totals | ring of totals, extremes and mids | near levels | far levels | what the
feature sets remember. A row of zeros is a symbol never seen.
Units: prices in ticks, sizes in lots, times in ns UTC, unless a name says otherwise.
"""

from __future__ import annotations

from hashlib import blake2b

from schemas.limits import DEPTH_MAX, LEVELS_MAX, SIZE_LOTS_MAX, WINDOW_MAX_NS
from schemas.units import BASE_TICK_NS, NS_PER_S

LAYOUT_VERSION = 3

# Header. Zero means: nothing applied, no Tick seen, not born, no book (in gap), no doubt, no Instrument, no position.
NEXT_OFFSET = 0
"""Applied offset + 1: a record below it has been applied."""
TICK = 1
"""Time of the last Tick this symbol saw."""
BIRTH = 2
"""Time of the first Tick after the Instrument or after a hole in the clock; windows are covered from here on."""
LAST_TS = 3
"""Time of the last event: max(ts_recv, last Tick, previous event)."""
SLOT = 4
"""Place of the last Tick in the ring: TICK / 100 ms modulo RING_SLOTS."""
NOTES = 5
"""Scratch: quality flags that the feature being computed has noted. Zero between vectors."""
SEQUENCE = 6
BOOK_STATE = 7
BOOK_EPOCH = 8
"""Count of Snapshots applied."""
BOOK_BIRTH = 9
"""Time of the first Tick after the last applied Snapshot, or after the Delta that ended a doubt."""
BOOK_TS = 10
"""Time of the last applied Snapshot or Delta."""
BOOK_VENUE_TS = 11
"""ts_event of the last applied Snapshot or Delta, 0 where the venue gave none."""
BID_COUNT = 12
ASK_COUNT = 13
BOOK_DOUBT = 14
"""1 after a hole in the clock: whether the book missed anything, only the next Snapshot or Delta can say."""
HAS_INSTRUMENT = 15
PRICE_SCALE = 16
TICK_SIZE = 17
SIZE_SCALE = 18
LOT_SIZE = 19
INDEX_SCALE = 20
CONTRACT = 21
CONTRACT_VALUE = 22
IS_PERPETUAL = 23
# From here to TOLD_LAST, ABSENT means: no record has told it.
MARK_PRICE = 24
INDEX_PRICE = 25
OPEN_INTEREST = 26
FUNDING_RATE = 27
NEXT_FUNDING_TS = 28
FEED_DELAY = 29
"""ts_recv - ts_event of the last event with a venue time, ns."""
ENTRY_PRICE = 30
REALIZED_PNL = 31
INTEREST_BIRTH = 32
"""Time of the first Tick after open interest was first told, or after a hole in the clock."""
HAS_POSITION = 33
POSITION_SIZE = 34
"""Signed lots."""
POSITION_TS = 35
"""Time at which the position last left zero or changed its sign."""
MEMORY = 36
"""How many numbers the feature sets remember behind the row's own places."""
HEADER_SIZE = 64

TOLD_FIRST = MARK_PRICE
TOLD_LAST = REALIZED_PNL

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

# What is summed. The value of a trade has three limbs of VALUE_BITS, a squared return two of VARIANCE_BITS.
BUY_COUNT = 0
SELL_COUNT = 1
BUY_VOLUME = 2
SELL_VOLUME = 3
VALUE_0 = 4
VALUE_1 = 5
VALUE_2 = 6
DELTAS = 7
"""Deltas applied."""
CHURN = 8
"""Levels that Deltas have changed."""
ORDER_FLOW = 9
MULTI_FLOW = 10
RETURNS = 11
"""Steps of 100 ms whose mid is known at both ends."""
VARIANCE_HIGH = 12
VARIANCE_LOW = 13
INTEREST = 14
SUM_COUNT = 15
VALUE_BITS = 34
VARIANCE_BITS = 40
FLOW_LEVELS = 5
"""Levels a side that MULTI_FLOW compares."""

TRADES_MAX = (1 << 62) // SIZE_LOTS_MAX
DELTAS_MAX = (1 << 62) // (4 * FLOW_LEVELS * SIZE_LOTS_MAX)
"""The most of the largest trades and Deltas a window may hold for all of its sums to fit int64."""

BUCKETS = WINDOW_MAX_NS // BASE_TICK_NS
RING_SLOTS = BUCKETS + 1
"""The longest window needs the totals at both of its ends."""

# The book. Rank = price for bids, -price for asks: the higher, the better. What each side has stands twice, the bids'
# first. Near levels are those of the 1,024 ticks that end at NEAR_TOP, by tick; every level below them is far.
BID = 0
ASK = 1
NEAR_WORDS = 16
NEAR_TICKS = 64 * NEAR_WORDS
NEAR_TOP = HEADER_SIZE
"""[2] rank // 64 of the highest near tick; no level is above it."""
FAR_COUNT = NEAR_TOP + 2
"""[2] far levels; BID_COUNT and ASK_COUNT count the near ones, too."""
TOP_DEPTH = FAR_COUNT + 2
"""How many levels of each side in TOP are current, if so many exist; FLOW_LEVELS where that is more."""
FAR_BLOCKS = TOP_DEPTH + 1
"""[2] blocks that hold the far levels (tables/far.py)."""
NEAR_BITS = HEADER_SIZE + 8
"""[2, NEAR_WORDS] a bit for each near tick, set where there is a level: for rank r bit r % 64 of word r // 64 % 16."""
BLOCK = 64
"""Places for ranks in a block, and for sizes."""
SMALL = BLOCK // 2 - 1
"""Two neighbours of together so few levels become one block."""
PACKED = 3 * BLOCK // 4
"""Levels laid into a block when they come in order."""
BLOCKS_MAX = 2 * ((LEVELS_MAX - 1) // (SMALL + 1)) + 3
USED_WORDS = -(-BLOCKS_MAX // 64)
FAR_USED = NEAR_BITS + 2 * NEAR_WORDS
"""[2, USED_WORDS] a bit for each block, set where it is in use."""
TOP_BIDS = FAR_USED + -(-2 * USED_WORDS // 8) * 8
"""[DEPTH_MAX] ranks and [DEPTH_MAX] sizes, best first. FLOW_LEVELS of them are always current."""
TOP_SIZE = -(-2 * DEPTH_MAX // 8) * 8
TOP_ASKS = TOP_BIDS + TOP_SIZE
TOP_END = TOP_ASKS + TOP_SIZE

TOTALS = TOP_END
"""[SUM_COUNT] running totals. They may wrap around: only differences count."""
RING = TOTALS + 16
"""[RING_SLOTS, SUM_COUNT] the totals as they were at each Tick."""
RING_HIGH = RING + RING_SLOTS * SUM_COUNT
"""Highest trade in the bucket that each Tick opened, 0 without one."""
RING_LOW = RING_HIGH + RING_SLOTS
"""PRICE_TICKS_MAX + 1 - lowest trade in the bucket that each Tick opened, 0 without one: a maximum, too."""
RING_MID = RING_LOW + RING_SLOTS
"""Best bid + best ask at each Tick, 0 where unknown."""
RING_END = RING_MID + RING_SLOTS

_PAGE = 4096 // 8
NEAR = -(-RING_END // _PAGE) * _PAGE
"""[2, NEAR_TICKS] sizes of the near levels, 0 where there is none; that of rank r is at r % NEAR_TICKS."""
GROUP = 16
"""Entries of the directory that a search looks at together."""
NUMBER_BITS = 10
"""An entry: rank << NUMBER_BITS | number of the block."""
DIRECTORY = -(-BLOCKS_MAX // GROUP) * GROUP
FAR = NEAR + 2 * NEAR_TICKS
"""[2] the far levels: [DIRECTORY] entries, [BLOCKS_MAX, 2, BLOCK] ranks and sizes."""
FAR_SIZE = DIRECTORY + BLOCKS_MAX * 2 * BLOCK
ROW_SIZE = FAR + 2 * FAR_SIZE
"""Places of every row; those of the feature sets' own memory follow (agents/plan.py)."""

LAYOUT_HASH = int.from_bytes(
    blake2b(
        repr(sorted((name, value) for name, value in globals().items() if name.isupper())).encode(), digest_size=8
    ).digest(),
    "big",
)
"""Changes with every place and meaning above; a stored row of another layout is refused."""
