"""The archive role: tape, vectors of every feature set and dead letters -> files.

Input: settings.
Output: the archive.
Errors: `fail` gets what ends the worker.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

from agents.archive import archive_agent
from agents.bind import ArchiveReader
from agents.lanes import Epoch, Lane, Lanes
from app.archive_files import ArchiveFiles
from app.config import Settings
from app.connection import registry_of
from app.roles.observed import ObservedBatches, unobserved
from app.roles.role import Fail, Role, make_app, make_role, nothing_to_settle
from app.topics import groups, tape_origin
from replay.archive import live
from schemas.codec import DeadLetterCodec, TapeCodec
from schemas.feature_sets import load_all
from schemas.vector_codec import VectorCodec


def archive_role(settings: Settings, stack: AsyncExitStack, fail: Fail) -> Role:
    """Tape, vectors of every feature set, dead letters -> files.

    In one worker only: an archive has one writer, which holds its lock; a second worker with this role ends at once.
    """
    sets, registry = load_all(settings.feature_sets), registry_of(settings)
    writer = stack.enter_context(
        live(settings.archive_dir, settings.partitions, settings.archive_segment_rows, origin=tape_origin(settings))
    )
    for each in sets:
        writer.check(each)
    sink = stack.enter_context(ArchiveFiles(writer))
    vectors = {each.topic: VectorCodec(registry, each) for each in sets}
    reader = ArchiveReader(TapeCodec(registry), DeadLetterCodec(registry), vectors, settings.topic_prefix)

    async def run(lane: Lane) -> None:
        await archive_agent(lane.batches(ObservedBatches(reader, "archive", unobserved)), sink)

    epoch = Epoch(settings.archive_flush_s, settings.archive_segment_rows, time.monotonic)
    app = make_app(settings, "archive", groups(settings)["archive"])
    return make_role(app, settings, "archive", Lanes(run, epoch, fail), nothing_to_settle)
