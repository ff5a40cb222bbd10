"""How long after a Tick, or after an event, a vector is there: a worker under a live load, looked at from outside.

Input: a load; a worker with the roles features and latest, a Redis of its own.
Output: figures in ms, p99, counted from the time T of a Tick: what the load generator is late counts as ours.
Errors: CheckFailed where a vector is missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.bench import generator, probe, side
from app.bench.curve import read
from app.bench.duels import require
from app.bench.generator import Sent
from app.bench.market import Load
from app.bench.measure import Figure, Target
from app.bench.place import Place
from app.bench.side import Side
from app.bench.stream import names
from app.bench.throughput import FEW, MANY, Runs
from app.config import Settings, unsecured
from app.embedded import EmbeddedRedis
from app.publish import Progress
from app.topics import groups, wire_topic
from schemas.errors import DependencyDown
from schemas.feature_sets import FeatureSet
from schemas.registry import open_registry
from schemas.topics import TAPE, partition_of
from schemas.units import BASE_TICK_NS, NS_PER_MS, NS_PER_S
from schemas.vector_codec import VectorCodec

SAMPLE: Final = 250
"""Symbols that Redis is asked for."""
SETTLE_S: Final = 3
"""Of a load, what is not counted."""
SERVED_S: Final = 60.0
ON_TIME_NS: Final = 2 * NS_PER_MS
NOTHING: Final = Target(None, None, "ms", at_most=True)

Floats = NDArray[np.float64]
Seen = TypeVar("Seen")


@dataclass(frozen=True, slots=True)
class Under:
    """A worker under a load, which begins at `start`, ns UTC."""

    settings: Settings
    feature_set: FeatureSet
    load: Load
    start: int

    @property
    def end(self) -> int:
        """When the load ends."""
        return self.start + int(self.load.seconds * NS_PER_S)


def under_load(
    place: Place, load: Load, look: Callable[[Under], Seen], *, roles: tuple[str, ...], cadence_ms: int | None = None
) -> tuple[Under, Seen, Sent, float]:
    """Run a load; what `look` saw, what was sent, and the share of its Ticks that were laid in time."""
    with ExitStack() as stack:
        chosen: dict[str, Any] = {}
        if "latest" in roles:
            chosen = {"redis_url": stack.enter_context(EmbeddedRedis()).url, **unsecured("redis")}
        tape = place.tape(f"load-{time.time_ns()}")
        settings, feature_set = place.run(tape, cadence_ms=cadence_ms, **chosen)
        sent = place.log("sent").with_suffix(".npz")
        worker = stack.enter_context(side.worker(settings, place.log("worker"), roles))
        words = [str(load.symbols), str(load.rate), str(load.seconds), str(sent)]
        source = stack.enter_context(Side(settings, place.log("load"), generator.__name__, *words))
        before = json.loads(source.line())["before"]
        own = groups(settings)
        progress = stack.enter_context(Progress(settings, wire_topic(settings, TAPE), [own["features"]]))
        progress.wait(lambda committed: committed == before, worker.alive)
        if "latest" in roles:
            _served(settings, feature_set, load, worker)
        source.tell("go")
        begun = json.loads(source.line())
        require(not begun["late"], "a load that begins in time", "a machine too busy to encode it")
        under = Under(settings, feature_set, load, begun["start"])
        seen = look(under)
        source.line()
        ends = progress.ends()
        progress.wait(lambda committed: committed == ends, worker.alive)
        handed = Sent.read(sent)
        on_time = float(np.mean(handed.tick_sent - handed.tick < ON_TIME_NS))
    return under, seen, handed, on_time


def _served(settings: Settings, feature_set: FeatureSet, load: Load, worker: Side) -> None:
    """Wait until Redis has something of every symbol."""
    deadline = time.monotonic() + SERVED_S
    while not probe.all_there(settings.redis_url, feature_set.id, names(load.symbols)):
        worker.alive()
        if time.monotonic() > deadline:
            raise DependencyDown(
                "the worker serves nothing", expected=f"vectors in Redis within {SERVED_S:g} s", was="none",
                action="run it with this load and read its log",
            )  # fmt: skip
        time.sleep(0.1)


def of_many(runs: Runs, wanted: set[str]) -> list[Figure]:
    """Many symbols: from a Tick until each is readable in Redis, and until all are on the topic."""
    load = runs.sizes.many
    symbols = names(load.symbols)[:: max(load.symbols // SAMPLE, 1)]

    def look(under: Under) -> list[probe.Look]:
        ticks = range(under.start + SETTLE_S * NS_PER_S, under.end, NS_PER_S)
        return probe.readable(under.settings.redis_url, under.feature_set.id, symbols, ticks)

    under, seen, sent, on_time = under_load(runs.place, load, look, roles=("features", "latest"))
    runs.quiets.append(on_time)
    laid = {(tick, partition): at for tick, partition, at in sent.ticks()}
    places = {symbol: partition_of(symbol, under.settings.partitions) for symbol in symbols}
    waits = np.array([each.at - each.tick for each in seen if (each.tick, places[each.symbol]) in laid]) / NS_PER_MS
    require(len(waits) > 0, f"Ticks after {SETTLE_S} s", "none")
    figures = []
    if "readable" in wanted:
        target = Target(70, 15, "ms", at_most=True) if _is_as_asked(load, MANY) else NOTHING
        told = f"Redis asked for {len(symbols)} of them: {_spread(waits)}"
        figures.append(_figure("readable", waits, target, f"{_told(load)}; {told}; {_on_time(on_time)}"))
    if "burst" in wanted:
        figures.append(_burst(under, sent, on_time))
    return figures


def _burst(under: Under, sent: Sent, on_time: float) -> Figure:
    """From the Tick, in the first partition, until the broker had appended the vector of the last symbol."""
    laid: dict[int, int] = {}
    for tick, _, at in sent.ticks():
        laid[tick] = min(laid.get(tick, at), at)
    settings, load = under.settings, under.load
    stamps, values = read(settings, wire_topic(settings, under.feature_set.topic))
    vectors = VectorCodec(open_registry(settings.registry), under.feature_set).decode(values)
    whole = []
    for tick in sorted(set(vectors.time.tolist()) & laid.keys()):
        own = vectors.time == tick
        if under.start + SETTLE_S * NS_PER_S <= tick <= sent.end:
            require(int(own.sum()) == load.symbols, f"{load.symbols} vectors at {tick}", str(int(own.sum())))
            whole.append(stamps[own].max() * 1e3 - laid[tick] / NS_PER_MS)
    require(bool(whole), "a Tick with vectors", "none")
    target = Target(1_000, 150, "ms", at_most=True) if _is_as_asked(load, MANY) else NOTHING
    told = f"{_told(load)}; on their topic, median of {len(whole)} Ticks, worst {max(whole):.4g} ms"
    return Figure("burst", float(np.median(whole)), target, f"{told}; {_on_time(on_time)}", "live")


def of_few(runs: Runs, wanted: set[str]) -> list[Figure]:
    """Few symbols at the cadence of the base Tick: from an event until the first vector that knows it."""
    del wanted
    load = runs.sizes.few

    def look(under: Under) -> tuple[list[int], list[bytes]]:
        topic = wire_topic(under.settings, under.feature_set.topic)
        return probe.Listener(under.settings, topic).listen(under.end + NS_PER_S)

    cadence_ms = BASE_TICK_NS // NS_PER_MS
    under, (came, values), sent, on_time = under_load(
        runs.place, load, look, roles=("features",), cadence_ms=cadence_ms
    )
    runs.quiets.append(on_time)
    vectors = VectorCodec(open_registry(under.settings.registry), under.feature_set).decode(values)
    first: dict[tuple[str, int], int] = {}
    for symbol, tick, at in zip(vectors.instruments(), vectors.time.tolist(), came, strict=True):
        first.setdefault((symbol, tick), at)
    waits = _waits(sent, first, under)
    target = Target(50, 10, "ms", at_most=True) if _is_as_asked(load, FEW) else NOTHING
    told = f"{_told(load)}; {len(waits):,} events past their {cadence_ms} ms, by its own consumer: {_spread(waits)}"
    return [_figure("cadence", waits, target, f"{told}; {_on_time(on_time)}")]


def _waits(sent: Sent, first: dict[tuple[str, int], int], under: Under) -> Floats:
    """Of each event that counts, ms from the Tick that ends its 100 ms until the vector that knows it came.

    From the event itself it would be up to 100 ms more, and a slow Tick would hide behind events late in its interval.
    """
    waits, missing = [], 0
    for symbol, ts in zip(sent.event_symbol.tolist(), sent.event_ts.tolist(), strict=True):
        tick = (ts // BASE_TICK_NS + 1) * BASE_TICK_NS
        if ts < under.start + SETTLE_S * NS_PER_S or tick > sent.end:
            continue
        at = first.get((symbol, tick))
        missing += at is None
        if at is not None:
            waits.append((at - tick) / NS_PER_MS)
    require(not missing, "a vector behind every event", f"{missing} without")
    require(bool(waits), f"events after {SETTLE_S} s", "none")
    return np.array(waits)


def _figure(name: str, waits: Floats, target: Target, told: str) -> Figure:
    return Figure(name, float(np.percentile(waits, 99)), target, told, "live")


def _is_as_asked(load: Load, asked: Load) -> bool:
    return (load.symbols, load.rate) == (asked.symbols, asked.rate)


def _told(load: Load) -> str:
    return f"{load.symbols:,} symbols, {load.rate:,.0f} events/s"


def _spread(waits: Floats) -> str:
    low, middle, high = np.percentile(waits, [50, 99, 100])
    return f"p50 {low:.4g}, p99 {middle:.4g}, worst {high:.4g} ms"


def _on_time(share: float) -> str:
    return f"{100 * share:.3g} % of the Ticks laid within {ON_TIME_NS // NS_PER_MS} ms"
