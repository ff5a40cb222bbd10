"""The leak check passes what is causal, and catches whatever looks ahead, however little."""

from __future__ import annotations

import random
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapes import INSTRUMENTS, START, archive_of, market, tape, tick

from agents.features import features_agent
from agents.ports import Batch, Emit, States
from app.importer import import_recording
from replay.driver import replay
from replay.proof import window as windows
from replay.proof.leakcheck import leakcheck
from replay.proof.leaky import Leaky, leaky
from replay.proof.passage import Passage, run
from replay.proof.window import Control, LeakCheck, Window, check, cut_at, window_of
from replay.reader import ArchiveReader
from schemas.columns import Columns, to_events
from schemas.errors import CheckFailed
from schemas.events import Kind
from schemas.feature_sets import DEFAULT, FeatureSet, load
from schemas.units import NS_PER_MS, NS_PER_S
from schemas.vectors import Vectors

Sets = Sequence[FeatureSet]
SET = load(DEFAULT)
CHANCE = random.Random(5)
CUTS = [CHANCE.random() for _ in range(50)]
LEAKY = "mid_price"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ArchiveReader:
    return ArchiveReader(archive_of(tmp_path_factory.mktemp("leak") / "archive", tape(market(41, 1500, 10))))


async def leaky_agent(batches: AsyncIterable[Batch], states: States, emit: Emit, sets: Sets) -> None:
    """The features agent, but for one feature: the receipt of the record behind the Tick, or 0 where there is none."""
    seen: list[Columns] = []

    async def watched() -> AsyncIterator[Batch]:
        async for batch in batches:
            seen.append(batch.columns)
            yield batch

    async def spoil(vectors: Vectors) -> None:
        columns = seen[-1]
        behind = np.searchsorted(columns.offset, vectors.as_of_offset, side="right")
        receipts = np.append(columns.ts_recv, 0)[behind]
        vectors.values[:, vectors.feature_set.features.index(LEAKY)] = receipts
        await emit(vectors)

    await features_agent(watched(), states, spoil, sets)


async def price_ahead_agent(
    batches: AsyncIterable[Batch], states: States, emit: Emit, sets: Sequence[FeatureSet]
) -> None:
    """Adds the price of the next trade in the batch, and nothing where none follows."""
    seen: list[Columns] = []

    async def watched() -> AsyncIterator[Batch]:
        async for batch in batches:
            seen.append(batch.columns)
            yield batch

    async def spoil(vectors: Vectors) -> None:
        columns = seen[-1]
        trades = np.flatnonzero(columns.kind == Kind.TRADE)
        nxt = np.searchsorted(columns.offset[trades], vectors.as_of_offset, side="right")
        prices = np.append(columns.body[columns.start[trades]], 0)[nxt]
        vectors.values[:, vectors.feature_set.features.index(LEAKY)] += prices
        await emit(vectors)

    await features_agent(watched(), states, spoil, sets)


def next_row(values: np.ndarray, key: np.ndarray) -> np.ndarray:
    """`shift(-1)` over each instrument's rows."""
    shifted = values.copy()
    for each in np.unique(key):
        rows = np.flatnonzero(key == each)
        shifted[rows[:-1]] = values[rows[1:]]
    return shifted


