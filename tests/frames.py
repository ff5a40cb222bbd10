"""Raw Binance recordings read the shortest way, apart from the importer: events, and what bookTicker said."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from schemas.events import Event, Kind

Quote = tuple[int, int, int, int]
_PRICE_SCALE, _SIZE_SCALE = 8, 8


class Recorded(NamedTuple):
    """One instrument of a recording. `quotes`: best bid, its size, best ask, its size by update id."""

    events: list[Event]
    quotes: dict[int, Quote]


def _units(text: str, scale: int) -> int:
    number = Decimal(text).scaleb(scale)
    assert number == int(number)
    return int(number)


def _levels(pairs: list[list[str]]) -> list[dict[str, int]]:
    return [{"price": _units(price, _PRICE_SCALE), "size": _units(size, _SIZE_SCALE)} for price, size, *_ in pairs]


def _lines(files: list[Path]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(symbol, kind, data) of every frame: hftbacktest's `<time> <json>` lines, or cryptofeed's JSON lines."""
    for file in files:
        if file.suffix == ".zst":
            with file.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
                for text in io.TextIOWrapper(stream, "utf-8"):
                    line = json.loads(text)
                    if line["t"] == "recv" or "depth?symbol=" in line.get("url", ""):
                        inner = json.loads(line["data"])
                        symbol = line.get("url", "").partition("symbol=")[2].partition("&")[0]
                        yield _frame(inner, symbol)
        else:
            with gzip.open(file, "rt") as stream:
                for text in stream:
                    yield _frame(json.loads(text.partition(" ")[2]), "")


def _frame(frame: dict[str, Any], symbol: str) -> tuple[str, str, dict[str, Any]]:
    if "lastUpdateId" in frame:
        return symbol or frame.get("symbol", ""), "snapshot", frame
    return frame["data"]["s"], frame["stream"].split("@")[1], frame["data"]


def read(files: list[Path]) -> dict[str, Recorded]:
    """Every instrument of an unbroken recording: its Snapshot, then all its Deltas, and the quotes."""
    deltas: dict[str, list[Event]] = {}
    snapshots: dict[str, Event] = {}
    quotes: dict[str, dict[int, Quote]] = {}
    for symbol, kind, data in _lines(files):
        if kind == "snapshot":
            body = {"sequence_last": data["lastUpdateId"], "bids": _levels(data["bids"]), "asks": _levels(data["asks"])}
            snapshots[symbol] = Event(f"X:{symbol}", 0, 1, Kind.SNAPSHOT, body)
        elif kind == "depth":
            deltas.setdefault(symbol, []).append(Event(f"X:{symbol}", 0, 1, Kind.DELTA, {
                "sequence_first": data["U"], "sequence_last": data["u"], "sequence_previous": data.get("pu"),
                "bids": _levels(data["b"]), "asks": _levels(data["a"]),
            }))  # fmt: skip
        elif kind == "bookTicker":
            (bid,), (ask,) = _levels([[data["b"], data["B"]]]), _levels([[data["a"], data["A"]]])
            quotes.setdefault(symbol, {})[data["u"]] = bid["price"], bid["size"], ask["price"], ask["size"]
    out = {}
    for symbol, changes in deltas.items():
        # A recording of one symbol may leave its name out of the snapshot.
        snapshot = (snapshots.get(symbol) or snapshots[""])._replace(key=f"X:{symbol}")
        out[symbol] = Recorded([instrument(f"X:{symbol}"), snapshot, *changes], quotes[symbol])
    return out


def instrument(key: str) -> Event:
    """An Instrument whose ticks and lots are units of 1e-8."""
    return Event(key, 0, 1, Kind.INSTRUMENT, {
        "venue": "X", "symbol": key.partition(":")[2], "price_scale": _PRICE_SCALE, "tick_size": 1,
        "size_scale": _SIZE_SCALE, "lot_size": 1, "index_scale": 8, "contract": "LINEAR", "is_perpetual": True,
        "contract_value": 1, "funding_interval_s": None,
    })  # fmt: skip
