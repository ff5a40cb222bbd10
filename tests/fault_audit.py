"""The ledger of a run with faults, counted from what it has left: topics, RocksDB, Redis, archive; against the oracle.

Input: a stopped cluster; its last worker had every partition.
Output: `Ledger`. Nothing is taken from what a worker says of itself.
Units: recovery in milliseconds, from a kill as the harness sees it to the first new vector in each partition, as the
    broker stamps it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import live_worker as run
import redis
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME
from fault_cluster import Cluster
from ledger import Identity, Ledger, Place

from app.config import Settings
from app.redis_frames import latest_key
from app.topics import changelog_of, groups
from replay.audit import audit
from replay.parity import parity_of
from replay.reader import ArchiveReader
from schemas.codec import DeadLetter, DeadLetterCodec
from schemas.feature_sets import FeatureSet, load_all
from schemas.registry import open_registry
from schemas.topics import DEAD_LETTERS, TAPE, partition_of
from schemas.vector_codec import VectorCodec
from schemas.vectors import Vectors
from tables.arena import applied_offset
from tables.store import unpack

SETTLES_S: Final = 3.0
"""A worker comes to terms with a Redis that is back: what it still had for it is there, or lost with the worker."""


def count(cluster: Cluster, ledger: Ledger) -> Ledger:
    """Count everything into `ledger`."""
    settings, tape, kills = cluster.settings, cluster.tape.laid, cluster.kills
    expected = run.oracle(settings, tape)
    stamps: dict[Identity, int] = {}
    for partition, messages in enumerate(tape):
        on_broker = run.read_topic(settings, TAPE, partition)
        assert [(message.key(), message.value()) for message in on_broker] == messages, f"another tape in {partition}"
        laid_ms = [message.timestamp()[1] for message in on_broker]
        count_letters(settings, partition, len(messages), expected, ledger)
        for feature_set in load_all(settings.feature_sets):
            count_vectors(settings, feature_set, partition, expected, ledger)
            stamps |= count_recoveries(settings, feature_set, partition, expected, kills, laid_ms, ledger)
    count_states(settings, cluster.homes(), expected, ledger)
    count_latest(settings, expected, stamps, cluster.emptied, ledger)
    count_archive(settings, tape, expected, ledger)
    return ledger


def count_states(settings: Settings, homes: Iterable[Settings], expected: run.Outcome, ledger: Ledger) -> None:
    """Those in the data folders, of each the one that has applied most, and those on the changelog.

    The last worker may be stopped before it has written down what it recovers of partitions that were another's.
    """
    held: dict[tuple[int, str], bytes] = {}
    for home in homes:
        for partition in range(settings.partitions):
            for place, blob in run.states_of(home, partition).items():
                if place not in held or applied_offset(blob) > applied_offset(held[place]):
                    held[place] = blob
    ledger.count_states(held, expected.states)
    ledger.count_states(on_changelog(settings), expected.states)


def count_latest(
    settings: Settings, expected: run.Outcome, stamps: Mapping[Identity, int], emptied: float, ledger: Ledger
) -> None:
    """The newest vector of each instrument; one made before Redis was emptied last may be gone until the next one."""
    newest = {identity[:2]: identity for identity in sorted(expected.vectors)}
    with redis.Redis.from_url(settings.redis_url) as client:
        for identity in newest.values():
            key = latest_key(*identity[:2])
            found = client.get(key)
            if found is not None or stamps.get(identity, 0) > (emptied + SETTLES_S) * 1000:
                ledger.count_latest({key: found}, {key: expected.vectors[identity]})


def _of(vectors: Mapping[Identity, bytes], set_id: str, partition: int, partitions: int) -> dict[Identity, bytes]:
    return {
        identity: value
        for identity, value in vectors.items()
        if identity[0] == set_id and partition_of(identity[1], partitions) == partition
    }


def _identities(feature_set: FeatureSet, vectors: Vectors) -> list[Identity]:
    names, times = vectors.instruments(), vectors.time.tolist()
    return [(feature_set.id, name, time) for name, time in zip(names, times, strict=True)]


def _on_topic(settings: Settings, feature_set: FeatureSet, partition: int) -> tuple[list[Identity], list[Any]]:
    """Vectors in the order of their topic, by name and as messages."""
    messages = run.read_topic(settings, feature_set.topic, partition)
    codec = VectorCodec(open_registry(settings.registry), feature_set)
    return _identities(feature_set, codec.decode([message.value() for message in messages])), messages


def count_vectors(
    settings: Settings, feature_set: FeatureSet, partition: int, expected: run.Outcome, ledger: Ledger
) -> None:
    """One partition of a features topic."""
    identities, messages = _on_topic(settings, feature_set, partition)
    wire = zip(identities, (message.value() for message in messages), strict=True)
    ledger.count_vectors(wire, _of(expected.vectors, feature_set.id, partition, settings.partitions))


def count_recoveries(
    settings: Settings, feature_set: FeatureSet, partition: int, expected: run.Outcome, kills: Sequence[float],
    laid_ms: Sequence[int], ledger: Ledger,
) -> dict[Identity, int]:  # fmt: skip
    """Behind each kill there is a new vector, if a Tick that makes one was laid behind it (`laid_ms`, by offset).

    Returns when the broker first had each vector, in milliseconds.
    """
    codec = VectorCodec(open_registry(settings.registry), feature_set)
    due = codec.decode(list(_of(expected.vectors, feature_set.id, partition, settings.partitions).values()))
    last_ms = laid_ms[int(due.as_of_offset.max())] if len(due.as_of_offset) else 0
    first: dict[Identity, int] = {}
    for identity, message in zip(*_on_topic(settings, feature_set, partition), strict=True):
        kind, stamp = message.timestamp()
        assert kind == TIMESTAMP_LOG_APPEND_TIME
        first.setdefault(identity, stamp)
    fresh = sorted(first.values())
    for killed in kills:
        following = bisect_right(fresh, killed * 1000)
        if following < len(fresh):
            ledger.recovery_ms_max = max(ledger.recovery_ms_max or 0.0, fresh[following] - killed * 1000)
        else:
            ledger.lost += last_ms > killed * 1000
    return first


def count_letters(settings: Settings, partition: int, received: int, expected: run.Outcome, ledger: Ledger) -> None:
    """One partition of the dead letters, of so many records."""
    codec = DeadLetterCodec(open_registry(settings.registry))
    wire = []
    for message in run.read_topic(settings, DEAD_LETTERS, partition):
        letter = codec.decode(message.value())
        wire.append(((letter.source, letter.partition, letter.offset), message.value()))
    places: list[Place] = [(TAPE, partition, offset) for offset in range(received)]
    due = {(TAPE, *place): codec.encode(each) for place, each in expected.letters.items() if place[0] == partition}
    ledger.count_letters(places, wire, due)


def on_changelog(settings: Settings) -> dict[tuple[int, str], bytes]:
    """The state of each partition and instrument that a new machine would begin with: the one that has applied most."""
    topic = changelog_of(groups(settings)["features"]).removeprefix(settings.topic_prefix)
    found: dict[tuple[int, str], tuple[int, bytes]] = {}
    for partition in range(settings.partitions):
        for message in run.read_topic(settings, topic, partition):
            place, state = (partition, message.key().decode()), unpack(message.value())
            if state[0] >= found.get(place, (-1, b""))[0]:
                found[place] = state
    return {place: blob for place, (_, blob) in found.items()}


def count_archive(settings: Settings, tape: list[run.Raw], expected: run.Outcome, ledger: Ledger) -> None:
    """What our readers show of the archive: everything once, and its replay gives the live vectors.

    They show nothing of one that the audit finds broken.
    """
    report, archive = audit(settings.archive_dir), ArchiveReader(settings.archive_dir)
    ledger.lost += len(report.holes)
    ledger.dup_visible += len(report.doubles)
    ledger.torn += len(report.torn)
    if not report.ok:
        return
    rows = [sum(segment.rows for segment in archive.segments(p)) for p in archive.partitions()]
    ledger.gap_undetected += rows != [len(messages) for messages in tape]
    letters: dict[tuple[int, int], DeadLetter] = {}
    for _, _, letter in archive.dead_letters():
        ledger.dup_visible += (letter.partition, letter.offset) in letters
        letters[letter.partition, letter.offset] = letter
    ledger.lost += len(expected.letters.keys() - letters.keys())
    bounded = {place: letter.bounded() for place, letter in expected.letters.items()}
    ledger.wrong += sum(bounded.get(place) != letter for place, letter in letters.items())
    sets = load_all(settings.feature_sets)
    for feature_set in sets:
        vectors = archive.vectors(feature_set).vectors
        values = [value for _, value in VectorCodec(open_registry(settings.registry), feature_set).encode(vectors)]
        identities = [
            (feature_set.id, *each) for each in zip(vectors.instruments(), vectors.time.tolist(), strict=True)
        ]
        ledger.dup_visible += len(identities) - len(set(identities))
        due = {identity for identity in expected.vectors if identity[0] == feature_set.id}
        ledger.lost += len(due - set(identities))
        ledger.wrong += sum(expected.vectors.get(each) != value for each, value in zip(identities, values, strict=True))
    for parity in parity_of(archive, sets).values():
        ledger.lost += parity.missing
        ledger.wrong += parity.mismatch + parity.extra + (not parity.compared)
        ledger.conflicting += parity.conflicting
