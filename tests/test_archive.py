"""The archive keeps every row, shows whole segments only, and names what is wrong with it."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import events
from tapes import INSTRUMENTS, KAFKA, archive_of, market, tape, tick

from replay.archive import live, staged
from replay.audit import audit
from replay.folder import IMPORT
from replay.groups import row_groups
from replay.reader import ArchiveReader
from replay.rows import GROUP_NUMBERS_MAX, TapeRows, group_ends
from replay.segments import publish
from schemas.columns import Columns, from_events, to_events
from schemas.errors import ArchiveHole, ArchiveMissing, CheckFailed, OnetapeError, SegmentTorn, UsageError
from schemas.events import Event, Kind
from schemas.topics import DEAD_LETTERS, TAPE

ROOT = Path(__file__).resolve().parent.parent
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


def stored(path: Path, partition: int = 0, **kept: int) -> list[Event]:
    return [event for batch in ArchiveReader(path).batches(partition, **kept) for event in to_events(batch)]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two partitions of several segments each."""
    return archive_of(tmp_path / "archive", tape(market(1, 900, 4)), segment_rows=200)


@shared
@given(
    rows=st.lists(events(), min_size=1, max_size=60), first=st.integers(0, 2**40), segment_rows=st.integers(1, 25),
    append_rows=st.integers(1, 20), batch_size=st.sampled_from([1, 7, 64, 10_000]),
)  # fmt: skip
def test_rows_come_back_as_they_were(
    tmp_path: Path, rows: list[Event], first: int, segment_rows: int, append_rows: int, batch_size: int
) -> None:
    path = tmp_path / "archive"
    shutil.rmtree(path, ignore_errors=True)
    columns = from_events(2, first, rows)
    with staged(path, 3, segment_rows) as writer:
        for other in (0, 1):
            writer.append_tape(from_events(other, 0, [tick(1)]))
        for at in range(0, len(rows), append_rows):
            writer.append_tape(columns.slice(at, min(at + append_rows, len(rows))))
    batches = list(ArchiveReader(path).batches(2, batch_size))
    assert [event for batch in batches for event in to_events(batch)] == rows
    assert np.concatenate([batch.offset for batch in batches]).tolist() == list(range(first, first + len(rows)))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert audit(path).ok
    assert audit(path).offsets == len(rows) + 2


def test_filters_keep_ticks_and_offsets(small: Path) -> None:
    whole = Columns.concat(list(ArchiveReader(small).batches(1)))
    symbol = next(key for key in whole.keys if key in INSTRUMENTS)
    kept = Columns.concat(list(ArchiveReader(small).batches(1, 64, symbols=[symbol])))
    expected = np.isin(whole.key, [whole.keys.index(symbol), whole.keys.index("*")])
    assert to_events(kept) == to_events(whole.take(expected))
    assert kept.offset.tolist() == whole.offset[expected].tolist()
    assert stored(small, 1, first_offset=150, last_offset=420) == to_events(whole.slice(150, 421))


def test_an_archive_stored_with_other_encodings_reads_the_same(small: Path) -> None:
    """As archives were stored before: zstd, and dictionaries for every column."""
    before = [stored(small, partition) for partition in (0, 1)]
    old = {"compression": "zstd", "use_dictionary": True}
    for segment in [each for partition in (0, 1) for each in ArchiveReader(small).segments(partition)]:
        tables = list(row_groups(small, segment))
        assert publish(small, segment, TapeRows.schema, tables, old).sha256 != segment.sha256
    assert [stored(small, partition) for partition in (0, 1)] == before
    assert audit(small).ok


