"""A pause between two recordings of one archive, on the tape and in the features."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from agreement import assert_agrees
from crafted import PARTITIONS, T0, delta, import_to, snapshot, write_lines

from agents.engine import Engine
from schemas.columns import from_events
from schemas.events import Kind
from schemas.feature_sets import load
from schemas.topics import partition_of
from schemas.units import BASE_TICK_NS, NS_PER_S


def trade() -> dict[str, Any]:
    data = {"e": "trade", "E": T0 // 10**6, "T": T0 // 10**6, "s": "AUSDT", "t": 1, "p": "100.10", "q": "1.5",
            "m": False, "X": "MARKET"}  # fmt: skip
    return {"stream": "ausdt@trade", "data": data}


@pytest.mark.parametrize("pause", [60, 61, 40_000])
def test_between_recordings_a_pause_of_more_than_a_minute_is_a_hole(tmp_path: Path, pause: int) -> None:
    """Its one Tick gives the first events a bucket; they count, and the windows know that they begin there."""
    first = [(T0, snapshot(5)), (T0 + NS_PER_S, delta(6))]
    import_to(tmp_path, write_lines(tmp_path / "1.txt", first))
    dawn = T0 - T0 % BASE_TICK_NS + (pause + 1) * NS_PER_S + BASE_TICK_NS
    later = [(dawn + 5 + i * NS_PER_S, frame) for i, frame in enumerate((delta(7), trade(), delta(8)))]
    _, tape = import_to(tmp_path, write_lines(tmp_path / "2.txt", later))
    rows = tape[partition_of("BINANCE_USDM:AUSDT", PARTITIONS)]
    ticks = [event.body["time"] for event in rows if event.kind is Kind.TICK]
    steps = [after - before for before, after in pairwise(ticks)]
    is_hole = pause > 60
    assert (max(steps), dawn in ticks) == (pause * NS_PER_S if is_hole else BASE_TICK_NS, True)
    engine = Engine([load("micro@1")], 0)
    columns = from_events(0, 0, rows)
    vectors = engine.apply(columns)[0]
    assert_agrees(columns, vectors)
    names = vectors.feature_set.features
    last = dict(zip(names, vectors.values[-1].tolist(), strict=True))
    assert last["trade_count_1s"] == 1
    assert last["mid_price"] > 0
    assert math.isnan(last["log_return_60s"]) == is_hole
