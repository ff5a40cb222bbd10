"""The last Tick of each partition of a tape, read backwards from its end.

Input: the tape on the broker.
Output: Tick times, None for a partition without one in its newest part.
Errors: KafkaException when the broker does not answer; whatever `still` raises, which is called between fetches.
Units: ns UTC; offsets; records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from app.clock import PAUSE_MAX_NS
from app.config import Settings
from app.connection import BROKER_ANSWER_S, librdkafka
from app.topics import CLOCK_ROLE, groups
from schemas.codec import TapeCodec
from schemas.errors import RecordRefused
from schemas.events import Kind
from schemas.limits import RECORDS_SEARCHED_MAX
from schemas.topics import CLOCK_KEY
from schemas.units import NS_PER_MS

FIRST_RECORDS: Final = 256
GROWTH: Final = 8
"""Each read back is so many times as long as the one before it: a clock that was just laid is found at once."""
OLD_MS: Final = 2 * PAUSE_MAX_NS // NS_PER_MS
"""Behind a record that came so long before the newest there is no Tick worth finding: the clock begins anew."""
FETCH_RECORDS: Final = 10_000
FETCH_S: Final = 0.1


class _Part:
    """What is known of one partition: [start, end) is read next."""

    def __init__(self, low: int, end: int) -> None:
        self._low, self._top = low, end
        self.start = self.end = end
        self.tick: int | None = None
        self._oldest_ms = self._newest_ms = 0

    def step_back(self, records: int) -> bool:
        """Move to the records before those read. False if there is nothing more to find."""
        is_old = self._newest_ms - self._oldest_ms > OLD_MS
        if self.tick is not None or self.start <= self._low or is_old or self._top - self.start >= RECORDS_SEARCHED_MAX:
            return False
        self.end, self.start = self.start, max(self._low, self.start - records)
        self._oldest_ms = 0
        return True

    def note(self, sent_ms: int, tick: int | None) -> None:
        """A record of [start, end), in order. A late Tick may stand behind a higher one."""
        self._oldest_ms = self._oldest_ms or sent_ms
        self._newest_ms = max(self._newest_ms, sent_ms)
        if tick is not None:
            self.tick = max(tick, self.tick or 0)


def last_ticks(settings: Settings, tape: str, codec: TapeCodec, still: Callable[[], None]) -> list[int | None]:
    """[partitions] the last Tick, as far back as it matters."""
    consumer = Consumer(  # joins no group and commits nothing; a broker asks all the same whether it may read as one
        {**librdkafka(settings), "group.id": groups(settings)[CLOCK_ROLE], "enable.auto.commit": False,
         "auto.offset.reset": "earliest", "enable.partition.eof": True, "log_level": 0}
    )  # fmt: skip
    parts: list[_Part] = []
    try:
        for partition in range(settings.partitions):
            still()
            place = TopicPartition(tape, partition)
            parts.append(_Part(*consumer.get_watermark_offsets(place, timeout=BROKER_ANSWER_S)))
        records = FIRST_RECORDS
        while wanted := {p: part for p, part in enumerate(parts) if part.step_back(records)}:
            _read(consumer, tape, wanted, codec, still)
            records *= GROWTH
    finally:
        consumer.close()
    return [part.tick for part in parts]


def _read(
    consumer: Consumer, tape: str, parts: Mapping[int, _Part], codec: TapeCodec, still: Callable[[], None]
) -> None:
    """Read [start, end) of each partition. Records that retention has deleted meanwhile are passed over."""
    consumer.assign([TopicPartition(tape, partition, part.start) for partition, part in parts.items()])
    left = set(parts)
    while left:
        still()
        done = {partition for message in consumer.consume(FETCH_RECORDS, FETCH_S)
                for partition in _noted(message, parts, codec)} & left  # fmt: skip
        if done:
            consumer.incremental_unassign([TopicPartition(tape, partition) for partition in done])
            left -= done


def _noted(message: Message, parts: Mapping[int, _Part], codec: TapeCodec) -> list[int]:
    """Note a record. Its partition, if that was the last one."""
    partition, offset, error = message.partition(), message.offset(), message.error()
    if partition is None or (error is not None and error.code() != KafkaError._PARTITION_EOF):
        raise KafkaException(error)
    if error is not None or offset is None:
        return [partition]
    part = parts[partition]
    if offset < part.end:
        part.note(message.timestamp()[1], _tick(codec, message))
    return [partition] if offset >= part.end - 1 else []


def _tick(codec: TapeCodec, message: Message) -> int | None:
    """The time of a Tick, None for any other record."""
    key = message.key()
    if key != CLOCK_KEY.encode():
        return None
    try:
        event = codec.decode(key, message.value())
    except RecordRefused:
        return None
    return int(event.body["time"]) if event.kind is Kind.TICK else None
