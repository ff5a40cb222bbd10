"""The checks of an archive, or of a dataset that is there: other cuts, other futures, and its rows as they lie there.

Input: an archive and a feature set; or a datasets folder and an id, and the archive that its manifest names.
State: that of the checks.
Output: `Proven`.
Units: times in ns UTC.
Errors: CheckFailed (a blind check, another definition of the feature set), SegmentTorn (an input or a file is not what
it was), those of the archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.features import features_agent
from replay.datasets.catalogue import load_manifest
from replay.datasets.verify import check_inputs, recipe_of, same_definition
from replay.driver import Progress
from replay.ports import Agent
from replay.proof.dataset import RowsProof, prove_rows
from replay.proof.leakcheck import WINDOW_ROWS, leakcheck
from replay.proof.leaky import leaky
from replay.proof.lookahead import LookAhead, look_ahead
from replay.proof.window import LeakCheck, Window
from replay.reader import ArchiveReader
from schemas.feature_sets import FeatureSet


@dataclass(frozen=True, slots=True)
class Proven:
    """What the checks have found; `rows` are of a dataset, `lookahead` is there where it was asked for."""

    leaks: LeakCheck
    rows: RowsProof | None = None
    lookahead: LookAhead | None = None

    @property
    def ok(self) -> bool:
        """No check has found anything."""
        return self.leaks.ok and (self.rows is None or self.rows.ok)

    @property
    def leaking(self) -> list[str]:
        """Features that know of the future, or of a label."""
        return sorted({*self.leaks.leaking, *(self.rows.shift.leaking if self.rows is not None else ())})

    def json(self) -> dict[str, Any]:
        """One JSON object."""
        told = self.leaks.json() | ({} if self.rows is None else self.rows.json())
        told |= {} if self.lookahead is None else {"lookahead": self.lookahead.json()}
        return {**told, "leaking": self.leaking, "ok": self.ok}


@dataclass(frozen=True, slots=True)
class Checks:
    """What to check: cuts as fractions, records before each (None: all), a seed; whether to leak on purpose."""

    cuts: Sequence[float]
    window_rows: int | None = WINDOW_ROWS
    seed: int = 0
    leaks_on_purpose: bool = False
    looks_ahead: bool = False
    progress: Progress | None = None

    def of_archive(self, archive: ArchiveReader, feature_set: FeatureSet, **bounds: Any) -> Proven:
        """Check an archive; `bounds` are those of `leakcheck`."""
        ahead = LookAhead() if self.looks_ahead else None

        def watch(window: Window) -> None:
            if ahead is not None:
                ahead.add(look_ahead(window, feature_set))

        agent: Agent = leaky(feature_set) if self.leaks_on_purpose else features_agent
        found = leakcheck(
            archive, feature_set, self.cuts, window_rows=self.window_rows, seed=self.seed, agent=agent,
            progress=self.progress, watch=watch, **bounds,
        )  # fmt: skip
        return Proven(found, None, ahead)

    def of_dataset(self, datasets: Path, dataset_id: str, archive: ArchiveReader | None = None) -> Proven:
        """Check the instruments, span and inputs of a dataset, and the rows of its files."""
        manifest = load_manifest(datasets, dataset_id)
        recipe = recipe_of(manifest)
        feature_set = same_definition(manifest, recipe)
        archive = archive or ArchiveReader(Path(manifest["archive"]))
        check_inputs(archive, manifest["inputs"])
        found = self.of_archive(
            archive, feature_set, symbols=recipe.symbols, from_ns=recipe.from_ns, to_ns=recipe.to_ns,
            last_offsets={each["partition"]: each["last_offset"] for each in manifest["inputs"]},
        )  # fmt: skip
        rows = prove_rows(
            datasets / dataset_id, manifest["files"], feature_set, recipe.specs, recipe.entry_delay_ns,
            is_by_time=recipe.split.kind == "time", archive=archive,
        )  # fmt: skip
        return Proven(found.leaks, rows, found.lookahead)
