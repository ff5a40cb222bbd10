"""What every rival computes, in plain Python: an L2 book, trades and order flow over four windows, vectors.

Input: messages of the tape, one after another, partition by partition.
State: per symbol its book as two dictionaries with their best prices, and running totals at each Tick of a minute.
Output: key and value of each vector of a Tick, the bytes that `schemas.vectors` would write.
Units: ticks and lots; ns UTC.
It has what makes this fast in Python: no level is sorted but where a vector asks for it, a window is one difference.
It is spared what a worker must do besides: the gate, sequences, quality flags, saving what it knows.
"""

from __future__ import annotations

import heapq
from collections import deque
from io import BytesIO
from typing import Any, Final

import fastavro

from app.bench.wire import Message
from schemas.events import MARKET_EVENT
from schemas.feature_sets import FeatureSet
from schemas.registry import SchemaRegistry
from schemas.units import BASE_TICK_NS, NS_PER_MS
from schemas.vector_codec import avro_schema
from schemas.wire import Wire

WINDOWS_S: Final = (1, 3, 15, 60)
STEPS_MAX: Final = WINDOWS_S[-1] * 10
WIRE_HEAD: Final = 5
_SCHEMA: Final = fastavro.parse_schema(MARKET_EVENT)

Totals = tuple[int, int, int, int, int]
"""Value of the trades in ticks times lots, lots, buys, sells, order flow: since the symbol's first Tick."""
Record = dict[str, Any]


def decode(value: bytes) -> Record:
    """One record of the tape; `body` is (name of its kind, fields)."""
    record: Any = fastavro.schemaless_reader(BytesIO(value[WIRE_HEAD:]), _SCHEMA, None, return_record_name=True)
    return record  # type: ignore[no-any-return]


class Symbol:
    """One instrument. `past[-1 - n]`: the totals n Ticks ago."""

    __slots__ = (
        "ask", "asks", "bid", "bids", "book_ticks", "buys", "epoch", "flow", "lots", "past", "price_unit", "sells",
        "size_unit", "value",
    )  # fmt: skip

    def __init__(self) -> None:
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self.bid = self.ask = self.epoch = self.book_ticks = 0
        self.value = self.lots = self.buys = self.sells = self.flow = 0
        self.price_unit = self.size_unit = (1, 1)
        self.past: deque[Totals] = deque(maxlen=STEPS_MAX + 1)

    def take(self, name: str, body: Record) -> None:
        """One record that is no Tick."""
        if name == "onetape.Delta":
            self._delta(body)
        elif name == "onetape.Trade":
            if not body["is_block"] and not body["is_insurance"]:
                size = body["size"]
                self.value += body["price"] * size
                self.lots += size
                if body["side"] == "BUY":
                    self.buys += 1
                else:
                    self.sells += 1
        elif name == "onetape.Snapshot":
            self.bids = {level["price"]: level["size"] for level in body["bids"]}
            self.asks = {level["price"]: level["size"] for level in body["asks"]}
            self.bid, self.ask = max(self.bids), min(self.asks)
            self.epoch += 1
            self.book_ticks = 0
        elif name == "onetape.Instrument":
            self.price_unit = body["tick_size"], 10 ** body["price_scale"]
            self.size_unit = body["lot_size"], 10 ** body["size_scale"]

    def _delta(self, body: Record) -> None:
        bids, asks, bid, ask = self.bids, self.asks, self.bid, self.ask
        bid_size, ask_size = bids.get(bid, 0), asks.get(ask, 0)
        for level in body["bids"]:
            price, size = level["price"], level["size"]
            if size:
                bids[price] = size
                self.bid = max(self.bid, price)
            elif bids.pop(price, 0) and price == self.bid:
                self.bid = max(bids, default=0)
        for level in body["asks"]:
            price, size = level["price"], level["size"]
            if size:
                asks[price] = size
                self.ask = min(self.ask, price)
            elif asks.pop(price, 0) and price == self.ask:
                self.ask = min(asks, default=0)
        if self.bid >= bid:
            self.flow += bids[self.bid]
        if self.bid <= bid:
            self.flow -= bid_size
        if self.ask <= ask:
            self.flow -= asks[self.ask]
        if self.ask >= ask:
            self.flow += ask_size

    def close(self, steps: int) -> None:
        """A Tick, `steps` times 100 ms after the last."""
        totals = self.value, self.lots, self.buys, self.sells, self.flow
        if steps == 1:
            self.past.append(totals)
        else:
            self.past.extend([totals] * min(steps, STEPS_MAX + 1))
        if self.epoch:
            self.book_ticks += steps if self.book_ticks else 1

    def values(self) -> list[float | None]:
        """The columns of `live.yaml`, in order."""
        (tick, price_scale), (lot, size_scale) = self.price_unit, self.size_unit
        bids = sum(self.bids[price] for price in heapq.nlargest(5, self.bids))
        asks = sum(self.asks[price] for price in heapq.nsmallest(5, self.asks))
        out: list[float | None] = [
            (self.bid + self.ask) * tick / price_scale / 2, (self.ask - self.bid) * tick / price_scale,
            bids * lot / size_scale, asks * lot / size_scale, (bids - asks) / (bids + asks),
        ]  # fmt: skip
        vwaps, volumes, imbalances, flows = [], [], [], []
        past, now = self.past, (self.value, self.lots, self.buys, self.sells, self.flow)
        for seconds in WINDOWS_S:
            vwap = volume = imbalance = flow = None
            if len(past) > seconds * 10:
                value, lots, buys, sells, flowed = map(int.__sub__, now, past[-1 - seconds * 10])
                volume = lots * lot / size_scale
                if lots:
                    vwap = value / lots * tick / price_scale
                    imbalance = (buys - sells) / (buys + sells)
                if self.book_ticks > seconds * 10:
                    flow = flowed * lot / size_scale
            vwaps.append(vwap)
            volumes.append(volume)
            imbalances.append(imbalance)
            flows.append(flow)
        return [*out, *vwaps, *volumes, *imbalances, *flows]


