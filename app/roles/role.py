"""A worker's role: a Faust app with a consumer group of its own, its lanes, and what stops it.

Input: settings.
Output: `Role`s ready to be started.
State: one folder per group below `data_dir`.
Errors: PartitionsLost after a standstill.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import faust
from faust.types import TP

from agents.bind import bind
from agents.lanes import Lanes
from app.config import Settings
from app.connection import faust_options
from app.topics import sources
from app.transport import FETCH_RECORDS, BeforeCommit, Consumer, Transport
from schemas.errors import CheckFailed
from tables import store

CLOSE_S: Final = 4.0
NEVER_S: Final = 1e9
FETCH_BYTES: Final = 4 << 20
CHANGELOG_FETCHES: Final = 16
"""Fetches of a changelog that wait while states are recovered, FETCH_BYTES each at most."""
READY: Final = "ready"
PURPOSES: Final = {
    "features": "tape -> feature vectors, dead letters",
    "latest": "feature vectors -> Redis",
    "archive": "tape, feature vectors, dead letters -> Parquet",
}

Fail = Callable[[BaseException], None]


class PartitionsLost(CheckFailed):
    """The process stood still for longer than the broker waits: its partitions may have another owner."""


@dataclass(frozen=True, slots=True)
class Role:
    """A Faust app and the lanes its agent feeds."""

    name: str
    app: faust.App
    lanes: Lanes

    def state(self) -> str:
        """What it is doing, in one word; READY when it handles the partitions it has, if any."""
        if not self.app.started:
            return "starting"
        if self.app.rebalancing:
            return "rebalancing"
        return READY if self.app.tables.actives_ready else "recovering"

    def partitions(self) -> dict[str, list[int]]:
        """The partitions it has, by topic."""
        found: dict[str, list[int]] = {}
        for tp in sorted(self._consumer().assignment() if self.app.started else ()):
            found.setdefault(tp.topic, []).append(tp.partition)
        return found

    def lag(self) -> dict[tuple[str, int], int]:
        """Records on the broker that no agent was given yet, by topic and partition, as far as known."""
        found = self._consumer().lag(self.lanes.handed()) if self.app.started else {}
        return {(tp.topic, tp.partition): records for tp, records in found.items()}

    def missed(self) -> int:
        """Offsets passed because the broker has no records there."""
        return self._consumer().missed if self.app.started else 0

    def _consumer(self) -> Consumer:
        consumer = self.app.consumer
        assert isinstance(consumer, Consumer)
        return consumer

    async def close(self) -> bool:
        """Save and acknowledge what was read; nothing more is read then. False if a lane was cut off."""
        return await self.lanes.close(self.app.consumer_generation_id, CLOSE_S)

    async def commit(self) -> bool:
        """Commit what is acknowledged. False if the broker does not have it."""
        consumer = self._consumer()
        if consumer.assignment():
            for _ in range(2):  # the first may only wait for one that began earlier
                await consumer.commit()
        return not consumer.uncommitted()


class Pulse:
    """Knows when the event loop last ran. `fence` raises after a standstill of a session timeout."""

    def __init__(self, session_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is monotonic, in seconds."""
        self._session_timeout_s, self._clock = session_timeout_s, clock
        self._last = clock()

    def start(self) -> None:
        """From now on the loop is expected to run."""
        self._last = self._clock()

    def beat(self) -> None:
        """The loop runs. Errors: PartitionsLost."""
        self.fence()
        self._last = self._clock()

    def fence(self) -> None:
        """Errors: PartitionsLost."""
        stood = self._clock() - self._last
        if stood > self._session_timeout_s:
            raise PartitionsLost(
                "the worker stood still and may have lost its partitions",
                expected=f"less than the session timeout of {self._session_timeout_s:g} s", was=f"{stood:.1f} s",
                action="start it again: it continues from what is committed",
            )  # fmt: skip


async def nothing_to_settle(offsets: Mapping[TP, int]) -> None:
    """Agents that write no changelog have saved everything when they acknowledge."""


def make_app(settings: Settings, role: str, group: str) -> faust.App:
    """A group's states lie in a folder of their own: those of other feature sets are others."""
    return faust.App(
        group,
        **faust_options(settings),
        datadir=settings.data_dir / role / group,
        store=store.URL,
        TableManager=store.Tables,
        autodiscover=False,
        web_enabled=False,  # see app/web.py
        web_stats_enabled=True,
        web_metrics_enabled=True,
        topic_allow_declare=False,  # app.topics makes them
        topic_disable_leader=True,
        topic_partitions=settings.partitions,
        table_standby_replicas=settings.table_standby_replicas,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=FETCH_BYTES,
        broker_max_poll_records=FETCH_RECORDS,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / 4,
        broker_commit_interval=settings.epoch_s,
        stream_buffer_maxsize=CHANGELOG_FETCHES,
        stream_wait_empty=False,  # closing the lanes waits for what has to be waited for
        stream_processing_timeout=NEVER_S,  # its alarms mistake a silent market for a fault
        broker_commit_livelock_soft_timeout=NEVER_S,
    )


def make_role(app: faust.App, settings: Settings, name: str, lanes: Lanes, before_commit: BeforeCommit) -> Role:
    """Put the batch transport in and register the agent."""
    app.conf.datadir.mkdir(parents=True, exist_ok=True)
    role, topics = Role(name, app, lanes), sources(settings, name)
    app.transport = Transport(
        app.conf.broker_consumer, app, sources=frozenset(topics), batch_size=settings.batch_size,
        changelogs=frozenset(table.changelog_topic.get_topic_name() for table in app.tables.values()),
        before_commit=before_commit, before_revoke=role.close,
    )  # fmt: skip
    bind(app, name, topics, lanes, PURPOSES[name])
    return role
