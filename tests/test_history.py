"""The past by request: the bits that live emitted, archived or computed; computed once, kept, never out of date."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest
from asked import Counting, assert_is, expected
from commandline import onetape, result
from streams import stream
from tapes import INSTRUMENTS, START, archive_of, market, tape

from replay.archive import live
from replay.checkpoints import Checkpoints
from replay.driver import replay
from replay.folder import IMPORT
from replay.history import lookup
from replay.history.answer import Answer
from replay.history.lookup import History, get_features
from replay.laying import lay
from replay.places import open_place
from replay.reader import ArchiveReader
from replay.retention import restore, retain
from schemas.columns import from_events
from schemas.errors import UsageError
from schemas.events import Event, Kind
from schemas.feature_sets import FeatureSet, Policy, load
from schemas.topics import partition_of
from schemas.units import NS_PER_S
from schemas.vectors import Quality, Vectors

ROOT = Path(__file__).resolve().parent.parent
SET = load("micro@2")
CHOOSY = FeatureSet(
    "choosy", 1, 200, ("mid_price", "vwap_5s", "zscore_mid_price_7"),
    {"mid_price": Policy(fill_ns=3 * NS_PER_S, clip_sigmas=2.0, clip_count=5), "vwap_5s": Policy(skips_row=True)},
)  # fmt: skip
"""Emits no vector where there was no trade, and remembers."""
HOUR_NS = 3600 * NS_PER_S
ETH = "BINANCE_USDM:ETHUSDT"


def archive_live(path: Path, vectors: Vectors) -> None:
    with live(path, 2, origin=IMPORT) as writer:
        first = writer.next_offset(vectors.feature_set.topic, 0) or 0
        writer.append_vectors(0, range(first, first + len(vectors)), vectors)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive_of(tmp_path_factory.mktemp("original") / "archive", tape(market(71, 2000, 8)), segment_rows=450)


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """An archive of two partitions and eight seconds."""
    return Path(shutil.copytree(original, tmp_path / "archive"))


@pytest.fixture(scope="module")
def whole(original: Path) -> Vectors:
    """What live would have emitted of it."""
    return replay(ArchiveReader(original), SET).vectors


@pytest.mark.parametrize(("seed", "feature_set"), [(50, SET), (51, CHOOSY), (52, CHOOSY), (53, SET)])
def test_any_time_of_a_faulty_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, feature_set: FeatureSet
) -> None:
    """Gaps, holes in the clock, late and doubled Ticks; spans of four seconds, with checkpoints and without."""
    monkeypatch.setattr(lookup, "SPAN_VECTORS", 4000 // feature_set.cadence_ms)
    rows = from_events(0, 0, stream(seed, seconds=25.0, holes=seed % 3))
    archive = ArchiveReader(archive_of(tmp_path / "archive", [rows], 1, 300))
    emitted = replay(archive, feature_set).vectors
    if seed % 2:
        lay(archive, feature_set, 2 * NS_PER_S)
    chance = random.Random(seed)
    symbols = archive.symbols()
    received = rows.ts_recv.tolist()
    agent = Counting()
    history = History(archive, feature_set, agent=agent)
    for _ in range(14):
        at = chance.choice(received) // 10**8 * 10**8 + chance.choice(
            (-NS_PER_S, -1, 0, 1, 3 * NS_PER_S, 900 * NS_PER_S)
        )
        asked = chance.sample(symbols, chance.randrange(1, len(symbols) + 1))
        assert_is(history.get_features(asked, as_of_ns=at), emitted)
    assert_is(history.get_features(symbols, as_of_ns=max(received)), emitted)
    computed = agent.runs
    assert_is(History(archive, feature_set, agent=agent).get_features(symbols, as_of_ns=max(received)), emitted)
    assert agent.runs == computed


def test_archived_vectors_and_computed_ones_are_the_same(path: Path, whole: Vectors) -> None:
    archive_live(path, whole)
    chance = random.Random(5)
    times = [int(whole.time.min()) + chance.randrange(7 * NS_PER_S) for _ in range(12)]
    live_side = History(ArchiveReader(path), SET)
    answers = [live_side.get_features(INSTRUMENTS, as_of_ns=at) for at in times]
    assert {each.source for answer in answers for each in answer.found.values()} == {"live"}
    assert not (path / "computed").exists()
    shutil.rmtree(path / f"topic={SET.topic}")
    for at, answer in zip(times, answers, strict=True):
        again = History(ArchiveReader(path), SET).get_features(INSTRUMENTS, as_of_ns=at)
        assert {each.source for each in again.found.values()} == {"computed"}
        assert again.vectors().same_bits(answer.vectors()).all()
        assert_is(again, whole)


def test_a_live_vector_that_may_not_be_the_newest_does_not_count(path: Path, whole: Vectors) -> None:
    """The worker's archive ended sooner than the tape, or lost what lies between."""
    archive_live(path, whole.select(whole.time <= START + 3 * NS_PER_S))
    history = History(ArchiveReader(path), SET)
    for at, source in (
        (START + 3 * NS_PER_S, "live"),
        (START + 4 * NS_PER_S - 1, "live"),
        (START + 4 * NS_PER_S, "computed"),
    ):
        answer = history.get_features([ETH], as_of_ns=at)
        assert answer.found[ETH].source == source
        assert_is(answer, whole)