def whole_mean(values: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Normalization over all that is there, the future included."""
    return np.asarray(values - np.nanmean(values))


def to_the_end(values: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Unknown values filled backwards, from the last one on."""
    return np.where(np.isnan(values), values[-1], values) + values[-1] * 1e-6


@pytest.mark.parametrize("join", [next_row, whole_mean, to_the_end])
@pytest.mark.parametrize("rows", [None, 200])
def test_what_is_put_together_of_later_rows_is_caught(archive: ArchiveReader, join, rows: int | None) -> None:  # type: ignore[no-untyped-def]
    """What researchers do to a whole table, done to each emission."""

    async def agent(batches: AsyncIterable[Batch], states: States, emit: Emit, sets: Sets, **_: object) -> None:
        async def spoil(vectors: Vectors) -> None:
            column = vectors.feature_set.features.index(LEAKY)
            vectors.values[:, column] = join(vectors.values[:, column], vectors.key)
            await emit(vectors)

        await features_agent(batches, states, spoil, sets)

    assert leakcheck(archive, SET, CUTS[:8], window_rows=rows, agent=agent).leaking == [LEAKY]


@pytest.mark.parametrize("reach_ms", [1, 100, 1000, 4000])
def test_how_far_a_feature_looks_ahead_does_not_matter(archive: ArchiveReader, reach_ms: int) -> None:
    """Records up to a moment behind the Tick are counted, as a window that is not shifted counts them."""

    async def agent(batches: AsyncIterable[Batch], states: States, emit: Emit, sets: Sets, **_: object) -> None:
        now: list[Columns] = []

        async def watched() -> AsyncIterator[Batch]:
            async for batch in batches:
                now[:] = [batch.columns]
                yield batch

        async def spoil(vectors: Vectors) -> None:
            ends = vectors.time + reach_ms * NS_PER_MS
            counted = [((now[0].ts_recv <= end) & (now[0].kind == Kind.TRADE)).sum() for end in ends]
            vectors.values[:, vectors.feature_set.features.index(LEAKY)] += counted
            await emit(vectors)

        await features_agent(watched(), states, spoil, sets)

    found = leakcheck(archive, SET, CUTS, agent=agent)
    assert found.leaking == [LEAKY]


def test_the_features_do_not_look_ahead(archive: ArchiveReader) -> None:
    seen: list[tuple[int, int]] = []
    found = leakcheck(archive, SET, CUTS, window_rows=None, progress=lambda done, total: seen.append((done, total)))
    assert found.ok
    assert found.leaking == []
    assert 10 < found.cuts <= len(CUTS) * archive.head.partitions
    assert found.variants["cut"] == found.rows_checked
    assert found.variants["poison"] == found.variants["shuffle"] >= found.rows_checked - 3 * archive.head.partitions
    assert found.control.json() == {"feature": LEAKY, "windows": 3, "found": 3, "caught": True}
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("rows", [None, 500, 60, 1])
def test_every_vector_before_the_last_cut_is_checked_once(archive: ArchiveReader, rows: int | None) -> None:
    """Without a bound all of them, with one at least those of so many records before each cut; never one twice."""
    found = leakcheck(archive, SET, CUTS, window_rows=rows)
    whole = replay(archive, SET).vectors
    ends = {p: archive.segments(p)[-1].last_offset for p in archive.partitions()}
    expected = 0
    for p, end in ends.items():
        made = whole.select(whole.partition == p)
        drawn = sorted({int(cut * (end + 1)) for cut in CUTS})
        cuts = sorted({cut_at(made, each, end) for each in drawn} - {None})
        reach = end + 1 if rows is None else rows
        expected += sum(any(cut - reach < at <= cut for cut in cuts) for at in made.as_of_offset.tolist())
    assert expected <= found.rows_checked <= len(whole)
    assert found.rows_checked == expected or rows is not None
    assert found.ok


@pytest.mark.parametrize("agent", [leaky_agent, price_ahead_agent, leaky(SET)])
@pytest.mark.parametrize("cuts", [CUTS, CUTS[:1], [0.0], [0.999999]])
@pytest.mark.parametrize("rows", [None, 200])
def test_a_leaking_feature_is_caught_and_named(archive: ArchiveReader, agent, cuts: list[float], rows) -> None:  # type: ignore[no-untyped-def]
    found = leakcheck(archive, SET, cuts, window_rows=rows, agent=agent)
    assert not found.ok
    assert found.leaking == [LEAKY]


@given(
    seed=st.integers(0, 10**6), events=st.integers(60, 700), seconds=st.integers(3, 9),
    cuts=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4), rows=st.sampled_from([None, 1, 40, 300]),
    feature=st.sampled_from(SET.features), batch=st.sampled_from([17, 64, 5000]),
)  # fmt: skip
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_leak_on_purpose_is_always_caught(
    seed: int, events: int, seconds: int, cuts: list[float], rows: int | None, feature: str, batch: int
) -> None:
    """Whatever the tape, the cuts, the window, the batches and the column: by its window alone, and no other column."""
    one_set = FeatureSet(SET.name, SET.version, SET.cadence_ms, (feature, *[f for f in SET.features if f != feature]))
    for columns in tape(market(seed, events, seconds)):
        batches = [columns.slice(at, at + batch) for at in range(0, len(columns), batch)]
        vectors, _ = run(batches, [one_set], {}, leaky(one_set))
        for fraction in cuts:
            window = window_of({}, batches, vectors, int(fraction * len(columns)))
            if window is None:
                assert not len(vectors)
                continue
            assert len(window.expected)
            caught = check(window, one_set, agent=leaky(one_set), seed=seed)
            assert caught.leaking == [feature]
            honest, _ = run(batches, [one_set], {}, features_agent)
            passed = check(
                replace(window, expected=honest.select(honest.as_of_offset <= window.batches[-1].offset[-1])),
                one_set, seed=seed, controls=True,
            )  # fmt: skip
            assert passed.ok
            assert passed.control.feature == feature


