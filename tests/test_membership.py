"""A worker's name in its groups: it comes back after a crash as who it was, and leaves when it stops in order."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import live_worker as run
import pytest
import tapes
from confluent_kafka.admin import AdminClient

from app.config import Settings, load_settings
from app.membership import NOTE, member_name
from app.topics import delete_topics, ensure_topics, groups

SESSION_S = 90.0
"""Longer than anything here waits for anything: who waits for a session to time out fails."""
ROLES = ["features"]


def settings_in(folder: Path, **chosen: object) -> Settings:
    folder.mkdir(parents=True, exist_ok=True)
    return load_settings(data_dir=folder, **chosen)


def members(settings: Settings) -> set[str]:
    """Names in the group of the features role."""
    admin, group = AdminClient({"bootstrap.servers": settings.brokers}), groups(settings)["features"]
    described = admin.describe_consumer_groups([group])[group].result()
    return {member.group_instance_id for member in described.members}


def test_a_name_is_of_one_folder_at_one_place_with_one_subscription(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "a")
    name = member_name(settings, "features")
    assert member_name(settings_in(tmp_path / "a"), "features") == name
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    others = {
        member_name(settings_in(tmp_path / "copy"), "features"),
        member_name(settings_in(tmp_path / "b"), "features"),
        member_name(settings, "archive"),
        member_name(settings.model_copy(update={"topic_prefix": "x."}), "features"),
        member_name(settings.model_copy(update={"table_standby_replicas": 1}), "features"),
    }
    assert len(others - {name}) == 5


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"{}", b"\xff\x00"])
def test_a_damaged_note_is_made_anew(tmp_path: Path, damaged: bytes) -> None:
    settings = settings_in(tmp_path)
    name = member_name(settings, "features")
    (tmp_path / NOTE).write_bytes(damaged)
    anew = member_name(settings, "features")
    assert anew != name
    assert member_name(settings, "features") == anew


@pytest.mark.kafka
def test_a_killed_worker_comes_back_at_once_and_a_stopped_one_leaves_at_once(kafka: str, tmp_path: Path) -> None:
    first = load_settings(
        brokers=kafka, topic_prefix=f"member{time.time_ns() % 10**9}.", partitions=2, data_dir=tmp_path / "first",
        registry=str(tmp_path / "schemas.json"), session_timeout_s=SESSION_S, epoch_s=0.2,
    )  # fmt: skip
    second = first.model_copy(update={"data_dir": tmp_path / "second"})
    ensure_topics(first)
    tape = run.raw_tape(tapes.tape(tapes.market(7, events=6_000, seconds=20)), first)
    expected = run.oracle(first, tape)
    run.publish(first, [messages[: len(messages) // 2] for messages in tape])
    with run.Worker(first, ROLES) as killed:
        run.wait_committed(first, killed, [len(messages) // 2 for messages in tape])
        names = members(first)
    with run.Worker(first, ROLES) as stopped:
        run.publish(first, [messages[len(messages) // 2 :] for messages in tape])
        run.wait_committed(first, stopped, [len(messages) for messages in tape])
        assert members(first) == names
        with run.Worker(second, ROLES) as other:
            run.wait_shared(first, 2)
            stopped.stop()
            run.wait_shared(first, 1)
            other.alive()
            assert members(first) != names
            other.stop()
    assert run.outcome(first).vectors == expected.vectors
    delete_topics(first)
