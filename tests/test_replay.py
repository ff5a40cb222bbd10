"""A replay gives the same vectors however it is cut, and its files whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tapes import INSTRUMENTS, START, archive_of, market, tape

from replay.digest import vectors_digest
from replay.driver import replay, write
from replay.reader import ArchiveReader
from schemas.errors import UsageError
from schemas.feature_sets import DEFAULT, load
from schemas.units import NS_PER_S
from schemas.vectors import Vectors

ROOT = Path(__file__).resolve().parent.parent
SET = load(DEFAULT)
EVENTS = market(21, 1500, 8)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ArchiveReader:
    return ArchiveReader(archive_of(tmp_path_factory.mktemp("replay") / "archive", tape(EVENTS), segment_rows=450))


def same(left: Vectors, right: Vectors) -> bool:
    return len(left) == len(right) and bool(left.same_bits(right).all())


@pytest.mark.fault("replay", "batches of 1, 7, 64 and 10^4 records")
def test_batches_do_not_matter(archive: ArchiveReader) -> None:
    whole = replay(archive, SET)
    assert len(whole.vectors) > 15
    assert not np.isnan(whole.vectors.values).all()
    for batch_size in (1, 7, 64):
        other = replay(archive, SET, batch_size=batch_size)
        assert same(other.vectors, whole.vectors)
        assert (other.content_hash, other.events) == (whole.content_hash, whole.events)


@pytest.mark.fault("replay", "one, two, three or more threads; one or two partitions")
def test_partitions_and_segments_do_not_matter(archive: ArchiveReader, tmp_path: Path) -> None:
    one = ArchiveReader(archive_of(tmp_path / "one", tape(EVENTS, 1), 1, 10**6))
    assert replay(one, SET).content_hash == replay(archive, SET).content_hash


@pytest.mark.fault("replay", "hash seeds 0 and 1")
def test_a_hash_seed_does_not_matter(archive: ArchiveReader) -> None:
    code = (
        "import sys; from pathlib import Path; from replay.driver import replay;"
        "from replay.reader import ArchiveReader; from schemas.feature_sets import load;"
        "print(replay(ArchiveReader(Path(sys.argv[1])), load('micro@2')).content_hash)"
    )
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(archive.path)], cwd=ROOT, env={"PYTHONHASHSEED": seed, "HOME": "/tmp"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == replay(archive, SET).content_hash


def test_symbols_and_spans_are_parts_of_the_whole(archive: ArchiveReader) -> None:
    whole = replay(archive, SET).vectors
    some = replay(archive, SET, symbols=INSTRUMENTS[:1]).vectors
    assert same(some, whole.select(np.array([key == INSTRUMENTS[0] for key in whole.instruments()])))
    begin, end = START + 3 * NS_PER_S, START + 6 * NS_PER_S
    span = replay(archive, SET, from_ns=begin, to_ns=end)
    assert same(span.vectors, whole.select((whole.time >= begin) & (whole.time < end)))
    assert span.events < replay(archive, SET).events
    ended = replay(archive, SET, last_offsets={1: 700}).vectors
    assert same(ended, whole.select((whole.partition == 1) & (whole.as_of_offset <= 700)))


def test_one_bit_changes_the_content_hash(archive: ArchiveReader) -> None:
    vectors = replay(archive, SET).vectors
    before = vectors_digest(vectors)
    assert vectors_digest(vectors.select(np.arange(len(vectors))[::-1])) == before
    changed = vectors.select(np.arange(len(vectors)))
    changed.values[3, 0] = np.nextafter(changed.values[3, 0], np.inf)
    assert vectors_digest(changed) != before
    assert vectors_digest(vectors.select(np.arange(len(vectors) - 1))) != before


def test_progress_ends_at_the_whole(archive: ArchiveReader) -> None:
    seen: list[tuple[int, int]] = []
    replay(archive, SET, batch_size=500, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == sum(s.rows for p in (0, 1) for s in archive.segments(p))


def test_files_open_without_our_code_and_overwrite_nothing(archive: ArchiveReader, tmp_path: Path) -> None:
    replayed, out = replay(archive, SET), tmp_path / "new" / "out"
    write(replayed, archive, out)
    frame = pl.read_parquet(out / "vectors.parquet")
    assert frame.height == len(replayed.vectors)
    assert frame.columns[-len(SET.features) :] == list(SET.features)
    assert not frame.select(pl.col(pl.Float64).is_nan().any()).row(0).count(True), "what is unknown is null"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["content_hash"] == replayed.content_hash
    assert manifest["inputs"][0]["first_offset"] == 0
    with pytest.raises(UsageError, match=r"not empty.*Action"):
        write(replayed, archive, out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]
