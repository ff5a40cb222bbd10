"""The clock's leader: one worker of all lays Tick T into every partition of the tape at wall time T.

Who leads is the member of a consumer group that has the one partition of `schemas.topics.CLOCK_LEADER`. A new leader
reads the last Tick of each partition and lays what is missing. Two leaders at once, as after a standstill, do no harm:
a late or doubled Tick is ignored wherever the tape is read.

Everything here runs in a thread of its own, so that Ticks do not wait for what the worker's event loop computes.

Input: the host's wall clock; the end of the tape.
Output: Ticks on the tape, in order and without a hole: the producer never gives up one Tick and delivers a later one.
State: the Ticks under way. Where the broker is slow, none is added beyond `UNDER_WAY_MAX`; they are laid afterwards.
Errors: `fail` gets what ends the worker, such as DeliveryFailed for a Tick that the broker refuses. A broker that is
    away is waited for.
Units: ns; wall time is UTC; _s seconds.
Source: librdkafka's cooperative-sticky assignor: members that join or leave do not take the partition from the leader.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from app import metrics
from app.clock import PAUSE_MAX_NS, tick
from app.config import Settings
from app.connection import FORBIDDEN_CODES, broker_failure, fatal, librdkafka, registry_of
from app.last_ticks import last_ticks
from app.live_clock import HostClock, LiveClock
from app.producer import refused
from app.roles.role import Fail
from app.topics import wire_topic
from schemas.codec import TapeCodec
from schemas.errors import AccessRefused, OnetapeError, UsageError
from schemas.topics import CLOCK_KEY, CLOCK_LEADER, TAPE
from schemas.units import BASE_TICK_NS, NS_PER_S

logger = logging.getLogger(__name__)

RESUME_MAX_NS: Final = 24 * 3_600 * NS_PER_S
"""An older tape is asked about before a live Tick goes into it."""
UNDER_WAY_MAX: Final = 10
"""Ticks, each in every partition: a second that the broker may take before no more are handed to it."""
QUEUE_MESSAGES: Final = 1_000_000
"""Room for a minute of Ticks in 1,024 partitions, the most that can ever be due at once."""
UNREAD_MAX: Final = 10
"""Attempts to read the end of the tape until that is told: partitions of a new topic have no leader at first."""
STOP_S: Final = 3.0
FLUSH_S: Final = 1.0
PURGED: Final = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)


class _Deposed(Exception):
    """Another one leads, or this one stops, before the end of the tape was read."""


def _ended(tape: str, paused_ns: int) -> UsageError:
    """Ticks cannot be taken back, and events of a recording would lie in windows of today."""
    return UsageError(
        f"{tape} has had no Tick for {paused_ns / (24 * 3_600 * NS_PER_S):.0f} days and looks like a recording",
        expected="a tape that is new, or whose last Tick is of the last 24 hours", was="an older one",
        action="give the live tape an ONETAPE_TOPIC_PREFIX of its own, or set ONETAPE_CLOCK_RESUME=true to go on",
    )  # fmt: skip


class ClockLeader:
    """A candidate for as long as the context lasts; `fail` is called from its thread, `wall` is the host's clock."""

    def __init__(self, settings: Settings, group: str, fail: Fail, wall: Callable[[], int] = time.time_ns) -> None:
        self._settings = settings
        self._tape = wire_topic(settings, TAPE)
        self._fail, self._wall, self._resumes = fail, wall, settings.clock_resume
        self._codec = TapeCodec(registry_of(settings))
        self._consumer = Consumer(_consumer_settings(settings, group), logger=logging.getLogger("librdkafka"))
        self._consumer.subscribe(
            [wire_topic(settings, CLOCK_LEADER)],
            on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke,
        )  # fmt: skip
        self._producer = Producer(_producer_settings(settings, group), logger=logging.getLogger("librdkafka"))
        self._still_s = settings.session_timeout_s / 2
        self._awake = time.monotonic()
        self._leads, self._stands = False, False
        self._clock: LiveClock | None = None
        self._host = HostClock()
        self._unread = 0
        self._under_way: Counter[int] = Counter()
        self._refused: KafkaError | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._wake()
                if self._refused is not None:
                    raise self._failure(self._refused)
                if self._leads:
                    self._lead()
                self._wait()
        except Exception as error:
            told = fatal(error)
            self._fail(error if told is None else self._failure(told))
        finally:
            self._leave()

    def _wake(self) -> None:
        """Note that this thread runs. After a standstill another one may have led: the end of the tape tells."""
        now = time.monotonic()
        if now - self._awake > self._still_s:
            logger.info("the clock's thread stood still for %.1f s", now - self._awake)
            self._clock = None
        self._awake = now

    def _leave(self) -> None:
        """Let what is under way arrive if it can, and another one lead at once."""
        self._producer.flush(FLUSH_S)
        self._resign()
        self._consumer.close()

    def _on_assign(self, _: Consumer, places: Sequence[TopicPartition]) -> None:
        if places:
            logger.info("leads the clock of %s", self._tape)
            self._leads = True
            metrics.clock_is_leader.set(1)

    def _on_revoke(self, _: Consumer, places: Sequence[TopicPartition]) -> None:
        if places:
            logger.info("no longer leads the clock of %s", self._tape)
            self._resign()

    def _resign(self) -> None:
        """Another one may lead: what is not on its way to the broker stays here."""
        self._leads, self._clock = False, None
        metrics.clock_is_leader.set(0)
        self._producer.purge(in_flight=False)

    def _lead(self) -> None:
        """Lay the Ticks that are due; first, those a former leader left out."""
        if self._clock is None:
            try:
                found = last_ticks(self._settings, self._tape, self._codec, self._still_leads)
            except _Deposed:
                return
            except KafkaException as error:
                if error.args[0].code() in FORBIDDEN_CODES:
                    raise
                self._unread += 1
                if self._unread == UNREAD_MAX:
                    logger.warning("the end of %s cannot be read yet: %s", self._tape, error.args[0].str())
                return
            self._unread = 0
            self._clock, self._host = LiveClock(found), HostClock()
            paused_ns = self._clock.paused_ns(self._wall())
            if paused_ns > RESUME_MAX_NS and not self._resumes:
                raise _ended(self._tape, paused_ns)
            if paused_ns > PAUSE_MAX_NS:
                logger.warning("%s had no Tick for %d s: its windows begin anew", self._tape, paused_ns // NS_PER_S)
        if len(self._under_way) < UNDER_WAY_MAX:
            now = self._wall()
            self._watch_host(self._clock, now)
            self._lay(self._clock.due(now))

    def _still_leads(self) -> None:
        """Take part in the group while the tape is read. Errors: _Deposed."""
        self._awake = time.monotonic()
        self._consumer.poll(0)
        if self._stopping.is_set() or not self._leads:
            raise _Deposed

    def _watch_host(self, clock: LiveClock, now: int) -> None:
        """Tell when the host's clock was set, and when time stands because it is behind the tape's."""
        step_ns = self._host.step_ns(now, time.monotonic_ns())
        if step_ns:
            metrics.clock_jumps.inc()
            logger.warning("the host's clock was set by %+.1f s", step_ns / NS_PER_S)
        ahead_ns = clock.ahead_ns(now)
        if ahead_ns >= BASE_TICK_NS and not self._stands:
            logger.warning("the host's clock is %.1f s behind the tape: time stands until then", ahead_ns / NS_PER_S)
        self._stands = ahead_ns >= BASE_TICK_NS

    def _lay(self, due: Sequence[range]) -> None:
        values = {at: self._codec.encode(tick(at)) for at in set().union(*due)}
        for partition, times in enumerate(due):
            for at in times:
                report = partial(self._on_delivery, at)
                self._under_way[at] += 1
                self._producer.produce(self._tape, values[at], CLOCK_KEY.encode(), partition, on_delivery=report)

    def _failure(self, error: KafkaError) -> OnetapeError:
        failure = broker_failure(self._settings, [error], self._tape)
        return failure if isinstance(failure, AccessRefused) else refused(self._tape, error.str())

    def _on_delivery(self, at: int, error: KafkaError | None, _: Message) -> None:
        """A Tick is in one more partition."""
        self._under_way[at] -= 1
        if error is not None and error.code() not in PURGED:
            self._refused = self._refused or error
        if not self._under_way[at]:
            del self._under_way[at]
            if error is None:
                metrics.clock_lag.labels().observe((self._wall() - at) / NS_PER_S)

    def _wait(self) -> None:
        """Until the next Tick is due: for acknowledgements, then for news of the group. Never longer than a Tick."""
        now = self._wall()
        until = now - now % BASE_TICK_NS + BASE_TICK_NS
        if self._under_way:
            self._producer.flush(self._seconds_to(until))
        message = self._consumer.poll(self._seconds_to(until))
        error = None if message is None else message.error()
        if error is not None:
            if error.fatal() or error.code() in FORBIDDEN_CODES:
                raise KafkaException(error)
            logger.info("the clock's group: %s", error.str())
        time.sleep(self._seconds_to(until))  # librdkafka waits whole milliseconds

    def _seconds_to(self, until: int) -> float:
        """Seconds left until the next Tick; a host's clock that is set back meanwhile does not prolong them."""
        return min(max(until - self._wall(), 0), BASE_TICK_NS) / NS_PER_S


def _consumer_settings(settings: Settings, group: str) -> dict[str, Any]:
    session_ms = int(settings.session_timeout_s * 1000)
    return {
        **librdkafka(settings),
        "client.id": group,
        "group.id": group,
        "session.timeout.ms": session_ms,
        "heartbeat.interval.ms": session_ms // 10,
        "max.poll.interval.ms": session_ms,  # a thread that hangs loses the lead as a process that is gone does
        "partition.assignment.strategy": "cooperative-sticky",
        "enable.auto.commit": False,
        "auto.offset.reset": "latest",
    }


def _producer_settings(settings: Settings, group: str) -> dict[str, Any]:
    return {
        **librdkafka(settings),
        "client.id": group,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 0,
        "message.timeout.ms": 0,  # never: with a Tick given up and the next one delivered, that one would be lost
        "queue.buffering.max.messages": QUEUE_MESSAGES,
    }
