"""Old segments go to another place and come back: every offset exactly once in all places, whenever it is asked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from cold_places import in_memory, opened, read
from commandline import onetape, result
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tapes import KAFKA, START, archive_of, market, tape

from replay import retention
from replay.archive import live, staged
from replay.audit import audit
from replay.places import open_place
from replay.reader import ArchiveReader
from replay.retained import DELETED, read_moved
from replay.retention import restore, retain
from schemas.codec import DeadLetter
from schemas.columns import Columns, from_events, to_events
from schemas.errors import ArchiveHole, DependencyDown, SegmentTorn, UsageError
from schemas.events import Event, Kind
from schemas.feature_sets import load
from schemas.topics import TAPE
from schemas.units import NS_PER_S

SET = load("micro@2")
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)


@pytest.fixture
def parts() -> list[Columns]:
    return tape(market(7, 1_200, 12))


@pytest.fixture
def archive(tmp_path: Path, parts: list[Columns]) -> Path:
    return archive_of(tmp_path / "archive", parts, segment_rows=100)


def offsets_of(path: Path) -> dict[tuple[str, int], list[int]]:
    """Every offset of every partition, wherever its segment is."""
    found: dict[tuple[str, int], list[int]] = {}
    archive = ArchiveReader(path)
    for partition in archive.partitions():
        for link in archive.links(partition):
            found.setdefault((TAPE, partition), []).extend(range(link.first_offset, link.last_offset + 1))
    return found


@shared
@given(data=st.data(), segment_rows=st.integers(20, 200))
def test_every_offset_is_somewhere_once_after_any_moves(tmp_path: Path, data: st.DataObject, segment_rows: int) -> None:
    path, place = tmp_path / "archive", in_memory()
    shutil.rmtree(path, ignore_errors=True)
    whole = tape(market(7, 300, 12))
    cut = [len(part) // 2 for part in whole]
    archive_of(path, [part.slice(0, end) for part, end in zip(whole, cut, strict=True)], 2, segment_rows)
    rows = sum(cut)
    for _ in range(data.draw(st.integers(1, 5))):
        match data.draw(st.sampled_from(["retain", "restore", "append"])):
            case "retain":
                done = retain(path, data.draw(st.integers(0, 12)) * NS_PER_S, place)
                assert all(each.last_ts < done.before_ns for each in read_moved(path) if each.label() in done.segments)
            case "restore":
                bounds = [
                    START + second * NS_PER_S for second in sorted(data.draw(st.tuples(*[st.integers(0, 12)] * 2)))
                ]
                restore(path, *bounds, opened=opened(place))
                assert not [
                    each for each in read_moved(path) if each.last_ts >= bounds[0] and each.first_ts < bounds[1]
                ]
            case _:
                with staged(path, 2, segment_rows) as writer:
                    for part in whole:
                        writer.append_tape(part)
                rows = sum(map(len, whole))
        found = audit(path, with_places=True, opened=opened(place))
        assert found.ok, found
        assert not found.unpublished
        assert found.offsets + found.moved_offsets == rows
        assert sum(map(len, offsets_of(path).values())) == rows
        assert all(offsets == list(range(len(offsets))) for offsets in offsets_of(path).values())
    restore(path, opened=opened(place))
    for partition, part in enumerate(whole):
        there = read(path, partition)
        assert to_events(there) == to_events(part.slice(0, len(there)))


def test_the_newest_segment_and_dead_letters_stay(tmp_path: Path, parts: list[Columns]) -> None:
    path = tmp_path / "archive"
    with live(path, 2, 100, origin=KAFKA) as writer:
        for part in parts:
            writer.append_tape(part)
        writer.append_dead_letters(0, [0], [DeadLetter(TAPE, 0, 0, b"k", "not-avro", b"x")])
        writer.append_dead_letters(0, [1], [DeadLetter(TAPE, 0, 1, b"k", "not-avro", b"x")])
        writer.flush()
        assert retain(path, 0, in_memory()).segments, "beside a writer"
    reader = ArchiveReader(path)
    assert [len(reader.segments(partition)) for partition in (0, 1)] == [1, 1]
    assert len(list(reader.dead_letters())) == 2
    assert reader.tail(0) is not None


KILLED = """
    import os, sys
    from pathlib import Path
    from replay import places, retention
    from replay.places import open_place

    ROOT, MODE = Path(sys.argv[1]), sys.argv[2]
    retention.TOGETHER = 1

    def move(step):
        path = ROOT / f"{step}"
        if MODE == "retain":
            retention.retain(path, 0, open_place(str(ROOT / f"cold{step}")))
        else:
            retention.restore(path)

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
        places._pieces = deadly(places._pieces)

    step, status = 0, 9
    while status == 9:
        child = os.fork()
        if child == 0:
            killed_at(step)
            move(step)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        step += 1
    print(step, status)
