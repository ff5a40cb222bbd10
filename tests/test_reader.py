"""A reader shows what was archived once, whole, and nothing of what is still being moved in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tapes import INSTRUMENTS, KAFKA, archive_of, market, tape

from replay.archive import live, staged
from replay.audit import audit
from replay.folder import IMPORT, hidden_segments
from replay.groups import row_groups
from replay.reader import ArchiveReader
from schemas.codec import DeadLetter
from schemas.columns import to_events
from schemas.errors import ArchiveHole, SegmentTorn, UsageError
from schemas.feature_sets import FeatureSet, Policy
from schemas.topics import TAPE
from schemas.vectors import Vectors

SET = FeatureSet("probe", 3, 1000, ("mid_price", "spread"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two partitions of several segments each."""
    return archive_of(tmp_path / "archive", tape(market(1, 900, 4)), segment_rows=200)


def test_unknown_symbols_name_near_ones(small: Path) -> None:
    with pytest.raises(UsageError, match="BINANCE_USDM:ETHUSDT"):
        ArchiveReader(small).check_symbols(["BINANCE_USDM:ETHUSD"])


def vectors(times: Sequence[int], values: Sequence[float]) -> Vectors:
    n = len(times)
    longs = np.arange(n, dtype=np.int64)
    matrix = np.array([[value, np.nan] for value in values])
    return Vectors(
        SET, ["A:B"], np.zeros(n, np.int32), np.array(times, np.int64), np.zeros(n, np.int32), longs * 0, longs * 0,
        longs * 0, longs * 0, matrix,
    )  # fmt: skip


def test_vectors_are_shown_once_and_contradictions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with live(path, 2, origin=KAFKA) as writer:
        writer.append_vectors(0, [0, 1, 2], vectors([10, 20, 30], [1.0, 2.0, -0.0]))
        writer.append_vectors(0, [3, 4], vectors([20, 30], [2.0, 0.0]))
    read = ArchiveReader(path).vectors(SET)
    assert read.vectors.time.tolist() == [10, 20, 30]
    assert read.repeats == 1
    assert read.conflicts == [("A:B", 30)], "-0.0 and 0.0 are different bytes"
    for changed, words in [
        (FeatureSet("probe", 3, 1000, ("mid_price", "depth")), "features .depth"),
        (FeatureSet("probe", 3, 500, SET.features), "cadence_ms"),
        (FeatureSet("probe", 3, 1000, SET.features, {"mid_price": Policy(skips_row=True)}), "policies"),
    ]:
        with pytest.raises(UsageError, match=rf"another definition.*{words}.*Action: give the changed .* new version"):
            ArchiveReader(path).vectors(changed)
    with pytest.raises(UsageError, match="no live vectors"):
        ArchiveReader(path).vectors(FeatureSet("probe", 4, 1000, ("mid_price",)))
    with pytest.raises(UsageError, match="new version"), live(path, 2, origin=KAFKA) as writer:
        writer.append_vectors(0, [], Vectors.empty(FeatureSet("probe", 3, 1000, ("mid_price",))))


def test_dead_letters_come_back(tmp_path: Path) -> None:
    letters = [DeadLetter(TAPE, 1, i, b"\xff\x00", "key-malformed", bytes(range(i))) for i in range(5)]
    with live(tmp_path / "archive", 2, origin=KAFKA) as writer:
        writer.append_dead_letters(0, range(7, 12), letters)
    read = list(ArchiveReader(tmp_path / "archive").dead_letters())
    assert [(partition, offset) for partition, offset, _ in read] == [(0, 7 + i) for i in range(5)]
    assert [letter for _, _, letter in read] == letters


