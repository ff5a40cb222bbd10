"""Which rows a split keeps apart: equal to the definition by intervals, and none of the errors others have made."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from replay.splits.fold import Fold, Range, Role, check_filled, count, reaches, roles
from replay.splits.folds import backtest_paths, folds
from replay.splits.spec import SplitSpec, parse
from schemas.columns import Int64
from schemas.errors import UsageError

TIMES = st.lists(st.integers(0, 60), min_size=1, max_size=50)
KINDS = st.sampled_from(
    [
        "time:train=0.6,validation=0.2,test=0.2", "time:train=1/2,test=1/2", "time:train=0.5,validation=0.5",
        "walk_forward:folds=3", "walk_forward:folds=2,window=expanding,validation=0.2", "walk_forward:train=9s,test=5s",
        "walk_forward:train=9s,validation=4s,test=7s,window=expanding", "walk_forward:train=0.5,folds=4",
        "k_fold:folds=2", "k_fold:folds=5", "combinatorial:folds=5,test_folds=2", "combinatorial:folds=4,test_folds=3",
        "random:train=0.6,validation=0.2,test=0.2,blocks=10,seed=3", "random:train=0.5,test=0.5,blocks=7",
    ]
)  # fmt: skip
DURATIONS = st.sampled_from([0, 0, 1, 3, 10])
S = 1_000_000_000


def numbers(values: list[int]) -> Int64:
    return np.array(values, np.int64)


def judged(
    spec: SplitSpec, prediction: Int64, evaluation: Int64, look_back: int | Int64 = 0
) -> list[tuple[Fold, NDArray[np.uint8]]]:
    """Each fold with the roles of all rows."""
    found = folds(spec, np.unique(prediction))
    return [
        (fold, roles(
            fold, reaches(fold, prediction, evaluation), prediction, evaluation, look_back_ns=look_back,
            purge_horizon_ns=spec.purge_horizon_ns, embargo_ns=spec.embargo_ns,
        ))
        for fold in found
    ]  # fmt: skip


def by_definition(
    fold: Fold, begin: list[int], end: list[int], look_back: list[int], purge: int, embargo: int
) -> list[Role]:
    """Every row against every other: closed intervals that meet are overlap."""

    def planned(time: int) -> Role:
        return next((each.role for each in fold.ranges if each.first_ns <= time < each.end_ns), Role.NONE)

    plan = [planned(time) for time in begin]
    kept_from = {Role.TRAIN: {Role.VALIDATION, Role.TEST}, Role.VALIDATION: {Role.TEST}}
    found = []
    for i, role in enumerate(plan):
        others = [j for j, other in enumerate(plan) if other in kept_from.get(role, ())]
        known = (begin[i] - look_back[i], end[i] + purge)
        if any(begin[j] <= known[1] and end[j] >= known[0] for j in others):
            found.append(Role.PURGED)
        elif any(begin[j] <= known[1] and end[j] + embargo >= known[0] for j in others):
            found.append(Role.EMBARGOED)
        else:
            found.append(role)
    return found


@settings(max_examples=400)
@given(begin=TIMES, kind=KINDS, purge=DURATIONS, embargo=DURATIONS, data=st.data())
def test_roles_are_those_of_the_definition(
    begin: list[int], kind: str, purge: int, embargo: int, data: st.DataObject
) -> None:
    lengths = data.draw(st.lists(st.sampled_from([0, 1, 2, 5, 30]), min_size=len(begin), max_size=len(begin)))
    look_back = data.draw(st.lists(st.sampled_from([0, 1, 7]), min_size=len(begin), max_size=len(begin)))
    declared = f"{kind},purge={purge}s,embargo={embargo}s".replace("=0s", "=0")
    prediction, evaluation = numbers(begin) * S, (numbers(begin) + numbers(lengths)) * S
    try:
        found = judged(parse(declared), prediction, evaluation, numbers(look_back) * S)
    except UsageError:
        return
    for fold, rows in found:
        oracle = by_definition(
            fold, prediction.tolist(), evaluation.tolist(), [back * S for back in look_back], purge * S, embargo * S
        )
        assert [Role(role) for role in rows.tolist()] == oracle


@given(begin=TIMES, kind=KINDS, data=st.data())
def test_order_and_parts_of_the_rows_make_no_difference(begin: list[int], kind: str, data: st.DataObject) -> None:
    spec = parse(f"{kind},purge=2s,embargo=3s")
    prediction = numbers(begin) * S
    evaluation = (
        prediction + numbers(data.draw(st.lists(st.integers(0, 9), min_size=len(begin), max_size=len(begin)))) * S
    )
    order = numbers(data.draw(st.permutations(range(len(begin)))))
    cut = data.draw(st.integers(0, len(begin)))
    try:
        found = judged(spec, prediction, evaluation, S)
    except UsageError:
        return
    parts = [order[:cut], order[cut:]]
    for fold, rows in found:
        reach = np.maximum(*(reaches(fold, prediction[part], evaluation[part]) for part in parts))
        for part in parts:
            streamed = roles(
                fold, reach, prediction[part], evaluation[part], look_back_ns=S,
                purge_horizon_ns=spec.purge_horizon_ns, embargo_ns=spec.embargo_ns,
            )  # fmt: skip
            assert streamed.tolist() == rows[part].tolist()


@given(n=st.integers(1, 80), kind=KINDS, step=st.integers(1, 5))
def test_ranges_follow_each_other_and_hold_every_time_once(n: int, kind: str, step: int) -> None:
    times, spec = np.arange(n, dtype=np.int64) * step * S, parse(kind)
    try:
        found = folds(spec, times)
    except UsageError:
        return
    assert [fold.name for fold in found] == [spec.kind] if not spec.has_folds else all(found)
    tested: Counter[int] = Counter()
    for fold in found:
        for before, after in zip(fold.ranges, fold.ranges[1:], strict=False):
            assert before.end_ns == after.first_ns
            assert before.role is not after.role
        for each in fold.ranges:
            inside = times[(times >= each.first_ns) & (times < each.end_ns)].tolist()
            assert inside[0] == each.first_ns
            tested.update(inside if each.role is Role.TEST else [])
        if spec.kind != "walk_forward":
            assert fold.ranges[0].first_ns == 0
            assert fold.ranges[-1].end_ns == times[-1] + 1
    if spec.kind in ("k_fold", "combinatorial"):
        chosen = spec.test_folds or 1
        assert len(found) == comb(spec.folds, chosen)
        assert tested == dict.fromkeys(times.tolist(), comb(spec.folds - 1, chosen - 1))
    if spec.kind == "walk_forward":
        assert set(tested.values()) == {1}, "no window is tested twice"


def test_shares_are_exact() -> None:
    times = np.arange(1000, dtype=np.int64)
    (fold,) = folds(parse("train=0.7,validation=0.15,test=0.15"), times)
    assert fold.ranges == (
        Range(Role.TRAIN, 0, 700), Range(Role.VALIDATION, 700, 850), Range(Role.TEST, 850, 1000)
    )  # fmt: skip
    (fold,) = folds(parse("train=1/3,test=2/3"), times)
    assert fold.ranges[1].first_ns == int(Fraction(1, 3) * 1000)


def test_walks_roll_or_expand() -> None:
    times = np.arange(60, dtype=np.int64)
    rolling = folds(parse("walk_forward:folds=5"), times)
    assert [[(each.first_ns, each.end_ns) for each in fold.ranges] for fold in rolling] == [
        [(10 * i, 10 * i + 10), (10 * i + 10, 10 * i + 20)] for i in range(5)
    ]
    expanding = folds(parse("walk_forward:folds=5,window=expanding"), times)
    assert [fold.ranges[0].first_ns for fold in expanding] == [0] * 5
    assert [fold.ranges[1:] for fold in expanding] == [fold.ranges[1:] for fold in rolling]


def test_a_walk_by_the_calendar_leaves_out_windows_without_a_time() -> None:
    hours = np.array([*range(10), *range(24, 34)], np.int64) * 3600 * S
    found = folds(parse("walk_forward:train=4h,test=2h"), hours)
    assert [fold.name for fold in found] == [f"fold_{i}" for i in (0, 1, 2, 11, 12, 13)]
    assert [fold.ranges[1].first_ns // (3600 * S) for fold in found] == [4, 6, 8, 26, 28, 30]


@given(groups=st.integers(2, 7), data=st.data())
def test_backtest_paths_take_every_tested_group_once(groups: int, data: st.DataObject) -> None:
    tested = data.draw(st.integers(1, groups - 1))
    paths = backtest_paths(groups, tested)
    assert len(paths) == comb(groups, tested) * tested // groups
    found = folds(SplitSpec("combinatorial", folds=groups, test_folds=tested), np.arange(groups, dtype=np.int64))
    used = {(group, fold) for path in paths for group, fold in enumerate(path)}
    assert len(used) == len(paths) * groups
    for group, number in used:
        assert any(r.first_ns <= group < r.end_ns for r in found[number].ranges if r.role is Role.TEST)


def kept(rows: NDArray[np.uint8], role: Role) -> list[int]:
    return np.flatnonzero(rows == role).tolist()


def test_labels_that_end_while_a_fold_is_tested_are_purged() -> None:
    """mlfinlab#295: ten daily labels of two days; those that ended during the test stayed in training."""
    day = np.arange(10, dtype=np.int64)
    for tested_last in (True, False):
        found = judged(parse("k_fold:folds=2"), day, day + 2)[tested_last]
        expected = [0, 1, 2] if tested_last else [7, 8, 9]
        assert kept(found[1], Role.TRAIN) == expected