def test_vectors_archived_live_in_two_versions_are_computed(path: Path, whole: Vectors) -> None:
    archive_live(path, whole)
    row = np.array(
        [next(i for i, name in enumerate(whole.instruments()) if name == ETH and whole.time[i] > START + 4 * NS_PER_S)]
    )
    other = whole.select(row)
    other.values.view(np.uint64)[0, 0] ^= 1
    archive_live(path, other)
    at = int(other.time[0])
    answer = History(ArchiveReader(path), SET).get_features(INSTRUMENTS, as_of_ns=at)
    assert {symbol: each.source for symbol, each in answer.found.items()} == {
        symbol: "computed" if symbol == ETH else "live" for symbol in INSTRUMENTS
    }
    assert_is(answer, whole)


def test_many_at_once_are_one_computation(path: Path, whole: Vectors) -> None:
    agent = Counting()
    archive = ArchiveReader(path)

    def ask(i: int) -> Answer:
        return History(archive, SET, agent=agent).get_features([ETH], as_of_ns=START + (1 + i % 7) * NS_PER_S)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(16)))
    assert agent.runs == 1
    for answer in answers:
        assert_is(answer, whole)


def test_processes_share_one_computation(path: Path) -> None:
    code = (
        "import sys, asyncio; from pathlib import Path; from replay.history.lookup import History;"
        "from replay.reader import ArchiveReader; from schemas.feature_sets import load;"
        "from agents.features import features_agent\n"
        "async def agent(*args, **kwargs):\n"
        "    with open(sys.argv[2], 'a') as log: log.write('x')\n"
        "    await asyncio.sleep(1.0)\n"
        "    await features_agent(*args, **kwargs)\n"
        "found = History(ArchiveReader(Path(sys.argv[1])), load('micro@2'), agent=agent)"
        ".get_features(['BINANCE_USDM:ETHUSDT', 'BINANCE_SPOT:BTCUSDT'])\n"
        "print(found.rows())"
    )
    log = path.parent / "log"
    command = [sys.executable, "-c", code, str(path), str(log)]
    children = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(set(told)) == 1
    assert log.read_text() == "x" * len({partition_of(symbol, 2) for symbol in (ETH, INSTRUMENTS[2])})


def test_a_tape_that_grows_makes_no_answer_old(tmp_path: Path) -> None:
    rows = tape(market(72, 1500, 8), 1)[0]
    half = len(rows) // 2
    path = archive_of(tmp_path / "archive", [rows.slice(0, half)], 1, 200)
    agent = Counting()
    history = History(ArchiveReader(path), SET, agent=agent)
    before = history.get_features([ETH])
    early = history.get_features([ETH], as_of_ns=before.as_of_ns - NS_PER_S)
    late = history.get_features([ETH], as_of_ns=START + 60 * NS_PER_S)
    assert agent.runs == 1
    assert late.status(ETH) == "stale"
    archive_of(path, [rows.slice(half, len(rows))], 1, 200)
    emitted = replay(ArchiveReader(path), SET).vectors
    assert_is(history.get_features([ETH], as_of_ns=early.as_of_ns), emitted)
    assert agent.runs == 1
    after = history.get_features([ETH])
    assert agent.runs == 2
    assert after.as_of_ns > before.as_of_ns
    for answer in (before, early, after, history.get_features([ETH], as_of_ns=late.as_of_ns)):
        assert_is(answer, emitted if answer is not before else replay(ArchiveReader(path), SET).vectors)
    assert agent.runs == 2


