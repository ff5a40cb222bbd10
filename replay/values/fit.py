"""Fit: bounds and scales of columns, from the rows for training and no others.

Input: the values of the training rows in parts, filled, NaN where unknown; the same rows in every pass.
State: exact sums and counts: neither the order of rows nor their parts change a bit of what is fitted.
Output: `Parameters`.
Units: as the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from replay.values.moments import Moments, Sums
from replay.values.parameters import Fitted, Parameters
from replay.values.quantiles import Selection
from replay.values.spec import Policy, ValuesSpec

Float64 = NDArray[np.float64]
_QUARTILES = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))


class Fit:
    """Takes in the training rows once per pass: none where nothing is fitted, 1 for moments, 5 for quantiles (clip and
    robust scales exactly as sorted rows would give them), and 1 more for the z-score of clipped values.

    `while not fit.is_done: update with every part, then end_pass; then finish`.
    """

    def __init__(self, spec: ValuesSpec, features: Sequence[str]) -> None:
        self._spec, self._features = spec, tuple(features)
        self._policies = spec.policies(features)
        self._sums: Sums | None = Sums(len(features)) if any(map(_needs_moments, self._policies)) else None
        self._selection = Selection([_shares(policy) for policy in self._policies])
        self._moments: list[Moments] | None = None
        self._bounds: list[tuple[float, float]] | None = None
        self._clipped: Sums | None = None
        self._of_clipped: list[Moments] | None = None
        self._go_on()

    @property
    def is_done(self) -> bool:
        """Whether no further pass is needed."""
        return self._sums is None and self._clipped is None and self._selection.is_done

    def update(self, values: Float64) -> None:
        """Take in values [m, F] of some training rows."""
        if self._sums is not None:
            self._sums.add(values)
        if not self._selection.is_done:
            self._selection.add(values)
        if self._clipped is not None and self._bounds is not None:
            lower, upper = (np.array(each) for each in zip(*self._bounds, strict=True))
            self._clipped.add(np.clip(values, lower, upper))

    def end_pass(self) -> None:
        """Every training row was taken in once more."""
        if self._clipped is not None:
            self._of_clipped, self._clipped = self._clipped.finish(), None
            return
        if self._sums is not None:
            self._moments, self._sums = self._sums.finish(), None
        if not self._selection.is_done:
            self._selection.end_pass()
        self._go_on()

    def finish(self) -> Parameters:
        """What was fitted; a column of which no training row knows a value keeps its values as they are."""
        assert self.is_done, "a pass is missing"
        return Parameters(self._spec, self._features, tuple(self._fitted(f) for f in range(len(self._policies))))

    def _go_on(self) -> None:
        """Once bounds are known, a z-score of what they clip takes one pass more."""
        if self._sums is not None or not self._selection.is_done or self._bounds is not None:
            return
        self._bounds = [self._bound(f) for f in range(len(self._policies))]
        if any(policy.outliers != "none" and policy.normalization == "zscore" for policy in self._policies):
            self._clipped = Sums(len(self._policies))

    def _bound(self, f: int) -> tuple[float, float]:
        """What column f is clipped to; unbounded where nothing is known or the bound is beyond all floats."""
        policy, lower, upper = self._policies[f], -np.inf, np.inf
        if policy.deviations is not None and self._moments is not None and self._moments[f].known:
            reach = float(policy.deviations) * self._moments[f].deviation
            lower, upper = self._moments[f].mean - reach, self._moments[f].mean + reach
        elif policy.quantiles is not None:
            found = self._selection.quantiles(f)[:2]
            lower, upper = (found[0], found[1]) if not np.isnan(found[0]) else (lower, upper)
        return lower, upper

    def _fitted(self, f: int) -> Fitted:
        assert self._bounds is not None
        policy, (lower, upper) = self._policies[f], self._bounds[f]
        if policy.outliers == policy.normalization == "none":
            return Fitted()
        moments = self._moments[f] if self._moments is not None else None
        known, offset, scale = moments.known if moments is not None else self._selection.known(f), 0.0, 1.0
        if policy.normalization == "zscore" and known:
            used = self._of_clipped[f] if self._of_clipped is not None else moments
            assert used is not None
            offset, scale = used.mean, used.deviation
        elif policy.normalization == "robust" and known:
            low, offset, high = self._selection.quantiles(f, lower, upper)[-3:]
            scale = high - low
        elif policy.normalization == "minmax" and known:
            assert moments is not None
            offset = min(max(moments.lowest, lower), upper)
            scale = min(max(moments.highest, lower), upper) - offset
        # A column that never varies in training has no scale: its values keep their distance to it.
        scale = scale if isfinite(scale) and scale > 0 else 1.0
        return Fitted(known, lower if isfinite(lower) else None, upper if isfinite(upper) else None, offset, scale)


def _needs_moments(policy: Policy) -> bool:
    return policy.deviations is not None or policy.normalization in ("zscore", "minmax")


def _shares(policy: Policy) -> list[Fraction]:
    """The quantiles that a column needs, those of its bounds first."""
    return [*(policy.quantiles or ()), *(_QUARTILES if policy.normalization == "robust" else ())]