"""


@pytest.mark.fault("archive", "killed while old segments are moved out or in")
@pytest.mark.parametrize("mode", ["retain", "restore"])
def test_whoever_is_killed_while_moving_leaves_every_segment_in_one_place(tmp_path: Path, mode: str) -> None:
    part = tape(market(9, 100, 3), 1)[0]
    original, steps = archive_of(tmp_path / "original", [part], 1, 55), 100
    for step in range(steps):
        shutil.copytree(original, tmp_path / f"{step}")
        if mode == "restore":
            retain(tmp_path / f"{step}", 0, open_place(str(tmp_path / f"cold{step}")))
    done = subprocess.run(
        [sys.executable, "-c", dedent(KILLED), str(tmp_path), mode],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split()[1:] == ["0"], done.stderr
    count = int(done.stdout.split()[0])
    assert 20 < count <= steps
    for step in range(count):
        path = tmp_path / f"{step}"
        found = audit(path, with_places=True)
        assert found.ok, found
        assert found.offsets + found.moved_offsets == len(part)
        with staged(path, 1) as writer:
            assert writer.append_tape(part) == 0, "a writer in between does no harm"
        if mode == "retain":
            retain(path, 0, open_place(str(tmp_path / f"cold{step}")))
            assert len(ArchiveReader(path).segments(0)) == 1
        restore(path)
        assert to_events(read(path)) == to_events(part)
        assert not audit(path).unpublished
        assert read_moved(path) == []


def test_deleted_segments_are_no_hole_and_do_not_come_back(archive: Path, parts: list[Columns]) -> None:
    done = retain(archive, 6 * NS_PER_S, None, deletes=True)
    assert done.place == DELETED
    found = audit(archive, with_places=True)
    assert found.ok
    assert found.deleted_offsets == done.offsets > 0
    assert found.offsets + found.deleted_offsets == sum(map(len, parts))
    assert restore(archive).deleted == done.segments
    with pytest.raises(UsageError, match="deleted as too old") as refused:
        read(archive)
    assert "restore" not in str(refused.value)


def test_a_dry_run_changes_nothing(archive: Path) -> None:
    before = {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()}
    found = retain(archive, 0, None, is_dry_run=True)
    assert len(found.segments) > 4
    assert {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()} == before


@pytest.mark.fault("archive", "a moved segment changed or missing at its place")
def test_what_is_wrong_at_the_place_is_named(tmp_path: Path, archive: Path) -> None:
    cold = tmp_path / "cold"
    retain(archive, 0, open_place(str(cold)))
    victim = sorted(cold.rglob("*.parquet"))[1]
    whole = bytearray(victim.read_bytes())
    victim.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    found = audit(archive, with_places=True)
    assert [victim.name in text for text in found.torn] == [True]
    assert audit(archive).ok, "not read"
    with pytest.raises(SegmentTorn, match=r"torn.*Action"):
        restore(archive)
    victim.unlink()
    assert len(audit(archive, with_places=True).holes) == 1
    with pytest.raises(DependencyDown, match="Action"):
        restore(archive)
    victim.write_bytes(whole)
    restore(archive)
    assert audit(archive).ok


@pytest.mark.fault("archive", "an old segment torn before it is moved")
def test_a_torn_segment_is_not_moved(archive: Path) -> None:
    segment = ArchiveReader(archive).segments(1)[0]
    content = bytearray(segment.file(archive).read_bytes())
    content[100] ^= 4
    segment.file(archive).write_bytes(content)
    with pytest.raises(SegmentTorn, match=r"nothing was removed"):
        retain(archive, 0, in_memory())
    assert segment.file(archive).exists()
    assert audit(archive).torn


def test_two_archives_at_one_place_keep_apart(tmp_path: Path, parts: list[Columns]) -> None:
    place = open_place(str(tmp_path / "cold"))
    other = tape(market(8, 900, 12))
    paths = [archive_of(tmp_path / name, tapes, 2, 100) for name, tapes in (("a", parts), ("b", other))]
    for path in paths:
        retain(path, 0, place)
    for path, whole in zip(paths, (parts, other), strict=True):
        restore(path)
        assert to_events(read(path)) == to_events(whole[0])


def test_a_place_that_cannot_be_one_is_refused(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere to go.*Action.*--to"):
        retain(archive, 0, None)
    (tmp_path / "link").symlink_to(archive)
    for uri in (str(archive), str(tmp_path / "link"), archive.as_uri()):
        with pytest.raises(UsageError, match=r"is an archive.*Action"):
            retain(archive, 0, open_place(uri))
    for uri, text in (("s3://key:secret@bucket/x", "password"), ("gopher://x/y", "is no place")):
        with pytest.raises(UsageError, match=text) as refused:
            open_place(uri)
        assert "secret@" not in str(refused.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(DependencyDown, match="Action"):
        retain(archive, 0, open_place(str(tmp_path / "file" / "below")))
    assert not read_moved(archive)
    assert audit(archive).ok


def test_an_archive_without_ticks_has_nothing_to_count_from(tmp_path: Path) -> None:
    event = next(event for event in market(3, 10, 2))
    path = archive_of(tmp_path / "archive", [from_events(0, 0, [event])], 1)
    with pytest.raises(UsageError, match=r"no Tick.*Action"):
        retain(path, 0, in_memory())


@pytest.mark.parametrize("change", ["cut", "missing", "another"])
def test_a_list_of_moved_segments_that_is_not_whole_is_refused(archive: Path, change: str) -> None:
    retain(archive, 0, in_memory())
    path = archive / "retained.json"
    content = path.read_text()
    if change == "missing":
        path.unlink()
        with pytest.raises(ArchiveHole, match=r"offsets up to \d+"):
            read(archive)
        assert not audit(archive).ok
    else:
        path.write_text(content[:-30] if change == "cut" else content.replace('"partition": 1', '"partition": 0'))
        with pytest.raises(SegmentTorn, match=r"retained.json is torn.*Action"):
            read(archive)


def test_two_who_move_at_once_are_refused(archive: Path) -> None:
    with retention._alone(archive), pytest.raises(UsageError, match="another process"):
        retain(archive, 0, in_memory())


def test_records_that_tell_no_time_go_and_come_with_those_before_them(tmp_path: Path) -> None:
    whole = tape(market(3, 200, 6), 1)[0]
    at = len(whole) // 3
    letters = from_events(0, at, [Event("?", 0, 0, Kind.REFUSED, {"reason": "not-avro"}) for _ in range(5)])
    behind = whole.slice(at, len(whole))
    behind = replace(behind, offset=behind.offset + 5)
    path, place = tmp_path / "archive", in_memory()
    with live(path, 1, origin=KAFKA) as writer:
        for part in (
            whole.slice(0, at),
            letters,
            *(behind.slice(a, min(len(behind), a + 40)) for a in range(0, len(behind), 40)),
        ):
            writer.append_tape(part)
            writer.flush()
    newest = int(np.max(whole.ts_recv))
    retain(path, newest - int(whole.ts_recv[at]), place)
    assert len(read_moved(path)) == 1, "the refused stay with what is behind them"
    retain(path, 0, place)
    assert restore(path, int(whole.ts_recv[0]), int(whole.ts_recv[at - 1]), opened=opened(place)).offsets == at + 5


def test_the_commands(tmp_path: Path, archive: Path, parts: list[Columns]) -> None:
    def run(name: str, *options: str) -> dict[str, object]:
        return result("archive", name, "--archive", archive, *options)

    cold = str(tmp_path / "cold")
    would = run("retain", "--keep", "5s", "--dry-run")
    moved = run("retain", "--keep", "5s", "--to", cold)
    assert moved["segments"] == would["segments"]
    found = run("audit", "--with-location")
    assert found["ok"]
    assert found["moved_offsets"] == moved["offsets"]
    refused = onetape("replay", "--archive", archive, "--out", tmp_path / "out")
    assert refused.returncode == UsageError.exit_code
    assert "archive restore" in refused.stderr
    assert run("restore")["offsets"] == moved["offsets"]
    assert [len(read(archive, partition)) for partition in (0, 1)] == list(map(len, parts))
    both = onetape("archive", "retain", "--archive", archive, "--to", cold, "--delete")
    assert both.returncode == UsageError.exit_code
