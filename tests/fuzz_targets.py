"""What is fuzzed: four places where bytes of others come in. A target takes any bytes, and never fails but by a defect.

Input: bytes; the first says which of a target's doors they are for.
Output: whether they were accepted. What is accepted must be sound: it is folded, stored or written and read again.
Errors: AssertionError, and whatever a refusal must not be.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import fastavro
import pyarrow.parquet as pq
import test_binance as binance
import zstandard
from crafted import T0, delta, frames_every, read_tape, snapshot, write_lines
from judged import TENTHS, opening, ticks, trade
from streams import stream
from tapes import KAFKA
from test_tape_plan import EXPRESSIBLE, UNREADABLE, messages, records
from wire_oracle import Message, decided_at_once, decided_singly

from agents.engine import Engine
from agents.oracle import Oracle
from app.importer import import_recording
from app.survey import load
from app.venues import FORMATS, format_named
from app.venues.draft import Needs, Reader
from replay import segments as files
from replay.archive import live
from replay.reader import ArchiveReader
from schemas.arrow import TAPE_SCHEMA, to_table
from schemas.codec import TapeCodec
from schemas.columns import from_events, to_events
from schemas.errors import OnetapeError, RecordRefused, SchemaUnknown, StateRefused
from schemas.events import MARKET_EVENT, Event, Kind
from schemas.feature_sets import load as load_set
from schemas.registry import FileRegistry
from schemas.topics import TAPE
from schemas.vectors import Vectors
from schemas.writers import readable

BIDS, ASKS = [(100, 5), (99, 7)], [(101, 5), (102, 7)]


class Target(Protocol):
    """A place that takes bytes of others."""

    corpus: Sequence[bytes]
    """Sound inputs, of which others are made."""

    def run(self, data: bytes) -> bool:
        """Whether the bytes were accepted."""


class Decoder:
    """Records of the tape, of our schema and of others', and those schemas themselves.

    Doors: 0 to 253 the length of a key, which follows, and a value; 254 a writer's schema as JSON; 255 no key.
    """

    SCHEMA, NO_KEY = 254, 255

    def __init__(self, folder: Path) -> None:
        registry = FileRegistry(folder / "registry.json")
        self._codec, self.corpus = TapeCodec(registry), list[bytes]()
        found: list[Message] = [(event.key.encode(), self._codec.encode(event)) for event in records()]
        for case in ("reordered", "more records", "more unions"):
            found += messages(registry, EXPRESSIBLE[case])[1]
        self.corpus += [bytes([len(key or b"")]) + (key or b"") + (value or b"") for key, value in found]
        for change in (*list(EXPRESSIBLE.values())[:6], *UNREADABLE.values()):
            schema = json.loads(json.dumps(MARKET_EVENT))
            change(schema)
            text = json.dumps(schema)
            if len(text) < 20_000:
                self.corpus.append(bytes([self.SCHEMA]) + text.encode())

    def run(self, data: bytes) -> bool:
        """One record is decided as fastavro and the gate decide it; what is accepted is folded as the oracle does."""
        if not data:
            return False
        if data[0] == self.SCHEMA:
            return self._schema(data[1:])
        size = 0 if data[0] == self.NO_KEY else data[0]
        message = (None if data[0] == self.NO_KEY else data[1 : 1 + size], data[1 + size :])
        events, letters = decided_at_once(self._codec, [message])
        assert (events, letters) == decided_singly(self._codec, [message])
        if letters:
            return False
        [event] = events
        after = [event, *ticks(2, 4)] if event.kind is not Kind.TICK else [event]
        columns = from_events(0, 0, [*opening(BIDS, ASKS), trade(101, 3, 1.5), *after])
        found, expected = Engine([TENTHS], 0).apply(columns)[0], Oracle(TENTHS, 0).apply(columns)
        assert len(found) == len(expected)
        assert found.same_bits(expected).all()
        return True

    def _schema(self, text: bytes) -> bool:
        try:
            parsed = readable(json.loads(text))
        except (SchemaUnknown, ValueError, RecursionError):
            return False
        for body in (b"\x02" * 5_000, b"\x00" * 5_000, b"\xfe\xff\xff\xff\x0f" * 1_000):
            try:
                fastavro.schemaless_reader(BytesIO(body), parsed, MARKET_EVENT)
            except Exception:  # a refusal of any type: it must only come to an end
                continue
        return True


class Venues:
    """Frames of the venues, and recordings of them.

    Doors: 0 to 2 a frame of one market; 3 to 5 a whole recording, plain or compressed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._names = folder, sorted(FORMATS)
        self._codec = TapeCodec(FileRegistry(folder / "venues.json"))
        frames: list[Any] = [{"stream": "x", "data": each} for each in (
            binance.DEPTH, binance.TRADE, binance.BOOK, binance.MARK, binance.KLINE, binance.SPOT_DEPTH,
            binance.SPOT_TRADE, binance.SPOT_BOOK,
        )]  # fmt: skip
        texts = [json.dumps(frame).encode() for frame in (*frames, binance.REST, binance.SPOT_BOOK)]
        self.corpus = [bytes([door]) + text for text in texts for door in range(3)]
        recorded = [
            snapshot(5),
            *map(delta, range(6, 12)),
            {"result": None, "id": 1},
            delta(14),
            snapshot(20),
            delta(21),
        ]
        path = write_lines(folder / "sound.txt", frames_every(60_000_000, *recorded))
        plain = path.read_bytes()
        lines = [{"t": "header", "exchange": "BINANCE_FUTURES"}] + [
            {"t": "recv", "conn": "1", "ts": (T0 + place * 10**7) / 1e9, "data": json.dumps(frame)}
            for place, frame in enumerate(recorded)
        ]
        jsonl = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        packed = [plain, jsonl, gzip.compress(plain, mtime=0), zstandard.ZstdCompressor().compress(plain)]
        self.corpus += [bytes([3 + self._names.index("binance-usdm")]) + each for each in packed]

    def run(self, data: bytes) -> bool:
        """Every event that comes out passes the gate and the wire; an import accounts for every frame."""
        if not data:
            return False
        name = self._names[data[0] % 3]
        return self._frame(name, data[1:]) if data[0] < 3 else self._recording(name, data[1:])

    def _frame(self, name: str, payload: bytes) -> bool:
        venue = format_named(name)
        try:
            frame = load(payload)
            drafts = venue.drafts(frame, "")
            venue.steps(frame)
        except RecordRefused:
            return False
        events: list[Event] = []
        for draft in drafts:
            needs = Needs()
            needs.see(draft)
            symbol = draft.symbol or "AUSDT"
            reader = Reader(venue.key(symbol), venue.instrument(symbol, needs.steps(), needs.index_scale()))
            try:
                events.append(reader.event(draft, T0))
            except RecordRefused:
                return False
        for event in events:
            assert self._codec.decode(event.key.encode(), self._codec.encode(event)) == event
        return bool(events)

    def _recording(self, name: str, content: bytes) -> bool:
        path, archive = self._folder / "fuzzed.txt", self._folder / "fuzzed"
        path.write_bytes(content)
        try:
            report = import_recording([path], name, archive=archive, partitions=1)
        except OnetapeError:
            assert not archive.exists()
            return False
        try:
            letters = sum(1 for _ in ArchiveReader(archive).dead_letters())
            assert letters == sum(report.refused.values())
            assert report.accepted + letters == report.received
            assert sum(map(len, read_tape(archive))) == report.records
        finally:
            shutil.rmtree(archive)
        return True


