"""Import: a recording becomes a tape, in an archive, on a broker, or both.

Input: the files of ONE unbroken recording and the name of their format.
State: nothing but what is being written; an archive shows the whole import or nothing of it.
Output: `ImportReport`; accepted + refused = received, in frames, and every refused frame is a dead letter.
Units: ts in ns UTC; offsets dense per partition.
Errors: UnknownFormat, those of `app.recording` and `replay.archive`, UsageError when the archive is already later.

1. Survey the recording: instruments, where the snapshots are, and which streams tell the same trades.
2. Read it again: a frame becomes events through the gate, or a dead letter.
3. Hold deltas that a snapshot soon completes, lay Ticks before what was received after them.
4. Write in chunks; memory does not grow with the recording.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.holding import Lane
from app.layer import Publish, TapeEnd, TapeLayer, tape_end
from app.recording import Frame, Progress, Recording, Role
from app.survey import Survey, load, survey
from app.venues import format_named
from app.venues.binance import BinanceFormat
from app.venues.draft import Draft, Reader
from replay.archive import staged
from replay.folder import HEAD
from schemas.codec import DeadLetter
from schemas.errors import RecordRefused, UsageError
from schemas.events import Event, Kind
from schemas.registry import SchemaRegistry
from schemas.validate import check

SEGMENT_ROWS = 250_000
"""Rows an archive's writer keeps in memory before it writes a file."""
_SURVEY_SHARE = 0.25
"""Share of an import's time that the first pass takes."""


@dataclass(slots=True)
class ImportReport:
    """What an import did, in frames; `first` and `last` are receive times (ns) of accepted ones."""

    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    control: int = 0
    records: int = 0
    symbols: list[str] = field(default_factory=list)
    first: int = 0
    last: int = 0
    partitions: int = 0

    @property
    def received(self) -> int:
        """Frames of the venue."""
        return self.accepted + sum(self.refused.values())


def import_recording(
    files: Sequence[Path],
    format_name: str,
    *,
    archive: Path | None = None,
    publish: Publish | None = None,
    registry: SchemaRegistry | None = None,
    partitions: int = 4,
    progress: Progress | None = None,
) -> ImportReport:
    """Import one recording. `publish` needs `registry`, the schema registry its values are encoded with."""
    market = format_named(format_name)
    recording = Recording(files, receive_units=market.receive_units, exchanges=market.exchanges)
    found = survey(recording, market, _share(progress, 0.0, _SURVEY_SHARE))
    with ExitStack() as stack:
        end = TapeEnd()
        writer = None
        if archive is not None:
            is_new = not (archive / HEAD).exists()
            writer = stack.enter_context(staged(archive, partitions, SEGMENT_ROWS))
            end = TapeEnd() if is_new else _end_before(archive, recording, found.first)
        layer = TapeLayer(partitions, end.last_tick)
        if writer is not None:
            layer.write_to(writer)
        if publish is not None:
            if registry is None:
                raise ValueError("publish needs a registry")
            layer.publish_to(publish, registry)
        second_pass = _Import(market, found, layer, end.instruments)
        for frame in recording.frames(_share(progress, _SURVEY_SHARE, 1.0)):
            second_pass.take(frame)
        return second_pass.finish(partitions)


def _end_before(archive: Path, recording: Recording, first: int) -> TapeEnd:
    """The end of an archive's tape, which must not be later than the recording's first frame."""
    end = tape_end(archive)
    if end.last_tick is not None and first < end.last_tick:
        raise UsageError(
            f"recording {recording.files[0].name} begins before the tape in {archive} ends",
            expected=f"a first receive time from {end.last_tick} ns on", was=f"{first} ns",
            action="import recordings oldest first, or this one into another archive",
        )  # fmt: skip
    return end


def _share(progress: Progress | None, begin: float, end: float) -> Progress | None:
    """Progress of one part of the work as progress of the whole."""
    return None if progress is None else lambda done: progress(begin + done * (end - begin))


class _Import:
    """The second pass."""

    def __init__(
        self, market: BinanceFormat, found: Survey, layer: TapeLayer, instruments: dict[str, dict[str, Any]]
    ) -> None:
        self._market, self._survey, self._layer, self._instruments = market, found, layer, instruments
        self._lanes = {symbol: Lane(each.snapshots) for symbol, each in found.symbols.items()}
        self._readers: dict[str, Reader] = {}
        self._refused: Counter[str] = Counter()
        self._report = ImportReport()

    def take(self, frame: Frame) -> None:
        """Lay what one frame says, or refuse it whole."""
        if frame.role is Role.CONTROL:
            self._report.control += 1
            return
        symbol = ""
        drafts: list[Draft] = []
        try:
            if frame.role is Role.BROKEN:
                raise RecordRefused("not-json")
            drafts = self._market.drafts(load(frame.payload), frame.url)
            if not drafts:
                self._report.control += 1
                return
            symbol = drafts[0].symbol or self._survey.sole_symbol
            if not symbol:
                raise RecordRefused("snapshot-without-symbol")
            if self._market.is_doubled(drafts[0], self._survey.symbols[symbol].trade_streams):
                raise RecordRefused("trade-doubled")
            if drafts[0].kind is Kind.DELTA:
                self._lanes[symbol].saw_delta()
            reader = self._readers.get(symbol) or self._begin(symbol, frame.ts_recv)
            events = [reader.event(draft, frame.ts_recv) for draft in drafts]
        except RecordRefused as refused:
            self._refuse(frame, symbol, refused.reason)
            if symbol and drafts[0].kind is Kind.SNAPSHOT:
                self._lay(self._lanes[symbol].skip_snapshot())
            return
        self._report.accepted += 1
        self._report.first = self._report.first or frame.ts_recv
        self._report.last = max(self._report.last, frame.ts_recv)
        for event in events:
            self._lay(self._lanes[symbol].place(event))

    def finish(self, partitions: int) -> ImportReport:
        """Close the tape with its last Tick."""
        self._layer.close()
        self._report.refused = dict(sorted(self._refused.items()))
        self._report.records = self._layer.records
        self._report.symbols = sorted(self._market.key(symbol) for symbol in self._readers)
        self._report.partitions = partitions
        return self._report

    def _begin(self, symbol: str, ts_recv: int) -> Reader:
        """Lay a symbol's Instrument, unless the archive's still says how to read it."""
        key = self._market.key(symbol)
        body = self._survey.instrument(self._market, symbol)
        known = self._instruments.get(key)
        if known is not None and _fits(body, known):
            body = known
        else:
            instrument = Event(key, 0, ts_recv, Kind.INSTRUMENT, body)
            check(instrument)
            self._layer.lay(instrument)
        self._readers[symbol] = Reader(key, body)
        return self._readers[symbol]

    def _lay(self, events: list[Event]) -> None:
        for event in events:
            self._layer.lay(event)

    def _refuse(self, frame: Frame, symbol: str, reason: str) -> None:
        self._refused[reason] += 1
        key = self._market.key(symbol).encode() if symbol else b""
        self._layer.refuse(DeadLetter(frame.source, 0, frame.line, key, reason, frame.payload).bounded())


def _fits(wanted: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether every number in steps of `wanted` is a whole number of steps of `known`."""
    for scale, step in (("price_scale", "tick_size"), ("size_scale", "lot_size")):
        finer = known[scale] - wanted[scale]
        if finer < 0 or wanted[step] * 10**finer % known[step]:
            return False
    return bool(wanted["index_scale"] <= known["index_scale"])
