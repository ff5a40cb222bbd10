"""Labelled rows: the vectors of a share with their labels, chunk by chunk.

Input: the chunks of a share.
State: `<number>.labels.arrow` beside each chunk: labels are computed once. In memory the prices ahead of a chunk, as
far as its labels reach.
Output: `Rows`, by time and instrument, missing values filled; counts of what is left out and why.
Units: times in ns UTC.
Errors: OSError of the disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from replay.datasets import chunks
from replay.datasets.chunks import Chunk
from replay.datasets.recipe import Recipe
from replay.labels.compute import label
from replay.labels.prices import PriceGrid
from replay.values.fill import Filler
from schemas.columns import Int64
from schemas.feature_sets import FeatureSet
from schemas.labels import LabelSpec
from schemas.vectors import HEAD, Quality, Vectors

TOUCHING = "triple_barrier"
"""The family whose interval ends at a time of the row's own."""


@dataclass(frozen=True, slots=True)
class Rows:
    """m rows of a dataset: vectors with L labels.

    `labels` [m, L] is NaN where there is none; `t0` [m] is the entry, `t1` [m] the end of the row's latest label,
    `ends` [m, L] that of each (meaningless where the label is NaN).
    """

    vectors: Vectors
    labels: NDArray[np.float64]
    t0: Int64
    t1: Int64
    ends: Int64

    def __len__(self) -> int:
        return len(self.t0)

    def select(self, rows: NDArray[Any]) -> Rows:
        """Rows by mask or by position."""
        return Rows(self.vectors.select(rows), self.labels[rows], self.t0[rows], self.t1[rows], self.ends[rows])

    @staticmethod
    def concat(parts: Sequence[Rows]) -> Rows:
        """One after another; at least one."""
        if len(parts) == 1:
            return parts[0]
        names = ("labels", "t0", "t1", "ends")
        joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return Rows(Vectors.concat([part.vectors for part in parts]), **joined)


@dataclass(frozen=True, slots=True)
class Times:
    """What a split asks of rows: prediction times and ends of their labels, [m] each."""

    prediction: Int64
    evaluation: Int64


@dataclass(slots=True)
class Labeller:
    """The rows of one share's chunks. `dropped` counts those left out, once they were labelled."""

    folder: Path
    recipe: Recipe
    feature_set: FeatureSet
    prices: FeatureSet
    dropped: Counter[str] = field(default_factory=Counter)

    def label_all(self) -> None:
        """Compute the labels of every chunk and lay them beside it."""
        found = chunks.read_all(self.folder)
        ahead = _Ahead(self, found)
        for chunk in found:
            self._label(chunk, ahead)

    def times(self) -> Iterator[Times]:
        """Times of the rows, without reading their values."""
        for chunk in chunks.read_all(self.folder):
            table = self._stored(chunk.number)
            yield Times(table["time"].to_numpy(), table["t1"].to_numpy())

    def rows(self) -> Iterator[tuple[Rows, int]]:
        """The rows with their values, filled; and how many were left out because a value is missing."""
        filler = Filler(self.recipe.values, self.feature_set.features)
        for chunk in chunks.read_all(self.folder):
            table = self._stored(chunk.number)
            vectors = chunks.read_vectors(self.folder, chunk.number, self.feature_set)
            values, stays = vectors.values, np.ones(len(vectors), np.bool_)
            if not self.recipe.values.is_empty:
                values, stays = filler.fill(vectors.keys, vectors.key, vectors.time, values)
            shape = (table.num_rows, len(self.recipe.specs))
            matrices = [table[name].combine_chunks().flatten().to_numpy().reshape(shape) for name in ("labels", "ends")]
            labelled = table["row"].to_numpy()
            rows = Rows(
                _picked(replace(vectors, values=values), labelled), matrices[0], table["t0"].to_numpy(),
                table["t1"].to_numpy(), matrices[1],
            )  # fmt: skip
            stays = stays[labelled]
            yield rows if stays.all() else rows.select(stays), int((~stays).sum())

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.labels.arrow"

    def _stored(self, number: int) -> pa.Table:
        with pa.OSFile(str(self._path(number))) as file:
            return pa.ipc.open_file(file).read_all()

    def _label(self, chunk: Chunk, ahead: _Ahead) -> None:
        """Labels of the rows that stay, each with the number of its row in the chunk."""
        recipe = self.recipe
        vectors = chunks.read_heads(self.folder, chunk.number, self.feature_set)
        keep = self._wanted(vectors)
        values = np.full((len(vectors), len(recipe.specs)), np.nan)
        t0 = vectors.time + recipe.entry_delay_ns
        ends = np.repeat(t0[:, None], len(recipe.specs), axis=1)
        if len(vectors):
            first, last = int(vectors.time[0]) - recipe.look_back_ns, int(vectors.time[-1]) + recipe.reach_ns
            places = {vectors.keys[vectors.key[rows[0]]]: rows for rows in _by_key(vectors)}
            for key, grid in ahead.grids(first, last):
                if key in places:
                    self._fill(places[key], vectors.time, grid, values, ends)
        known = ~np.isnan(values)
        has_label = known.any(axis=1)
        self.dropped["unlabelled"] += int((keep & ~has_label).sum())
        keep &= has_label
        t1 = np.where(known, ends, np.iinfo(np.int64).min).max(axis=1, initial=np.iinfo(np.int64).min)
        rows = np.flatnonzero(keep)
        _store(self._path(chunk.number), rows, vectors.time, t0, t1, values, ends)

    def _wanted(self, vectors: Vectors) -> NDArray[np.bool_]:
        """[m] rows of the recipe's span that are not in warm-up."""
        keep = np.ones(len(vectors), np.bool_)
        if self.recipe.from_ns is not None:
            keep &= vectors.time >= self.recipe.from_ns
        if self.recipe.to_ns is not None:
            keep &= vectors.time < self.recipe.to_ns
        if not self.recipe.keeps_warmup:
            is_warmup = vectors.quality & Quality.WARMUP != 0
            self.dropped["warmup"] += int((keep & is_warmup).sum())
            keep &= ~is_warmup
        return keep

    def _fill(self, rows: NDArray[Any], time: Int64, grid: PriceGrid, values: NDArray[np.float64], ends: Int64) -> None:
        """The labels of one instrument's rows."""
        step_ns, delay_ns = self.recipe.step_ns(self.feature_set), self.recipe.entry_delay_ns
        for i, spec in enumerate(self.recipe.specs):
            found = label(spec, grid, time[rows], step_ns=step_ns, entry_delay_ns=delay_ns)
            values[rows, i], ends[rows, i] = found.value, found.t1


