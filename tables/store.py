"""The state table: every symbol's state in RocksDB on this machine, and in a Faust changelog for the next machine.

A value is 8 bytes big-endian, the tape offset that the state has applied last, then the blob. Faust's own RocksDB store
(its rocksdict driver) opens, assigns and recovers the partitions; what it leaves open is closed here:

- its block cache is 2 GiB per partition unless told otherwise;
- a damaged folder stops the worker or reads as if it held less; here it is emptied and filled from the changelog again;
- it never closes a database, so a partition that comes back soon is still locked;
- an error while the changelog is replayed is logged and skipped; here it is raised when the states are loaded;
- the last changelog record wins, even if a worker that had lost the partition wrote it late; here the highest offset.

State: `{tabledir}/{table}-{partition}.db` with the offset of the last changelog record it has seen.
Errors: StateRefused for states of another tape or that could not be recovered; DependencyDown when the disk refuses.
Source: faust-streaming 0.15.3, faust/stores/rocksdb.py and faust/tables/recovery.py.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast

import rocksdict
from faust.stores import STORES
from faust.stores import rocksdb as faust_rocksdb
from faust.tables.manager import TableManager
from faust.types import TP, CollectionT, EventT

from schemas.errors import DependencyDown, StateRefused
from tables.record_log import foreign_record

logger = logging.getLogger(__name__)

SCHEME: Final = "onetape"
URL: Final = f"{SCHEME}://"
OPTIONS: Final[Mapping[str, Any]] = {
    "driver": "rocksdict",
    "block_cache_size": 16 << 20,
    "write_buffer_size": 8 << 20,
    "max_write_buffer_number": 2,
    "target_file_size_base": 8 << 20,
}
UNDELIVERED_BYTES: Final = 64 << 20
"""States that wait for the broker, over all partitions; one save more may join them."""
_HEADER: Final = struct.Struct(">q")
_REFUSALS: Final = ("while lock file", "lock hold", "no space", "permission", "read-only", "too many open files")
"""What RocksDB says when the folder is fine and the machine is not: no reason to throw a state away."""


class Records(Protocol):
    """What one fetch brought of a changelog's partition, in offset order, as app/transport.py hands it over."""

    @property
    def topic(self) -> str:
        """The changelog."""

    @property
    def partition(self) -> int:
        """Its partition."""

    @property
    def offsets(self) -> Sequence[int]:
        """Where each record stands."""

    @property
    def keys(self) -> Sequence[bytes | None]:
        """The instruments."""

    @property
    def values(self) -> Sequence[bytes | None]:
        """The states, packed."""


Publish = Callable[[str, int, Sequence[tuple[bytes | None, bytes]]], "asyncio.Future[int]"]


def pack(applied: int, blob: bytes) -> bytes:
    """A stored value."""
    return _HEADER.pack(applied) + blob


def unpack(value: bytes) -> tuple[int, bytes]:
    """(offset applied last, blob) of a stored value. Errors: StateRefused."""
    return _applied(value), value[_HEADER.size :]


def _applied(value: bytes | None) -> int:
    """The offset that a stored value has applied last, -1 without one. Errors: StateRefused."""
    if value is None:
        return -1
    if len(value) < _HEADER.size:
        raise StateRefused(
            "a stored state is cut", expected=f"at least {_HEADER.size} bytes", was=f"{len(value)} bytes",
            action="delete the data folder; the states come back from the changelog",
        )  # fmt: skip
    return int(_HEADER.unpack_from(value)[0])


def newest(
    keys: Sequence[bytes | None], values: Sequence[bytes | None], present: Callable[[bytes], bytes | None]
) -> dict[bytes, bytes | None]:
    """What changelog records leave of each of their keys: the state that has applied most, None for a deleted one.

    `present` is what is stored of a key. Errors: StateRefused.
    """
    found: dict[bytes, tuple[int, bytes | None]] = {}
    for key, value in zip(keys, values, strict=True):
        if key is None:
            continue
        if value is None:
            found[key] = (-1, None)
            continue
        applied = _applied(value)
        if key not in found:
            stored = present(key)
            found[key] = (_applied(stored), stored)
        if applied >= found[key][0]:
            found[key] = (applied, value)
    return {key: value for key, (_, value) in found.items()}


