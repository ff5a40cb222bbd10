"""Where the tasks of a build are done: none outlives its build, and what dies is told with what to do about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from commandline import onetape
from conftest import ROOT

from app.dataset_commands import _dataset_result
from app.report import Report
from replay.datasets import work
from replay.datasets.engines import Engine, Here, Processes, engine_of
from schemas.errors import DependencyDown, UsageError

LONG_S = 30.0
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
"""Where other processes find the functions of this module."""


def until(path: Path) -> None:
    end = time.monotonic() + LONG_S
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.01)


def fails_on_one(folder: Path, number: int) -> None:
    """One fails once zero is at work; the others say that they have ended, if they come to it."""
    if number == 1:
        until(folder / "begun 0")
        raise UsageError("one fails", expected="a", was="b", action="c")
    (folder / f"begun {number}").touch()
    time.sleep(LONG_S)
    (folder / f"ended {number}").touch()


def test_a_failing_task_ends_the_others(tmp_path: Path) -> None:
    """What it raised comes home from another process as it was."""
    engine: Engine = Processes(2)
    with pytest.raises(UsageError, match=r"^one fails: expected a, was b\. Action: c$"):
        engine.run(partial(fails_on_one, tmp_path), [0, 1, 2], lambda: None)
    assert (tmp_path / "begun 0").exists()
    assert list(tmp_path.glob("ended *")) == []


def dies(number: int) -> int:
    if number == 1:
        os._exit(9)
    return number


def test_a_process_that_dies_is_told_with_what_to_do() -> None:
    with pytest.raises(DependencyDown, match=r"a process of this machine.*Action: .*--processes.*goes on"):
        Processes(2).run(dies, [0, 1, 2], lambda: None)


def raises(number: int) -> int:
    raise KeyError(number) if number else UsageError("none", expected="a", was="b", action="c")


@pytest.mark.parametrize("engine", [Here(), Processes(2)])
def test_errors_of_tasks_stay_what_they_are(engine: Engine) -> None:
    assert engine.run(raises, [], lambda: None) == []
    with pytest.raises(KeyError):
        engine.run(raises, [1], lambda: None)


def test_ray_takes_all_cpus_and_tells_of_workers_that_die(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("PYTHONPATH", PATHS)
    ray.init(num_cpus=3, include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        with engine_of("ray") as engine:
            assert engine.parts == 3
            assert engine.run(dies, [], lambda: None) == []
            assert engine.run(dies, [2, 0], lambda: None) == [2, 0]
            with pytest.raises(UsageError, match="none: expected a"):
                engine.run(raises, [0], lambda: None)
            with pytest.raises(KeyError):
                engine.run(raises, [1], lambda: None)
            with pytest.raises(DependencyDown, match=r"a worker of Ray.*Action: .*--processes.*goes on"):
                engine.run(dies, [0, 1], lambda: None)
    finally:
        ray.shutdown()


def test_an_engine_takes_as_many_as_it_is_told() -> None:
    with engine_of("local") as one, engine_of("local", 1) as told, engine_of("local", 3) as three:
        assert (type(one), type(told)) == (Here, Here)
        assert isinstance(three, Processes)
        assert three.parts == 3


def says_and_sleeps(number: int) -> None:
    print(f"begun {number}", flush=True)
    time.sleep(4 * LONG_S)


PARENT = dedent("""
    from replay.datasets.engines import Processes
    from test_engines import says_and_sleeps

    Processes(2).run(says_and_sleeps, [0, 1], lambda: None)
""")


def test_the_processes_of_a_killed_build_end_with_it() -> None:
    """They have its stdout, which ends when the last of them does."""
    environment = {**os.environ, "PYTHONPATH": PATHS}
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert sorted(parent.stdout.readline() for _ in range(2)) == ["begun 0\n", "begun 1\n"]
        parent.kill()
        parent.communicate(timeout=LONG_S)


DATASET = {
    "feature_set": "micro@2", "feature_set_digest": "0", "recipe": {}, "archive": "a", "inputs": [],
    "labels": ["direction_5s"], "features": [], "code": {}, "rows": 7, "splits": {}, "files": [], "purged": 0,
    "output_hash": "abc", "leakcheck": {"leaking": []},
}  # fmt: skip


def test_a_torn_manifest_hides_no_other_dataset(tmp_path: Path) -> None:
    whole, torn, begun, verified = (f"micro-2-direction_5s-{digit * 12}" for digit in "abcd")
    for dataset_id, content in ((whole, json.dumps({"id": whole, **DATASET})), (torn, '{"id":')):
        (tmp_path / dataset_id).mkdir()
        (tmp_path / dataset_id / "manifest.json").write_text(content)
    for name in (begun, f"verify-{verified}"):
        work.begun(tmp_path, name, {})
    done = onetape("dataset", "list", "--datasets", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [each["id"] for each in told["datasets"]] == [whole]
    assert {(each["id"], each["of"]) for each in told["unfinished"]} == {(begun, "build"), (verified, "verify")}
    lines = done.stderr.splitlines()
    assert any(line.startswith(f"  torn: the manifest of {torn} is torn") for line in lines)
    assert any(line.startswith(f"  unfinished: {begun} ") and "build it again" in line for line in lines)
    assert any(line.startswith(f"  verification unfinished: {verified} ") and "verify it" in line for line in lines)


def test_work_of_a_set_that_is_called_verify_is_a_build(tmp_path: Path) -> None:
    work.begun(tmp_path, "verify-1-direction_5s-abcdef123456", {})
    (left,) = work.unfinished(tmp_path)
    assert (left["id"], left["of"]) == ("verify-1-direction_5s-abcdef123456", "build")


@pytest.mark.parametrize(
    ("about", "said"),
    [({"reused": True, "resumed": False}, "there already"), ({"reused": False, "resumed": True}, "gone on with")],
)
def test_a_build_says_what_was_there(about: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    control = {"control": {"caught": True}}
    manifest = {
        "id": "x", **DATASET, "embargoed": 0, "unlabelled": 0, "warmup_rows": 0, "missing_rows": 0, "parity": None,
        "leakcheck": {"leaking": [], "rows_checked": 1, "cuts": 1, **control},
    }  # fmt: skip
    _dataset_result(Report(False), {**manifest, **about}, Path("d"))
    assert said in capsys.readouterr().out
    _dataset_result(Report(False), manifest, Path("d"))
    assert "built" not in capsys.readouterr().out
