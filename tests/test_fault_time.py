"""Faults of time: clocks that jump, run backwards or speak another unit change no value, or are refused or flagged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import live_worker as run
import numpy as np
import pytest
import tapes
from judged import KEY, TENTHS, Judge, at, delta, opening, tick, ticks, trade
from ledger import Ledger
from test_worker import Place, assert_equals_oracle, market

from agents.engine import Engine
from app.embedded import EmbeddedBroker
from replay.digest import vectors_digest
from replay.driver import replay
from replay.reader import ArchiveReader
from schemas.columns import Columns, from_events, to_events
from schemas.events import Event, Kind
from schemas.feature_sets import DEFAULT, load
from schemas.units import BASE_TICK_NS, NS_PER_S
from schemas.vectors import Quality

BIDS, ASKS = [(100, 5), (99, 7)], [(101, 5), (102, 7)]
DAY_NS = 86_400 * NS_PER_S
HOUR_NS = 3_600 * NS_PER_S


@pytest.fixture
def judge(tmp_path: Path, ledger: Ledger) -> Judge:
    return Judge(tmp_path, ledger)


@pytest.mark.fault("time", "the venue's clock runs backwards, or is a day ahead")
def test_the_venues_clock_is_elsewhere(judge: Judge) -> None:
    """Values are those of the true clock; one that is ahead is flagged as long as it is."""
    true = [*opening(BIDS, ASKS), delta(101, 101, 100, [(100, 6)], tenths=1.5), trade(101, 3, 1.6), *ticks(2, 4)]
    true += [delta(102, 102, 101, [(99, 1)], tenths=3.5), trade(101, 4, 3.6), *ticks(4, 15)]
    back, ahead = list(true), list(true)
    for place, event in enumerate(true):
        if event.kind is not Kind.TICK and event.ts_event:
            back[place] = event._replace(ts_event=at(-10 * place))
            if event.ts_recv < at(3):
                ahead[place] = event._replace(ts_event=event.ts_event + DAY_NS)
    expected, earlier, later = (judge.judge(judge.messages(events)) for events in (true, back, ahead))
    # The delay of the feed is what the venue's clock says.
    names = [place for place, name in enumerate(TENTHS.features) if name != "feed_delay_ms"]
    for judged in (earlier, later):
        assert judged.vectors.values[:, names].tobytes() == expected.vectors.values[:, names].tobytes()
        assert judged.books == expected.books
    told = [[bool(each.flags(tenths) & Quality.CLOCK_SKEW) for tenths in range(1, 15)] for each in (earlier, later)]
    assert told == [[False] * 14, [True] * 3 + [False] * 11]


UNITS = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


@pytest.mark.fault("time", "a clock in us, ms or s instead of ns")
@pytest.mark.parametrize("unit", UNITS)
def test_a_clock_in_another_unit(judge: Judge, unit: str) -> None:
    """No two units have a time in common, so that a wrong one is never taken for a right one."""
    sound = trade(101, 3, 1.5)
    late = Event(KEY, 0, 0, Kind.FUNDING, {"rate": 1, "next_funding_ts": at(100) // UNITS[unit]})
    wrong = [
        sound._replace(ts_event=sound.ts_event // UNITS[unit]), sound._replace(ts_recv=sound.ts_recv // UNITS[unit]),
        tick(2)._replace(body={"time": at(2) // UNITS[unit]}), late._replace(ts_recv=at(1.6)),
    ]  # fmt: skip
    judged = judge.judge(judge.messages([*opening(BIDS, ASKS), *wrong, sound, *ticks(2, 13)]))
    assert judged.reasons == dict.fromkeys(range(4, 8), "implausible-time")
    assert judged.at(11)["trade_count_1s"] == 1


@pytest.mark.fault("time", "the recorder's clock jumps by an hour either way")
@pytest.mark.parametrize("jump_ns", [HOUR_NS, -HOUR_NS])
def test_the_recorders_clock_jumps(judge: Judge, jump_ns: int) -> None:
    """Ticks decide which window a trade is in, and the book is the book."""
    true, jumped = opening(BIDS, ASKS), opening(BIDS, ASKS)
    for tenths in range(2, 30):
        change = delta(99 + tenths, 99 + tenths, 98 + tenths, [(100, tenths)], tenths=tenths - 0.4)
        for event in (trade(101, tenths, tenths - 0.5)._replace(ts_event=0), change._replace(ts_event=0)):
            true.append(event)
            jumped.append(event._replace(ts_recv=event.ts_recv + jump_ns) if 10 < tenths <= 20 else event)
        true.append(tick(tenths))
        jumped.append(tick(tenths))
    expected, found = (judge.judge(judge.messages(events)) for events in (true, jumped))
    # The age of a book is counted from its last receipt.
    names = [place for place, name in enumerate(TENTHS.features) if name != "book_age_ms"]
    assert found.vectors.values[:, names].tobytes() == expected.vectors.values[:, names].tobytes()
    assert found.books == expected.books


EDGES = (-BASE_TICK_NS, -1, 0, 1, BASE_TICK_NS - 1)


@pytest.mark.fault("time", "equal timestamps, and events one ns beside a window's edge")
def test_events_at_the_edge_of_a_window(judge: Judge) -> None:
    """The window of a Tick T holds what was received from T - W up to before T, whatever stands at the same ns."""
    edge = at(30)
    received = sorted(edge + beside for beside in EDGES for _ in range(3))
    first = [event for event in opening(BIDS, ASKS) if event.kind is not Kind.TICK]
    trades = [trade(101, 1 + place, 0)._replace(ts_event=0, ts_recv=ns) for place, ns in enumerate(received)]
    columns = tapes.tape([*first, *trades, trade(101, 1, 45.5)], partitions=1)[0]
    judged = judge.judge(judge.messages(to_events(columns)))
    for tenths in (29, 30, 31, 39, 40, 41):
        inside = sum(at(tenths) - NS_PER_S <= ns < at(tenths) for ns in received)
        assert judged.at(tenths)["trade_count_1s"] == inside, tenths
    times = [received[0]] * len(trades)
    same = [event._replace(ts_recv=ns) for event, ns in zip(trades, times, strict=True)]
    columns = tapes.tape([*first, *same, trade(101, 1, 45.5)], partitions=1)[0]
    assert judge.judge(judge.messages(to_events(columns))).at(30)["trade_count_1s"] == len(trades)


@pytest.mark.fault("time", "only Ticks for an hour")
def test_only_ticks_for_an_hour_replayed(tmp_path: Path, ledger: Ledger) -> None:
    """Windows are empty, the book stands and is stale, and a replay of the archive in any batches says the same."""
    events = tapes.market(3, events=300, seconds=3)
    quiet = tapes.tape(events, partitions=1)[0]
    last = int(quiet.ts_recv[-1])
    silence = [tapes.tick(last + step * BASE_TICK_NS) for step in range(1, 36_001)]
    columns = Columns.concat([quiet, from_events(0, len(quiet), silence)])
    feature_set = load(DEFAULT)
    live = Engine([feature_set], 0).apply(columns)[0]
    archive = ArchiveReader(tapes.archive_of(tmp_path / "archive", [columns], 1, 10_000))
    hashes = {replay(archive, feature_set, batch_size=size).content_hash for size in (997, 50_000)}
    ledger.received = ledger.accepted = len(columns)
    ledger.conflicting += hashes != {vectors_digest(live)}
    ledger.faults += 1
    ledger.check()
    end = live.select(live.time == live.time.max())
    names = feature_set.features
    assert len(end) == len(tapes.INSTRUMENTS)
    assert (end.values[:, [names.index(name) for name in EMPTY]] == 0).all()
    assert np.isfinite(end.values[:, names.index("mid_price")]).all()
    assert (end.quality & Quality.BOOK_STALE != 0).all()


EMPTY = ("trade_count_60s", "volume_60s", "churn_rate_60s")
JUMPING = """
import itertools, random, time
_true, _true_ns, _chance = time.time, time.time_ns, random.Random(5)
_now = [0]

