"""The state table: what is saved comes back, a damaged folder is made whole from the changelog, late writers lose."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faust
import pytest
from faust.types import TP, ConsumerMessage

from agents.bind import state_table
from agents.ports import RawBatch
from app.producer import refused
from schemas.errors import DependencyDown, StateRefused
from tables import store
from tables.record_log import foreign_record

CHANGELOG = "states"
PARTITION = 1
PLACE = TP(CHANGELOG, PARTITION)
FETCHED = 7
"""Records that a fetch of the changelog brings."""
BLOBS = {f"V:S{i}": random.Random(i).randbytes(3_000) for i in range(40)}
LATER = {name: blob[::-1] for name, blob in BLOBS.items()}


class SlowBroker:
    """Takes a save when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[int]] = []

    def publish(
        self, topic: str, partition: int, messages: Sequence[tuple[bytes | None, bytes]]
    ) -> asyncio.Future[int]:
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]


class Broker:
    """Takes the changelog; `refuse` makes a delivery fail."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes | None, bytes]] = []
        self.refuse = False

    def publish(
        self, topic: str, partition: int, messages: Sequence[tuple[bytes | None, bytes]]
    ) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.refuse:
            future.set_exception(refused(topic, "no"))
        else:
            self.records.extend(messages)
            future.set_result(len(self.records) - 1)
        return future


def opened(folder: Path) -> store.Store:
    """The table's store, as Faust makes it."""
    folder.mkdir(exist_ok=True)
    app = faust.App("states", datadir=folder, store=store.URL, autodiscover=False, web_enabled=False)
    app.conf.tabledir.mkdir(parents=True, exist_ok=True)
    made = state_table(app, 4).data
    assert isinstance(made, store.Store)
    return made


def saved(folder: Path, *saves: dict[str, bytes], broker: Broker | None = None, is_killed: bool = False) -> None:
    """Save states at offsets 10, 20, .. and close, or leave what a kill would leave."""
    broker = broker or Broker()

    async def run() -> None:
        states = opened(folder)
        changelog = store.Changelog(states, CHANGELOG, broker.publish)
        for i, blobs in enumerate(saves, 1):
            changelog.save(PARTITION, {name: (10 * i, blob) for name, blob in blobs.items()})
        await changelog.settle()
        await asyncio.sleep(0)  # delivery reports come through the loop
        if is_killed:
            shutil.copytree(folder, image)
        await states.stop()

    image = folder.with_name(f"{folder.name}-killed")
    asyncio.run(run())
    if is_killed:
        shutil.rmtree(folder)
        image.rename(folder)


def loaded(folder: Path, end_offset: int | None = None) -> tuple[dict[str, bytes], int | None]:
    """(states, offset of the changelog from which recovery would read on)."""

    async def run() -> tuple[dict[str, bytes], int | None]:
        states = opened(folder)
        try:
            return store.Changelog(states, CHANGELOG, Broker().publish).load(
                PARTITION, end_offset
            ), states.persisted_offset(PLACE)
        finally:
            await states.stop()

    return asyncio.run(run())


def changelog_event(first: int, records: Sequence[tuple[str, bytes | None]]) -> Any:
    """Records as Faust's recovery hands over what one fetch brought."""
    offsets = list(range(first, first + len(records)))
    keys: list[bytes | None] = [key.encode() for key, _ in records]
    value: Any = RawBatch(CHANGELOG, PARTITION, offsets, keys, [value for _, value in records])
    message = ConsumerMessage(
        CHANGELOG, PARTITION, offsets[-1], timestamp=0.0, timestamp_type=0, headers=None, key=None, value=value,
        checksum=None, tp=PLACE,
    )  # fmt: skip
    app = faust.App("events", autodiscover=False, web_enabled=False)
    return app.create_event(message.key, message.value, None, message)


def recovered(folder: Path, records: Sequence[tuple[str, bytes | None]]) -> dict[str, bytes]:
    """States after Faust has replayed a changelog from where the store says."""

    async def run() -> dict[str, bytes]:
        states = opened(folder)
        persisted = states.persisted_offset(PLACE)
        begin = 0 if persisted is None else persisted + 1
        fetches = [records[at : at + FETCHED] for at in range(begin, len(records), FETCHED)]
        events = [changelog_event(begin + at * FETCHED, part) for at, part in enumerate(fetches)]
        states.apply_changelog_batch(events, lambda key: key, lambda value: value)
        try:
            return store.Changelog(states, CHANGELOG, Broker().publish).load(PARTITION, None)
        finally:
            await states.stop()

    return asyncio.run(run())


