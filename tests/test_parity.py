"""Parity finds one bit, one missing and one surplus vector, and excuses nothing but what is still on its way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tapes import archive_of, market, tape

from replay.archive import live
from replay.driver import replay
from replay.folder import IMPORT
from replay.parity import Parity, parity
from replay.reader import ArchiveReader
from schemas.errors import UsageError
from schemas.feature_sets import load
from schemas.vectors import Vectors

SET = load("micro@1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return archive_of(tmp_path / "archive", tape(market(31, 1200, 8)))


def emitted(path: Path) -> Vectors:
    """The vectors a faultless worker would have emitted."""
    return replay(ArchiveReader(path), SET).vectors


def archive_live(path: Path, vectors: Vectors) -> None:
    with live(path, 2, origin=IMPORT) as writer:
        first = writer.next_offset(SET.topic, 0) or 0
        writer.append_vectors(0, range(first, first + len(vectors)), vectors)


def compared(path: Path, in_flight: bool = False) -> Parity:
    return parity(ArchiveReader(path), SET, in_flight=in_flight)


def counts(found: Parity) -> tuple[int, int, int, int]:
    return found.mismatch, found.missing, found.extra, found.conflicting


def test_equal_vectors_are_equal(path: Path) -> None:
    vectors = emitted(path)
    archive_live(path, vectors)
    archive_live(path, vectors.select(np.array([2, 5])))
    found = compared(path)
    assert found.ok
    assert (found.compared, found.repeats, found.equal_percent) == (len(vectors), 2, 100.0)
    assert found.json()["differences"] == []


@pytest.mark.parametrize("column", ["values", "quality", "as_of_offset", "ts_available", "book_epoch", "partition"])
def test_one_flipped_bit_is_named(path: Path, column: str) -> None:
    vectors = emitted(path)
    row = 7
    if column == "values":
        known = int(np.flatnonzero(~np.isnan(vectors.values[row]))[0])
        vectors.values.view(np.uint64)[row, known] ^= 1
        column = SET.features[known]
    else:
        getattr(vectors, column)[row] ^= 1
    archive_live(path, vectors)
    found = compared(path)
    assert not found.ok
    assert counts(found) == (1, 0, 0, 0)
    difference = found.differences[0]
    assert (difference.instrument, difference.time) == (vectors.instruments()[row], int(vectors.time[row]))
    assert difference.column == column
    assert difference.live != difference.replayed


def test_a_null_is_not_a_number(path: Path) -> None:
    vectors = emitted(path)
    vectors.values[4, SET.features.index("mid_price")] = np.nan
    archive_live(path, vectors)
    assert counts(compared(path)) == (1, 0, 0, 0)
    assert compared(path).differences[0].live is None


def test_a_dropped_last_epoch_cannot_hide(path: Path) -> None:
    vectors = emitted(path)
    last = vectors.time == vectors.time.max()
    archive_live(path, vectors.select(~last))
    found = compared(path)
    assert counts(found) == (0, int(last.sum()), 0, 0)
    assert {difference.column for difference in found.differences} == {"missing"}
    assert compared(path, in_flight=True).ok
    assert compared(path, in_flight=True).pending == int(last.sum())


def test_a_hole_in_the_middle_is_missing_even_in_flight(path: Path) -> None:
    vectors = emitted(path)
    archive_live(path, vectors.select(np.arange(len(vectors)) != 5))
    for in_flight in (False, True):
        assert counts(compared(path, in_flight)) == (0, 1, 0, 0)


def test_surplus_and_contradicting_vectors_are_counted(path: Path) -> None:
    vectors = emitted(path)
    surplus = vectors.select(np.array([3]))
    surplus.time[0] += 1
    ahead = vectors.select(np.array([len(vectors) - 1]))
    ahead.time[0] += 10**12
    ahead.as_of_offset[0] += 10**6
    other = vectors.select(np.array([2]))
    other.quality[0] ^= 1
    archive_live(path, Vectors.concat([vectors, surplus, ahead, other]))
    assert counts(compared(path)) == (0, 0, 2, 1)
    found = compared(path, in_flight=True)
    assert (counts(found), found.pending) == ((0, 0, 1, 1), 1)


def test_nothing_compared_is_not_a_proof(path: Path) -> None:
    with pytest.raises(UsageError, match=r"no live vectors.*Action"):
        compared(path)
    archive_live(path, Vectors.empty(SET))
    assert not compared(path).ok