def _jump():
    if _chance.random() < 0.01:
        _now[0] = _chance.choice((-3600, 0, 3600))
    return _now[0]

time.time = lambda: _true() + _jump()
time.time_ns = lambda: _true_ns() + _jump() * 1_000_000_000
"""
"""A host whose clock is set by an hour, back and ahead, at one reading in a hundred."""


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({}) as broker:
        yield broker


@pytest.mark.fault("time", "the host's clock jumps by an hour either way, again and again")
def test_a_worker_on_a_host_whose_clock_jumps(
    broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    """As Python reads it: vectors, states and letters are the oracle's, and nothing is read twice."""
    (tmp_path / "sitecustomize.py").write_text(JUMPING)
    settings = Place(broker.bootstrap, True, tmp_path, broker=broker).settings()
    raw = market(settings, 6_000)
    expected = run.oracle(settings, raw)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    hours = "import time; print(len({round(time.time() / 3600) for _ in range(1_000)}))"
    assert int(subprocess.check_output([sys.executable, "-c", hours])) > 2, "the clock does not jump"
    with run.Worker(settings, ["features"]) as worker:
        run.publish(settings, raw)
        run.wait_committed(settings, worker, [len(rows) for rows in raw])
        assert worker.stop() < 10
    found = assert_equals_oracle(settings, raw, expected)
    ledger.received = ledger.accepted = sum(map(len, raw))
    ledger.count_states(found.states, expected.states)
    ledger.count_vectors(((key, value) for key, value in found.vectors.items()), expected.vectors)
    ledger.conflicting += found.conflicts
    ledger.faults += 1
    ledger.check()