class Segments:
    """Files of an archive that somebody else has made.

    Doors: 0 a Parquet file of the tape, 1 of vectors, each with a sidecar that vouches for it; 2 a sidecar, 3 the head.
    """

    def __init__(self, folder: Path) -> None:
        self._root, self._set = folder / "archive", load_set("micro@1")
        events = [*opening(BIDS, ASKS), *(trade(101, 1, 1.5) for _ in range(3)), *ticks(2, 23)]
        columns = from_events(0, 0, events)
        vectors = Engine([self._set], 0).apply(columns)[0]
        with live(self._root, 1, origin=KAFKA) as writer:
            writer.append_tape(columns)
            writer.append_vectors(0, range(len(vectors)), vectors)
        [self._tape], [self._vectors] = (files.scan(self._root, topic, 0) for topic in (TAPE, self._set.topic))
        self._sound = {path: path.read_bytes() for path in sorted(self._root.rglob("*")) if path.is_file()}
        whole = [each.file(self._root).read_bytes() for each in (self._tape, self._vectors)]
        self.corpus = [bytes([door]) + content for door, content in enumerate(whole)]
        table = to_table(columns)
        styles: list[dict[str, Any]] = [
            {}, {"use_dictionary": False}, {"compression": "zstd"}, {"data_page_version": "2.0"},
            {"data_page_size": 64},
        ]  # fmt: skip
        for options in styles:
            sink = BytesIO()
            pq.write_table(table, sink, store_schema=not options, **options)
            self.corpus.append(b"\x00" + sink.getvalue())
        self.corpus.append(b"\x02" + self._sidecar().read_bytes())
        self.corpus.append(b"\x03" + (self._root / "archive.json").read_bytes())
        assert table.schema == TAPE_SCHEMA

    def _sidecar(self) -> Path:
        return self._tape.file(self._root).with_suffix(".json")

    def run(self, data: bytes) -> bool:
        """Refused by name, or read; what is read is folded. The files are sound again afterwards."""
        if not data or data[0] > 3:
            return False
        changed = {0: self._tape.file(self._root), 1: self._vectors.file(self._root), 2: self._sidecar()}
        path = changed.get(data[0], self._root / "archive.json")
        path.write_bytes(data[1:])
        if data[0] < 2:
            segment = (self._tape, self._vectors)[data[0]]
            sealed = dataclasses.replace(segment, size_bytes=len(data) - 1, sha256=files.sha256_of(path))
            path.with_suffix(".json").write_text(json.dumps(files._sealed(sealed)))
        try:
            archive = ArchiveReader(self._root)
            for columns in archive.batches(0, read_ahead=False):
                to_events(columns)
                Engine([self._set], 0).apply(columns)
            archive.vectors(self._set)
        except OnetapeError:
            return False
        finally:
            for each in {path, path.with_suffix(".json")} & self._sound.keys():
                each.write_bytes(self._sound[each])
        return True


