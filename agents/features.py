"""The features agent: batches of the tape in, feature vectors out. Live and replay run exactly this.

Input: batches of whole partitions' records, in offset order within a partition.
State: one `Engine` per partition, loaded when the partition is assigned, saved at the end of an epoch.
Output: vectors through `emit`, which returns when they are safe.
Errors: whatever `states` or `emit` raises, before anything more is acknowledged; a restart repeats what was not.

Order of writes, which alone loses nothing and makes no wrong state (a crash between any two steps repeats steps, and
repeated records and vectors are the same bytes):

1. apply the batch to the rows in memory; records applied before are skipped, symbol by symbol
2. emit the vectors and wait until they are safe
3. at the end of an epoch, save EVERY symbol touched since the last save, also those whose records were all repeats
4. acknowledge every batch since the last save
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Sequence

from agents.engine import Engine
from agents.ports import Batch, Emit, States
from schemas.feature_sets import FeatureSet


async def features_agent(
    batches: AsyncIterable[Batch],
    states: States,
    emit: Emit,
    feature_sets: Sequence[FeatureSet],
    *,
    owns: Callable[[str], bool] | None = None,
) -> None:
    """Run until `batches` ends. `emit` gets the vectors of one feature set at a time.

    `owns` leaves out the symbols it is false for, where several agents share the records of a partition; `states` are
    then those of its own symbols.
    """
    engines: dict[int, Engine] = {}
    unsaved: dict[int, list[Batch]] = {}
    async for batch in batches:
        partition = batch.partition
        if batch.is_first or partition not in engines:
            # What an earlier assignment left unsaved belongs to whoever had the partition since.
            engines[partition] = load(states, feature_sets, partition, owns)
            unsaved[partition] = []
        engine = engines[partition]
        # 1. apply
        made = engine.apply(batch.columns)
        unsaved[partition].append(batch)
        # 2. emit
        for vectors in made:
            if len(vectors):
                await emit(vectors)
        if batch.ends_epoch:
            # 3. save
            arena = engine.arena
            states.save(partition, {key: arena.dump(key) for key in arena.touched()})
            arena.clear_touched()
            # 4. acknowledge
            for saved in unsaved[partition]:
                saved.ack()
            unsaved[partition].clear()


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
