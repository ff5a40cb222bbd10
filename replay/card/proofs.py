"""What was proven of a dataset, as a card tells it.

Input: a manifest: `leakcheck`, `parity`, `lookahead`, `shift`, `assembly`, each of them if it is there.
Output: fragments of HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from replay.card.figures import duration
from replay.card.markup import Html, bar, code, facts, paragraph, share, side_by_side, table, tile

WORST = 10
_DIFFERENT = ("mismatch", "missing", "extra", "conflicting")


def tiles(manifest: Mapping[str, Any]) -> Iterator[str]:
    """The three proofs in a few words each."""
    leaks, parity = manifest.get("leakcheck"), manifest.get("parity")
    if leaks:
        leaking, blind = len(leaks["leaking"]), not leaks.get("control", {}).get("caught", True)
        checked = f"{leaks['rows_checked']:,} rows at {leaks['cuts']:,} cuts"
        value = f"{leaking} leaking" if leaking else "blind" if blind else "no leak"
        yield tile("Leak check", value, checked, "bad" if leaking or blind else "good")
    if parity:
        wrong = sum(int(parity.get(name) or 0) for name in _DIFFERENT)
        value = f"{wrong:,} differ" if wrong else "equal"
        yield tile("Live = replayed", value, f"{parity['compared']:,} vectors compared", "bad" if wrong else "good")
    else:
        yield tile("Live = replayed", "not compared", "the archive holds no live vectors of this set", "none")
    changed = _changed(manifest)
    if changed:
        count = sum(aligned > 0 for _, _, aligned in changed)
        yield tile("Look-ahead avoided", f"{count:,} features", "would change, were the tape sorted by venue time")


def section(manifest: Mapping[str, Any]) -> str:
    """The findings one by one."""
    rows = _facts(manifest)
    beside = [each for each in (_look_ahead(manifest), _shift(manifest)) if each]
    return "".join([facts(rows) if rows else "", side_by_side(beside)])


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    leaks, parity, assembly = (manifest.get(name) or {} for name in ("leakcheck", "parity", "assembly"))
    rows: dict[str, Any] = {}
    if leaks:
        variants = ", ".join(f"{count:,} by {name}" for name, count in sorted(leaks.get("variants", {}).items()))
        rows["leak check"] = f"{leaks['rows_checked']:,} rows compared at {leaks['cuts']:,} cuts"
        rows["leak check"] += f" ({variants})" if variants else ""
        rows["leaking features"] = ", ".join(leaks["leaking"]) or "none"
    control = leaks.get("control")
    if control:
        caught = f"caught in {control['found']:,} of {control['windows']:,} windows"
        verdict = caught if control["caught"] else f"{caught}: THE CHECK IS BLIND"
        rows["control"] = Html(f"{code(control['feature'])}, made to look ahead on purpose: {verdict}")
    if parity:
        told = [f"{name} {parity[name]:,}" for name in ("compared", *_DIFFERENT, "pending") if name in parity]
        rows["parity"] = ", ".join(told)
    if assembly:
        broken = ", ".join(f"{rule}: {count:,}" for rule, count in sorted(assembly["broken"].items()))
        rows["rules of rows"] = broken or f"kept in all {assembly['rows']:,} rows"
    return rows


def _changed(manifest: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Features with the shares of rows that change, as the clocks were and with the clocks aligned; most first."""
    ahead = manifest.get("lookahead") or {}
    aligned = ahead.get("changed_aligned") or {}
    found = [(name, value, aligned.get(name, value)) for name, value in (ahead.get("changed") or {}).items()]
    return sorted(found, key=lambda each: (-each[2], -each[1], each[0]))


def _look_ahead(manifest: Mapping[str, Any]) -> str:
    changed = _changed(manifest)
    if not changed:
        return ""
    ahead = manifest["lookahead"]
    text = (
        f"Look-ahead: the share of {ahead['rows']:,} rows that would change if records counted at the venue's time "
        "instead of when they were received; and with the least delay taken for the difference of the two clocks. "
    )
    delays = ahead.get("delay_ns") or {}
    if delays.get("least") is not None:
        text += f"Records came {duration(delays['least'])} to {duration(delays['most'])} behind the venue's time. "
    lines = [(code(name), share(value), bar(aligned)) for name, value, aligned in changed[:WORST]]
    return paragraph(text) + table(["feature", "rows that change", "clocks aligned"], lines)


def _shift(manifest: Mapping[str, Any]) -> str:
    shift = manifest.get("shift") or {}
    if not shift:
        return ""
    about = paragraph(
        "Shift test: rank correlation of a feature with the label that it agrees most with, and of the feature one "
        "label reach earlier. One that has seen the label agrees with it fully, and loses that when it is shifted."
    )
    worst = sorted(shift.items(), key=lambda pair: (-abs(pair[1][0] or 0.0), pair[0]))
    lines = [(code(name), code(label), now, earlier) for name, (now, earlier, label) in worst[:WORST]]
    return about + table(["feature", "label", "at T", "shifted"], lines, {0: "text", 1: "text"})
