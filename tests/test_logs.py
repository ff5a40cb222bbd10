"""The log of a worker whose broker is away: one line that says what to do, not a flood."""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket

import pytest
from aiokafka import client
from aiokafka.consumer import fetcher, group_coordinator
from aiokafka.errors import KafkaConnectionError

from app.logs import AWAY, AWAY_S, BrokerAway

SOURCES = {module.log.name: inspect.getsource(module) for module in (client, fetcher, group_coordinator)}


def test_the_messages_are_those_of_aiokafka() -> None:
    found = {name: [each for each in begins if each in SOURCES[name]] for name, begins in AWAY.items()}
    assert found == {name: list(begins) for name, begins in AWAY.items()}


def test_a_broker_that_is_away_is_one_line_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """A real client and a port where nobody listens; a fifth of that while passes with each of its tries."""
    now_s = 0.0
    away, logger = BrokerAway(lambda: now_s), logging.getLogger(client.log.name)
    # A worker that another test ran in this process has left its own.
    others_filters, logger.filters = logger.filters, []

    async def ask(port: int) -> None:
        nonlocal now_s
        asking = client.AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{port}")
        for _ in range(11):
            with pytest.raises(KafkaConnectionError):
                await asking.bootstrap()
            now_s += AWAY_S / 5

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        logger.addFilter(away)
        try:
            asyncio.run(ask(taken.getsockname()[1]))
            logger.error("another message")
        finally:
            logger.filters = others_filters
    ours = [record for record in caplog.records if record.name == logger.name and record.levelno >= logging.ERROR]
    first, *others, last = [record.getMessage() for record in ours]
    assert first.startswith('a Kafka broker does not answer: Unable connect to "127.0.0.1:')
    assert "more such lines" not in first
    assert all("(4 more such lines" in line for line in others)
    assert (len(others), last) == (2, "another message")
    assert all("Action: see that the brokers run" in line for line in (first, *others))
