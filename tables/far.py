"""The far levels of one side: blocks in order, so that a level comes or goes without moving all the others.

Input: ranks and sizes, the higher a rank the better.
State: a directory of entries, best at the end; blocks of ranks, of their sizes and of their count. All ranks of a block
are better than those of the entry before, but inside they lie as they came: nothing moves when one comes or goes, and a
search reads a whole block at once. An entry holds a lower bound of its block's ranks, and the block's number. Places
behind the last rank of a block and behind the last entry of a group are _NOTHING, so that a search needs no end. Counts
are not in the entries: a search that reads many places at once has to wait if one of them was written just before.
Output: places of ranks in the row; a size lies BLOCK places behind its rank.
Units: ticks, lots.

A full block becomes two, and two neighbours of together at most SMALL levels become one. So any two neighbours have
more, but for the first two and the last two, whose ends levels leave one by one; that is why BLOCKS_MAX always do:
of B blocks all but two are in (B - 2) // 2 pairs of more than SMALL levels each, those two have a level each, and a
side that just takes a level has at most LEVELS_MAX + 1.
"""

from __future__ import annotations

import numpy as np

from schemas.columns import Int64
from tables import layout as at
from tables.compiled import inner

_NOTHING = 1 << 62
"""Above every rank and every entry."""
_GROUP = at.GROUP
_BOTTOM = -(1 << 62 - at.NUMBER_BITS)
"""Below every rank: the bound of the first block."""
_NUMBERS = (1 << at.NUMBER_BITS) - 1
_FULL = at.BLOCK - 1
"""The last place for a rank stays _NOTHING."""
_COUNT = 2 * at.BLOCK - 1
"""The last place for a size holds the count of levels."""


@inner
def clear_far(row: Int64, side: int) -> None:
    """No far level."""
    row[at.FAR_COUNT + side] = 0
    row[at.FAR_BLOCKS + side] = 0
    used = at.FAR_USED + side * at.USED_WORDS
    for i in range(used, used + at.USED_WORDS):
        row[i] = 0


@inner
def ranks_of(row: Int64, side: int, entry: int) -> int:
    """Place of the first rank of an entry's block."""
    number: int = row[entry] & _NUMBERS
    return at.FAR + side * at.FAR_SIZE + at.DIRECTORY + 2 * at.BLOCK * number


@inner
def find_entry(row: Int64, side: int, rank: int) -> int:
    """Place of the entry whose block has this rank, or would have it. There must be one."""
    directory = at.FAR + side * at.FAR_SIZE
    last = (rank << at.NUMBER_BITS) | _NUMBERS
    group = 0
    for i in range(directory + _GROUP, directory + row[at.FAR_BLOCKS + side], _GROUP):
        group += int(row[i] <= last)
    directory += _GROUP * group
    n = 0
    for i in range(_GROUP):
        n += int(row[directory + i] <= last)
    return directory + n - 1


@inner
def find_rank(row: Int64, ranks: int, rank: int) -> int:
    """Which level of a block has this rank, the first being 1; 0: none."""
    n = 0
    for i in range(at.BLOCK):
        n |= i + 1 if row[ranks + i] == rank else 0
    return n


@inner
def last_entry(row: Int64, side: int) -> int:
    """Place of the entry of the best block."""
    blocks: int = row[at.FAR_BLOCKS + side]
    return at.FAR + side * at.FAR_SIZE + blocks - 1


@inner
def best_below(row: Int64, side: int, rank: int) -> int:
    """Place of the best rank below `rank`. There must be one."""
    entry = find_entry(row, side, rank - 1)
    while True:
        ranks = ranks_of(row, side, entry)
        best = -_NOTHING
        for i in range(at.BLOCK):
            best = max(best, row[ranks + i] if row[ranks + i] < rank else -_NOTHING)
        if best != -_NOTHING:
            place: int = ranks + find_rank(row, ranks, best) - 1
            return place
        entry -= 1


@inner
def farthest(row: Int64, side: int) -> int:
    """Place of the lowest rank. There must be one."""
    ranks = ranks_of(row, side, at.FAR + side * at.FAR_SIZE)
    lowest = _NOTHING
    for i in range(at.BLOCK):
        lowest = min(lowest, row[ranks + i])
    return ranks + find_rank(row, ranks, lowest) - 1