class Partition:
    """The symbols of one partition and its clock."""

    def __init__(self) -> None:
        self.symbols: dict[str, Symbol] = {}
        self.time = 0


class Job:
    """The whole job, for as many partitions as there are."""

    def __init__(self, registry: SchemaRegistry, feature_set: FeatureSet) -> None:
        self._wire = Wire(registry, f"{feature_set.topic}-value", avro_schema(feature_set))
        self._columns, self._cadence_ns = feature_set.features, feature_set.cadence_ms * NS_PER_MS
        self._partitions: dict[int, Partition] = {}

    def partition(self, number: int) -> Partition:
        """A partition, begun when first asked for."""
        if number not in self._partitions:
            self._partitions[number] = Partition()
        return self._partitions[number]

    def take(self, number: int, offset: int, key: str, value: bytes) -> list[Message]:
        """One message; the vectors it completes."""
        record = decode(value)
        name, body = record["body"]
        partition = self.partition(number)
        if name == "onetape.Tick":
            return self._tick(number, offset, body["time"], record["ts_recv"])
        symbol = partition.symbols.get(key)
        if symbol is None:
            symbol = partition.symbols[key] = Symbol()
        symbol.take(name, body)
        return []

    def _tick(self, number: int, offset: int, now: int, ts_recv: int) -> list[Message]:
        partition = self._partitions[number]
        steps = (now - partition.time) // BASE_TICK_NS if partition.time else 1
        if steps <= 0:
            return []
        partition.time = now
        for symbol in partition.symbols.values():
            symbol.close(steps)
        if now % self._cadence_ns:
            return []
        head = {"time": now, "partition": number, "as_of_offset": offset, "ts_available": ts_recv, "quality": 0}
        return [
            (key.encode(), self._wire.encode(self._vector(key, symbol) | head))
            for key, symbol in partition.symbols.items()
            if symbol.epoch
        ]

    def _vector(self, key: str, symbol: Symbol) -> Record:
        values = dict(zip(self._columns, symbol.values(), strict=True))
        return {"instrument": key, "book_epoch": symbol.epoch, **values}
