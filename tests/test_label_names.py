"""Labels by name: equal ones have one name, what is no label is refused, and no feature set can hold one."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import UsageError
from schemas.feature_sets import load
from schemas.labels import FAMILIES, is_label, parse, parse_all


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("forward_return_5s", "forward_return_5s"),
        (" forward_log_return_1m ", "forward_log_return_60s"),
        ("direction_5s(threshold=0.0010)", "direction_5s"),
        ("direction_5s( threshold = 0.002 )", "direction_5s(threshold=0.002)"),
        ("triple_barrier_60s(sigmas=2, upper=0.0020)", "triple_barrier_60s(upper=0.002, sigmas=2)"),
    ],
)
def test_equal_labels_have_one_name(text: str, name: str) -> None:
    assert parse(text).name == name
    assert parse(parse(text).name) == parse(text)


@pytest.mark.parametrize(
    "text", ["", "forward_return", "forward_retrun_5s", "forward_return_0s", "direction_5s(x=1)", "mid_price",
             "direction_5s(threshold=1, threshold=2)", "forward_return_5s(threshold=1)", "direction_5s(threshold=-1)"],
)  # fmt: skip
def test_what_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="declares no label"):
        parse(text)


def test_a_label_stands_once() -> None:
    with pytest.raises(UsageError, match="each once"):
        parse_all(["direction_5s", "direction_5000ms"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_feature_set_that_names_a_label_is_refused(tmp_path: Path, family: str) -> None:
    assert is_label(f"{family}_5s")
    for name in (f"{family}_5s", f"zscore({family}_5s, 20)"):
        path = tmp_path / "mine.yaml"
        path.write_text(f"name: mine\nversion: 1\nfeatures: [mid_price, '{name}']\n")
        with pytest.raises(UsageError, match="a label looks into the future"):
            load(str(path))
