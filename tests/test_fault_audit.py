"""The audit of what a run has left finds each kind of damage there, and nothing in what is whole.

What a worker would leave is laid by hand, from the oracle, so that it can be laid damaged.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import fault_audit
import live_worker as run
import numpy as np
import pytest
import redis
import rocksdict
import test_worker
from ledger import NONE, Identity, Ledger
from tapes import KAFKA
from test_worker import Place, market

from app.config import Settings
from app.publish import Publisher
from app.redis_frames import latest_key
from app.topics import changelog_of, groups
from replay.archive import live
from schemas.codec import DeadLetterCodec, TapeCodec
from schemas.feature_sets import FeatureSet, load_all
from schemas.registry import open_registry
from schemas.topics import DEAD_LETTERS, TAPE, partition_of
from schemas.vector_codec import VectorCodec
from tables.store import pack

embedded = test_worker.embedded
Made = tuple[list[run.Raw], run.Outcome]
Wire = list[bytes]
Damage = Callable[[Wire], Wire]
EVENTS: Final = 600
ROWS: Final = 200


@pytest.fixture(scope="module")
def made(embedded: Place) -> Made:
    """A tape and what must come of it, whatever the topics are called."""
    settings = embedded.settings()
    tape = market(settings, EVENTS)
    return tape, run.oracle(settings, tape)


def bad(ledger: Ledger) -> set[str]:
    """Counts that must be zero and are not."""
    return {name for name in NONE if getattr(ledger, name)}


def feature_set(settings: Settings) -> FeatureSet:
    return load_all(settings.feature_sets)[0]


def codec(settings: Settings) -> VectorCodec:
    return VectorCodec(open_registry(settings.registry), feature_set(settings))


def changed(settings: Settings, value: bytes) -> bytes:
    """The same vector with other values."""
    vectors = codec(settings).decode([value])
    other = replace(vectors, values=np.full_like(vectors.values, 0.5))
    return codec(settings).encode(other)[0][1]


def vectors_of(settings: Settings, expected: run.Outcome, partition: int) -> Wire:
    """In the order of T, as they lie on their topic."""
    ordered = sorted(expected.vectors.items(), key=lambda item: (item[0][2], item[0][1]))
    return [value for (_, name, _), value in ordered if partition_of(name, settings.partitions) == partition]


def lay(settings: Settings, topic: str, wire: Wire, keys: list[bytes] | None = None, partition: int = 0) -> None:
    publisher = Publisher(settings)
    for key, value in zip(keys or [b"k"] * len(wire), wire, strict=True):
        publisher.publish(topic, partition, key, value)
    publisher.flush()


@pytest.mark.parametrize(
    ("counted", "damage"),
    [
        (set(), lambda wire, other: [*wire, wire[0]]),
        ({"lost"}, lambda wire, other: wire[:-1]),
        ({"wrong"}, lambda wire, other: [other, *wire[1:]]),
        ({"conflicting"}, lambda wire, other: [*wire, other]),
        ({"out_of_order"}, lambda wire, other: wire[::-1]),
    ],
)
def test_vectors(embedded: Place, made: Made, counted: set[str], damage: Callable[[Wire, bytes], Wire]) -> None:
    settings, ledger = embedded.settings(), Ledger()
    (_, expected), at = made, feature_set(settings)
    wire = vectors_of(settings, expected, 0)
    lay(settings, at.topic, damage(wire, changed(settings, wire[0])))
    fault_audit.count_vectors(settings, at, 0, expected, ledger)
    assert bad(ledger) == counted


@pytest.mark.parametrize(
    ("counted", "damage"),
    [
        (set(), lambda wire: [*wire, wire[0]]),
        ({"lost"}, lambda wire: wire[1:]),
        ({"wrong"}, lambda wire: [wire[0].replace(b"wire", b"weir"), *wire[1:]]),
        ({"conflicting"}, lambda wire: [*wire, wire[0].replace(b"wire", b"weir")]),
    ],
)
def test_letters(embedded: Place, made: Made, counted: set[str], damage: Damage) -> None:
    settings, ledger, (tape, expected) = embedded.settings(), Ledger(), made
    letters = DeadLetterCodec(open_registry(settings.registry))
    wire = [letters.encode(letter) for (partition, _), letter in sorted(expected.letters.items()) if partition == 0]
    assert b"wire" in wire[0]
    lay(settings, DEAD_LETTERS, damage(wire))
    fault_audit.count_letters(settings, 0, len(tape[0]), expected, ledger)
    assert bad(ledger) == counted
    assert ledger.ok == (not counted)


def left_states(settings: Settings, expected: run.Outcome, on_disk: Damage, on_topic: Damage) -> set[str]:
    """Lay the states of every partition, damaged as told, and count them."""
    topic = changelog_of(groups(settings)["features"]).removeprefix(settings.topic_prefix)
    for partition in range(settings.partitions):
        whole = {name: blob for (home, name), blob in sorted(expected.states.items()) if home == partition}
        names, blobs = [name.encode() for name in whole], [pack(9, blob) for blob in whole.values()]
        path = settings.data_dir / "features" / "group" / "v1" / "tables" / f"state-{partition}.db"
        path.parent.mkdir(parents=True, exist_ok=True)
        db = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))
        for name, blob in zip(names, on_disk(blobs), strict=False):
            db[name] = blob
        db.close()
        wire = on_topic(blobs)
        lay(settings, topic, wire, [names[i % len(names)] for i in range(len(wire))], partition)
    ledger = Ledger()
    fault_audit.count_states(settings, [settings], expected, ledger)
    return bad(ledger)


WHOLE: Damage = list
OTHER: Final = pack(10, b"other")
OLD: Final = pack(8, b"old")


@pytest.mark.parametrize(
    ("counted", "on_disk", "on_topic"),
    [
        (set(), WHOLE, WHOLE),
        (set(), WHOLE, lambda wire: [*wire, OLD]),
        ({"lost"}, lambda wire: wire[:-1], WHOLE),
        ({"wrong"}, lambda wire: [OTHER, *wire[1:]], WHOLE),
        ({"lost"}, WHOLE, lambda wire: wire[:-1]),
        ({"wrong"}, WHOLE, lambda wire: [*wire, OTHER]),
    ],
)
def test_states(embedded: Place, made: Made, counted: set[str], on_disk: Damage, on_topic: Damage) -> None:
    assert left_states(embedded.settings(), made[1], on_disk, on_topic) == counted


def test_latest(embedded: Place, made: Made) -> None:
    """What was made before Redis was emptied may be missing; what is there must be the newest all the same."""
    settings, (_, expected) = embedded.settings(), made
    newest = {identity[:2]: identity for identity in sorted(expected.vectors)}
    (set_id, name, _), value = min(expected.vectors.items())
    key, late = latest_key(set_id, name), dict.fromkeys(newest.values(), 20_000)

    def unseen(stamps: dict[Identity, int]) -> int:
        ledger = Ledger()
        fault_audit.count_latest(settings, expected, stamps, 10.0, ledger)
        return ledger.unseen

    with redis.Redis.from_url(settings.redis_url) as client:
        for identity in newest.values():
            client.set(latest_key(*identity[:2]), expected.vectors[identity])
        assert (unseen(late), unseen({})) == (0, 0)
        client.set(key, value)
        assert (unseen(late), unseen({})) == (1, 1)
        client.delete(key)
        assert (unseen(late), unseen({})) == (1, 0)


def archived(
    settings: Settings, tape: list[run.Raw], expected: run.Outcome, rows: int = ROWS, damage: Damage = WHOLE,
    cut: int = 0, doubled: int = 0, reason: str | None = None,
) -> None:  # fmt: skip
    """An archive of a tape without its last `cut` records, with damaged vectors and letters."""
    registry = open_registry(settings.registry)
    with live(settings.archive_dir, settings.partitions, rows, origin=KAFKA) as writer:
        for partition, messages in enumerate(tape):
            keys, values = zip(*messages, strict=True)
            columns, letters = TapeCodec(registry).decode_batch(TAPE, partition, range(len(keys)), keys, values)
            writer.append_tape(columns.slice(0, len(columns) - cut))
            bounded = [letter.bounded() for letter in letters]
            bounded += bounded[:doubled]
            if reason:
                bounded[0] = bounded[0]._replace(reason=reason)
            writer.append_dead_letters(partition, range(len(bounded)), bounded)
            found = codec(settings).decode(damage(vectors_of(settings, expected, partition)))
            writer.append_vectors(partition, range(len(found.time)), found)
        writer.flush()


def count_archive(settings: Settings, tape: list[run.Raw], expected: run.Outcome) -> dict[str, Any]:
    ledger = Ledger()
    fault_audit.count_archive(settings, tape, expected, ledger)
    return {name: value for name, value in asdict(ledger).items() if value}


@pytest.mark.parametrize(
    ("counted", "how"),
    [
        (set(), {"damage": lambda wire, other: [*wire, wire[0]]}),
        ({"gap_undetected"}, {"cut": 1}),
        (set(), {"doubled": 1}),
        ({"wrong"}, {"reason": "another"}),
        ({"lost"}, {"damage": lambda wire, other: wire[1:]}),
        ({"wrong"}, {"damage": lambda wire, other: [other, *wire[1:]]}),
        ({"conflicting"}, {"damage": lambda wire, other: [*wire, other]}),
    ],
)
def test_contents_of_an_archive(embedded: Place, made: Made, counted: set[str], how: dict[str, Any]) -> None:
    settings, (tape, expected) = embedded.settings(), made
    damage = how.get("damage", lambda wire, other: wire)
    archived(settings, tape, expected, **{**how, "damage": lambda wire: damage(wire, changed(settings, wire[0]))})
    found = set(count_archive(settings, tape, expected))
    assert counted <= found, "more than one may be told: what conflicts is wrong as well"
    assert bool(counted) == bool(found)


def test_files_of_an_archive(embedded: Place, made: Made) -> None:
    settings, (tape, expected) = embedded.settings(), made
    archived(settings, tape, expected)
    assert count_archive(settings, tape, expected) == {}
    whole = settings.archive_dir
    segments = sorted(whole.glob(f"topic={TAPE}/partition=0/*.parquet"))
    assert len(segments) > 2

    def after(name: str, harm: Callable[[Path], None]) -> dict[str, Any]:
        damaged = settings.model_copy(update={"archive_dir": whole.with_name(name)})
        shutil.copytree(whole, damaged.archive_dir)
        harm(damaged.archive_dir / segments[1].relative_to(whole))
        return count_archive(damaged, tape, expected)

    def flip(segment: Path) -> None:
        content = bytearray(segment.read_bytes())
        content[len(content) // 2] ^= 1
        segment.write_bytes(content)

    def lose(segment: Path) -> None:
        segment.unlink()
        segment.with_suffix(".json").unlink()

    def double(segment: Path) -> None:
        other = settings.model_copy(update={"archive_dir": whole.with_name("other")})
        archived(other, tape, expected, rows=ROWS + 50)
        for again in sorted((other.archive_dir / segment.parent.relative_to(whole.with_name("double"))).iterdir())[:2]:
            shutil.copy(again, segment.parent)

    assert after("flip", flip) == {"torn": 1}
    assert after("lose", lose) == {"lost": 1}
    assert after("double", double).keys() == {"dup_visible"}