def test_live_writer_continues_and_skips_what_it_has(tmp_path: Path) -> None:
    path, whole = tmp_path / "archive", tape(market(3, 500, 3), 1)[0]
    with live(path, 1, 100, origin=KAFKA) as writer:
        assert writer.append_tape(whole.slice(0, 250)) == 250
        assert writer.pending_rows == 50
        assert [segment.rows for segment in writer.flush()] == [50]
        assert writer.append_tape(whole.slice(200, 260)) == 10
        assert writer.append_tape(whole.slice(100, 130)) == 0
    with live(path, 1, 100, origin=KAFKA) as writer:
        assert writer.next_offset(TAPE, 0) == 260
        assert writer.next_offset(DEAD_LETTERS, 0) is None
        with pytest.raises(ArchiveHole, match=r"expected offset 260, was offset 261.*Action"):
            writer.append_tape(whole.slice(261, 300))
        writer.append_tape(whole.slice(0, len(whole)))
    assert stored(path) == to_events(whole)
    assert audit(path).ok


def test_an_archive_takes_rows_of_its_own_origin_only(tmp_path: Path) -> None:
    whole = tape(market(3, 300, 3), 1)[0]
    kafka, imported = tmp_path / "kafka", archive_of(tmp_path / "imported", [whole], 1)
    with live(kafka, 1, origin=KAFKA) as writer:
        writer.append_tape(whole.slice(0, 100))
    with live(kafka, 1, origin=KAFKA) as writer:
        assert writer.append_tape(whole) == len(whole) - 100, "a second worker on the same tape goes on"
    before = [stored(kafka), stored(imported)]
    for path, was in ((imported, "import"), (kafka, KAFKA)):
        action = r"origin kafka:new/tape, was origin .*Action: .*ONETAPE_ARCHIVE_DIR"
        with pytest.raises(UsageError, match=action) as raised, live(path, 1, origin="kafka:new/tape"):
            pass
        assert f"was origin {was}" in str(raised.value)
    with pytest.raises(UsageError, match=r"expected origin import.*Action: name another --archive"), staged(kafka, 1):
        pass
    head = json.loads((imported / "archive.json").read_bytes())
    assert head.pop("origin") == "import"
    (imported / "archive.json").write_text(json.dumps(head))
    with staged(imported, 1) as writer:
        assert writer.append_tape(whole) == 0, "an archive that tells no origin was imported"
    assert [stored(kafka), stored(imported)] == before


def test_offsets_inside_a_batch_are_dense(tmp_path: Path) -> None:
    whole = tape(market(3, 100, 3), 1)[0]
    holed = Columns.concat([whole.slice(0, 5), whole.slice(6, 9)])
    jump, path = "expected offset 5, was offset 6", tmp_path / "a"
    with pytest.raises(ArchiveHole, match=jump), live(path, 1, origin=KAFKA) as writer:
        writer.append_tape(holed)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_import_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    part = tape(market(5, 300, 2), 1)[0]

    def fail(path: Path) -> None:
        with staged(path, 1, 100) as writer:
            writer.append_tape(part)
            raise error

    with pytest.raises(error):
        fail(tmp_path / "new" / "archive")
    assert list(tmp_path.iterdir()) == []
    path = archive_of(tmp_path / "archive", [part.slice(0, 150)], 1, 100)
    before = sorted(path.rglob("*"))
    with pytest.raises(error):
        fail(path)
    assert sorted(path.rglob("*")) == before
    with staged(path, 1, 100) as writer:
        writer.append_tape(part)
    assert stored(path) == to_events(part)
    assert audit(path).ok


@pytest.mark.fault("archive", "two writers")
def test_writers_exclude_each_other_and_other_content(tmp_path: Path, small: Path) -> None:
    for again in (partial(live, origin=IMPORT), staged):
        with staged(small, 2), pytest.raises(UsageError, match=r"another process.*Action"), again(small, 2):
            pass
        with pytest.raises(UsageError, match="partition count"), again(small, 3):
            pass
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "thesis.txt").touch()
        with pytest.raises(UsageError, match="not an archive"), again(tmp_path / "other", 2):
            pass
        with pytest.raises(UsageError, match="partition 2"), again(tmp_path / "fresh", 2) as writer:
            writer.append_tape(from_events(2, 0, []))
    for path in (tmp_path / "nowhere", tmp_path / "other"):
        with pytest.raises(ArchiveMissing, match="Action"):
            ArchiveReader(path)
    (small / "archive.json").write_text("{}")
    with pytest.raises(UsageError, match=r"archive\.json"):
        ArchiveReader(small)


