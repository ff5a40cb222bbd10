"""Two feature sets in one worker: each complete on its topic, in Redis and in the archive, whatever is killed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import live_worker as run
import pytest
import redis
from test_worker import (
    SEED,
    Place,
    assert_archived,
    assert_equals_oracle,
    assert_latest,
    embedded,
    kill_and_resume,
    market,
    wait_done,
)

from app.config import load_settings
from app.embedded import EmbeddedRedis
from app.redis_frames import latest_key
from app.topics import ROLES, SETS_NAME_MAX, changelog_of, delete_topics, groups, partitions_of, sets_name
from app.worker import run_worker
from replay.parity import archived_sets, parity_of
from replay.reader import ArchiveReader
from schemas.errors import UsageError
from schemas.feature_sets import DEFAULT, FeatureSet, load, load_all

assert embedded, "a fixture"

FAST = """
name: fast
version: 1
cadence_ms: 100
windows: [100ms, 500ms, 7s]
depths: [1, 10]
features:
  - mid_price: {missing: skip_row}
  - vwap_{window}: {missing: forward_fill(2s)}
  - volume_{window}: {outliers: "clip(2, 20)"}
  - bid_depth_{depth}
  - zscore(volume_500ms, 30)
  - zscore(spread_bps, 5)
"""


def two_sets(folder: Path, text: str = FAST) -> str:
    """The setting for the default set and a fast one of a file."""
    path = folder / "fast.yaml"
    path.write_text(text)
    return f"{DEFAULT}, {path}"


@pytest.fixture
def served(kafka: str, tmp_path: Path) -> Iterator[Place]:
    """A real Kafka and a Redis."""
    with EmbeddedRedis() as server:
        yield Place(kafka, False, tmp_path, server.url)


def test_both_sets_are_served_and_archived(embedded: Place, tmp_path: Path) -> None:
    settings = embedded.settings(feature_sets=two_sets(tmp_path))
    raw = market(settings, 6_000)
    ends = [len(rows) for rows in raw]
    with run.Worker(settings) as worker:
        run.publish(settings, raw)
        wait_done(settings, worker, ends, ROLES)
        assert worker.stop() < 10
    expected = run.oracle(settings, raw)
    assert {set_id for set_id, _, _ in expected.vectors} == {DEFAULT, "fast@1"}
    assert_equals_oracle(settings, raw, expected)
    assert_latest(settings, expected)
    assert_archived(settings, ends)


@pytest.mark.kafka
def test_kills_and_a_lost_folder_leave_no_trace_in_either_set(served: Place, tmp_path: Path) -> None:
    """All three roles on a real Kafka, killed with SIGKILL at random moments."""
    settings = served.settings(feature_sets=two_sets(tmp_path), batch_size=64, epoch_s=0.1, archive_flush_s=0.2)
    raw = market(settings, 8_000)
    expected = run.oracle(settings, raw)
    try:
        kill_and_resume(settings, raw, random.Random(SEED), ROLES)
        assert_equals_oracle(settings, raw, expected)
        assert_latest(settings, expected)
        assert_archived(settings, [len(rows) for rows in raw])
    finally:
        delete_topics(settings)


@pytest.mark.kafka
def test_two_workers_that_list_the_sets_in_another_order_share(kafka: str, tmp_path: Path) -> None:
    place = Place(kafka, False, tmp_path)
    specs = two_sets(tmp_path)
    first = place.settings(feature_sets=specs, batch_size=64, epoch_s=0.1)
    turned = ",".join(reversed(specs.split(",")))
    second = first.model_copy(update={"data_dir": tmp_path / "second", "feature_sets": turned})
    raw = market(first, 8_000)
    cuts = [[len(rows) * i // 3 for rows in raw] for i in range(4)]

    def share(i: int) -> None:
        run.publish(first, [rows[cuts[i][p] : cuts[i + 1][p]] for p, rows in enumerate(raw)])

    try:
        share(0)
        with run.Worker(first, ["features"]) as a:
            run.wait_committed(first, a, cuts[1])
            with run.Worker(second, ["features"]) as b:
                run.wait_shared(first, 2)
                share(1)
                run.wait_committed(first, a, cuts[2])
                a.kill()
                share(2)
                run.wait_committed(second, b, cuts[3])
                assert b.stop() < 10
        assert_equals_oracle(second, raw, run.oracle(second, raw))
    finally:
        delete_topics(first)


def test_another_set_beside_the_first_begins_anew(embedded: Place, tmp_path: Path) -> None:
    """A set that is added, or whose file changes, has states of its own; what was archived stays what it was."""
    settings = embedded.settings()
    raw = market(settings, 3_000)
    ends = [len(rows) for rows in raw]
    with run.Worker(settings) as worker:
        run.publish(settings, raw)
        wait_done(settings, worker, ends, ROLES)
        worker.stop()
    more = settings.model_copy(update={"feature_sets": two_sets(tmp_path)})
    wanted, there = partitions_of(more), partitions_of(settings)
    assert embedded.broker is not None
    embedded.broker.create_topics({name: count for name, count in wanted.items() if name not in there})
    with run.Worker(more) as worker:
        wait_done(more, worker, ends, ROLES)
        worker.stop()
    assert_latest(more, run.oracle(more, raw))
    found = parity_of(ArchiveReader(more.archive_dir), load_all(more.feature_sets))
    assert all(each.ok for each in found.values())
    assert found[DEFAULT].repeats == found[DEFAULT].compared
    two_sets(tmp_path, FAST.replace("2s", "3s"))
    assert groups(more)["features"] != groups(settings)["features"]
    embedded.broker.create_topics({name: n for name, n in partitions_of(more).items() if name not in wanted})
    with pytest.raises(UsageError, match=r"fast@1 in the archive has another definition.*Action"):
        run_worker(more, ["archive"])
    with redis.Redis.from_url(more.redis_url) as client:
        assert client.get(latest_key("fast@1", "BINANCE_SPOT:BTCUSDT"))
    assert [each.id for each in archived_sets(ArchiveReader(more.archive_dir))] == ["fast@1", DEFAULT]


def test_groups_are_named_after_their_sets(tmp_path: Path) -> None:
    specs = two_sets(tmp_path)
    turned = ",".join(reversed(specs.split(",")))
    names = [groups(load_settings(feature_sets=each, topic_prefix="p.")) for each in (specs, turned)]
    assert names[0] == names[1]
    digest = load(str(tmp_path / "fast.yaml")).digest()[:8]
    assert names[0]["features"] == f"p.onetape-features-fast-v1-{digest}.micro-v2"
    assert groups(load_settings())["features"] == "onetape-features-micro-v2"
    many = [FeatureSet("x" * 60 + str(i), 1, 1000, ("mid_price",)) for i in range(9)]
    told = {sets_name(many[:count]) for count in range(2, 9)}
    assert len(told) == 7
    assert max(map(len, told)) == SETS_NAME_MAX
    longest = changelog_of("p" * 64 + "onetape-features-" + max(told, key=len))
    assert len(longest) <= 249
