"""Numbers in few bytes: blocks of 16, each as wide as its largest number, without its zeros where that is smaller.

Input: int64 numbers of which most are small and none negative (a negative one takes 64 bits).
Output: a byte for each block, its width in bits and whether zeros are left out; then, from the next multiple of eight
    bytes on, the bits of all blocks one behind the other in words, lowest first. Where zeros are left out, 16 bits that
    say where there are others stand before those.
Errors: `expand` says whether the bytes are so many numbers, to the last word; it reads and writes nothing beyond.

The general compressors took three times as long as all the rest of a save, and made the same numbers no smaller.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.columns import Int64
from tables.compiled import inner, within
from tables.side import leading_zeros

BLOCK = 16
WORD = 64
_SPARSE = 128
"""In a block's byte: zeros are left out."""


def words_max(count: int) -> int:
    """Words that `count` numbers take at most, with room that `expand` may read."""
    blocks = -(-count // BLOCK)
    return -(-blocks // 8) + blocks * (BLOCK + 1) + 2


@within
def shifted(number: int, by: int) -> int:
    """Shift right by less than 64, with zeros coming in from the left."""
    # numpy's int64 is numba's int.
    found: Any = np.int64(np.uint64(number) >> np.uint64(by))
    moved: int = found
    return moved


@within
def put(out: Int64, bit: int, number: int, width: int) -> int:
    """Write the lowest `width` bits of a number, which has no others, at a bit of words that are zero from there on."""
    word, low = bit >> 6, bit & 63
    out[word] |= number << low
    # In two steps: a shift by 64 is none.
    out[word + 1] = shifted(number, 1) >> 63 - low
    return bit + width


@within
def take(source: Int64, bit: int, mask: int) -> int:
    """The number at a bit; the word behind it must be there."""
    word, low = bit >> 6, bit & 63
    number: int = (shifted(source[word], low) | ((source[word + 1] << 1) << (63 - low))) & mask
    return number


@within
def mask_of(width: int) -> int:
    """So many low bits, 1 to 64."""
    return shifted(-1, 64 - width)


@inner
def squeeze(numbers: Int64, count: int, out: Int64) -> int:
    """Returns the words written; `numbers` has room for a whole last block."""
    blocks = (count + BLOCK - 1) // BLOCK
    for i in range(count, BLOCK * blocks):
        numbers[i] = 0
    heads = (blocks + 7) // 8
    for i in range(heads + 1):
        out[i] = 0
    bit = WORD * heads
    for block in range(blocks):
        first = BLOCK * block
        every = 0
        zeros = 0
        for i in range(first, first + BLOCK):
            every |= numbers[i]
            zeros += int(numbers[i] == 0)
        if every == 0:
            continue
        width = 64 - leading_zeros(every)
        head = width
        if zeros * width > BLOCK:
            head |= _SPARSE
            places = 0
            for i in range(BLOCK):
                places |= int(numbers[first + i] != 0) << i
            bit = put(out, bit, places, BLOCK)
            for i in range(first, first + BLOCK):
                if numbers[i] != 0:
                    bit = put(out, bit, numbers[i], width)
        else:
            for i in range(first, first + BLOCK):
                bit = put(out, bit, numbers[i], width)
        out[block >> 3] |= head << 8 * (block & 7)
    return (bit + WORD - 1) // WORD


@inner
def expand(source: Int64, words: int, count: int, numbers: Int64) -> bool:
    """Whether `source` was all of `count` numbers; `numbers` has room for a whole last block, `source` for a word."""
    blocks = (count + BLOCK - 1) // BLOCK
    bit, end = WORD * ((blocks + 7) // 8), WORD * words
    if bit > end:
        return False
    for block in range(blocks):
        first = BLOCK * block
        head = shifted(source[block >> 3], 8 * (block & 7)) & 255
        width = head & 127
        if width > 64:
            return False
        if width == 0:
            for i in range(first, first + BLOCK):
                numbers[i] = 0
            continue
        mask = mask_of(width)
        if head < _SPARSE:
            if bit + BLOCK * width > end:
                return False
            for i in range(first, first + BLOCK):
                numbers[i] = take(source, bit, mask)
                bit += width
            continue
        if bit + BLOCK > end:
            return False
        places = take(source, bit, mask_of(BLOCK))
        bit += BLOCK
        for i in range(BLOCK):
            is_there = places >> i & 1
            if bit + width * is_there > end:
                return False
            numbers[first + i] = take(source, bit, mask) if is_there != 0 else 0
            bit += width * is_there
    return (bit + WORD - 1) // WORD == words