def files_of(path: Path, suffix: str, partition: int = 1) -> list[Path]:
    return sorted((path / f"topic={TAPE}" / f"partition={partition}").glob(f"*{suffix}"))


@pytest.mark.fault("archive", "one bit flipped")
@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_every_flipped_bit_is_refused(small: Path, suffix: str) -> None:
    chance = random.Random(11)
    victim = files_of(small, suffix)[1]
    whole = victim.read_bytes()
    first = int(victim.stem.split("-")[0])
    for _ in range(120):
        torn = bytearray(whole)
        at = chance.randrange(len(whole))
        torn[at] ^= 1 << chance.randrange(8)
        if suffix == ".json" and json_equal(bytes(torn), whole):
            continue
        victim.write_bytes(torn)
        with pytest.raises(SegmentTorn, match=str(first)):
            stored(small, 1)
    victim.write_bytes(whole)
    assert audit(small).ok


def json_equal(one: bytes, other: bytes) -> bool:
    """White space may change; it says nothing."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def swap(path: Path, suffixes: Sequence[str]) -> None:
    other = files_of(path.parents[2], ".parquet")[2]
    for suffix in suffixes:
        one, two = path.with_suffix(suffix), other.with_suffix(suffix)
        content = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(content)


FAULTS = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "file missing": Path.unlink,
    "sidecar missing": lambda path: path.with_suffix(".json").unlink(),
    "both missing": lambda path: (path.unlink(), path.with_suffix(".json").unlink()),
    "sidecar empty": lambda path: path.with_suffix(".json").write_bytes(b""),
    "files swapped": lambda path: swap(path, [".parquet"]),
    "segments swapped": lambda path: swap(path, [".parquet", ".json"]),
    "from another partition": lambda path: shutil.copy(files_of(path.parents[2], ".parquet", 0)[1], path),
}


@pytest.mark.fault("archive", "segment swapped")
@pytest.mark.fault("archive", "segment or its sidecar missing")
@pytest.mark.fault("archive", "Parquet file cut or empty")
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_whole_is_refused_and_named(small: Path, fault: str, position: int) -> None:
    victim = files_of(small, ".parquet")[position]
    FAULTS[fault](victim)
    with pytest.raises((SegmentTorn, ArchiveHole), match=r"\d.*Action") as raised:
        stored(small, 1)
    assert any(str(int(offset)) in str(raised.value) for offset in victim.stem.split("-"))
    found = audit(small)
    assert not found.ok
    if "missing" in fault:
        first, last = map(int, victim.stem.split("-"))
        begins = None if position == 0 and fault != "file missing" else first
        assert {"topic": TAPE, "partition": 1, "first": begins, "last": last} in found.holes
    assert stored(small, 0), "the other partition is untouched"


@pytest.mark.fault("archive", "segment doubled")
def test_a_doubled_segment_is_refused_and_named(small: Path) -> None:
    part = Columns.concat(list(ArchiveReader(small).batches(1)))
    first = 250
    other = small.parent / "other"
    with live(other, 2, origin=KAFKA) as writer:
        writer.append_tape(part.slice(first, first + 30))
    for suffix in (".parquet", ".json"):
        shutil.copy(files_of(other, suffix)[0], files_of(small, suffix)[0].parent)
    with pytest.raises(ArchiveHole, match=r"250\.\.279.*archived twice"):
        stored(small, 1)
    assert audit(small).doubles == [{"topic": TAPE, "partition": 1, "first": 250, "last": 279}]


def test_row_groups_are_bounded_by_their_content() -> None:
    levels = [{"price": price, "size": 1} for price in range(1, 5_001)]
    body = {"sequence_last": 1, "bids": levels, "asks": []}
    few = from_events(0, 0, [Event(INSTRUMENTS[0], 0, 10**18, Kind.SNAPSHOT, body)] * 1000)
    rows = TapeRows(few)
    ends = group_ends(rows)
    assert ends[-1] == 1000
    assert len(ends) > 2
    assert max(np.diff([0, *ends])) * 10_003 <= GROUP_NUMBERS_MAX


KILLED = """
    import os, sys
    from functools import partial
    from pathlib import Path
    import pyarrow.parquet as pq
    from replay.archive import live, staged
    from tests.tapes import KAFKA, market, tape

    ROOT, MODE = Path(sys.argv[1]), sys.argv[2]
    writing = partial(live, origin=KAFKA) if MODE == "live" else staged
    part = tape(market(9, 300, 2), 1)[0]

    def write(path):
        with writing(path, 1, 100) as writer:
            for at in range(0, 250, 50):
                writer.append_tape(part.slice(at, at + 50))

    def killed_at(step):
        left = [step]
        def deadly(real):
            def call(*args, **kwargs):
                if left[0] == 0:
                    os._exit(9)
                left[0] -= 1
                return real(*args, **kwargs)
            return call
        for name in ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir"):
            setattr(os, name, deadly(getattr(os, name)))
        pq.ParquetWriter.write_table = deadly(pq.ParquetWriter.write_table)
        pq.ParquetWriter.close = deadly(pq.ParquetWriter.close)

    step, status = 0, 9
    while status == 9:
        child = os.fork()
        if child == 0:
            killed_at(step)
            write(ROOT / f"{step}")
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        step += 1
    print(step, status)
