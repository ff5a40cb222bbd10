"""Columns hold exactly the events they were made of, however they are cut, joined or stored."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import events

from schemas.arrow import TAPE_SCHEMA, from_table, to_table
from schemas.columns import Columns, from_events, to_events
from schemas.events import Event, Kind

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


@settings(max_examples=30)
@given(st.lists(streams, min_size=1, max_size=4))
def test_arrow_of_several_chunks(streams_: list[list[Event]]) -> None:
    import pyarrow as pa

    table = pa.concat_tables([to_table(from_events(0, 0, stream)) for stream in streams_])
    assert to_events(from_table(table, 0)) == [event for stream in streams_ for event in stream]


def test_refused_rows_keep_their_reason() -> None:
    row = Event("?", 0, 0, Kind.REFUSED, {"reason": "not-avro"})
    table = to_table(from_events(0, 5, [row]))
    assert table["refused"].to_pylist() == [{"reason": "not-avro"}]
    assert to_events(from_table(table, 0)) == [row]
