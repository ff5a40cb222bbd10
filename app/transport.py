"""The seam between Faust and whole batches: one Faust message per fetched batch of one partition.

Faust hands over one record at a time and acknowledges one offset at a time. Here the consumer folds what one fetch
brought of a source topic into `RawBatch` messages whose offset is the batch's last, and keeps the books itself: the
`Deliveries` of a partition know which batches were handed over and which are acknowledged, so what is committed is the
last offset of the unbroken run of acknowledged batches, plus one. Changelog topics are folded as well, for a record at
a time takes Faust 0.1 ms, but nobody acknowledges them: Faust recovers its tables as ever.

Input: what aiokafka fetched.
Output: Faust messages with a `RawBatch` as value; committed offsets.
State: the deliveries of each assigned partition of a source topic; they begin anew with every assignment and seek.
Errors: ProducerSendError from `before_commit` crashes the app before the commit, as Faust does for its own producer.
Source: faust-streaming 0.15.3, faust/transport/consumer.py and faust/transport/drivers/aiokafka.py.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from aiokafka.errors import IllegalStateError, KafkaConnectionError, KafkaTimeoutError
from faust.transport.consumer import RecordMap
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, AppT, ConsumerMessage, Message
from faust.types.tuples import ack_lock
from mode.utils.futures import notify
from yarl import URL

from agents.ports import RawBatch
from app.fetching import ConsumerThread
from schemas.topics import partition_of

logger = logging.getLogger(__name__)

FETCH_RECORDS = 10_000
"""Records one poll brings at most, over all partitions; batches of `batch_size` are cut out of it."""

AGAIN_S = 1.0
"""How long a fetch is waited for that shows whether records are there."""

BeforeCommit = Callable[[Mapping[TP, int]], Awaitable[None]]
"""Told what is about to be committed; the commit waits for it."""
HandOver = Callable[[], Awaitable[object]]


class Deliveries:
    """Delivered batches of one partition in offset order without a hole, and which of them are acknowledged."""

    def __init__(self, start: int) -> None:
        """`start` is the offset the first batch has to begin with."""
        self.next = start
        self._open: deque[int] = deque()
        self._acked: set[int] = set()
        self._safe: int | None = None

    def deliver(self, last: int) -> None:
        """Note a batch from `next` to `last`."""
        self.next = last + 1
        self._open.append(last)

    def ack(self, last: int) -> bool:
        """The batch that ends with `last` may be committed. False if it is not open."""
        if last in self._acked or last not in self._open:
            return False
        self._acked.add(last)
        while self._open and self._open[0] in self._acked:
            done = self._open.popleft()
            self._acked.remove(done)
            self._safe = done + 1
        return True

    def committable(self) -> int | None:
        """The offset to commit: one after the last batch before which no batch is open. None if there is none."""
        return self._safe


class Consumer(driver.Consumer):
    """Faust's Kafka consumer, with batches for the source topics."""

    transport: Transport

    def __init__(self, transport: Transport, *args: Any, **kwargs: Any) -> None:
        self._sources, self._folded = transport.sources, transport.sources | transport.changelogs
        self._deliveries: dict[TP, Deliveries] = {}
        self._on_broker: dict[TP, int] = {}
        self._dropped: set[TP] = set()
        self.missed = 0
        """Offsets passed because the broker has no records there, since this consumer was made."""
        super().__init__(transport, *args, **kwargs)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, self._folded, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncGenerator[tuple[TP, Message], None]:
        """What was fetched, one message after another; batches only where each continues the one before it.

        Around a rebalance Faust drops messages it has fetched already, and moves on as if they had been processed. The
        deliveries do not: what does not continue them is fetched again. The fetch's other partitions are unaffected.
        """
        if not self.app.rebalancing:
            again, self._dropped = self._dropped, set()
            for tp in again:
                await self._fetch_again(tp)
        fetched = cast(AsyncGenerator[tuple[TP, Message], None], super().getmany(timeout))
        dropped: set[TP] = set()
        async with aclosing(fetched):
            async for tp, message in fetched:
                if message.topic in self._sources:
                    if self.app.rebalancing:
                        self._dropped.add(tp)  # agents lose it; whether more will come to show that is not known
                        continue
                    if tp in dropped:
                        continue
                    if not self._continues(tp, message):
                        dropped.add(tp)
                        await self._fetch_again(tp)
                        continue
                    self._read_offset[tp] = None  # Faust drops what is below it
                yield tp, message

    def _continues(self, tp: TP, message: Message) -> bool:
        """Note the batch if it continues the partition's deliveries."""
        deliveries, batch = self._deliveries.get(tp), cast(RawBatch, message.value)
        if deliveries is None or batch.offsets[0] != deliveries.next:
            return False
        deliveries.deliver(batch.offsets[-1])
        return True

    async def _fetch_again(self, tp: TP) -> None:
        """Seek to where the deliveries end; behind a hole, and say so, where the broker has no record at that offset.

        A hole is one only if the broker's first offset is behind the deliveries' end, or if a fetch that began there
        brought a later one. Nobody else fetches meanwhile, and a rebalance begins new deliveries.
        """
        deliveries = self._deliveries.get(tp)
        if deliveries is None:
            return
        try:
            first = (await self.earliest_offsets(tp))[tp]
            if first <= deliveries.next:
                await self.seek_wait({tp: deliveries.next})
                found = (await self._getmany({tp}, AGAIN_S)).get(tp)
                first = found[0].offsets[0] if found else deliveries.next
            if self._deliveries.get(tp) is not deliveries:
                return
            if first > deliveries.next:
                self._pass_hole(tp, deliveries, first)
            await self.seek_wait({tp: deliveries.next})
        except IllegalStateError:
            if tp in self.assignment():
                raise
        except (KafkaConnectionError, KafkaTimeoutError):
            self._dropped.add(tp)  # the broker is away: asked again before the next fetch

    def _pass_hole(self, tp: TP, deliveries: Deliveries, first: int) -> None:
        """Go on behind records that are gone.

        Nothing is put in their place. A book whose deltas were among them shows it: the next delta does not continue
        the chain. Windows of trades do not: this error line is all there is to know it by.
        """
        self.missed += first - deliveries.next
        logger.error(
            "offsets %d to %d of %s partition %d are not on the broker any more: "
            "its retention is shorter than this worker's lag (%d offsets missed since the start)",
            deliveries.next, first - 1, tp.topic, tp.partition, self.missed,
        )  # fmt: skip
        deliveries.next = first

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> RecordMap:
        fetched = await super()._getmany(active_partitions, timeout)
        return {
            tp: list(self._cut(tp, records)) if tp.topic in self._folded else records for tp, records in fetched.items()
        }

    def _cut(self, tp: TP, records: Sequence[Any]) -> Iterator[RawBatch]:
        size = self.transport.batch_size
        for at in range(0, len(records), size):
            part = records[at : at + size]
            yield RawBatch(
                tp.topic, tp.partition, [record.offset for record in part],
                [record.key for record in part], [record.value for record in part],
            )  # fmt: skip

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        if not isinstance(record, RawBatch):
            return super()._to_message(tp, record)
        value: Any = record  # Faust's hint says bytes; it hands the value on as it is
        return ConsumerMessage(
            tp.topic, tp.partition, record.offsets[-1], timestamp=0.0, timestamp_type=0, headers=None, key=None,
            value=value, checksum=None, serialized_key_size=0, serialized_value_size=0, tp=tp,
            generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Faust takes skipped offsets for acknowledged ones; inside a batch they are not."""
        if tp.topic not in self._sources:
            await super()._add_gap(tp, offset_from, offset_to)

    def ack(self, message: Message) -> bool:
        """Acknowledge a batch. One of an earlier assignment counts for nothing."""
        if message.topic not in self._sources:
            return bool(super().ack(message))
        with ack_lock:
            if message.acked:
                return False
            message.acked = True
            self._unacked_messages.discard(message)
            notify(self._waiting_for_ack)
            if message.generation_id != self.app.consumer_generation_id:
                return False
            self._acked[message.tp]  # Faust commits the partitions that have an entry here
            deliveries = self._deliveries.get(message.tp)
            return deliveries is not None and deliveries.ack(message.offset)

    def _new_offset(self, tp: TP) -> int | None:
        if tp.topic not in self._sources:
            return super()._new_offset(tp)
        deliveries = self._deliveries.get(tp)
        return None if deliveries is None else deliveries.committable()

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Faust notes offsets as committed even if the broker refused them; we do not."""
        is_done = bool(await super()._commit(offsets))
        if is_done:
            self._on_broker.update(offsets)
        return is_done

    def lag(self, handed: Mapping[tuple[str, int], int]) -> dict[TP, int]:
        """Records of each assigned partition from `handed` on, or else from the first not delivered, where known."""
        found = {}
        for tp, deliveries in self._deliveries.items():
            end = self.highwater(tp)
            if end is not None:
                found[tp] = max(0, end - handed.get((tp.topic, tp.partition), deliveries.next))
        return found

    def uncommitted(self) -> set[TP]:
        """Partitions with acknowledged batches whose commit the broker has not confirmed."""
        ends = {tp: deliveries.committable() for tp, deliveries in self._deliveries.items()}
        return {tp for tp, end in ends.items() if end is not None and self._on_broker.get(tp) != end}

    async def _handle_attached(self, commit_offsets: Mapping[TP, int]) -> None:
        await super()._handle_attached(commit_offsets)
        await self.transport.before_commit(commit_offsets)

    async def perform_seek(self) -> None:
        """Seek to the committed offsets; a partition without one to its beginning: Faust would leave it where it is."""
        await super().perform_seek()
        starts = {tp: self._committed_offset[tp] for tp in self.assignment() if tp.topic in self._sources}
        fresh = [driver.ensure_aiokafka_TP(tp) for tp, start in starts.items() if start is None]
        if fresh:
            await self._thread.seek_to_beginning(*fresh)
            starts |= await self.earliest_offsets(*fresh)
        self._deliveries = {tp: Deliveries(start or 0) for tp, start in starts.items()}

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Before partitions go to another worker: save and commit what is done, then forget them."""
        await self.transport.before_revoke()
        await self.commit()
        for tp in revoked:
            self._deliveries.pop(tp, None)
        await super().on_partitions_revoked(revoked)


class Producer(driver.Producer):
    """Faust's producer, which only its router asks here, for the partition of an instrument.

    It would look in the metadata of topics it produces to; there are none, for app/producer.py does that.
    """

    def key_partition(self, topic: str, key: bytes) -> TP:
        """Partition of an instrument's records, and of its state."""
        return TP(topic, partition_of(key.decode(), self.app.conf.topic_partitions))


class Transport(driver.Transport):
    """Faust's Kafka transport, with batches for `sources` and `changelogs`; put in by `app.transport = Transport(...)`.

    `before_commit` is awaited with the offsets about to be committed and raises ProducerSendError to prevent it.
    `before_revoke` is awaited before partitions are given up: what is acknowledged on its return is committed.
    """

    Consumer = Consumer
    Producer = Producer

    def __init__(
        self,
        url: list[URL],
        app: AppT,
        *,
        sources: frozenset[str],
        changelogs: frozenset[str] = frozenset(),
        batch_size: int,
        before_commit: BeforeCommit,
        before_revoke: HandOver,
    ) -> None:
        super().__init__(url, app)
        self.sources, self.changelogs = sources, changelogs
        self.batch_size = batch_size
        self.before_commit = before_commit
        self.before_revoke = before_revoke
