"""A short fuzzing of each target, as `make fuzz` does it for minutes; and the fuzzer finds and names what breaks."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import fuzz
import fuzz_targets
import pytest
from ledger import Ledger

EXAMPLES = 300


@pytest.mark.fault("bytes", "inputs of others, changed at random: decoder, venues, archive files, stored states")
@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
def test_a_short_fuzzing(name: str, ledger: Ledger) -> None:
    count = fuzz.watched(name, 7, 0.0, EXAMPLES)
    assert count.failures == []
    assert count.executions > EXAMPLES
    assert 0 < count.accepted < count.executions
    ledger.received, ledger.accepted = count.executions, count.accepted
    ledger.refused = count.executions - count.accepted
    ledger.faults += 1


class Fragile:
    """A target with a defect."""

    def __init__(self, _: Path) -> None:
        self.corpus = [b"sound", b"and well"]

    def run(self, data: bytes) -> bool:
        assert b"\x1b" not in data, "an escape"
        return True


def test_what_breaks_is_found_and_its_input_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fuzz_targets.TARGETS, "fragile", Fragile)  # type: ignore[arg-type]
    count = fuzz.fuzz("fragile", 1, 0.0, 400, tmp_path / "note")
    assert count.failures
    text, data = count.failures[0]
    assert "an escape" in text
    assert b"\x1b" in base64.b64decode(data)


def test_a_process_that_ends_or_stands_still_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "note"
    note.write_bytes((5).to_bytes(4) + b"input and what was longer before it")
    assert fuzz.last_input(note) == b"input"
    for program, fate in (("import os; os.abort()", "ended by SIGABRT"), ("1 / 0", "ended with 1"), ("", "")):
        with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as child:
            assert fuzz._fate(child, note) == fate
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]) as child:
        monkeypatch.setattr(fuzz, "STILL_S", 0.3)
        assert fuzz._fate(child, note).startswith("stood still")
