"""A bare aiokafka consumer: reads the tape with the worker's own fetch sizes, and does nothing with it.

Run as `python -m app.bench.rivals.bare RECORDS`, settings in the environment; prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from aiokafka import AIOKafkaConsumer

from app.bench.curve import SKIPPED
from app.config import Settings, load_settings
from app.fetching import FETCH_WAIT_MS
from app.roles.role import FETCH_BYTES
from app.topics import groups, wire_topic
from app.transport import FETCH_RECORDS
from app.worker import stop_with_parent
from schemas.topics import TAPE


async def consume(settings: Settings, records: int) -> dict[str, float]:
    """Read so many records. The first fifth is not counted, as with every side."""
    consumer = AIOKafkaConsumer(
        wire_topic(settings, TAPE), bootstrap_servers=settings.brokers, group_id=f"{groups(settings)['features']}-bare",
        auto_offset_reset="earliest", enable_auto_commit=False, max_partition_fetch_bytes=FETCH_BYTES,
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )  # fmt: skip
    await consumer.start()
    read = counted = 0
    at_once = min(FETCH_RECORDS, 1 + records // 20)  # of a small tape the first fifth is several fetches, too
    began = cpu = 0.0
    while read < records:
        fetched = await consumer.getmany(timeout_ms=1_000, max_records=at_once)
        count = sum(map(len, fetched.values()))
        read += count
        if began:
            counted += count
        elif read >= SKIPPED * records:
            began, cpu = time.perf_counter(), time.process_time()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    await consumer.stop()
    return {"events_per_s": counted / seconds, "share": cpu / seconds}


def main() -> None:
    """Entry point."""
    stop_with_parent()
    found = asyncio.run(consume(load_settings(), int(sys.argv[1])))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
