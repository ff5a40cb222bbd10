"""Holding back: deltas that follow a snapshot but were received before it are laid right after it.

A venue's snapshot is asked for and arrives after deltas that follow it. A live recorder buffers those; an import does
the same, so that a book is whole from its snapshot on. Deltas that the snapshot includes are laid as they come: the
first one behind a missing sequence puts the book in gap at once.

Input: one symbol's events in order of receipt, and where its snapshots stand.
State: the chain of sequences, and what is held: at most DELTAS_HELD_MAX deltas received within HELD_MAX_NS.
Output: the events to lay now; a held one keeps its own ts_recv.
Source: Binance API documentation, "How to manage a local order book correctly".
"""

from __future__ import annotations

from collections.abc import Sequence

from app.survey import SnapshotPlace
from schemas.events import Event, Kind
from schemas.limits import DELTAS_HELD_MAX, HELD_MAX_NS
from tables.layout import SEQUENCE_RESET_NS


class Chain:
    """Both chain rules: futures name the previous sequence (`pu`), spot counts on from the last one.

    The same rules as in `tables.book`, so that what is held is what the book will need.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._is_fresh = False
        self._ts_event = self._ts = 0

    def snapshot(self, event: Event) -> None:
        """Begin at a snapshot, unless the book is whole and newer than it."""
        sequence = event.body["sequence_last"]
        if self._last is None or sequence >= self._last or not self._is_late(event):
            self._last, self._is_fresh = sequence, True
            self._applied(event)

    def delta(self, event: Event) -> bool:
        """Whether the book is whole after a delta."""
        body = event.body
        last, first, to, previous = self._last, body["sequence_first"], body["sequence_last"], body["sequence_previous"]
        if last is None:
            return False
        if to < last and self._ts_event and event.ts_event - self._ts_event > SEQUENCE_RESET_NS:
            self._last = None
            return False
        if to < last or (to == last and (previous is None or not self._is_fresh)):
            return True
        if previous is None:
            follows = first == last + 1 or (self._is_fresh and first <= last + 1)
        else:
            follows = previous == last or (self._is_fresh and first <= last)
        self._last, self._is_fresh = (to if follows else None), False
        self._applied(event)
        return follows

    def _is_late(self, snapshot: Event) -> bool:
        if snapshot.ts_event and self._ts_event:
            return snapshot.ts_event <= self._ts_event
        return snapshot.ts_recv - self._ts <= SEQUENCE_RESET_NS

    def _applied(self, event: Event) -> None:
        self._ts_event, self._ts = event.ts_event, max(self._ts, event.ts_recv)


class Lane:
    """One symbol's events on their way to the tape."""

    def __init__(self, snapshots: Sequence[SnapshotPlace]) -> None:
        self._ahead = list(reversed(snapshots))
        self._deltas = 0
        self._chain = Chain()
        self._held: list[tuple[int, Event]] = []

    def saw_delta(self) -> None:
        """Count a delta frame; also one that is refused then counts, as it did in the survey."""
        self._deltas += 1

    def place(self, event: Event) -> list[Event]:
        """The events to lay now, in order."""
        if event.kind is Kind.SNAPSHOT:
            return self._release(event)
        if event.kind is Kind.DELTA:
            return self._place_delta(self._deltas, event)
        return [event]

    def skip_snapshot(self) -> list[Event]:
        """A snapshot was refused: what waited for it waits for the next one, or is laid."""
        return self._release(None)

    def _release(self, snapshot: Event | None) -> list[Event]:
        if self._ahead:
            self._ahead.pop()
        laid = []
        if snapshot is not None:
            self._chain.snapshot(snapshot)
            laid.append(snapshot)
        held, self._held = self._held, []
        for ordinal, event in held:
            laid.extend(self._place_delta(ordinal, event))
        return laid

    def _place_delta(self, ordinal: int, event: Event) -> list[Event]:
        if not self._chain.delta(event) and self._follows_snapshot(ordinal, event):
            self._held.append((ordinal, event))
            return []
        return [event]

    def _follows_snapshot(self, ordinal: int, event: Event) -> bool:
        """Whether the next snapshot needs this delta behind it, and comes soon enough."""
        if not self._ahead:
            return False
        snapshot = self._ahead[-1]
        return (
            event.body["sequence_last"] > snapshot.sequence
            and snapshot.ts_recv - event.ts_recv <= HELD_MAX_NS
            and snapshot.deltas_before - ordinal < DELTAS_HELD_MAX
        )
