"""Parity finds one bit, one missing and one surplus vector, and excuses nothing but what is still on its way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commandline import result
from own_files import own_set
from tapes import archive_of, market, tape

from replay.archive import live
from replay.driver import replay
from replay.folder import IMPORT
from replay.parity import Parity, archived_sets, in_sum, parity, parity_of
from replay.reader import ArchiveReader
from schemas.errors import UsageError
from schemas.feature_sets import DEFAULT, load, load_all
from schemas.vectors import Vectors

SET = load(DEFAULT)
MINE = """
name: mine
version: 1
cadence_ms: 100
features:
  - vwap_500ms: {missing: forward_fill(5s)}
  - volume_100ms: {outliers: "clip(1.5, 9)"}
  - spread: {missing: skip_row}
  - zscore(volume_500ms, 7)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return archive_of(tmp_path / "archive", tape(market(31, 1200, 8)))


def emitted(path: Path) -> Vectors:
    """The vectors a faultless worker would have emitted."""
    return replay(ArchiveReader(path), SET).vectors


def archive_live(path: Path, vectors: Vectors) -> None:
    with live(path, 2, origin=IMPORT) as writer:
        first = writer.next_offset(vectors.feature_set.topic, 0) or 0
        writer.append_vectors(0, range(first, first + len(vectors)), vectors)


def compared(path: Path, in_flight: bool = False) -> Parity:
    return parity(ArchiveReader(path), SET, in_flight=in_flight)


def counts(found: Parity) -> tuple[int, int, int, int]:
    return found.mismatch, found.missing, found.extra, found.conflicting


def test_equal_vectors_are_equal(path: Path) -> None:
    vectors = emitted(path)
    archive_live(path, vectors)
    archive_live(path, vectors.select(np.array([2, 5])))
    found = compared(path)
    assert found.ok
    assert (found.compared, found.repeats, found.equal_percent) == (len(vectors), 2, 100.0)
    assert found.json()["differences"] == []


@pytest.mark.parametrize("column", ["values", "quality", "as_of_offset", "ts_available", "book_epoch", "partition"])
def test_one_flipped_bit_is_named(path: Path, column: str) -> None:
    vectors = emitted(path)
    row = 7
    if column == "values":
        known = int(np.flatnonzero(~np.isnan(vectors.values[row]))[0])
        vectors.values.view(np.uint64)[row, known] ^= 1
        column = SET.features[known]
    else:
        getattr(vectors, column)[row] ^= 1
    archive_live(path, vectors)
    found = compared(path)
    assert not found.ok
    assert counts(found) == (1, 0, 0, 0)
    difference = found.differences[0]
    assert (difference.instrument, difference.time) == (vectors.instruments()[row], int(vectors.time[row]))
    assert difference.column == column
    assert difference.live != difference.replayed


@pytest.mark.parametrize("records", [1, 90, 10**9])
@pytest.mark.parametrize("threads", [1, 2])
def test_in_parts_it_is_the_same(path: Path, monkeypatch: pytest.MonkeyPatch, records: int, threads: int) -> None:
    """Whatever is wrong, and wherever a part of the tape ends: counts and findings are those of the whole at once."""
    vectors = emitted(path)
    vectors.values[[3, 11], 0] = 5.0
    stranger = replace(vectors.select(np.array([4, 9])), keys=["X:Y"] * len(vectors.keys))
    later = replace(vectors.select(np.array([6])), time=vectors.time[[6]] + 10**12)
    again = vectors.select(np.array([0, 1]))
    again.values[1, 0] = -1.0
    for part in (vectors.select(np.delete(np.arange(len(vectors)), [5, 8])), stranger, later, again):
        archive_live(path, part)
    archive = ArchiveReader(path)
    whole = parity(archive, SET, replayed=replay(archive, SET))
    monkeypatch.setattr("replay.parity.PART_RECORDS", records)
    seen: list[tuple[int, int]] = []
    parts = parity(archive, SET, threads=threads, batch_size=40, progress=lambda *done: seen.append(done))
    assert counts(whole) == (2, 2, 3, 1)
    assert (counts(parts), parts.compared, parts.repeats) == (counts(whole), whole.compared, whole.repeats)
    assert set(parts.differences) == set(whole.differences)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_a_null_is_not_a_number(path: Path) -> None:
    vectors = emitted(path)
    vectors.values[4, SET.features.index("mid_price")] = np.nan
    archive_live(path, vectors)
    assert counts(compared(path)) == (1, 0, 0, 0)
    assert compared(path).differences[0].live is None


def test_a_dropped_last_epoch_cannot_hide(path: Path) -> None:
    vectors = emitted(path)
    last = vectors.time == vectors.time.max()
    archive_live(path, vectors.select(~last))
    found = compared(path)
    assert counts(found) == (0, int(last.sum()), 0, 0)
    assert {difference.column for difference in found.differences} == {"missing"}
    assert compared(path, in_flight=True).ok
    assert compared(path, in_flight=True).pending == int(last.sum())


