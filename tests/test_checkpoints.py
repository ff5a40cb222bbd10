"""A replay from any checkpoint gives the bits of one from the beginning; an unfit checkpoint is never used."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commandline import onetape, result
from streams import stream
from tapes import INSTRUMENTS, archive_of, market, tape

from replay import checkpoints
from replay.audit import audit
from replay.checkpoints import Checkpoint, Checkpoints
from replay.driver import Replayed, replay
from replay.laying import lay
from replay.reader import ArchiveReader
from schemas.columns import Columns, from_events
from schemas.durable import write_json
from schemas.errors import UsageError
from schemas.feature_sets import FeatureSet, Policy, load
from schemas.units import NS_PER_S
from schemas.vectors import Vectors

ROOT = Path(__file__).resolve().parent.parent
SET = load("micro@2")
REMEMBERING = FeatureSet(
    "remembering", 1, 200,
    ("mid_price", "vwap_5s", "zscore_mid_price_7", "open_interest_change_60s"),
    {"mid_price": Policy(fill_ns=3 * NS_PER_S, clip_sigmas=2.0, clip_count=5)},
)  # fmt: skip
"""Its states hold more than the symbols': z-scores, bounds and filled values."""
EVERY_NS = NS_PER_S


def same(left: Vectors, right: Vectors) -> bool:
    return len(left) == len(right) and bool(left.same_bits(right).all())


def laid(path: Path) -> list[Checkpoint]:
    """What every sidecar beside an archive says."""
    sidecars = sorted(path.glob("checkpoints/*/partition=*/*.json"))
    return [Checkpoint(**json.loads(sidecar.read_text())["checkpoint"]) for sidecar in sidecars]


