"""A segment that its sidecar vouches for, but no writer of ours has made, is refused before compiled code sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import events
from tapes import START, archive_of, tick

from replay import segments as files
from replay.reader import ArchiveReader
from schemas import limits
from schemas.arrow import TAPE_PARQUET, TAPE_SCHEMA, to_table
from schemas.bounds import check_numbers
from schemas.columns import Columns, from_events, to_events
from schemas.errors import RecordRefused, SegmentTorn
from schemas.events import FIELDS, Event, FieldType, Kind
from schemas.topics import TAPE
from schemas.units import BASE_TICK_NS
from schemas.validate import check

KEY = "USDM:A"
Row = dict[str, Any]
Change = Callable[[Row], object]


def levels(*pairs: tuple[int, int]) -> list[dict[str, int]]:
    return [{"price": price, "size": size} for price, size in pairs]


def records() -> list[Event]:
    instrument = {
        "venue": "USDM", "symbol": "A", "price_scale": 2, "tick_size": 1, "size_scale": 3, "lot_size": 1,
        "index_scale": 8, "contract": "LINEAR", "is_perpetual": True, "contract_value": 1, "funding_interval_s": None,
    }  # fmt: skip
    snapshot = {"sequence_last": 1, "bids": levels((10_000, 5), (9_999, 3)), "asks": levels((10_003, 5))}
    trade = {
        "price": 10_000, "size": 5, "side": "BUY", "trade_id": "x", "is_block": False, "is_liquidation": False,
        "is_insurance": False,
    }  # fmt: skip
    delta = {
        "sequence_first": 2, "sequence_last": 2, "sequence_previous": 1, "bids": levels((10_000, 0)), "asks": [],
    }  # fmt: skip
    bodies = [(Kind.INSTRUMENT, instrument), (Kind.SNAPSHOT, snapshot), (Kind.TRADE, trade), (Kind.DELTA, delta)]
    stream = [Event(KEY, START, START + 1 + i, kind, body) for i, (kind, body) in enumerate(bodies)]
    return [*stream, tick(START + BASE_TICK_NS), tick(START + 2 * BASE_TICK_NS)]


ROWS = {event.kind: row for row, event in reversed(list(enumerate(records())))}
"""Offset at which each kind comes first."""


def nullable(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(type_):
        return pa.struct([pa.field(field.name, nullable(field.type)) for field in type_])
    return pa.list_(nullable(type_.value_type)) if pa.types.is_list(type_) else type_


NULLABLE = pa.schema([pa.field(field.name, nullable(field.type)) for field in TAPE_SCHEMA])


def replaced(table: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, array in columns.items():
        table = table.set_column(table.column_names.index(name), pa.field(name, array.type), array)
    return table


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return archive_of(tmp_path / "archive", [from_events(0, 0, records())], 1)


def read(archive: Path, table: pa.Table, **options: Any) -> list[Event]:
    """The tape after its only segment was replaced, with a sidecar that vouches for it."""
    segment = files.scan(archive, TAPE, 0)[0]
    path = segment.file(archive)
    pq.write_table(table, path, write_page_checksum=True, **options)
    whole = dataclasses.replace(segment, size_bytes=path.stat().st_size, sha256=files.sha256_of(path))
    files.write_json(path.with_suffix(".json"), files._sealed(whole))
    return [event for columns in ArchiveReader(archive).batches(0) for event in to_events(columns)]


def rows() -> list[Row]:
    made: list[Row] = to_table(from_events(0, 0, records())).to_pylist()
    return made


@pytest.mark.parametrize("options", [{}, TAPE_PARQUET, {"use_dictionary": False}, {"store_schema": False}])
def test_a_segment_written_by_others_is_read(archive: Path, options: dict[str, Any]) -> None:
    for schema in (TAPE_SCHEMA, NULLABLE):
        assert read(archive, pa.Table.from_pylist(rows(), schema), **options) == records()


def of(kind: Kind, **values: Any) -> Change:
    return lambda row: row[kind.name.lower()].update(values) if row["kind"] == kind.name else None


def in_level(kind: Kind, level: int, **values: Any) -> Change:
    return lambda row: row[kind.name.lower()]["bids"][level].update(values) if row["kind"] == kind.name else None


NUMBERS: dict[str, tuple[Kind, Change, str]] = {
    "a huge scale": (Kind.INSTRUMENT, of(Kind.INSTRUMENT, price_scale=10**7), "scale-out-of-range"),
    "a negative scale": (Kind.INSTRUMENT, of(Kind.INSTRUMENT, size_scale=-1), "scale-out-of-range"),
    "no step": (Kind.INSTRUMENT, of(Kind.INSTRUMENT, tick_size=0), "step-out-of-range"),
    "a negative price": (Kind.SNAPSHOT, in_level(Kind.SNAPSHOT, 0, price=-20_000), "price-not-positive"),
    "price 0": (Kind.SNAPSHOT, in_level(Kind.SNAPSHOT, 1, price=0), "price-not-positive"),
    "a huge price": (Kind.DELTA, in_level(Kind.DELTA, 0, price=(1 << 40) + 1), "price-too-large"),
    "a negative size": (Kind.SNAPSHOT, in_level(Kind.SNAPSHOT, 1, size=-3), "size-not-positive"),
    "size 0": (Kind.SNAPSHOT, in_level(Kind.SNAPSHOT, 0, size=0), "size-not-positive"),
    "a deletion of less": (Kind.DELTA, in_level(Kind.DELTA, 0, size=-1), "size-not-positive"),
    "a trade of nothing": (Kind.TRADE, of(Kind.TRADE, size=0), "size-not-positive"),
    "a trade too large": (Kind.TRADE, of(Kind.TRADE, price=1 << 40, size=1 << 40), "trade-too-large"),
    "a Tick off the grid": (Kind.TICK, of(Kind.TICK, time=START + 1), "tick-off-grid"),
    "a Tick out of time": (Kind.TICK, of(Kind.TICK, time=-(1 << 61)), "implausible-time"),
    "receipt out of time": (Kind.INSTRUMENT, lambda row: row.update(ts_recv=1), "implausible-time"),
    "a sequence of the past": (Kind.DELTA, of(Kind.DELTA, sequence_first=3), "sequence-backwards"),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_a_number_that_the_gate_refuses_is_refused(archive: Path, case: str) -> None:
    kind, change, reason = NUMBERS[case]
    crafted = rows()
    for row in crafted:
        change(row)
    with pytest.raises(SegmentTorn, match=rf"row group 0, was offset {ROWS[kind]}: {reason}"):
        read(archive, pa.Table.from_pylist(crafted, TAPE_SCHEMA))


def filled(row: Row, kind: Kind, body: Row | None, other: Kind) -> None:
    """`body` in the row of its kind, and one that is whole in another kind's row."""
    if row["kind"] == kind.name:
        row[kind.name.lower()] = body
    elif row["kind"] == other.name:
        row[kind.name.lower()] = rows()[ROWS[kind]][kind.name.lower()]


