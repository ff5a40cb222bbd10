"""Vectors and dead letters in a segment that its sidecar vouches for, but no writer of ours has made, are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tapes import KAFKA, START

from replay import segments as files
from replay.archive import live
from replay.reader import ArchiveReader
from schemas.codec import DeadLetter
from schemas.errors import SegmentTorn
from schemas.feature_sets import FeatureSet
from schemas.topics import DEAD_LETTERS, TAPE
from schemas.vectors import HEAD, Vectors

SET = FeatureSet("probe", 3, 1000, ("mid_price", "spread"))
LETTERS = [DeadLetter(TAPE, 1, i, b"\xff", "not-avro", b"ab") for i in range(3)]
Row = dict[str, Any]
TOPICS = (SET.topic, DEAD_LETTERS)


def vectors() -> Vectors:
    three = np.arange(3)
    values = np.array([[1.0, np.nan], [-0.0, np.inf], [2.5, 3.5]])
    key, partition = np.array([0, 1, 0], np.int32), np.zeros(3, np.int32)
    return Vectors(SET, ["A:B", "A:C"], key, START + three, partition, three, three, three, three, values)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with live(tmp_path / "archive", 1, origin=KAFKA) as writer:
        writer.append_vectors(0, range(3), vectors())
        writer.append_dead_letters(0, range(3), LETTERS)
    return tmp_path / "archive"


def stored(archive: Path, topic: str) -> pa.Table:
    return pq.read_table(files.scan(archive, topic, 0)[0].file(archive), partitioning=None)


def read(archive: Path, topic: str, table: pa.Table) -> Vectors | list[DeadLetter]:
    """The topic after its only segment was replaced, with a sidecar that vouches for it."""
    segment = files.scan(archive, topic, 0)[0]
    path = segment.file(archive)
    pq.write_table(table, path, write_page_checksum=True)
    whole = dataclasses.replace(segment, size_bytes=path.stat().st_size, sha256=files.sha256_of(path))
    files.write_json(path.with_suffix(".json"), files._sealed(whole))
    if topic == DEAD_LETTERS:
        return [letter for _, _, letter in ArchiveReader(archive).dead_letters()]
    return ArchiveReader(archive).vectors(SET).vectors


def replaced(table: pa.Table, name: str, array: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), pa.field(name, array.type), array)


def test_what_others_wrote_as_we_do_is_read(archive: Path) -> None:
    for topic in TOPICS:
        table = stored(archive, topic)
        nullable = pa.schema([pa.field(field.name, field.type) for field in table.schema])
        found = read(archive, topic, table.cast(nullable).select(table.column_names[::-1]))
        if isinstance(found, Vectors):
            assert found.same_bits(vectors().sorted()).all()
        else:
            assert found == LETTERS


PLACES = [(SET.topic, name) for name in ("instrument", *HEAD, *SET.features)]
PLACES += [
    (DEAD_LETTERS, name) for name in ("source", "source_partition", "key", "reason", "original", "original_bytes")
]


@pytest.mark.parametrize(("topic", "name"), PLACES)
def test_a_null_is_refused_where_there_is_always_a_value(archive: Path, topic: str, name: str) -> None:
    table = stored(archive, topic)
    for rows in ([1], [0, 1, 2]):
        values = [None if row in rows else value for row, value in enumerate(table[name].to_pylist())]
        crafted = replaced(table, name, pa.array(values, table[name].type))
        if name in SET.features:
            found = read(archive, topic, crafted)
            assert isinstance(found, Vectors)
            assert np.isnan(found.values[rows, SET.features.index(name)]).all()
            continue
        with pytest.raises(SegmentTorn, match=rf"a readable row group 0, was {name} is null.*Action"):
            read(archive, topic, crafted)


TYPES: dict[str, Callable[[pa.Array], pa.Array]] = {
    "texts": lambda array: array.cast(pa.string()) if not pa.types.is_string(array.type) else array.cast(pa.binary()),
    "large": lambda array: pa.array(map(str, array.to_pylist()), pa.large_string()),
    "small": lambda array: pa.array([1] * len(array), pa.int16()),
    "unsigned": lambda array: pa.array([1] * len(array), pa.uint64()),
    "half": lambda array: pa.array([0.5] * len(array), pa.float32()),
    "lists": lambda array: pa.array([[1]] * len(array), pa.list_(pa.int64())),
    "nothing": lambda array: pa.nulls(len(array)),
}


@pytest.mark.parametrize("case", TYPES)
@pytest.mark.parametrize(
    ("topic", "name"), [(SET.topic, name) for name in ("instrument", "time", "partition", "spread")]
)
def test_a_column_of_another_type_is_refused(archive: Path, topic: str, name: str, case: str) -> None:
    table = stored(archive, topic)
    crafted = replaced(table, name, TYPES[case](table[name].combine_chunks()))
    with pytest.raises(SegmentTorn, match=rf"a readable row group 0, was {name} of type"):
        read(archive, topic, crafted)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_column_that_is_missing_or_there_twice_is_refused(archive: Path, topic: str) -> None:
    table = stored(archive, topic)
    for name in table.column_names:
        for crafted in (table.drop_columns(name), table.append_column(name, table[name])):
            with pytest.raises(SegmentTorn, match="a readable row group 0"):
                read(archive, topic, crafted)


@pytest.mark.parametrize(("topic", "name"), [(SET.topic, "instrument"), (DEAD_LETTERS, "reason")])
def test_a_text_that_is_none_is_refused(archive: Path, topic: str, name: str) -> None:
    torn = pa.array([b"\xff\xfe"] * 3, pa.binary())
    text = pa.StringArray.from_buffers(len(torn), *torn.buffers()[1:])
    with pytest.raises(SegmentTorn, match="a readable row group 0"):
        read(archive, topic, replaced(stored(archive, topic), name, text))
