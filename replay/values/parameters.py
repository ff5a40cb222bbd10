"""Parameters of values: what was fitted on the rows for training, and how it is applied to any row, a served one too.

Input: parameters from a fit or from a dataset's manifest.
Output: values with outliers put onto their bounds, and on the scale of the training rows.
Units: bounds and offset in the unit of the column; scale divides.
Errors: CheckFailed for a manifest that holds none, UsageError for a dataset or fold that is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.values.spec import ValuesSpec
from schemas.errors import CheckFailed, UsageError

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fitted:
    """One column: bounds (None: unbounded) and scale, which makes (value - offset) / scale.

    `known`: training values it was fitted on, 0 where nothing is fitted.
    """

    known: int = 0
    lower: float | None = None
    upper: float | None = None
    offset: float = 0.0
    scale: float = 1.0

    def json(self) -> dict[str, Any]:
        """As a manifest holds it; floats keep every bit."""
        return {name: getattr(self, name) for name in self.__slots__}

    @staticmethod
    def of(stored: Mapping[str, Any]) -> Fitted:
        """From a manifest. Errors: TypeError, ValueError for what `json` never makes."""
        fitted = Fitted(**stored)
        numbers = [number for number in (fitted.lower, fitted.upper) if number is not None]
        if type(fitted.known) is not int or not all(
            type(each) is float for each in (*numbers, fitted.offset, fitted.scale)
        ):
            raise TypeError("another JSON type")
        if fitted.known < 0 or not all(map(isfinite, (*numbers, fitted.offset, fitted.scale))) or fitted.scale <= 0:
            raise ValueError("no parameters")
        return fitted


class Parameters:
    """Of F features, in the order of the set; `spec` is what they were fitted for."""

    def __init__(self, spec: ValuesSpec, features: tuple[str, ...], columns: tuple[Fitted, ...]) -> None:
        self.spec, self.features, self.columns = spec, features, columns
        self._lower = np.array([-np.inf if each.lower is None else each.lower for each in columns])
        self._upper = np.array([np.inf if each.upper is None else each.upper for each in columns])
        self._offset = np.array([each.offset for each in columns])
        self._scale = np.array([each.scale for each in columns])

    def apply(self, values: Float64) -> Float64:
        """[m, F] filled values, clipped and scaled; the unknown stays NaN, what is beyond floats becomes infinite."""
        scaled = np.asarray(np.clip(values, self._lower, self._upper))
        with np.errstate(over="ignore"):
            scaled -= self._offset
            scaled /= self._scale
        return scaled

    def clipped(self, values: Float64) -> NDArray[np.bool_]:
        """[m, F] which values `apply` puts onto a bound: their rows carry Quality.OUTLIER_CLIPPED."""
        return np.asarray((values < self._lower) | (values > self._upper))

    def json(self) -> dict[str, Any]:
        """As a manifest holds it under `values`; JSON objects have no order, and the features' order says something."""
        columns = {name: each.json() for name, each in zip(self.features, self.columns, strict=True)}
        return {"policies": self.spec.json(), "features": list(self.features), "columns": columns}

    @staticmethod
    def of(stored: Mapping[str, Any]) -> Parameters:
        """From a manifest. Errors: KeyError, TypeError, ValueError, AttributeError for what `json` never makes."""
        features, spec = tuple(stored["features"]), ValuesSpec.of(stored["policies"])
        if sorted(features) != sorted(stored["columns"]):
            raise ValueError("other features than columns")
        spec.policies(features)
        return Parameters(spec, features, tuple(Fitted.of(stored["columns"][name]) for name in features))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parameters) and self.json() == other.json()

    def __hash__(self) -> int:
        return hash((self.spec, self.features, self.columns))


def load(folder: Path, fold: str | None = None) -> Parameters:
    """The parameters of a dataset's folder, of one of its folds where it has folds.

    A process that serves a model applies them to what it feeds it: `Filler(parameters.spec, parameters.features)` and
    then `parameters.apply`. Values on disk are clipped and scaled already where there is one split, and only filled
    where there are folds: each has rows of its own for training.
    """
    try:
        stored = json.loads((folder / "manifest.json").read_bytes())["values"]
        folds = stored.get("folds")
        if folds is None and fold is None:
            return Parameters.of(stored)
        if folds is not None and fold in folds:
            return Parameters.of(folds[fold])
        known = list(folds or ())
    except FileNotFoundError:
        raise UsageError(
            f"there is no dataset in {folder}", expected="a folder with a manifest.json", was="none",
            action="name the folder of one dataset: `onetape dataset list` shows them",
        ) from None  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UsageError):
        raise CheckFailed(
            f"the manifest in {folder} is torn", expected="parameters of values", was="another content",
            action="remove the dataset and build it anew",
        ) from None  # fmt: skip
    raise UsageError(
        f"{folder.name} has no parameters of fold {fold}", expected=f"one of {', '.join(known[:9]) or 'no folds'}",
        was=str(fold), action="name a fold of the dataset, or none where it has none",
    )  # fmt: skip
