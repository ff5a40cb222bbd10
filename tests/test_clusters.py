"""A reader of one instrument decodes that instrument's rows and the clock's; all readers get the tape in its order."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import events
from tapes import KAFKA, archive_of, market, tape

from replay import clusters
from replay import segments as files
from replay.archive import live
from replay.audit import audit
from replay.driver import replay
from replay.reader import ArchiveReader
from schemas.columns import Columns, from_events, to_events
from schemas.errors import SegmentTorn, UsageError
from schemas.events import Event
from schemas.feature_sets import load
from schemas.topics import CLOCK_KEY, TAPE

SYMBOLS = [f"BINANCE_USDM:S{number:02d}USDT" for number in range(16)]
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 120 rows, row groups of 10 rows at least."""
    monkeypatch.setattr(clusters, "BLOCK_ROWS_MAX", 120)
    monkeypatch.setattr(clusters, "SHARED_ROWS_MIN", 10)
    monkeypatch.setattr(clusters, "GROUP_ROWS_MAX", 50)


def rows_of(whole: Columns, symbols: Sequence[str]) -> Columns:
    """From the definition: the rows of these instruments and the clock."""
    wanted = [place for place, key in enumerate(whole.keys) if key in {*symbols, CLOCK_KEY}]
    return whole.take(np.isin(whole.key, wanted))


def read(path: Path, partition: int = 0, **chosen: object) -> list[Event]:
    batches = ArchiveReader(path).batches(partition, **chosen)  # type: ignore[arg-type]
    return [event for batch in batches for event in to_events(batch)]


@shared
@given(
    rows=st.lists(events(), min_size=1, max_size=8), seed=st.integers(0, 2**32), count=st.integers(1, 500),
    segment_rows=st.integers(100, 400), bounds=st.tuples(st.integers(0, 500), st.integers(0, 500)),
)  # fmt: skip
def test_rows_come_back_in_order_whatever_their_clusters(
    tiny: None, tmp_path: Path, rows: list[Event], seed: int, count: int, segment_rows: int, bounds: tuple[int, int]
) -> None:
    path, chance = tmp_path / "archive", random.Random(seed)
    shutil.rmtree(path, ignore_errors=True)
    keys = chance.choices(["?", CLOCK_KEY, *SYMBOLS], k=chance.randrange(1, 9))
    whole = from_events(0, 0, [chance.choice(rows)._replace(key=chance.choice(keys)) for _ in range(count)])
    archive_of(path, [whole], 1, segment_rows)
    assert read(path) == to_events(whole)
    assert read(path, batch_size=37) == to_events(whole)
    assert audit(path).ok
    assert audit(path).offsets == count
    low, high = min(bounds), max(bounds)
    within = whole.take((whole.offset >= low) & (whole.offset <= high))
    assert read(path, first_offset=low, last_offset=high) == to_events(within)
    symbols = chance.sample(SYMBOLS, 2)
    for part, chosen in ((whole, {}), (within, {"first_offset": low, "last_offset": high})):
        assert read(path, symbols=symbols, **chosen) == to_events(rows_of(part, symbols))
    for segment in ArchiveReader(path).segments(0):
        for block in segment.blocks:
            assert len(block) <= clusters.BLOCK_GROUPS_MAX
            assert len(block) == 1 or all(group.rows <= 50 for group in block)


def repeated(whole: Columns, times: int) -> Columns:
    """The same records again and again, at offsets that go on."""
    parts = [dataclasses.replace(whole, offset=whole.offset + turn * len(whole)) for turn in range(times)]
    return Columns.concat(parts)


def test_no_row_of_fifteen_other_instruments_is_decoded(tmp_path: Path) -> None:
    whole = repeated(tape(market(5, 4_000, 8, SYMBOLS), 1)[0], 25)
    path = archive_of(tmp_path / "archive", [whole], 1, 1_000_000)
    for symbol in SYMBOLS[::5]:
        reader = ArchiveReader(path)
        assert [e for each in reader.batches(0, symbols=[symbol]) for e in to_events(each)] == to_events(
            rows_of(whole, [symbol])
        )
        assert reader.decoded.rows == len(rows_of(whole, [symbol])), "the others' rows stay in the file"
        assert reader.decoded.size_bytes < sum(segment.size_bytes for segment in reader.segments(0)) / 8
    reader = ArchiveReader(path)
    assert sum(map(len, reader.batches(0))) == len(whole) == reader.decoded.rows


