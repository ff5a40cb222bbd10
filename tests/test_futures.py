"""Other futures differ from the one observed in what a market tells, or in order; a passage runs an agent over them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapes import market, tape

from agents.ports import Batch, Emit, States
from replay.ports import TapeBatch
from replay.proof.future import poison, shuffle
from replay.proof.passage import Passage
from schemas.columns import from_events, to_events
from schemas.events import Kind
from schemas.feature_sets import DEFAULT, FeatureSet, load

Sets = Sequence[FeatureSet]
SET = load(DEFAULT)
TICKER = {
    "sequence": 1, "bid_price": 1, "bid_size": 1, "ask_price": 1, "ask_size": 2, "mark_price": 1, "index_price": 7,
    "open_interest": 5,
}  # fmt: skip


def test_poison_changes_prices_and_sizes_only() -> None:
    part = tape(market(41, 1500, 10))[1].slice(0, 400)
    before, after = to_events(part), to_events(poison(part, 5))
    assert [event[:4] for event in before] == [event[:4] for event in after]
    for one, other in zip(before, after, strict=True):
        if one.kind is Kind.TRADE:
            assert other.body["price"] != one.body["price"]
            assert other.body["trade_id"] == one.body["trade_id"]
        elif one.kind in (Kind.TICK, Kind.INSTRUMENT):
            assert other == one
        elif one.kind is Kind.DELTA:
            assert other.body["sequence_last"] == one.body["sequence_last"]
            assert [len(other.body[side]) for side in ("bids", "asks")] == [
                len(one.body[side]) for side in ("bids", "asks")
            ]
            for side in ("bids", "asks"):
                for level, poisoned in zip(one.body[side], other.body[side], strict=True):
                    assert level["price"] != poisoned["price"]
                    assert level["size"] != poisoned["size"]
    assert to_events(part) == before


@given(seed=st.integers(0, 2**64), values=st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=30))
def test_poison_never_leaves_a_number(seed: int, values: list[int]) -> None:
    trades = [event for event in market(2, 300, 5) if event.kind is Kind.TRADE][: len(values)]
    events = [event._replace(body={**event.body, "price": v}) for event, v in zip(trades, values, strict=False)]
    events.append(events[0]._replace(kind=Kind.TICKER, body={**TICKER, "mark_price": None}))
    poisoned = to_events(poison(from_events(0, 0, events), seed))
    for one, other in zip(events[:-1], poisoned, strict=False):
        assert one.body["price"] != other.body["price"] >= 1
    assert poisoned[-1].body["mark_price"] is None


@given(seed=st.integers(0, 2**64))
def test_shuffle_keeps_records_and_ticks(seed: int) -> None:
    part = tape(market(3, 60, 2), 1)[0]
    after = shuffle(part, seed)
    before, moved = to_events(part), to_events(after)
    assert sorted(map(repr, before)) == sorted(map(repr, moved))
    assert before != moved
    assert (after.offset == part.offset).all()
    at = part.kind == Kind.TICK
    assert (after.kind[at] == Kind.TICK).all()
    assert [e for e in before if e.kind is Kind.TICK] == [e for e in moved if e.kind is Kind.TICK]


def test_an_agent_that_fails_fails_the_passage() -> None:
    async def failing(batches: AsyncIterable[Batch], states: States, emit: Emit, sets: Sets) -> None:
        async for _ in batches:
            raise ValueError("of the agent")

    with Passage(failing, [SET], {}) as passage, pytest.raises(ValueError, match="of the agent"):
        passage.push(tape(market(1, 10, 1), 1)[0])


def test_a_batch_keeps_its_records() -> None:
    batch = TapeBatch(0, tape(market(1, 10, 1), 1)[0], True, False)
    batch.ack()
    assert len(batch.columns)
