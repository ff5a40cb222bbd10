"""A stored row comes back as it was, or is refused with a reason and an Action."""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from frames import instrument
from numba import njit
from pairs import lay_levels
from streams import stream

import tables.arena
from agents.engine import Engine
from schemas.columns import Int64, from_events
from schemas.errors import CheckFailed, StateRefused
from schemas.feature_sets import load
from schemas.limits import LEVELS_MAX
from tables import layout as at
from tables import stored
from tables.arena import Arena, applied_offset
from tables.blocks import BLOCK

KEY = "USDM:A"
HEADER = 40
"""Bytes before the name; the last eight are the count of numbers and the checksum."""


@njit
def pack(row: Int64, numbers: Int64) -> int:
    return stored.pack(row, 0, numbers)


@njit
def check(numbers: Int64, count: int, memory: int) -> int:
    return stored.check(numbers, count, memory)


def packed(row: Int64) -> Int64:
    """The numbers that are stored of a row."""
    numbers = np.zeros(stored.room(0)[0], np.int64)
    return numbers[: pack(row, numbers)]


@pytest.fixture(scope="module")
def engine() -> Engine:
    engine = Engine([load("micro@1")], 0)
    engine.apply(from_events(0, 0, stream(3)))[0]
    return engine


def alive(arena: Arena, key: str) -> tuple[list[int], bytes]:
    """Every number that means something: the header, and the canonical form of the rest."""
    return arena.row(key)[: at.HEADER_SIZE].tolist(), arena.dump(key)


def test_restored_row_is_identical(engine: Engine) -> None:
    other = Arena()
    for key in engine.arena.keys:
        other.restore(key, engine.arena.dump(key))
        assert alive(other, key) == alive(engine.arena, key)
        assert other.row(key)[at.NEXT_OFFSET] > 0
        assert other.book(key) == engine.arena.book(key)


def test_restore_replaces_what_was_there(engine: Engine) -> None:
    other = Engine([load("micro@1")], 0)
    other.apply(from_events(0, 0, stream(4)))[0]
    other.arena.restore(KEY, engine.arena.dump(KEY))
    assert alive(other.arena, KEY) == alive(engine.arena, KEY)


def test_a_full_book_comes_back() -> None:
    arena = Arena()
    arena.slot(KEY)
    row = arena.row(KEY)
    ranks, sizes = np.arange(1, LEVELS_MAX + 1) * 1000, np.full(LEVELS_MAX, 1 << 40)
    lay_levels(row, at.BID, np.concatenate([ranks, sizes]))
    lay_levels(row, at.ASK, np.concatenate([ranks - (1 << 40), sizes]))
    other = Arena()
    other.restore(KEY, arena.dump(KEY))
    assert (other.row(KEY) == row).all()


def test_a_state_says_which_offset_it_has_applied(engine: Engine) -> None:
    for key in engine.arena.keys:
        assert applied_offset(engine.arena.dump(key)) == engine.arena.row(key)[at.NEXT_OFFSET] - 1


@pytest.mark.fault("state", "changelog record corrupt")
def test_every_flipped_bit_is_refused(engine: Engine) -> None:
    blob = engine.arena.dump(KEY)
    chance = random.Random(1)
    for place in [*range(60), *(chance.randrange(len(blob)) for _ in range(200))]:
        torn = bytearray(blob)
        torn[place] ^= 1 << chance.randrange(8)
        with pytest.raises(StateRefused, match="Action"):
            Arena().restore(KEY, bytes(torn))


@pytest.mark.fault("state", "changelog record corrupt")
def test_every_cut_is_refused(engine: Engine) -> None:
    blob = engine.arena.dump(KEY)
    for length in [*range(60), *range(60, len(blob), 97)]:
        with pytest.raises(StateRefused, match="Action"):
            Arena().restore(KEY, blob[:length])
    with pytest.raises(StateRefused):
        Arena().restore(KEY, blob + b"\0")


def test_the_state_of_another_symbol_is_refused(engine: Engine) -> None:
    with pytest.raises(StateRefused, match="USDM:A"):
        Arena().restore("SPOT:B", engine.arena.dump(KEY))


@pytest.mark.fault("state", "state of an older layout")
def test_another_layout_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = engine.arena.dump(KEY)
    monkeypatch.setattr(at, "LAYOUT_HASH", at.LAYOUT_HASH ^ 1)
    with pytest.raises(StateRefused, match="layout 3, hash"):
        Arena().restore(KEY, blob)