def test_many_small_instruments_share_few_row_groups(tmp_path: Path) -> None:
    symbols = [f"BINANCE_USDM:S{number:03d}USDT" for number in range(120)]
    whole = repeated(tape(market(5, 3_000, 4, symbols), 1)[0], 12)
    [segment] = ArchiveReader(archive_of(tmp_path / "archive", [whole], 1, 1_000_000)).segments(0)
    [block] = segment.blocks
    assert 2 < len(block) <= 12
    assert min(group.rows for group in block if segment.keys[group.first_key] != CLOCK_KEY) > 1_000
    assert read(tmp_path / "archive") == to_events(whole)


def test_a_tape_of_one_instrument_stays_in_its_order(tmp_path: Path) -> None:
    whole = repeated(tape(market(5, 3_000, 8, SYMBOLS[:1]), 1)[0], 30)
    [segment] = ArchiveReader(archive_of(tmp_path / "archive", [whole], 1, 1_000_000)).segments(0)
    assert all(len(block) == 1 for block in segment.blocks)
    assert [group.rows for [group] in segment.blocks] == [65_536, len(whole) - 65_536]


def test_a_replay_of_one_instrument_is_that_of_all(tiny: None, tmp_path: Path) -> None:
    parts = tape(market(8, 1_500, 6, SYMBOLS[:6]))
    reader = ArchiveReader(archive_of(tmp_path / "archive", parts))
    whole = replay(reader, load("micro@2")).vectors
    for symbol in SYMBOLS[:3]:
        alone = replay(reader, load("micro@2"), symbols=[symbol]).vectors
        expected = whole.select(whole.key == whole.keys.index(symbol))
        assert len(alone) == len(expected) > 0
        assert alone.same_bits(expected).all()


@pytest.fixture
def clustered(tiny: None, tmp_path: Path) -> Path:
    """One segment of two instruments and the clock, in several blocks."""
    return archive_of(tmp_path / "archive", [tape(market(3, 400, 4, SYMBOLS[:2]), 1)[0]], 1)


def segment_of(path: Path) -> files.Segment:
    [segment] = ArchiveReader(path).segments(0)
    return segment


def spans(segment: files.Segment) -> list[tuple[int, int, set[str]]]:
    """First byte, end and keys of each row group."""
    groups = [group for block in segment.blocks for group in block]
    begins = [0, *(group.end for group in groups)]
    return [
        (begin, group.end, set(segment.keys[group.first_key : group.last_key + 1]))
        for begin, group in zip(begins, groups, strict=False)
    ]


def test_row_groups_and_footer_are_the_whole_file(clustered: Path) -> None:
    segment = segment_of(clustered)
    with pq.ParquetFile(segment.file(clustered)) as parquet:
        for i, (begin, end, keys) in enumerate(spans(segment)):
            group = parquet.metadata.row_group(i)
            chunks = [group.column(j) for j in range(group.num_columns)]
            firsts = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks]
            assert min(firsts) == (begin or 4)
            assert max(at + chunk.total_compressed_size for at, chunk in zip(firsts, chunks, strict=True)) == end
            assert set(parquet.read_row_group(i)["key"].to_pylist()) <= keys
    assert len(segment.blocks) > 2
    assert all(len(block) > 2 for block in segment.blocks[:-1]), "the clock and both instruments"


@pytest.mark.fault("archive", "one bit flipped")
def test_a_bit_flipped_in_what_one_instrument_reads_is_refused(clustered: Path) -> None:
    segment, chance = segment_of(clustered), random.Random(4)
    path, before = segment.file(clustered), read(clustered, symbols=SYMBOLS[:1])
    whole, found = path.read_bytes(), spans(segment)
    for _ in range(150):
        torn = bytearray(whole)
        at = chance.randrange(len(whole))
        torn[at] ^= 1 << chance.randrange(8)
        path.write_bytes(torn)
        keys = next((keys for begin, end, keys in found if begin <= at < end), {CLOCK_KEY})
        if keys & {CLOCK_KEY, SYMBOLS[0]}:
            with pytest.raises(SegmentTorn, match=r"sha256 .* of bytes \d+\.\.\d+.*Action"):
                read(clustered, symbols=SYMBOLS[:1])
        else:
            assert read(clustered, symbols=SYMBOLS[:1]) == before, "nothing of it is read"
        assert not audit(clustered).ok
    path.write_bytes(whole)
    assert audit(clustered).ok


