"""One archive has one content hash: for any batches, threads and restore points, in any process, on any processor."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from own_files import OWN_FEATURES, own_file
from streams import stream
from tapes import archive_of

from replay.digest import vectors_digest
from replay.driver import MemoryStates, replay, run
from replay.laying import lay
from replay.reader import ArchiveReader
from schemas.columns import Columns, from_events
from schemas.feature_sets import load
from schemas.units import NS_PER_S
from schemas.vectors import Vectors

ROOT = Path(__file__).resolve().parent.parent
TIGHT = """
name: tight
version: 1
cadence_ms: 200
windows: [300ms, 2s, 45s]
depths: [1, 7]
missing: forward_fill(3s)
own_features: [mine.py]
features:
  - mine
  - other: {outliers: "clip(2, 20)"}
  - zscore(mine, 10)
  - mid_price: {outliers: "clip(2.5, 20)"}
  - zscore(mid_price, 12)
  - log_return_{window}
  - realized_volatility_{window}
  - vwap_deviation_bps_{window}: {missing: null, outliers: "clip(3, 8)"}
  - zscore(vwap_deviation_bps_2s, 9)
  - zscore(order_flow_imbalance_300ms, 30)
  - bid_depth_{depth}
  - bid_slope_10
  - time_of_day_sin
  - day_of_week_cos
  - spread: {missing: skip_row}
"""
"""Features whose values pass through roots, logarithms, sines, long sums and code of the user's own."""
CHILD = """
import json, sys
from pathlib import Path
from replay.driver import replay
from replay.reader import ArchiveReader
from schemas.feature_sets import load

archive = ArchiveReader(Path(sys.argv[1]))
print(json.dumps([replay(archive, load(name), threads=2).content_hash for name in sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a faulty stream of four symbols, and a feature set of one's own."""
    made = tmp_path_factory.mktemp("same bits")
    archive_of(made / "archive", [from_events(0, 0, stream(70, seconds=66.0, rate=25.0))], 1, 900)
    own_file(made, OWN_FEATURES)
    (made / "tight.yaml").write_text(TIGHT)
    return made


@pytest.fixture(scope="module")
def archive(folder: Path) -> ArchiveReader:
    return ArchiveReader(folder / "archive")


@pytest.fixture(scope="module")
def sets(folder: Path) -> list[str]:
    return ["micro@2", str(folder / "tight.yaml")]


@pytest.fixture(scope="module")
def expected(archive: ArchiveReader, sets: list[str]) -> list[str]:
    """Content hashes of one thread, batches as they are stored."""
    whole = [replay(archive, load(name)) for name in sets]
    assert all(len(each.vectors) > 150 for each in whole)
    return [each.content_hash for each in whole]


@pytest.mark.fault("replay", "batches of 1, 7, 64 and 10^4 records")
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000, None])
def test_batches_and_threads(
    archive: ArchiveReader, sets: list[str], expected: list[str], batch_size: int | None, threads: int
) -> None:
    got = [replay(archive, load(name), batch_size=batch_size, threads=threads) for name in sets]
    assert [each.content_hash for each in got] == expected


@pytest.mark.fault("replay", "states saved and loaded at random offsets")
@pytest.mark.parametrize("seed", range(4))
def test_restore_points(archive: ArchiveReader, sets: list[str], expected: list[str], seed: int) -> None:
    """Every state saved and loaded at random offsets."""
    chance = random.Random(seed)
    rows = Columns.concat(list(archive.batches(0)))
    cuts = sorted({0, len(rows), *(chance.randrange(len(rows)) for _ in range(9))})
    for name, content_hash in zip(sets, expected, strict=True):
        states = MemoryStates()
        parts = [run([rows.slice(a, b)], load(name), states, saves=True) for a, b in pairwise(cuts)]
        assert vectors_digest(Vectors.concat(parts)) == content_hash


def test_checkpoints(archive: ArchiveReader, sets: list[str], expected: list[str]) -> None:
    """What a replay from the beginning gives before a time, and one from a checkpoint gives after it."""
    for name, content_hash in zip(sets, expected, strict=True):
        feature_set = load(name)
        lay(archive, feature_set, 20 * NS_PER_S, threads=2)
        middle = int(replay(archive, feature_set).vectors.time.mean())
        after = replay(archive, feature_set, from_ns=middle, with_checkpoints=True)
        assert after.starts
        before = replay(archive, feature_set, to_ns=middle)
        assert vectors_digest(Vectors.concat([before.vectors, after.vectors])) == content_hash


def hashes(archive: ArchiveReader, sets: list[str], environment: dict[str, str]) -> list[str]:
    """Content hashes that another process gives."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(archive.path), *sets], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"HOME": "/tmp", "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.mark.fault("replay", "hash seeds 0 and 1")
@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_hash_seeds(archive: ArchiveReader, sets: list[str], expected: list[str], seed: str) -> None:
    assert hashes(archive, sets, {"PYTHONHASHSEED": seed}) == expected


def numpy_features() -> list[str]:
    """Processor features this machine has, that numpy chooses code by and that can be switched off."""
    try:
        from numpy._core import _multiarray_umath as numpy_core
    except ImportError:  # numpy 1
        from numpy.core import _multiarray_umath as numpy_core  # type: ignore[no-redef]
    return [name for name in numpy_core.__cpu_dispatch__ if numpy_core.__cpu_features__.get(name)]


@pytest.mark.fault("replay", "features of the processor switched off")
def test_numpy_and_arrow_without_features_of_the_processor(
    archive: ArchiveReader, sets: list[str], expected: list[str]
) -> None:  # fmt: skip
    features = numpy_features()
    if not features:
        pytest.skip("numpy chooses no code by this processor's features")
    environment = {"NPY_DISABLE_CPU_FEATURES": " ".join(features), "ARROW_USER_SIMD_LEVEL": "NONE"}
    assert hashes(archive, sets, environment) == expected


@pytest.mark.fault("replay", "features of the processor switched off")
def test_a_kernel_for_any_processor(
    archive: ArchiveReader, sets: list[str], expected: list[str], tmp_path: Path
) -> None:  # fmt: skip
    """Compiled anew, without any instruction the architecture does not always have."""
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    assert hashes(archive, sets, environment) == expected
    assert any(tmp_path.rglob("*.nbi"))
