"""What only a process of its own can tell: the memory of thousands of symbols, and the time to a first vector.

Run as `python -m app.bench.child memory SYMBOLS SET` or `python -m app.bench.child start SET`; prints one JSON object.
SET is an id or the YAML file of a set.
Units: bytes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def resident() -> int:
    """Bytes of memory this process has for itself."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory(symbols: int, spec: str) -> dict[str, int]:
    """Memory of an engine that has read more than a minute of so many symbols, so that every ring is full."""
    from agents.engine import Engine
    from app.bench.stream import BEGIN_NS, Stream, names
    from schemas.feature_sets import load
    from schemas.units import NS_PER_S

    warm = Stream(names(1))
    engine = Engine([load(spec)], 0)
    engine.apply(warm.begin())
    engine.apply(warm.take(1_000))
    stream = Stream(names(symbols), rate=1)
    engine = Engine([load(spec)], 0)
    begin = stream.begin()
    stream.take(1)
    before = resident()
    engine.apply(begin)
    while stream.time < BEGIN_NS + 62 * NS_PER_S:
        engine.apply(stream.take(10_000))
    return {"bytes": resident() - before, "symbols": len(engine.arena)}


def start(spec: str) -> dict[str, int]:
    """One vector."""
    from agents.engine import Engine
    from schemas.columns import from_events
    from schemas.events import Event, Kind
    from schemas.feature_sets import load
    from schemas.topics import CLOCK_KEY
    from schemas.units import NS_PER_S

    begin = 1_760_000_000 * NS_PER_S
    instrument = {
        "venue": "START", "symbol": "A", "price_scale": 2, "tick_size": 1, "size_scale": 3, "lot_size": 1,
        "index_scale": 4, "contract": "SPOT", "is_perpetual": False, "contract_value": 1, "funding_interval_s": None,
    }  # fmt: skip
    levels = {"bids": [{"price": 100, "size": 1}], "asks": [{"price": 101, "size": 1}]}
    tick = begin + NS_PER_S
    events = [
        Event("START:A", 0, begin, Kind.INSTRUMENT, instrument),
        Event("START:A", 0, begin, Kind.SNAPSHOT, {"sequence_last": 1, **levels}),
        Event(CLOCK_KEY, tick, tick, Kind.TICK, {"time": tick}),
    ]
    vectors = Engine([load(spec)], 0).apply(from_events(0, 0, events))[0]
    return {"vectors": len(vectors)}


def main(arguments: list[str]) -> None:
    """Entry point of the child."""
    found = start(arguments[1]) if arguments[0] == "start" else memory(int(arguments[1]), arguments[2])
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
