"""An archive while its writer is killed, and a file in it that is far larger in memory than on the disk."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from ledger import Ledger
from tapes import KAFKA, archive_of, market, tape

from replay import segments as files
from replay.archive import live
from replay.audit import audit
from replay.reader import ArchiveReader
from replay.rows import LETTER_SCHEMA
from replay.segments import Segment
from schemas.arrow import TAPE_SCHEMA
from schemas.codec import DeadLetter
from schemas.columns import Columns, to_events
from schemas.errors import OnetapeError, SegmentTorn
from schemas.topics import DEAD_LETTERS, TAPE

KILLS: Final = 8
EVENTS: Final = 1_000
KILLED_AGAIN_AND_AGAIN: Final = """
    import os, random, signal, sys, time
    from pathlib import Path
    from replay.archive import live
    from tests.tapes import KAFKA, market, tape

    path, kills, part = Path(sys.argv[1]), int(sys.argv[2]), tape(market(9, int(sys.argv[3]), 20), 1)[0]
    chance = random.Random(9)
    for run in range(kills + 1):
        child = os.fork()
        if child == 0:
            with live(path, 1, 100, origin=KAFKA) as writer:
                for at in range(writer.next_offset("market.events.v1", 0) or 0, len(part), 7):
                    writer.append_tape(part.slice(at, at + 7))
                    writer.flush()
                    if run < kills:
                        time.sleep(0.02)
            os._exit(0)
        if run < kills:
            time.sleep(chance.uniform(0.05, 0.4))
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(run, flush=True)
"""


def readable(path: Path) -> Columns | None:
    """All that a reader sees now; nothing while there is no archive."""
    if not (path / "archive.json").exists():
        return None
    parts = list(ArchiveReader(path).batches(0))
    return Columns.concat(parts) if parts else None


@pytest.mark.fault("archive", "archiver killed while readers read")
def test_readers_beside_a_writer_that_is_killed_see_whole_segments(tmp_path: Path, ledger: Ledger) -> None:
    """Somebody reads all the time; each reading is the beginning of the tape, and never shorter than the one before."""
    path, whole, seen, readings = tmp_path / "archive", tape(market(9, EVENTS, 20), 1)[0], 0, 0
    command = [sys.executable, "-c", dedent(KILLED_AGAIN_AND_AGAIN), str(path), str(KILLS), str(EVENTS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writers:
        while writers.poll() is None:
            try:
                found = readable(path)
            except OnetapeError:
                ledger.torn += 1
                continue
            if found is not None:
                ledger.lost += max(0, seen - len(found))
                ledger.wrong += to_events(found) != to_events(whole.slice(0, len(found)))
                seen, readings = len(found), readings + 1
        assert writers.returncode == 0, writers.stderr
    assert readings > KILLS
    ledger.kills += KILLS
    last = readable(path)
    ledger.lost += last is None or to_events(last) != to_events(whole)
    assert audit(path).ok
    ledger.check()


EXPAND: Final = """
    import json, resource, sys
    from pathlib import Path
    from replay.audit import audit
    from replay.reader import ArchiveReader
    from schemas.errors import SegmentTorn

    reader, told = ArchiveReader(Path(sys.argv[1])), []
    list(reader.segments(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (lambda: list(reader.batches(0)), lambda: list(reader.dead_letters())):
        try:
            told.append(str(len(read())))
        except SegmentTorn as error:
            told.append(str(error))
    told += audit(Path(sys.argv[1])).torn
    print(json.dumps([told, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""
TEXT: Final = pa.array([b"x" * (1 << 20)])
ROWS: Final = 1_000
MEMORY_KIB: Final = 256 << 10


def put_bomb(root: Path, segment: Segment, table: pa.Table) -> int:
    """In place of a segment, with a sidecar that vouches for it; returns the bytes of the file."""
    file = segment.file(root)
    group = segment.blocks[0][0]._replace(rows=table.num_rows)
    made = replace(segment, last_offset=table.num_rows - 1, rows=table.num_rows, blocks=((group,),))
    for old in (file, file.with_suffix(".json")):
        old.unlink()
    with pq.ParquetWriter(
        made.file(root), table.schema, compression="zstd", write_page_checksum=True, store_schema=False,
        dictionary_pagesize_limit=2 << 20,
    ) as writer:  # fmt: skip
        writer.write_table(table, row_group_size=table.num_rows)
    size_bytes = made.file(root).stat().st_size
    made = replace(made, size_bytes=size_bytes, sha256=files.sha256_of(made.file(root)))
    files.write_json(made.file(root).with_suffix(".json"), files._sealed(made))
    return size_bytes


def once_for_all(type_: pa.DataType) -> pa.Array:
    """One text for every row, written once."""
    text = TEXT.cast(type_.value_type if pa.types.is_dictionary(type_) else type_)
    return pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), text)


def repeated(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """The first row, ROWS times, with a long text in one column."""
    columns = {
        field.name: once_for_all(field.type)
        if field.name == name
        else pa.array(range(ROWS), pa.int64())
        if field.name == "offset"
        else pa.array(table[field.name].slice(0, 1).to_pylist() * ROWS, field.type)
        for field in schema
    }
    return pa.table(columns)


@pytest.mark.fault("archive", "a small file that expands to gigabytes")
def test_a_small_file_that_expands_is_refused_in_bounded_memory(tmp_path: Path, ledger: Ledger) -> None:
    """A text of a MiB that a thousand rows share takes a few kB on the disk and a GiB if each row gets a copy."""
    root = archive_of(tmp_path / "archive", [tape(market(9, 10, 2), 1)[0]], 1)
    letters = tmp_path / "letters"
    with live(letters, 1, origin=KAFKA) as writer:
        writer.append_dead_letters(0, [0], [DeadLetter(TAPE, 0, 0, b"k", "not-avro", b"x")])
    segment = files.scan(letters, DEAD_LETTERS, 0)[0]
    letter, record = pq.read_table(segment.file(letters)), ArchiveReader(root).segments(0)[0]
    segment.file(root).parent.mkdir(parents=True)
    for suffix in (".parquet", ".json"):
        segment.file(letters).with_suffix(suffix).rename(segment.file(root).with_suffix(suffix))
    sizes = [
        put_bomb(root, segment, repeated(letter, LETTER_SCHEMA, "original")),
        put_bomb(root, record, repeated(pq.read_table(record.file(root)), TAPE_SCHEMA, "key")),
    ]
    assert max(sizes) < 100_000
    done = subprocess.run(
        [sys.executable, "-c", dedent(EXPAND), str(root)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    told, grown_kib = json.loads(done.stdout)
    refused = [text for text in told if "torn" in text and "texts of 10" in text and "Action: " in text]
    ledger.gap_undetected += len(told) - len(refused)
    ledger.faults += 2
    assert len(refused) == 4, told
    assert grown_kib < MEMORY_KIB
    ledger.check()


def test_texts_of_a_fixed_length_are_none_of_ours(tmp_path: Path) -> None:
    """The footer tells a length, but not how many of them there are of a text written once."""
    root = archive_of(tmp_path / "archive", [tape(market(9, 10, 2), 1)[0]], 1)
    put_bomb(root, ArchiveReader(root).segments(0)[0], pa.table({"key": pa.array([b"1234"] * 9, pa.binary(4))}))
    with pytest.raises(SegmentTorn, match=r"column key of texts of 4 bytes each.*Action: "):
        list(ArchiveReader(root).batches(0))
