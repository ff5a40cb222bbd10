"""`onetape demo` as a person runs it: real worker, embedded broker or real Kafka, live equal to replayed bit for bit.

The whole of the matrix (every recording, both brokers, every batch size) is `make parity`; here every recording runs on
both brokers, and every batch size on a short recording.
"""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from commandline import onetape, result
from own_files import own_set

from app.synthetic import write_recording

BATCH_SIZES = (1, 7, 64, 10_000)
RECORDINGS = {
    "usdm-ethusdt": ("binance-usdm", "hftbacktest/usdm_ethusdt_20240718.gz", "hftbacktest/usdm_ethusdt_20240719.gz"),
    "coinm-ethusd": (
        "binance-coinm",
        "hftbacktest/cm_ethusd_perp_20240808.gz",
        "hftbacktest/cm_ethusd_perp_20240809.gz",
    ),
    "spot-btcusdt": ("binance-spot", "hftbacktest/spot_btcusdt_20240808.gz", "hftbacktest/spot_btcusdt_20240809.gz"),
    "usdm-btcusdt": ("binance-usdm", "hftbacktest/usdm_btcusdt_20230404.dat.gz"),
    "usdm-four": ("binance-usdm", "cryptofeed_v3/BINANCE_FUTURES.jsonl.zst"),
}
EVERY = list(itertools.product(RECORDINGS, ("embedded", "kafka"), BATCH_SIZES))
IN_CI = {(name, broker, 10_000) for name in RECORDINGS for broker in ("embedded", "kafka")}
IN_CI |= {("usdm-btcusdt", "kafka", size) for size in BATCH_SIZES}
IN_CI |= {("usdm-four", "embedded", size) for size in BATCH_SIZES}


@pytest.fixture(scope="session")
def archives(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An archive of every recording."""
    folder = tmp_path_factory.mktemp("archives")
    made = {}
    for name, (format_name, *files) in RECORDINGS.items():
        paths = [recordings / file for file in files]
        assert result("import", *paths, "--format", format_name, "--archive", folder / name)["refused"] == {}
        made[name] = folder / name
    return made


def played(request: pytest.FixtureRequest, source: Path, out: Path, broker: str, batch_size: int) -> dict[str, Any]:
    """Play an archive through broker and worker, and check what came out against its replay at every batch size."""
    brokers = ["--brokers", request.getfixturevalue("kafka")] if broker == "kafka" else []
    done = result("demo", "--from", source, "--out", out, "--batch-size", str(batch_size), *brokers)
    wrong = {key: done["parity"][key] for key in ("mismatch", "missing", "extra", "conflicting")}
    assert wrong == {"mismatch": 0, "missing": 0, "extra": 0, "conflicting": 0}
    assert done["parity"]["compared"] == done["vectors_out"] > 0
    assert done["events_in"] == result("replay", "--archive", source, "--out", out / "again")["events"]
    for size in BATCH_SIZES:
        assert result("parity", "--archive", out / "live", "--batch-size", str(size))["compared"] == done["vectors_out"]
    audit = result("archive", "audit", "--archive", out / "live")
    assert (audit["holes"], audit["doubles"], audit["torn"]) == ([], [], [])
    return done


@pytest.mark.recordings
@pytest.mark.parametrize(
    ("name", "broker", "batch_size"),
    [pytest.param(*case, marks=[] if case in IN_CI else pytest.mark.matrix) for case in EVERY],
)
def test_live_equals_replayed(
    request: pytest.FixtureRequest, archives: dict[str, Path], tmp_path: Path, name: str, broker: str, batch_size: int
) -> None:
    done = played(request, archives[name], tmp_path / "out", broker, batch_size)
    source, live = tmp_path / "out" / "again", tmp_path / "again"
    again = result("replay", "--archive", tmp_path / "out" / "live", "--out", live)
    assert again["vectors"] == done["vectors_out"]
    recorded = json.loads((source / "manifest.json").read_text())
    assert again["content_hash"] == recorded["content_hash"]


def test_the_demo_of_a_newcomer(tmp_path: Path) -> None:
    done = onetape("demo", "--out", tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100.000 %" in done.stdout
    assert "Try next" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert (tmp_path / "demo" / "worker.log").read_text() == ""


def test_what_the_demo_names_to_try_next_works_with_features_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ONETAPE_FEATURE_SETS", f"micro@2, {own_set(tmp_path)}")
    write_recording(tmp_path / "market.gz", seconds=10)
    result("import", tmp_path / "market.gz", "--format", "binance-usdm", "--archive", tmp_path / "tape")
    done = result("demo", "--from", tmp_path / "tape", "--out", tmp_path / "out")
    again = shlex.split(done["next"][0])
    assert again[0] == "parity"
    assert result(*again)["compared"] == done["parity"]["compared"] > 0


def test_a_folder_with_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = onetape("demo", "--out", tmp_path)
    assert (done.returncode, [path.name for path in tmp_path.iterdir()]) == (2, ["mine.txt"])
    assert "Action: name another folder" in done.stderr


def test_an_archive_is_never_overwritten_by_its_own_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    write_recording(tmp_path / "market.gz", seconds=5)
    archive = Path(".onetape/demo/live")
    result("import", "market.gz", "--format", "binance-usdm", "--archive", archive)
    for source in (archive, Path(".onetape/demo/liev")):
        assert onetape("demo", "--from", source).returncode == 2
    assert result("archive", "audit", "--archive", archive)["ok"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--redis", "redis://u:hunter2@x:bad/0"), 2),
        (("--brokers", "u:hunter2@kafka:9092"), 2),
        (("--redis", "redis://127.0.0.1:1/0"), 3),
        (("--brokers", "127.0.0.1:1"), 3),
    ],
)
def test_a_place_that_cannot_be_used_costs_no_demo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, str], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    before = Path(".onetape/demo/before")
    before.mkdir(parents=True)
    done = onetape("demo", *words)
    assert (done.returncode, before.is_dir()) == (code, True), done.stderr
    assert "hunter2" not in done.stderr
