"""What an operator does wrong, or a peer writes into a name, costs one readable line."""

from __future__ import annotations

import logging
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import live_worker as run
import pytest
from commandline import onetape
from ledger import Ledger
from rich.console import Console
from test_worker import Place

from app.config import environment
from app.embedded import EmbeddedBroker
from app.logs import Lines
from app.report import facts, grid, visible
from app.synthetic import write_recording
from schemas.codec import DeadLetterCodec
from schemas.registry import open_registry
from schemas.topics import DEAD_LETTERS

HOSTILE = "BINANCE_USDM:BTC\x1b[2J\x1b[31m\nonetape: all is well\r\x07\x9b1m\u2028\u202eUSDT"
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ \S+: ")
DRAWN = re.compile(r"[^\n]*[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with EmbeddedBroker({}) as broker:
        yield Place(broker.bootstrap, True, tmp_path_factory.mktemp("operator"), broker=broker)


@pytest.mark.fault("operator", "newline or ANSI in a symbol")
def test_a_hostile_name_is_escaped_wherever_it_is_shown(place: Place, ledger: Ledger) -> None:
    """In a worker that logs all it does: each line begins as a log line, and the letter keeps the name as it was."""
    settings = place.settings(log_level="DEBUG")
    keys = [HOSTILE.encode(), b"\xff\x1b[31m\n", HOSTILE.encode()[:40]]
    tape: list[run.Raw] = [[(key, b"no record") for key in keys], []]
    with run.Worker(settings, ["features"]) as worker:
        run.publish(settings, tape)
        run.wait_committed(settings, worker, [len(keys), 0])
        worker.process.terminate()
        assert worker.process.wait(10) == 0
    words = worker.words()
    assert not DRAWN.search(words)
    assert "Traceback" not in words
    assert all(map(LOG_LINE.match, words.splitlines()))
    codec = DeadLetterCodec(open_registry(settings.registry))
    letters = [codec.decode(each.value()) for each in run.read_topic(settings, DEAD_LETTERS, 0)]
    ledger.received, ledger.refused = len(keys), len(letters)
    ledger.wrong += [letter.key for letter in letters] != keys
    ledger.faults += 1
    ledger.check()


@pytest.mark.fault("operator", "newline or ANSI in a symbol")
def test_log_lines_tables_and_errors_show_escapes() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record = logging.LogRecord("app", logging.ERROR, "", 0, "of %s", (HOSTILE,), sys.exc_info())
    first, *trace = Lines([]).format(record).split("\n")
    assert first.endswith(f"of {visible(HOSTILE)}")
    assert trace[0].startswith("Traceback")
    assert "onetape: all is well" not in trace
    with Console(record=True, width=500, file=StringIO()) as console:
        console.print(facts({"symbol": HOSTILE}), grid(None, ["symbol"], [[HOSTILE]]))
    shown = console.export_text(styles=False)
    assert shown.count(visible(HOSTILE)) == 2
    assert not DRAWN.search(shown)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("recording") / "short.gz"
    write_recording(made, seed=3, seconds=12)
    return made


@pytest.mark.fault("operator", "unwritable folder")
def test_a_folder_that_cannot_be_written_is_named(recording: Path, tmp_path: Path, place: Place) -> None:
    """By every command that writes: an import, a replay, a dataset, a worker's states, archive and registry."""
    (tmp_path / "file").write_text("no folder")
    below_a_file, refused = tmp_path / "file" / "inside", Path("/proc/onetape")
    archive = tmp_path / "archive"
    done = onetape("import", recording, "--format", "binance-usdm", "--archive", archive)
    assert done.returncode == 0, done.stderr
    for out, command in (
        (refused, ("import", recording, "--format", "binance-usdm", "--archive")),
        (below_a_file, ("replay", "--archive", archive, "--out")),
        (refused, ("dataset", "build", "--archive", archive, "--horizon", "1", "--datasets")),
    ):
        assert_named(onetape(*command, out), str(out))
    settings = place.settings()
    for out, name in ((below_a_file, "data_dir"), (refused, "archive_dir"), (below_a_file, "registry")):
        bad = settings.model_copy(update={name: str(out / "schemas.json") if name == "registry" else out})
        command = [sys.executable, "-m", "app.cli", "worker", "--roles", "features,archive"]
        done = subprocess.run(command, env=environment(bad), capture_output=True, text=True, timeout=120, check=False)
        assert_named(done, str(out))


def assert_named(done: subprocess.CompletedProcess[str], what: str) -> None:
    told = [line for line in done.stderr.splitlines() if line.startswith("onetape: ")]
    assert done.returncode in (2, 3), done.stderr
    assert len(told) == 1, done.stderr
    assert what in told[0]
    assert "Action: " in told[0]
    assert "Traceback" not in done.stderr


@pytest.mark.fault("operator", "Ctrl-C")
def test_ctrl_c_ends_a_worker_as_a_clean_stop(place: Place) -> None:
    """While it starts, when it may be told as an interruption, and at work."""
    for is_at_work in (False, True):
        settings = place.settings()
        command = [sys.executable, "-m", "app.cli", "worker", "--roles", "features"]
        with subprocess.Popen(command, env=environment(settings), stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 60
            while not (settings.data_dir / ("features" if is_at_work else "worker.lock")).exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode in ((0,) if is_at_work else (0, 130)), err
        assert process.returncode == 0 or "Action: " in err
        assert "Traceback" not in err
        shutil.rmtree(settings.data_dir)
