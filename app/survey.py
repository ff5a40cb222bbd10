"""The first of an import's two passes: what must be known about a recording before its first record is laid.

Input: a `Recording` and the declared format.
Output: `Survey`: the instruments, where each symbol's snapshots stand among its deltas, and its trade streams.
Units: ts in ns UTC; ordinals count a symbol's deltas from 1.
Errors: RecordingForeign when no more than half of it is of the declared format; UsageError for more symbols than
    memory is meant for; those of `app.recording`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from app.recording import Progress, Recording, Role
from app.venues.binance import BinanceFormat
from app.venues.draft import Draft, Needs, Steps
from schemas.errors import RecordingForeign, RecordRefused, UsageError
from schemas.events import Kind
from schemas.limits import FRAMES_UNRECOGNISED_MAX, SYMBOLS_MAX


class SnapshotPlace(NamedTuple):
    """When a snapshot was received, after how many deltas of its symbol, and the sequence it includes."""

    ts_recv: int
    deltas_before: int
    sequence: int


@dataclass(slots=True)
class SymbolSurvey:
    """One symbol's needs, stated steps, snapshots and trade streams."""

    needs: Needs = field(default_factory=Needs)
    snapshot_needs: Needs = field(default_factory=Needs)
    stated: Steps | None = None
    deltas: int = 0
    snapshots: list[SnapshotPlace] = field(default_factory=list)
    trade_streams: set[str] = field(default_factory=set)

    def see(self, draft: Draft, ts_recv: int) -> None:
        """Take one draft into account."""
        self.needs.see(draft)
        if draft.kind is Kind.DELTA:
            self.deltas += 1
        elif draft.kind is Kind.TRADE:
            self.trade_streams.add(draft.stream)
        elif draft.kind is Kind.SNAPSHOT:
            self.snapshot_needs.see(draft)
            self.snapshots.append(SnapshotPlace(ts_recv, self.deltas, draft.body["sequence_last"]))

    def adopt(self, other: SymbolSurvey) -> None:
        """Take over what was seen apart."""
        self.needs.adopt(other.needs)
        self.snapshot_needs.adopt(other.snapshot_needs)
        self.snapshots = sorted(self.snapshots + other.snapshots)

    def steps(self) -> Steps:
        """The venue's steps where the recording states them, else measured.

        After a venue has made a tick coarser, orders of before rest on the old one: its own snapshots show them, so
        they may refine what it states. Any other number off the stated step is refused.
        """
        return self.needs.steps() if self.stated is None else self.snapshot_needs.refined(self.stated)


@dataclass(slots=True)
class Survey:
    """What the first pass found. `sole_symbol` is the one symbol there is, or empty when there are several."""

    symbols: dict[str, SymbolSurvey]
    sole_symbol: str
    first: int

    def instrument(self, market: BinanceFormat, symbol: str) -> dict[str, Any]:
        """Body of a symbol's Instrument record."""
        found = self.symbols[symbol]
        return market.instrument(symbol, found.steps(), found.needs.index_scale())


def load(payload: bytes) -> Any:
    """JSON of a frame."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise RecordRefused("not-json") from None


def survey(recording: Recording, market: BinanceFormat, progress: Progress | None) -> Survey:
    """Read a recording once, keeping no frame."""
    symbols: dict[str, SymbolSurvey] = {}
    nameless = SymbolSurvey()
    steps: dict[str, Steps] = {}
    reasons: Counter[str] = Counter()
    recognised, first = 0, 0
    for frame in recording.frames(progress):
        if frame.role is not Role.VENUE:
            continue
        first = first or frame.ts_recv
        try:
            content = load(frame.payload)
            drafts = market.drafts(content, frame.url)
        except RecordRefused as refused:
            reasons[refused.reason] += 1
            if not recognised and reasons.total() >= FRAMES_UNRECOGNISED_MAX:
                break
            continue
        if not drafts:
            steps.update(market.steps(content))
        recognised += len(drafts)
        for draft in drafts:
            found = symbols.get(draft.symbol) if draft.symbol else nameless
            if found is None:
                if len(symbols) == SYMBOLS_MAX:
                    raise _too_many(recording)
                found = symbols[draft.symbol] = SymbolSurvey()
            found.see(draft, frame.ts_recv)
            if draft.symbol and draft.kind is Kind.DELTA:
                nameless.deltas += 1
    if recognised <= reasons["other-format"]:
        raise _foreign(recording, market, reasons)
    sole = next(iter(symbols)) if len(symbols) == 1 else ""
    if sole:
        # Snapshots that name no symbol are of the only one there is.
        symbols[sole].adopt(nameless)
    for name, each in symbols.items():
        each.stated = steps.get(name)
    return Survey(symbols, sole, first)


def _too_many(recording: Recording) -> UsageError:
    return UsageError(
        f"recording {recording.files[0].name} has too many symbols", expected=f"at most {SYMBOLS_MAX}", was="one more",
        action="import the symbols in several recordings",
    )  # fmt: skip


def _foreign(recording: Recording, market: BinanceFormat, reasons: Counter[str]) -> RecordingForeign:
    found = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3)) or "no frame of a venue"
    return RecordingForeign(
        f"recording {recording.files[0].name}", expected=f"frames of {market.name}", was=found,
        action="choose the --format of the venue it was recorded from",
    )  # fmt: skip
