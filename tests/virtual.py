"""A world in one thread: its clock, its log, its consumer group, its disks, its Redis. Everything a seed decides.

Every process has an event loop of its own on the world's clock; the world picks by chance whose turn it is, and moves
the clock when nobody has anything to do. What a process does to the world goes through `Process.step`: a process that
has been killed does nothing any more, and a kill may come between any two steps. What it has sent may still arrive.

Units: seconds of the world; offsets.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
from asyncio import events
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

Place = tuple[str, int]
Message = tuple[bytes | None, bytes]

SESSION_S: Final = 3.0
EXPIRY_S: Final = 0.5
AFTER_DEATH_S: Final = 1e6
TURNS: Final = 10_000
"""More of one dying process and something in it does not end."""


class Killed(SystemExit):
    """The process has ended here."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop that never waits: the world's clock moves when nothing is left to do."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self._selector = self
        self.set_exception_handler(lambda *_: None)

    def time(self) -> float:
        return self.clock()

    def select(self, timeout: float | None) -> list[Any]:
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no sockets."""

    def due(self) -> float:
        """When something is to be done, -inf for at once."""
        while self._scheduled and self._scheduled[0]._cancelled:
            heapq.heappop(self._scheduled)._scheduled = False
        if self._ready:
            return -math.inf
        return self._scheduled[0]._when if self._scheduled else math.inf

    def turn(self) -> None:
        """One round of what is ready."""
        events._set_running_loop(self)
        try:
            self._run_once()
        finally:
            events._set_running_loop(None)


class World:
    """What outlives every process."""

    def __init__(self, seed: int, partitions: int) -> None:
        self.chance, self.now, self.partitions = random.Random(seed), 0.0, partitions
        self.logs: defaultdict[Place, list[Message]] = defaultdict(list)
        self.disks: defaultdict[str, dict[int, Disk]] = defaultdict(dict)
        self.latest: dict[Any, tuple[int, bytes]] = {}
        self.group = Group(self)
        self.processes: list[Process] = []
        self.delayed: dict[str, tuple[float, float]] = {}
        """Topic: until when it takes so many seconds longer."""
        self.redis_is_down_until = 0.0
        self.kills = self.kills_at_points = 0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.at(EXPIRY_S, self._expire)

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something when the clock is there."""
        heapq.heappush(self._timers, (time, next(self._count), action))

    def latency(self, topic: str) -> float:
        """How long a message is under way."""
        until, more = self.delayed.get(topic, (0.0, 0.0))
        return self.chance.uniform(0.001, 0.02) + (more if self.now < until else 0.0)

    def run(self, until: Callable[[], object], limit_s: float) -> bool:
        """Go on until something is so; False if it is not within so many seconds."""
        end = self.now + limit_s
        while not until():
            awake = [each for each in self.processes if each.awake_at <= self.now]
            ready = [each for each in awake if each.loop.due() <= self.now]
            if ready:
                self.chance.choice(ready).turn()
                continue
            soonest = min((max(each.loop.due(), each.awake_at) for each in self.processes), default=math.inf)
            self.now = max(self.now, min(soonest, self._timers[0][0]))
            if self.now > end:
                return False
            while self._timers[0][0] <= self.now:
                heapq.heappop(self._timers)[2]()
        return True

    def _expire(self) -> None:
        self.group.expire()
        self.at(self.now + EXPIRY_S, self._expire)