def test_a_blind_check_is_no_check(archive: ArchiveReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no future differs from the one observed, nothing can be found: the control says so."""

    def same(window: Window, seed: int) -> Iterator[tuple[str, Sequence[Columns]]]:
        yield "cut", [*window.batches[:-1], Columns.concat([window.batches[-1], window.after])]

    monkeypatch.setattr(windows, "_futures", same)
    with pytest.raises(CheckFailed, match="blind"):
        leakcheck(archive, SET, CUTS[:3])


@pytest.mark.parametrize("rows", [None, 5])
def test_a_partition_without_a_symbol_has_no_window(tmp_path: Path, rows: int | None) -> None:
    """Nor does it stand in the way of the others."""
    columns = tape(market(43, 900, 9, ["BINANCE_USDM:BTCUSDT"]), 3)
    archive = ArchiveReader(archive_of(tmp_path / "three", columns, partitions=3))
    whole = replay(archive, SET).vectors
    assert len(np.unique(whole.partition)) == 1
    found = leakcheck(archive, SET, CUTS[:4], window_rows=rows)
    assert found.ok
    assert 0 < found.cuts <= 4


def test_nothing_compared_is_not_fine(tmp_path: Path) -> None:
    empty = ArchiveReader(archive_of(tmp_path / "ticks", tape([tick(START)])))
    found = leakcheck(empty, SET, [0.5], window_rows=3)
    assert (found.rows_checked, found.ok, found.control.windows) == (0, False, 0)
    found.check_control()
    total = LeakCheck()
    total.add(LeakCheck(1, 5, dict.fromkeys(windows.VARIANTS, 5), ["b"], Control("x", 1, 1)))
    total.add(LeakCheck(1, 7, dict.fromkeys(windows.VARIANTS, 7), ["a"], Control("x", 2, 2)))
    assert (total.cuts, total.rows_checked, total.leaking) == (2, 12, ["a", "b"])
    assert total.control == Control("x", 3, 3)
    assert not total.ok


def test_deleting_the_rest_of_the_archive_gives_the_same(archive: ArchiveReader, tmp_path: Path) -> None:
    """The literal form: a tape that ends at the cut, replayed from its beginning."""
    whole = replay(archive, SET).vectors
    for i, fraction in enumerate(CUTS[:6]):
        ends = {p: int(fraction * archive.segments(p)[-1].last_offset) for p in archive.partitions()}
        parts = [Columns.concat(list(archive.batches(p, last_offset=end))) for p, end in ends.items()]
        left = replay(ArchiveReader(archive_of(tmp_path / f"{i}", parts)), SET).vectors
        ends_of = np.array([ends[p] for p in whole.partition.tolist()])
        kept = whole.select(whole.as_of_offset <= ends_of)
        assert len(left) == len(kept)
        assert left.same_bits(kept).all()


def test_a_window_is_a_copy_that_ends_at_the_tick_of_a_vector(archive: ArchiveReader) -> None:
    whole = Columns.concat(list(archive.batches(1)))
    vectors = replay(archive, SET).vectors
    vectors = vectors.select(vectors.partition == 1)
    for drawn in (0, 99, 640, 675, len(whole) - 1):
        window = window_of({}, list(archive.batches(1, 128)), vectors, drawn)
        assert window is not None
        cut = int(window.batches[-1].offset[-1])
        assert cut in vectors.as_of_offset
        between = vectors.as_of_offset[(vectors.as_of_offset > cut) & (vectors.as_of_offset <= drawn)]
        assert set(between.tolist()) <= {len(whole) - 1}  # behind the last record nothing follows
        assert to_events(Columns.concat([*window.batches, window.after])) == to_events(whole.slice(0, len(whole)))
        assert window.expected.as_of_offset.max() == cut
        assert all(part.body.base is None and len(part.body) == part.start[-1] for part in window.batches)


def test_states_and_sets_beside_go_with_a_window(archive: ArchiveReader) -> None:
    """From saved states, made with two feature sets at once, the first set's vectors are compared."""
    other = FeatureSet("beside", 1, 500, ("mid_price", "zscore_mid_price_5"))
    batches = list(archive.batches(1, 128))
    whole, _ = run(batches, [SET, other], {}, features_agent)
    with Passage(features_agent, [SET, other], {}) as passage:
        passage.push(batches[0])
        passage.push(batches[1], saves=True)
    rest = whole.select(whole.as_of_offset > batches[1].offset[-1])
    window = window_of(passage.states.blobs, batches[2:], rest, len(batches) * 90)
    assert window is not None
    assert len(window.expected) > 3
    assert check(window, SET, beside=[other], controls=True).ok
    assert check(replace(window, blobs={}), SET, beside=[other]).leaking


def test_each_window_can_be_watched(archive: ArchiveReader) -> None:
    seen: list[Window] = []
    found = leakcheck(archive, SET, CUTS, window_rows=300, watch=seen.append)
    assert len(seen) == found.cuts
    assert sum(len(window.expected) for window in seen) == found.rows_checked


@pytest.mark.parametrize("agent", [features_agent, leaky(SET)])
@pytest.mark.parametrize("rows", [None, 60])
def test_instruments_and_a_span_bound_what_is_checked(tmp_path: Path, agent, rows: int | None) -> None:  # type: ignore[no-untyped-def]
    """Of some instruments, of some segments, up to some offset: states begin a window all the same."""
    archive = ArchiveReader(archive_of(tmp_path / "archive", tape(market(41, 1500, 10)), segment_rows=150))
    seen: list[Window] = []
    middle = START + 6 * NS_PER_S
    options = {"window_rows": rows, "watch": seen.append, "agent": agent}
    found = leakcheck(archive, SET, CUTS, symbols=[INSTRUMENTS[1]], from_ns=middle, **options)
    assert found.leaking == ([] if agent is features_agent else [LEAKY])
    assert found.control.caught
    assert {key for window in seen for key in window.expected.instruments()} == {INSTRUMENTS[1]}
    segments = [segment for p in archive.partitions() for segment in archive.segments(p)]
    first = min(segment.first_ts for segment in segments if segment.last_ts >= middle)
    assert first > START + NS_PER_S
    assert all(window.expected.time.max() >= first - NS_PER_S for window in seen)
    seen.clear()
    ends = {p: archive.segments(p)[0].last_offset for p in archive.partitions()}
    found = leakcheck(archive, SET, CUTS, last_offsets=ends, **options)
    assert found.rows_checked > 1
    assert all(window.expected.as_of_offset.max() <= ends[window.partition] for window in seen)
    assert leakcheck(archive, SET, CUTS, to_ns=START - NS_PER_S, **options).rows_checked == 0


@pytest.mark.recordings
def test_on_real_recordings_the_leak_is_caught_and_nothing_else(recordings: Path, tmp_path: Path) -> None:
    """Two real markets in one archive: any cuts, any windows, any column."""
    path = tmp_path / "real"
    for name in ("usdm_ethusdt_20240719", "spot_btcusdt_20240809"):
        import_recording([recordings / "hftbacktest" / f"{name}.gz"], f"binance-{name.split('_')[0]}", archive=path)
    real = ArchiveReader(path)
    for seed in range(2):
        chance = random.Random(seed)
        cuts, rows = [chance.random() for _ in range(3)], chance.choice([200, 3000])
        assert leakcheck(real, SET, cuts, window_rows=rows, seed=seed).ok
        column = chance.choice(SET.features)
        assert leakcheck(real, SET, cuts, window_rows=rows, seed=seed, agent=Leaky(column)).leaking == [column]
