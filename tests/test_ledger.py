"""The ledger counts each thing that must not happen, and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from ledger import NONE, Identity, Ledger, Place

SET = "micro@1"
EXPECTED: dict[Identity, bytes] = {(SET, "V:A", 1): b"a1", (SET, "V:B", 1): b"b1", (SET, "V:A", 2): b"a2"}
WHOLE = list(EXPECTED.items())
PLACES: list[Place] = [("tape", 0, offset) for offset in range(4)]
LETTERS = {PLACES[2]: b"refused"}


def changed(ledger: Ledger) -> dict[str, int]:
    """Counts that are not zero."""
    return {name: value for name, value in asdict(ledger).items() if value}


@pytest.mark.parametrize(
    ("wire", "counts"),
    [
        (WHOLE, {}),
        ([*WHOLE, WHOLE[0]], {"dup_wire": 1}),
        ([*WHOLE, (WHOLE[0][0], b"other")], {"dup_wire": 1, "conflicting": 1}),
        (WHOLE[:-1], {"lost": 1}),
        ([*WHOLE[:-1], (WHOLE[-1][0], b"other")], {"wrong": 1}),
        ([*WHOLE, ((SET, "V:A", 3), b"a3")], {"wrong": 1}),
        ([WHOLE[2], WHOLE[0], WHOLE[1]], {"out_of_order": 1}),
        ([], {"lost": 3}),
    ],
)
def test_vectors(wire: list[tuple[Identity, bytes]], counts: dict[str, int]) -> None:
    ledger = Ledger()
    ledger.count_vectors(wire, EXPECTED)
    assert changed(ledger) == counts


@pytest.mark.parametrize(
    ("wire", "counts"),
    [
        ([(PLACES[2], b"refused")], {"refused": 1}),
        ([(PLACES[2], b"refused"), (PLACES[2], b"refused")], {"refused": 1, "dup_wire": 1}),
        ([(PLACES[2], b"refused"), (PLACES[2], b"other")], {"refused": 1, "dup_wire": 1, "conflicting": 1}),
        ([], {"lost": 1}),
        ([(PLACES[2], b"refused"), (PLACES[1], b"?")], {"refused": 2, "wrong": 1}),
    ],
)
def test_letters(wire: list[tuple[Place, bytes]], counts: dict[str, int]) -> None:
    ledger = Ledger()
    ledger.count_letters(PLACES, wire, LETTERS)
    assert changed(ledger) == {"received": 4, "accepted": 3, **counts}
    assert ledger.ok == (counts in ({"refused": 1}, {"refused": 1, "dup_wire": 1}))


def test_states_and_what_can_be_looked_up() -> None:
    ledger = Ledger()
    ledger.count_states({"a": b"1", "b": b"2"}, {"a": b"1", "b": b"3", "c": b"4"})
    assert changed(ledger) == {"lost": 1, "wrong": 1}
    ledger = Ledger()
    ledger.count_latest({"a": b"1", "b": b"0"}, {"a": b"1", "b": b"2", "c": b"3"})
    assert changed(ledger) == {"unseen": 2}


@pytest.mark.parametrize("name", [*NONE, "received"])
def test_any_one_of_them_fails_the_check(name: str) -> None:
    clean = Ledger(received=3, accepted=2, refused=1, dup_wire=9, kills=30, seed=7)
    clean.check()
    assert json.loads(clean.line())["bound"] == 0.1
    broken = replace(clean, **{name: getattr(clean, name) + 1})
    with pytest.raises(AssertionError, match=f'"{name}": '):
        broken.check()
    assert json.loads(broken.line())["bound"] is None


def test_runs_add_up() -> None:
    both = Ledger(kills=2, lost=1, recovery_ms_max=5.0, seed=3) + Ledger(kills=3, recovery_ms_max=7.0, seed=4)
    assert changed(both) == {"kills": 5, "lost": 1, "recovery_ms_max": 7.0, "seed": 3}
