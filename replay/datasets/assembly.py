"""Assembly: the rows of all shares become the files of a dataset.

Input: one `Labeller` per share.
State: the distinct prediction times; of each share the rows of one chunk. Nothing holds the whole dataset.
Output: the files, and what a manifest says about them.
Units: times in ns UTC.
Errors: UsageError where there is no row, or too few for the splits.

Three passes: the times and where labels reach, the values that are fitted on train rows, and the writing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from replay.datasets.files import ROWS, SPLITS, Writer, schema_of, table_of
from replay.datasets.labelled import Labeller, Rows, Times
from replay.datasets.recipe import Recipe
from replay.splits.fold import Fold, Role, check_filled, count, reaches, roles
from replay.splits.folds import folds
from replay.values.fit import Fit
from replay.values.parameters import Parameters
from schemas.columns import Int64
from schemas.errors import UsageError
from schemas.feature_sets import FeatureSet
from schemas.vectors import Quality

Told = Callable[[str, int, int], None]
"""Called with a stage's name, what is done and what is all."""
_NEVER = np.iinfo(np.int64).min


def silent(stage: str, done: int, total: int) -> None:
    """Nobody listens."""


@dataclass(slots=True)
class Assembly:
    """What the passes find. `look_back_ns` is how far a row looks back: its filled features, or what scales a label."""

    recipe: Recipe
    feature_set: FeatureSet
    look_back_ns: int
    shares: Sequence[Labeller]
    told: Told
    folds: list[Fold] = field(init=False, default_factory=list)
    reach: list[Int64] = field(init=False, default_factory=list)
    parameters: list[Parameters] = field(init=False, default_factory=list)
    dropped: Counter[str] = field(init=False, default_factory=Counter)
    first_ns: int = field(init=False, default=0)
    last_ns: int = field(init=False, default=0)

    def label(self) -> None:
        """The labels of every share."""
        for i, share in enumerate(self.shares):
            self.told("labels", i, len(self.shares))
            share.label_all()
            self.dropped.update(share.dropped)

    def split(self) -> None:
        """The folds, and how far the labels of each of their ranges reach. Errors: UsageError."""
        self.told("splits", 0, 2)
        times = np.empty(0, np.int64)
        for share in self.shares:
            # Shares have most of their times in common: one after another takes the memory of the distinct ones.
            parts = [np.unique(each.prediction) for each in self._times(share)]
            times = np.union1d(times, np.concatenate(parts)) if parts else times
        if not len(times):
            raise _no_row(self.dropped)
        self.first_ns, self.last_ns = int(times[0]), int(times[-1])
        self.folds = folds(self.recipe.split, times)
        self.reach = [np.full(len(fold.ranges), _NEVER) for fold in self.folds]
        self.told("splits", 1, 2)
        for share in self.shares:
            for each in self._times(share):
                for fold, reach in zip(self.folds, self.reach, strict=True):
                    np.maximum(reach, reaches(fold, each.prediction, each.evaluation), out=reach)

    def fit(self) -> None:
        """The parameters of values, from the train rows of each fold: as many passes as the policies need."""
        fits = [Fit(self.recipe.values, self.feature_set.features) for _ in self.folds]
        while waiting := [i for i, fit in enumerate(fits) if not fit.is_done]:
            for at, share in enumerate(self.shares):
                self.told("values", at, len(self.shares))
                for rows, _ in share.rows():
                    found = self._roles(rows.vectors.time, rows.t1)
                    for i in waiting:
                        fits[i].update(rows.vectors.values[found[i] == Role.TRAIN])
            for i in waiting:
                fits[i].end_pass()
        self.parameters = [fit.finish() for fit in fits]

    def write(self, folder: Path | None) -> dict[str, Any]:
        """Write the files, or without a folder only find what they would hold; what a manifest says about them."""
        has_folds = self.recipe.split.has_folds
        used = {each.role for each in self.folds[0].ranges}
        files = {role: name for role, name in SPLITS.items() if role in used}
        schema = schema_of(self.feature_set, self.recipe.specs, [fold.name for fold in self.folds if has_folds])
        counts: list[Counter[str]] = [Counter() for _ in self.folds]
        quality: Counter[str] = Counter()
        names = [ROWS] if has_folds else list(files.values())
        written, total = 0, sum(len(times.prediction) for share in self.shares for times in share.times())
        with Writer(folder, schema, names) as writer:
            for rows in merged([self._counted(share) for share in self.shares]):
                found = self._roles(rows.vectors.time, rows.t1)
                for so_far, of_fold in zip(counts, found, strict=True):
                    so_far.update(count(of_fold))
                if has_folds:
                    writer.write(ROWS, table_of(rows, self.recipe.specs, schema, found))
                    kept = rows.vectors.quality
                else:
                    rows = self._applied(rows)  # noqa: PLW2901 (from here on they are what is stored)
                    table = table_of(rows, self.recipe.specs, schema, [])
                    for role, name in files.items():
                        writer.write(name, table.filter(pa.array(found[0] == role)))
                    kept = rows.vectors.quality[np.isin(found[0], list(files))]
                written += len(rows)
                self.told("writing", written, total)
                quality.update({flag.name or "": int((kept & flag != 0).sum()) for flag in Quality})
        for fold, so_far in zip(self.folds, counts, strict=True):
            check_filled(fold, so_far)
        return self._told_of(writer, counts, quality)

    def _told_of(self, writer: Writer, counts: Sequence[Counter[str]], quality: Counter[str]) -> dict[str, Any]:
        told = [{**fold.json(), **found} for fold, found in zip(self.folds, counts, strict=True)]
        if self.recipe.split.has_folds:
            divided: dict[str, Any] = {"splits": _by_fold(told), "folds": told}
        else:
            divided = {"splits": dict(writer.counts), "ranges": told[0]["ranges"]}
        return {
            "rows": sum(writer.counts.values()),
            "files": [f"{name}.parquet" for name in writer.names],
            **divided,
            "purged": sum(found["purged"] for found in counts),
            "embargoed": sum(found["embargoed"] for found in counts),
            "unlabelled": self.dropped["unlabelled"],
            "warmup_rows": self.dropped["warmup"],
            "missing_rows": self.dropped["missing"],
            "quality": {name: rows for name, rows in quality.items() if rows},
            "coverage": {"first": self.first_ns, "last": self.last_ns},
            "values": self._values(),
            "output_hash": writer.output_hash(),
        }

    def _values(self) -> dict[str, Any]:
        """The parameters, by fold where there are folds."""
        told = [each.json() for each in self.parameters]
        names = [fold.name for fold in self.folds]
        return {"folds": dict(zip(names, told, strict=True))} if self.recipe.split.has_folds else told[0]

    def _times(self, share: Labeller) -> Iterator[Times]:
        """Times of the rows that stay."""
        if not self.recipe.drops_rows:
            yield from share.times()
            return
        for rows, _ in share.rows():
            yield Times(rows.vectors.time, rows.t1)

    def _counted(self, share: Labeller) -> Iterator[Rows]:
        for rows, missing in share.rows():
            self.dropped["missing"] += missing
            yield rows

    def _roles(self, prediction: Int64, evaluation: Int64) -> list[NDArray[np.uint8]]:
        split = self.recipe.split
        return [
            roles(
                fold, reach, prediction, evaluation, look_back_ns=self.look_back_ns,
                purge_horizon_ns=split.purge_horizon_ns, embargo_ns=split.embargo_ns,
            )
            for fold, reach in zip(self.folds, self.reach, strict=True)
        ]  # fmt: skip

    def _applied(self, rows: Rows) -> Rows:
        """Clipped and scaled by what was fitted on the train rows, what was clipped flagged."""
        vectors, (parameters, *_) = rows.vectors, self.parameters
        if self.recipe.values.is_empty:
            return rows
        clipped = parameters.clipped(vectors.values).any(axis=1)
        quality = vectors.quality | np.where(clipped, int(Quality.OUTLIER_CLIPPED), 0)
        return replace(rows, vectors=replace(vectors, values=parameters.apply(vectors.values), quality=quality))


