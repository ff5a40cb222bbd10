"""Faults while datasets are built: one id, one content, and one whole folder whoever else is at work or is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import ROOT
from ledger import Ledger
from tapes import archive_of, market, tape

from replay.datasets.build import build
from replay.datasets.catalogue import dataset_ids, load_manifest
from replay.datasets.recipe import Recipe
from replay.datasets.verify import verify
from replay.reader import ArchiveReader
from schemas.feature_sets import DEFAULT

RECIPE = Recipe(DEFAULT, ("forward_return_2s",), keeps_warmup=True)
CUTS = [0.5]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive_of(tmp_path_factory.mktemp("replay faults") / "archive", tape(market(71, 900, 30)))


@pytest.fixture(scope="module")
def expected(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Id and hash of the dataset."""
    manifest = build(ArchiveReader(archive), tmp_path_factory.mktemp("whole"), RECIPE, CUTS)
    return manifest["id"], manifest["output_hash"]


BUILD = dedent("""
    import os, sys
    from pathlib import Path
    from replay.datasets.build import build
    from replay.datasets.engines import engine_of
    from replay.datasets.recipe import Recipe
    from replay.reader import ArchiveReader
    from schemas.errors import OnetapeError

    archive, datasets, processes, waits = sys.argv[1:]
    real, held = os.fsync, []

    def fsync(descriptor):
        if not held:
            held.append(True)
            print("held", flush=True)
            sys.stdin.readline()
        real(descriptor)

    if waits == "waits":
        os.fsync = fsync
    try:
        recipe = Recipe("micro@2", ("forward_return_2s",), keeps_warmup=True)
        with engine_of("local", int(processes)) as engine:
            told = lambda stage, done, total: print(stage, flush=True) if "waiting" in stage else None
            made = build(ArchiveReader(Path(archive)), Path(datasets), recipe, [0.5], engine=engine, told=told)
    except OnetapeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    print(made["id"], made["output_hash"], made["reused"])
""")
"""Builds a dataset; told to wait, it stands still with its first file half done until it is told to go on."""


def started(archive: Path, datasets: Path, processes: int, seed: str, waits: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, str(archive), str(datasets), str(processes), waits]
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.fault("replay", "two builds to one id at once")
@pytest.mark.fault("replay", "the same dataset twice, in other processes and hash seeds")
def test_two_builds_to_one_id_at_once(archive: Path, expected: tuple[str, str], tmp_path: Path, ledger: Ledger) -> None:
    """The first becomes whole; the other waits for its turn, and finds it built."""
    with started(archive, tmp_path, 1, "0", "waits") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n", first.communicate()[1]
        assert dataset_ids(tmp_path) == []
        with started(archive, tmp_path, 2, "1") as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "waiting for another build\n", second.communicate()[1]
            assert dataset_ids(tmp_path) == []
            told = first.communicate("go on\n", timeout=60)[0].split()
            again = second.communicate(timeout=60)[0].split()
    assert (first.returncode, second.returncode) == (0, 0)
    ledger.faults += 2
    ledger.conflicting += len({tuple(told[:2]), tuple(again[:2]), expected}) - 1
    ledger.torn += not verify(tmp_path, expected[0])["equal"]
    ledger.check()
    assert (told[2], again[2]) == ("False", "True")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".work", expected[0]]
    assert [entry.name for entry in (tmp_path / ".work").iterdir()] == ["queue"]


KILLED = dedent("""
    import os, sys
    from pathlib import Path
    import pyarrow.parquet as pq
    from replay.datasets.build import build
    from replay.datasets.engines import engine_of
    from replay.datasets.recipe import Recipe
    from replay.reader import ArchiveReader

    archive, datasets = ArchiveReader(Path(sys.argv[1])), Path(sys.argv[2])

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
            recipe = Recipe("micro@2", ("forward_return_2s",), keeps_warmup=True)
            build(archive, datasets / str(step), recipe, [0.5])
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        step += 1
    print(step, status)
""")


@pytest.mark.fault("replay", "a build is killed at every write")
def test_a_build_is_killed_at_every_write(
    archive: Path, expected: tuple[str, str], tmp_path: Path, ledger: Ledger
) -> None:
    """Its dataset is whole or not there; the next build makes the same and leaves nothing of the killed one."""
    command = [sys.executable, "-c", KILLED, str(archive), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split()[1:] == ["0"], done.stderr
    steps = int(done.stdout.split()[0])
    assert steps > 10
    name, output_hash = expected
    for step in range(steps):
        datasets = tmp_path / str(step)
        there = dataset_ids(datasets)
        assert there in ([], [name])
        ledger.torn += bool(there) and not verify(datasets, name)["equal"]
        if step % 9 == 0 or there:
            build(ArchiveReader(archive), datasets, RECIPE, CUTS)
            ledger.conflicting += load_manifest(datasets, name)["output_hash"] != output_hash
            ledger.torn += not verify(datasets, name)["equal"]
            assert sorted(entry.name for entry in datasets.iterdir()) == [".work", name]
            assert [entry.name for entry in (datasets / ".work").iterdir()] == ["queue"]
        ledger.kills += step < steps - 1
    ledger.check()
