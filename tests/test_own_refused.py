"""A feature of one's own cannot look beyond the state view, nothing of its file is run, and its author is told why."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from commandline import onetape
from own_files import HEAD, own_file
from tapes import archive_of, market, tape

from agents.engine import Engine
from agents.own.file import check
from agents.own.native import OwnFeature, own_features
from schemas.errors import UsageError
from schemas.feature_sets import FeatureSet
from schemas.vectors import HEAD as VECTOR_HEAD
from tables.compiled import inner

BODY = HEAD + "\n@feature()\ndef mine(state):\n"
BEYOND = {
    "a place of the row": "return state[0]",
    "an attribute": "return state.ctypes.data",
    "a method": "return state.sum()",
    "an alias": "row = state\n    return 1.0",
    "an alias in a call": "return abs(state)",
    "the state as a number": "return state + 1",
    "the state as a level": "return bid_size(state, state)",
    "the state compared": "return state > 1",
    "the state returned": "return state",
    "another state": "return mid_price(1.0)",
    "no state": "return mid_price()",
    "a walrus": "return (row := state)",
    "a store": "state[0] = 1\n    return 1.0",
    "a new meaning of state": "state = 1.0\n    return state",
    "a loop over the state": "for x in state:\n        pass\n    return 1.0",
    "a comprehension": "return max([1.0 for _ in range(3)])",
    "a generator": "return max(1.0 for _ in range(3))",
    "a list": "x = [1.0]\n    return 1.0",
    "a tuple": "x, y = 1.0, 2.0\n    return x",
    "a text": "return 'one'",
    "an f-string": "return f'{1}'",
    "none": "return None",
    "a bare return": "return",
    "open": "return open('/etc/passwd')",
    "eval": "return eval('1')",
    "exec": "exec('1')\n    return 1.0",
    "__import__": "return __import__('os').getpid()",
    "getattr": "return getattr(state, 'ctypes')",
    "globals": "return globals()['x']",
    "print": "print(1)\n    return 1.0",
    "an import": "import time\n    return time.time()",
    "a clock": "return time.time()",
    "chance": "return random.random()",
    "numpy": "return np.sqrt(2.0)",
    "a power": "return 2.0 ** 0.5",
    "a power of a variable": "x = 2\n    return 2.0 ** x",
    "libm": "return math.exp(1.0)",
    "libm's logarithm": "return math.log(2.0)",
    "int": "return int(math.nan)",
    "math.floor": "return math.floor(2.5)",
    "bits": "return 1 << 70",
    "a function as a value": "f = mid_price\n    return f(state)",
    "an inside of a function": "return mid_price.py_func(state)",
    "a lambda": "return (lambda: 1.0)()",
    "a nested function": "def f():\n        return 1.0\n    return f()",
    "a class": "class A:\n        pass\n    return 1.0",
    "global": "global x\n    x = 1\n    return 1.0",
    "recursion": "return mine(state)",
    "while": "while True:\n        pass\n    return 1.0",
    "a loop over a variable": "n = 3\n    for i in range(n):\n        pass\n    return 1.0",
    "a loop without bounds": "for i in range(10 ** 9):\n        pass\n    return 1.0",
    "loops in loops": "for i in range(200):\n        for j in range(200):\n            pass\n    return 1.0",
    "try": "try:\n        return 1.0\n    except ValueError:\n        return 2.0",
    "with": "with mid_price(state):\n        return 1.0",
    "yield": "yield 1.0",
    "assert": "assert False\n    return 1.0",
    "raise": "raise ValueError",
    "del": "x = 1.0\n    del x\n    return 1.0",
    "star arguments": "return max(*state)",
    "arguments by name": "return vwap(state, seconds=5)",
    "a window off the grid": "return vwap(state, 0.25)",
    "a window too long": "return vwap(state, 61)",
    "level 0": "return bid_size(state, 0)",
    "level 51": "return bid_size(state, 51)",
    "half a level": "return bid_size(state, 1.5)",
    "too many arguments": "return mid_price(state, 1)",
    "a variable without a value": "if mid_price(state) > 1:\n        x = 1.0\n    return x",
    "a loop that may end first": "for i in range(3):\n        if i:\n            break\n        x = 1.0\n    return x",
    "a way without a value": "if mid_price(state) > 1:\n        return 1.0",
    "a view function's name": "spread = 1.0\n    return spread",
    "a huge number": "return 1 << 2 if 99999999999999999999 else 1",
    "is": "return 1.0 is 2.0",
    "in": "return 1.0 in (1.0, 2.0)",
}


@pytest.mark.parametrize("what", BEYOND)
def test_nothing_beyond_the_view_is_compiled(tmp_path: Path, what: str) -> None:
    text = f"{BODY}    {BEYOND[what]}\n"
    with pytest.raises(UsageError) as refused:
        own_features((own_file(tmp_path, text),))
    said = str(refused.value)
    line = re.match(r"mine\.py, line (\d+): `(.*?)` ", said)
    assert line is not None, said
    assert text.splitlines()[int(line[1]) - 1].strip() == line[2]
    assert "Action: " in said


OUTSIDE = {
    "a call": "print('run')",
    "a module": "import os",
    "a module's parts": "from os import environ",
    "all of the view": "from agents.view import *",
    "another name": "from agents.view import mid_price as m",
    "numpy": "import numpy as np",
    "a sibling": "from . import other",
    "the inside": "from agents.view import at",
    "a list": "x = [1, 2]",
    "a call's value": "x = open('/etc/passwd')",
    "a loop": "for i in range(3):\n    pass",
    "a branch": "if True:\n    x = 1",
    "a class": "class A:\n    pass",
    "an async function": "async def f(state):\n    return 1.0",
    "a wrapping decorator": "def w(x):\n    return x\n@w\ndef f(state):\n    return 1.0",
    "a decorator's argument": "@feature(unit=print('run'))\ndef f(state):\n    return 1.0",
    "a bare decorator": "@feature\ndef f(state):\n    return 1.0",
    "a default": "def f(x=print('run')):\n    return 1.0",
    "a default number": "def f(state, x=1):\n    return 1.0",
    "star parameters": "def f(*x):\n    return 1.0",
    "a feature of a number": "@feature()\ndef f(x):\n    return x",
    "a feature without the state": "@feature()\ndef f():\n    return 1.0",
    "the state in second place": "def f(x, state):\n    return 1.0",
    "two functions of one name": "def f(x):\n    return x\ndef f(x):\n    return x",
    "a name of Python's own": "__name__ = 1",
    "calls that double": "\n".join(
        ["def f0(x):\n    return x", *(f"def f{i + 1}(x):\n    return f{i}(x) + f{i}(x)" for i in range(40))]
    ),
    "a name of the view": "def mid_price(state):\n    return 1.0",
    "a division by zero": "x = 1 / 0",
    "an assert": "assert print('run')",
    "a mutated module": "math.pi = 3",
    "not Python": "def f(:",
    "a break outside a loop": "def f(x):\n    break\n    return x",
}


@pytest.mark.parametrize("what", OUTSIDE)
def test_nothing_of_a_file_is_run(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"{HEAD}\n{OUTSIDE[what]}\n"
    with pytest.raises(UsageError, match=r"mine\.py, line \d+: `.*Action: "):
        own_features((own_file(tmp_path, text),))
    assert capsys.readouterr().out == ""


def refused(folder: Path, columns: tuple[str, ...], *texts: str) -> str:
    files = tuple(own_file(folder, text, f"file{i}.py") for i, text in enumerate(texts))
    with pytest.raises(UsageError) as error:
        Engine([FeatureSet("own", 1, 1000, columns, own=files)], 0)
    return str(error.value)


ONE = "from agents.view import feature\n@feature()\ndef {}(state):\n    return 1.0\n"


def test_names_that_cannot_be_are_told(tmp_path: Path) -> None:
    mine = ONE.format("mine")
    assert "file0.py, line 3: `def vwap_15s(state):`" in refused(tmp_path, ("vwap_15s",), ONE.format("vwap_15s"))
    assert "zscore_" in refused(tmp_path, ("mine",), ONE.format("zscore_mine_5"))
    assert "no name of the catalogue" in refused(tmp_path, ("bid_depth_3",), ONE.format("bid_depth_3"))
    assert "lower case" in refused(tmp_path, ("Mine",), ONE.format("Mine"))
    said = refused(tmp_path, ("mine",), mine, mine)
    assert "feature mine is there twice" in said
    assert "file0.py, line 3" in said
    assert "file1.py, line 3" in said
    said = refused(tmp_path, ("mind",), mine)
    assert "names mind, which is no feature: expected for example mine" in said
    assert "has no feature" in refused(tmp_path, ("mid_price",), "x = 1\n")


def test_what_the_compiler_refuses_is_one_sentence_with_the_line(tmp_path: Path) -> None:
    """Nothing that passes the check is known to be refused; so a function that has not passed it stands in here."""
    file = own_file(tmp_path, ONE.format("mine"))

    @inner
    def text_or_number(state: np.ndarray) -> object:
        return "text" if state[0] > 0 else 1.0

    feature = OwnFeature("mine", check(file.path, file.text), text_or_number, 0)
    with pytest.raises(UsageError) as error:
        _ = feature.address
    said = str(error.value)
    assert said.startswith(
        "mine.py, line 3: `def mine(state):` in feature mine cannot be compiled: expected numbers"
    ), said
    assert "Cannot unify" in said
    assert "\n" not in said


def test_errors_come_out_of_the_command_line_in_one_line(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "tape", tape(market(7, 300, 3)))
    (tmp_path / "mine.py").write_text(BODY + "    return state[0]\n", encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nversion: 1\nown_features: [mine.py]\nfeatures: [mine]\n", encoding="utf-8")
    done = onetape("replay", "--archive", archive, "--feature-set", path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "mine.py, line 6: `return state[0]` reaches into a value" in " ".join(done.stderr.split())


@pytest.mark.parametrize("name", ["instrument", *VECTOR_HEAD])
def test_a_name_of_every_vectors_head_is_refused(tmp_path: Path, name: str) -> None:
    """Two columns of one name would make a file that nobody can open."""
    with pytest.raises(UsageError, match="cannot be a column of its own"):
        own_features([own_file(tmp_path, BODY.replace("mine", name) + "    return mid_price(state)")])
