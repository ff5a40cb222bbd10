"""Compiled passes write what fastavro writes, and read what it reads or leave it to it: the same value or refusal."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nst

from schemas import limits, vector_avro
from schemas.errors import RecordRefused
from schemas.feature_sets import FeatureSet
from schemas.registry import FileRegistry
from schemas.vector_codec import VectorCodec, avro_schema
from schemas.vectors import HEAD, Vectors
from schemas.wire import Wire

MUTATIONS = int(os.environ.get("MUTATIONS", "20000"))
SET = FeatureSet("probe", 3, 1000, ("mid_price", "spread", "volume_1s"))
SUBJECT = f"{SET.topic}-value"
compiling = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
longs = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
ints = st.integers(-(2**31), 2**31 - 1)
floats = st.integers(0, 2**64 - 1).map(lambda bits: float(np.array(bits, np.uint64).view(np.float64)))
floats |= st.sampled_from([0.0, -0.0, float("nan"), -float("nan"), float("inf"), -float("inf"), 5e-324, -2.2e-308])
texts = st.text(max_size=12) | st.text("ab:é", min_size=60, max_size=70)
Row = tuple[Any, ...]


@pytest.fixture
def registry(tmp_path: Path) -> FileRegistry:
    return FileRegistry(tmp_path / "registry.json")


@pytest.fixture
def codec(registry: FileRegistry) -> VectorCodec:
    return VectorCodec(registry, SET)


@st.composite
def vectors(draw: st.DrawFn) -> Vectors:
    keys = draw(st.lists(texts, min_size=1, max_size=4, unique=True))
    m = draw(st.integers(0, 6))
    key = np.array(draw(st.lists(st.integers(0, len(keys) - 1), min_size=m, max_size=m)), np.int32)
    head = {name: np.array(draw(st.lists(longs, min_size=m, max_size=m)), np.int64) for name in HEAD}
    head["partition"] = np.array(draw(st.lists(ints, min_size=m, max_size=m)), np.int32)
    values = draw(nst.arrays(np.float64, (m, 3), elements=floats))
    return Vectors(SET, keys, key, values=values, **head)


def bits(value: float | None) -> int:
    """Of a float; one pattern for null."""
    known = np.nan if value is None or np.isnan(value) else value
    return int(np.array(known, np.float64).view(np.uint64))


def rows_of(some: Vectors) -> list[Row]:
    heads = zip(some.instruments(), *(getattr(some, name).tolist() for name in HEAD), strict=True)
    return [(*head, *map(bits, row)) for head, row in zip(heads, some.values.tolist(), strict=True)]


def by_fastavro(wire: Wire, value: bytes) -> Row | str:
    """The oracle: one value as a row, or why it is none."""
    try:
        record = wire.decode(value)
    except RecordRefused as error:
        return error.reason
    if abs(record["partition"] + 0.5) > 2**31:
        return "number-too-large"
    return (*(record[name] for name in ("instrument", *HEAD)), *(bits(record[name]) for name in SET.features))


def by_passes(codec: VectorCodec, values: Sequence[bytes]) -> list[Row | str]:
    """What the codec makes of a batch, by place."""
    some, refused = codec.decode_known(values)
    rows = iter(rows_of(some))
    found = [refused[i] if i in refused else next(rows) for i in range(len(values))]
    assert next(rows, None) is None
    assert set(some.keys) == set(some.instruments()), "no key of a refused record"
    return found


@compiling
@given(some=vectors())
def test_vectors_are_written_as_fastavro_would(codec: VectorCodec, some: Vectors) -> None:
    names = ("instrument", *HEAD, *SET.features)
    heads = zip(some.instruments(), *(getattr(some, name).tolist() for name in HEAD), strict=True)
    expected = []
    for head, row in zip(heads, some.values.tolist(), strict=True):
        record = dict(zip(names, (*head, *(None if np.isnan(value) else value for value in row)), strict=True))
        expected.append((head[0].encode(), codec._wire.encode(record)))
    assert codec.encode(some) == expected
    assert rows_of(codec.decode([value for _, value in expected])) == rows_of(some)


def test_columns_in_any_layout_are_written(codec: VectorCodec) -> None:
    time = np.arange(8, dtype=np.int64)[::2]
    some = Vectors(
        SET, ["A:B"], np.zeros(4, np.int32), time, time.astype(np.int32), time, time, time, time,
        np.asfortranarray(np.arange(12.0).reshape(4, 3)),
    )  # fmt: skip
    assert rows_of(codec.decode([value for _, value in codec.encode(some)])) == rows_of(some)


def read_only(some: Vectors) -> Vectors:
    """The same over memory that nobody may write to, as out of Arrow."""
    for name in ("key", *HEAD, "values"):
        getattr(some, name).flags.writeable = False
    return some


@compiling
@given(some=vectors())
def test_nothing_is_written_into_what_is_encoded(codec: VectorCodec, some: Vectors) -> None:
    assert rows_of(codec.decode([value for _, value in codec.encode(read_only(some))])) == rows_of(some)


def mutated(chance: Random, value: bytes, other: bytes) -> bytes:
    """One value with a few bytes changed, cut, put in or taken from another."""
    data = bytearray(value)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(7):
            case 0:
                data[at : at + 1] = bytes([chance.getrandbits(8)])
            case 1 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                del data[at:]
            case 3:
                data[at:at] = chance.randbytes(chance.choice((1, 2, 8)))
            case 4:
                del data[at : at + chance.choice((1, 2, 8, 9))]
            case 5:
                data[at:] = other[chance.randrange(len(other)) :]
            case _:
                data[at : at + 1] = chance.choice((b"\x00", b"\x01", b"\x02", b"\x03", b"\x80", b"\xff" * 10))
    return bytes(data)


def written_vectors(codec: VectorCodec, chance: Random) -> list[bytes]:
    m = 64
    keys = ["A:BTC", "B:ETHUSDT", "C:é", ""]
    head = {name: np.array([chance.getrandbits(chance.randrange(64)) for _ in range(m)]) for name in HEAD}
    head["partition"] = (head["partition"] % 2**31).astype(np.int32)
    values = np.array([[chance.choice((np.nan, chance.gauss(0, 9))) for _ in range(3)] for _ in range(m)])
    key = np.array([chance.randrange(4) for _ in range(m)], np.int32)
    return [value for _, value in codec.encode(Vectors(SET, keys, key, values=values, **head))]


def batches_of_mutated(codec: VectorCodec, count: int) -> Iterator[list[bytes]]:
    chance = Random(20261121)
    good = written_vectors(codec, chance)
    for _ in range(0, count, 1000):
        yield [mutated(chance, chance.choice(good), chance.choice(good)) for _ in range(1000)]


def test_mutated_bytes_are_the_same_value_or_the_same_refusal(codec: VectorCodec) -> None:
    reasons: dict[str, int] = {}
    for batch in batches_of_mutated(codec, MUTATIONS):
        expected = [by_fastavro(codec._wire, value) for value in batch]
        assert by_passes(codec, batch) == expected
        for each in expected:
            reason = each if isinstance(each, str) else "a vector"
            reasons[reason] = reasons.get(reason, 0) + 1
    assert set(reasons) == {
        "a vector", "not-avro", "trailing-bytes", "not-wire-format", "unknown-schema", "number-too-large",
    }  # fmt: skip
    assert reasons["a vector"] > MUTATIONS // 20


@compiling
@given(value=st.binary(max_size=60), is_ours=st.booleans())
def test_any_bytes_are_the_same_value_or_the_same_refusal(codec: VectorCodec, value: bytes, is_ours: bool) -> None:
    value = codec._wire.header * is_ours + value
    assert by_passes(codec, [value]) == [by_fastavro(codec._wire, value)]


def test_a_message_beyond_the_limit_is_refused(codec: VectorCodec) -> None:
    large = codec._wire.header + b"\x00" * limits.MESSAGE_BYTES_MAX
    assert by_passes(codec, [large]) == ["message-too-large"]


def test_the_first_bad_value_is_what_a_batch_is_refused_for(codec: VectorCodec) -> None:
    good = written_vectors(codec, Random(1))[0]
    with pytest.raises(RecordRefused, match="trailing-bytes"):
        codec.decode([good, good + b"\x00", b""])
    some, refused = codec.decode_known([good, good + b"\x00", b"", good])
    assert (len(some), refused) == (2, {1: "trailing-bytes", 2: "not-wire-format"})


def changed(**by_name: Any) -> dict[str, Any]:
    """The set's schema with fields of another type (a type), left out (None) or added."""
    schema = copy.deepcopy(avro_schema(SET))
    for name, type_ in by_name.items():
        schema["fields"] = [field for field in schema["fields"] if field["name"] != name or type_ is not None]
        known = [field for field in schema["fields"] if field["name"] == name]
        if known:
            known[0].pop("default", None)
            known[0]["type"] = type_
        elif type_ is not None:
            schema["fields"].insert(len(by_name), {"name": name, "type": type_})
    return schema