"""


@pytest.mark.fault("archive", "archiver killed at every write call")
@pytest.mark.parametrize("mode", ["live", "staged", "appended"])
def test_a_writer_killed_at_any_step_leaves_whole_segments(tmp_path: Path, mode: str) -> None:
    part = tape(market(9, 300, 2), 1)[0]
    begun = 120 if mode == "appended" else 0
    writing = partial(live, origin=KAFKA) if mode == "live" else staged
    steps = 80
    if begun:
        for step in range(steps):
            archive_of(tmp_path / f"{step}", [part.slice(0, begun)], 1, 100)
    command = [sys.executable, "-c", dedent(KILLED), str(tmp_path), mode]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split()[1:] == ["0"], done.stderr
    count = int(done.stdout.split()[0])
    assert 10 < count <= steps
    for step in range(count):
        path, finished = tmp_path / f"{step}", step == count - 1
        kept = len(stored(path)) if (path / "archive.json").exists() else 0
        assert kept == 250 if finished else kept in ((0, 100, 200, 250) if mode == "live" else (begun, 250))
        if kept:
            assert audit(path).ok
        with writing(path, 1, 100) as writer:
            writer.append_tape(part)
        assert stored(path) == to_events(part)
        assert audit(path).ok
        assert not audit(path).unpublished
    assert not list(tmp_path.glob(".*")), "no hidden folder stays"


FULL = """
    import resource, signal, sys
    from functools import partial
    from pathlib import Path
    from replay.archive import live, staged
    from schemas.errors import DependencyDown
    from tests.tapes import KAFKA, market, tape

    path, part = Path(sys.argv[1]), tape(market(9, 3000, 20), 1)[0]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))
    try:
        with (partial(live, origin=KAFKA) if sys.argv[2] == "live" else staged)(path, 1) as writer:
            writer.append_tape(part)
    except DependencyDown as error:
        print(error)
"""


@pytest.mark.fault("archive", "disk full")
@pytest.mark.parametrize("mode", ["live", "staged"])
def test_a_full_disk_is_named_and_leaves_no_segment(tmp_path: Path, mode: str) -> None:
    command = [sys.executable, "-c", dedent(FULL), str(tmp_path / "archive"), mode]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "cannot write to" in done.stdout
    assert "Action" in done.stdout
    assert not [path for path in tmp_path.rglob("*") if ".parquet" in path.name or ".json.tmp" in path.name]
    assert mode == "live" or not list(tmp_path.iterdir())


def test_every_error_says_what_to_do(small: Path) -> None:
    files_of(small, ".parquet")[0].write_bytes(b"PAR1")
    with pytest.raises(OnetapeError) as raised:
        stored(small, 1)
    assert isinstance(raised.value, CheckFailed)
    assert str(files_of(small, ".parquet")[0].name) in str(raised.value)
