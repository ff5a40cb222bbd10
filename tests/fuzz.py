"""Fuzzing by Hypothesis: sound inputs are changed until something happens that must not. `make fuzz SECONDS=600`.

Input: targets of tests/fuzz_targets.py. Output: one JSON line per target, and of each failure the input in base64,
which `python tests/fuzz.py --target NAME --input BASE64` runs again.
State: every target runs in a process of its own, which leaves each input in a file before it tries it: so the input is
known also where it ends the process, or lets it stand still.
Units: seconds.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import arguments
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

STILL_S = 60.0
"""An input that takes so long is a failure."""
CHUNK = 500
FAILURES_MAX = 5
ODD = (
    b"\x00", b"\x01", b"\x02", b"\x7f", b"\x80", b"\xff", b"\x80\x00", b"\xff\xff\xff\xff\x0f", b"\xff" * 8 + b"\x7f",
    b"\xfe" + b"\xff" * 8 + b"\x01", b"\x80\xc2\xd7\x2f", b"\x00" * 8, b"\xff" * 8, b'"', b"[", b"{", b"}", b"]", b"\\",
    b"null", b"-0.0", b"NaN", b"1e999", b"9" * 30, b'"\\ud800"', b"\x1b[31m", b"\xc3\x28", b"\n", b" ", b"[" * 300,
)  # fmt: skip
"""What bytes, numbers and JSON are broken with."""


@dataclass
class Count:
    """What became of a target's inputs. `failures`: [(what happened, input in base64)]."""

    target: str
    executions: int = 0
    accepted: int = 0
    seconds: float = 0.0
    peak_mib: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


@st.composite
def inputs(draw: st.DrawFn, corpus: Sequence[bytes]) -> bytes:
    """A sound input with up to eight changes; now and then bytes of no origin behind its first."""
    data = draw(st.sampled_from(corpus))
    if draw(st.integers(0, 39)) == 0:
        return data[:1] + draw(st.binary(max_size=60))
    for _ in range(draw(st.integers(0, 8))):
        how, at, size = draw(st.integers(0, 5)), draw(st.integers(0, len(data))), draw(st.sampled_from((0, 1, 1, 2, 8)))
        if how == 0:
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        elif how == 1 and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif how == 2:
            data = data[:at] + draw(st.sampled_from(ODD)) + data[at + size :]
        elif how == 3:
            data = data[:at] + data[at + 4 * size :]
        elif how == 4:
            end = min(at + 40, len(data))
            data = data[:end] + data[at:]
        elif how == 5 and draw(st.integers(0, 3)) == 0:
            data = data[: max(at, 1)]
    return data


def fuzz(name: str, number: int, seconds: float, examples: int, note: Path) -> Count:
    """Run one target in this process until a time or a count is over. The input at hand is in `note`."""
    from fuzz_targets import TARGETS

    count = Count(name)
    with tempfile.TemporaryDirectory() as folder, note.open("wb", buffering=0) as file:
        target = TARGETS[name](Path(folder))

        def run(data: bytes) -> None:
            os.pwrite(file.fileno(), len(data).to_bytes(4) + data, 0)
            os.utime(file.fileno())
            count.executions += 1
            count.accepted += target.run(data)

        for each in target.corpus:
            run(each)
        begun = time.monotonic()
        while count.executions < examples if examples else time.monotonic() - begun < seconds:
            try:
                _chunk(run, target.corpus, number, examples or CHUNK)
            except Exception as error:  # whatever it is, it is what is looked for
                last = traceback.extract_tb(error.__traceback__)[-1]
                text = f"{type(error).__name__}: {str(error)[:200]} ({Path(last.filename).name}:{last.lineno})"
                count.failures.append((text, base64.b64encode(last_input(note)).decode()))
                if len(count.failures) == FAILURES_MAX:
                    break
            number += 1
    count.seconds = round(time.monotonic() - begun, 1)
    count.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return count


