"""A feature of one's own: the worked example of the documents, what it may not do, and how it is told."""

from __future__ import annotations

import inspect
import math
import re
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from commandline import onetape, result
from streams import stream
from tapes import archive_of, market, tape

from agents import view
from agents.catalogue import FAMILIES, By, find
from agents.engine import Engine
from agents.own.file import check
from agents.own.native import OwnFeature, own_features
from agents.view import VIEW, Takes
from replay.driver import replay
from replay.leakcheck import leakcheck
from replay.reader import ArchiveReader
from schemas.columns import from_events
from schemas.errors import UsageError
from schemas.feature_sets import FeatureSet, OwnFile, load
from schemas.limits import WINDOW_MAX_NS
from schemas.vectors import Quality, Vectors
from tables.compiled import inner

DOCS = Path(__file__).resolve().parent.parent / "docs" / "own-features.md"
EVENTS = from_events(0, 0, stream(5, seconds=30.0))
EVERYTHING = ", ".join(["feature", *VIEW])


def own_file(folder: Path, text: str, name: str = "mine.py") -> OwnFile:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return OwnFile(path, text)


def vectors_of(folder: Path, text: str, *columns: str, cadence_ms: int = 100) -> Vectors:
    """Vectors of a set with a file of one's own over a stream with gaps, odd books and silence."""
    own = (own_file(folder, text),)
    return Engine([FeatureSet("own", 1, cadence_ms, columns, own=own)], 0).apply(EVENTS)[0]


def bits(values: np.ndarray) -> list[int]:
    """Of each value; all nulls are one."""
    return np.where(np.isnan(values), np.nan, values).view(np.uint64).tolist()


# The worked example


def blocks(language: str) -> list[str]:
    """What the document shows in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_worked_example_gives_what_the_document_says(tmp_path: Path) -> None:
    """The document's own file, set and command, over a small archive, against plain numpy over built-in columns."""
    (source,), (definition,), (command, *_) = blocks("python"), blocks("yaml"), blocks("sh")
    (tmp_path / "pressure.py").write_text(source, encoding="utf-8")
    (tmp_path / "pressure.yaml").write_text(definition, encoding="utf-8")
    archive = archive_of(tmp_path / "tape", tape(market(7, 4000, 20)))
    words = command.split()
    assert words[:2] == ["onetape", "replay"]
    here = {"tape": archive, "vectors": tmp_path / "vectors", "pressure.yaml": tmp_path / "pressure.yaml"}
    told = result(*[here.get(word, word) for word in words[1:]])
    feature_set = load(str(tmp_path / "pressure.yaml"))
    vectors = replay(ArchiveReader(archive), feature_set).vectors
    assert told["vectors"] == len(vectors) > 40
    value = {name: vectors.values[:, i] for i, name in enumerate(feature_set.features)}
    depth = [np.zeros(len(vectors)), *(value[f"bid_depth_{n}"] - value[f"ask_depth_{n}"] for n in (1, 2, 3))]
    expected = np.zeros(len(vectors))
    for n in (1, 2, 3):
        expected += (depth[n] - depth[n - 1]) * 0.5 ** (n - 1)
    known = np.isfinite(expected)
    assert known.sum() > 40
    np.testing.assert_allclose(value["pressure"][known], expected[known], rtol=1e-9, atol=1e-12)
    assert np.isnan(value["pressure"][~known]).all()
    with np.errstate(invalid="ignore"):
        stretch = np.log(value["mid_price"] / value["vwap_15s"])
    np.testing.assert_allclose(value["stretch"], stretch, rtol=1e-9, atol=1e-15)
    assert np.isfinite(value["zscore_pressure_10"]).any()


# The view


def argument_of(taken: Takes, column: str) -> str:
    ending = column.rpartition("_")[2]
    return f", {ending.removesuffix('s')}" if taken in (Takes.SECONDS, Takes.LEVELS) else ""


