"""Histograms of whole arrays count what prometheus_client counts one by one."""

from __future__ import annotations

import numpy as np
import prometheus_client
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from app.histogram import SECONDS, Histogram

NOW = 1_700_000_000_000_000_000
AGES = st.lists(st.integers(-(10**9), 20 * 10**9) | st.sampled_from([round(edge * 1e9) for edge in SECONDS]))


def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    found = {}
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                found[sample.name, sample.labels.get("le", "")] = sample.value
    return found


@settings(deadline=None)  # the first call compiles
@given(AGES)
@example([0, 70_000_000, 70_000_001, 69_999_999])
def test_a_histogram_of_arrays_counts_as_prometheus_does(ages: list[int]) -> None:
    theirs, ours, of_ages, singly = (CollectorRegistry() for _ in range(4))
    single = prometheus_client.Histogram("wait_seconds", "A wait.", buckets=SECONDS, registry=theirs)
    for age in ages:
        single.observe(max(age, 0) / 1e9)
    many = Histogram("wait_seconds", "A wait.", SECONDS, [], ours).labels()
    many.observe_many(np.array(ages, np.int64) / 1e9)
    aged = Histogram("wait_seconds", "A wait.", SECONDS, [], of_ages).labels()
    aged.observe_ages(NOW, NOW - np.array(ages, np.int64))
    one_by_one = Histogram("wait_seconds", "A wait.", SECONDS, [], singly).labels()
    for age in ages:
        one_by_one.observe(age / 1e9)
    expected = samples(theirs)
    for registry in (ours, of_ages, singly):
        found = samples(registry)
        assert found.keys() == expected.keys()
        total = found.pop(("wait_seconds_sum", ""))
        assert np.isclose(total, expected["wait_seconds_sum", ""], rtol=1e-12, atol=1e-12)
        assert all(value == expected[key] for key, value in found.items())


def test_label_values_are_counted_apart() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("batch_records", "Records.", (10.0,), ["role"], registry)
    histogram.labels("features").observe(10)
    histogram.labels("latest").observe(11)
    histogram.labels("features").observe(1)
    text = prometheus_client.generate_latest(registry).decode()
    assert 'batch_records_bucket{le="10.0",role="features"} 2.0' in text
    assert 'batch_records_bucket{le="10.0",role="latest"} 0.0' in text
    assert 'batch_records_sum{role="latest"} 11.0' in text
