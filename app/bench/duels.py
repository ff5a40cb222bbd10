"""The engine in turns with each rival, over the same records in memory, each side warmed by the minute before.

Output: a figure per rival: how many times faster we are, the median of the rounds.
Errors: CheckFailed where a rival and the engine do not say the same: then there is nothing to compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from agents.engine import Engine
from agents.oracle import Oracle
from app.bench import peers
from app.bench.measure import Duel, Figure, Stopwatch, Target, duel, rate
from app.bench.peers import HftBooks, HftWay, NautilusBooks
from app.bench.tape import Sizes, Tape, fold, generated, warmed
from schemas.columns import to_events
from schemas.errors import CheckFailed
from schemas.feature_sets import FeatureSet
from schemas.vectors import Vectors

REL_TOL = 1e-9
ABS_TOL = 1e-8
"""Of differences of nearly equal values: a deviation in basis points is a difference of prices, times 10,000."""


def against_oracle(watch: Stopwatch, feature_set: FeatureSet, sizes: Sizes, tape: Tape | None = None) -> list[Figure]:
    """Full vectors against tuned plain Python of the same formulas; every bit is compared."""
    tape = tape or generated(sizes, sizes.slow_rows)
    engine = warmed(feature_set, tape)
    oracle = Oracle(feature_set, 0)
    oracle.apply(tape.warm)
    checked = 0

    def compare(i: int, ours: Vectors, theirs: Vectors) -> None:
        nonlocal checked
        equal = len(ours) == len(theirs) and bool(ours.same_bits(theirs).all())
        require(equal, "the oracle's vectors", f"others in round {i}")
        checked += ours.values.size

    found = duel(
        watch, len(tape.rounds), lambda i: fold(engine, tape.rounds[i]), lambda i: oracle.apply(tape.rounds[i]), compare
    )
    told = f"tuned Python oracle, {checked:,} values equal in every bit"
    return [of_duel("oracle", tape, found, Target(20, 40), told)]


def against_naive(watch: Stopwatch, feature_set: FeatureSet, sizes: Sizes, tape: Tape | None = None) -> list[Figure]:
    """Full vectors against the naive version; every value is compared, to REL_TOL."""
    from app.bench.naive import Naive

    tape = tape or generated(sizes, sizes.naive_rows)
    engine = warmed(feature_set, tape)
    naive = Naive(feature_set.features, feature_set.cadence_ms)
    naive.apply(to_events(tape.warm))
    events = [to_events(columns) for columns in tape.rounds]
    checked = 0

    def compare(_: int, ours: Vectors, theirs: Mapping[tuple[str, int], Any]) -> None:
        nonlocal checked
        checked += agreeing(ours, theirs)

    found = duel(
        watch, len(tape.rounds), lambda i: fold(engine, tape.rounds[i]), lambda i: naive.apply(events[i]), compare
    )
    told = f"{peers.version('sortedcontainers')} books and deques, {checked:,} values equal to {REL_TOL:g}"
    return [of_duel("naive", tape, found, Target(150, 1_000), told)]


def agreeing(vectors: Vectors, expected: Mapping[tuple[str, int], Any]) -> int:
    """How many values were compared with the naive version's; CheckFailed at the first that differs."""
    require(len(vectors) == len(expected), f"{len(expected)} vectors", str(len(vectors)))
    compared = 0
    for i, key in enumerate(vectors.instruments()):
        features, quality, epoch = expected[key, int(vectors.time[i])]
        where = f"of {key} at {vectors.time[i]}"
        require(int(vectors.book_epoch[i]) == epoch, f"book epoch {epoch} {where}", str(vectors.book_epoch[i]))
        for name, value in zip(vectors.feature_set.features, vectors.values[i].tolist(), strict=True):
            want = math.nan if features[name] is None else features[name]
            equal = math.isclose(value, want, rel_tol=REL_TOL, abs_tol=ABS_TOL)
            require(equal or (math.isnan(value) and math.isnan(want)), f"{name} {want} {where}", str(value))
            compared += 1
        require(int(vectors.quality[i]) == quality, f"quality {quality} {where}", str(vectors.quality[i]))
    return compared