@given(lengths=st.lists(st.integers(1, 12), min_size=20, max_size=20), number=st.integers(3, 6))
def test_a_test_begins_with_its_first_label_and_ends_with_its_longest(lengths: list[int], number: int) -> None:
    """openquant#65: the window was counted from the END of the first test label to the end of the last one."""
    begin = np.arange(20, dtype=np.int64)
    end = begin + numbers(lengths)
    for _, rows in judged(SplitSpec("k_fold", folds=number), begin, end):
        train, test = kept(rows, Role.TRAIN), kept(rows, Role.TEST)
        assert all(end[i] < begin[j] or begin[i] > end[j] for i in train for j in test)
        assert sorted([*train, *test, *kept(rows, Role.PURGED)]) == list(range(20)), "no row is lost"
        needless = [i for i in kept(rows, Role.PURGED) if all(end[i] < begin[j] or begin[i] > end[j] for j in test)]
        # A row between tested ones that touches neither cannot be: a fold's test is one run of rows.
        assert all(any(j > i for j in test) and any(j < i for j in test) for i in needless)
        assert not needless


@given(horizon=st.integers(1, 10), kind=KINDS)
def test_purging_is_never_nothing_where_labels_overlap(horizon: int, kind: str) -> None:
    """openquant#27: by default 0 of 80 rows were purged, and nobody was told."""
    times = np.arange(80, dtype=np.int64) * S
    for fold, rows in judged(parse(kind), times, times + horizon * S):
        for before, after in zip(fold.ranges, fold.ranges[1:], strict=False):
            if before.role is Role.TRAIN:
                edge = times[(times >= after.first_ns - horizon * S) & (times < after.first_ns)] // S
                assert (rows[edge[edge * S >= before.first_ns]] == Role.PURGED).all()
        assert count(rows)["purged"] >= min(horizon, 1)