def rewritten(path: Path, change: str) -> None:
    """The segment with a fault in its row groups, and a sidecar that vouches for it."""
    segment = segment_of(path)
    with pq.ParquetFile(segment.file(path)) as parquet:
        tables = [parquet.read_row_group(i) for i in range(parquet.num_row_groups)]
    places = [place for place, (_, _, keys) in enumerate(spans(segment)) if SYMBOLS[0] in keys]
    other = next(place for place, (_, _, keys) in enumerate(spans(segment)) if SYMBOLS[1] in keys)
    if change == "of another block":
        tables[places[0]], tables[places[-1]] = tables[places[-1]], tables[places[0]]
    elif change == "of another instrument":
        tables[places[0]], tables[other] = tables[other], tables[places[0]]
    else:
        table = tables[places[0]]
        at = table["offset"].to_numpy().copy()
        at[1] = at[0] if change == "doubled" else tables[other]["offset"][0].as_py()
        at.sort()
        tables[places[0]] = table.set_column(0, table.schema.field("offset"), [at])
    blocks, sizes = [], iter(tables)
    for block in segment.blocks:
        blocks.append(tuple(group._replace(rows=next(sizes).num_rows) for group in block))
    segment.file(path).with_suffix(".json").unlink()
    files.publish(path, dataclasses.replace(segment, blocks=tuple(blocks)), tables[0].schema, tables, {})


@pytest.mark.parametrize("change", ["of another block", "of another instrument", "doubled", "twice"])
def test_row_groups_with_other_rows_are_refused(clustered: Path, change: str) -> None:
    rewritten(clustered, change)
    with pytest.raises(SegmentTorn, match=r"row groups? .*Action"):
        read(clustered)
    assert audit(clustered).torn


def test_a_sidecar_whose_row_groups_are_no_file_s_is_refused(clustered: Path) -> None:
    segment = segment_of(clustered)
    sidecar, [first, *others] = segment.file(clustered).with_suffix(".json"), segment.blocks
    for blocks in ((), (first,), (first, *others, others[0]), ((first[0]._replace(rows=10**9), *first[1:]), *others)):
        files.write_json(sidecar, files._sealed(dataclasses.replace(segment, blocks=blocks)))
        for symbols in (None, SYMBOLS[:1]):
            with pytest.raises(SegmentTorn, match="Action"):
                read(clustered, symbols=symbols)


def test_an_archive_of_an_older_version_says_what_to_do(clustered: Path, tmp_path: Path) -> None:
    sidecar = segment_of(clustered).file(clustered).with_suffix(".json")
    sealed = json.loads(sidecar.read_bytes())
    sidecar.write_text(json.dumps({**sealed, "version": 1}))
    with pytest.raises(SegmentTorn, match=r"older version.*version 1.*Action: import again"):
        read(clustered)
    head = json.loads((clustered / "archive.json").read_bytes())
    (clustered / "archive.json").write_text(json.dumps({**head, "version": 1}))
    with pytest.raises(UsageError, match=r"version 1.*Action: import .* again"):
        ArchiveReader(clustered)


def test_a_live_archive_is_clustered_segment_by_segment(tiny: None, tmp_path: Path) -> None:
    whole = tape(market(3, 900, 4, SYMBOLS[:3]), 1)[0]
    with live(tmp_path / "archive", 1, origin=KAFKA) as writer:
        for first in range(0, len(whole), 150):
            writer.append_tape(whole.slice(first, min(first + 150, len(whole))))
            writer.flush()
    reader = ArchiveReader(tmp_path / "archive")
    assert {len(block) for segment in reader.segments(0, TAPE) for block in segment.blocks} >= {4}
    assert read(tmp_path / "archive", symbols=SYMBOLS[1:2]) == to_events(rows_of(whole, SYMBOLS[1:2]))