@inner
def bound_first(row: Int64, side: int) -> None:
    """The first block takes all that is below the second."""
    first = at.FAR + side * at.FAR_SIZE
    if row[at.FAR_BLOCKS + side] > 0:
        row[first] = (_BOTTOM << at.NUMBER_BITS) | (row[first] & _NUMBERS)


@inner
def add_block(row: Int64, side: int, entry: int, rank: int) -> int:
    """A new block, empty, with its entry at this place and `rank` as its bound. Returns the place of its ranks."""
    end = last_entry(row, side) + 1
    if row[at.FAR_BLOCKS + side] % _GROUP == 0:
        for i in range(end, end + _GROUP):
            row[i] = _NOTHING
    for i in range(end, entry, -1):
        row[i] = row[i - 1]
    row[at.FAR_BLOCKS + side] += 1
    # The lowest number that is free: memory that has become real is used before more does.
    number = 0
    used = at.FAR_USED + side * at.USED_WORDS
    while row[used + (number >> 6)] >> (number & 63) & 1 != 0:
        number += 1
    row[used + (number >> 6)] |= 1 << (number & 63)
    row[entry] = (rank << at.NUMBER_BITS) | number
    bound_first(row, side)
    ranks = ranks_of(row, side, entry)
    for i in range(ranks, ranks + at.BLOCK):
        row[i] = _NOTHING
    row[ranks + _COUNT] = 0
    return ranks


@inner
def free_block(row: Int64, side: int, entry: int) -> None:
    """Take an entry out of the directory; its block is free."""
    number = row[entry] & _NUMBERS
    row[at.FAR_USED + side * at.USED_WORDS + (number >> 6)] &= ~(1 << (number & 63))
    end = last_entry(row, side)
    row[at.FAR_BLOCKS + side] -= 1
    for i in range(entry, end):
        row[i] = row[i + 1]
    row[end] = _NOTHING
    bound_first(row, side)


@inner
def push(row: Int64, ranks: int, rank: int, size: int) -> None:
    """Add a level to a block that is not full."""
    n = row[ranks + _COUNT]
    row[ranks + n] = rank
    row[ranks + at.BLOCK + n] = size
    row[ranks + _COUNT] = n + 1


@inner
def remove(row: Int64, ranks: int, place: int) -> int:
    """Delete the level of a block whose rank is at `place`: the last one takes its place. Returns how many are left."""
    n: int = row[ranks + _COUNT] - 1
    row[place] = row[ranks + n]
    row[place + at.BLOCK] = row[ranks + at.BLOCK + n]
    row[ranks + n] = _NOTHING
    row[ranks + _COUNT] = n
    return n


@inner
def split(row: Int64, side: int, entry: int) -> None:
    """Make two blocks of a full one: the better half goes to a new one."""
    ranks = ranks_of(row, side, entry)
    middle = 0
    for k in range(_FULL):
        n = 0
        for i in range(at.BLOCK):
            n += int(row[ranks + i] < row[ranks + k])
        if n == _FULL - at.SMALL:
            middle = row[ranks + k]
    better = add_block(row, side, entry + 1, middle)
    # From the last on: what takes a place has been looked at.
    for place in range(ranks + _FULL - 1, ranks - 1, -1):
        if row[place] >= middle:
            push(row, better, row[place], row[place + at.BLOCK])
            remove(row, ranks, place)


@inner
def merge(row: Int64, side: int, entry: int) -> None:
    """Empty the block behind an entry's into it."""
    source, target = ranks_of(row, side, entry + 1), ranks_of(row, side, entry)
    for i in range(row[source + _COUNT]):
        push(row, target, row[source + i], row[source + at.BLOCK + i])
    free_block(row, side, entry + 1)


@inner
def append(row: Int64, side: int, rank: int, size: int) -> None:
    """Add a level better than every other. A block is left room for those that come between."""
    entry = last_entry(row, side)
    if row[at.FAR_BLOCKS + side] == 0 or row[ranks_of(row, side, entry) + _COUNT] >= at.PACKED:
        entry += 1
        add_block(row, side, entry, rank)
    push(row, ranks_of(row, side, entry), rank, size)
    row[at.FAR_COUNT + side] += 1


