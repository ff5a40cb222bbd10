"""Vectors held against the oracle's, every bit; feature sets that leave nothing out; the oracle's books."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from agents.catalogue import FAMILIES, By, find
from agents.oracle import Oracle
from agents.oracle.book import Book, Side
from schemas.columns import Columns, from_events
from schemas.events import Event
from schemas.feature_sets import FeatureSet, Policy
from schemas.units import NS_PER_S
from schemas.vectors import Vectors

SCORED = ("spread_bps", "volume_700ms", "order_flow_imbalance_13300ms", "time_of_day_sin", "position_size", "mid_price")


def whole_catalogue(windows: Sequence[str], depths: Sequence[int]) -> list[str]:
    """A column for each family, window and depth."""
    names: list[str] = []
    for family in FAMILIES.values():
        endings = {By.NOTHING: [""], By.WINDOW: [f"_{w}" for w in windows], By.DEPTH: [f"_{d}" for d in depths]}
        names += [family.name + ending for ending in endings[family.by]]
    return [name for name in names if find(name) is not None]  # one level has no slope


def odd_set() -> FeatureSet:
    """Each 100 ms: every family over odd windows and depths, z-scores and z-scores of z-scores."""
    names = whole_catalogue(("100ms", "700ms", "13300ms", "60s"), (1, 3, 50))
    names += [f"zscore_{name}_{length}" for name in SCORED for length in (2, 7, 60)]
    # The z-score of five mids is no column of the set: only this one reads it.
    return FeatureSet("odd", 1, 100, (*names, "zscore_zscore_mid_price_5_7"))


def policy_set(seed: int) -> FeatureSet:
    """A part of the odd set, most columns with a policy, and vectors left out where the mid is unknown."""
    chance = random.Random(seed)
    names = [name for name in odd_set().features if name == "mid_price" or chance.random() < 0.6]
    fills = (NS_PER_S // 5, 5 * NS_PER_S, 3_600 * NS_PER_S)
    policies = {
        name: Policy(
            fill_ns=chance.choice((0, *fills)),
            clip_sigmas=sigmas if (sigmas := chance.choice((0.0, 0.5, 2.0, 3.0))) else 0.0,
            clip_count=chance.choice((2, 5, 40)) if sigmas else 0,
        )
        for name in (*names, "zscore_mid_price_5")
        if chance.random() < 0.7
    }
    policies["mid_price"] = Policy(skips_row=True)
    return FeatureSet("policies", 1, 300, tuple(names), policies)


def assert_agrees(columns: Columns, vectors: Vectors) -> int:
    """The oracle gives the same vectors in the same order, bit for bit; returns the values compared."""
    expected = Oracle(vectors.feature_set, columns.partition).apply(columns)
    assert len(expected) == len(vectors)
    if expected.same_bits(vectors).all():
        return int(vectors.values.size)
    assert expected.instruments() == vectors.instruments()
    for name in ("time", "partition", "as_of_offset", "ts_available", "book_epoch", "quality"):
        wrong = np.flatnonzero(getattr(expected, name) != getattr(vectors, name))
        for i in wrong[:1].tolist():
            where = f"{name} of {expected.instruments()[i]} at {expected.time[i]}"
            raise AssertionError(f"{where}: {getattr(vectors, name)[i]}, oracle {getattr(expected, name)[i]}")
    rows, places = np.nonzero(expected.bits() != vectors.bits())
    names = {vectors.feature_set.features[place] for place in places.tolist()}
    i, place = int(rows[0]), int(places[0])
    where = f"{vectors.feature_set.features[place]} of {expected.instruments()[i]} at {expected.time[i]}"
    was, wanted = float(vectors.values[i, place]).hex(), float(expected.values[i, place]).hex()
    raise AssertionError(f"{where}: {was}, oracle {wanted}; values differ in {sorted(names)}")


class OracleBooks:
    """The books of some instruments as the oracle keeps them, record by record."""

    def __init__(self) -> None:
        self._oracle, self._offset = Oracle(FeatureSet("mid", 1, 1000, ("mid_price",)), 0), 0

    def take(self, event: Event) -> Book:
        """Fold one record; the book of its instrument."""
        self._oracle.apply(from_events(0, self._offset, [event]))
        self._offset += 1
        return self._oracle.symbols[event.key].book


def best(book: Book) -> tuple[int, int, int, int]:
    """Best bid, its size, best ask, its size; both sides have levels."""
    bid, ask = book.bids.ranks[-1], book.asks.ranks[-1]
    return bid, book.bids.sizes[bid], -ask, book.asks.sizes[ask]


def sizes(side: Side) -> dict[int, int]:
    """Sizes by price."""
    return {side.sign * rank: size for rank, size in side.sizes.items()}
