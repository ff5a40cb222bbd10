"""Recordings: frames of a venue's raw streams, read from files in a container that is detected by content.

Input: one or several files that form ONE unbroken recording, in order; plain, gzip or zstd; either
    lines `<receive clock> <payload>` or JSONL objects {t, conn, ts, url, data} (t: header connect send recv http).
Output: `Frame`s in order of receipt with their position.
Units: ts_recv in ns UTC, read in the one declared unit that makes it plausible, and never through float.
Errors: RecordingForeign what is no recording of this kind; RecordingTorn what ends in the middle;
    UsageError a missing or unreadable file, files out of order, an implausible jump of the receive clock.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from app.decompression import Torn, decompressed
from schemas.errors import RecordingForeign, RecordingTorn, RecordRefused, UsageError
from schemas.limits import CLOCK_JUMP_MAX_NS, LINE_BYTES_MAX, RESPONSES_HELD_MAX
from schemas.units import NS_PER_S, to_int, to_ns

_SECONDS_SCALE = 9

_PLAIN_LINE = re.compile(rb"[0-9]{1,19} \s*[\[{]")
_TS_FIELD = re.compile(rb'"ts": ?([0-9.]+)[,}]')

Progress = Callable[[float], None]
"""Called with the share of the work that is done, 0 to 1."""


class Role(Enum):
    """VENUE: bytes of the venue. CONTROL: a line of the recorder itself. BROKEN: a line that cannot be read."""

    VENUE = "venue"
    CONTROL = "control"
    BROKEN = "broken"


class Frame(NamedTuple):
    """One line of a recording; a BROKEN one has the whole line as payload and the receive time of the line before."""

    source: str
    line: int
    ts_recv: int
    role: Role
    url: str
    payload: bytes


class _Line(NamedTuple):
    number: int
    text: bytes
    is_cut: bool
    """The file ends without the newline of this line."""


class Recording:
    """Frames of one recording; every call of `frames` reads it anew."""

    def __init__(self, files: Sequence[Path], *, receive_units: Sequence[str], exchanges: frozenset[str]) -> None:
        if not files:
            raise UsageError("no recording named", expected="at least one file", was="none", action="name a FILE")
        self.files = tuple(files)
        self._receive_units = receive_units
        self._exchanges = exchanges
        self.bytes_total = sum(map(_size_bytes, files))

    def frames(self, progress: Progress | None = None) -> Iterator[Frame]:
        """Every frame, in order of receipt inside a file, files in the order given."""
        last = 0
        done = 0
        for path in self.files:
            is_first = True
            for frame in self._file(path, done, progress):
                if frame.role is not Role.VENUE:
                    yield frame if frame.ts_recv else frame._replace(ts_recv=last)
                    continue
                if last:
                    _check_clock(frame, last, is_first_of_file=is_first)
                is_first, last = False, frame.ts_recv
                yield frame
            done += _size_bytes(path)

    def _file(self, path: Path, bytes_before: int, progress: Progress | None) -> Iterator[Frame]:
        def on_read(done: int) -> None:
            if progress is not None:
                progress(min(1.0, (bytes_before + done) / max(self.bytes_total, 1)))

        try:
            with path.open("rb") as stream:
                yield from self._frames_of(path, _lines(stream, path, on_read))
        except OSError as error:
            raise _unreadable(path, error) from error

    def _frames_of(self, path: Path, lines: Iterator[_Line]) -> Iterator[Frame]:
        first = next(lines, None)
        if first is None:
            raise _foreign(path, "an empty file")
        if _PLAIN_LINE.match(first.text):
            yield from self._plain(path, first, lines)
        elif "t" in (_object(first.text) or {}):
            yield from self._jsonl(path, first, lines)
        else:
            raise _foreign(path, f"a first line {first.text[:40]!r}")

    def _plain(self, path: Path, first: _Line, rest: Iterator[_Line]) -> Iterator[Frame]:
        """Lines `<receive clock> <payload>`. All lines of a file use the unit of the first."""
        clock, _, _ = first.text.partition(b" ")
        try:
            ns_first = to_ns(int(clock), self._receive_units)
        except RecordRefused:
            raise _foreign(path, f"a receive clock {clock.decode()}") from None
        ns_per_unit = ns_first // int(clock)
        name, digits, last = path.name, len(clock), ns_first
        for line in _chain(first, rest):
            clock, _, payload = line.text.partition(b" ")
            if line.is_cut and _object(payload) is None:
                raise _torn(path, line)
            if len(clock) != digits or not clock.isdigit():
                yield Frame(name, line.number, last, Role.BROKEN, "", line.text)
                continue
            last = int(clock) * ns_per_unit
            yield Frame(name, line.number, last, Role.VENUE, "", payload)

    def _jsonl(self, path: Path, first: _Line, rest: Iterator[_Line]) -> Iterator[Frame]:
        """JSONL objects. Responses (http) stand before the streams of their connection: they wait for their time."""
        responses: list[tuple[int, int, Frame]] = []
        last, connection = 0, ""
        for line in _chain(first, rest):
            entry = _object(line.text)
            if entry is None and line.is_cut:
                raise _torn(path, line)
            frame = _jsonl_frame(path.name, line, entry)
            if entry is not None and entry.get("t") == "header":
                self._check_header(path, entry)
            if entry is not None and entry.get("t") == "http" and frame.role is Role.VENUE:
                heapq.heappush(responses, (frame.ts_recv, frame.line, frame))
                if len(responses) > RESPONSES_HELD_MAX:
                    raise _foreign(path, f"over {RESPONSES_HELD_MAX} responses before the next streamed frame")
                continue
            if entry is not None and frame.role is Role.VENUE:
                while responses and responses[0][0] <= frame.ts_recv:
                    yield heapq.heappop(responses)[2]
                if frame.ts_recv < last and entry.get("conn") != connection:
                    raise _foreign(path, f"line {line.number}, which goes back in time to another connection")
                last, connection = frame.ts_recv, str(entry.get("conn"))
            yield frame
        while responses:
            yield heapq.heappop(responses)[2]

    def _check_header(self, path: Path, header: dict[str, Any]) -> None:
        exchange = header.get("exchange")
        if exchange not in self._exchanges:
            raise RecordingForeign(
                f"recording {path.name}", expected=f"exchange {' or '.join(sorted(self._exchanges))}",
                was=f"{exchange}", action="choose the --format of that exchange",
            )  # fmt: skip


def _jsonl_frame(name: str, line: _Line, entry: dict[str, Any] | None) -> Frame:
    broken = Frame(name, line.number, 0, Role.BROKEN, "", line.text)
    if entry is None:
        return broken
    data, url = entry.get("data"), entry.get("url", "")
    if entry.get("t") not in ("recv", "http"):
        return broken._replace(role=Role.CONTROL)
    clock = _TS_FIELD.search(line.text)
    if clock is None or not isinstance(data, str) or not isinstance(url, str):
        return broken
    try:
        ts_recv = to_ns(to_int(clock[1].decode(), _SECONDS_SCALE), ("ns",))
    except RecordRefused:
        return broken
    return Frame(name, line.number, ts_recv, Role.VENUE, url, data.encode())


def _check_clock(frame: Frame, last: int, *, is_first_of_file: bool) -> None:
    if is_first_of_file and frame.ts_recv < last:
        raise UsageError(
            f"recording {frame.source}", expected=f"files in order of time, this one from {last} ns on",
            was=f"a first receive time {frame.ts_recv} ns",
            action="name the files oldest first, one recording per import",
        )  # fmt: skip
    if abs(frame.ts_recv - last) > CLOCK_JUMP_MAX_NS:
        raise UsageError(
            f"implausible receive clock in {frame.source} line {frame.line}",
            expected=f"steps of at most {CLOCK_JUMP_MAX_NS // NS_PER_S} s inside one recording",
            was=f"a step of {(frame.ts_recv - last) / NS_PER_S:.0f} s",
            action="import the parts as recordings of their own",
        )


def _lines(stream: BinaryIO, path: Path, on_read: Callable[[int], None]) -> Iterator[_Line]:
    """Lines without their newline, empty ones left out. Memory: one line and one block."""
    number, rest = 0, b""
    try:
        for block in decompressed(stream, on_read):
            *whole, rest = (rest + block).split(b"\n")
            for text in whole:
                number += 1
                if text:
                    yield _Line(number, text.removesuffix(b"\r"), False)
            if len(rest) > LINE_BYTES_MAX:
                raise _foreign(path, f"a line {number + 1} of over {LINE_BYTES_MAX >> 20} MiB")
    except Torn as torn:
        raise RecordingTorn(
            f"recording {path.name}", expected="a whole compressed stream", was=f"{torn} after line {number}",
            action="copy the file again from its source",
        ) from None  # fmt: skip
    if rest:
        yield _Line(number + 1, rest, True)


def _chain(first: _Line, rest: Iterator[_Line]) -> Iterator[_Line]:
    yield first
    yield from rest


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        loaded = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return loaded if isinstance(loaded, dict) else None


def _size_bytes(path: Path) -> int:
    try:
        if path.is_file():
            return path.stat().st_size
        was = "a folder" if path.is_dir() else "nothing there"
    except OSError as error:
        raise _unreadable(path, error) from error
    raise UsageError(f"recording {path}", expected="a file", was=was, action="check the path")


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"recording {path} cannot be read", expected="a readable file", was=error.strerror or str(error),
        action="check its permissions, and the disk it is on",
    )  # fmt: skip


def _foreign(path: Path, was: str) -> RecordingForeign:
    return RecordingForeign(
        f"recording {path.name}", expected="lines `<receive clock> <json>` or JSONL {t, ts, data}", was=was,
        action="check the file and its --format",
    )  # fmt: skip


def _torn(path: Path, line: _Line) -> RecordingTorn:
    return RecordingTorn(
        f"recording {path.name}", expected="a last line that is whole", was=f"line {line.number} cut in the middle",
        action="copy the file again from its source, or delete that line",
    )  # fmt: skip