def shuffled(seed: int) -> dict[str, Any]:
    schema = changed(one="string", two="double", three=["double", "null"], four="int")
    Random(seed).shuffle(schema["fields"])
    return schema


LEVEL = {"type": "record", "name": "Level", "fields": [{"name": "price", "type": "long"}]}
READ_BY_A_PASS = {
    "ours": changed(),
    "a feature more": changed(other=["null", "double"]),
    "a feature less": changed(spread=None),
    "no feature": changed(spread=None, mid_price=None, volume_1s=None),
    "never null": changed(spread="double", volume_1s="double"),
    "null last": changed(mid_price=["double", "null"], volume_1s=["double", "null"]),
    "a text and numbers more": changed(who="string", size="int", sent="long", share="double"),
    "shorter numbers": changed(quality="int", book_epoch="int"),
    "in another order": shuffled(1),
    "in a third order": shuffled(2),
    "documented": avro_schema(SET) | {"doc": "otherwise"},
}
LEFT_TO_FASTAVRO = {
    "a short float": changed(spread=["null", "float"]),
    "a whole number": changed(spread="long"),
    "a third branch": changed(spread=["null", "double", "string"]),
    "a record more": changed(level=LEVEL),
    "a list more": changed(levels={"type": "array", "items": "long"}),
    "bytes more": changed(raw="bytes"),
    "no time": changed(time=None),
    "no instrument": changed(instrument=None),
    "a longer partition": changed(partition="long"),
    "a time that may be null": changed(time=["null", "long"]),
    "another name": avro_schema(SET) | {"name": "Vector_probe_4"},
    "a field twice": avro_schema(SET) | {"fields": [*avro_schema(SET)["fields"], {"name": "time", "type": "long"}]},
    "no record": {"type": "array", "items": "long"},
}
EXAMPLES = {
    "string": "A:BTC", "long": 10**18, "int": -7, "double": 0.1, "float": 0.5, "bytes": b"\xff", "null": None,
    "array": [1, 2], "record": {"price": 3},
}  # fmt: skip