@inner
def drop_best(row: Int64, side: int, place: int) -> None:
    """Delete the best level, whose rank is at `place`."""
    entry = last_entry(row, side)
    row[at.FAR_COUNT + side] -= 1
    if remove(row, ranks_of(row, side, entry), place) == 0:
        free_block(row, side, entry)


@inner
def drop_farthest(row: Int64, side: int) -> None:
    """Delete the farthest level. There must be one."""
    delete(row, side, at.FAR + side * at.FAR_SIZE, farthest(row, side))


@inner
def delete(row: Int64, side: int, entry: int, place: int) -> None:
    """Delete the level whose rank is at `place`, in an entry's block."""
    row[at.FAR_COUNT + side] -= 1
    n = remove(row, ranks_of(row, side, entry), place)
    if n <= at.SMALL:
        join(row, side, entry, n)


@inner
def join(row: Int64, side: int, entry: int, n: int) -> None:
    """Free an entry's block if its `n` levels are none, or merge it with a neighbour if they both are so few."""
    if n == 0:
        free_block(row, side, entry)
    elif entry > at.FAR + side * at.FAR_SIZE and n + row[ranks_of(row, side, entry - 1) + _COUNT] <= at.SMALL:
        merge(row, side, entry - 1)
    elif entry < last_entry(row, side) and n + row[ranks_of(row, side, entry + 1) + _COUNT] <= at.SMALL:
        merge(row, side, entry)


@inner
def is_best(row: Int64, ranks: int, rank: int) -> bool:
    """Whether each level of a full block is below this rank."""
    n = 0
    for i in range(at.BLOCK):
        n += int(row[ranks + i] < rank)
    return n == _FULL


@inner
def insert(row: Int64, side: int, entry: int, rank: int, size: int) -> None:
    """Add a level that is not there to the block of its entry."""
    ranks = ranks_of(row, side, entry)
    if row[ranks + _COUNT] == _FULL:
        if entry == last_entry(row, side) and is_best(row, ranks, rank):
            append(row, side, rank, size)
            return
        split(row, side, entry)
        ranks = ranks_of(row, side, find_entry(row, side, rank))
    push(row, ranks, rank, size)
    row[at.FAR_COUNT + side] += 1


@inner
def read_far(row: Int64, side: int, to: Int64, ranks: int, sizes: int) -> None:
    """Write ranks, ascending, and sizes of all far levels to these places."""
    directory = at.FAR + side * at.FAR_SIZE
    found = 0
    for entry in range(directory, directory + row[at.FAR_BLOCKS + side]):
        block = ranks_of(row, side, entry)
        first = found
        for level in range(block, block + row[block + _COUNT]):
            # Each to its place among those of its block; all of the blocks before are below.
            i = found
            while i > first and to[ranks + i - 1] > row[level]:
                to[ranks + i] = to[ranks + i - 1]
                to[sizes + i] = to[sizes + i - 1]
                i -= 1
            to[ranks + i] = row[level]
            to[sizes + i] = row[level + at.BLOCK]
            found += 1


def far_levels_of(row: Int64, side: int) -> tuple[Int64, Int64]:
    """Ranks, ascending, and sizes of all far levels."""
    entries, blocks = _entries(row, side), _blocks(row, side)
    held = blocks[entries & _NUMBERS]
    is_level = held[:, 0] != _NOTHING
    ranks, sizes = held[:, 0][is_level], held[:, 1][is_level]
    order = np.argsort(ranks)
    return ranks[order], sizes[order]


def copy_far(source: Int64, target: Int64, side: int) -> None:
    """Copy what is alive of the directory and the blocks to another row; the rest of them is left as it is."""
    numbers = _entries(source, side) & _NUMBERS
    place = at.FAR + side * at.FAR_SIZE
    end = place + -(-len(numbers) // _GROUP) * _GROUP
    target[place:end] = source[place:end]
    _blocks(target, side)[numbers] = _blocks(source, side)[numbers]


def _entries(row: Int64, side: int) -> Int64:
    return row[at.FAR + side * at.FAR_SIZE :][: row[at.FAR_BLOCKS + side]]


def _blocks(row: Int64, side: int) -> Int64:
    """[BLOCKS_MAX, 2, BLOCK] ranks and sizes."""
    place = at.FAR + side * at.FAR_SIZE
    return row[place + at.DIRECTORY : place + at.FAR_SIZE].reshape(at.BLOCKS_MAX, 2, at.BLOCK)
