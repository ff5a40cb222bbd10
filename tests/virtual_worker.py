"""The worker of the simulation: the product's own code around the features agent, on a virtual log, disk and Redis.

Real are the agent, its lanes, the gate and the codecs, the order of states, what a commit waits for, the fence, the
offsets that may be committed, and what serves Redis. Here is what Faust, RocksDB and redis-py do for them otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

from faust.types import TP
from virtual import SESSION_S, Disk, Process, VirtualProducer, World

from agents.bind import LaneStates
from agents.lanes import Epoch, Lanes
from agents.ports import RawBatch
from app.latency import Slow
from app.roles import features
from app.roles.role import CLOSE_S, Pulse
from app.serving import Serving, tell_nothing
from app.transport import Deliveries
from schemas.feature_sets import DEFAULT, load
from schemas.topics import TAPE
from schemas.vectors import Vectors
from tables import store

MICRO: Final = load(DEFAULT)
CHANGELOG: Final = "changelog"
EPOCH_S: Final = 0.5
COMMIT_S: Final = 0.4
BEAT_S, HEARTBEAT_S = 0.2, 0.3
FETCH_S, IDLE_S = (0.001, 0.03), (0.05, 0.2)


class _Registry:
    """Numbers of schemas, in memory."""

    def __init__(self) -> None:
        self._schemas: list[dict[str, Any]] = []

    def register(self, subject: str, schema: dict[str, Any]) -> int:
        if schema not in self._schemas:
            self._schemas.append(schema)
        return self._schemas.index(schema) + 1

    def get(self, schema_id: int) -> dict[str, Any] | None:
        return self._schemas[schema_id - 1] if 0 < schema_id <= len(self._schemas) else None


REGISTRY: Final = _Registry()


class VirtualStore:
    """What `tables.store.Changelog` needs of the store; the disk is virtual, the rule for late records its own."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._open: dict[int, Disk] = {}

    def put(self, partition: int, values: Iterable[tuple[bytes, bytes]]) -> None:
        self._process.step()
        self._open[partition].values.update(values)
        self._process.step()

    def items_of(self, partition: int) -> dict[bytes, bytes]:
        self._process.step()
        return dict(self._open[partition].values)

    def note_persisted(self, tp: TP, offset: int) -> None:
        if self._process.is_alive and tp.partition in self._open:
            self._open[tp.partition].persisted = offset

    async def recover(self, partition: int) -> None:
        """Open a partition and read what its changelog has more; a kill may come between any two fetches of it."""
        world = self._process.world
        disk = self._open[partition] = world.disks[self._process.name].setdefault(partition, Disk())
        log, end = world.logs[CHANGELOG, partition], len(world.logs[CHANGELOG, partition])
        while disk.persisted + 1 < end:
            await asyncio.sleep(world.latency(""))
            self._process.step()
            fetched = disk.persisted + 1 + world.chance.choice((1, 3, 20))
            take(disk, log[disk.persisted + 1 : fetched])
            self._process.step()
            disk.persisted = min(fetched, len(log)) - 1

    def close(self) -> None:
        self._open.clear()


def take(disk: Disk, records: Sequence[tuple[bytes | None, bytes]]) -> None:
    """Write down recovered states by the store's own rule."""
    keys, values = zip(*records, strict=True) if records else ((), ())
    disk.values.update(store.newest(keys, values, disk.values.get))


class VirtualRedis:
    """`app.redis_latest.PartitionLatest`: what is newer stays."""

    def __init__(self, process: Process, partition: int) -> None:
        self._process, self._partition = process, partition

    async def attempt(self, vectors: Vectors, values: Sequence[bytes]) -> bool:
        world = self._process.world
        await asyncio.sleep(world.latency(""))
        self._process.step()
        if world.now < world.redis_is_down_until:
            return False
        for key, time, value in zip(vectors.instruments(), vectors.time.tolist(), values, strict=True):
            place = self._partition, key
            if time > world.latest.get(place, (0, b""))[0]:
                world.latest[place] = time, value
        return True


Work = Callable[[], Awaitable[None]]


