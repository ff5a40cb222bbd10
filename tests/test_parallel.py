"""Threads over disjoint symbols give the bits of one; whatever fails is raised once, and no thread stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from streams import stream
from tapes import archive_of, market, tape

from agents.features import features_agent
from agents.ports import Batch, Emit, States
from replay import parallel
from replay.driver import MemoryStates, replay, run
from replay.ports import Owns
from replay.reader import ArchiveReader
from schemas.columns import Columns, from_events
from schemas.feature_sets import FeatureSet, load
from schemas.vectors import Vectors

ROOT = Path(__file__).resolve().parent.parent
SET = load("micro@2")
KEYS = [f"BINANCE_USDM:S{i}" for i in range(7)]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ArchiveReader:
    events = market(51, 2500, 9, KEYS)
    return ArchiveReader(archive_of(tmp_path_factory.mktemp("parallel") / "archive", tape(events), segment_rows=600))


def same(left: Vectors, right: Vectors) -> bool:
    return len(left) == len(right) and left.keys == right.keys and bool(left.same_bits(right).all())


@pytest.mark.fault("replay", "one, two, three or more threads; one or two partitions")
@pytest.mark.parametrize("threads", [2, 3, 4, 9])
@pytest.mark.parametrize("batch_size", [1, 64, None])
def test_threads_do_not_matter(archive: ArchiveReader, threads: int, batch_size: int | None) -> None:
    whole = replay(archive, SET)
    seen: list[tuple[int, int]] = []
    other = replay(
        archive, SET, threads=threads, batch_size=batch_size, progress=lambda done, total: seen.append((done, total))
    )
    assert len(whole.vectors) > 30
    assert same(other.vectors, whole.vectors)
    assert (other.content_hash, other.events) == (whole.content_hash, whole.events)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_symbols_and_spans_do_not_matter(archive: ArchiveReader) -> None:
    whole = replay(archive, SET).vectors
    middle = int(np.median(whole.time))
    chosen = {"symbols": KEYS[2:5], "from_ns": middle, "to_ns": middle + 2 * 10**9}
    assert same(replay(archive, SET, threads=3, **chosen).vectors, replay(archive, SET, **chosen).vectors)


@pytest.mark.parametrize("seed", range(30, 34))
def test_faulty_streams_and_slices_do_not_matter(seed: int) -> None:
    """Symbols that appear late, behind Ticks of which some are late or doubled, in slices of one list of keys."""
    columns = from_events(0, 0, stream(seed, seconds=12.0, holes=seed % 2))
    whole = run([columns], SET, MemoryStates()).sorted()
    slices = [columns.slice(at, min(at + 97, len(columns))) for at in range(0, len(columns), 97)]
    for threads in (2, 3):
        got = parallel.run(((each, False) for each in slices), SET, threads).sorted()
        assert len(got) == len(whole) > 10
        assert got.same_bits(whole).all()


def test_saved_states_are_those_of_one_thread() -> None:
    columns = from_events(0, 0, stream(35, seconds=12.0))
    slices = [columns.slice(at, min(at + 60, len(columns))) for at in range(0, len(columns), 60)]
    expected, states = list[dict[str, bytes]](), MemoryStates()
    for each in slices:
        run([each], SET, states, saves=True)
        expected.append(dict(states.blobs))
    joined, got = dict[str, bytes](), list[dict[str, bytes]]()

    def saved(blobs: dict[str, bytes]) -> None:
        joined.update(blobs)
        got.append(dict(joined))

    parallel.run(((each, True) for each in slices), SET, 3, saved=saved)  # type: ignore[arg-type]
    assert got == expected
    again = parallel.run(((each, False) for each in slices[5:]), SET, 3, blobs=expected[4]).sorted()
    whole = run(slices, SET, MemoryStates()).sorted()
    assert again.same_bits(whole.select(whole.as_of_offset > int(slices[4].offset[-1]))).all()


async def failing_agent(
    batches: AsyncIterable[Batch], states: States, emit: Emit, sets: Sequence[FeatureSet], *, owns: Owns | None = None
) -> None:
    """The features agent of the other threads; that of S0's fails at its third batch."""
    assert owns is not None

    async def watched() -> AsyncIterator[Batch]:
        count = 0
        async for batch in batches:
            count += 1
            if count == 3 and owns(KEYS[0]):
                raise ArithmeticError("the third batch")
            yield batch

    await features_agent(watched(), states, emit, sets, owns=owns)


def test_an_error_of_a_thread_stops_all(archive: ArchiveReader) -> None:
    with pytest.raises(ArithmeticError, match="the third batch"):
        replay(archive, SET, threads=3, batch_size=16, agent=failing_agent)


def test_an_error_of_the_source_stops_all() -> None:
    columns = from_events(0, 0, stream(36, seconds=3.0))

    def torn() -> Iterator[tuple[Columns, bool]]:
        for at in range(0, 60, 10):
            yield columns.slice(at, at + 10), False
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        parallel.run(torn(), SET, 3)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_interrupt_stops_at_once(threads: int) -> None:
    """An endless tape: only the interrupt ends the process."""
    code = (
        "import itertools, signal, sys; from replay import parallel; from replay.driver import MemoryStates, run;"
        "from schemas.feature_sets import load; from streams import stream; from schemas.columns import from_events;"
        "columns = from_events(0, 0, stream(37, seconds=3.0)); threads = int(sys.argv[1]);"
        "tape = itertools.chain([columns], map(lambda i: (print(i, flush=True), columns)[1], itertools.count()));"
        "wanted = load('micro@2');"
        "run(tape, wanted, MemoryStates()) if threads == 1 else "
        "parallel.run(((each, False) for each in tape), wanted, threads)"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT}/tests", "HOME": "/tmp"}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(threads)], cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "0\n"
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in told
    assert child.returncode in (130, -signal.SIGINT, 1)
