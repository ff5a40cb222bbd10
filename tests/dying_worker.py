"""A worker that kills itself with SIGKILL at an exact point of its work: `dying_worker.py POINT N ROLE...`.

Nothing of the worker is replaced: behind the N-th time that a function has returned the process is gone. With `none`
for the point it lives; with `kernel` the pass over a batch raises.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from agents.bind import TapeReader
from agents.engine import Engine
from app.config import load_settings
from app.redis_latest import PartitionLatest
from app.roles.features import FeaturesWork, LaneEmit
from app.transport import Consumer
from app.worker import run_worker
from schemas.errors import OnetapeError
from tables.store import Changelog, Store

RECOVERING: Final = "recovering"
POINTS: Final[dict[str, tuple[type, str]]] = {
    "decoded": (TapeReader, "__call__"),
    "served": (PartitionLatest, "attempt"),
    "emitted": (LaneEmit, "__call__"),
    "saved": (Changelog, "save"),
    "settled": (FeaturesWork, "settle"),
    "committed": (Consumer, "_commit"),
    RECOVERING: (Store, "apply_changelog_batch"),
}
"""What has just been done: a batch decoded and its letters sent, before any vector; vectors in Redis and not on the
topic; vectors on the topic, before the save; states in RocksDB, before the changelog has them; everything on the
changelog, before the commit; the commit; some of the changelog read in a recovery."""


KERNEL: Final = "kernel"


def die_behind(point: str, count: int) -> None:
    """Arm this process."""
    owner, name = POINTS.get(point, (Engine, "apply"))
    call: Callable[..., Any] = getattr(owner, name)
    left = [count]

    def done() -> None:
        left[0] -= 1
        if not left[0] and point == KERNEL:
            raise ZeroDivisionError("a bug in a kernel")
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    async def finish(*args: Any, **kwargs: Any) -> Any:
        returned = await call(*args, **kwargs)
        done()
        return returned

    def end(*args: Any, **kwargs: Any) -> Any:
        returned = call(*args, **kwargs)
        done()
        return returned

    setattr(owner, name, finish if inspect.iscoroutinefunction(call) else end)


def main() -> int:
    point, count, *roles = sys.argv[1:]
    if point != "none":
        die_behind(point, int(count))
    try:
        return run_worker(load_settings(), roles)
    except OnetapeError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
