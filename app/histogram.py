"""Histograms that take a whole array at once; prometheus_client's own take one value a call.

Input: arrays of samples.
Output: Prometheus histograms, cumulative counts per bucket.
State: one count per bucket and label value.
Units: those of the edges; of ages nanoseconds in, seconds out.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

from schemas.columns import Int64
from schemas.units import NS_PER_S
from tables.compiled import cached

SECONDS: Final = (
    0.001, 0.002, 0.003, 0.005, 0.007, 0.010, 0.015, 0.020, 0.030, 0.050, 0.070, 0.100,
    0.150, 0.200, 0.300, 0.500, 0.700, 1.0, 2.0, 3.0, 5.0, 10.0,
)  # fmt: skip
"""Edges of what should take milliseconds; 70 ms is the bound vectors are held to."""

LONG_SECONDS: Final = (*SECONDS, 30.0, 60.0, 300.0, 3600.0)
RECORDS: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0, 100_000.0)


@cached({"nogil": True})
def _count_ages(now: int, times: Int64, edges: Int64, counts: Int64) -> float:
    """Count the ages into buckets; returns their sum. Neighbours are alike: each search begins where the last ended."""
    total, place = 0.0, 0
    for i in range(len(times)):
        age = max(now - times[i], 0)
        while place < len(edges) and age > edges[place]:
            place += 1
        while place > 0 and age <= edges[place - 1]:
            place -= 1
        counts[place] += 1
        total += age
    return total


def prepare() -> None:
    """Compile what counts, before an event loop would wait for it."""
    Counts(SECONDS).observe_ages(0, np.empty(0, np.int64))


class Counts:
    """Samples of one label value. A sample on an edge belongs to the bucket below it, as Prometheus counts."""

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges_list, self._edges = list(edges), np.array(edges, np.float64)
        self._edges_ns = np.rint(self._edges * NS_PER_S).astype(np.int64)
        self._lock = threading.Lock()
        self._counts = np.zeros(len(edges) + 1, np.int64)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """One sample, as `observe_many` counts it."""
        value = max(value, 0.0)
        place = bisect_left(self._edges_list, value)
        with self._lock:
            self._counts[place] += 1
            self._sum += value

    def observe_many(self, values: NDArray[Any]) -> None:
        """[n] samples. One below zero, as a clock that is behind makes them, counts as zero; NaN must not be there."""
        values = np.maximum(values, 0.0)
        places = np.searchsorted(self._edges, values, side="left")
        self._add(np.bincount(places, minlength=len(self._counts)), float(values.sum()))

    def observe_ages(self, now_ns: int, times_ns: Int64) -> None:
        """[n] samples `now - time` in seconds; some 3 ns for each. A time to come counts as now."""
        counts = np.zeros(len(self._counts), np.int64)
        total_ns = _count_ages(now_ns, times_ns, self._edges_ns, counts)
        self._add(counts, total_ns / NS_PER_S)

    def _add(self, counts: NDArray[np.int64], total: float) -> None:
        with self._lock:
            self._counts += counts
            self._sum += total

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """(edge, samples at or below it) with +Inf last, and the sum of all samples."""
        with self._lock:
            counts, total = np.cumsum(self._counts).tolist(), self._sum
        edges = [*map(repr, self._edges_list), "+Inf"]
        return list(zip(edges, counts, strict=True)), total


class Histogram(Collector):
    """One metric: `Counts` per label values."""

    def __init__(
        self, name: str, documentation: str, edges: Sequence[float], labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._name, self._documentation = name, documentation
        self._edges, self._labelnames = edges, tuple(labels)
        self._children: dict[tuple[str, ...], Counts] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def labels(self, *values: str) -> Counts:
        """The samples with these label values, in the order of the labels."""
        assert len(values) == len(self._labelnames), f"{self._name} has the labels {self._labelnames}"
        with self._lock:
            if values not in self._children:
                self._children[values] = Counts(self._edges)
            return self._children[values]

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The metric without samples."""
        yield self._family()

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The metric as it is now."""
        family = self._family()
        with self._lock:
            children = list(self._children.items())
        for values, counts in children:
            family.add_metric(values, *counts.buckets())
        yield family

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)
