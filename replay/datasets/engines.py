"""Engines: where the shares of a build are done: in this process, in processes here, or on a Ray cluster.

Input: tasks, and the work to do with each.
Output: what each gave, in the order of the tasks.
Units: records of the tape.
Errors: the first that any task raises; DependencyDown where Ray is missing or does not answer, or a process that does
the work dies. Whatever ends the work, SIGKILL too, no task of it is left running here.

Tasks share nothing but the folders they name; on a cluster every machine must see these under the same paths.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, NamedTuple, Protocol, TypeVar

from schemas.errors import DependencyDown, OnetapeError, UsageError

Work = TypeVar("Work")
Result = TypeVar("Result")
Done = Callable[[], None]
"""Called now and then while work is done elsewhere."""
WAIT_S = 0.5
CONNECT_S = 5.0
SHOWN = 300
"""Characters of another program's words that are told on."""
NAMES = ("local", "ray")


class Engine(Protocol):
    """Does the same function over many tasks."""

    @property
    def parts(self) -> int:
        """How many tasks it can do at once."""

    def run(self, function: Callable[[Work], Result], tasks: Sequence[Work], tell: Done) -> list[Result]:
        """All results; `tell` is called now and then."""


class Here:
    """One after another, in this process."""

    parts = 1

    def run(self, function: Callable[[Work], Result], tasks: Sequence[Work], tell: Done) -> list[Result]:
        """All results."""
        found = []
        for task in tasks:
            found.append(function(task))
            tell()
        return found


class Processes:
    """In processes of this machine, each a new Python."""

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def run(self, function: Callable[[Work], Result], tasks: Sequence[Work], tell: Done) -> list[Result]:
        """All results. Errors: those of the tasks, DependencyDown."""
        if not tasks:
            return []
        pool = ProcessPoolExecutor(min(self.parts, len(tasks)), get_context("spawn"), _end_with_parent)
        try:
            futures = [pool.submit(_told, function, task) for task in tasks]
            left = set(futures)
            while left:
                ended, left = wait(left, WAIT_S, FIRST_COMPLETED)
                tell()
                for future in ended:
                    _heard(future.result())
            return [_heard(future.result()) for future in futures]
        except BaseException as error:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise _died("a process of this machine", str(error)) from None
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Ray:
    """On a Ray cluster: `address` as Ray takes it, None for one on this machine that ends with the build."""

    def __init__(self, address: str | None = None, parts: int | None = None) -> None:
        """Errors: DependencyDown."""
        try:
            import ray
        except ImportError:
            raise DependencyDown(
                "Ray is not installed", expected="the package ray", was="none",
                action="install it with `pip install 'onetape[ray]'`, or use --engine local",
            ) from None  # fmt: skip
        self._ray: Any = ray
        self._owns = not ray.is_initialized()
        if self._owns:
            self._connect(address, parts)
        self.parts = parts or max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def _connect(self, address: str | None, parts: int | None) -> None:
        local = {"num_cpus": parts, "include_dashboard": False} if address is None else {"address": address}
        try:
            _knock(address)
            self._ray.init(**local, configure_logging=False, log_to_driver=False)
        except (ConnectionError, RuntimeError, OSError, ValueError) as error:
            raise DependencyDown(
                "Ray does not answer", expected=f"a Ray cluster at {address or 'this machine'}", was=str(error),
                action="start it, or correct --ray-address",
            ) from None  # fmt: skip

    def run(self, function: Callable[[Work], Result], tasks: Sequence[Work], tell: Done) -> list[Result]:
        """All results. Errors: those of the tasks, DependencyDown."""
        remote = self._ray.remote(max_retries=3)(_told)
        asked: list[Any] = []
        left: list[Any] = []
        try:
            asked += [remote.remote(function, task) for task in tasks]
            left = list(asked)
            while left:
                ended, left = self._ray.wait(left, num_returns=1, timeout=WAIT_S)
                tell()
                for reference in ended:
                    _heard(self._ray.get(reference))
            return [_heard(self._ray.get(reference)) for reference in asked]
        except BaseException as error:
            for reference in left:
                with suppress(Exception):
                    self._ray.cancel(reference, force=True)
            if self._is_lost(error):
                raise _died("a worker of Ray, or the connection to it", str(error)) from None
            raise

    def _is_lost(self, error: BaseException) -> bool:
        """Whether Ray itself failed; what a task raised is an error of Ray too, but of the task."""
        errors = self._ray.exceptions
        return isinstance(error, errors.RayError | ConnectionError) and not isinstance(error, errors.RayTaskError)

    def close(self) -> None:
        """End the cluster that was started here."""
        if self._owns:
            self._ray.shutdown()


@contextmanager
def engine_of(name: str, processes: int | None = None, address: str | None = None) -> Iterator[Engine]:
    """The engine of a name, for as long as it is used; without `processes` local is one, Ray all CPUs of the cluster.

    Errors: UsageError, DependencyDown.
    """
    if name not in NAMES:
        raise UsageError(
            f"there is no engine {name!r}", expected=" or ".join(NAMES), was=repr(name), action="choose one of them"
        )
    if name != "ray":
        yield Here() if processes is None or processes == 1 else Processes(processes)
        return
    engine = Ray(address, processes)
    try:
        yield engine
    finally:
        engine.close()


def _knock(address: str | None) -> None:
    """Errors: OSError soon where nobody listens; Ray itself would ask again for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), CONNECT_S).close()


def _end_with_parent() -> None:
    """End this process when its parent does: work on behind a killed build would write among that of the next one."""
    parent = parent_process()
    assert parent is not None

    def wait_and_end() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait_and_end, daemon=True).start()


def _died(who: str, was: str) -> DependencyDown:
    return DependencyDown(
        f"{who} was lost in the middle of a task", expected="one that lives until its task is done",
        was=" ".join(was.split())[:SHOWN], action="where memory ran out, give fewer --processes; then run it again: it "
        "goes on behind what is done",
    )  # fmt: skip


class _Raised(NamedTuple):
    """An error for people on its way home: exceptions with keywords do not come out of a pickle."""

    type_: type[OnetapeError]
    about: dict[str, str]


def _told(function: Callable[[Work], Result], task: Work) -> Result | _Raised:
    try:
        return function(task)
    except OnetapeError as error:
        about = {"fact": error.fact, "expected": error.expected, "was": error.was, "action": error.action}
        return _Raised(type(error), about)


def _heard(told: Result | _Raised) -> Result:
    if isinstance(told, _Raised):
        raise told.type_(**told.about)
    return told
