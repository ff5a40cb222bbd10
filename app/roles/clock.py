"""The clock role: a candidate for laying Ticks into the tape at wall time.

Not a Faust app: it reads nothing, and its time must not wait for an event loop.

Input: settings.
Output: Ticks on the tape while this worker leads.
Errors: `fail` gets what ends the worker.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from app.clock_leader import ClockLeader
from app.config import Settings
from app.roles.role import Fail
from app.topics import CLOCK_ROLE, groups


def clock_role(settings: Settings, stack: AsyncExitStack, fail: Fail) -> None:
    """Stand for election until the stack is left."""
    loop = asyncio.get_running_loop()

    def fail_there(error: BaseException) -> None:
        loop.call_soon_threadsafe(fail, error)

    stack.enter_context(ClockLeader(settings, groups(settings)[CLOCK_ROLE], fail_there))
