"""Datasets as folders, made here without a tape: what a card, an evaluation and the pages' examples read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tapes import START

from schemas.units import NS_PER_S

FEATURES = ("mid_price", "spread_bps", "log_return_1s", "trade_imbalance_5s", "open_interest")
LABELS = ("forward_return_5s", "direction_5s(threshold=0.0001)")
HORIZON = 5 * NS_PER_S
ROLES = ("train", "validation", "test", "purged", "embargoed")


def table(
    seed: int = 1, seconds: int = 200, instruments: Sequence[str] = ("V:AAA", "V:BBB"),
    features: Sequence[str] = FEATURES, labels: Sequence[str] = LABELS,
) -> pa.Table:  # fmt: skip
    """One row per instrument and second, by time and instrument; some values are null."""
    rng = np.random.default_rng(seed)
    count = seconds * len(instruments)
    time = START + np.repeat(np.arange(seconds, dtype=np.int64), len(instruments)) * NS_PER_S
    columns: dict[str, Any] = {
        "instrument": pa.array(list(instruments) * seconds),
        "time": time, "partition": np.zeros(count, np.int32), "as_of_offset": np.arange(count, dtype=np.int64),
        "ts_available": time + 1_000_000, "book_epoch": np.ones(count, np.int64), "quality": np.zeros(count, np.int64),
    }  # fmt: skip
    forward = rng.normal(0, 2e-4, count)
    for name in features:
        values = rng.normal(0, 1, count) + forward * 2000
        if name == "open_interest":
            values = np.full(count, np.nan)
        columns[name] = pa.array(values, mask=np.isnan(values) | (rng.random(count) < 0.05 * (name == "log_return_1s")))
    for name in labels:
        values = np.where(abs(forward) > 1e-4, np.sign(forward), 0.0) if name.startswith("dir") else forward
        columns[name] = pa.array(values, mask=rng.random(count) < 0.02)
    return pa.table({**columns, "label_t0": time, "label_t1": time + HORIZON})


def write(
    folder: Path, rows: pa.Table, *, kind: str = "time", folds: int = 3, features: Sequence[str] = FEATURES,
    labels: Sequence[str] = LABELS,
) -> dict[str, Any]:  # fmt: skip
    """A dataset's files; gives its manifest. `kind` is `time`, `random` or `k_fold`."""
    folder.mkdir(parents=True, exist_ok=True)
    time = rows["time"].to_numpy()
    place = (time - time.min()) / (time.max() + 1 - time.min())
    about: dict[str, Any] = {"splits": {}}
    if kind == "k_fold":
        about["folds"] = []
        for fold in range(folds):
            first, last = fold / folds, (fold + 1) / folds
            role = np.full(len(place), "train", dtype=object)
            role[(place >= first - 0.03) & (place < first)] = "purged"
            role[(place >= first) & (place < last)] = "test"
            role[(place >= last) & (place < last + 0.03)] = "purged"
            role[(place >= last + 0.03) & (place < last + 0.06)] = "embargoed"
            role[::37] = None  # what has no label has no role
            rows = rows.append_column(f"fold_{fold}", pa.array(role, pa.string()))
            about["folds"].append({"name": f"fold_{fold}", **{name: int((role == name).sum()) for name in ROLES}})
        pq.write_table(rows, folder / "rows.parquet", row_group_size=97)
    else:
        for name, first, last in (("train", 0, 0.7), ("validation", 0.73, 0.85), ("test", 0.88, 1.0)):
            part = rows.filter(pa.array((place >= first) & (place < last)))
            pq.write_table(part, folder / f"{name}.parquet", row_group_size=97)
            about["splits"][name] = part.num_rows
    count = len(rows) if kind == "k_fold" else sum(about["splits"].values())
    return {
        "id": "micro-2-forward_return_5s-0123456789ab", "feature_set": "micro@2", "archive": "archive",
        "label": labels[0], "feature_set_digest": "d" * 64,
        "features": list(features), "labels": list(labels), "rows": count, "purged": len(rows) - count, "embargoed": 7,
        "unlabelled": 11, "warmup_rows": 30, "quality": {"WARMUP": 30, "NO_TRADES": 5},
        "recipe": {
            "split": {"kind": kind, "purge_horizon_ns": 0, "embargo_ns": HORIZON}, "labels": list(labels),
            "values": {"*": {"missing": "null", "outliers": "clip(4)", "normalization": "none"}},
            "entry_delay_ns": 10**8, "label_step_ns": NS_PER_S,
        },
        "inputs": [{"file": "a.parquet", "sha256": "a" * 64, "partition": 0, "first_offset": 0, "last_offset": 999}],
        "code": {"sha256": "c" * 64, "numpy": "2.0"}, "output_hash": "e" * 64, "events": 1000, "parity": None,
        "leakcheck": {
            "cuts": 9, "rows_checked": 90, "leaking": [], "variants": {"cut": 90, "poison": 80, "shuffle": 80},
            "control": {"feature": "next_price", "windows": 5, "found": 5, "caught": True}, "ok": True,
        },
        "lookahead": {
            "rows": 90, "changed": dict.fromkeys(features, 0.5), "delay_ns": {"least": -1_500_000, "most": 10**9},
            "changed_aligned": {name: 0.25 * (i == 1) for i, name in enumerate(features)},
        },
        "shift": {name: [0.02, None, labels[0]] for name in features},
        "assembly": {"rows": count, "broken": {}, "ok": True}, "values": {},
        "files": [path.name for path in sorted(folder.glob("*.parquet"))], **about,
    }  # fmt: skip
