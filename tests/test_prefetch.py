"""Reading ahead changes no order and no error, makes no more than it may, and leaves no thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tapes import archive_of, market, tape

from replay.driver import replay
from replay.prefetch import ahead
from replay.reader import ArchiveReader
from schemas.columns import Columns, to_events
from schemas.errors import SegmentTorn
from schemas.feature_sets import DEFAULT, load


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Every test ends with the threads it began with."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Source:
    """Numbers from 0 on; `error` in the place of number `at`. Tells how many it has made and whether it was closed."""

    def __init__(self, count: int, error: BaseException | None = None, at: int = -1) -> None:
        self.made, self.closed, self.full = 0, False, threading.Event()
        self._count, self._error, self._at = count, error, at

    def items(self, expected: int = 0) -> Iterator[int]:
        """`full` is set when `expected` have been asked for."""
        try:
            for number in range(self._count):
                if number == self._at and self._error is not None:
                    raise self._error
                self.made += 1
                if self.made == expected:
                    self.full.set()
                yield number
        finally:
            self.closed = True


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 40])
def test_items_come_in_order(count: int, depth: int) -> None:
    source = Source(count)
    assert list(ahead(source.items(), depth)) == list(range(count))
    assert source.closed


@pytest.mark.parametrize(
    "error", [SegmentTorn("x", expected="a", was="b", action="c"), KeyboardInterrupt(), OSError(5)]
)
@pytest.mark.parametrize("at", [0, 1, 7])
def test_an_error_comes_in_its_place_as_it_is(error: BaseException, at: int) -> None:
    got: list[int] = []
    with pytest.raises(type(error)) as raised:
        got.extend(ahead(Source(9, error, at).items(), 3))
    assert got == list(range(at))
    assert raised.value is error


def test_an_error_behind_the_last_item_wanted_is_nobodys() -> None:
    with closing(ahead(Source(9, OSError(5), 2).items(), 3)) as items:
        assert next(items) == 0


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_is_made_than_may_wait(depth: int) -> None:
    source = Source(100)
    with closing(ahead(source.items(depth + 1), depth)) as items:
        assert source.made == 0, "nothing is read before the first item is asked for"
        assert next(items) == 0
        assert source.full.wait(5), "it reads ahead"
        assert source.made == depth + 1
    assert source.made == depth + 1
    assert source.closed


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_caller_that_raises_ends_the_reading(error: type[BaseException]) -> None:
    source = Source(100)

    def compute() -> None:
        for item in ahead(source.items(), 2):
            if item == 3:
                raise error

    with pytest.raises(error):
        compute()
    assert source.closed
    assert source.made <= 6


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive_of(tmp_path_factory.mktemp("tape") / "archive", tape(market(1, 900, 4)), segment_rows=100)


@pytest.mark.parametrize("batch_size", [None, 7, 100, 10_000])
def test_batches_read_ahead_are_those_read_one_by_one(small: Path, batch_size: int | None) -> None:
    reader = ArchiveReader(small)
    one_by_one = list(reader.batches(1, batch_size, read_ahead=False))
    read_ahead = list(reader.batches(1, batch_size))
    assert list(map(len, read_ahead)) == list(map(len, one_by_one))
    assert [to_events(batch) for batch in read_ahead] == [to_events(batch) for batch in one_by_one]


def test_a_torn_segment_is_met_in_its_place(small: Path, tmp_path: Path) -> None:
    part = tape(market(1, 900, 4))[1]
    path = archive_of(tmp_path / "archive", [part], segment_rows=100)
    victim = ArchiveReader(path).segments(1)[3]
    content = bytearray(victim.file(path).read_bytes())
    content[len(content) // 2] ^= 1
    victim.file(path).write_bytes(content)
    read: list[Columns] = []
    with pytest.raises(SegmentTorn, match=victim.stem):
        read.extend(ArchiveReader(path).batches(1))
    assert to_events(Columns.concat(read)) == to_events(part.slice(0, 300))


def test_a_replay_that_fails_or_ends_early_leaves_no_thread(small: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError

    reader = ArchiveReader(small)
    whole = replay(reader, load(DEFAULT))
    half = int(whole.vectors.time[len(whole.vectors) // 2])
    assert len(replay(reader, load(DEFAULT), to_ns=half).vectors) < len(whole.vectors)
    with pytest.raises(RuntimeError) as raised:
        replay(reader, load(DEFAULT), progress=fail)
    assert raised.tb is not None, "whoever keeps the error keeps no thread"