def against_hftbacktest(watch: Stopwatch, feature_set: FeatureSet, sizes: Sizes) -> list[Figure]:
    """Full vectors against its book alone: as its converters write data, in either of its books, and its least."""
    tape = generated(sizes, sizes.fast_rows)
    ways = (
        ("hftbacktest", Target(1.0, 3.0), HftWay(True, False), "ROIVectorMarketDepth"),
        ("hftbacktest:hash", Target(None, None), HftWay(False, False), "HashMapMarketDepth"),
        ("hftbacktest:local", Target(None, None), HftWay(True, True), "ROIVectorMarketDepth, the trader's book only"),
    )
    return [_against_hft(watch, feature_set, tape, *way) for way in ways]


def _against_hft(
    watch: Stopwatch, feature_set: FeatureSet, tape: Tape, name: str, target: Target, way: HftWay, told: str
) -> Figure:
    engine = warmed(feature_set, tape)
    books = HftBooks([tape.warm, *tape.rounds], way)
    books.pass_to(int(tape.warm.ts_recv[-1]))
    found = duel(
        watch, len(tape.rounds), lambda i: fold(engine, tape.rounds[i]),
        lambda i: books.pass_to(int(tape.rounds[i].ts_recv[-1])), _same_best(engine, tape, books.best),
    )  # fmt: skip
    books.close()
    told = f"{peers.version('hftbacktest')} {told}, best bid and ask equal"
    return of_duel(name, tape, found, target, told)


def against_nautilus(watch: Stopwatch, feature_set: FeatureSet, sizes: Sizes) -> list[Figure]:
    """Full vectors against its books, given deltas that were built before."""
    tape = generated(sizes, sizes.slow_rows)
    engine = warmed(feature_set, tape)
    books = NautilusBooks(tape.warm.keys)
    peers.apply(books.prebuilt(tape.warm))
    prebuilt = [books.prebuilt(columns) for columns in tape.rounds]
    found = duel(
        watch, len(tape.rounds), lambda i: fold(engine, tape.rounds[i]), lambda i: peers.apply(prebuilt[i]),
        _same_best(engine, tape, books.best),
    )  # fmt: skip
    version = f"{peers.version('nautilus_trader')} OrderBook, prebuilt OrderBookDeltas, best bid and ask equal"
    return [of_duel("nautilus", tape, found, Target(5, 12), version)]


def _same_best(engine: Engine, tape: Tape, best: Callable[[], peers.Best]) -> Callable[[int, object, object], None]:
    """A check that the peer's best prices are ours."""

    def check(i: int, _ours: object, _theirs: object) -> None:
        books = [engine.arena.book(key) for key in tape.warm.keys[1:]]
        ours = [(bids[0][0], asks[0][0]) for bids, asks in books]
        require(ours == best(), f"the best prices {ours}", f"the peer's {best()} after round {i}")

    return check


def require(holds: bool, expected: str, was: str) -> None:
    """Nothing is compared that is not the same."""
    if not holds:
        raise CheckFailed(
            "the engine and a rival differ", expected=expected, was=was,
            action="find out which is wrong: no speed counts before",
        )  # fmt: skip


def of_duel(name: str, tape: Tape, found: Duel, target: Target, told: str) -> Figure:
    """The figure of a duel over a tape's rounds."""
    name = f"{name}:{tape.name}" if tape.name else name
    both = f"events, we {rate(found.ours, tape.rows)}, it {rate(found.theirs, tape.rows)}"
    both += f"; {found.cpu_ratio:.3g}x in processor time"
    return Figure(name, found.ratio, target, f"{told}; {both}")