def test_the_embargo_is_behind_every_test_and_not_only_the_last() -> None:
    """timeseriescv#8: the end of the LAST label of all tests stood in for the end of each."""
    times = np.arange(60, dtype=np.int64)
    found = judged(parse("combinatorial:folds=6,test_folds=2"), times * S, (times + 1) * S)
    spec = parse("combinatorial:folds=6,test_folds=2,embargo=3s")
    with_embargo = judged(spec, times * S, (times + 1) * S)
    number = [fold.ranges for fold, _ in found].index(
        tuple(
            Range(role, first * S, end * S if end < 60 else 59 * S + 1)
            for role, first, end in [
                (Role.TRAIN, 0, 10), (Role.TEST, 10, 20), (Role.TRAIN, 20, 40), (Role.TEST, 40, 50),
                (Role.TRAIN, 50, 60),
            ]
        )
    )  # fmt: skip
    train = kept(with_embargo[number][1], Role.TRAIN)
    assert train == [*range(9), *range(24, 39), *range(54, 60)], "what lies between two tests is trained on"
    assert kept(with_embargo[number][1], Role.EMBARGOED) == [21, 22, 23, 51, 52, 53]
    assert kept(found[number][1], Role.EMBARGOED) == []


@given(purge=st.integers(1, 8), kind=KINDS.filter(lambda kind: kind.startswith(("walk", "time"))))
def test_purging_takes_from_training_and_never_from_the_test(purge: int, kind: str) -> None:
    """skfolio#269: with windows given as durations the purge shortened the test, and left the training as it was."""
    times = np.arange(80, dtype=np.int64) * S
    plain = judged(parse(kind), times, times)
    purged = judged(parse(f"{kind},purge={purge}s"), times, times)
    for (fold, before), (_, after) in zip(plain, purged, strict=True):
        assert kept(before, Role.TEST) == kept(after, Role.TEST)
        if fold.ranges[0].role is Role.TRAIN:
            assert kept(after, Role.TRAIN) == kept(before, Role.TRAIN)[:-purge]


