"""The peers: order books of hftbacktest and nautilus_trader, given the same levels as ours.

Input: columns of a tape with one Snapshot per symbol before everything else.
State: one book per symbol inside the peer.
Output: best bid and ask of each symbol, in ticks, to compare with ours.
Errors: DependencyDown where the `bench` extra is not installed.
Source: hftbacktest 2.4, BacktestAsset and elapse; nautilus_trader 1.221, OrderBook.apply_deltas.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.columns import Columns, Int64
from schemas.errors import DependencyDown
from schemas.events import Kind
from schemas.topics import CLOCK_KEY

Best = list[tuple[int, int]]

MODULES = {"naive": "sortedcontainers", "hftbacktest": "hftbacktest", "nautilus": "nautilus_trader"}
"""The module of a peer, by the figure that needs it."""
TICK, LOT = 0.01, 0.001
"""Of the generated stream, in quote and base units."""
_SNAPSHOT, _DELTA = int(Kind.SNAPSHOT), int(Kind.DELTA)
_KEY, _SIDE, _PRICE, _SIZE, _TS, _SEQUENCE, _ROW = range(7)
"""Columns of `levels`."""
_ROI_TICKS = 5_000


def peer(name: str) -> Any:
    """A peer's module."""
    try:
        return import_module(name)
    except ImportError as error:
        raise DependencyDown(
            f"the peer {name.partition('.')[0]} is missing", expected="the bench extra", was=str(error),
            action="pip install -e '.[bench]' in the clone of onetape, or leave its figure out with --skip",
        ) from None  # fmt: skip


def version(name: str) -> str:
    """A distribution with its version; the version is a dash where it is not installed."""
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"{name} -"


@njit(cache=True)
def _levels(kind: NDArray[np.uint8], key: NDArray[np.int32], ts: Int64, start: Int64, body: Int64, out: Int64) -> int:
    n = 0
    for i in range(len(kind)):
        if kind[i] not in (_SNAPSHOT, _DELTA):
            continue
        sequence = body[start[i] + (1 if kind[i] == _DELTA else 0)]
        at = start[i] + (3 if kind[i] == _DELTA else 1)
        for side in range(2):
            for level in range(at + 1, at + 1 + 2 * body[at], 2):
                out[n, 0], out[n, 1], out[n, 2], out[n, 3] = key[i], side, body[level], body[level + 1]
                out[n, 4], out[n, 5], out[n, 6] = ts[i], sequence, i
                n += 1
            at += 1 + 2 * body[at]
    return n


def levels(columns: Columns) -> Int64:
    """[n, 7] every level of every Snapshot and Delta: key, side, price, size, ts, sequence, row."""
    out = np.empty((len(columns.body) // 2 + 1, 7), np.int64)
    count = _levels(columns.kind, columns.key, columns.ts_recv, columns.start, columns.body, out)
    return out[:count].copy()


class HftWay(NamedTuple):
    """How hftbacktest keeps books."""

    is_dense: bool
    """In its ROIVectorMarketDepth, else in its HashMapMarketDepth."""
    is_local_only: bool
    """One book for each symbol; else, as its converters write data, one of the venue's and one of the trader's."""


class HftBooks:
    """One backtest per symbol, which only lets time pass. All its data is handed over before."""

    def __init__(self, parts: Sequence[Columns], way: HftWay) -> None:
        hft = peer("hftbacktest")
        found = np.concatenate([levels(part) for part in parts])
        flags = hft.DEPTH_EVENT | hft.LOCAL_EVENT | (0 if way.is_local_only else hft.EXCH_EVENT)
        self._data: list[Any] = []
        self._books = []
        for key in np.unique(found[:, _KEY]).tolist():
            own = found[found[:, _KEY] == key]
            data = np.zeros(len(own), peer("hftbacktest.types").event_dtype)
            data["ev"] = flags | np.where(own[:, _SIDE] == 0, hft.BUY_EVENT, hft.SELL_EVENT)
            data["exch_ts"] = data["local_ts"] = own[:, _TS]
            data["px"], data["qty"] = own[:, _PRICE] * TICK, own[:, _SIZE] * LOT
            self._data.append(data)  # it reads this memory, and does not keep it alive
            asset = (
                hft.BacktestAsset().data([data]).linear_asset(1.0).constant_order_latency(0, 0)
                .risk_adverse_queue_model().no_partial_fill_exchange().trading_value_fee_model(0, 0)
                .tick_size(TICK).lot_size(LOT).last_trades_capacity(0)
            )  # fmt: skip
            if way.is_dense:
                middle = int(own[0, _PRICE])
                asset = asset.roi_lb((middle - _ROI_TICKS) * TICK).roi_ub((middle + _ROI_TICKS) * TICK)
            make = hft.ROIVectorMarketDepthBacktest if way.is_dense else hft.HashMapMarketDepthBacktest
            self._books.append(make([asset]))
        for book in self._books:
            book.elapse(1)

    def pass_to(self, ts: int) -> None:
        """Let time pass to `ts` in every backtest, one after another."""
        for book in self._books:
            book.elapse(ts - book.current_timestamp)

    def best(self) -> Best:
        """Best bid and ask of each symbol, in ticks."""
        depths = [book.depth(0) for book in self._books]
        return [(int(depth.best_bid_tick), int(depth.best_ask_tick)) for depth in depths]

    def close(self) -> None:
        """Free what it holds."""
        for book in self._books:
            book.close()


class NautilusBooks:
    """One L2 OrderBook per symbol."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._data, self._enums = peer("nautilus_trader.model.data"), peer("nautilus_trader.model.enums")
        self._objects = peer("nautilus_trader.model.objects")
        identifiers, books = peer("nautilus_trader.model.identifiers"), peer("nautilus_trader.model.book")
        self._ids, self._books = {}, {}
        for key, name in enumerate(keys):
            if name != CLOCK_KEY:
                venue, _, symbol = name.partition(":")
                self._ids[key] = identifiers.InstrumentId.from_str(f"{symbol}.{venue}")
                self._books[key] = books.OrderBook(self._ids[key], self._enums.BookType.L2_MBP)

    def prebuilt(self, columns: Columns) -> list[tuple[Any, Any]]:
        """The records' OrderBookDeltas, each with the book's method that applies it."""
        data, objects, enums = self._data, self._objects, self._enums
        sides, actions = enums.OrderSide, enums.BookAction
        rows: list[list[Any]] = []
        last = -1
        for key, side, price, size, ts, sequence, row in levels(columns).tolist():
            if row != last:
                rows.append([key])
                last = row
            whose = sides.SELL if side else sides.BUY
            order = data.BookOrder(whose, objects.Price(price * TICK, 2), objects.Quantity(size * LOT, 3), 0)
            action = actions.UPDATE if size else actions.DELETE
            rows[-1].append(data.OrderBookDelta(self._ids[key], action, order, 0, sequence, ts, ts))
        return [(self._books[key].apply_deltas, data.OrderBookDeltas(self._ids[key], deltas)) for key, *deltas in rows]

    def best(self) -> Best:
        """Best bid and ask of each symbol, in ticks."""
        pairs = [(book.best_bid_price(), book.best_ask_price()) for book in self._books.values()]
        return [(round(float(bid) / TICK), round(float(ask) / TICK)) for bid, ask in pairs]


def apply(prebuilt: Sequence[tuple[Any, Any]]) -> None:
    """Apply every prebuilt update of nautilus_trader."""
    for method, deltas in prebuilt:
        method(deltas)