def test_a_hole_in_the_middle_is_missing_even_in_flight(path: Path) -> None:
    vectors = emitted(path)
    archive_live(path, vectors.select(np.arange(len(vectors)) != 5))
    for in_flight in (False, True):
        assert counts(compared(path, in_flight)) == (0, 1, 0, 0)


def test_surplus_and_contradicting_vectors_are_counted(path: Path) -> None:
    vectors = emitted(path)
    surplus = vectors.select(np.array([3]))
    surplus.time[0] += 1
    ahead = vectors.select(np.array([len(vectors) - 1]))
    ahead.time[0] += 10**12
    ahead.as_of_offset[0] += 10**6
    other = vectors.select(np.array([2]))
    other.quality[0] ^= 1
    archive_live(path, Vectors.concat([vectors, surplus, ahead, other]))
    assert counts(compared(path)) == (0, 0, 2, 1)
    found = compared(path, in_flight=True)
    assert (counts(found), found.pending) == ((0, 0, 1, 1), 1)


def test_nothing_compared_is_not_a_proof(path: Path) -> None:
    with pytest.raises(UsageError, match=r"no live vectors.*Action"):
        compared(path)
    archive_live(path, Vectors.empty(SET))
    assert not compared(path).ok


def test_every_archived_set_is_compared(path: Path, tmp_path: Path) -> None:
    """Also one of the user's own, from its archived definition: its file need not be there."""
    (tmp_path / "mine.yaml").write_text(MINE)
    mine = load(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").unlink()
    vectors = replay(ArchiveReader(path), mine).vectors
    archive_live(path, vectors)
    archive_live(path, emitted(path).select(np.arange(5)))
    archive = ArchiveReader(path)
    assert archived_sets(archive) == [SET, mine]
    found = parity_of(archive, archived_sets(archive))
    summed = in_sum(found)
    assert found[mine.id].ok
    assert not summed["ok"]
    assert summed["compared"] == len(vectors) + 5
    assert summed["missing"] == found[SET.id].missing == len(emitted(path)) - 5
    assert {each["feature_set"] for each in summed["differences"]} == {SET.id}
    assert summed["feature_sets"] == {SET.id: found[SET.id].json(), mine.id: found[mine.id].json()}
    assert in_sum(parity_of(archive, [mine]))["ok"]


def test_an_archived_set_is_named_by_its_id_alone(path: Path, tmp_path: Path) -> None:
    """With the option repeated or with commas, and beside a published one."""
    (tmp_path / "mine.yaml").write_text(MINE)
    mine = load(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").unlink()
    archive_live(path, replay(ArchiveReader(path), mine).vectors)
    archive_live(path, emitted(path))
    several = [("mine@1",), ("mine@1,micro@2",), ("mine@1", "--feature-set", "micro@2")]
    told = [result("parity", "--archive", path, "--feature-set", *some)["feature_sets"] for some in several]
    assert [list(found) for found in told] == [["mine@1"], ["micro@2", "mine@1"], ["micro@2", "mine@1"]]
    assert all(each["ok"] for found in told for each in found.values())
    head = ArchiveReader(path).head
    for specs in ("mine@2", "mine@1,mine@1", "", ","):
        with pytest.raises(UsageError, match="Action"):
            load_all(specs, head.find)


def test_a_changed_definition_is_refused(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for number, text in enumerate((MINE, MINE.replace("5s", "6s"))):
        file.write_text(text)
        vectors = replay(ArchiveReader(path), load(str(file))).vectors
        if not number:
            archive_live(path, vectors)
            continue
        with pytest.raises(UsageError, match=r"mine@1 in the archive has another definition.*policies.*Action"):
            archive_live(path, vectors)
        with pytest.raises(UsageError, match="another definition"):
            parity_of(ArchiveReader(path), [load(str(file))])


def test_a_set_with_own_features_needs_its_file(path: Path, tmp_path: Path) -> None:
    mine = load(str(own_set(tmp_path)))
    archive_live(path, replay(ArchiveReader(path), mine).vectors)
    archive = ArchiveReader(path)
    with pytest.raises(UsageError, match=r"own@3 has features of your own.*mine\.py.*Action: name the file"):
        archived_sets(archive)
    with pytest.raises(UsageError, match="name the file"):
        load_all(mine.id, archive.head.find)
    assert parity_of(archive, [mine])[mine.id].ok


def test_an_archive_whose_head_is_not_ours_is_refused(path: Path) -> None:
    archive_live(path, emitted(path))
    head = json.loads((path / "archive.json").read_text())
    stored = head["feature_sets"][SET.id]
    for broken in (
        [], list(SET.features), {**stored, "policies": {"mid_price": {"fill": 1}}}, {**stored, "own_features": None},
        {name: value for name, value in stored.items() if name != "digest"}, {**stored, "cadence_ms": "x"},
    ):  # fmt: skip
        (path / "archive.json").write_text(json.dumps({**head, "feature_sets": {SET.id: broken}}))
        with pytest.raises(UsageError, match=r"not of an archive this version reads.*Action"):
            ArchiveReader(path)