@given(per_instant=st.integers(1, 5), embargo=st.integers(0, 9))
def test_an_embargo_is_time_and_not_rows(per_instant: int, embargo: int) -> None:
    """skfolio counts observations: with five instruments an instant, an embargo of ten rows is two instants."""
    instants = np.arange(40, dtype=np.int64)
    times = np.repeat(instants, per_instant) * S
    spec = SplitSpec("k_fold", folds=4, embargo_ns=embargo * S)
    for (_, rows), (_, single) in zip(
        judged(spec, times, times + S), judged(spec, instants * S, instants * S + S), strict=True
    ):
        assert rows.tolist() == np.repeat(single, per_instant).tolist(), "instruments at one instant share their role"


def test_the_longest_label_of_any_instrument_counts() -> None:
    """Two instruments at the same instants; the long labels of one keep the other's rows out of training, too."""
    begin = numbers([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    end = begin + numbers([1, 1, 1, 1, 1, 3, 1, 1, 1, 1, 1, 1])
    rows = roles(
        fold := Fold("one", (Range(Role.TRAIN, 0, 2), Range(Role.TEST, 2, 3), Range(Role.TRAIN, 3, 6))),
        reaches(fold, begin, end), begin, end, look_back_ns=0, purge_horizon_ns=0, embargo_ns=0,
    )  # fmt: skip
    assert kept(rows, Role.PURGED) == [2, 3, 6, 7, 8, 9, 10, 11]


def test_tests_at_either_end_and_equal_instants() -> None:
    times = np.arange(10, dtype=np.int64)
    first, last = (rows for _, rows in judged(parse("k_fold:folds=2"), times, times + 1))
    assert kept(first, Role.PURGED) == [5], "the last label tested ends when row 5 begins: equal instants overlap"
    assert kept(last, Role.PURGED) == [4]


def test_validation_is_kept_from_the_test_as_well() -> None:
    times = np.arange(10, dtype=np.int64)
    ((_, rows),) = judged(parse("train=0.4,validation=0.3,test=0.3"), times, times + 2)
    assert [Role(role).name[0] for role in rows.tolist()] == list("TTPPVPPTTT")


def test_a_fold_that_purging_empties_is_refused() -> None:
    times = np.arange(10, dtype=np.int64)
    ((fold, rows),) = judged(parse("train=0.3,test=0.7"), times, times + 5)
    with pytest.raises(UsageError, match=r"no row for train.*3 rows purged.*Action"):
        check_filled(fold, count(rows))
    ((fold, rows),) = judged(parse("train=0.3,test=0.7"), times, times)
    check_filled(fold, count(rows))
    with pytest.raises(ValueError, match="below 0"):
        roles(fold, numbers([0, 0]), times, times, look_back_ns=-1, purge_horizon_ns=0, embargo_ns=0)


def test_far_times_and_long_durations_do_not_wrap() -> None:
    far = np.iinfo(np.int64).max - 5
    begin, longest = numbers([-(1 << 62), 0, far - 1, far]), 1 << 61
    fold = Fold("one", (Range(Role.TRAIN, -(1 << 62), 0), Range(Role.TEST, 0, far), Range(Role.TRAIN, far, far + 1)))
    rows = roles(
        fold, reaches(fold, begin, begin), begin, begin, look_back_ns=0, purge_horizon_ns=0, embargo_ns=longest
    )
    assert rows.tolist() == [Role.TRAIN, Role.TEST, Role.TEST, Role.EMBARGOED]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "kind"), ("kfold:folds=3", "did you mean k_fold"), ("k_fold:fold=3", "did you mean folds"),
        ("k_fold:folds=1", "2 to"), ("k_fold:folds=x", "whole number"), ("k_fold:folds=3,folds=4", "each once"),
        ("train=0.6,test=0.6", "add up to 1"), ("test=1", "positive"), ("train=1", "positive"), ("train=a", "positive"),
        ("train=0.5,test=0.5,embargo=5", "duration"), ("walk_forward:window=sliding", "window="),
        ("walk_forward:train=1d", "durations of train and test"), ("walk_forward:train=1d,test=0.2", "durations"),
        ("walk_forward:train=0.9,validation=0.1", "leave something"), ("walk_forward:test=0.1", "the rest is tested"),
        ("walk_forward:train=1d,test=1h,folds=3", "no number of folds"), ("walk_forward:folds=0", "1 to"),
        ("combinatorial:folds=4,test_folds=4", "1 to 3"), ("combinatorial:folds=40,test_folds=20", "at most"),
        ("random:blocks=1", "blocks"), ("train=1/0,test=1", "positive"),
    ],
)  # fmt: skip
def test_what_declares_no_split_is_refused(text: str, word: str) -> None:
    with pytest.raises(UsageError, match=rf"{word}.*|.*{word}"):
        parse(text)