def _chunk(run: object, corpus: Sequence[bytes], number: int, examples: int) -> None:
    chosen = settings(
        max_examples=examples, database=None, deadline=None, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    seed(number)(chosen(given(data=inputs(corpus))(run)))()  # type: ignore[operator]


def last_input(note: Path) -> bytes:
    """The input that was tried last."""
    content = note.read_bytes()
    return content[4 : 4 + int.from_bytes(content[:4])]


def watched(name: str, number: int, seconds: float, examples: int) -> Count:
    """One target in a process of its own, and in a next one where that ends or stands still."""
    total, left = Count(name), seconds
    while True:
        found, fate = _child(name, number, left, examples)
        total.executions += found.executions
        total.accepted += found.accepted
        total.seconds = round(total.seconds + found.seconds, 1)
        total.peak_mib = max(total.peak_mib, found.peak_mib)
        total.failures += found.failures
        left, number = left - found.seconds, number + 1_000_003
        if not fate or left <= 0 or examples or len(total.failures) >= FAILURES_MAX:
            return total


def _child(name: str, number: int, seconds: float, examples: int) -> tuple[Count, str]:
    """What a process has counted; and how it was ended, if not by itself."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "input"
        note.touch()
        words = ["--child", str(note), "--target", name, "--seed", str(number)]
        length = ["--examples", str(examples)] if examples else ["--seconds", str(seconds)]
        command = [sys.executable, __file__, *words, *length]
        begun = time.monotonic()
        with (Path(folder) / "said").open("w+b") as said:
            with subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT) as child:
                fate = _fate(child, note)
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
        if not fate and lines:
            return Count(**json.loads(lines[-1])), ""
        text = f"{fate or 'no answer'}: {' '.join(lines[-3:])[-300:]}"
        failure = (text, base64.b64encode(last_input(note)).decode())
        return Count(name, seconds=time.monotonic() - begun, failures=[failure]), text


def _fate(child: subprocess.Popen[bytes], note: Path) -> str:
    """How a process ended that did not end well; one whose input takes too long is ended."""
    started = time.time()
    while child.poll() is None:
        time.sleep(0.2)
        if time.time() - max(note.stat().st_mtime, started + STILL_S) > STILL_S:
            child.kill()
            child.wait()
            return f"stood still for {STILL_S:.0f} s"
    code = child.returncode
    return "" if code == 0 else f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def main(words: Sequence[str] | None = None) -> int:
    """`make fuzz`. Exit code 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", action="append", help="one of decoder, venues, segments, states; all if not named")
    parser.add_argument("--seconds", type=arguments.duration, default=600.0, help="of all targets together")
    parser.add_argument("--examples", type=int, default=0, help="inputs per target, instead of seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--input", help="one input in base64")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given_ = parser.parse_args(words)
    targets = given_.target or ["decoder", "venues", "segments", "states"]
    if given_.child is not None:
        count = fuzz(targets[0], given_.seed, given_.seconds, given_.examples, given_.child)
        print(json.dumps(asdict(count)), flush=True)
        return 0
    if given_.input is not None:
        return _again(targets[0], base64.b64decode(given_.input))
    is_ok = True
    for name in targets:
        print(f"fuzzing {name} ...", file=sys.stderr, flush=True)
        count = watched(name, given_.seed, given_.seconds / len(targets), given_.examples)
        is_ok = is_ok and not count.failures
        print(json.dumps({**asdict(count), "failures": len(count.failures), "seed": given_.seed}), flush=True)
        for text, data in count.failures:
            print(f"{text}\n  repeat: python tests/fuzz.py --target {name} --input {data}", flush=True)
    return 0 if is_ok else 1


def _again(name: str, data: bytes) -> int:
    from fuzz_targets import TARGETS

    with tempfile.TemporaryDirectory() as folder:
        print("accepted" if TARGETS[name](Path(folder)).run(data) else "refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