class Store(faust_rocksdb.Store):
    """Faust's RocksDB store with closed gaps; the table's URL is `URL` and its options are `OPTIONS`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failure: Exception | None = None

    def put(self, partition: int, values: Iterable[tuple[bytes, bytes]]) -> None:
        """Write values of one partition at once. Errors: DependencyDown."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in values:
            batch.put(key, value)
        try:
            self._db_for_partition(partition).write(batch)
        except Exception as error:  # rocksdict raises plain Exception
            raise self._disk(error) from error

    def items_of(self, partition: int) -> dict[bytes, bytes]:
        """Every value of a partition. Errors: StateRefused if the changelog could not be replayed."""
        if self._failure is not None:
            raise StateRefused(
                "the states could not be recovered", expected="a changelog that can be read", was=str(self._failure),
                action="make room or repair the disk, delete the data folder and start the worker again",
            ) from self._failure  # fmt: skip
        found = _items(self._db_for_partition(partition))
        return {key: value for key, value in found if key != self.offset_key}

    def note_persisted(self, tp: TP, offset: int) -> None:
        """The broker has the changelog up to `offset`: recovery may begin behind it. Nothing if it is not ours now."""
        if tp.partition in self._dbs and offset >= 0:
            self.set_persisted_offset(tp, offset)

    def apply_changelog_batch(
        self, batch: Iterable[EventT[Any]], to_key: Callable[[Any], Any], to_value: Callable[[Any], Any]
    ) -> None:
        """Take recovered values; a value that has applied less than the one at hand is late and left out.

        After a failure nothing more is taken: the next start would begin behind what is missing, and not know it.
        """
        if self._failure is not None:
            return
        fetched: dict[int, list[Records]] = {}
        try:
            for event in batch:
                records = cast(Records, event.value)
                fetched.setdefault(records.partition, []).append(records)
            for partition, fetches in fetched.items():
                self._take(partition, fetches)
        except Exception as error:  # Faust would log it and call the recovery complete
            self._failure = error

    def _take(self, partition: int, fetches: Sequence[Records]) -> None:
        """Write what some fetches brought of a partition, each key once: they hold every state many times."""
        db, writes = self._db_for_partition(partition), rocksdict.WriteBatch(raw_mode=True)
        keys = [key for records in fetches for key in records.keys]
        values = [value for records in fetches for value in records.values]
        for key, value in newest(keys, values, db.get).items():
            if value is None:
                writes.delete(key)
            else:
                writes.put(key, value)
        db.write(writes)
        self.set_persisted_offset(TP(fetches[-1].topic, partition), fetches[-1].offsets[-1])

    def _open_for_partition(self, partition: int) -> Any:
        path = self.partition_path(partition)
        try:
            return self._open_checked(partition)
        except Exception as error:  # rocksdict raises plain Exception
            if any(word in str(error).lower() for word in _REFUSALS):
                raise self._disk(error) from error  # Faust tries again for half a minute if its text has "lock"
            logger.warning(
                "the state folder of partition %d is damaged (%s): it is filled again from the changelog",
                partition, str(error).partition("\n")[0],
            )  # fmt: skip
        shutil.rmtree(path, ignore_errors=True)
        try:
            return self._open_checked(partition)
        except Exception as error:
            raise self._disk(error) from error

    def _open_checked(self, partition: int) -> Any:
        odd = foreign_record(Path(self.partition_path(partition)))
        if odd is not None:
            raise ValueError(f"{odd} has a record of a type that is not written here")
        db = super()._open_for_partition(partition)
        try:
            for key, _ in _items(db):
                db.get(key)  # reads every block, indexes and filters too, and so verifies every checksum
        except BaseException:
            db.close()
            raise
        return db

    def revoke_partitions(self, table: CollectionT, tps: set[TP]) -> None:
        """Close the databases of partitions that go to another worker."""
        for tp in tps:
            if tp.topic in table.changelog_topic.topics:
                self._close(tp.partition)

    async def stop(self) -> None:
        """Close every database."""
        for partition in list(self._dbs):
            self._close(partition)

    def _close(self, partition: int) -> None:
        """A disk that does not take the rest costs nothing: the changelog has every state that was acknowledged."""
        db = self._dbs.pop(partition, None)
        if db is not None:
            try:
                db.close()
            except Exception as error:  # rocksdict raises plain Exception
                logger.warning("the states of partition %d were not closed in order: %s", partition, error)

    def _disk(self, error: Exception) -> DependencyDown:
        return DependencyDown(
            "the states cannot be opened or written", expected=f"a writable folder {self.path}, ours alone",
            was=str(error).partition("\n")[0],
            action="make room, repair the disk or end who holds it, and start the worker again; nothing is lost",
        )  # fmt: skip


