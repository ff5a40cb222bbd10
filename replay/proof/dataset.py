"""Proof of a dataset's rows, which needs nothing of how they were made: the shift test and the assembly check.

Input: the Parquet files of a dataset, and what they are said to hold.
Output: `RowsProof`.
State: that of `replay.proof.shift` and `replay.proof.assembly`.
Errors: SegmentTorn; `check` raises CheckFailed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay.labels.compute import reach_ns
from replay.proof.assembly import Assembly, assembly
from replay.proof.shift import Shift, shift_test
from replay.reader import ArchiveReader
from schemas.errors import CheckFailed
from schemas.feature_sets import FeatureSet
from schemas.labels import LabelSpec
from schemas.units import NS_PER_MS


@dataclass(frozen=True, slots=True)
class RowsProof:
    """What the rows of a dataset say of themselves."""

    shift: Shift
    assembly: Assembly

    @property
    def ok(self) -> bool:
        """No feature is made of a label, and no rule is broken."""
        return self.assembly.ok and not self.shift.leaking

    def json(self) -> dict[str, Any]:
        """As a manifest holds it: `shift` has the features that agree most with a label, and all that leak."""
        worst = {feature: list(values) for feature, values in self.shift.worst().items()}
        return {"shift": worst, "shift_leaking": self.shift.leaking, "assembly": self.assembly.json()}

    def check(self) -> None:
        """Errors: CheckFailed."""
        self.assembly.check()
        if self.shift.leaking:
            raise CheckFailed(
                "features of the dataset are made of its labels",
                expected="no feature that agrees with a label as only the label can",
                was=", ".join(self.shift.leaking),
                action="take them out of the feature set; `onetape leakcheck --dataset` shows what they agree with",
            )  # fmt: skip


def prove_rows(
    folder: Path,
    files: Sequence[str],
    feature_set: FeatureSet,
    specs: Sequence[LabelSpec],
    entry_delay_ns: int,
    *,
    is_by_time: bool,
    archive: ArchiveReader | None = None,
) -> RowsProof:
    """Look at the files of a dataset in the order of their splits; `is_by_time` says that these follow in time.

    With an `archive` the Tick of each row is looked up, too.
    """
    paths = [folder / name for name in files]
    reaches = {spec.name: reach_ns(spec, entry_delay_ns) for spec in specs}
    looked = assembly(paths, feature_set.features, reaches, entry_delay_ns, is_by_time=is_by_time, archive=archive)
    return RowsProof(shift_test(paths, feature_set.features, reaches, feature_set.cadence_ms * NS_PER_MS), looked)
