"""Reading ahead: the next items are made in a thread while the caller computes.

Input: an iterator whose work leaves the interpreter's lock alone most of the time (hashing, decoding).
Output: its items in order; an error is raised where its item would have come.
State: one thread and at most `depth` items that nobody has taken yet, until the iterator ends or is closed.
Errors: those of the iterator, unchanged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

_Item = TypeVar("_Item")


class _End:
    """Stands behind the last item."""


_END: Final = _End()


def ahead(items: Iterator[_Item], depth: int) -> Generator[_Item, None, None]:
    """The items, of which up to `depth` are made before they are asked for.

    Closing waits for the item in the making, then closes `items`, too, and leaves no thread. A caller that may stop
    early closes it (`contextlib.closing`) rather than leave that to the collector.
    """
    pool = ThreadPoolExecutor(1, "read-ahead")
    # One worker takes one item after another, so `items` is never asked by two at once.
    waiting: deque[Future[_Item | _End]] = deque()
    try:
        while True:
            while len(waiting) < depth:
                waiting.append(pool.submit(next, items, _END))
            item = waiting.popleft().result()
            if isinstance(item, _End):
                return
            waiting.append(pool.submit(next, items, _END))
            yield item
            del item
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        close = getattr(items, "close", None)
        if close is not None:
            close()
