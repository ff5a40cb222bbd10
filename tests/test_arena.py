"""A stored row comes back as it was, or is refused with a reason and an Action."""

from __future__ import annotations

import random
import struct
import time
import zlib

import numpy as np
import pytest
import zstandard
from frames import instrument
from streams import stream

import tables.arena
from agents.engine import Engine
from schemas.columns import from_events
from schemas.errors import CheckFailed, StateRefused
from schemas.feature_sets import load
from schemas.limits import LEVELS_MAX
from tables import layout as at
from tables.arena import Arena
from tables.far import set_far_levels
from tables.side import set_levels
from tables.stored import pack, unpack

KEY = "USDM:A"


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
    set_levels(row, at.BID, ranks, sizes)
    set_levels(row, at.ASK, ranks - (1 << 40), sizes)
    other = Arena()
    other.restore(KEY, arena.dump(KEY))
    assert (other.row(KEY) == row).all()


def test_every_flipped_bit_is_refused(engine: Engine) -> None:
    blob = engine.arena.dump(KEY)
    chance = random.Random(1)
    for place in [*range(60), *(chance.randrange(len(blob)) for _ in range(200))]:
        torn = bytearray(blob)
        torn[place] ^= 1 << chance.randrange(8)
        with pytest.raises(StateRefused, match="Action"):
            Arena().restore(KEY, bytes(torn))


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


def test_another_layout_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = engine.arena.dump(KEY)
    monkeypatch.setattr(at, "LAYOUT_HASH", at.LAYOUT_HASH ^ 1)
    with pytest.raises(StateRefused, match="layout 2, hash"):
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
        set_far_levels(arena.row(KEY), at.BID, np.array([-5]), np.array([1]))
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
    words = pack(np.zeros(at.ROW_SIZE, np.int64))
    unpack(words, np.zeros(at.ROW_SIZE, np.int64))
    words[at.BID_COUNT + side] = 1
    signed = rank if side == at.BID else -rank
    # In the stored form the lowest bit is the sign.
    words = np.concatenate([words, [(signed << 1) ^ (signed >> 63), size]])
    with pytest.raises(ValueError, match="levels"):
        unpack(words, np.zeros(at.ROW_SIZE, np.int64))


def test_a_frame_that_claims_more_than_its_state_is_refused_unread() -> None:
    """Whatever a frame claims would be reserved first."""
    claimed = b"\x28\xb5\x2f\xfd\xe0" + (1 << 45).to_bytes(8, "little") + b"\x01\x00\x00"
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(800))
    for frame in (claimed, unknown, b"", b"\x28\xb5\x2f\xfd"):
        content = KEY.encode() + frame
        head = (b"OTSR", at.LAYOUT_VERSION, len(KEY), at.LAYOUT_HASH, 0, 100, zlib.crc32(content))
        with pytest.raises(StateRefused, match="Action"):
            Arena().restore(KEY, struct.pack("<4sHHQQII", *head) + content)


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
