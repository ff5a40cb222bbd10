"""The worker: features, latest and archive agents in one process, each a Faust app with a consumer group of its own,
and the clock where it is asked for.

Input: the topics of `app.topics` on the broker.
Output: vectors and dead letters on their topics; the newest vectors in Redis; the archive.
State: `data_dir`: one RocksDB per partition; a lock file, for two workers cannot share it. The clock has none.
Errors: DependencyDown when the broker does not answer at the start; AccessRefused; UsageError for settings that
    cannot be; whatever an agent raises ends the worker, before anything more is acknowledged; StopFailed when the last
    commit failed.
Units: seconds.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from faust.exceptions import ConsistencyError

from agents.plan import Plan
from app.config import Settings
from app.connection import forbidden, secrets_of
from app.histogram import prepare
from app.logs import FORBIDDEN_ERRORS, start_log
from app.membership import member_name
from app.metrics import consumers
from app.redis_latest import RedisSilent, check_redis
from app.rights import check_rights
from app.roles.archive import archive_role
from app.roles.clock import clock_role
from app.roles.features import features_role
from app.roles.latest import latest_role
from app.roles.role import CLOSE_S, Fail, PartitionsLost, Pulse, Role
from app.topics import CLOCK_ROLE, ROLES, ensure_topics, tape_origin
from app.web import address_refused, serve_web
from schemas.durable import write_json
from schemas.errors import CheckFailed, StateRefused, UsageError
from schemas.feature_sets import load_all

logger = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")

BEAT_S: Final = 0.2
STOP_S: Final = 4.0
LEAVE_S: Final = 2.0
PARENTLESS_S: Final = 15.0
PATIENCE_S: Final = 10.0
COMPILING: Final = "compiling what this worker runs: about a minute, at the first start after an installation"
SWITCH_S: Final = 0.001
"""How long the loop may keep the threads that fetch from going on; Python's own 5 ms add up in the way of one Tick."""
GC_THRESHOLDS: Final = (100_000, 20, 100)
"""Objects made, and collections of the younger, before a generation is looked through; Python's own: 700, 10, 10."""
ADDRESS_REFUSED: Final = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)


class StopFailed(CheckFailed):
    """The worker has stopped, but what it read last will be read again."""


def run_worker(settings: Settings, roles: Collection[str] = ROLES) -> int:
    """Run until SIGTERM or SIGINT, then stop cleanly; returns 0. Errors: as the module says.

    A signal that comes before anything was read is a clean stop as well: the process ends with 0.
    """
    start_log(settings.log_level, secrets_of(settings))
    with _stoppable():
        Plan(load_all(settings.feature_sets))  # what they name wrong is told before anything is made for them
        ensure_topics(settings)
        check_rights(settings, roles)
        if "latest" in roles:
            _look_for_redis(settings)
        with ExitStack() as stack:
            if not set(roles) <= {CLOCK_ROLE}:
                stack.enter_context(_owned(settings.data_dir))
                _check_tape(settings)
            _run(_serve(settings, roles))
    return 0


def _run(main: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, but what does not end when it is cancelled is left behind."""
    loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main)
    finally:
        try:
            loop.run_until_complete(_leave())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


async def _leave() -> None:
    """Cancel what is still under way; a stop of Faust that a silent broker holds up does not end with that."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=LEAVE_S)


def stop_with_parent() -> None:
    """Stop as on SIGTERM when stdin ends, as it does when whoever started us dies; by force if that takes too long."""

    stdin = sys.stdin.fileno()

    def watch() -> None:
        while os.read(stdin, 4096):  # not through sys.stdin: its lock would be held when the interpreter ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PARENTLESS_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the program with 0 until `_serve` takes it over.

    At once: nothing is read or written yet that had to be ended, and an exception would be lost where a library's
    native code is waiting, or come out of it as another one.
    """

    def leave(*_: object) -> None:
        os._exit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _look_for_redis(settings: Settings) -> None:
    """One that does not answer yet is waited for: the features topic must not stand still for it. Errors: UsageError,
    AccessRefused."""
    try:
        check_redis(settings)
    except RedisSilent as error:
        logger.warning("%s. The worker goes on, and serves once it answers", error)


def _named(error: BaseException, settings: Settings) -> BaseException:
    """Faust's word for states of another broker, or the web server's for its address, as an error for people."""
    if settings.web_port and isinstance(error, OSError) and error.errno in ADDRESS_REFUSED:
        return address_refused(settings, error)
    if isinstance(error, FORBIDDEN_ERRORS):
        return forbidden(settings, str(error))
    if not isinstance(error, ConsistencyError):
        return error
    return StateRefused(
        f"the states in {settings.data_dir} are ahead of their changelog",
        expected="the changelog they were saved with", was="a broker that does not have it",
        action="use the broker these states belong to, or delete the folder for a new one",
    )  # fmt: skip


@contextmanager
def _owned(data_dir: Path) -> Iterator[None]:
    """The data folder, locked against a second worker."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "worker.lock").open("w")
    except OSError as error:
        raise UsageError(
            f"the data folder {data_dir} cannot be used", expected="a writable folder", was=str(error),
            action="set ONETAPE_DATA_DIR",
        ) from error  # fmt: skip
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"the data folder {data_dir} is in use", expected="one worker per folder", was="another worker",
                action="set ONETAPE_DATA_DIR to another folder for this worker",
            ) from error  # fmt: skip
        yield