def examples(schema: dict[str, Any]) -> Iterator[Any]:
    """One record for each branch of the unions."""
    if schema["type"] != "record":
        yield EXAMPLES[schema["type"]]
        return
    for branch in range(3):
        record = {}
        for field in schema["fields"]:
            type_ = field["type"]
            type_ = type_[branch % len(type_)] if isinstance(type_, list) else type_
            record[field["name"]] = EXAMPLES[type_["type"] if isinstance(type_, dict) else type_]
        yield record


@pytest.mark.parametrize("name", [*READ_BY_A_PASS, *LEFT_TO_FASTAVRO])
def test_a_record_of_another_schema_is_resolved_as_by_fastavro(
    registry: FileRegistry, codec: VectorCodec, name: str
) -> None:
    schema = (READ_BY_A_PASS | LEFT_TO_FASTAVRO)[name]
    writer = Wire(registry, "other-value", schema)
    good = [writer.encode(record) for record in examples(schema)]
    batch = good + written_vectors(codec, Random(3))[:3] + [value[:-1] for value in good]
    chance = Random(4)
    batch += [mutated(chance, chance.choice(good), good[0]) for _ in range(500)]
    assert by_passes(codec, batch) == [by_fastavro(codec._wire, value) for value in batch]
    assert (codec._plans[writer.header] is not None) == (name in READ_BY_A_PASS)


def test_what_is_of_our_schema_needs_no_fastavro(codec: VectorCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    values = written_vectors(codec, Random(5))
    expected = rows_of(codec.decode(values))
    monkeypatch.setattr(Wire, "decode", None)
    assert rows_of(codec.decode(values)) == expected


def test_passes_that_cannot_be_kept_on_disk_are_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_folder(*_: Any, **options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("no locator available")
        return lambda function: function

    monkeypatch.setattr("schemas.varint.njit", no_folder)
    assert vector_avro._compiled(0)["take"].__name__ == "take"
