"""The worker's topics and consumer groups on a broker: their names, their making, their checking.

Input: settings.
Output: topics on the broker, as the topic table and the settings say.
Errors: DependencyDown when the broker does not answer; UsageError for a topic with another partition count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.cimpl import NewTopic

from app.config import Settings
from app.connection import BROKER_ANSWER_S, Admin
from schemas import limits
from schemas.errors import UsageError
from schemas.feature_sets import FeatureSet, load_all
from schemas.topics import DEAD_LETTERS, TAPE, TOPICS, Topic, vectors_topic

ROLES: Final = ("features", "latest", "archive")
"""What a worker does where nothing is said."""
CLOCK_ROLE: Final = "clock"
"""Only where it is asked for: a tape that is imported or played brings its own Ticks."""
SETS_NAME_MAX: Final = 140
"""With the longest prefix and what Faust adds, still under the 249 characters of a topic's name."""
COMPACTION_LAG_MS: Final = 600_000
"""A state record stays on the changelog for so long, whatever is written after it: see tables/store.py."""
CHANGELOG_SEGMENT_BYTES: Final = 32 << 20
"""Kafka compacts no segment that it still appends to, and by default a GiB goes into one: minutes of a recovery."""


def wire_topic(settings: Settings, topic: str) -> str:
    """Name of a topic on the broker."""
    return settings.topic_prefix + topic


def sets_name(found: Sequence[FeatureSet]) -> str:
    """Feature sets in the name of what is theirs alone: a consumer group, its changelog, a folder of states.

    The id of a published set says everything; of one's own the file may change, so that its digest is named as well.
    """
    told = ".".join(
        f"{each.name}-v{each.version}" + ("" if each.is_published else f"-{each.digest()[:8]}") for each in found
    )
    if len(told) <= SETS_NAME_MAX:
        return told
    return f"{told[: SETS_NAME_MAX - 17]}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def groups(settings: Settings) -> dict[str, str]:
    """Consumer group of each role. Workers with the same feature sets share theirs, in whatever order they list them.

    With other sets the group is another one, which reads the retained tape from its beginning: the states it needs are
    others. The archive has one group, for it has one writer, and so has the clock, whichever sets its workers compute.
    """
    sets = sets_name(load_all(settings.feature_sets))
    names = {"features": f"features-{sets}", "latest": f"latest-{sets}", "archive": "archive", CLOCK_ROLE: "clock"}
    return {role: f"{settings.topic_prefix}onetape-{name}" for role, name in names.items()}


def sources(settings: Settings, role: str) -> list[str]:
    """Topics a role reads."""
    vectors = [each.topic for each in load_all(settings.feature_sets)]
    topics = {"features": [TAPE], "latest": vectors, "archive": [TAPE, *vectors, DEAD_LETTERS]}
    return [wire_topic(settings, topic) for topic in topics[role]]


def changelog_of(group: str) -> str:
    """Changelog of the features agent's state table, as Faust names it."""
    return f"{group}-state-changelog"


def _changelog(settings: Settings) -> str:
    return changelog_of(groups(settings)["features"])


def tape_origin(settings: Settings) -> str:
    """Which tape this is, for its archive: the broker's own id and the topic. Errors: DependencyDown."""
    return f"kafka:{Admin(settings).cluster().cluster_id}/{wire_topic(settings, TAPE)}"


def partitions_of(settings: Settings) -> dict[str, int]:
    """Every topic a worker needs, with its partition count."""
    counts = {wire_topic(settings, topic.name): topic.partitions or settings.partitions for topic in _topics(settings)}
    return {**counts, _changelog(settings): settings.partitions}


def _topics(settings: Settings) -> list[Topic]:
    return [*TOPICS.values(), *(vectors_topic(each.topic) for each in load_all(settings.feature_sets))]


def ensure_topics(settings: Settings) -> None:
    """Make missing topics and check the partition counts of the others. An embedded broker has them already."""
    admin = Admin(settings)
    wanted = partitions_of(settings)
    present = _present(admin)
    for name, count in wanted.items():
        if present.get(name, count) != count:
            raise UsageError(
                f"topic {name} has another partition count than this worker is set to",
                expected=f"{count} partitions", was=str(present[name]),
                action=f"set ONETAPE_PARTITIONS={present[name]}, or another ONETAPE_TOPIC_PREFIX",
            )  # fmt: skip
    missing = wanted.keys() - present.keys()
    if not missing:
        return
    if settings.broker_is_embedded:
        raise UsageError(
            "the embedded broker lacks topics", expected="the topics of app.topics.partitions_of",
            was=f"no {', '.join(sorted(missing))}", action="start it with these topics, or use a real Kafka",
        )  # fmt: skip
    made = admin.create_topics([_new_topic(settings, name, wanted[name]) for name in sorted(missing)])
    for name, future in made.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise admin.failure(error, name) from error


def delete_topics(settings: Settings) -> None:
    """Delete every topic and group of these settings: for runs under a prefix of their own."""
    admin = Admin(settings)  # its futures end with it
    futures = admin.delete_topics(sorted(partitions_of(settings)))
    for future in futures.values():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise admin.failure(error) from error
    for left in admin.delete_consumer_groups(sorted(groups(settings).values())).values():
        with suppress(KafkaException):  # a group that never joined, or that its members are just leaving
            left.result()


def refuse_live_clock(settings: Settings) -> None:
    """A recording brings its own Ticks; among those of a live clock its events would count as long past, or not at all.

    The embedded broker cannot tell who is in a group.
    Errors: UsageError while a worker has the clock role; DependencyDown.
    """
    if settings.broker_is_embedded:
        return
    admin, group = Admin(settings), groups(settings)[CLOCK_ROLE]  # its futures end with it
    try:
        described = admin.result(
            lambda: admin.describe_consumer_groups([group], request_timeout=BROKER_ANSWER_S)[group]
        )
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return
        raise admin.failure(error, group) from error
    if described.members:
        raise UsageError(
            f"a live clock lays Ticks into {wire_topic(settings, TAPE)}", expected="a tape of recordings only",
            was=f"{len(described.members)} worker(s) with the role {CLOCK_ROLE}",
            action="import under another ONETAPE_TOPIC_PREFIX, or stop the clock and give the recordings a new tape",
        )  # fmt: skip


def _new_topic(settings: Settings, name: str, partitions: int) -> NewTopic:
    config: dict[str, Any] = {"max.message.bytes": str(2 * limits.MESSAGE_BYTES_MAX)}
    if name == _changelog(settings):
        config |= {"cleanup.policy": "compact", "min.compaction.lag.ms": str(COMPACTION_LAG_MS)}
        config["segment.bytes"] = str(CHANGELOG_SEGMENT_BYTES)
    else:
        topic = next(topic for topic in _topics(settings) if wire_topic(settings, topic.name) == name)
        config |= {"cleanup.policy": topic.cleanup, "retention.ms": str(topic.retention_ms)}
        config["max.message.bytes"] = str(topic.message_bytes_max + limits.ORIGINAL_BYTES_MAX)
    return NewTopic(name, partitions, settings.replication, config=config)


def _present(admin: Admin) -> dict[str, int]:
    """Topics on the broker with their partition counts."""
    return {name: len(topic.partitions) for name, topic in admin.cluster().topics.items()}
