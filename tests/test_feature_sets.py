"""Feature sets: what a file may say, what every mistake in one is told, and that a column is the same in any set."""

from __future__ import annotations

import hashlib
import math
import re
from collections import deque
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tapes import market, tape

from agents.catalogue import names as catalogue_names
from agents.engine import Engine
from schemas.columns import Columns
from schemas.errors import UsageError
from schemas.feature_sets import DEFAULT, FeatureSet, Policy, load, load_all
from schemas.units import BASE_TICK_NS, NS_PER_MS, NS_PER_S
from schemas.vectors import Quality, Vectors

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "feature-sets.md"
HEAD = "name: mine\nversion: 3\n"
ONE = "features: [mid_price]\n"


def written(folder: Path, text: str) -> FeatureSet:
    """The feature set of a file with this text."""
    path = folder / "set.yaml"
    path.write_text(text)
    return load(str(path))


def test_names_are_written_out_in_order(tmp_path: Path) -> None:
    made = written(tmp_path, HEAD + """
cadence_ms: 500
windows: [100ms, 1500ms, 60s]
depths: [1, 50]
features:
  - vwap_{window}
  - mid_price
  - bid_depth_{depth}
  - zscore(volume_{window}, 60)
  - zscore( spread_bps , 0030 )
""")  # fmt: skip
    assert made.features == (
        "vwap_100ms", "vwap_1500ms", "vwap_60s", "mid_price", "bid_depth_1", "bid_depth_50", "zscore_volume_100ms_60",
        "zscore_volume_1500ms_60", "zscore_volume_60s_60", "zscore_spread_bps_30",
    )  # fmt: skip
    assert (made.id, made.topic, made.cadence_ms, made.policies) == ("mine@3", "features.mine.v3", 500, {})
    Engine([made], 0)


def test_policies_of_a_set_hold_for_its_columns_and_a_column_has_its_own(tmp_path: Path) -> None:
    made = written(tmp_path, HEAD + """
missing: forward_fill(5s)
outliers: clip(4, 600)
features:
  - mid_price
  - spread: {missing: skip_row}
  - microprice: {missing: null, outliers: none}
  - volume_1s: {outliers: "clip(2.5, 30)"}
""")  # fmt: skip
    assert made.policies == {
        "mid_price": Policy(5 * NS_PER_S, False, 4.0, 600),
        "spread": Policy(0, True, 4.0, 600),
        "volume_1s": Policy(5 * NS_PER_S, False, 2.5, 30),
    }


