"""The job as a Faust agent, as Faust's own documentation writes one: an event at a time, a send for each vector.

Run as `python -m app.bench.rivals.stock_faust`, settings in the environment, until it is stopped.
What it knows is in plain dictionaries; a table would make it slower.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import faust

from app.bench.rivals.job import Job
from app.config import Settings, load_settings
from app.roles.role import FETCH_BYTES
from app.topics import groups, wire_topic
from app.transport import FETCH_RECORDS
from app.worker import stop_with_parent
from schemas.feature_sets import load
from schemas.registry import open_registry
from schemas.topics import TAPE


def application(settings: Settings) -> faust.App:
    """The app with its one agent."""
    feature_set = load(settings.feature_sets)
    job = Job(open_registry(settings.registry), feature_set)
    app = faust.App(
        f"{groups(settings)['features']}-stock",
        broker=[f"kafka://{broker.strip()}" for broker in settings.brokers.split(",")],
        store="memory://", datadir=settings.data_dir, autodiscover=False, web_enabled=False,
        topic_allow_declare=False, topic_disable_leader=True, consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=FETCH_BYTES, broker_max_poll_records=FETCH_RECORDS,
    )  # fmt: skip
    raw: dict[str, Any] = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    tape = app.topic(wire_topic(settings, TAPE), **raw)
    output = app.topic(wire_topic(settings, feature_set.topic), **raw)

    @app.agent(tape)
    async def features(stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            made = job.take(message.partition, message.offset, event.key.decode(), event.value)
            for key, value in made:
                await output.send(key=key, value=value)

    return app


async def serve(settings: Settings) -> None:
    """Run until the app crashes."""
    app = application(settings)
    await app.start()
    await app.wait_for_stopped(asyncio.Event().wait())
    sys.exit(f"Faust crashed: {app.crash_reason}")


def main() -> None:
    """Entry point."""
    stop_with_parent()
    asyncio.run(serve(load_settings()))


if __name__ == "__main__":
    main()
