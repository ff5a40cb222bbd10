"""What a role does, seen from outside: its batches, its epochs, the states it saves, how far it is behind.

Output: metrics (app/metrics.py).
Units: seconds; records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Generic

from agents.lanes import Ack, Adapt, B_co
from agents.ports import RawBatch, States
from app import metrics


class ObservedBatches(Generic[B_co]):
    """An adapter of one lane that counts batches and times epochs; `read` gets each batch before the agent does."""

    def __init__(self, adapt: Adapt[B_co], role: str, read: Callable[[B_co], None]) -> None:
        self._adapt, self._read = adapt, read
        self._records = metrics.batch_records.labels(role)
        self._epochs = metrics.epoch_seconds.labels(role)
        self._began: float | None = None

    async def __call__(self, raw: RawBatch, is_first: bool, ends_epoch: bool, ack: Ack) -> B_co:
        """See `agents.lanes.Adapt`."""
        if raw.offsets:
            self._records.observe(len(raw.offsets))
        began = time.monotonic() if self._began is None else self._began
        self._began = None if ends_epoch else began
        batch = await self._adapt(raw, is_first, ends_epoch, self._timed(ack, began) if ends_epoch else ack)
        self._read(batch)
        return batch

    def _timed(self, ack: Ack, began: float) -> Ack:
        def timed() -> object:
            self._epochs.observe(time.monotonic() - began)
            return ack()

        return timed


def unobserved(batch: object) -> None:
    """For batches that nobody wants to see before the agent."""


class ObservedStates:
    """States that count what is saved."""

    def __init__(self, states: States) -> None:
        self._states = states

    def load(self, partition: int) -> dict[str, bytes]:
        """See `agents.ports.States`."""
        return self._states.load(partition)

    def save(self, partition: int, blobs: Mapping[str, bytes]) -> None:
        """See `agents.ports.States`."""
        self._states.save(partition, blobs)
        metrics.saved_symbols_total.inc(len(blobs))
        metrics.saved_bytes_total.inc(sum(map(len, blobs.values())))
