"""Asking a broker what there is."""

from __future__ import annotations

from confluent_kafka.admin import AdminClient

from app.config import load_settings
from app.connection import Admin

RTT_MS = 700
"""Three answers in a row take this long each: together less than the time there is."""


def test_a_slow_broker_is_waited_for() -> None:
    host = AdminClient({"test.mock.num.brokers": 1, "test.mock.broker.rtt": RTT_MS, "log_level": 0})
    there = host.list_topics(timeout=30)
    (broker,) = there.brokers.values()
    found = Admin(load_settings(brokers=f"{broker.host}:{broker.port}")).cluster()
    assert found.cluster_id == there.cluster_id