class Worker(Process):
    """`onetape worker` with the features role."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.store, self.failure = VirtualStore(self), None
        self.deliveries: dict[int, Deliveries] = {}
        self.generation, self.is_stopping = -1, False
        self._rejoin = asyncio.Event()
        self.start(self._guard(self._main))

    async def _main(self) -> None:
        chance, clock = self.world.chance, self.loop.time
        await asyncio.sleep(chance.uniform(0.05, 0.5))
        self._pulse = Pulse(SESSION_S, clock)
        producer, saver = VirtualProducer(self), VirtualProducer(self)
        changelog = store.Changelog(self.store, CHANGELOG, saver.enqueue)  # type: ignore[arg-type]
        states = LaneStates(changelog, lambda p: len(self.world.logs[TAPE, p]), self._pulse.fence)
        self._work = features.FeaturesWork(
            [MICRO], REGISTRY, producer, str, lambda: states, Slow(1e9, clock), lambda: 0, self._serve,
        )  # fmt: skip
        rate, rows = chance.choice((4.0, 200.0)), chance.choice((200, 10_000))
        self._lanes = Lanes(self._work.run, Epoch(EPOCH_S, rows, clock, rate, 2 * rows), self.fail)
        self._pulse.start()
        self._also(self._beat, self._heartbeat)
        while True:
            await self._assigned(*await self.world.group.join(self))

    async def _assigned(self, generation: int, mine: list[int]) -> None:
        """One assignment, from the recovery of its states until it is taken away."""
        self._rejoin.clear()
        self.generation = generation
        for partition in mine:
            await self.store.recover(partition)
        self.step()
        self.deliveries = {partition: Deliveries(self.world.group.committed[partition]) for partition in mine}
        working = self._also(partial(self._feed, generation), self._commits)
        await self._rejoin.wait()
        for task in working:
            task.cancel()
        await self._lanes.close(generation, CLOSE_S)
        await self._commit()
        self.deliveries = {}
        self.store.close()

    def _also(self, *work: Work) -> list[asyncio.Task[None]]:
        tasks = [self.loop.create_task(self._guard(each)) for each in work]
        self.tasks.update(tasks)
        return tasks

    async def _guard(self, work: Work) -> None:
        try:
            await work()
        except Exception as error:
            self.fail(error)

    async def _beat(self) -> None:
        while True:
            self._pulse.beat()
            await asyncio.sleep(BEAT_S)

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self.world.group.heartbeat(self):
                self._rejoin.set()

    async def _feed(self, generation: int) -> None:
        """Fetch batches of any size; each continues the one before it."""
        chance, pause = self.world.chance, FETCH_S
        while True:
            await asyncio.sleep(chance.uniform(*pause))
            pause = IDLE_S
            for partition, deliveries in self.deliveries.items():
                first, tape = deliveries.next, self.world.logs[TAPE, partition]
                records = tape[first : first + chance.choice((1, 7, 40, 200))]
                if records:
                    pause = FETCH_S
                    last = first + len(records) - 1
                    deliveries.deliver(last)
                    keys, values = (list(part) for part in zip(*records, strict=True))
                    raw = RawBatch(TAPE, partition, list(range(first, last + 1)), keys, values)
                    await self._lanes.put(raw, generation, self._ack_of(generation, deliveries, last))

    def _ack_of(self, generation: int, deliveries: Deliveries, last: int) -> Callable[[], object]:
        def ack() -> None:
            self.step()
            if generation == self.generation:
                deliveries.ack(last)

        return ack

    async def _commits(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_S)
            await self._commit()

    async def _commit(self) -> None:
        """As `app.transport.Consumer`: the offsets first, then everything they depend on, then the broker."""
        generation, found = self.generation, {p: each.committable() for p, each in self.deliveries.items()}
        offsets = {partition: offset for partition, offset in found.items() if offset is not None}
        if not offsets:
            return
        await self._work.settle()
        self.step()
        answered = self.loop.create_future()
        is_lost = self.world.chance.random() < 0.5

        def arrive() -> None:
            if self.is_alive or not is_lost:  # of a killed worker's commits some are on their way already
                self.world.group.commit(self, generation, offsets)
            if self.is_alive and not answered.done():
                answered.set_result(None)

        self.world.at(self.world.now + self.world.latency(""), arrive)
        await answered

    async def _serve(self, assigned: AsyncExitStack, partition: int) -> Mapping[str, Serving]:
        serving = Serving(VirtualRedis(self, partition), tell_nothing, self.fail)  # type: ignore[arg-type]
        assigned.push_async_callback(serving.close)
        return {MICRO.id: serving}

    def fail(self, error: BaseException) -> None:
        """As the worker: it ends, saves what it can, commits nothing."""
        if isinstance(error, Exception) and self.failure is None:
            self.failure = error
            self.stop(is_clean=False)

    def stop(self, is_clean: bool = True) -> None:
        if self.is_alive and not self.is_stopping:
            self.is_stopping = True
            self.tasks.add(self.loop.create_task(self._stop(is_clean)))

    async def _stop(self, is_clean: bool) -> None:
        if self.deliveries:
            await self._lanes.close(self.generation, CLOSE_S)
            if is_clean:
                await self._commit()
        self.step()
        self.world.group.leave(self)
        self.die()
