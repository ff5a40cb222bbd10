"""The metrics of the live path, in base units; nothing is labelled by instrument.

Output: `REGISTRY`, in Prometheus's text format by whoever serves it.
Units: as each name says.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter

REGISTRY: Final = CollectorRegistry()

vectors_total: Final = Counter(
    "vectors_total", "Vectors the broker has acknowledged.", ["feature_set"], registry=REGISTRY
)
