"""Venues: what a frame of each venue says, as drafts of records. A format is declared by its name, never guessed."""

from __future__ import annotations

from app.venues.binance import FORMATS as _BINANCE
from app.venues.binance import BinanceFormat
from schemas.errors import UnknownFormat

FORMATS: dict[str, BinanceFormat] = {each.name: each for each in _BINANCE}


def format_named(name: str) -> BinanceFormat:
    """The format of that name, or UnknownFormat."""
    found = FORMATS.get(name)
    if found is None:
        raise UnknownFormat(
            "recording format", expected=" or ".join(FORMATS), was=repr(name), action="choose one of them with --format"
        )
    return found