def recovered_from(folder: Path, broker: Broker) -> dict[str, bytes]:
    return recovered(folder, [((key or b"").decode(), value) for key, value in broker.records])


def folder_of(folder: Path) -> Path:
    return next(folder.glob(f"*/tables/state-{PARTITION}.db"))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    saved(tmp_path, BLOBS, {"V:S0": b"new"})
    assert loaded(tmp_path) == ({**BLOBS, "V:S0": b"new"}, len(BLOBS))


def test_a_partition_can_be_opened_again_at_once(tmp_path: Path) -> None:
    async def run() -> dict[str, bytes]:
        first = opened(tmp_path)
        first.put(PARTITION, [(b"k", store.pack(1, b"v"))])
        first.revoke_partitions(first.table, {TP(first.table.changelog_topic_name, PARTITION)})
        second = opened(tmp_path)
        found = store.Changelog(second, CHANGELOG, Broker().publish).load(PARTITION, None)
        await second.stop()
        return found

    assert asyncio.run(run()) == {"k": b"v"}


def test_an_undelivered_changelog_record_stops_every_later_commit(tmp_path: Path) -> None:
    broker = Broker()

    async def run() -> None:
        states = opened(tmp_path)
        changelog = store.Changelog(states, CHANGELOG, broker.publish)
        changelog.save(PARTITION, {"V:A": (10, b"a")})
        await changelog.settle()
        broker.refuse = True
        changelog.save(PARTITION, {"V:B": (20, b"b")})
        broker.refuse = False
        changelog.save(PARTITION, {"V:A": (30, b"c")})
        for _ in range(2):
            with pytest.raises(DependencyDown, match="not delivered"):
                await changelog.settle()
        await states.stop()

    asyncio.run(run())


@pytest.mark.fault("state", "a file of it truncated or lost")
@pytest.mark.fault("state", "a bit of it flipped")
@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_damage_never_gives_a_wrong_state(tmp_path: Path, seed: int, is_killed: bool) -> None:
    """Whatever is left, the changelog behind it makes it whole, and so once more after the next start."""
    broker = Broker()
    saved(tmp_path, BLOBS, LATER, broker=broker, is_killed=is_killed)
    chance = random.Random(seed)
    damage = chance.choice([_flip, _cut, _remove])
    file = chance.choice([path for path in sorted(folder_of(tmp_path).iterdir()) if path.stat().st_size])
    damage(file, chance)
    for _ in range(2):
        assert recovered_from(tmp_path, broker) == LATER


@pytest.mark.fault("state", "a bit flipped in the type of a record of its MANIFEST or WAL")
@pytest.mark.parametrize("bit", [2, 3, 7])
@pytest.mark.parametrize("pattern", ["MANIFEST-*", "*.log"])
def test_a_flipped_type_of_a_record_is_found_before_rocksdb_opens_the_folder(
    tmp_path: Path, pattern: str, bit: int
) -> None:
    """With bit 2 RocksDB 9.8.4 never comes back from it."""
    broker = Broker()
    saved(tmp_path, BLOBS, LATER, broker=broker, is_killed=True)
    (file,) = folder_of(tmp_path).glob(pattern)
    content = bytearray(file.read_bytes())
    assert content[6] in (1, 2), "a whole record begins the log, or the first part of one"
    content[6] ^= 1 << bit
    file.write_bytes(content)
    assert foreign_record(file.parent) == file.name
    for _ in range(2):
        assert recovered_from(tmp_path, broker) == LATER
    assert foreign_record(folder_of(tmp_path)) is None


def _flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def _cut(file: Path, chance: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])


def _remove(file: Path, chance: random.Random) -> None:
    file.unlink()