def _items(db: Any) -> Iterator[tuple[bytes, bytes]]:
    """Every key and value. rocksdict's own `items` ends at a damaged block as if there were no more."""
    cursor = db.iter()
    cursor.seek_to_first()
    while cursor.valid():
        yield cursor.key(), cursor.value()
        cursor.next()
    cursor.status()


STORES[SCHEME] = f"{__name__}:{Store.__name__}"


class Tables(TableManager):
    """Faust's manager of tables, without the second it waits before it starts: the agents were started before."""

    async def on_start(self) -> None:
        """Make the changelogs known, and begin to recover."""
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


class Changelog:
    """Writes states to the store and to the changelog, and knows which of them the broker does not have yet."""

    def __init__(self, store: Store, topic: str, publish: Publish) -> None:
        self._store, self._topic, self._publish = store, topic, publish
        self._pending: dict[asyncio.Future[int], int] = {}
        """Bytes of each save, in the order of the saves, so that runs are alike."""

    def save(self, partition: int, states: Mapping[str, tuple[int, bytes]]) -> None:
        """Store states, (offset applied last, blob) each, and hand them to the producer. Errors: DependencyDown."""
        if not states:
            return
        values = [(key.encode(), pack(applied, blob)) for key, (applied, blob) in states.items()]
        self._store.put(partition, values)
        future = self._publish(self._topic, partition, [(key, value) for key, value in values])
        self._pending[future] = sum(len(value) for _, value in values)
        future.add_done_callback(lambda done: self._delivered(partition, done))

    def load(self, partition: int, end_offset: int | None) -> dict[str, bytes]:
        """Every state of a partition. Errors: StateRefused if one has applied `end_offset` or more, the tape's end."""
        states: dict[str, bytes] = {}
        for key, value in self._store.items_of(partition).items():
            applied, blob = unpack(value)
            if end_offset is not None and applied >= end_offset:
                raise StateRefused(
                    f"the state of {key.decode()} is of another tape",
                    expected=f"an offset below {end_offset}, the end of partition {partition}", was=str(applied),
                    action="delete the data folder and the changelog topic, or point the worker at the right broker",
                )  # fmt: skip
            states[key.decode()] = blob
        return states

    async def room(self) -> None:
        """Returns once at most UNDELIVERED_BYTES are on their way to the broker; what has failed is not.

        A changelog that is slower than the tape would otherwise queue states until a delivery is given up.
        """
        while True:
            under_way = {future: size for future, size in self._pending.items() if not future.done()}
            if sum(under_way.values()) <= UNDELIVERED_BYTES:
                return
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)

    async def settle(self) -> None:
        """Returns when the broker has every state saved before the call. Errors: DeliveryFailed."""
        for future in list(self._pending):
            await asyncio.shield(future)

    def _delivered(self, partition: int, done: asyncio.Future[int]) -> None:
        if done.cancelled():
            return
        if done.exception() is None:  # a failed one stays pending, so that no later commit can pass it
            self._pending.pop(done, None)
            self._store.note_persisted(TP(self._topic, partition), done.result())