def test_the_view_is_the_whole_catalogue_bit_for_bit(tmp_path: Path) -> None:
    """Every built-in column is a function of its name, with the same values, nulls and flags."""
    ending = {By.NOTHING: "", By.WINDOW: "_3s", By.DEPTH: "_7"}
    columns = {name: name + ending[family.by] for name, family in FAMILIES.items()}
    assert set(columns) <= set(VIEW)
    text = f"from agents.view import {EVERYTHING}\n"
    for name, column in columns.items():
        call = ", ".join(["state", *(argument_of(taken, column)[2:] for taken in VIEW[name].takes[1:])])
        text += f"\n@feature()\ndef own_{name}(state):\n    return {name}({call})\n"
    own = (own_file(tmp_path, text),)
    sets = [FeatureSet(name, 1, 100, (column,)) for name, column in columns.items()]
    mine = [FeatureSet(name, 2, 100, (f"own_{name}",), own=own) for name in columns]
    made = Engine([*sets, *mine], 0).apply(EVENTS)
    for theirs, ours in zip(made[: len(sets)], made[len(sets) :], strict=True):
        assert len(theirs) > 200
        assert bits(ours.values) == bits(theirs.values), theirs.feature_set.features
        assert ours.quality.tolist() == theirs.quality.tolist(), theirs.feature_set.features
    features = own_features(own)
    for name, column in columns.items():
        found = find(column)
        assert found is not None
        assert features[f"own_{name}"].inputs == tuple(sorted(found.family.inputs))
        assert features[f"own_{name}"].look_back_ns == found.look_back_ns


def test_levels_add_up_to_depths(tmp_path: Path) -> None:
    """Prices and sizes of levels are those of the book; beyond what is there is null, and says so."""
    text = f"""
from agents.view import {EVERYTHING}
import math

@feature()
def depth(state):
    total = 0.0
    for level in range(1, 51):
        if level <= bid_level_count(state):
            total += bid_size(state, level)
    return total

@feature()
def middle(state):
    return (bid_price(state, 1) + ask_price(state, 1)) / 2

@feature()
def ordered(state):
    ordered_levels = 0
    for level in range(1, 50):
        is_bid = bid_price(state, level) > bid_price(state, level + 1) and bid_size(state, level) > 0
        is_ask = ask_price(state, level) < ask_price(state, level + 1) and ask_size(state, level) > 0
        if is_bid and is_ask:
            ordered_levels += 1
    return ordered_levels

@feature()
def far(state):
    return ask_price(state, 50)
"""
    names = ("depth", "bid_depth_50", "middle", "mid_price", "ordered", "bid_level_count", "ask_level_count", "far")
    vectors = vectors_of(tmp_path, text, *names)
    value = dict(zip(names, vectors.values.T, strict=True))
    whole = (vectors.quality & (Quality.BOOK_GAP | Quality.BOOK_CROSSED)) == 0
    whole &= np.minimum(value["bid_level_count"], value["ask_level_count"]) > 0
    assert whole.sum() > 100
    np.testing.assert_allclose(value["depth"][whole], value["bid_depth_50"][whole], rtol=1e-12)
    np.testing.assert_allclose(value["middle"][whole], value["mid_price"][whole], rtol=1e-12)
    counts = np.minimum(np.minimum(value["bid_level_count"], value["ask_level_count"]), 50) - 1
    assert (value["ordered"][whole] == counts[whole]).all()
    short = whole & (value["ask_level_count"] < 50)
    assert short.any()
    assert np.isnan(value["far"][short]).all()
    assert (vectors.quality[short] & Quality.BOOK_ONE_SIDED != 0).all()


def test_numbers_that_are_none_are_null_and_say_why(tmp_path: Path) -> None:
    text = f"""
from agents.view import {EVERYTHING}
import math

@feature()
def nothing(state):
    return 0.0 / (mid_price(state) * 0.0)

@feature()
def no_window(state):
    return volume(state, 0.05 + 0.2 * float(bid_level_count(state) >= 0.0))

@feature()
def no_level(state):
    return bid_size(state, bid_level_count(state) + 0.5)

@feature()
def mended(state):
    value = vwap(state, 0.1)
    if math.isnan(value):
        value = -1
    return value

@feature()
def whole(state):
    return floor(-2.5) * 100 + ceil(2.1) * 10 + sqrt(4.0) + log(1.0)
"""
    vectors = vectors_of(tmp_path, text, "nothing", "no_window", "no_level", "mended", "whole", "bid_level_count")
    value = dict(zip(vectors.feature_set.features, vectors.values.T, strict=True))
    for name in ("nothing", "no_window", "no_level"):
        assert np.isnan(value[name]).all(), name
    booked = np.isfinite(value["bid_level_count"])
    assert booked.any()
    assert (vectors.quality[booked] & Quality.COMPUTATION_ERROR != 0).all()
    assert np.isfinite(value["mended"]).all()
    assert (value["mended"] == -1).any()
    assert (value["whole"] == -268).all()


