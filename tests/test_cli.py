"""What a person does wrong costs one clear line and the right exit code, and leaves nothing behind."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from commandline import onetape

from app.synthetic import write_recording


class Mistake(NamedTuple):
    """A command line, and what must come of it."""

    arguments: tuple[str, ...]
    code: int
    words: str


MISTAKES = [
    Mistake(("nosuch",), 2, "No such command"),
    Mistake(("import",), 2, "Missing argument"),
    Mistake(("import", "{good}", "--format", "binance-usdm"), 2, "nowhere to import to"),
    Mistake(("import", "{good}", "--format", "nasdaq", "--archive", "{out}"), 2, "binance-coinm"),
    Mistake(("import", "{absent}", "--format", "binance-usdm", "--archive", "{out}"), 2, "nothing there"),
    Mistake(("import", "{empty}", "--format", "binance-usdm", "--archive", "{out}"), 2, "recording"),
    Mistake(("import", "{foreign}", "--format", "binance-usdm", "--archive", "{out}"), 2, "foreign"),
    Mistake(("import", "{good}", "--format", "binance-spot", "--archive", "{out}"), 2, "--format"),
    Mistake(("import", "{cut}", "--format", "binance-usdm", "--archive", "{out}"), 1, "cut"),
    Mistake(("replay", "--archive", "{absent}", "--out", "{out}"), 2, "there is no archive"),
    Mistake(("parity", "--archive", "{absent}"), 2, "there is no archive"),
    Mistake(("leakcheck", "--archive", "{absent}"), 2, "there is no archive"),
    Mistake(("archive", "audit", "--archive", "{absent}"), 2, "there is no archive"),
    Mistake(("archive", "checkpoint", "--archive", "{absent}"), 2, "there is no archive"),
    Mistake(("archive", "checkpoint", "--archive", "{archive}", "--every", "often"), 2, "no duration"),
    Mistake(("archive", "checkpoint", "--archive", "{archive}", "--every", "5ms"), 2, "whole seconds"),
    Mistake(("replay", "--archive", "{archive}", "--out", "{out}", "--threads", "0"), 2, "--threads"),
    Mistake(("demo", "--from", "{absent}", "--out", "{out}"), 2, "there is no archive"),
    Mistake(("dataset", "show", "no-such-1", "--datasets", "{absent}"), 2, "no dataset"),
    Mistake(("dataset", "verify", "../..", "--datasets", "{absent}"), 2, "no dataset"),
    Mistake(("replay", "--archive", "{archive}", "--out", "{out}", "--feature-set", "micro@9"), 2, "micro@2"),
    Mistake(("replay", "--archive", "{archive}", "--out", "{out}", "--feature-set", "{bad}"), 2, "cadence_ms"),
    Mistake(("replay", "--archive", "{archive}", "--out", "{out}", "--feature-set", "{unknown}"), 2, "mid_price"),
    Mistake(("replay", "--archive", "{archive}", "--out", "{out}", "--feature-set", "x.yaml"), 2, "cannot be read"),
    Mistake(("leakcheck", "--archive", "{archive}", "--feature-set", "{bad}"), 2, "cadence_ms"),
    Mistake(("parity", "--archive", "{archive}", "--feature-set", "{bad}"), 2, "cadence_ms"),
    Mistake(("parity", "--archive", "{archive}", "--feature-set", "micro@1"), 2, "no live vectors of micro@1"),
    Mistake(
        ("parity", "--archive", "{archive}", "--feature-set", "nosuch@1", "--feature-set", "micro@2"), 2, "nosuch@1"
    ),
    Mistake(
        ("parity", "--archive", "{archive}", "--feature-set", "micro@2", "--feature-set", "micro@2"), 2, "each id once"
    ),
    Mistake(("dataset", "build", "--archive", "{archive}", "--feature-set", "{bad}"), 2, "cadence_ms"),
    Mistake(("replay", "--archive", "{archive}", "--out", "{out}", "--symbols", "BINANCE_USDM:BTCUSD"), 2, "BTCUSDT"),
    Mistake(("replay", "--archive", "{archive}", "--out", "{out}", "--from", "yesterday"), 2, "ISO 8601"),
    Mistake(("replay", "--archive", "{archive}", "--out", "{out}", "--from", "9999-01-01"), 2, "year 2262"),
    Mistake(("replay", "--archive", "{archive}", "--out", "{out}", "--symbols", ","), 2, "no instrument"),
    Mistake(
        ("replay", "--archive", "{archive}", "--out", "{out}", "--from", "2030-01-01", "--to", "2020-01-01"),
        2,
        "2030-01-01T00:00:00.000000000Z to 2020-01-01T00:00:00.000000000Z",
    ),
    Mistake(("replay", "--archive", "{archive}", "--out", "{foreign}"), 2, "Action"),
    Mistake(
        ("dataset", "build", "--archive", "{archive}", "--datasets", "{out}", "--split", "a=0.5,b=0.6"), 2, "Action"
    ),
    Mistake(("dataset", "build", "--archive", "{archive}", "--datasets", "{out}", "--horizon", "86400"), 2, "Action"),
    Mistake(("parity", "--archive", "{archive}"), 2, "no live vectors"),
    Mistake(("worker", "--roles", "featurs"), 2, "features"),
    Mistake(("worker",), 3, "the Kafka broker does not answer"),
    Mistake(("import", "{good}", "--format", "binance-usdm", "--to-broker"), 3, "the Kafka broker does not answer"),
    Mistake(("demo", "--from", "{archive}", "--out", "{out}", "--brokers", "127.0.0.1:9"), 3, "does not answer"),
    Mistake(("demo", "--from", "{archive}", "--out", "{out}", "--redis", "redis://127.0.0.1:9/0"), 3, "Redis does not"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Good and bad input by name."""
    folder = tmp_path_factory.mktemp("cli")
    made = {name: folder / name for name in ("good.gz", "cut.gz", "foreign", "empty", "archive", "absent")}
    write_recording(made["good.gz"], seed=3, seconds=20)
    made["cut.gz"].write_bytes(made["good.gz"].read_bytes()[:-2000])
    made["foreign"].write_text("date,open,close\n2020-01-01,1,2\n")
    made["empty"].write_bytes(b"")
    done = onetape("import", made["good.gz"], "--format", "binance-usdm", "--archive", made["archive"])
    assert done.returncode == 0, done.stderr
    for name, (cadence_ms, feature) in {"bad": (150, "mid_price"), "unknown": (100, "mid_prise")}.items():
        made[name] = folder / f"{name}.yaml"
        made[name].write_text(f"name: {name}\nversion: 1\ncadence_ms: {cadence_ms}\nfeatures: [{feature}]\n")
    return {name.removesuffix(".gz"): path for name, path in made.items()}


