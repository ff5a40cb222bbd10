"""A standby keeps a partition's states of its own and takes over without the changelog's beginning."""

from __future__ import annotations

import time
from pathlib import Path

import live_worker as run
import pytest
import rocksdict
import tapes
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from app.config import Settings, load_settings
from app.topics import changelog_of, delete_topics, ensure_topics, groups

SEED = 5
EVENTS = 12_000
KEPT_S = 40.0


def settings_in(folder: Path, kafka: str) -> Settings:
    made = load_settings(
        brokers=kafka, topic_prefix=f"standby{time.time_ns() % 10**9}.", partitions=2, data_dir=folder / "first",
        registry=str(folder / "schemas.json"), session_timeout_s=3.0, table_standby_replicas=1,
        epoch_s=0.005, batch_size=8,  # many saves: a standby takes so many at a time
    )  # fmt: skip
    ensure_topics(made)
    return made


def on_disk(settings: Settings, partition: int) -> dict[str, bytes]:
    """What a worker's folder holds, its database open or not; nothing while it is being made."""
    options = rocksdict.Options(raw_mode=True)
    try:
        path = str(run.state_folder(settings, partition))
        db = rocksdict.Rdict(path, options, access_type=rocksdict.AccessType.read_only())
    except Exception:  # rocksdict raises plain Exception
        return {}
    try:
        return {key.decode(): value for key, value in db.items()}
    finally:
        db.close()


def copied(settings: Settings, partition: int) -> set[str]:
    """Instruments whose state a worker's folder has."""
    return {key for key in on_disk(settings, partition) if not key.startswith("__faust")}


def changelog_offset(settings: Settings, partition: int) -> int:
    """Offset of the changelog up to which a worker's folder has everything."""
    return next(int(value) for key, value in on_disk(settings, partition).items() if key.startswith("__faust"))


def wait_copied(first: Settings, second: Settings, workers: list[run.Worker], names: list[set[str]]) -> None:
    """Until both folders have a state of every instrument of every partition."""
    deadline = time.monotonic() + KEPT_S
    while True:
        held = [[copied(each, partition) for partition in range(2)] for each in (first, second)]
        if held == [names, names]:
            return
        for worker in workers:
            worker.alive()
        assert time.monotonic() < deadline, held
        time.sleep(0.2)


def forget_changelog(settings: Settings, keeps: list[int]) -> None:
    """Delete the changelog's records up to these offsets."""
    admin = AdminClient({"bootstrap.servers": settings.brokers})
    topic = changelog_of(groups(settings)["features"])
    # What is only compacted cannot be deleted.
    policy = ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET)
    for future in admin.incremental_alter_configs(
        [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[policy])]
    ).values():
        future.result()
    places = [TopicPartition(topic, partition, offset) for partition, offset in enumerate(keeps)]
    for future in admin.delete_records(places).values():
        future.result()


@pytest.mark.kafka
def test_a_standby_takes_over_from_its_own_copy(kafka: str, tmp_path: Path) -> None:
    """The owner is killed after the changelog's older records are gone: only the copy has those states."""
    first = settings_in(tmp_path, kafka)
    second = first.model_copy(update={"data_dir": tmp_path / "second"})
    raw = run.raw_tape(tapes.tape(tapes.market(SEED, events=EVENTS, seconds=40)), first)
    names = [{key.decode() for key, _ in rows} - {"*"} for rows in raw]
    half = [len(rows) // 2 for rows in raw]
    expected = run.oracle(first, raw)
    try:
        with run.Worker(first, ["features"]) as a, run.Worker(second, ["features"]) as b:
            run.publish(first, [rows[: half[p]] for p, rows in enumerate(raw)])
            run.wait_committed(first, a, half)
            run.wait_shared(first, 2)
            wait_copied(first, second, [a, b], names)
            forget_changelog(first, [changelog_offset(second, partition) + 1 for partition in range(2)])
            a.kill()
            run.publish(first, [rows[half[p] :] for p, rows in enumerate(raw)])
            run.wait_committed(second, b, [len(rows) for rows in raw])
            b.stop()
        found = run.outcome(second)
        assert found.conflicts == 0
        assert found.vectors == expected.vectors
        assert found.states == expected.states
    finally:
        delete_topics(first)