def test_logarithms_and_roots_are_right_everywhere() -> None:
    from numba import njit

    function = VIEW["log"].function

    @njit
    def log(x: float) -> float:
        return function(x)

    for x in (5e-324, 1e-300, 0.1, 0.999999, 1.0, 1.0000001, math.e, 7.0, 1e10, 1.7976931348623157e308):
        assert math.isclose(log(x), math.log(x), rel_tol=4e-16), x
    assert all(math.isnan(log(x)) for x in (0.0, -1.0, math.inf, math.nan))


# What a file may not do


HEAD = f"from agents.view import {EVERYTHING}\nimport math\n"
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


def test_a_helper_may_take_the_state_and_numbers(tmp_path: Path) -> None:
    """Annotations are for readers and type checkers: nothing looks at them."""
    text = f"""
'''Mine.'''
from __future__ import annotations
from agents.view import State, {EVERYTHING}
SHARE = 1 / 4
WINDOW: float = 2 * 1.5

def flow(state: State, seconds: float) -> float:
    return buy_volume(state, seconds) - sell_volume(state, seconds)

def scaled(x: print("run"), by):
    if x > 0:
        return x * by
    else:
        return -x * by

@feature(unit="base", source="me")
def twice(state: State) -> float:
    '''Flow,
    twice.'''
    x: float = flow(state, WINDOW)
    return scaled(x, SHARE) + flow(state, 1)
"""
    vectors = vectors_of(tmp_path, text, "twice", "signed_volume_3s", "signed_volume_1s")
    twice, three, one = vectors.values.T
    known = np.isfinite(twice)
    assert known.sum() > 100
    np.testing.assert_allclose(twice[known], (np.abs(three) * 0.25 + one)[known], rtol=1e-12)
    about = own_features((own_file(tmp_path, text),))["twice"]
    assert (about.unit, about.source, about.formula) == ("base", "me", "Flow, twice")
    # A window that is a parameter can be any.
    assert (about.inputs, about.look_back_ns) == (("trades",), WINDOW_MAX_NS)


# How it is told


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


# With everything else


MINE = (
    HEAD
    + """
@feature()
def mine(state):
    return spread(state) * queue_imbalance(state, 5) + order_flow_imbalance(state, 1)

@feature()
def other(state):
    return mine(state) / volume(state, 1)
"""
)
SET = """
name: own
version: 3
cadence_ms: 200
own_features: [mine.py]
features:
  - mine: {missing: forward_fill(2s)}
  - other: {outliers: "clip(2, 20)"}
  - zscore(mine, 10)
  - mid_price
"""


def set_of(folder: Path) -> FeatureSet:
    own_file(folder, MINE)
    (folder / "mine.yaml").write_text(SET, encoding="utf-8")
    return load(str(folder / "mine.yaml"))


def test_own_features_do_not_leak_and_restart(tmp_path: Path) -> None:
    """With policies and z-scores: no cut, restored state or batch split shows."""
    feature_set = set_of(tmp_path)
    archive = ArchiveReader(archive_of(tmp_path / "tape", tape(market(9, 2000, 12))))
    whole = replay(archive, feature_set)
    assert (np.isfinite(whole.vectors.values).sum(axis=0) > 50).all()
    assert replay(archive, feature_set, batch_size=7).content_hash == whole.content_hash
    found = leakcheck(archive, feature_set, [0.2, 0.5, 0.9], replayed=whole)
    assert found.ok, found.leaking


def test_an_edited_file_is_another_set(tmp_path: Path) -> None:
    """A set that runs keeps the text it was loaded with; stored memory of other text is refused."""
    before = set_of(tmp_path)
    first = Engine([before], 0).apply(EVENTS)[0]
    own_file(tmp_path, MINE.replace("queue_imbalance(state, 5)", "queue_imbalance(state, 1)"))
    after = load(str(tmp_path / "mine.yaml"))
    assert before.digest() != after.digest()
    assert Engine([before], 0).plan.hash != Engine([after], 0).plan.hash
    assert bits(Engine([before], 0).apply(EVENTS)[0].values) == bits(first.values)
    assert bits(Engine([after], 0).apply(EVENTS)[0].values) != bits(first.values)


def test_the_users_module_is_never_imported(tmp_path: Path) -> None:
    vectors_of(tmp_path, MINE, "mine")
    assert "mine" not in sys.modules


def test_a_user_can_read_the_view() -> None:
    """Each function has a place to look at, and what marks a feature leaves it as it is."""
    assert inspect.getdoc(view.bid_price)

    @view.feature(unit="1")
    def plain(state: view.State) -> float:
        return 1.0

    assert plain(np.zeros(1, np.int64)) == 1.0
    assert dedent(plain.__name__) == "plain"