@given(kind=KINDS, purge=st.integers(0, 99), embargo=st.integers(0, 99))
def test_declarations_survive_json(kind: str, purge: int, embargo: int) -> None:
    spec = parse(f"{kind},purge={purge}ms,embargo={embargo}h".replace("=0ms", "=0").replace("=0h", "=0"))
    assert SplitSpec.of(spec.json()) == spec
    assert spec.is_for_testing_only == ("for_testing_only" in spec.json()) == kind.startswith("random")
    for name in spec.json():
        for value in (None, [], -1, "x"):
            with pytest.raises((KeyError, TypeError, ValueError)):
                SplitSpec.of(spec.json() | {name: value})


def test_too_few_times_are_refused() -> None:
    none: Int64 = np.empty(0, np.int64)
    with pytest.raises(UsageError, match="no row has a label"):
        folds(parse("k_fold:folds=5"), none)
    for text in ("k_fold:folds=5", "time:", "walk_forward:folds=4", "walk_forward:train=1h,test=1h", "random:"):
        with pytest.raises(UsageError, match=r"too short for this.*3 distinct times"):
            folds(parse(text), np.arange(3, dtype=np.int64))
    with pytest.raises(ValueError, match="ascending"):
        folds(parse("k_fold:folds=2"), numbers([1, 1]))


def test_a_random_split_keeps_blocks_and_says_what_it_is_for() -> None:
    times = np.arange(100, dtype=np.int64)
    one, same, other = (folds(parse(f"random:blocks=10,seed={seed}"), times)[0] for seed in (1, 1, 2))
    assert one == same != other
    assert all(each.first_ns % 10 == 0 for each in one.ranges)
    assert sum(each.end_ns - each.first_ns for each in one.ranges if each.role is Role.TRAIN) == 70
