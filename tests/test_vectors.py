"""Vectors keep every bit on the wire and in a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nst

from schemas.errors import UsageError
from schemas.feature_sets import FeatureSet, load, names
from schemas.registry import FileRegistry
from schemas.topics import partition_of
from schemas.vector_codec import VectorCodec
from schemas.vectors import Vectors

SET = FeatureSet("probe", 3, 1000, ("mid_price", "spread", "volume_1s"))
KEYS = ["B:ETH", "A:BTC", "C:X"]
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
floats = st.floats(allow_infinity=False, width=64) | st.just(-0.0)
longs = st.integers(0, 2**62)


@st.composite
def vectors(draw: st.DrawFn) -> Vectors:
    m = draw(st.integers(0, 8))
    head = [np.array(draw(st.lists(longs, min_size=m, max_size=m)), np.int64) for _ in range(5)]
    key = np.array(draw(st.lists(st.integers(0, 2), min_size=m, max_size=m)), np.int32)
    values = draw(nst.arrays(np.float64, (m, 3), elements=floats))
    return Vectors(SET, KEYS, key, head[0], np.full(m, 2, np.int32), *head[1:], values)


@shared
@given(some=vectors())
def test_wire_and_table_keep_every_bit(tmp_path: Path, some: Vectors) -> None:
    codec = VectorCodec(FileRegistry(tmp_path / "registry.json"), SET)
    messages = codec.encode(some)
    assert [key.decode() for key, _ in messages] == some.instruments()
    for again in (codec.decode([value for _, value in messages]), Vectors.from_table(some.to_table(), SET)):
        assert some.same_bits(again).all()
        assert len(again) == len(some)


@given(vectors(), vectors())
def test_concat_and_sort(a: Vectors, b: Vectors) -> None:
    both = Vectors.concat([a, b])
    assert both.instruments() == a.instruments() + b.instruments()
    order = [(t, k, o) for t, k, o in zip(both.time, both.instruments(), both.as_of_offset, strict=True)]
    done = both.sorted()
    assert list(zip(done.time, done.instruments(), done.as_of_offset, strict=True)) == sorted(order)


def test_one_flipped_bit_is_seen() -> None:
    zero = np.zeros(1, np.int64)
    row = Vectors(
        SET, KEYS, np.zeros(1, np.int32), zero, np.zeros(1, np.int32), zero, zero, zero, zero, np.ones((1, 3))
    )
    other = row.select(np.array([0]))
    other.values.view(np.uint64)[0, 1] ^= 1
    assert row.same_bits(row).all()
    assert not row.same_bits(other).any()


def test_an_unknown_feature_set_names_the_known() -> None:
    with pytest.raises(UsageError, match=r"micro@2.*Action"):
        load("micro@99")
    assert [load(name).id for name in names()] == names()


@pytest.mark.parametrize(
    ("key", "murmur2"),
    # Apache Kafka, UtilsTest.testMurmur2.
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_partitions_are_those_of_the_java_client(key: str, murmur2: int) -> None:
    for partitions in (1, 4, 7, 64):
        assert partition_of(key, partitions) == (murmur2 & 0x7FFFFFFF) % partitions