def test_how_fresh_it_was(tmp_path: Path) -> None:
    events = market(74, 1500, 10, instruments=[ETH])
    lost = [e for e in events if e.kind != Kind.DELTA or not START + 4 * NS_PER_S < e.ts_recv < START + 5 * NS_PER_S]
    archive = ArchiveReader(archive_of(tmp_path / "archive", tape(lost, 1), 1))
    history = History(archive, SET)
    statuses = [history.get_features([ETH], as_of_ns=START + at * NS_PER_S // 2).status(ETH) for at in range(26)]
    assert statuses[:2] == ["missing", "missing"]
    assert set(statuses[2:9]) == {"fresh"}
    assert set(statuses[12:20]) == {"gap"}
    last = history.get_features([ETH])
    time = int(last.found[ETH].vector.time[0])
    for age, status in ((2 * NS_PER_S, "gap"), (2 * NS_PER_S + 1, "stale")):
        row = history.get_features([ETH], ["mid_price"], time + age).rows()[0]
        assert (row["status"], row["age_ns"], row["features"]) == (status, age, {"mid_price": None})
        assert Quality.BOOK_GAP.name in row["quality"]


def test_what_is_not_there_is_said(path: Path) -> None:
    history = History(ArchiveReader(path), SET)
    with pytest.raises(UsageError, match=r"BINANCE_USDM:ETHUSD is unknown.*BINANCE_USDM:ETHUSDT"):
        history.get_features(["BINANCE_USDM:ETHUSD"])
    with pytest.raises(UsageError, match=r"mid_prise is unknown.*micro@2.*mid_price"):
        history.get_features([ETH], ["mid_prise"])
    for nothing in (lambda: history.get_features([]), lambda: history.get_features([ETH], [])):
        with pytest.raises(UsageError, match="none"):
            nothing()
    early = history.get_features([ETH], as_of_ns=START - HOUR_NS).json()
    assert early["rows"][0]["status"] == "missing"
    assert early["rows"][0]["features"]["mid_price"] is None
    assert "nothing was known at 2024-07-18T23:00:00" in early["notes"][0]
    late = history.get_features([ETH], as_of_ns=START + HOUR_NS).json()
    assert late["rows"][0]["status"] == "stale"
    assert "the tape ends at 2024-07-19T00:00:08" in late["notes"][0]
    assert late["available"]["first"] <= late["rows"][0]["time"] <= late["available"]["last"]


def test_a_pause_between_recordings_is_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "SPANS_BACK", 2)
    first, second = tape(market(75, 300, 3), 1)[0], market(76, 300, 3, instruments=INSTRUMENTS[1:])
    path = archive_of(tmp_path / "archive", [first], 1)
    later = [Event(e.key, e.ts_event + 40 * HOUR_NS, e.ts_recv + 40 * HOUR_NS, e.kind, e.body) for e in second]
    rows = tape(later, 1)[0]
    archive_of(path, [changed(rows, offset=rows.offset + len(first))], 1)
    archive = ArchiveReader(path)
    emitted = replay(archive, SET).vectors
    history = History(archive, SET)
    for hours in (1, 20, 39):
        answer = history.get_features(INSTRUMENTS, as_of_ns=START + hours * HOUR_NS)
        assert_is(answer, emitted)
        assert {answer.status(symbol) for symbol in INSTRUMENTS} == {"stale"}
    assert_is(history.get_features(INSTRUMENTS), emitted)


def test_records_that_were_moved_away_are_asked_for(path: Path, tmp_path: Path, whole: Vectors) -> None:
    """What was computed of them before still answers, and so does a time behind a checkpoint; nothing else does."""
    computed = START + 1 * NS_PER_S
    archive = ArchiveReader(path)
    lay(archive, SET, 2 * NS_PER_S)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "SPAN_VECTORS", 2)
        History(archive, SET).get_features([ETH], as_of_ns=computed)
        assert retain(path, 4 * NS_PER_S, open_place(str(tmp_path / "cold"))).segments
        for at in (computed, START + 7 * NS_PER_S):
            answer = History(ArchiveReader(path), SET).get_features([ETH], as_of_ns=at)
            assert answer.status(ETH) == "fresh"
            assert_is(answer, whole)
        for other in INSTRUMENTS[1:]:
            with pytest.raises(UsageError, match=r"are no longer in .*onetape archive restore"):
                History(ArchiveReader(path), SET).get_features([other], as_of_ns=computed)
        assert History(ArchiveReader(path), SET).get_features([ETH], as_of_ns=START - HOUR_NS).status(ETH) == "missing"
        restore(path)
        assert_is(History(ArchiveReader(path), SET).get_features(INSTRUMENTS, as_of_ns=computed), whole)


def test_the_command_line_and_the_plain_function(path: Path, whole: Vectors) -> None:
    lay(ArchiveReader(path), SET, 2 * NS_PER_S)
    at = START + 5 * NS_PER_S
    told = result(
        "get",
        ETH,
        INSTRUMENTS[2],
        "--archive",
        path,
        "--as-of",
        "2024-07-19T00:00:05",
        "--features",
        "mid_price,spread_bps",
    )
    assert told == get_features(path, [ETH, INSTRUMENTS[2]], ["mid_price", "spread_bps"], at)
    row = told["rows"][0]
    wanted = expected(whole, ETH, at)
    assert wanted is not None
    assert row["features"]["mid_price"] == wanted.values[0, SET.features.index("mid_price")]
    assert (row["instrument"], row["time"], row["as_of_offset"]) == (ETH, at, int(wanted.as_of_offset[0]))
    shown = onetape("get", ETH, "--archive", path)
    assert shown.returncode == 0
    assert "mid_price" in shown.stdout
    unknown = onetape("get", "BINANCE_USDM:ETHUSD", "--archive", path, "--json")
    assert unknown.returncode == 2
    assert ETH in json.loads(unknown.stdout)["error"]["action"]
    assert Checkpoints(ArchiveReader(path), SET).newest(0, before_ns=at) is not None