class States:
    """Stored states of a symbol.

    Doors: 0 the blob as it is; 1 with a checksum that fits whatever it holds.
    """

    KEY, HEADER = "USDM:A", 40

    def __init__(self, folder: Path) -> None:
        self._set, self.corpus = load_set("micro@1"), list[bytes]()
        events = stream(3, seconds=40.0)
        for end in (40, 400, len(events) // 2):
            engine = Engine([self._set], 0)
            engine.apply(from_events(0, 0, events[:end]))
            blob = engine.arena.dump(self.KEY)
            self.corpus += [b"\x00" + blob, b"\x01" + blob]
        self._whole = {blob[1:] for blob in self.corpus}
        self._rest = from_events(0, len(events), stream(4)[:300])

    def run(self, data: bytes) -> bool:
        """Refused, or restored: then it is stored and restored again as the same, and records fold into it."""
        blob = data[1:]
        if data[:1] == b"\x01" and len(blob) > self.HEADER:
            blob = blob[: self.HEADER - 4] + struct.pack("<I", zlib.crc32(blob[self.HEADER :])) + blob[self.HEADER :]
        engine, again = (Engine([self._set], 0) for _ in range(2))
        try:
            engine.arena.restore(self.KEY, blob)
        except StateRefused:
            assert blob not in self._whole
            assert len(engine.arena) == 0
            return False
        dumped = engine.arena.dump(self.KEY)
        again.arena.restore(self.KEY, dumped)
        assert again.arena.dump(self.KEY) == dumped
        found: list[Vectors] = [each.apply(self._rest)[0] for each in (engine, again)]
        assert found[0].same_bits(found[1]).all()
        return True


TARGETS: dict[str, type[Decoder] | type[Venues] | type[Segments] | type[States]] = {
    "decoder": Decoder, "venues": Venues, "segments": Segments, "states": States,
}  # fmt: skip