class _Ahead:
    """The prices of a stretch of time, read from chunk to chunk and forgotten once they are behind."""

    def __init__(self, labeller: Labeller, found: Sequence[Chunk]) -> None:
        self._labeller, self._waiting = labeller, list(found)
        self._parts: list[Vectors] = []

    def grids(self, first_ns: int, last_ns: int) -> Iterator[tuple[str, PriceGrid]]:
        """Each instrument with its prices from `first_ns` to `last_ns`, where there are some."""
        while self._waiting and (not self._parts or self._parts[-1].time[-1] < last_ns):
            chunk = self._waiting.pop(0)
            part = chunks.read_prices(self._labeller.folder, chunk.number, self._labeller.prices)
            if len(part):
                self._parts.append(part)
        while self._parts and self._parts[0].time[-1] < first_ns:
            self._parts.pop(0)
        if not self._parts:
            return
        prices = Vectors.concat(self._parts)
        low, high = np.searchsorted(prices.time, [first_ns, last_ns + 1])
        prices = prices.select(np.arange(low, high))
        for rows in _by_key(prices):
            yield prices.keys[prices.key[rows[0]]], PriceGrid.of(prices.select(rows))


def _picked(vectors: Vectors, rows: NDArray[Any]) -> Vectors:
    """Some rows, ascending; all between two of them are not copied."""
    if not len(rows) or rows[-1] + 1 - rows[0] != len(rows):
        return vectors.select(rows)
    first, end = int(rows[0]), int(rows[-1]) + 1
    columns: dict[str, Any] = {name: getattr(vectors, name)[first:end] for name in ("key", *HEAD, "values")}
    return replace(vectors, **columns)


def _by_key(vectors: Vectors) -> Iterator[NDArray[Any]]:
    """The rows of each instrument, in order of time."""
    order = np.argsort(vectors.key, kind="stable")
    if len(order):
        yield from np.split(order, np.flatnonzero(np.diff(vectors.key[order])) + 1)


def _store(
    path: Path, rows: NDArray[Any], time: Int64, t0: Int64, t1: Int64, values: NDArray[np.float64], ends: Int64
) -> None:
    width = values.shape[1]
    columns = {
        "row": rows, "time": time[rows], "t0": t0[rows], "t1": t1[rows],
        "labels": pa.FixedSizeListArray.from_arrays(pa.array(values[rows].reshape(-1)), width),
        "ends": pa.FixedSizeListArray.from_arrays(pa.array(ends[rows].reshape(-1)), width),
    }  # fmt: skip
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def touch_columns(specs: Sequence[LabelSpec]) -> list[tuple[int, str]]:
    """Labels whose own end a dataset tells, by number, with the names of those columns."""
    return [(i, f"{spec.name}_t1") for i, spec in enumerate(specs) if spec.family == TOUCHING]
