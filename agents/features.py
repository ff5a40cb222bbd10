"""The features agent: batches of the tape in, feature vectors out. Live and replay run exactly this.

Input: batches of whole partitions' records, in offset order within a partition.
State: one `Engine` per partition, loaded when the partition is assigned, saved at the end of an epoch.
Output: vectors through `emit`, which returns when they are safe.
Errors: whatever `states` or `emit` raises, before anything more is acknowledged; a restart repeats what was not.

Order of writes, which alone loses nothing and makes no wrong state (a crash between any two steps repeats steps, and
repeated records and vectors are the same bytes):

1. apply the batch to the rows in memory; records applied before are skipped, symbol by symbol
2. emit the vectors and wait until they are safe
3. at the end of an epoch, list EVERY symbol touched since the last list, also those whose records were all repeats
4. save some of the listed symbols, or all of them, in their state of now
5. when the list is empty, acknowledge every batch up to the epoch's end

Between the end of an epoch and its acknowledgement further batches may come. A state saved meanwhile is ahead of the
epoch's end, each symbol's by as much as it had applied. After a crash these records come again: step 1 skips them, and
step 2 had emitted their vectors before the state was saved.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Sequence

from agents.engine import Engine
from agents.ports import Batch, Emit, States
from schemas.feature_sets import FeatureSet

Share = Callable[[int], int]
"""How many of so many listed states are saved after a batch; all of them in the end."""


def _all(listed: int) -> int:
    return listed


async def features_agent(
    batches: AsyncIterable[Batch],
    states: States,
    emit: Emit,
    feature_sets: Sequence[FeatureSet],
    *,
    owns: Callable[[str], bool] | None = None,
    share: Share = _all,
) -> None:
    """Run until `batches` ends. `emit` gets the vectors of one feature set at a time.

    `owns` leaves out the symbols it is false for, where several agents share the records of a partition; `states` are
    then those of its own symbols. `share` spreads the saves of an epoch over the batches that follow.
    """
    partitions: dict[int, _Partition] = {}
    async for batch in batches:
        if batch.is_first or batch.partition not in partitions:
            # What an earlier assignment left unsaved belongs to whoever had the partition since.
            partitions[batch.partition] = _Partition(load(states, feature_sets, batch.partition, owns))
        now = partitions[batch.partition]
        # 1. apply
        made = now.engine.apply(batch.columns)
        now.open.append(batch.ack)
        # 2. emit
        for vectors in made:
            if len(vectors):
                await emit(vectors)
        if batch.ends_epoch:
            # 3. list
            now.end_epoch()
        if now.ended:
            # 4. save
            arena, first = now.engine.arena, share(len(now.listed))
            if first:
                states.save(batch.partition, {key: arena.dump(key) for key in now.listed[:first]})
            del now.listed[:first]
            # 5. acknowledge
            if not now.listed:
                now.acknowledge()


class _Partition:
    """What is under way of one partition."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.open: list[Callable[[], None]] = []
        """Acknowledges the batches of the present epoch."""
        self.ended: list[Callable[[], None]] = []
        """Acknowledges those up to the end of the last epoch, once all that they have touched is saved."""
        self.listed: list[str] = []
        """Symbols touched up to that end and not saved since."""

    def end_epoch(self) -> None:
        """The batches so far wait for the symbols touched so far; what is left of an epoch before joins them."""
        self.ended += self.open
        self.open.clear()
        self.listed = list(dict.fromkeys([*self.listed, *self.engine.arena.touched()]))
        self.engine.arena.clear_touched()

    def acknowledge(self) -> None:
        """Everything up to the end of the last epoch is saved."""
        for ack in self.ended:
            ack()
        self.ended.clear()


def load(
    states: States, feature_sets: Sequence[FeatureSet], partition: int, owns: Callable[[str], bool] | None = None
) -> Engine:
    """An engine that continues from the stored states of a partition."""
    engine = Engine(feature_sets, partition, owns)
    blobs = states.load(partition)
    engine.arena.reserve(len(blobs))
    for key, blob in blobs.items():
        engine.arena.restore(key, blob)
    return engine