@pytest.fixture(autouse=True)
def nobody_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings of a machine without Kafka and Redis."""
    monkeypatch.setenv("ONETAPE_BROKERS", "127.0.0.1:9")
    monkeypatch.setenv("ONETAPE_DATA_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("ONETAPE_REGISTRY", str(tmp_path / "schemas.json"))


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: " ".join(mistake.arguments))
def test_a_mistake_is_one_line_with_an_action(mistake: Mistake, places: dict[str, Path], tmp_path: Path) -> None:
    named = {name: str(path) for name, path in places.items()} | {"out": str(tmp_path / "out")}
    done = onetape(*(argument.format(**named) for argument in mistake.arguments))
    told = [line for line in done.stderr.splitlines() if line.startswith("onetape: ")]
    assert done.returncode == mistake.code, done.stderr
    assert len(told) == 1
    assert mistake.words in told[0]
    assert "Action: " in told[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    if mistake.arguments[0] != "demo":
        assert not (tmp_path / "out").exists()


def test_a_replay_from_behind_the_end_says_where_the_tape_ends(places: dict[str, Path], tmp_path: Path) -> None:
    some = ("replay", "--archive", places["archive"], "--json", "--out")
    done = onetape(*some, tmp_path / "late", "--from", "2099-01-01")
    assert (done.returncode, json.loads(done.stdout)["vectors"]) == (0, 0)
    assert "the tape ends at 20" in done.stderr
    assert "before --from 2099-01-01T00:00:00.000Z" in done.stderr
    assert "the tape ends" not in onetape(*some, tmp_path / "early", "--from", "2001-01-01").stderr


def test_errors_are_json_where_it_was_asked_for(places: dict[str, Path]) -> None:
    done = onetape("parity", "--archive", places["absent"], "--json")
    answer = json.loads(done.stdout)
    assert answer["exit_code"] == done.returncode == 2
    assert answer["error"]["action"]


@pytest.mark.fault("operator", "unknown config key")
def test_an_unknown_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONETAPE_BROKER", "localhost")
    done = onetape("worker")
    assert done.returncode == 2
    assert "ONETAPE_BROKER is no setting" in done.stderr


@pytest.mark.parametrize(
    ("specs", "words"),
    [("micro@9", "micro@2"), ("micro@2,micro@2", "each id once"), (" ,", "at least one"), ("{bad}", "cadence_ms"),
     ("micro@2,{unknown}", "which is no feature"), ("{absent}.yaml", "cannot be read")],
)  # fmt: skip
def test_feature_sets_that_cannot_be_are_told_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, places: dict[str, Path], tmp_path: Path, specs: str, words: str
) -> None:
    """Nobody is there: the settings are looked at first."""
    monkeypatch.setenv("ONETAPE_FEATURE_SETS", specs.format(**places))
    done = onetape("worker")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Action: " in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "state").exists()


@pytest.mark.fault("operator", "newline or ANSI in a symbol")
def test_control_characters_in_a_name_do_not_reach_the_terminal() -> None:
    done = onetape("parity", "--archive", "nowhere\x1b[31m\nonetape: fake")
    assert "\x1b[31m" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def interrupted(arguments: list[str], ready: Callable[[], bool], log: Path) -> int:
    """Send Ctrl-C to a command once it is in the middle."""
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "app.cli", *arguments], stdout=output, stderr=output)
        deadline = time.monotonic() + 30
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        return process.wait(30)


@pytest.mark.fault("operator", "Ctrl-C")
def test_an_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    recording, archive = tmp_path / "long.gz", tmp_path / "archives" / "tape"
    write_recording(recording, seed=4, seconds=120)
    arguments = ["import", str(recording), "--format", "binance-usdm", "--archive", str(archive)]
    log = tmp_path / "log"
    code = interrupted(arguments, lambda: archive.parent.exists() and any(archive.parent.iterdir()), log)
    assert code == 130, log.read_text()
    assert "Traceback" not in log.read_text()
    assert not archive.parent.exists()


@pytest.mark.fault("operator", "closed pipe, full output")
def test_a_full_stdout_is_one_line(places: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "app.cli", "archive", "audit", "--archive", str(places["archive"]), "--json"]
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "Action: " in done.stderr


def test_a_killed_demo_takes_its_worker_along(places: dict[str, Path], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "app.cli",
        "demo",
        "--from",
        str(places["archive"]),
        "--out",
        str(tmp_path / "out"),
    ]
    with (tmp_path / "log").open("wb") as log:
        demo = subprocess.Popen(command, stdout=log, stderr=log)
    lock = tmp_path / "out" / "state" / "worker.lock"
    wait_until(lock.exists, 30)
    demo.kill()
    demo.wait()
    wait_until(lambda: is_free(lock), 30)


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    """Fail when it does not hold in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_free(lock: Path) -> bool:
    """Whether nobody holds a lock file."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.fault("operator", "closed pipe, full output")
def test_a_reader_that_goes_away_is_no_traceback(places: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "app.cli", "archive", "audit", "--archive", str(places["archive"])]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert "Traceback" not in done.stderr


def test_a_recording_cut_at_any_byte_is_never_half_imported(places: dict[str, Path], tmp_path: Path) -> None:
    whole = places["good"].read_bytes()
    plain = gzip.decompress(whole)
    for name, content in {"a.gz": whole[: len(whole) // 2], "b.gz": whole[:-1], "c": plain[:-5]}.items():
        (tmp_path / name).write_bytes(content)
        done = onetape("import", tmp_path / name, "--format", "binance-usdm", "--archive", tmp_path / "tape")
        assert done.returncode == 1, done.stderr
        assert "Action: " in done.stderr
        assert not (tmp_path / "tape").exists()
