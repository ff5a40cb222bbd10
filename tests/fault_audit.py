"""The ledger of a run with faults, counted from what it has left: topics, RocksDB, Redis, archive; against the oracle.

Input: a stopped cluster; its last worker had every partition.
Output: `Ledger`. Nothing is taken from what a worker says of itself.
Units: recovery in milliseconds, from a kill to the first new vector in each partition, by the broker's stamps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Final

import live_worker as run
import redis
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
from tables.store import unpack

SETTLES_S: Final = 3.0
"""A worker comes to terms with a Redis that is back: what it still had for it is there, or lost with the worker."""


def count(cluster: Cluster, ledger: Ledger) -> Ledger:
    """Count everything into `ledger`."""
    settings, tape, kills = cluster.settings, cluster.tape.laid, cluster.kills
    expected = run.oracle(settings, tape)
    stamps: dict[Identity, int] = {}
    for partition, messages in enumerate(tape):
        on_broker = [(message.key(), message.value()) for message in run.read_topic(settings, TAPE, partition)]
        assert on_broker == messages, f"the tape itself is another one in partition {partition}"
        _count_letters(settings, partition, len(messages), expected, ledger)
        for feature_set in load_all(settings.feature_sets):
            stamps |= _count_vectors(settings, feature_set, partition, expected, kills, ledger)
    owner = settings.model_copy(update={"data_dir": cluster.workers[-1].settings.data_dir})
    held = {place: blob for p in range(len(tape)) for place, blob in run.states_of(owner, p).items()}
    ledger.count_states(held, expected.states)
    ledger.count_states(on_changelog(settings), expected.states)
    _count_latest(settings, expected, stamps, cluster.emptied, ledger)
    _count_archive(settings, tape, expected, ledger)
    return ledger


def _count_latest(
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


def _count_vectors(
    settings: Settings, feature_set: FeatureSet, partition: int, expected: run.Outcome, kills: Sequence[float],
    ledger: Ledger,
) -> dict[Identity, int]:  # fmt: skip
    """Returns when the broker first had each vector, in milliseconds."""
    messages = run.read_topic(settings, feature_set.topic, partition)
    values = [message.value() for message in messages]
    vectors = VectorCodec(open_registry(settings.registry), feature_set).decode(values)
    identities = _identities(feature_set, vectors)
    ledger.count_vectors(
        zip(identities, values, strict=True), _of(expected.vectors, feature_set.id, partition, settings.partitions)
    )
    stamps: dict[Identity, int] = {}
    for identity, message in zip(identities, messages, strict=True):
        stamps.setdefault(identity, message.timestamp()[1])
    fresh = sorted(stamps.values())
    for killed in kills:
        following = bisect_right(fresh, killed * 1000)
        if following < len(fresh):
            ledger.recovery_ms_max = max(ledger.recovery_ms_max, fresh[following] - killed * 1000)
    return stamps


def _count_letters(settings: Settings, partition: int, received: int, expected: run.Outcome, ledger: Ledger) -> None:
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


def _count_archive(settings: Settings, tape: list[run.Raw], expected: run.Outcome, ledger: Ledger) -> None:
    """What our readers show of the archive: everything once, and its replay gives the live vectors."""
    report, archive = audit(settings.archive_dir), ArchiveReader(settings.archive_dir)
    ledger.lost += len(report.holes)
    ledger.dup_visible += len(report.doubles)
    ledger.torn += len(report.torn)
    rows = [sum(segment.rows for segment in archive.segments(p)) for p in archive.partitions()]
    ledger.gap_undetected += report.ok and rows != [len(messages) for messages in tape]
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
