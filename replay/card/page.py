"""The card: one HTML page that shows a dataset and what was proven of it, and needs nothing but a browser.

Input: a dataset's folder with its Parquet files, and its manifest.
Output: `card.html`: no script, no network; the same bytes for the same dataset.
State: what `replay.card.summary` keeps; no file is read whole.
Errors: SegmentTorn for files that are not what the manifest says; DependencyDown where the disk refuses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from agents.catalogue import find
from agents.documentation import MEANINGS
from replay.card import figures, markup, proofs
from replay.card.markup import Html, bar, code, number, paragraph, section, share, side_by_side, text, tile, time, wide
from replay.card.rows import Rows
from replay.card.style import STYLE
from replay.card.summary import Summary, summarize
from replay.drawing import style
from replay.publication import disk_errors
from schemas.durable import sync
from schemas.vectors import Quality

CARD = "card.html"
_LEFT_OUT = {
    "purged": "rows purged", "embargoed": "rows embargoed", "unlabelled": "rows without a label",
    "warmup_rows": "rows of the warm-up",
}  # fmt: skip
"""Rows that are in no file, or in no role, by what the manifest calls them."""


def write_card(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `card.html` into a dataset's folder."""
    content = render(folder, manifest).encode("utf-8", "replace")
    with disk_errors(folder):
        (folder / CARD).write_bytes(content)
        sync(folder / CARD)


