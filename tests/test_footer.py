"""The sizes that a Parquet file's footer states are those Arrow reads there; what is no footer is refused."""

from __future__ import annotations

import dataclasses
import random
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tapes import archive_of, market, tape

from replay import segments as files
from replay.footer import group_sizes
from replay.reader import ArchiveReader
from schemas.arrow import TAPE_PARQUET, to_table
from schemas.errors import SegmentTorn
from schemas.topics import TAPE

TABLE = to_table(tape(market(5, 400, 4), 1)[0])
OPTIONS: list[dict[str, Any]] = [
    {}, dict(TAPE_PARQUET), {"use_dictionary": False}, {"store_schema": False}, {"data_page_version": "2.0"},
    {"write_page_index": True}, {"row_group_size": 1}, {"compression": "none", "write_statistics": False},
]  # fmt: skip


def by_arrow(path: Path) -> list[list[int]]:
    about = pq.ParquetFile(path).metadata
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    return [
        [each.num_rows, each.total_byte_size, sum(each.column(c).num_values for c in range(each.num_columns))]
        for each in groups
    ]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sizes_are_those_that_arrow_reads(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "file.parquet"
    for table in (TABLE, TABLE.slice(0, 70), TABLE.slice(0, 0), pa.table({"a": [1, None], "b": [[1.5], []]})):
        pq.write_table(table, path, **{"row_group_size": 120, **options})
        found = by_arrow(path)
        assert group_sizes(path, len(found)).tolist() == found
        with pytest.raises(ValueError, match="no footer that tells"):
            group_sizes(path, len(found) + 1)


def test_damaged_footers_come_to_an_end(tmp_path: Path) -> None:
    """Whatever they claim; the file's end is sound, so that each is read to the place of the damage."""
    sink, chance, refused = BytesIO(), random.Random(4), 0
    pq.write_table(TABLE, sink, row_group_size=120)
    whole = sink.getvalue()
    length = int.from_bytes(whole[-8:-4], "little")
    groups, path = -(-len(TABLE) // 120), tmp_path / "file.parquet"
    for _ in range(2_000):
        footer = bytearray(whole[-8 - length : -8])
        for _ in range(chance.choice((1, 1, 2, 8))):
            at = chance.randrange(len(footer))
            footer[at : at + chance.choice((0, 1, 1, 4))] = chance.choice(
                (b"", b"\x00", b"\xff", b"\xfc", b"\xff" * 9 + b"\x01", b"\x19\xfc\xff\xff\xff\xff\x0f", b"\x1c" * 60)
            )
        path.write_bytes(footer + struct.pack("<I", len(footer)) + b"PAR1")
        try:
            assert group_sizes(path, groups).min() >= 0
        except ValueError:
            refused += 1
    assert refused > 200


NO_FOOTERS = [b"", b"PAR1", b"\xff\xff\xff\x7fPAR1", b"\x00\x00\x00\x00PARE", b"\x01\x00\x00\x00PAR1"]


@pytest.mark.parametrize("content", NO_FOOTERS)
def test_what_is_no_parquet_has_no_footer(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.parquet"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no footer"):
        group_sizes(path, 1)


@pytest.mark.fault("bytes", "a Parquet file that contradicts its own statistics")
def test_a_file_that_contradicts_its_own_statistics_is_refused(tmp_path: Path) -> None:
    """A column that is optional by its levels and required by its schema: Arrow's description of it ends a process."""
    archive = archive_of(tmp_path / "archive", tape(market(5, 400, 4), 1), 1)
    segment = files.scan(archive, TAPE, 0)[0]
    path = segment.file(archive)
    content = path.read_bytes().replace(b"\x02\x18\x05trade", b"\x00\x18\x05trade")
    assert content != path.read_bytes()
    path.write_bytes(content)
    sealed = dataclasses.replace(segment, sha256=files.sha256_of(path))
    files.write_json(path.with_suffix(".json"), files._sealed(sealed))
    with pytest.raises(SegmentTorn, match="Action"):
        list(ArchiveReader(archive).batches(0))