class Process:
    """Something with an event loop that can be killed and paused."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.loop = VirtualLoop(lambda: world.now)
        self.is_alive, self.awake_at = True, 0.0
        self.fuse = 0
        """Steps until it is killed; 0: it is not."""
        self.producers: list[VirtualProducer] = []
        world.processes.append(self)

    def start(self, main: Coroutine[Any, Any, None]) -> None:
        self.tasks = {self.loop.create_task(main)}

    def step(self) -> None:
        """Something is done to the world now. Errors: Killed."""
        if self.fuse:
            self.fuse -= 1
            if not self.fuse:
                self.world.kills += 1
                self.world.kills_at_points += 1
                self.die()
        if not self.is_alive:
            raise Killed

    def turn(self) -> None:
        """Do what is ready."""
        with suppress(Killed):
            self.loop.turn()
        if not self.is_alive:
            self._bury()

    def kill(self) -> None:
        """From outside, between two turns."""
        if self.is_alive:
            self.world.kills += 1
            self.die()
            self._bury()

    def die(self) -> None:
        """From here on nothing it does counts."""
        self.is_alive = False
        self.world.processes.remove(self)
        for producer in self.producers:
            producer.cut_off()

    def _bury(self) -> None:
        """End what runs in it, with a clock that lets no timeout wait."""
        late = itertools.count(self.world.now + AFTER_DEATH_S, AFTER_DEATH_S)
        self.loop.clock = lambda: next(late)
        chance, self.world.chance = self.world.chance, random.Random(0)  # its last words decide nothing
        try:
            self._end()
        finally:
            self.world.chance = chance
        self.loop.close()

    def _end(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        for _ in range(TURNS):
            if not asyncio.all_tasks(self.loop):
                break
            with suppress(Killed):
                self.loop.turn()
        else:
            raise AssertionError(f"{asyncio.all_tasks(self.loop)} do not end")


@dataclass
class _Flight:
    messages: Sequence[Message]
    is_lost: bool = False


class VirtualProducer:
    """`app.producer.Producer`: in order within a partition; each answer comes some time after the log has it."""

    def __init__(self, process: Process) -> None:
        self._process, self._world = process, process.world
        self._arrival: dict[Place, float] = {}
        self._flights: defaultdict[Place, deque[_Flight]] = defaultdict(deque)
        self._held: dict[Place, float] = {}
        """Until when what a paused process has not sent yet stays with it."""
        process.producers.append(self)

    def enqueue(self, topic: str, partition: int, messages: Sequence[Message]) -> asyncio.Future[int]:
        self._process.step()
        future, place, flight = self._process.loop.create_future(), (topic, partition), _Flight(messages)
        at = max(self._arrival.get(place, 0.0), self._world.now + self._world.latency(topic))
        self._arrival[place] = at
        self._flights[place].append(flight)
        self._world.at(at, lambda: self._arrive(place, flight, future))
        return future

    async def send(self, topic: str, partition: int, messages: Sequence[Message]) -> None:
        if messages:
            await self.enqueue(topic, partition, messages)

    def _arrive(self, place: Place, flight: _Flight, future: asyncio.Future[int]) -> None:
        if flight.is_lost:
            return
        world, awake_at = self._world, self._process.awake_at
        if self._process.is_alive and world.now < awake_at and (place in self._held or world.chance.random() < 0.5):
            self._held[place] = awake_at
        if world.now < self._held.get(place, 0.0):
            world.at(self._held[place], lambda: self._arrive(place, flight, future))
            return
        self._held.pop(place, None)
        self._flights[place].popleft()
        log = self._world.logs[place]
        log.extend(flight.messages)
        offset = len(log) - 1
        self._world.at(self._world.now + self._world.latency(""), lambda: self._answer(future, offset))

    def _answer(self, future: asyncio.Future[int], offset: int) -> None:
        if self._process.is_alive and not future.done():
            future.set_result(offset)

    def cut_off(self) -> None:
        """Of what is under way in a partition the first few arrive: a later batch never without an earlier."""
        for flights in self._flights.values():
            is_lost = False
            for flight in flights:
                is_lost = flight.is_lost = is_lost or self._world.chance.random() < 0.5


@dataclass
class Disk:
    """One partition's folder: values, and up to where of the changelog it has everything."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    persisted: int = -1


class Group:
    """Kafka's coordinator of a consumer group: who has which partitions, and whose commits count."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.committed = [0] * world.partitions
        self.generation = 0
        self._seen: dict[Process, float] = {}
        """When each member was heard of last."""
        self._joining: dict[Process, asyncio.Future[tuple[int, list[int]]]] = {}
        self._assigned: dict[Process, list[int]] = {}
        self._is_preparing = False

    def join(self, member: Process) -> asyncio.Future[tuple[int, list[int]]]:
        """The generation and the member's partitions, once every member has joined or is given up.

        Who comes back on its disk is the member it was (app/membership.py): no other is stopped for it.
        """
        member.step()
        before = self._before(member)
        if before is not None:
            del self._seen[before]
            self._joining.pop(before, None)
        self._seen[member] = self._world.now
        if before is not None and before in self._assigned and not self._is_preparing:
            mine = self._assigned[member] = self._assigned.pop(before)
            known: asyncio.Future[tuple[int, list[int]]] = member.loop.create_future()
            known.set_result((self.generation, mine))
            return known
        joined = self._joining[member] = member.loop.create_future()
        self._prepare()
        return joined

    def _before(self, member: Process) -> Process | None:
        """The dead process that the member was, as far as its disk knows."""
        dead = (each for each in self._seen if each.name == member.name and not each.is_alive)
        return next(dead, None) if member.name in self._world.disks else None

    def leave(self, member: Process) -> None:
        if self._seen.pop(member, None) is not None:
            self._joining.pop(member, None)
            self._prepare()

    def heartbeat(self, member: Process) -> bool:
        """Whether the member has to join anew."""
        member.step()
        if member not in self._seen:
            return True
        self._seen[member] = self._world.now
        return self._is_preparing and member not in self._joining

    def commit(self, member: Process, generation: int, offsets: Mapping[int, int]) -> bool:
        """Whether it counts: not of a former member, nor of one that has not heard of the others yet."""
        if member not in self._seen or generation != self.generation:
            return False
        for partition, offset in offsets.items():
            self.committed[partition] = offset
        return True

    def expire(self) -> None:
        """Give up members that are not heard of."""
        for member, seen in list(self._seen.items()):
            if self._world.now - seen > SESSION_S:
                self.leave(member)

    def _prepare(self) -> None:
        self._is_preparing = True
        if not self._seen.keys() <= self._joining.keys():
            return  # the silent ones expire
        self._is_preparing = False
        self.generation += 1
        members = [each for each in self._joining if each.is_alive]
        self._assigned.clear()
        self._world.chance.shuffle(members)
        for i, member in enumerate(members):
            mine = self._assigned[member] = list(range(i, self._world.partitions, len(members)))
            future = self._joining[member]
            if not future.done():
                future.set_result((self.generation, mine))
        self._joining.clear()