TRADE, SNAPSHOT = rows()[ROWS[Kind.TRADE]]["trade"], rows()[ROWS[Kind.SNAPSHOT]]["snapshot"]
NULLS: dict[str, Change] = {
    "all keys": lambda row: row.update(key=None),
    "one key": lambda row: row.update(key=None) if row["offset"] == 2 else None,
    "all kinds": lambda row: row.update(kind=None),
    "a receipt": lambda row: row.update(ts_recv=None) if row["offset"] == 2 else None,
    "all ts_event": lambda row: row.update(ts_event=None),
    "a level": lambda row: row["snapshot"]["bids"].append(None) if row["snapshot"] else None,
    "a level's price": in_level(Kind.SNAPSHOT, 0, price=None),
    "a level's size": in_level(Kind.DELTA, 0, size=None),
    "levels": of(Kind.DELTA, asks=None),
    "a body": lambda row: filled(row, Kind.TRADE, None, Kind.TICK),
    "a price": lambda row: filled(row, Kind.TRADE, {**TRADE, "price": None}, Kind.DELTA),
    "a flag": lambda row: filled(row, Kind.TRADE, {**TRADE, "is_block": None}, Kind.DELTA),
    "a side": lambda row: filled(row, Kind.TRADE, {**TRADE, "side": None}, Kind.DELTA),
    "bids": lambda row: filled(row, Kind.SNAPSHOT, {**SNAPSHOT, "bids": None}, Kind.INSTRUMENT),
}