MALFORMED = [
    ("features: [", "the text"),
    ("features: " + "[" * 5000, "the text"),
    (HEAD + ONE + "version: 4\n", "'version' stands twice"),
    (HEAD + "cadence_ms: 2020-13-45\n" + ONE, "the text"),
    ("", "the top level"),
    ("- mid_price\n", "the top level"),
    (HEAD + ONE + "cadence: 100\n", "key 'cadence'"),
    ("version: 1\n" + ONE, "name"),
    ("name: Mine\nversion: 1\n" + ONE, "name"),
    ("name: ../mine\nversion: 1\n" + ONE, "name"),
    ("name: mine\n" + ONE, "version"),
    ("name: mine\nversion: true\n" + ONE, "version"),
    ("name: mine\nversion: 0\n" + ONE, "version"),
    ("name: micro\nversion: 2\n" + ONE, "name and version"),
    (HEAD + "cadence_ms: 150\n" + ONE, "cadence_ms"),
    (HEAD + "cadence_ms: 1s\n" + ONE, "cadence_ms"),
    (HEAD + "cadence_ms: 60100\n" + ONE, "cadence_ms"),
    (HEAD + "windows: 1s\n" + ONE, "windows"),
    (HEAD + "windows: [1s, 150ms]\n" + ONE, "windows"),
    (HEAD + "windows: [61s]\n" + ONE, "windows"),
    (HEAD + "windows: [1000ms]\n" + ONE, "windows"),
    (HEAD + "windows: [1]\n" + ONE, "windows"),
    (HEAD + "depths: [51]\n" + ONE, "depths"),
    (HEAD + "depths: ['5']\n" + ONE, "depths"),
    (HEAD, "features"),
    (HEAD + "features: mid_price\n", "features"),
    (HEAD + "features: []\n", "features"),
    (HEAD + "features: [7]\n", "features"),
    (HEAD + "features: [Mid]\n", "features"),
    (HEAD + "features: ['vwap_{widow}']\n", "features"),
    (HEAD + "features: ['vwap_{window}']\n", "windows"),
    (HEAD + "features: ['bid_depth_{depth}']\n", "depths"),
    (HEAD + "features: [mid_price, mid_price]\n", "feature mid_price"),
    (HEAD + "features: ['zscore(mid_price, 1)']\n", "feature zscore(mid_price, 1)"),
    (HEAD + "features: ['zscore(mid_price, 3601)']\n", "feature zscore(mid_price, 3601)"),
    (HEAD + "features: ['zscore(mid_price)']\n", "features"),
    (HEAD + "features: [mid_price: {mising: null}]\n", "features"),
    (HEAD + "features: [mid_price: skip_row]\n", "features"),
    (HEAD + "features: [mid_price: {missing: forward_fill}]\n", "feature mid_price: missing"),
    (HEAD + "features: [mid_price: {missing: forward_fill(2h)}]\n", "feature mid_price: missing"),
    (HEAD + "features: [mid_price: {outliers: clip(4)}]\n", "feature mid_price: outliers"),
    (HEAD + "features: [mid_price: {outliers: 'clip(0, 60)'}]\n", "feature mid_price: outliers"),
    (HEAD + "features: [mid_price: {outliers: 'clip(4, 1)'}]\n", "feature mid_price: outliers"),
    (HEAD + "missing: 7\n" + ONE, "missing"),
    (HEAD + "outliers: winsorise\n" + ONE, "outliers"),
    (HEAD + "own_features: mine.py\n" + ONE, "own_features"),
    (HEAD + "own_features: [absent.py]\n" + ONE, "own_features"),
    (HEAD + "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{x}: &{x} [{','.join([f'*{y}'] * 9)}]\n" for x, y in zip("bcdefghij", "abcdefghi", strict=True)
    ) + "windows: *j\n" + ONE, "key 'a'"),
    (HEAD + f"windows: {[f'{w}00ms' for w in range(1, 10)]}\ndepths: {list(range(1, 51))}\nfeatures: "
     "['a_{window}_{depth}', 'b_{window}_{depth}', 'c_{window}_{depth}']\n", "feature c_"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key"), MALFORMED, ids=[f"{i}-{key}" for i, (_, key) in enumerate(MALFORMED)])
def test_a_malformed_file_is_named_with_its_key(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        written(tmp_path, text)
    error = caught.value
    assert f"feature set file {tmp_path / 'set.yaml'} is wrong" in error.fact
    assert key in error.fact + error.was
    assert error.expected
    assert error.was
    assert len(str(error)) < 800
    assert error.action == "correct the file"


@given(st.text(alphabet="nameversion:futs[]{}&*-,'\"\n 123", max_size=60) | st.binary(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_is_a_crash(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "set.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UsageError):
        load(str(path))


def test_sets_that_are_not_there_or_cannot_run_together_are_refused(tmp_path: Path) -> None:
    for spec, words in [
        ("micro@9", "micro@1 or micro@2"), (str(tmp_path / "absent.yaml"), "cannot be read"),
        (" , ", "at least one"), ("micro@2,micro@2", "each id once"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=rf"{words}.*Action"):
            load_all(spec)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        load(str(tmp_path / "folder.yaml"))


def test_the_order_in_which_sets_are_listed_says_nothing(tmp_path: Path) -> None:
    mine = written(tmp_path, HEAD + ONE)
    listed = [load_all(f"{tmp_path / 'set.yaml'}, {DEFAULT}"), load_all(f"{DEFAULT},{tmp_path / 'set.yaml'}")]
    assert listed == [[load(DEFAULT), mine]] * 2 or listed == [[mine, load(DEFAULT)]] * 2


@pytest.mark.parametrize(
    ("name", "near"),
    [("mid_prise", "mid_price"), ("vwap_150ms", "vwap_W"), ("vwap_61s", "vwap_W"), ("bid_depth_51", "bid_depth_N"),
     ("zscore_volumes_1s_60", "volume_W"), ("volume_1", "volume_W")],
)  # fmt: skip
def test_an_unknown_name_is_told_what_is_near(tmp_path: Path, name: str, near: str) -> None:
    with pytest.raises(UsageError, match=rf"mine@3 names .*which is no feature.*{near}.*Action: correct the name"):
        Engine([written(tmp_path, f"{HEAD}features: [{name}]\n")], 0)


def test_a_digest_is_of_the_whole_definition(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("a = 1\n")
    texts = [
        HEAD + ONE, HEAD + "cadence_ms: 100\n" + ONE, HEAD + "missing: skip_row\n" + ONE,
        HEAD + "features: [spread]\n", "name: mine\nversion: 4\n" + ONE, HEAD + ONE + "own_features: [own.py]\n",
    ]  # fmt: skip
    digests = [written(tmp_path, text).digest() for text in texts]
    own.write_text("a = 2\n")
    digests.append(written(tmp_path, texts[-1]).digest())
    assert len(set(digests)) == len(texts) + 1
    assert written(tmp_path, "version: 3\nname: mine\nmissing: null\ncadence_ms: 1000\n" + ONE).digest() == digests[0]


def test_a_definition_survives_its_archive(tmp_path: Path) -> None:
    made = written(tmp_path, HEAD + "missing: forward_fill(1s)\nfeatures: [mid_price, spread: {missing: skip_row}]\n")
    assert FeatureSet.of(made.id, made.json()) == made
    assert load(DEFAULT).json()["digest"] == load(DEFAULT).digest()


def test_a_published_version_never_changes() -> None:
    """The hashes of the columns, in order; a change needs a new version."""
    hashes = {
        set_id: hashlib.sha256(" ".join(load(set_id).features).encode()).hexdigest()[:16]
        for set_id in ("micro@1", "micro@2")
    }
    assert hashes == {"micro@1": "3d7052b4bf99d1dd", "micro@2": "d2403a835887b21f"}
    assert [load(set_id).cadence_ms for set_id in hashes] == [1000, 1000]


WINDOWS = ("100ms", "300ms", "1s", "1500ms", "3s")
UNIVERSE = tuple(
    dict.fromkeys(
        name[:-1] + argument
        if name.endswith(("_W", "_N")) else name
        for name in catalogue_names()
        for argument in (WINDOWS if name.endswith("_W") else ("2", "4", "10", "50"))
    )
)  # fmt: skip
SCORES = ("zscore_spread_bps_5", "zscore_volume_300ms_9", "zscore_mid_price_30", "zscore_bid_depth_4_12")
TAPE = tape(market(71, 1500, 9), partitions=1)[0]


def emitted(feature_sets: list[FeatureSet], columns: Columns = TAPE) -> list[Vectors]:
    """Vectors of a tape."""
    return Engine(feature_sets, 0).apply(columns)


WHOLE = emitted([FeatureSet("whole", 1, 100, UNIVERSE + SCORES)])[0]


@st.composite
def sets(draw: st.DrawFn) -> list[FeatureSet]:
    """One to three sets of any columns in any order; z-scores only where they see every value the whole set's see."""
    made = []
    for version in range(1, draw(st.integers(1, 3)) + 1):
        cadence_ms = draw(st.sampled_from([100, 200, 700, 1000, 3000]))
        names = UNIVERSE + SCORES if cadence_ms == 100 else UNIVERSE
        columns = draw(st.lists(st.sampled_from(names), min_size=1, max_size=20, unique=True))
        made.append(FeatureSet("drawn", version, cadence_ms, tuple(columns)))
    return made


@settings(max_examples=60, deadline=None)
@given(sets())
def test_a_column_is_the_same_in_every_set(drawn: list[FeatureSet]) -> None:
    for feature_set, vectors in zip(drawn, emitted(drawn), strict=True):
        rows = np.flatnonzero(WHOLE.time % (feature_set.cadence_ms * NS_PER_MS) == 0)
        whole = WHOLE.select(rows)
        places = [WHOLE.feature_set.features.index(name) for name in feature_set.features]
        assert vectors.instruments() == whole.instruments()
        assert np.array_equal(vectors.time, whole.time)
        assert np.array_equal(vectors.as_of_offset, whole.as_of_offset)
        assert np.array_equal(vectors.bits(), whole.bits()[:, places])
        assert (vectors.quality & ~whole.quality == 0).all()


def expected(times: list[int], raw: list[float], policy: Policy) -> tuple[list[float], list[bool]]:
    """One column of one instrument after its policies, and where it was clipped: raw, clip, fill."""
    values, clipped = [], []
    seen: deque[float] = deque(maxlen=policy.clip_count or 1)
    last, last_time = math.nan, -1
    for time, value in zip(times, raw, strict=True):
        bounded = value
        if policy.clip_count and not math.isnan(value):
            if len(seen) == policy.clip_count:
                mean = fmean(seen)
                reach = policy.clip_sigmas * math.sqrt(sum((x - mean) ** 2 for x in seen) / (len(seen) - 1))
                bounded = min(max(value, mean - reach), mean + reach)
            seen.append(value)
        clipped.append(not math.isnan(value) and bounded != value)
        if not math.isnan(bounded):
            last, last_time = bounded, time
        elif policy.fill_ns and last_time >= 0 and time - last_time <= policy.fill_ns:
            bounded = last
        values.append(bounded)
    return values, clipped


POLICIES = [
    Policy(300 * NS_PER_MS),
    Policy(0, False, 1.5, 5),
    Policy(BASE_TICK_NS, False, 0.5, 9),
    Policy(skips_row=True),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_in_their_order(policy: Policy) -> None:
    changes = sum(changed(name, policy) for name in ("volume_300ms", "vwap_100ms", "average_trade_size_100ms"))
    assert changes > 20


def changed(name: str, policy: Policy) -> int:
    """Compare a column under a policy with what its plain values give; returns how many the policy changed."""
    plain, ruled = emitted([
        FeatureSet("plain", 1, 100, ("spread", name)), FeatureSet("ruled", 1, 100, ("spread", name), {name: policy})
    ])  # fmt: skip
    found = {at: row for row, at in enumerate(zip(ruled.instruments(), ruled.time.tolist(), strict=True))}
    skipped = changes = 0
    for instrument in plain.keys:
        rows = np.flatnonzero([each == instrument for each in plain.instruments()])
        times = plain.time[rows].tolist()
        values, clipped = expected(times, plain.values[rows, 1].tolist(), policy)
        for row, time, value, is_clipped in zip(rows.tolist(), times, values, clipped, strict=True):
            if policy.skips_row and math.isnan(value):
                assert (instrument, time) not in found
                skipped += 1
                continue
            at = found[instrument, time]
            got = float(ruled.values[at, 1])
            assert got == pytest.approx(value, rel=1e-12, nan_ok=True)
            assert bool(ruled.quality[at] & Quality.OUTLIER_CLIPPED) == is_clipped
            assert ruled.quality[at] & ~Quality.OUTLIER_CLIPPED == plain.quality[row]
            changes += got != float(plain.values[row, 1]) and not math.isnan(got)
    assert len(ruled) == len(plain) - skipped
    return changes + skipped


def test_the_guide_s_example_runs(tmp_path: Path) -> None:
    made = written(tmp_path, re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[0])
    assert made.features[:5] == ("mid_price", "spread_bps", "log_return_500ms", "log_return_15s", "volume_500ms")
    assert made.policies["mid_price"] == Policy(skips_row=True)
    assert made.policies["volume_15s"] == Policy(0, False, 4.0, 600)
    vectors = emitted([made])[0]
    assert len(vectors) > 200
    assert not np.isnan(vectors.values[:, 0]).any()