@pytest.mark.fault("archive", "archiver killed while readers read")
def test_an_import_that_begins_or_ends_while_a_reader_looks_is_not_seen_in_part(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import moves its segments in between the reader's look at pending.json and its look at the segments."""
    reader = ArchiveReader(small)
    before = reader.segments(1)
    files = [segment.file(small) for segment in before[-2:]]
    moved = {path: path.read_bytes() for file in files for path in (file, file.with_suffix(".json"))}
    for path in moved:
        path.unlink()
    pending = small / "pending.json"
    steps: list[Callable[[], None]] = []

    def begin() -> None:
        pending.write_text(json.dumps({"segments": [segment.label() for segment in before[-2:]]}))
        for path in list(moved)[:2]:
            path.write_bytes(moved[path])

    def end() -> None:
        for path, content in moved.items():
            path.write_bytes(content)
        pending.unlink()

    def look(path: Path) -> frozenset[str]:
        seen = hidden_segments(path)
        if steps:
            steps.pop(0)()
        return seen

    monkeypatch.setattr("replay.reader.hidden_segments", look)
    steps[:] = [begin]
    assert reader.segments(1) == before[:-2]
    steps[:] = [end]
    assert reader.segments(1) == before


def test_a_dead_letter_that_was_delivered_again_is_shown_once(tmp_path: Path) -> None:
    """Those of two recordings that share a file name are two."""
    first, second = (DeadLetter(TAPE, 1, i, b"k", "not-avro", b"x" * 5000) for i in range(2))
    other = first._replace(original=b"y")
    with live(tmp_path / "archive", 2, origin=KAFKA) as writer:
        writer.append_dead_letters(0, range(3), [first, second, first])
        writer.flush()
        writer.append_dead_letters(0, range(3, 5), [first, other])
        writer.append_dead_letters(1, [0], [second])
    read = list(ArchiveReader(tmp_path / "archive").dead_letters())
    assert read == [(0, 0, first.bounded()), (0, 1, second.bounded()), (0, 4, other)]
    assert read[0][2].cut_bytes == 5000 - 4096


@pytest.mark.fault("archive", "segment or its sidecar missing")
@pytest.mark.parametrize("origin", [IMPORT, KAFKA])
def test_a_whole_partition_that_is_gone_is_a_hole(tmp_path: Path, origin: str) -> None:
    path, parts = tmp_path / "archive", tape(market(2, 300, 3), 3)
    with live(path, 3, origin=origin) as writer:
        assert audit(path).ok, "nothing is there yet"
        assert ArchiveReader(path).partitions() == []
        for part in parts:
            writer.append_tape(part)
    assert audit(path).ok
    shutil.rmtree(path / f"topic={TAPE}" / "partition=2")
    assert audit(path).holes == [{"topic": TAPE, "partition": 2, "first": None, "last": None}]
    action = "import again" if origin == IMPORT else "from a copy$"
    with pytest.raises(ArchiveHole, match=rf"tape partition 2 .*Action: .*{action}"):
        ArchiveReader(path).partitions()


@pytest.mark.fault("archive", "segment or its sidecar missing")
@pytest.mark.parametrize("position", [0, 1, -1])
def test_a_lost_sidecar_is_not_a_killed_writer(small: Path, position: int) -> None:
    folder = small / f"topic={TAPE}" / "partition=1"
    sidecar = sorted(folder.glob("*.json"))[position]
    ready = sidecar.with_name(f"{sidecar.name}.tmp")
    whole = sidecar.read_bytes()
    sidecar.unlink()
    found = audit(small)
    assert not found.ok
    assert [sidecar.name in text for text in found.torn] == [True]
    assert found.unpublished == []
    with pytest.raises(ArchiveHole, match=rf"{sidecar.name}.*Action: restore .* import again"):
        ArchiveReader(small).segments(1)
    with pytest.raises(ArchiveHole, match=sidecar.name), staged(small, 2):
        pass
    assert sidecar.with_suffix(".parquet").exists(), "a writer does not remove what only lacks its sidecar"
    sidecar.write_bytes(whole)
    if position == -1:
        sidecar.rename(ready)
        assert audit(small).ok
        assert audit(small).unpublished == [f"topic={TAPE}/partition=1/{sidecar.stem}.parquet"]
        with staged(small, 2):
            assert not ready.exists()
        assert not sidecar.with_suffix(".parquet").exists()


@pytest.mark.parametrize("bounds", [(0, 10_000), (250, 251), (333, 555)])
@pytest.mark.parametrize("symbols", [INSTRUMENTS, INSTRUMENTS[:1], []])
def test_rows_are_chosen_by_symbol_and_offset(tmp_path: Path, symbols: Sequence[str], bounds: tuple[int, int]) -> None:
    whole = tape(market(3, 900, 3), 1)[0]
    reader = ArchiveReader(archive_of(tmp_path / "archive", [whole], 1, 100))
    keys = [whole.keys.index(each) for each in (*symbols, "*")]
    low, high = bounds
    expected = np.isin(whole.key, keys) & (whole.offset >= low) & (whole.offset <= high)
    batches = list(reader.batches(0, symbols=symbols, first_offset=low, last_offset=high))
    assert [event for batch in batches for event in to_events(batch)] == to_events(whole.take(expected))
    assert all(len(batch) for batch in batches)
    if not symbols:
        assert all(len(batch.body) == len(batch) for batch in batches), "a Tick is one number, no book is decoded"


@pytest.mark.fault("archive", "a small file that expands to gigabytes")
def test_a_row_group_that_would_expand_beyond_bounds_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little of the file it takes: a column of equal steps is stored in a few bytes."""
    segment = ArchiveReader(small).segments(1)[0]
    with pq.ParquetFile(segment.file(small)) as parquet:
        encoded = parquet.metadata.row_group(0).total_byte_size
    monkeypatch.setattr("replay.groups.GROUP_BYTES_MAX", encoded + 1)
    for read in (row_groups(small, segment), ArchiveReader(small).batches(1)):
        with pytest.raises(SegmentTorn, match=f"row groups under {encoded + 1} bytes"):
            next(read)
