"""Predictions: what a model said of rows of a dataset, as a Parquet or CSV file.

Input: columns `instrument`, `time`, and `prediction` (a number, or a class -1, 0, 1) or `p_-1`, `p_0`, `p_1`; where the
dataset has folds, `fold` may name the one a prediction was made for.
Output: `Predictions`.
Units: times in ns UTC, or as timestamps; probabilities add up to 1.
Errors: UsageError for a file that is not such a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from replay.card.summary import CLASSES
from schemas.columns import Int64
from schemas.errors import UsageError

PROBABILITIES = tuple(f"p_{each}" for each in CLASSES)
_SUM_TOLERANCE = 1e-3
"""Files often hold a few decimals; what is this near to 1 is scaled to it."""
_TEXTS = ("instrument", "fold")


@dataclass(frozen=True, slots=True)
class Predictions:
    """n predictions: `value` [n] is NaN where there is none, `probabilities` [n, 3] are those of -1, 0 and 1.

    `instrument` [n] is a place in `instruments`; `fold` [n] in `folds`, None where the file does not tell folds apart.
    """

    instruments: list[str]
    instrument: Int64
    time: Int64
    value: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None
    folds: list[str]
    fold: Int64 | None

    def of_fold(self, name: str) -> Predictions:
        """Those made for a fold; all of them where the file does not tell folds apart."""
        if self.fold is None:
            return self
        mine = self.fold == (self.folds.index(name) if name in self.folds else -1)
        chances = None if self.probabilities is None else self.probabilities[mine]
        return Predictions(
            self.instruments, self.instrument[mine], self.time[mine], self.value[mine], chances, [], None
        )


def read(path: Path, *, is_class: bool) -> Predictions:
    """The predictions in a file. Errors: UsageError."""
    table = _table(path)
    given = set(table.column_names)
    has_chances = is_class and set(PROBABILITIES) <= given
    needed = {"instrument", "time"} | (set() if has_chances else {"prediction"})
    if not needed <= given:
        either = " or p_-1, p_0 and p_1" if is_class else ""
        raise _refused(path, f"columns instrument, time and prediction{either}", f"columns {', '.join(sorted(given))}")
    chances = np.stack([_numbers(path, table, name) for name in PROBABILITIES], axis=1) if has_chances else None
    if chances is not None:
        chances = _scaled(path, chances)
    if "prediction" in given:
        value = _numbers(path, table, "prediction")
    else:
        assert chances is not None
        value = np.array(CLASSES, np.float64)[np.argmax(np.nan_to_num(chances, nan=-1.0), axis=1)]
        value[np.isnan(chances).any(axis=1)] = np.nan
    if is_class and not np.isin(value[~np.isnan(value)], CLASSES).all():
        wrong = value[~np.isnan(value) & ~np.isin(value, CLASSES)][0]
        raise _refused(path, "classes -1, 0 and 1 for this label", f"a prediction of {wrong:g}")
    instruments, instrument = _texts(path, table, "instrument")
    folds, fold = _texts(path, table, "fold") if "fold" in given else ([], None)
    return Predictions(instruments, instrument, _times(path, table), value, chances, folds, fold)


def _table(path: Path) -> pa.Table:
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        if is_parquet:
            return pq.read_table(path)
        types = dict.fromkeys(_TEXTS, pa.string()) | dict.fromkeys(("prediction", *PROBABILITIES), pa.float64())
        return pc.read_csv(path, convert_options=pc.ConvertOptions(column_types=types))
    except (pa.ArrowException, OSError) as error:
        raise _refused(path, "a Parquet or CSV file", str(error).splitlines()[0][:200]) from None


def _texts(path: Path, table: pa.Table, name: str) -> tuple[list[str], Int64]:
    """The distinct texts of a column, and the place of each row's among them."""
    try:
        column = table[name].cast(pa.string()).fill_null("").combine_chunks().dictionary_encode()
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        return column.dictionary.to_pylist(), column.indices.to_numpy().astype(np.int64)
    except pa.ArrowException:
        raise _refused(path, f"texts in {name}", str(table[name].type)) from None


def _numbers(path: Path, table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of numbers, NaN where one is null; infinite ones are refused."""
    try:
        values = np.asarray(table[name].cast(pa.float64()).to_numpy(), np.float64)
    except pa.ArrowException:
        raise _refused(path, f"numbers in {name}", str(table[name].type)) from None
    if np.isinf(values).any():
        raise _refused(path, f"finite numbers in {name}", "an infinite one")
    return values


def _times(path: Path, table: pa.Table) -> Int64:
    column = table["time"]
    try:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
        elif not pa.types.is_integer(column.type):
            raise pa.ArrowInvalid("no time")
        if column.null_count:
            raise pa.ArrowInvalid("no time")
        return np.asarray(column.cast(pa.int64()).to_numpy(), np.int64)
    except pa.ArrowException:
        raise _refused(path, "time in ns as integers, or as timestamps, in every row", f"{column.type}") from None


def _scaled(path: Path, chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities that add up to 1 exactly; a row without any stays NaN."""
    known = ~np.isnan(chances).any(axis=1)
    sums = chances[known].sum(axis=1)
    if (chances[known] < 0).any() or (np.abs(sums - 1.0) > _SUM_TOLERANCE).any():
        raise _refused(path, "probabilities of 0 to 1 that add up to 1", "others")
    chances[known] /= sums[:, None]
    chances[~known] = np.nan
    return chances


def _refused(path: Path, expected: str, was: str) -> UsageError:
    return UsageError(
        f"{path} holds no predictions", expected=expected, was=was,
        action="write one row per row of the split: instrument and time as in the dataset, and the prediction",
    )  # fmt: skip
