"""Numbers in blocks come back as they were; bytes that are not so many numbers are refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from schemas.columns import Int64
from tables import blocks

GUARD = 0x5A5A5A5A5A5A5A5A
NUMBERS = st.one_of(
    st.sampled_from([0, -1, -(1 << 63)]), st.integers(0, 3), st.integers(0, 1 << 20), st.integers(0, (1 << 63) - 1)
)


@njit
def squeeze(numbers: Int64, count: int, out: Int64) -> int:
    return blocks.squeeze(numbers, count, out)


@njit
def expand(source: Int64, words: int, count: int, numbers: Int64) -> bool:
    return blocks.expand(source, words, count, numbers)


def squeezed(numbers: list[int]) -> Int64:
    """The words, which end before the room that is promised to do."""
    room = np.full(len(numbers) + blocks.BLOCK, GUARD, np.int64)
    room[: len(numbers)] = numbers
    out = np.full(blocks.words_max(len(numbers)) + 8, GUARD, np.int64)
    words = squeeze(room, len(numbers), out)
    assert (out[blocks.words_max(len(numbers)) :] == GUARD).all()
    return out[:words]


def expanded(words: Int64, count: int) -> list[int] | None:
    source = np.concatenate([words, np.array([GUARD])])
    numbers = np.full(count + 2 * blocks.BLOCK, GUARD, np.int64)
    is_fine = expand(source, len(words), count, numbers)
    assert (numbers[-(-count // blocks.BLOCK) * blocks.BLOCK :] == GUARD).all()
    return numbers[:count].tolist() if is_fine else None


@settings(max_examples=300, deadline=None)
@given(st.lists(NUMBERS, max_size=70), st.booleans())
def test_numbers_come_back(numbers: list[int], is_sparse: bool) -> None:
    if is_sparse:
        numbers = [number if i % 5 == 0 else 0 for i, number in enumerate(numbers)]
    words = squeezed(numbers)
    assert expanded(words, len(numbers)) == numbers
    assert expanded(words[:-1], len(numbers)) is None or len(words) == 0
    assert expanded(np.append(words, 0), len(numbers)) is None


@pytest.mark.parametrize("width", range(65))
def test_every_width_in_every_place(width: int) -> None:
    chance = random.Random(width)
    numbers = [chance.getrandbits(width) for _ in range(100)] if width else [0] * 100
    numbers = [number - (1 << 64) if number >= 1 << 63 else number for number in numbers]
    for cut in range(17):
        assert expanded(squeezed([1] * cut + numbers), cut + 100) == [1] * cut + numbers


def test_zeros_take_no_place() -> None:
    assert len(squeezed([0] * 16_000)) == 1_000 // 8
    assert len(squeezed([0] * 15 + [1 << 40])) == 2


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 80))
def test_any_bytes_are_read_within_their_bounds(content: bytes, count: int) -> None:
    words = np.frombuffer(content[: len(content) // 8 * 8], np.int64)
    numbers = expanded(words, count)
    if numbers is not None:
        assert expanded(squeezed(numbers), count) == numbers
