"""What a worker's roles need to be allowed on the broker, and whether they are: asked before anything is read.

Without this a role that may not join its group would wait for ever, and one that may not read its topic would end with
whatever a library says of it. docs/security.md lists the same for people.

Input: settings, roles; the broker's word on what it allows us.
Errors: AccessRefused that names every right that is missing; DependencyDown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation

from app.config import Settings
from app.connection import BROKER_ANSWER_S, RIGHTS, Admin
from app.topics import CLOCK_ROLE, changelog_of, groups, sources, wire_topic
from schemas.errors import AccessRefused
from schemas.feature_sets import load_all
from schemas.topics import CLOCK_LEADER, DEAD_LETTERS, READY, TAPE

READ: Final = AclOperation.READ
WRITE: Final = AclOperation.WRITE


class Right(NamedTuple):
    """An operation on a topic, or on a group."""

    kind: str
    name: str
    operation: Any

    def __str__(self) -> str:
        return f"{self.operation.name.capitalize()} on {self.kind} {self.name}"


def needed(settings: Settings, roles: Collection[str]) -> list[Right]:
    """Rights that a worker with these roles cannot do without."""
    own = groups(settings)
    running = set(roles) - ({"latest"} if "features" in roles else set())  # which serves its vectors itself then
    found = [Right("group", own[role], READ) for role in sorted(running)]
    for role in sorted(running - {CLOCK_ROLE}):
        found += [Right("topic", name, READ) for name in sources(settings, role)]
    if "features" in roles:
        written = [*(each.topic for each in load_all(settings.feature_sets)), DEAD_LETTERS]
        found += [Right("topic", wire_topic(settings, name), WRITE) for name in written]
        found += [Right("topic", changelog_of(own["features"]), operation) for operation in (READ, WRITE)]
    if "latest" in roles and settings.ready != "off":
        found.append(Right("topic", wire_topic(settings, READY), WRITE))
    if CLOCK_ROLE in roles:
        found.append(Right("topic", wire_topic(settings, CLOCK_LEADER), READ))
        found += [Right("topic", wire_topic(settings, TAPE), operation) for operation in (READ, WRITE)]
    return list(dict.fromkeys(found))


def check_rights(settings: Settings, roles: Collection[str]) -> None:
    """Ask a broker that knows who we are. Errors: AccessRefused, DependencyDown."""
    if settings.kafka_security_protocol == "PLAINTEXT":
        return
    admin, wanted = Admin(settings), needed(settings, roles)
    names = {kind: sorted({right.name for right in wanted if right.kind == kind}) for kind in ("topic", "group")}
    told = {"include_authorized_operations": True, "request_timeout": BROKER_ANSWER_S}
    topics = admin.describe_topics(TopicCollection(names["topic"]), **told)
    ask: dict[tuple[str, str], Callable[[], Future[Any]]] = {
        ("topic", name): partial(topics.__getitem__, name) for name in names["topic"]
    }
    for name in names["group"]:
        ask["group", name] = partial(_group, admin, name, told)
    allowed = {place: _allowed(admin, question) for place, question in ask.items()}
    missing = [right for right in wanted if right.operation not in allowed[right.kind, right.name]]
    if missing:
        raise AccessRefused(
            "the Kafka broker does not allow what the worker does", expected="; ".join(map(str, missing)),
            was=f"none of it allowed for {settings.kafka_sasl_username or 'this certificate'!r}",
            action=f"have the broker's administrator add the rights of {RIGHTS} (kafka-acls.sh)",
        )  # fmt: skip


def _group(admin: Admin, name: str, told: dict[str, Any]) -> Future[Any]:
    described: dict[str, Future[Any]] = admin.describe_consumer_groups([name], **told)
    return described[name]


def _allowed(admin: Admin, question: Callable[[], Future[Any]]) -> Collection[Any]:
    """Operations on a topic or group; both of ours where the broker does not say, as of a group that is none yet."""
    try:
        found: Collection[Any] | None = admin.result(question).authorized_operations
    except KafkaException as error:
        failure = admin.failure(error)
        if isinstance(failure, AccessRefused):
            return ()
        if error.args[0].retriable() or error.args[0].code() < 0:
            raise failure from error
        return READ, WRITE
    return (READ, WRITE) if found is None else found
