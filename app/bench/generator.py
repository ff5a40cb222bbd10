"""The load generator: a market laid onto a broker's tape as it happens, each record at its own `ts_recv`.

Run as `python -m app.bench.generator SYMBOLS RATE SECONDS FILE`, settings in the environment. Everything is encoded
before the first record is due, so that what is left to do costs little.

Input: a line on stdin once the worker has what stands before the load: Instruments, Snapshots, some seconds of events.
Output: a line of JSON with the records of each partition before the load; one with the first second (ns UTC);
one when all is sent. FILE: what was sent when, `Sent`.
Units: ns UTC.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.bench.market import TICKS_PER_S, Load, Market, TapeProducer, next_second
from app.bench.wire import Message, TapeWire
from app.config import Settings, load_settings
from schemas.columns import Columns, Int64
from schemas.events import Kind
from schemas.registry import open_registry
from schemas.units import NS_PER_MS, NS_PER_S

BEFORE_S: Final = 6
"""How far before the present a first stretch of the load is received, which shows the worker everything once."""
FIRST_S: Final = 3
FIRST_EVENTS_MAX: Final = 20_000
ENCODED_PER_S: Final = 100_000
"""Records that are encoded in a second, on a busy machine."""
LEAD_S: Final = 2.0
PAUSE_NS: Final = NS_PER_MS
"""Events are sent together that are due within so long; a Tick is never early, and late by less."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Ticks with the time each was handed to the producer in its partition; events with their symbol."""

    tick: Int64
    tick_sent: Int64
    tick_partition: Int64
    event_ts: Int64
    event_symbol: NDArray[np.str_]

    def ticks(self) -> Iterator[tuple[int, int, int]]:
        """Time, partition, and when it was handed over, of every Tick."""
        yield from zip(self.tick.tolist(), self.tick_partition.tolist(), self.tick_sent.tolist(), strict=True)

    @property
    def end(self) -> int:
        """The last Tick that every partition has."""
        return min(int(self.tick[self.tick_partition == each].max()) for each in np.unique(self.tick_partition))

    @staticmethod
    def read(path: Path) -> Sent:
        """As `write` has left it."""
        with np.load(path) as stored:
            return Sent(**{name: stored[name] for name in Sent.__slots__})

    def write(self, path: Path) -> None:
        """Into one file."""
        columns: dict[str, Any] = {name: getattr(self, name) for name in Sent.__slots__}
        np.savez(path, **columns)


class Schedule:
    """What is sent when: every partition's records in one order."""

    def __init__(self, parts: list[Columns], wire: TapeWire) -> None:
        at = np.concatenate([part.ts_recv for part in parts])
        order = np.argsort(at, kind="stable")  # records of one partition stay in theirs
        messages = [message for part in parts for message in wire.encode(part)]
        partitions = np.concatenate([np.full(len(part), part.partition) for part in parts])
        kinds = np.concatenate([part.kind for part in parts])
        symbols = np.concatenate([np.array(part.keys)[part.key] for part in parts])
        self.at: Int64 = at[order]
        self.messages: list[tuple[int, Message]] = [
            (partition, messages[i]) for i, partition in zip(order.tolist(), partitions[order].tolist(), strict=True)
        ]
        self.is_tick = kinds[order] == Kind.TICK
        self.symbols, self.partitions = symbols[order], partitions[order]

    def play(self, producer: TapeProducer) -> Sent:
        """Send each record when it is due."""
        at, sent, done = self.at, np.zeros(len(self.at), np.int64), 0
        ticks = at[self.is_tick]
        while done < len(at):
            now = time.time_ns()
            due = int(np.searchsorted(at, now, side="right"))
            for partition, message in self.messages[done:due]:
                producer.put(partition, [message])
            sent[done:due] = time.time_ns()
            done = due
            if done < len(at):
                next_tick = int(ticks[min(np.searchsorted(ticks, now, side="right"), len(ticks) - 1)])
                pause = min(max(int(at[done]), now + PAUSE_NS), max(next_tick, now)) - time.time_ns()
                time.sleep(max(pause, 0) / NS_PER_S)
        producer.flush()
        events = ~self.is_tick
        return Sent(ticks, sent[self.is_tick], self.partitions[self.is_tick], at[events], self.symbols[events])


def generate(settings: Settings, load: Load, out: Path) -> None:
    """The whole load."""
    market, wire = Market(load, settings.partitions), TapeWire(open_registry(settings.registry))
    producer = TapeProducer(settings, {"linger.ms": 1})
    before = [0] * settings.partitions
    since = (time.time_ns() // NS_PER_S - BEFORE_S) * NS_PER_S
    for stream in market.streams:
        stream.pass_to(since)
        share = (len(stream.keys) - 1) / load.symbols
        rows = int(min(load.rate * FIRST_S, FIRST_EVENTS_MAX) * share) + FIRST_S * TICKS_PER_S
        for columns in (stream.begin(), stream.take(rows)):
            producer.put(columns.partition, wire.encode(columns))
            before[columns.partition] += len(columns)
    producer.flush()
    _say({"before": before})
    if not sys.stdin.readline():
        return
    start = next_second(LEAD_S + load.events / ENCODED_PER_S)
    parts = []
    for stream in market.streams:
        stream.pass_to(start)
        parts.append(stream.take(market.rows(stream)))
    schedule = Schedule(parts, wire)
    _say({"start": start, "late": time.time_ns() > start})
    schedule.play(producer).write(out)
    _say({"sent": len(schedule.at)})


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Entry point."""
    symbols, rate, seconds, out = sys.argv[1:]
    generate(load_settings(), Load(int(symbols), float(rate), float(seconds)), Path(out))


if __name__ == "__main__":
    main()