@pytest.mark.parametrize(("place", "was"), [
    (at.SLOT, "outside its place"), (at.TICK, "outside its place"), (at.BID_COUNT, "no side of a book"),
])  # fmt: skip
def test_a_row_that_contradicts_itself_is_refused(engine: Engine, place: int, was: str) -> None:
    """A whole blob of a wrong row, as a bug would write it."""
    arena = Arena()
    arena.restore(KEY, engine.arena.dump(KEY))
    arena.row(KEY)[place] += 50 * 100_000_000 if place == at.TICK else 1
    if place == at.BID_COUNT:
        spoiled = arena.row(KEY)
        spoiled[: at.FAR] = 0
        lay_levels(spoiled, at.BID, np.array([-5, 1]))
    with pytest.raises(StateRefused, match=was):
        Arena().restore(KEY, arena.dump(KEY))


WILD = {
    at.PRICE_SCALE: [-1, 19, 10**9], at.SIZE_SCALE: [-1, 10**9], at.INDEX_SCALE: [-(1 << 63), 1 << 62],
    at.TICK_SIZE: [-1, 0, (1 << 40) + 1], at.LOT_SIZE: [0], at.CONTRACT_VALUE: [0], at.CONTRACT: [-1, 3],
    at.BOOK_STATE: [-1, 3],
    at.TICK: [-100_000_000, 1, 100_000_000, 1_721_347_200_000_000_001, 4_102_444_800_000_000_000, 1 << 62],
}  # fmt: skip


@pytest.mark.parametrize(("place", "value"), [(place, value) for place, values in WILD.items() for value in values])
def test_numbers_that_no_record_can_have_set_are_refused(engine: Engine, place: int, value: int) -> None:
    arena = Arena()
    arena.restore(KEY, engine.arena.dump(KEY))
    row = arena.row(KEY)
    assert row[at.HAS_INSTRUMENT]
    row[place] = value
    row[at.SLOT] = int(row[at.TICK]) // 100_000_000 % at.RING_SLOTS
    with pytest.raises(StateRefused, match=r"agrees with itself, was a .*Action"):
        Arena().restore(KEY, arena.dump(KEY))


@pytest.mark.parametrize(("rank", "size"), [((1 << 40) + 1, 1), (1 << 61, 1), (5, (1 << 40) + 1), (5, -1), (0, 1)])
@pytest.mark.parametrize("side", [at.BID, at.ASK])
def test_levels_that_no_record_can_have_set_are_refused(side: int, rank: int, size: int) -> None:
    row = np.zeros(at.ROW_SIZE, np.int64)
    numbers = packed(row)
    assert check(numbers.copy(), len(numbers), 0) == 0
    numbers[at.BID_COUNT + side] = 2
    signed = rank if side == at.BID else -rank
    # In the stored form the lowest bit is the sign.
    numbers = np.concatenate([numbers, [(signed << 1) ^ (signed >> 63), size]])
    assert "levels" in stored.REASONS[check(numbers, len(numbers), 0)]


@pytest.mark.parametrize("mids", [[-1], [(1 << 41) + 1], [1 << 62], [5, -6], [-(1 << 63)], [1 << 41, 1]])
def test_mids_that_no_book_can_have_are_refused(mids: list[int]) -> None:
    """A logarithm of such a mid would never end."""
    numbers = packed(np.zeros(at.ROW_SIZE, np.int64))
    place = at.HEADER_SIZE + at.SUM_COUNT * at.RING_SLOTS
    steps = np.array(mids)
    numbers[place : place + len(mids)] = (steps << 1) ^ (steps >> 63)
    assert stored.REASONS[check(numbers, len(numbers), 0)] == "a mid that no book can have"


def resealed(blob: bytes, change: Callable[[bytearray], None]) -> bytes:
    """A blob whose payload has changed, with the checksum it then needs."""
    content = bytearray(blob[HEADER:])
    change(content)
    return blob[: HEADER - 4] + struct.pack("<I", zlib.crc32(content)) + content