@pytest.mark.fault("state", "RocksDB folder deleted")
def test_a_lost_folder_is_filled_from_the_changelog(tmp_path: Path) -> None:
    broker = Broker()
    saved(tmp_path, BLOBS, broker=broker)
    shutil.rmtree(folder_of(tmp_path))
    assert recovered_from(tmp_path, broker) == BLOBS


@pytest.mark.fault("state", "changelog record that a zombie wrote late")
def test_a_late_record_of_a_worker_that_lost_the_partition_does_not_win(tmp_path: Path) -> None:
    records: list[tuple[str, bytes | None]] = [
        ("V:A", store.pack(50, b"early")), ("V:A", store.pack(90, b"newest")), ("V:A", store.pack(70, b"late")),
        ("V:B", store.pack(50, b"b")), ("V:B", store.pack(50, b"the same save again")),
    ]  # fmt: skip
    assert recovered(tmp_path / "whole", records) == {"V:A": b"newest", "V:B": b"the same save again"}
    for count in (1, 2, 3):  # one more record at every start
        found = recovered(tmp_path / "single", records[:count])
    assert found == {"V:A": b"newest"}


@pytest.mark.fault("state", "changelog record corrupt")
def test_a_changelog_that_cannot_be_replayed_is_named_when_the_states_are_loaded(tmp_path: Path) -> None:
    records: list[tuple[str, bytes | None]] = [("V:A", store.pack(50, b"a")), ("V:A", b"cut")]
    with pytest.raises(StateRefused, match=r"could not be recovered.*Action: "):
        recovered(tmp_path, records)


@pytest.mark.fault("state", "changelog record corrupt")
def test_a_corrupt_changelog_record_is_refused_by_every_later_start(tmp_path: Path) -> None:
    """Good records behind it, which recovery hands over later, do not carry it past what it could not read."""
    records: list[tuple[str, bytes | None]] = [
        ("V:A", store.pack(50, b"a50")), ("V:B", store.pack(50, b"b50")),
        ("V:A", store.pack(70, b"a70")), ("V:B", b"cut"),
        ("V:B", store.pack(90, b"b90")), ("V:C", store.pack(90, b"c90")),
    ]  # fmt: skip

    async def start() -> None:
        states = opened(tmp_path)
        try:
            persisted = states.persisted_offset(PLACE)
            for at in range(0 if persisted is None else persisted + 1, len(records), 2):
                event = changelog_event(at, records[at : at + 2])
                states.apply_changelog_batch([event], lambda key: key, lambda value: value)
            store.Changelog(states, CHANGELOG, Broker().publish).load(PARTITION, None)
        finally:
            await states.stop()

    for _ in range(3):
        with pytest.raises(StateRefused, match=r"could not be recovered.*Action: "):
            asyncio.run(start())


@pytest.mark.fault("state", "states of another tape")
def test_a_state_beyond_the_end_of_the_tape_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, {"V:A": b"a"})
    assert loaded(tmp_path, end_offset=11)[0] == {"V:A": b"a"}
    with pytest.raises(StateRefused, match="of another tape"):
        loaded(tmp_path, end_offset=10)


def test_the_table_is_small_in_memory(tmp_path: Path) -> None:
    """rocksdict leaves unknown options alone without a word: ask the store what it was given."""
    assert opened(tmp_path).rocksdb_options.block_cache_size == store.OPTIONS["block_cache_size"]


def test_a_slow_changelog_holds_back_the_next_batch_and_a_failed_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "UNDELIVERED_BYTES", 10_000)

    async def run() -> None:
        broker = SlowBroker()
        changelog = store.Changelog(opened(tmp_path / "a"), CHANGELOG, broker.publish)
        for at, (name, blob) in enumerate(list(BLOBS.items())[:4]):  # 3,008 bytes each
            await changelog.room()
            changelog.save(PARTITION, {name: (at, blob)})
        waiting = asyncio.create_task(changelog.room())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        broker.waiting[2].set_result(2)
        await waiting
        changelog.save(PARTITION, {"V:LAST": (9, BLOBS["V:S0"])})
        waiting = asyncio.create_task(changelog.room())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        broker.waiting[0].set_exception(refused(CHANGELOG, "no"))
        await waiting
        with pytest.raises(DependencyDown):
            await changelog.settle()

    asyncio.run(run())