@pytest.mark.parametrize("case", NULLS)
@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}])
def test_a_null_is_refused_whatever_fills_the_rows_of_other_kinds(
    archive: Path, case: str, options: dict[str, Any]
) -> None:
    crafted = rows()
    for row in crafted:
        NULLS[case](row)
    with pytest.raises(SegmentTorn, match=r"was .* null.*Action"):
        read(archive, pa.Table.from_pylist(crafted, NULLABLE), **options)


def with_field(table: pa.Table, column: str, name: str, type_: pa.DataType) -> pa.Table:
    """One field of a struct column in another type."""
    struct = table.schema.field(column).type
    fields = [pa.field(field.name, type_ if field.name == name else field.type) for field in struct]
    bodies = table[column].to_pylist()
    for body in bodies:
        if body is not None and name in ("is_block", "price"):
            body[name] = int(body[name])
    return replaced(table, **{column: pa.array(bodies, pa.struct(fields))})


INT64_LEVEL = pa.struct([("price", pa.int64()), ("size", pa.int64())])
INT32_LEVELS = pa.list_(pa.struct([("price", pa.int32()), ("size", pa.int64())]))
TYPES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "ts int32": lambda table: replaced(table, ts_event=pa.array([0] * len(table), pa.int32())),
    "ts uint64": lambda table: replaced(table, ts_recv=pa.array(table["ts_recv"].to_pylist(), pa.uint64())),
    "ts float": lambda table: replaced(table, ts_recv=pa.array([0.5] * len(table), pa.float64())),
    "large keys": lambda table: replaced(table, key=pa.array(table["key"].to_pylist(), pa.large_string())),
    "bytes": lambda table: replaced(table, kind=pa.array(table["kind"].to_pylist(), pa.binary())),
    "no struct": lambda table: replaced(table, trade=pa.array([1] * len(table), pa.int64())),
    "price int32": lambda table: with_field(table, "trade", "price", pa.int32()),
    "price float": lambda table: with_field(table, "trade", "price", pa.float64()),
    "flag int8": lambda table: with_field(table, "trade", "is_block", pa.int8()),
    "large text": lambda table: with_field(table, "trade", "trade_id", pa.large_string()),
    "large list": lambda table: with_field(table, "snapshot", "bids", pa.large_list(INT64_LEVEL)),
    "level int32": lambda table: with_field(table, "snapshot", "asks", INT32_LEVELS),
    "no level's size": lambda table: with_field(table, "delta", "bids", pa.list_(pa.struct([("price", pa.int64())]))),
    "no offset": lambda table: table.drop_columns("offset"),
    "kind twice": lambda table: table.append_column("kind", table["kind"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TYPES)
def test_a_column_of_another_type_is_refused(archive: Path, case: str) -> None:
    table = TYPES[case](pa.Table.from_pylist(rows(), NULLABLE))
    with pytest.raises(SegmentTorn, match=r"expected (the columns of the tape|a Parquet file), was"):
        read(archive, table)


def test_texts_that_are_none_are_refused(archive: Path) -> None:
    for column, name, text in (("trade", "side", "NOPE"), ("instrument", "contract", "NOPE")):
        crafted = rows()
        for row in crafted:
            if row[column]:
                row[column][name] = text
        with pytest.raises(SegmentTorn, match="a readable row group 0"):
            read(archive, pa.Table.from_pylist(crafted, TAPE_SCHEMA))
    torn = pa.array([b"\xff\xfe"] * len(rows()), pa.binary())
    for column in ("kind", "key"):
        text = pa.StringArray.from_buffers(len(torn), *torn.buffers()[1:])
        with pytest.raises(SegmentTorn, match="a readable row group 0"):
            read(archive, replaced(pa.Table.from_pylist(rows(), NULLABLE), **{column: text}))


PLACES = [
    (kind, field) for kind in Kind if kind is not Kind.REFUSED for field in FIELDS[kind]
    if field.type in (FieldType.LONG, FieldType.OPTIONAL, FieldType.LEVELS)
]  # fmt: skip
EDGES = [
    0, 1, 18, 10**9, BASE_TICK_NS, 1 << 40, limits.TRADE_VALUE_MAX, limits.TS_MIN_NS, limits.TS_MAX_NS, 1 << 62,
    (1 << 63) - 2,
]  # fmt: skip
NUMBER = st.sampled_from(EDGES).flatmap(lambda edge: st.sampled_from([edge - 1, edge, edge + 1, -edge, -edge - 1]))


@settings(deadline=None, max_examples=400)
@given(event=events(), number=NUMBER, data=st.data())
def test_columns_are_refused_as_the_gate_refuses_records(event: Event, number: int, data: st.DataObject) -> None:
    """Of any record with any one number changed."""
    choices = ["ts_recv", "ts_event", *(field.name for kind, field in PLACES if kind is event.kind)]
    name = data.draw(st.sampled_from(choices))
    if name in ("ts_recv", "ts_event"):
        event = event._replace(**{name: number})
    elif isinstance(event.body[name], list):
        level = {"price": 1 << 30, "size": 1, data.draw(st.sampled_from(["price", "size"])): number}
        event = event._replace(body={**event.body, name: [level, *event.body[name]]})
    else:
        event = event._replace(body={**event.body, name: number})
    try:
        check(event)
    except RecordRefused as refused:
        if refused.reason == "level-doubled":
            return
        with pytest.raises(ValueError, match=f"offset 7: {refused.reason}"):
            check_numbers(from_events(0, 7, [event]))
    else:
        check_numbers(from_events(0, 7, [event]))


def test_lengths_that_do_not_fit_are_refused() -> None:
    whole = from_events(0, 0, records())
    check_numbers(whole)
    row = ROWS[Kind.SNAPSHOT]
    first = int(whole.start[row])
    for count in (-1, 0, 1, 3, 1 << 62, (1 << 63) - 1, -(1 << 63)):
        for place in (first + 1, first + 6):
            body = whole.body.copy()
            if body[place] != count:
                body[place] = count
                with pytest.raises(ValueError, match=f"offset {row}: "):
                    check_numbers(dataclasses.replace(whole, body=body))
    for start in (whole.start + 1, whole.start - 1):
        with pytest.raises(ValueError, match=r"offset \d"):
            check_numbers(dataclasses.replace(whole, start=start))


def test_too_many_levels_are_refused() -> None:
    for count in (limits.RECORD_LEVELS_MAX, limits.RECORD_LEVELS_MAX + 1):
        asks = levels(*((price, 1) for price in range(1, count)))
        event = Event(KEY, 0, START, Kind.SNAPSHOT, {"sequence_last": 1, "bids": levels((1, 1)), "asks": asks})
        columns: Columns = from_events(0, 0, [event])
        if count == limits.RECORD_LEVELS_MAX:
            check_numbers(columns)
        else:
            with pytest.raises(ValueError, match="offset 0: too-many-levels"):
                check_numbers(columns)


def test_refused_rows_may_hold_anything() -> None:
    columns = from_events(0, 0, [Event("?", -5, 0, Kind.REFUSED, {"reason": "not-avro"})])
    check_numbers(columns)
    assert np.array_equal(columns.kind, [0])