def from_there(archive: ArchiveReader, feature_set: FeatureSet, from_ns: int, **options: object) -> Replayed:
    return replay(archive, feature_set, from_ns=from_ns, with_checkpoints=True, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = archive_of(tmp_path_factory.mktemp("original") / "archive", tape(market(61, 2000, 8)), segment_rows=450)
    lay(ArchiveReader(path), SET, EVERY_NS)
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """An archive of two partitions with checkpoints."""
    return Path(shutil.copytree(original, tmp_path / "archive"))


@pytest.mark.parametrize("feature_set", [SET, REMEMBERING])
@pytest.mark.parametrize(
    ("seed", "every_ns"), [(40, NS_PER_S), (41, 4 * NS_PER_S), (42, 2 * NS_PER_S), (43, 9 * NS_PER_S)]
)
def test_every_checkpoint_of_a_faulty_stream(
    tmp_path: Path, feature_set: FeatureSet, seed: int, every_ns: int
) -> None:  # fmt: skip
    """Gaps, holes in the clock, late and doubled Ticks, changed instruments."""
    rows = from_events(0, 0, stream(seed, seconds=15.0, holes=seed % 3))
    archive = ArchiveReader(archive_of(tmp_path / "archive", [rows], 1, 300))
    whole = replay(archive, feature_set).vectors
    found = lay(archive, feature_set, every_ns, threads=1 + seed % 3)
    there = laid(archive.path)
    assert found.laid == len(there) > 0
    assert found.events == len(rows)
    for each in there:
        for from_ns in (each.tick + 1, each.tick + 100_000_000):
            got = from_there(archive, feature_set, from_ns, threads=1 + seed % 2, batch_size=(None, 64)[seed % 2])
            assert got.starts[0] >= each.offset
            assert got.ignored == []
            assert got.events == len(rows) - 1 - got.starts[0]
            assert same(got.vectors, whole.select(whole.time >= from_ns))
        assert from_there(archive, feature_set, each.tick).starts.get(0, -1) < each.offset


def test_as_many_are_laid_by_more_threads_than_symbols(tmp_path: Path) -> None:
    """A thread without a symbol ends its epochs like any other; so does a partition of Ticks."""
    columns = tape(market(63, 900, 6, INSTRUMENTS[:1]), 2)
    found = []
    for threads in (1, 4):
        path = archive_of(tmp_path / f"{threads}", columns)
        assert lay(ArchiveReader(path), SET, EVERY_NS, threads=threads).laid == 12
        found.append(laid(path))
    assert found[0] == found[1]
    assert {each.symbols for each in found[0]} == {0, 1}


@pytest.mark.parametrize("threads", [1, 3])
def test_a_symbol_that_comes_late_has_states_of_its_own_offsets(tmp_path: Path, threads: int) -> None:
    """Its partition has passed three distances by then, with nothing to save."""
    late = [event for event in market(64, 1500, 9, INSTRUMENTS[1:2]) if event.kind.name in ("INSTRUMENT", "SNAPSHOT")]
    moved = [event._replace(ts_recv=event.ts_recv + 3 * NS_PER_S) for event in late]
    rest = [each for each in market(64, 1500, 9, INSTRUMENTS[1:2])[len(late) :] if each.ts_recv > moved[-1].ts_recv]
    early = market(65, 900, 9, INSTRUMENTS[:1])
    events = sorted([*early, *moved, *rest], key=lambda event: event.ts_recv)
    archive = ArchiveReader(archive_of(tmp_path / "archive", tape(events)))
    whole = replay(archive, SET).vectors
    lay(archive, SET, EVERY_NS, threads=threads)
    assert len({each.offset for each in laid(archive.path)}) > 8
    for second in range(1, 10):
        from_ns = int(whole.time.min()) + second * NS_PER_S
        got = from_there(archive, SET, from_ns)
        assert got.starts
        assert same(got.vectors, whole.select(whole.time >= from_ns))


def test_every_partition_has_its_own(path: Path) -> None:
    archive = ArchiveReader(path)
    whole = replay(archive, SET)
    middle = int(np.median(whole.vectors.time))
    got = from_there(archive, SET, middle)
    assert set(got.starts) == {0, 1}
    assert got.events < whole.events
    assert same(got.vectors, whole.vectors.select(whole.vectors.time >= middle))
    (path / Checkpoints(archive, SET).folder / "partition=1").rename(path / "elsewhere")
    assert set(from_there(archive, SET, middle).starts) == {0}
    assert same(from_there(archive, SET, middle).vectors, got.vectors)
    bounded = replay(archive, SET, from_ns=middle, last_offsets={0: got.starts[0] - 1}, with_checkpoints=True)
    assert bounded.starts.get(0, -1) < got.starts[0]


def test_some_symbols_take_their_states_only(path: Path) -> None:
    archive = ArchiveReader(path)
    from_ns = laid(path)[-1].tick + 1
    chosen = {"symbols": INSTRUMENTS[:2], "to_ns": from_ns + NS_PER_S}
    got = from_there(archive, SET, from_ns, **chosen)
    assert got.starts
    assert same(got.vectors, replay(archive, SET, from_ns=from_ns, **chosen).vectors)  # type: ignore[arg-type]


def test_without_a_time_or_when_told_not_to_nothing_is_skipped(path: Path) -> None:
    archive = ArchiveReader(path)
    whole = replay(archive, SET, with_checkpoints=True)
    assert whole.starts == {}
    assert replay(archive, SET, from_ns=laid(path)[-1].tick + 1).events == whole.events


def test_growth_keeps_what_was_laid(tmp_path: Path) -> None:
    rows = tape(market(62, 1500, 8), 1)[0]
    half = len(rows) // 2
    path = archive_of(tmp_path / "archive", [rows.slice(0, half)], 1, 200)
    first = lay(ArchiveReader(path), SET, EVERY_NS)
    before = laid(path)
    archive_of(path, [rows.slice(half, len(rows))], 1, 200)
    archive = ArchiveReader(path)
    assert from_there(archive, SET, before[-1].tick + 1).starts == {0: before[-1].offset}
    grown = lay(archive, SET, EVERY_NS)
    assert (first.continued, grown.continued) == ({}, {0: before[-1].offset})
    assert grown.events == len(rows) - 1 - before[-1].offset
    at_once = archive_of(tmp_path / "at once", [rows.slice(0, half)], 1, 200)
    archive_of(at_once, [rows.slice(half, len(rows))], 1, 200)
    lay(ArchiveReader(at_once), SET, EVERY_NS)
    assert laid(path) == laid(at_once)
    assert lay(archive, SET, EVERY_NS).laid == 0


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def reseal(sidecar: Path, **changed: object) -> None:
    """Another checkpoint with a seal of its own."""
    about = json.loads(sidecar.read_text())["checkpoint"] | changed
    write_json(sidecar, checkpoints._sealed(Checkpoint(**about)))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped state": lambda sidecar: flip(sidecar.with_suffix(".parquet")),
    "a flipped sidecar": flip,
    "half a state": lambda sidecar: sidecar.with_suffix(".parquet").write_bytes(b"PAR1"),
    "no state": lambda sidecar: sidecar.with_suffix(".parquet").unlink(),
    "half a sidecar": lambda sidecar: sidecar.write_text("{"),
    "another JSON": lambda sidecar: sidecar.write_text("[1]"),
    "another place": lambda sidecar: reseal(sidecar, offset=7),
    "another partition": lambda sidecar: reseal(sidecar, partition=5),
    "other code": lambda sidecar: reseal(sidecar, code="0" * 64),
    "another plan": lambda sidecar: reseal(sidecar, plan="0" * 16),
    "another layout": lambda sidecar: reseal(sidecar, layout="0" * 16),
    "another feature set": lambda sidecar: reseal(sidecar, feature_set="0" * 64),
    "another tape": lambda sidecar: reseal(sidecar, inputs="0" * 64),
    "fewer symbols": lambda sidecar: reseal(sidecar, symbols=1000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unfit_checkpoint_is_not_used(path: Path, damage: str) -> None:
    archive = ArchiveReader(path)
    sidecars = sorted(Checkpoints(archive, SET).folder.glob("partition=0/*.json"))
    from_ns = laid(path)[-1].tick + 10**9
    whole = replay(archive, SET, from_ns=from_ns).vectors
    assert from_there(archive, SET, from_ns).starts[0] == int(sidecars[-1].stem)
    DAMAGES[damage](sidecars[-1])
    got = from_there(archive, SET, from_ns)
    assert got.starts[0] == int(sidecars[-2].stem)
    assert len(got.ignored) == 1
    assert sidecars[-1].stem in got.ignored[0]
    assert same(got.vectors, whole)
    mended = lay(archive, SET, EVERY_NS)
    assert (mended.laid, len(mended.ignored)) == (1, 1)
    assert from_there(archive, SET, from_ns).starts[0] == int(sidecars[-1].stem)


def test_an_archive_that_was_imported_anew_has_none(path: Path, tmp_path: Path) -> None:
    other = archive_of(tmp_path / "other", tape(market(61, 2000, 8)), segment_rows=449)
    shutil.copytree(path / "checkpoints", other / "checkpoints")
    got = from_there(ArchiveReader(other), SET, laid(path)[-1].tick + 1)
    assert got.starts == {}
    assert all(line.endswith("of other records than the archive's") for line in got.ignored)
    assert got.ignored


def test_checkpoints_of_other_code_are_named(path: Path) -> None:
    archive = ArchiveReader(path)
    folder = Checkpoints(archive, SET).folder
    folder.rename(folder.with_name(folder.name[:13] + "0" * 12))
    got = from_there(archive, SET, laid(path)[-1].tick + 1)
    assert got.starts == {}
    assert "laid by other code" in got.ignored[0]


def test_the_audit_counts_them_and_is_not_upset(path: Path) -> None:
    found = audit(path)
    assert found.ok
    assert found.unpublished == []
    assert found.checkpoints == len(laid(path)) > 6


@pytest.mark.parametrize(
    "damage", ["a flipped state", "a flipped sidecar", "half a state", "no state", "half a sidecar", "another JSON"]
)
def test_the_audit_names_a_torn_one(path: Path, damage: str) -> None:
    sidecar = checkpoints.sidecars(path)[3]
    DAMAGES[damage](sidecar)
    found = audit(path)
    assert not found.ok
    assert len(found.torn) == 1
    assert sidecar.with_suffix(".parquet").relative_to(path).as_posix() in found.torn[0]
    done = onetape("archive", "audit", "--archive", path)
    assert done.returncode == 1
    assert sidecar.stem in done.stdout


def test_odd_distances_and_two_at_once_are_refused(path: Path) -> None:
    archive = ArchiveReader(path)
    for every_ns in (0, 100_000_000, 1_500_000_000):
        with pytest.raises(UsageError, match=r"whole seconds.*Action"):
            lay(archive, SET, every_ns)
    with Checkpoints(archive, SET).laying(), pytest.raises(UsageError, match=r"another process is writing.*Action"):
        lay(archive, SET, EVERY_NS)


def test_the_command_line_says_where_it_began(path: Path, tmp_path: Path) -> None:
    told = result("archive", "checkpoint", "--archive", path, "--feature-set", SET.id, "--every", "1h")
    assert told["laid"] == 0
    assert set(told["continued"]) == {"0", "1"}
    shown = onetape("archive", "checkpoint", "--archive", path, "--feature-set", SET.id, "--every", "1h").stdout
    assert f"behind the newest (partition 0: offset {told['continued']['0']}" in shown
    from_ns = laid(path)[-1].tick + 10**9
    some = ("replay", "--archive", path, "--feature-set", SET.id, "--from", str(from_ns), "--threads", "2", "--out")
    began = result(*some, tmp_path / "began")
    whole = result(*some, tmp_path / "whole", "--no-checkpoints")
    assert whole["from_checkpoint"] is None
    assert set(began["from_checkpoint"]) == {"0", "1"}
    assert began["events"] < whole["events"]
    assert began["content_hash"] == whole["content_hash"]


def test_what_is_killed_leaves_nothing_half_made(tmp_path: Path) -> None:
    rows: list[Columns] = tape(market(63, 1500, 40))
    path = archive_of(tmp_path / "archive", rows, segment_rows=500)
    whole = Path(shutil.copytree(path, tmp_path / "whole"))
    lay(ArchiveReader(whole), SET, NS_PER_S)
    code = (
        "import sys; from pathlib import Path; from replay.laying import lay; from replay.reader import ArchiveReader;"
        "from schemas.feature_sets import load; lay(ArchiveReader(Path(sys.argv[1])), load('micro@2'), 10**9)"
    )
    for kills in (1, 40):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT) as child:
            while len(checkpoints.sidecars(path)) < kills and child.poll() is None:
                time.sleep(0.002)
            child.send_signal(signal.SIGKILL)
        there = laid(path)
        assert len(there) >= kills
        assert there == [each for each in laid(whole) if each in there]
        got = from_there(ArchiveReader(path), SET, there[-1].tick + 1)
        assert got.ignored == []
        assert got.starts
    lay(ArchiveReader(path), SET, NS_PER_S)
    assert laid(path) == laid(whole)
    names = [sorted(each.name for each in folder.rglob("checkpoints/**/*")) for folder in (path, whole)]
    assert names[0] == names[1]
