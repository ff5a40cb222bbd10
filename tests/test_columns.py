"""Columns hold exactly the events they were made of, however they are cut, joined or stored."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import events

from schemas import flat
from schemas.arrow import ENUM_COLUMNS, HEAD, TAPE_PARQUET, TAPE_SCHEMA, from_table, kind_columns, to_table
from schemas.columns import Columns, from_events, to_events
from schemas.events import FIELDS, Event, FieldType, Kind

streams = st.lists(events(), max_size=12)


@given(streams)
def test_events_survive_columns(stream: list[Event]) -> None:
    columns = from_events(3, 100, stream)
    assert to_events(columns) == stream
    assert columns.offset.tolist() == list(range(100, 100 + len(stream)))


@given(streams, st.data())
def test_any_cut_joins_to_the_same(stream: list[Event], data: st.DataObject) -> None:
    columns = from_events(0, 0, stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=3)))
    bounds = [0, *cuts, len(stream)]
    parts = [columns.slice(a, b) for a, b in pairwise(bounds)]
    assert to_events(Columns.concat(parts)) == stream


@given(streams, st.data())
def test_take_keeps_the_marked_rows(stream: list[Event], data: st.DataObject) -> None:
    mask = data.draw(st.lists(st.booleans(), min_size=len(stream), max_size=len(stream)))
    taken = from_events(0, 0, stream).take(np.array(mask, np.bool_))
    assert to_events(taken) == [event for event, kept in zip(stream, mask, strict=True) if kept]


def rows_of(table: pa.Table) -> list[Event]:
    """The events of a table read cell by cell."""
    return [
        Event(row["key"], row["ts_event"], row["ts_recv"], Kind[row["kind"]], row[row["kind"].lower()])
        for row in table.to_pylist()
    ]


def stored(table: pa.Table, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    file.seek(0)
    return file


@settings(deadline=None)
@given(streams, st.data())
def test_arrow_holds_the_same_events(stream: list[Event], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(stream)))
    columns = from_events(2, 7, stream).slice(first, len(stream))
    table = to_table(columns)
    assert table.schema == TAPE_SCHEMA
    table.validate(full=True)
    again = from_table(table, 2)
    assert to_events(again) == stream[first:]
    assert again.offset.tolist() == columns.offset.tolist()


SHAPES = {
    "as made": lambda table: table,
    "stored": lambda table: pq.read_table(stored(table, **TAPE_PARQUET)),
    "read by symbol": lambda table: pq.read_table(stored(table, **TAPE_PARQUET), read_dictionary=ENUM_COLUMNS),
    "stored with other encodings": lambda table: pq.read_table(stored(table, compression="zstd")),
    "texts without dictionaries": lambda table: table.cast(
        pa.schema(field.with_type(pa.string()) if field.name in ("kind", "key") else field for field in TAPE_SCHEMA)
    ),
    "other order": lambda table: table.select(table.column_names[::-1]),
}


@pytest.mark.parametrize("shape", SHAPES)
@settings(deadline=None, max_examples=40)
@given(stream=streams, data=st.data())
def test_any_rows_of_any_table_are_read_as_cell_by_cell(shape: str, stream: list[Event], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(stream)))
    last = data.draw(st.integers(first, len(stream)))
    table = SHAPES[shape](to_table(from_events(2, 7, stream)).slice(0, last)).slice(first)
    assert to_events(from_table(table, 2)) == rows_of(table) == stream[first:last]
    mask = data.draw(st.lists(st.booleans(), min_size=len(table), max_size=len(table)))
    keep = np.array(mask, np.bool_)
    kept = [event for event, is_kept in zip(stream[first:last], mask, strict=True) if is_kept]
    needed = [*HEAD, *kind_columns(np.array([event.kind for event in kept], np.uint8))]
    again = from_table(table.select(needed), 2, keep)
    assert to_events(again) == kept
    assert again.offset.tolist() == (7 + first + np.flatnonzero(keep)).tolist()
    assert (again.start[0], again.start[-1]) == (0, len(again.body))


@settings(deadline=None, max_examples=40)
@given(st.lists(streams, min_size=1, max_size=4), st.data())
def test_pieces_of_several_tables_join(streams_: list[list[Event]], data: st.DataObject) -> None:
    """Texts stay their own, whether pieces come of one table or of several, and whoever looked at them before."""
    pieces, expected = [], []
    for stream in streams_:
        columns = from_table(to_table(from_events(0, 0, stream)), 0)
        if data.draw(st.booleans()):
            list(columns.strings)
        cut = data.draw(st.integers(0, len(stream)))
        pieces += [columns.slice(0, cut), columns.slice(cut, len(stream))]
        expected += stream
    order = data.draw(st.integers(1, len(pieces)))
    joined = Columns.concat([Columns.concat(pieces[:order]), *pieces[order:]])
    assert to_events(joined) == expected
    assert rows_of(to_table(joined)) == expected


@settings(deadline=None, max_examples=20)
@given(streams)
def test_polars_reads_what_is_stored(stream: list[Event]) -> None:
    """A reader that shares no code with Arrow's."""
    table = to_table(from_events(0, 0, stream))
    frame = pl.read_parquet(stored(table, write_page_checksum=True, **TAPE_PARQUET), use_pyarrow=False)
    assert rows_of(frame.to_arrow()) == stream


def test_every_kind_ends_with_its_levels() -> None:
    """A body is laid as its fixed fields, then both sides' levels or none."""
    for fields in FIELDS.values():
        kinds = [field.type is FieldType.LEVELS for field in fields]
        assert kinds == sorted(kinds)
        assert sum(kinds) in (0, 2)


def test_compiled_passes_are_found_in_the_cache() -> None:
    """A compiled function in a closure is another one in each process: what holds it would be compiled every time."""
    for function in flat._PASSES.values():
        assert [type(cell.cell_contents) for cell in function.py_func.__closure__] == [int]


def test_a_field_that_must_have_a_value_is_not_read_without() -> None:
    tick = Event("*", 5, 5, Kind.TICK, {"time": 5})
    table = to_table(from_events(0, 0, [tick, tick]))
    place = table.column_names.index("tick")
    for bad in ([{"time": 5}, {"time": None}], [None, {"time": 5}]):
        torn = table.set_column(place, table.schema.field("tick"), pa.array(bad, table.schema.field("tick").type))
        with pytest.raises(ValueError, match="is null in a row"):
            from_table(torn, 0)
    with pytest.raises(KeyError):
        from_table(table.drop_columns("tick"), 0)


@settings(deadline=None, max_examples=30)
@given(st.lists(streams, min_size=1, max_size=4))
def test_arrow_of_several_chunks(streams_: list[list[Event]]) -> None:
    table = pa.concat_tables([to_table(from_events(0, 0, stream)) for stream in streams_])
    assert to_events(from_table(table, 0)) == [event for stream in streams_ for event in stream]


def test_refused_rows_keep_their_reason() -> None:
    row = Event("?", 0, 0, Kind.REFUSED, {"reason": "not-avro"})
    table = to_table(from_events(0, 5, [row]))
    assert table["refused"].to_pylist() == [{"reason": "not-avro"}]
    assert to_events(from_table(table, 0)) == [row]