def merged(sources: Sequence[Iterator[Rows]]) -> Iterator[Rows]:
    """Rows of several sources, each in order of time and instrument, in that order; every T comes whole."""
    waiting = [_filled(source) for source in sources]
    while any(each is not None for each in waiting):
        # No source gives a row of a time before the last it has given; another may have rows up to there only.
        end = min(int(each.vectors.time[-1]) for each in waiting if each is not None)
        parts: list[Rows] = []
        for i, each in enumerate(waiting):
            if each is None:
                continue
            count = int(np.searchsorted(each.vectors.time, end, side="right"))
            if count:
                parts.append(each if count == len(each) else each.select(np.arange(count)))
            waiting[i] = _filled(sources[i]) if count == len(each) else each.select(np.arange(count, len(each)))
        yield _sorted(Rows.concat(parts)) if len(parts) > 1 else parts[0]


def _filled(source: Iterator[Rows]) -> Rows | None:
    """The next rows that are any."""
    return next((rows for rows in source if len(rows)), None)


def _sorted(rows: Rows) -> Rows:
    names = np.array(rows.vectors.keys, np.str_)
    rank = np.argsort(np.argsort(names))
    return rows.select(np.lexsort((rank[rows.vectors.key], rows.vectors.time)))


def _by_fold(told: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Rows of each fold's splits under one name each."""
    return {f"{fold['name']}/{name}": fold[name] for fold in told for name in SPLITS.values() if fold[name]}


def _no_row(dropped: Counter[str]) -> UsageError:
    return UsageError(
        "no row has a label", expected="known mid prices at every step from a row's entry to its label's end",
        was=f"{dropped['unlabelled']} rows without, {dropped['warmup']} in warm-up, {dropped['missing']} dropped",
        action="check that the book had a Snapshot (else mid_price is null), that the tape is longer than warm-up "
        "and horizon, and that instruments and span are those of the tape",
    )  # fmt: skip
