"""The thread that fetches: Faust's own, with a shorter wait on the broker, and without an object per record.

Input: the broker's answers, as aiokafka has parsed them.
Output: per partition, records with `offset`, `key`, `value`; ConsumerRecords for topics that are not folded.
State: what was fetched and not asked for yet, in aiokafka's fetcher.
Source: aiokafka 0.14.0, aiokafka/consumer/fetcher.py; faust-streaming 0.15.3, faust/transport/drivers/aiokafka.py.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiokafka.consumer.fetcher import FetchError, FetchResult
from faust.transport.consumer import RecordMap
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.threads import ServiceThread, WorkerThread

FETCH_WAIT_MS: Final = 100
"""How long the broker may hold back an answer without records."""


class Fetched(dict[Any, FetchResult | FetchError]):
    """What aiokafka's fetcher keeps until it is asked; records of folded topics as its parser gives them.

    It wraps each in a ConsumerRecord, a frozen dataclass of eleven fields: half of what reading a record costs,
    and nothing a batch needs.
    """

    def __init__(self, folded: frozenset[str]) -> None:
        super().__init__()
        self._folded = folded

    def __setitem__(self, tp: Any, result: FetchResult | FetchError) -> None:
        if isinstance(result, FetchResult) and tp.topic in self._folded:
            result._partition_records._consumer_record = _as_it_is
        super().__setitem__(tp, result)


def _as_it_is(tp: Any, record: Any) -> Any:
    return record


class DaemonThread(WorkerThread):
    """Does not hold up the end of the process: it cannot be stopped while it waits for a broker that is gone."""

    def __init__(self, service: ServiceThread, **kwargs: Any) -> None:
        super().__init__(service, **kwargs)
        self.daemon = True


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's aiokafka thread with a shorter wait on the broker, and fetches that lose nothing and wrap nothing.

    aiokafka has one fetch under way per broker; one that asks only for silent partitions holds up the busy ones for as
    long as it waits, and Faust has 1.5 s written into its code.

    A fetch waits for up to a second with the very set of partitions that a rebalance empties meanwhile, and aiokafka
    takes an empty set for all of them. What it then brings Faust drops: a changelog that was just sought to its
    beginning would be at its end, and the recovery would wait for it for good.
    """

    Worker = DaemonThread

    def __init__(self, consumer: Any, folded: frozenset[str], **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._folded = folded

    async def on_start(self) -> None:
        """Connect; what is fetched of folded topics stays as it is read from then on."""
        await super().on_start()
        fetcher = self._ensure_consumer()._fetcher
        fetcher._records = Fetched(self._folded)

    def _create_worker_consumer(self, transport: driver.Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def _fetch_records(
        self, consumer: Any, active_partitions: set[TP] | None, timeout: float | None = None,
        max_records: int | None = None,
    ) -> RecordMap:  # fmt: skip
        """Records of what was active when it began; what is not any more is put back, before anybody else can seek."""
        wanted: Any = None if active_partitions is None else set(active_partitions)
        fetched = await super()._fetch_records(consumer, wanted, timeout, max_records)
        kept = {tp: records for tp, records in fetched.items() if self._is_taken(tp, active_partitions)}
        for tp in (fetched.keys() - kept.keys()) & consumer.assignment():
            consumer.seek(tp, fetched[tp][0].offset)
        return kept

    async def on_thread_stop(self) -> None:
        """Leave the group and close the consumer, whatever becomes of its connections meanwhile.

        aiokafka does not leave a group in which it has a name (app/membership.py): nobody else would have the
        partitions until its session has timed out. And a broker may close a connection while we leave. aiokafka then
        cancels a fetch that waits to try again, and takes that for its own cancellation: it would leave its client open
        and the thread with a traceback.
        """
        if self._consumer is not None and self._consumer._coordinator is not None:  # None until it has started
            self._consumer._coordinator._group_instance_id = None
        try:
            await super().on_thread_stop()
        except asyncio.CancelledError:
            if self._consumer is not None:
                await self._consumer._client.close()

    def _is_taken(self, tp: TP, active_partitions: set[TP] | None) -> bool:
        """Whether Faust takes what was fetched of a partition."""
        faust = self.consumer
        is_active = active_partitions is None or tp in active_partitions or tp in faust._buffered_partitions
        return bool(faust.flow_active) and is_active
