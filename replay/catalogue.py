"""Catalogue: the datasets that are there, by their manifests.

Input: a folder of datasets.
Output: manifests.
Errors: UsageError for an unknown id, with near matches; CheckFailed for a manifest that cannot be read.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from schemas.errors import CheckFailed, UsageError

MANIFEST = "manifest.json"
_ID = re.compile(r"[a-z0-9_]+(-[a-z0-9_]+)+")


def dataset_ids(datasets: Path) -> list[str]:
    """Ids of the datasets in a folder, sorted; a folder that is not there has none."""
    found = (path.parent.name for path in datasets.glob(f"*/{MANIFEST}"))
    return sorted(name for name in found if _ID.fullmatch(name))


def manifests(datasets: Path) -> list[dict[str, Any]]:
    """Every dataset's manifest, by id."""
    return [load_manifest(datasets, dataset_id) for dataset_id in dataset_ids(datasets)]


def load_manifest(datasets: Path, dataset_id: str) -> dict[str, Any]:
    """Manifest of a dataset."""
    known = dataset_ids(datasets)
    if dataset_id not in known:
        near = difflib.get_close_matches(dataset_id, known, 3, 0.3) or known[:3]
        raise UsageError(
            f"there is no dataset {dataset_id[:80]!r}", expected=f"a dataset in {datasets}", was="none of that id",
            action=f"choose among {', '.join(near)}" if near else "build one with `onetape dataset build`",
        )  # fmt: skip
    try:
        manifest = json.loads((datasets / dataset_id / MANIFEST).read_bytes())
        if manifest["id"] != dataset_id:
            raise ValueError(manifest["id"])
    except (ValueError, KeyError, TypeError, OSError):
        raise CheckFailed(
            f"the manifest of {dataset_id} is torn", expected=f"a manifest of {dataset_id}", was="another content",
            action="remove the dataset and build it anew",
        ) from None  # fmt: skip
    return dict(manifest)