def test_words_that_are_not_so_many_numbers_are_refused(engine: Engine) -> None:
    """Whatever the bytes claim: neither more is read than there is, nor more written than there is room."""
    blob = engine.arena.dump(KEY)
    behind = HEADER + len(KEY)
    blocks = -(-struct.unpack_from("<I", blob, HEADER - 8)[0] // BLOCK)

    def widest(content: bytearray) -> None:
        content[len(KEY) : len(KEY) + blocks] = b"\x40" * blocks

    def too_wide(content: bytearray) -> None:
        content[len(KEY) + 7] = 0x41

    def sparse(content: bytearray) -> None:
        content[len(KEY) : len(KEY) + blocks] = b"\xc0" * blocks

    torn = [resealed(blob, change) for change in (widest, too_wide, sparse, lambda content: content.extend(bytes(8)))]
    torn += [resealed(blob[:end], lambda content: None) for end in (behind, behind + 8, len(blob) - 8)]
    torn.append(resealed(blob + bytes(8 * 100_000), lambda content: None))
    for each in torn:
        with pytest.raises(StateRefused, match=r"Action"):
            Arena().restore(KEY, each)


def test_changed_words_are_another_row_or_refused(engine: Engine) -> None:
    """Behind a checksum that fits: no crash, no endless loop, and what is accepted can be stored again."""
    blob, chance, accepted = engine.arena.dump(KEY), random.Random(5), 0

    def change(content: bytearray) -> None:
        for _ in range(chance.choice((1, 1, 3))):
            content[chance.randrange(len(KEY), len(content))] ^= 1 << chance.randrange(8)

    for _ in range(800):
        arena = Arena()
        try:
            arena.restore(KEY, resealed(blob, change))
        except StateRefused:
            continue
        accepted += 1
        again = Arena()
        again.restore(KEY, arena.dump(KEY))
        assert again.dump(KEY) == arena.dump(KEY)
    assert 50 < accepted < 750


def test_a_refused_state_leaves_no_trace(engine: Engine) -> None:
    arena = Arena()
    with pytest.raises(StateRefused):
        arena.restore(KEY, engine.arena.dump(KEY)[:-1])
    assert len(arena) == 0


def test_growing_keeps_rows_and_names_stay_sorted(engine: Engine) -> None:
    blob = engine.arena.dump(KEY)
    arena = Arena(capacity=1)
    arena.restore(KEY, blob)
    names = [f"V:{i:03}" for i in range(40)]
    random.Random(1).shuffle(names)
    for name in names:
        arena.slot(name)
    assert arena.dump(KEY) == blob
    assert arena.names == sorted([KEY, *names])
    assert [arena.keys[slot] for slot in arena.order] == arena.names


@pytest.mark.fault("market data", "10^6 symbols on the tape")
def test_one_symbol_too_many_stops_the_engine_with_an_action(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the batch is emitted or acknowledged, and the symbols known before are as they were."""
    monkeypatch.setattr(tables.arena, "SYMBOLS_MAX", 3)
    engine = Engine([load("micro@1")], 0)
    for i in range(3):
        engine.apply(from_events(0, i, [instrument(f"V:{i}")]))[0]
    before = [engine.arena.dump(key) for key in engine.arena.keys]
    with pytest.raises(CheckFailed, match=r"V:3 is one symbol too many.*Action: spread the tape"):
        engine.apply(from_events(0, 3, [instrument("V:0"), instrument("V:3")]))[0]
    assert [engine.arena.dump(key) for key in engine.arena.keys] == before


def test_thousands_of_new_symbols_are_sorted_once() -> None:
    """Sorting for each of them would take a hundred times as long."""
    arena = Arena(capacity=4096)
    names = [f"V:{i}" for i in range(4096)]
    random.Random(2).shuffle(names)
    begin = time.perf_counter()
    for name in names:
        arena.slot(name)
    assert arena.names == sorted(names)
    assert time.perf_counter() - begin < 0.5


def test_touched_are_all_that_records_named(engine: Engine) -> None:
    """Also a symbol whose records were all applied before: its state must not stay behind the commit."""
    columns = from_events(0, 0, stream(3))
    engine.arena.clear_touched()
    assert engine.arena.touched() == []
    engine.apply(columns.slice(0, 0))[0]
    assert engine.arena.touched() == []
    engine.apply(columns)[0]
    assert sorted(engine.arena.touched()) == engine.arena.names


def test_the_stored_form_is_small(engine: Engine) -> None:
    assert max(len(engine.arena.dump(key)) for key in engine.arena.keys) < 12_000
