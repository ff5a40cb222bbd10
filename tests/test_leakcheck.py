"""The leak check passes what is causal, and catches a feature that looks one record ahead."""

from __future__ import annotations

import random
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tapes import archive_of, market, tape

from agents.features import features_agent
from agents.ports import Batch, Emit, States
from replay.driver import replay
from replay.leakcheck import leakcheck, poison, stretches
from replay.ports import TapeBatch
from replay.reader import ArchiveReader
from schemas.columns import Columns, to_events
from schemas.events import Kind
from schemas.feature_sets import DEFAULT, FeatureSet, load
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


def test_the_features_do_not_look_ahead(archive: ArchiveReader) -> None:
    seen: list[tuple[int, int]] = []
    found = leakcheck(archive, SET, CUTS, progress=lambda done, total: seen.append((done, total)))
    assert found.ok
    assert found.leaking == []
    assert found.cuts >= len(CUTS)
    assert found.rows_checked > 10
    assert seen == sorted(seen)


@pytest.mark.parametrize("agent", [leaky_agent, price_ahead_agent])
@pytest.mark.parametrize("cuts", [CUTS, CUTS[:1]])
def test_a_leaking_feature_is_caught_and_named(archive: ArchiveReader, agent, cuts: list[float]) -> None:  # type: ignore[no-untyped-def]
    found = leakcheck(archive, SET, cuts, agent=agent)
    assert not found.ok
    assert found.leaking == [LEAKY]


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


def test_stretches_are_copies_and_lose_nothing(archive: ArchiveReader) -> None:
    whole = Columns.concat(list(archive.batches(1)))
    cuts = [0, 1, 99, 100, 640, len(whole) - 1]
    rows: list[Columns] = []
    for (stretch, after), until in zip(stretches(archive.batches(1, 128), cuts), cuts, strict=True):
        rows.extend(stretch)
        assert stretch[-1].offset[-1] == until
        assert not len(after) or after.offset[0] == until + 1
        assert all(part.body.base is None and len(part.body) == part.start[-1] for part in stretch)
    assert to_events(Columns.concat(rows)) == to_events(whole)


def test_poison_changes_prices_and_sizes_only(archive: ArchiveReader) -> None:
    part = next(archive.batches(1, 400))
    before, after = to_events(part), to_events(poison(part))
    assert [event[:4] for event in before] == [event[:4] for event in after]
    for one, other in zip(before, after, strict=True):
        if one.kind is Kind.TRADE:
            assert other.body["price"] != one.body["price"]
            assert other.body["trade_id"] == one.body["trade_id"]
        elif one.kind in (Kind.TICK, Kind.INSTRUMENT):
            assert other == one
        elif one.kind is Kind.DELTA:
            assert other.body["sequence_last"] == one.body["sequence_last"]
            assert len(other.body["bids"]) == len(one.body["bids"])


def test_a_batch_keeps_its_records() -> None:
    batch = TapeBatch(0, tape(market(1, 10, 1), 1)[0], True, False)
    batch.ack()
    assert len(batch.columns)