def _check_tape(settings: Settings) -> None:
    """States belong to one tape: on another they would take new records for repeats. Errors: UsageError."""
    note, tape = settings.data_dir / "tape.json", tape_origin(settings)
    known = json.loads(note.read_text(encoding="utf-8"))["origin"] if note.exists() else tape
    if known != tape:
        raise UsageError(
            f"the states in {settings.data_dir} are of another tape", expected=known, was=tape,
            action="set ONETAPE_DATA_DIR to another folder, or delete this one",
        )  # fmt: skip
    write_json(note, {"origin": tape})


async def _serve(settings: Settings, roles: Collection[str]) -> None:
    """Run the roles until a signal or a failure. Errors: the first failure."""
    stop = asyncio.Event()
    failures: list[BaseException] = []

    def fail(error: BaseException) -> None:
        failures.append(error)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    pulse = Pulse(settings.session_timeout_s)
    async with AsyncExitStack() as stack:
        with _compiling():
            started = _chosen(settings, roles, stack, pulse.fence, fail)
            prepare()
        for role in started:
            consumers.follow(role.name, role)
            if not settings.broker_is_embedded:  # it knows no named members
                role.app.conf.consumer_group_instance_id = member_name(settings, role.name)
        if settings.web_port:
            await serve_web(settings, started, stack)
        if CLOCK_ROLE in roles:
            clock_role(settings, stack, fail)
        _spare_collector()
        starting = [asyncio.create_task(_guarded_start(role, fail)) for role in started]
        pulse.start()
        while not stop.is_set():
            try:
                if started:
                    pulse.beat()
            except PartitionsLost as error:
                fail(error)
            for role in started:
                if role.app.crashed:
                    fail(role.app.crash_reason or RuntimeError("Faust stopped without a reason"))
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await stop.wait()
        failures += await _stop(started, starting, is_clean=not failures)
        if failures:
            raise _named(failures[0], settings)


def _chosen(
    settings: Settings, roles: Collection[str], stack: AsyncExitStack, fence: Callable[[], None], fail: Fail
) -> list[Role]:
    """The roles that are Faust apps, their code compiled or read from the cache."""
    chosen: list[Role] = []
    if "features" in roles:
        chosen.append(features_role(settings, stack, fence, fail, serves="latest" in roles))
    elif "latest" in roles:
        chosen.append(latest_role(settings, stack, fail))
    if "archive" in roles:
        chosen.append(archive_role(settings, stack, fail))
    return chosen


@contextmanager
def _compiling() -> Iterator[None]:
    """Say so if it takes long: the first start of an installation compiles for a minute."""
    timer = threading.Timer(PATIENCE_S, logger.warning, [COMPILING])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _spare_collector() -> None:
    """Keep the garbage collector from looking through what stays anyway, and threads from waiting.

    Imported modules and compiled code are a million objects; each fetch brings ten thousand more, and set off a look
    through all of them: two thirds of what reading a record cost.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(*GC_THRESHOLDS)


async def _guarded_start(role: Role, fail: Fail) -> None:
    try:
        await role.app.start()
    except Exception as error:
        fail(error)


def _hush() -> None:
    """From here on a connection that closes is what we want; aiokafka would tell it as an error."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


async def _stop(roles: Sequence[Role], starting: Sequence[asyncio.Task[None]], is_clean: bool) -> list[BaseException]:
    """Stop the apps; a clean stop saves and commits first. Returns what went wrong with that."""
    if is_clean:
        _hush()
    for task in starting:
        task.cancel()
    if starting:
        await asyncio.wait(starting, timeout=STOP_S)
    stopped = await asyncio.gather(*(_stop_role(role, is_clean) for role in roles), return_exceptions=True)
    return [error for error in stopped if error is not None]


async def _stop_role(role: Role, is_clean: bool) -> None:
    """Errors: StopFailed when not everything that was read is saved and committed."""
    is_saved = False
    try:
        is_saved = bool(await _within(CLOSE_S + STOP_S, _save(role, is_clean)))
    finally:
        await _within(STOP_S, role.app.stop())
    if is_clean and not is_saved:
        raise StopFailed(
            "the last batches were not saved and committed", expected=f"all of it within {CLOSE_S + STOP_S:g} s",
            was="a stop that had to leave some of it", action="start it again: it continues from what is committed",
        )  # fmt: skip


async def _save(role: Role, is_clean: bool) -> bool:
    """Close a role's lanes, and commit in a clean stop. Whether the broker then has everything."""
    is_saved = await role.close()
    if is_clean and role.app.consumer.started:
        is_saved = await role.commit() and is_saved
    return is_saved


async def _within(seconds: float, work: Coroutine[Any, Any, Outcome]) -> Outcome | None:
    """What came of it, or None where it takes longer: then it is cancelled and not waited for.

    Faust takes a cancellation of its commit for the end of the commit before it, and begins anew: with a broker that
    says nothing, waiting for that had no end.
    """
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait([task], timeout=seconds)
    if done:
        return task.result()
    task.cancel()
    return None
