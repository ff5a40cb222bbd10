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
_FIELDS = {
    "id": str, "feature_set": str, "feature_set_digest": str, "recipe": dict, "archive": str, "inputs": list,
    "labels": list, "features": list, "code": dict, "rows": int, "splits": dict, "files": list, "purged": int,
    "output_hash": str, "leakcheck": dict,
}  # fmt: skip
_INPUT_FIELDS = {"file": str, "sha256": str, "partition": int, "last_offset": int}
"""Fields of a manifest that are read again, and their JSON types."""
_ID = re.compile(r"[a-z0-9_]+(-[a-z0-9_]+)+")


def dataset_ids(datasets: Path) -> list[str]:
    """Ids of the datasets in a folder, sorted; a folder that is not there has none."""
    found = (path.parent.name for path in datasets.glob(f"*/{MANIFEST}"))
    return sorted(name for name in found if _ID.fullmatch(name))


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
    except (ValueError, RecursionError, OSError):
        raise torn_manifest(dataset_id) from None
    if not _has(manifest, _FIELDS) or not _has(manifest["leakcheck"], {"leaking": list}):
        raise torn_manifest(dataset_id)
    if manifest["id"] != dataset_id or not all(_has(each, _INPUT_FIELDS) for each in manifest["inputs"]):
        raise torn_manifest(dataset_id)
    return dict(manifest)


def torn_manifest(dataset_id: str) -> CheckFailed:
    """The error of a manifest that is not one."""
    return CheckFailed(
        f"the manifest of {dataset_id} is torn", expected=f"a manifest of {dataset_id}", was="another content",
        action="remove the dataset and build it anew",
    )  # fmt: skip


def _has(content: Any, fields: dict[str, type]) -> bool:
    return isinstance(content, dict) and all(isinstance(content.get(name), type_) for name, type_ in fields.items())
