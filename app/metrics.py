"""The metrics of the live path, in base units; nothing is labelled by instrument.

Output: `REGISTRY`, in Prometheus's text format at `/metrics` (app/web.py); docs/metrics.md lists all of it.
Units: as each name says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from app.histogram import LONG_SECONDS, RECORDS, SECONDS, Histogram

REGISTRY: Final = CollectorRegistry()
disable_created_metrics()  # type: ignore[no-untyped-call]  # when each counter began: a sample more for every one, which nobody asks for
PROCESS: Final = ProcessCollector(registry=REGISTRY)


class Consuming(Protocol):
    """A role's consumer, as far as it is asked at each scrape."""

    def lag(self) -> Mapping[tuple[str, int], int]:
        """Records not handed over yet, by topic and partition."""

    def missed(self) -> int:
        """Records that were gone before they were read."""


class Consumers(Collector):
    """What is not counted but looked up when somebody asks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._roles: dict[str, Consuming] = {}
        registry.register(self)

    def follow(self, role: str, consuming: Consuming) -> None:
        """Export a role from now on."""
        self._roles[role] = consuming

    def describe(self) -> Iterator[Metric]:
        """The metrics without samples."""
        yield from self._families()

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        lag, missed = self._families()
        for role, consuming in self._roles.items():
            for (topic, partition), records in consuming.lag().items():
                lag.add_metric([role, topic, str(partition)], records)
            missed.add_metric([role], consuming.missed())
        yield from (lag, missed)

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, CounterMetricFamily]:
        lag = "Records on the broker that the role's agent was not given yet."
        missed = "Records that were gone from the broker before they were read."
        return (
            GaugeMetricFamily("consumer_lag_records", lag, labels=["role", "topic", "partition"]),
            CounterMetricFamily("records_missed", missed, labels=["role"]),
        )


consumers: Final = Consumers(REGISTRY)

event_to_vector: Final = Histogram(
    "event_to_vector_seconds",
    "From an event's ts_recv to the acknowledgement of the first vectors it is in, the wait for their Tick included.",
    SECONDS, ["feature_set"], REGISTRY,
)  # fmt: skip
tick_to_vector: Final = Histogram(
    "tick_to_vector_seconds",
    "From a vector's T to the broker's acknowledgement of it.",
    SECONDS, ["feature_set"], REGISTRY,
)  # fmt: skip
event_to_readable: Final = Histogram(
    "event_to_readable_seconds",
    "From an event's ts_recv until a vector it is in can be read in Redis, where one worker does both.",
    SECONDS, ["feature_set"], REGISTRY,
)  # fmt: skip
tick_to_readable: Final = Histogram(
    "tick_to_readable_seconds",
    "From a vector's T until it can be read in Redis.",
    SECONDS, ["feature_set"], REGISTRY,
)  # fmt: skip

batch_records: Final = Histogram("batch_records", "Records of a batch handed to an agent.", RECORDS, ["role"], REGISTRY)
epoch_seconds: Final = Histogram(
    "epoch_seconds",
    "From the first batch of an epoch until all of it is saved and acknowledged.",
    LONG_SECONDS, ["role"], REGISTRY,
)  # fmt: skip

vectors_total: Final = Counter(
    "vectors_total", "Vectors the broker has acknowledged.", ["feature_set"], registry=REGISTRY
)
vectors_flagged_total: Final = Counter(
    "vectors_flagged_total", "Vectors with a quality flag.", ["feature_set", "flag"], registry=REGISTRY
)
dead_letters_total: Final = Counter(
    "dead_letters_total", "Records refused and buried as dead letters.", ["reason"], registry=REGISTRY
)
saved_symbols_total: Final = Counter("saved_symbols_total", "States saved, one per symbol and save.", registry=REGISTRY)
saved_bytes_total: Final = Counter("saved_bytes_total", "Bytes of the states saved.", registry=REGISTRY)
ready_published_total: Final = Counter(
    "ready_published_total", "Vectors told of in features.ready.v1.", ["feature_set"], registry=REGISTRY
)
ready_suppressed_total: Final = Counter(
    "ready_suppressed_total",
    "Vectors not told of, for no feature moved by more than the threshold.",
    ["feature_set"], registry=REGISTRY,
)  # fmt: skip

ready_overtaken_total: Final = Counter(
    "ready_overtaken_total",
    "Vectors never served: newer ones took their place while Redis took nothing.",
    ["feature_set"], registry=REGISTRY,
)  # fmt: skip
redis_up: Final = Gauge(
    "redis_up", "1 if Redis took the latest vectors when it was last offered some.", ["feature_set"], registry=REGISTRY
)

clock_lag: Final = Histogram(
    "clock_lag_seconds", "From T until Tick T is acknowledged in every partition, by the leader.", SECONDS, [], REGISTRY
)
clock_is_leader: Final = Gauge("clock_is_leader", "1 while this worker lays the Ticks.", registry=REGISTRY)
clock_jumps: Final = Counter(
    "clock_jumps_total", "How often the leader's host clock was set by a second or more.", registry=REGISTRY
)
