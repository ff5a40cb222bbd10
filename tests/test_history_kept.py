"""What was computed of the past is kept: never used unless it is whole and of these records, and never too much."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path

import pytest
from asked import Counting, assert_is
from tapes import INSTRUMENTS, START, archive_of, market, tape

from replay.driver import replay
from replay.history import lookup, stored
from replay.history.lookup import History
from replay.reader import ArchiveReader
from schemas.durable import write_json
from schemas.feature_sets import load
from schemas.units import NS_PER_S
from schemas.vectors import Vectors

SET = load("micro@2")
HOUR_NS = 3600 * NS_PER_S
ETH = "BINANCE_USDM:ETHUSDT"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive_of(tmp_path_factory.mktemp("original") / "archive", tape(market(71, 2000, 8)), segment_rows=450)


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """An archive of two partitions and eight seconds."""
    return Path(shutil.copytree(original, tmp_path / "archive"))


@pytest.fixture(scope="module")
def whole(original: Path) -> Vectors:
    """What live would have emitted of it."""
    return replay(ArchiveReader(original), SET).vectors


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def reseal(sidecar: Path, **other: object) -> None:
    """Another span with a seal of its own."""
    about = json.loads(sidecar.read_text())["stored"]
    about = stored.Stored(**{**about, "span": stored.Span(**about["span"])})
    write_json(sidecar, stored._sealed(changed(about, **other)))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped value": lambda sidecar: flip(sidecar.with_suffix(".parquet")),
    "half a file": lambda sidecar: sidecar.with_suffix(".parquet").write_bytes(b"PAR1"),
    "no file": lambda sidecar: sidecar.with_suffix(".parquet").unlink(),
    "a flipped sidecar": flip,
    "half a sidecar": lambda sidecar: sidecar.write_text("{"),
    "another JSON": lambda sidecar: sidecar.write_text("[1]"),
    "no sidecar": Path.unlink,
    "other code": lambda sidecar: reseal(sidecar, made_by={"code": "0" * 64}),
    "another tape": lambda sidecar: reseal(sidecar, inputs="0" * 64),
    "another instrument": lambda sidecar: reseal(sidecar, span=stored.Span(0, "A:B", 0, HOUR_NS)),
    "fewer rows": lambda sidecar: reseal(sidecar, rows=1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unfit_span_is_computed_anew(path: Path, whole: Vectors, damage: str) -> None:
    agent = Counting()
    archive = ArchiveReader(path)
    History(archive, SET, agent=agent).get_features([ETH])
    sidecars = list(path.glob("computed/*/*/*/*/vectors.json"))
    assert len(sidecars) == agent.runs == 1
    DAMAGES[damage](sidecars[0])
    assert_is(History(archive, SET, agent=agent).get_features([ETH]), whole)
    assert agent.runs == 2
    assert_is(History(archive, SET, agent=agent).get_features([ETH]), whole)
    assert agent.runs == 2


def test_an_archive_that_was_imported_anew_has_none(path: Path, tmp_path: Path) -> None:
    History(ArchiveReader(path), SET).get_features([ETH])
    other = archive_of(tmp_path / "other", tape(market(73, 2000, 8)), segment_rows=450)
    shutil.copytree(path / "computed", other / "computed")
    agent = Counting()
    answer = History(ArchiveReader(other), SET, agent=agent).get_features([ETH])
    assert agent.runs == 1
    assert_is(answer, replay(ArchiveReader(other), SET).vectors)


def test_what_cannot_be_kept_is_answered(path: Path, whole: Vectors) -> None:
    (path / "computed").write_text("in the way")
    answer = History(ArchiveReader(path), SET).get_features(INSTRUMENTS)
    assert_is(answer, whole)
    assert answer.notes
    assert all("not kept" in note for note in answer.notes)


def test_room_is_made_by_the_oldest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "SPAN_VECTORS", 2)
    history = History(ArchiveReader(path), SET)
    history.get_features([ETH], as_of_ns=START + NS_PER_S)
    size = sum(each.stat().st_size for each in path.glob("computed/*/*/*/*/vectors.parquet"))
    monkeypatch.setattr(stored, "KEPT_BYTES", 2 * size + size // 2)
    for seconds in range(2, 8):
        history.get_features([ETH], as_of_ns=START + seconds * NS_PER_S)
    kept = sorted(int(each.name) for each in path.glob("computed/*/*/*/*"))
    assert len(kept) == 2
    assert kept[-1] == START + 6 * NS_PER_S
