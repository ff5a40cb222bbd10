"""Listing: the segments of an archive as they were read last, and read again only where a folder has changed.

Input: an archive, which may grow meanwhile.
State: the segments of each partition in memory, a sidecar's content each.
Units: times in ns UTC.
Errors: those of `replay.reader`.
"""

from __future__ import annotations

from dataclasses import dataclass

from replay import segments as files
from replay.folder import hidden_segments, topics
from replay.reader import ArchiveReader
from replay.segments import Segment
from schemas.errors import UsageError
from schemas.topics import CLOCK_KEY, REFUSED_KEY, TAPE


@dataclass(frozen=True, slots=True)
class End:
    """Where a tape partition ends: the next offset and the last Tick."""

    next_offset: int
    last_tick_ns: int


@dataclass(frozen=True, slots=True)
class Home:
    """Where an instrument is: its partition, and the first receipt of the first segment that has it."""

    partition: int
    first_ns: int


@dataclass(frozen=True, slots=True)
class Tape:
    """The tape as one listing shows it: segments, ends, instruments; `first_ns` first receipt, `last_ns` last Tick."""

    segments: dict[int, list[Segment]]
    ends: dict[int, End]
    homes: dict[str, Home]
    first_ns: int
    last_ns: int


class Listing:
    """What an archive holds, asked for often."""

    def __init__(self, archive: ArchiveReader) -> None:
        self._archive = archive
        self._known: dict[tuple[str, int], tuple[object, list[Segment]]] = {}
        self._tape: Tape | None = None

    def tape(self) -> Tape:
        """The tape as it is now. Errors: UsageError while it has no Tick, ArchiveHole, SegmentTorn."""
        before = dict(self._known)
        there = {partition: self.segments(TAPE, partition) for partition in self.partitions(TAPE)}
        if self._tape is None or any(before.get((TAPE, p), (None, None))[1] is not there[p] for p in there):
            self._tape = self._arranged({p: found for p, found in there.items() if found})
        return self._tape

    def partitions(self, topic: str) -> list[int]:
        """Partitions of a topic that have a folder."""
        return topics(self._archive.path).get(topic, [])

    def segments(self, topic: str, partition: int) -> list[Segment]:
        """Published segments of a partition, in offset order."""
        path = self._archive.path
        state = (files.names(path, topic, partition), hidden_segments(path))
        known = self._known.get((topic, partition))
        if known is not None and known[0] == state:
            return known[1]
        found = self._archive.segments(partition, topic)
        # A segment that came in between is in `found` and not in `state`: the next question reads again.
        self._known[topic, partition] = (state, found)
        return found

    def _arranged(self, there: dict[int, list[Segment]]) -> Tape:
        homes: dict[str, Home] = {}
        ends: dict[int, End] = {}
        for partition, segments in there.items():
            for segment in segments:
                for key in segment.keys:
                    homes.setdefault(key, Home(partition, segment.first_ts))
            ticks = [segment.last_tick for segment in segments if segment.last_tick is not None]
            if ticks:
                ends[partition] = End(segments[-1].last_offset + 1, ticks[-1])
        if not ends:
            raise UsageError(
                f"the tape of {self._archive.path} has no Tick yet", expected="a tape on which time has passed",
                was="no segment with a Tick", action="wait for the first flush of a worker, or import a recording",
            )  # fmt: skip
        homes = {key: home for key, home in homes.items() if key not in (CLOCK_KEY, REFUSED_KEY)}
        first_ns = min(segment.first_ts for segments in there.values() for segment in segments if segment.last_ts)
        return Tape(there, ends, homes, first_ns, max(end.last_tick_ns for end in ends.values()))