def render(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The page."""
    rows = Rows(folder, manifest)
    summary = summarize(rows, tuple(manifest["features"]), tuple(manifest["labels"]))
    with style():
        body = "".join(_parts(rows, summary, manifest))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(str(manifest['id']))}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def _parts(rows: Rows, summary: Summary, manifest: Mapping[str, Any]) -> Iterator[str]:
    groups = rows.groups
    yield _head(summary, manifest)
    yield section("Proof", proofs.section(manifest))
    yield section("Splits", *_splits(rows, summary, manifest))
    drawn = [figures.label(summary, groups, name) for name in summary.labels]
    drawn += [figures.label_by_fold(summary, rows.folds, name) for name in summary.labels if rows.folds]
    yield section("Labels", _labels(summary, groups), side_by_side(drawn))
    about = "Each row of the picture is an instrument; the stronger its colour, the more rows there are."
    if rows.folds:
        about += f" Colours here and below are the roles in {rows.folds[-1]}."
    if len(summary.instruments) > figures.INSTRUMENTS_MAX:
        about += f" Of {len(summary.instruments):,} instruments, the {figures.INSTRUMENTS_MAX} with the most rows."
    yield section("Coverage over time", paragraph(about), wide(figures.coverage(summary, groups)))
    gone = figures.missing(summary, groups)
    yield section("Missing values", wide(gone) or paragraph("No feature has a row without a value."))
    yield section("Features", *_features(rows, summary))
    yield section("Quality flags", _quality(manifest))
    yield section("Where it is from", _origin(manifest))


def _head(summary: Summary, manifest: Mapping[str, Any]) -> str:
    rows, first, last = int(manifest["rows"]), int(summary.first[-1]), int(summary.last[-1])
    span = f"{time(first)} to {time(last)}" if rows else "no row"
    instruments = len(summary.instruments)
    named = ", ".join(summary.instruments) if instruments <= 8 else f"{instruments:,} instruments"
    parts = [f"<header><h1>{escape(str(manifest['id']))}</h1><p>{escape(named)}<br>{span}</p>"]
    if (manifest.get("recipe") or {}).get("split", {}).get("kind") == "random":
        parts.append(
            '<p class="notice"><b>For testing only.</b> Its split is random: what a model learns from one block it may '
            "meet again right beside it.</p>"
        )
    parts += ['<div class="tiles">', tile("Rows", f"{rows:,}", f"{instruments:,} instruments")]
    parts.append(tile("Features", f"{summary.features:,}", str(manifest["feature_set"])))
    more = f" and {len(summary.labels) - 1} more" if len(summary.labels) > 1 else ""
    parts.append(tile("Labels", f"{len(summary.labels):,}", f"{summary.labels[0]}{more}"))
    return "".join([*parts, *proofs.tiles(manifest), "</div></header>"])


def _splits(rows: Rows, summary: Summary, manifest: Mapping[str, Any]) -> Iterator[str]:
    recipe = manifest.get("recipe") or {}
    about: dict[str, Any] = {}
    if recipe.get("split"):
        told = {name: value for name, value in sorted(recipe["split"].items()) if name != "kind"}
        parts = [f"{name.removesuffix('_ns')} {_value(name, value)}" for name, value in told.items()]
        about["split"] = ", ".join([str(recipe["split"].get("kind", "")), *parts])
    about |= {title: manifest[name] for name, title in _LEFT_OUT.items() if name in manifest}
    yield markup.facts(about)
    if not rows.folds:
        spans = [
            (name, int(summary.moments.rows[place]), share(summary.moments.rows[place] / max(manifest["rows"], 1)),
             time(int(summary.first[place])), time(int(summary.last[place])))
            for place, name in enumerate(rows.groups) if summary.moments.rows[place]
        ]  # fmt: skip
        yield markup.table(["split", "rows", "share", "first T", "last T"], spans)
        return
    names = [
        name
        for name in ("train", "validation", "test", "purged", "embargoed")
        if any(fold[name] for fold in manifest["folds"])
    ]
    yield markup.table(
        ["fold", *names], [[fold["name"], *(fold[name] for name in names)] for fold in manifest["folds"]]
    )
    yield wide(figures.folds(summary, rows.folds))
    if len(rows.folds) > figures.FOLDS_MAX:
        yield paragraph(f"The first {figures.FOLDS_MAX} of {len(rows.folds):,} folds are drawn.")


def _value(name: str, value: Any) -> str:
    return figures.duration(value) if name.endswith("_ns") and isinstance(value, int) else str(value)


def _policies(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was done about missing values, outliers and scale, by column."""
    for name, policy in sorted((recipe.get("values") or {}).items()):
        told = ", ".join(f"{what} {how}" for what, how in sorted(policy.items()))
        yield f"values of {name}" if name != "*" else "values", told


def _labels(summary: Summary, groups: Sequence[str]) -> str:
    columns = ["label", "split", "rows with a value", "mean", "standard deviation", "lowest", "highest"]
    found, rows = summary.moments, []
    for place, name in enumerate(summary.columns[summary.features :], summary.features):
        for group, split in enumerate(groups):
            known = int(found.known[group, place])
            figures_ = [found.mean, found.deviation, found.low, found.high]
            shown = [number(float(each[group, place])) if known else None for each in figures_]
            rows.append((code(name) if not group else "", split, known, *shown))
    return markup.table(columns, rows, {0: "text", 1: "text"})


def _features(rows: Rows, summary: Summary) -> Iterator[str]:
    groups, found = rows.groups, summary.moments
    colours = [figures.colour(groups, place) for place in range(len(groups))]
    yield paragraph(Html(
        f"Distributions {escape(rows.compared)}, each as tall as its highest bin; values beyond the middle 99 % are in "
        f"the outermost bins. {markup.key(groups, colours)}"
    ))  # fmt: skip
    columns = ["feature", "unit", "distribution", "missing", *(f"mean ± sd, {name}" for name in groups)]
    lines = []
    for place, name in enumerate(summary.columns[: summary.features]):
        feature, known = find(name), found.known[:, place] > 0
        low, high = summary.ends[place] if known.any() else (float("nan"), float("nan"))
        shares = [share(float(each)) for each in found.missing[:, place]]
        gone = shares[0] if len(set(shares)) == 1 else " · ".join(each.removesuffix(" %") for each in shares) + " %"
        spread = zip(found.mean[:, place], found.deviation[:, place], known, strict=True)
        about = [
            f"{number(float(mean), 3)} ± {number(float(each), 3)}" if there else None for mean, each, there in spread
        ]
        unit = feature.family.unit if feature is not None else ""
        ends = f'<div class="ends"><span>{number(low, 3)}</span><span>{number(high, 3)}</span></div>'
        picture = Html(figures.sparkline(summary, groups, place) + ends)
        lines.append((code(name), unit, picture, gone, *about))
    yield markup.table(columns, lines, {0: "text", 1: "text", 2: "text"})


def _quality(manifest: Mapping[str, Any]) -> str:
    counts, rows = manifest.get("quality") or {}, max(int(manifest["rows"]), 1)
    if not counts:
        return paragraph("No row carries a flag.")
    meanings = {flag.name: meaning for flag, meaning in MEANINGS.items()}
    order = {flag.name: place for place, flag in enumerate(Quality)}
    lines = [
        (code(name), count, bar(count / rows), meanings.get(name, ""))
        for name, count in sorted(counts.items(), key=lambda pair: order.get(pair[0], len(order)))
    ]
    return markup.table(["flag", "rows", "share of rows", "meaning"], lines, {0: "text", 3: "prose"})


def _origin(manifest: Mapping[str, Any]) -> str:
    recipe = manifest.get("recipe") or {}
    about: dict[str, Any] = {"feature set": manifest["feature_set"]}
    for name, title in (("feature_set_digest", "its definition"), ("output_hash", "output hash")):
        if manifest.get(name):
            about[title] = code(manifest[name])
    about |= {f"code, {name}": code(value) for name, value in sorted((manifest.get("code") or {}).items())}
    for name in ("entry_delay_ns", "label_step_ns"):
        if recipe.get(name) is not None:
            about[name.removesuffix("_ns").replace("_", " ")] = _value(name, recipe[name])
    about |= dict(_policies(recipe))
    if manifest.get("events") is not None:
        about["records of the tape"] = manifest["events"]
    parts = [markup.facts(about)]
    inputs: dict[int, list[Mapping[str, Any]]] = {}
    for each in manifest.get("inputs") or []:
        inputs.setdefault(int(each["partition"]), []).append(each)
    lines = []
    for partition, files in sorted(inputs.items()):
        digest = hashlib.sha256("".join(str(each["sha256"]) for each in files).encode()).hexdigest()
        first = min(int(each.get("first_offset", 0)) for each in files)
        lines.append(
            (str(partition), len(files), first, max(int(each["last_offset"]) for each in files), code(digest[:16]))
        )
    if lines:
        parts.append(markup.table(["partition", "files", "first offset", "last offset", "hash of their hashes"], lines))
    parts.append(paragraph(Html(
        f"<code>onetape dataset verify {text(manifest['id'])}</code> builds it again and compares every bit. Hashes of "
        "single files, the whole recipe and every figure here are in <code>manifest.json</code> beside this page."
    )))  # fmt: skip
    return "".join(parts)
