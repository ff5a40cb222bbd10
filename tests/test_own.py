"""A feature of one's own: the worked example of the documents, what it may not do, and how it is told."""

from __future__ import annotations

import inspect
import math
import re
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
from commandline import result
from own_files import HEAD, OWN_FEATURES, own_file, own_set
from streams import stream
from tapes import archive_of, market, tape

from agents import view
from agents.catalogue import FAMILIES, By, find
from agents.engine import Engine
from agents.own.native import own_features
from agents.view import VIEW, Takes
from replay.driver import replay
from replay.proof.leakcheck import leakcheck
from replay.reader import ArchiveReader
from schemas.columns import from_events
from schemas.feature_sets import FeatureSet, load
from schemas.limits import WINDOW_MAX_NS
from schemas.units import BASE_TICK_NS
from schemas.vectors import Quality, Vectors

DOCS = Path(__file__).resolve().parent.parent / "docs" / "own-features.md"
EVENTS = from_events(0, 0, stream(5, seconds=30.0))
LONG = from_events(0, 0, stream(6, seconds=90.0))


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
    """Every built-in column is a function of its name, with the same values, nulls and flags; one after the other."""
    ending = {By.NOTHING: "", By.WINDOW: "_3s", By.DEPTH: "_7"}
    columns = {name: name + ending[family.by] for name, family in FAMILIES.items()}
    assert set(columns) <= set(VIEW)
    calls = [f"{name}(state{argument_of(VIEW[name].takes[-1], column)})" for name, column in columns.items()]
    text = f"{HEAD}\n@feature()\ndef turn(state):\n    number = time_ns(state) // 100_000_000 % {len(calls)}\n"
    text += "".join(f"    if number == {i}:\n        return {call}\n" for i, call in enumerate(calls))
    text += "    return math.nan\n"
    for name, call in zip(columns, calls, strict=True):
        text += f"\n@feature()\ndef own_{name}(state):\n    return {call}\n"
    own = (own_file(tmp_path, text),)
    sets = [FeatureSet(name, 1, 100, (column,)) for name, column in columns.items()]
    *theirs, ours = Engine([*sets, FeatureSet("turn", 1, 100, ("turn",), own=own)], 0).apply(LONG)
    turn = ours.time // BASE_TICK_NS % len(calls)
    for number, vectors in enumerate(theirs):
        chosen = turn == number
        assert chosen.sum() > 20
        assert bits(ours.values[chosen]) == bits(vectors.values[chosen]), vectors.feature_set.features
        assert ours.quality[chosen].tolist() == vectors.quality[chosen].tolist(), vectors.feature_set.features
    features = own_features(own)
    for name, column in columns.items():
        found = find(column)
        assert found is not None
        assert features[f"own_{name}"].inputs == tuple(sorted(found.family.inputs))
        assert features[f"own_{name}"].look_back_ns == found.look_back_ns


def test_levels_add_up_to_depths(tmp_path: Path) -> None:
    """Prices and sizes of levels are those of the book; beyond what is there is null, and says so."""
    text = f"""
{HEAD}
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
{HEAD}
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


def test_a_helper_may_take_the_state_and_numbers(tmp_path: Path) -> None:
    """Annotations are for readers and type checkers: nothing looks at them."""
    text = f"""
'''Mine.'''
from __future__ import annotations
from agents.view import State
{HEAD}
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


# With everything else


def test_own_features_do_not_leak_and_restart(tmp_path: Path) -> None:
    """With policies and z-scores: no cut, restored state or batch split shows."""
    feature_set = load(str(own_set(tmp_path)))
    archive = ArchiveReader(archive_of(tmp_path / "tape", tape(market(9, 2000, 12))))
    whole = replay(archive, feature_set)
    assert (np.isfinite(whole.vectors.values).sum(axis=0) > 50).all()
    assert replay(archive, feature_set, batch_size=7).content_hash == whole.content_hash
    found = leakcheck(archive, feature_set, [0.2, 0.5, 0.9])
    assert found.ok, found.leaking


def test_an_edited_file_is_another_set(tmp_path: Path) -> None:
    """A set that runs keeps the text it was loaded with; stored memory of other text is refused."""
    before = load(str(own_set(tmp_path)))
    first = Engine([before], 0).apply(EVENTS)[0]
    own_file(tmp_path, OWN_FEATURES.replace("queue_imbalance(state, 5)", "queue_imbalance(state, 1)"))
    after = load(str(tmp_path / "mine.yaml"))
    assert before.digest() != after.digest()
    assert Engine([before], 0).plan.hash != Engine([after], 0).plan.hash
    assert bits(Engine([before], 0).apply(EVENTS)[0].values) == bits(first.values)
    assert bits(Engine([after], 0).apply(EVENTS)[0].values) != bits(first.values)


def test_a_file_that_is_gone_is_compiled_all_the_same(tmp_path: Path) -> None:
    feature_set = load(str(own_set(tmp_path)))
    (tmp_path / "mine.py").unlink()
    assert np.isfinite(Engine([feature_set], 0).apply(EVENTS)[0].values).any()


def test_the_users_module_is_never_imported(tmp_path: Path) -> None:
    vectors_of(tmp_path, OWN_FEATURES, "mine")
    assert "mine" not in sys.modules


def test_a_user_can_read_the_view() -> None:
    """Each function has a place to look at, and what marks a feature leaves it as it is."""
    assert inspect.getdoc(view.bid_price)

    @view.feature(unit="1")
    def plain(state: view.State) -> float:
        return 1.0

    assert plain(np.zeros(1, np.int64)) == 1.0
    assert dedent(plain.__name__) == "plain"
