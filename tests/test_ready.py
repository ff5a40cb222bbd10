"""Notifications that vectors can be read: their bytes, and which of them are sent."""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from math import isnan
from pathlib import Path
from typing import Any

import fastavro
import live_worker as run
import numpy as np
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from test_worker import SEED, Place, assert_latest, embedded, kill_and_resume, market, wait_done

from agents.ready import ReadyGate
from app.config import Settings
from app.embedded import EmbeddedRedis
from app.redis_frames import hash_key
from app.topics import delete_topics
from schemas import feature_sets
from schemas.errors import RecordRefused
from schemas.events import FEATURES_READY
from schemas.ready import Ready, ReadyCodec
from schemas.registry import FileRegistry, open_registry
from schemas.topics import READY
from schemas.vector_codec import VectorCodec
from schemas.vectors import Vectors

assert embedded, "a fixture"

FEATURE_SET = feature_sets.load(feature_sets.DEFAULT)
WIDTH = len(FEATURE_SET.features)
NAMES = ["A:X", "B:Y", "C:Ž"]


def vectors_of(rows: list[tuple[int, int, list[float]]]) -> Vectors:
    """One vector per (name, time, first values)."""
    values = np.full((len(rows), WIDTH), np.nan)
    for row, (_, _, first) in enumerate(rows):
        values[row, : len(first)] = first
    times = np.array([time for _, time, _ in rows], np.int64)
    zeros = np.zeros(len(rows), np.int64)
    return Vectors(
        FEATURE_SET, NAMES, np.array([name for name, _, _ in rows], np.int32), times, zeros.astype(np.int32),
        times.copy(), zeros, zeros, zeros, values,
    )  # fmt: skip


LONGS = st.integers(-(2**63), 2**63 - 1)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), LONGS, st.integers(-(2**31), 2**31 - 1), LONGS, st.integers(0, WIDTH)))
)
def test_notifications_are_the_bytes_of_avro(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int, int, int]]
) -> None:
    codec = ReadyCodec(FileRegistry(tmp_path_factory.getbasetemp() / "ready.json"))
    vectors = vectors_of([(name, time, [1.0] * count) for name, time, _, _, count in rows])
    vectors.partition[:] = [partition for _, _, partition, _, _ in rows]
    vectors.as_of_offset[:] = [offset for _, _, _, offset, _ in rows]
    messages = codec.encode(vectors)
    schema = fastavro.parse_schema(FEATURES_READY)
    for (name, time, partition, offset, count), (key, value) in zip(rows, messages, strict=True):
        fields = {
            "instrument": NAMES[name], "feature_set": FEATURE_SET.id, "time": time, "count": count,
            "partition": partition, "as_of_offset": offset,
        }  # fmt: skip
        out = BytesIO()
        fastavro.schemaless_writer(out, schema, fields)
        assert (key, value[5:]) == (NAMES[name].encode(), out.getvalue())
        assert codec.decode(value) == Ready(**fields)


def test_what_is_no_notification_is_refused(tmp_path: Path) -> None:
    codec = ReadyCodec(FileRegistry(tmp_path / "schemas.json"))
    value = codec.encode(vectors_of([(0, 1, [])]))[0][1]
    for bad in (b"", value[:-1], value + b"\0", b"\0\0\0\0\x09" + value[5:]):
        with pytest.raises(RecordRefused):
            codec.decode(bad)


@pytest.mark.parametrize(
    ("told", "now", "threshold", "moved"),
    [
        (100.0, 101.0, 0.01, False), (100.0, 101.1, 0.01, True), (-100.0, -98.9, 0.01, True),
        (-100.0, -99.5, 0.01, False),
        (0.0, 0.0, 0.01, False), (0.0, 1e-300, 0.01, True), (0.0, -0.0, 0.01, False), (1e-300, 0.0, 0.01, True),
        (np.nan, np.nan, 0.01, False), (np.nan, 0.0, 0.01, True), (0.0, np.nan, 0.01, True), (5.0, 5.0, 0.0, False),
        (5.0, np.nextafter(5.0, 6), 0.0, True), (np.inf, np.inf, 0.01, False), (np.inf, 1.0, 0.01, True),
        (1.0, np.inf, 0.01, True), (np.inf, -np.inf, 1.0, True), (1e308, -1e308, 1.0, True),
    ],
)  # fmt: skip
def test_what_counts_as_a_move(told: float, now: float, threshold: float, moved: bool) -> None:
    gate = ReadyGate(FEATURE_SET, threshold)
    picked = gate.pick(vectors_of([(0, 1, [1.0, told]), (0, 2, [1.0, now])]))
    assert (picked.told.tolist(), picked.suppressed) == ([True, moved], int(not moved))


VALUES = st.lists(st.sampled_from([0.0, 1.0, 1.005, 1.02, 2.0, float("nan")]), min_size=2, max_size=2)


def differs(told: float, now: float, threshold: float) -> bool:
    if isnan(told) or isnan(now):
        return isnan(told) != isnan(now)
    return abs(now - told) > threshold * abs(told)


BATCHES = st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9), VALUES), max_size=8), max_size=5)


@settings(deadline=None)
@given(BATCHES, st.sampled_from([None, 0.0, 0.01]))
def test_a_gate_tells_of_each_vector_once_and_of_changes_since_the_last_told(
    batches: list[list[tuple[int, int, list[float]]]], threshold: float | None
) -> None:
    gate = ReadyGate(FEATURE_SET, threshold)
    newest: dict[int, int] = {}
    last: dict[int, list[float]] = {}
    for rows in batches:
        expected, suppressed = [], 0
        for name, time, values in rows:
            is_told = False
            if time > newest.get(name, 0):
                newest[name] = time
                is_told = (
                    threshold is None
                    or name not in last
                    or any(differs(*pair, threshold) for pair in zip(last[name], values, strict=True))
                )
                suppressed += not is_told
            if is_told:
                last[name] = values
            expected.append(is_told)
        picked = gate.pick(vectors_of(rows))
        assert (picked.told.tolist(), picked.suppressed) == (expected, suppressed)


@dataclass
class Told:
    """Notifications by the identity of their vectors, and how many came again."""

    notified: dict[tuple[str, str, int], Ready]
    repeats: int


def told(settings: Settings) -> Told:
    codec, found = ReadyCodec(open_registry(settings.registry)), Told({}, 0)
    for partition in range(settings.partitions):
        for message in run.read_topic(settings, READY, partition):
            ready = codec.decode(message.value())
            assert (message.key().decode(), ready.partition) == (ready.instrument, partition)
            known = found.notified.setdefault((ready.feature_set, ready.instrument, ready.time), ready)
            assert known == ready
            found.repeats += 1
    found.repeats -= len(found.notified)
    return found


def notifications_of(settings: Settings, expected: run.Outcome) -> dict[tuple[str, str, int], Ready]:
    """What tells of every vector."""
    values = list(expected.vectors.values())
    vectors = VectorCodec(open_registry(settings.registry), FEATURE_SET).decode(values)
    counts = np.count_nonzero(~np.isnan(vectors.values), axis=1).tolist()
    about = zip(counts, vectors.partition.tolist(), vectors.as_of_offset.tolist(), strict=True)
    return {key: Ready(key[1], key[0], key[2], *rest) for key, rest in zip(expected.vectors, about, strict=True)}


def assert_hashes(settings: Settings, expected: run.Outcome) -> None:
    """Redis has the newest vector of every instrument in words."""
    codec = VectorCodec(open_registry(settings.registry), FEATURE_SET)
    newest = {name: value for (_, name, _), value in sorted(expected.vectors.items())}
    vectors = codec.decode(list(newest.values()))
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as client:
        for row, name in enumerate(newest):
            found: Any = client.hgetall(hash_key(name))
            assert int(found["time"]) == vectors.time[row]
            values = [float(found.get(feature, "nan")) for feature in FEATURE_SET.features]
            assert np.array_equal(values, vectors.values[row], equal_nan=True)


@pytest.mark.parametrize("apart", [False, True])
def test_every_vector_is_told_of_once(embedded: Place, apart: bool) -> None:
    """By the worker that makes it, or by another that reads it from its topic."""
    chosen = embedded.settings(redis_hash=FEATURE_SET.id)
    other = chosen.model_copy(update={"data_dir": chosen.data_dir / "other"})
    raw = market(chosen, 3_000)
    expected = run.oracle(chosen, raw)
    with ExitStack() as stack:
        worker = stack.enter_context(run.Worker(chosen, ["features"] if apart else ["features", "latest"]))
        serving = stack.enter_context(run.Worker(other, ["latest"])) if apart else worker
        run.publish(chosen, raw)
        wait_done(chosen, serving, [len(rows) for rows in raw], ["latest"] if apart else ["features", "latest"])
        for each in {worker, serving}:
            assert each.stop() < 10
    assert told(chosen) == Told(notifications_of(chosen, expected), 0)
    assert_latest(chosen, expected)
    assert_hashes(chosen, expected)


def test_only_changes_are_told_of_if_wanted(embedded: Place, tmp_path: Path) -> None:
    path = tmp_path / "mid.yaml"
    path.write_text("{name: mid, version: 1, cadence_ms: 100, features: [mid_price]}")
    chosen = embedded.settings(feature_sets=str(path), ready="changed", ready_threshold=1e-4)
    raw = market(chosen, 3_000)
    expected = run.oracle(chosen, raw)
    with run.Worker(chosen, ["features", "latest"]) as worker:
        run.publish(chosen, raw)
        wait_done(chosen, worker, [len(rows) for rows in raw], ["features", "latest"])
        assert worker.stop() < 10
    mid = feature_sets.load(str(path))
    vectors = VectorCodec(open_registry(chosen.registry), mid).decode(list(expected.vectors.values()))
    in_order = vectors.select(np.argsort(vectors.time, kind="stable"))
    picked = ReadyGate(mid, 1e-4).pick(in_order)
    changes = in_order.select(picked.told)
    assert 0 < picked.suppressed < len(vectors)
    found = told(chosen)
    assert found.repeats == 0
    assert {key[1:] for key in found.notified} == set(zip(changes.instruments(), changes.time.tolist(), strict=True))


def test_nothing_is_told_if_not_wanted(embedded: Place) -> None:
    chosen = embedded.settings(ready="off")
    raw = market(chosen, 1_000)
    with run.Worker(chosen, ["features", "latest"]) as worker:
        run.publish(chosen, raw)
        wait_done(chosen, worker, [len(rows) for rows in raw], ["features", "latest"])
        assert worker.stop() < 10
    assert told(chosen) == Told({}, 0)


@pytest.mark.kafka
def test_kills_lose_no_notification(kafka: str, tmp_path: Path) -> None:
    """On a real Kafka, workers killed with SIGKILL at random moments."""
    with EmbeddedRedis() as server:
        chosen = Place(kafka, False, tmp_path, server.url).settings(batch_size=64, epoch_s=0.1)
        try:
            raw = market(chosen, 4_000)
            expected = run.oracle(chosen, raw)
            kill_and_resume(chosen, raw, random.Random(SEED), ["features", "latest"])
            assert told(chosen).notified == notifications_of(chosen, expected)
            assert_latest(chosen, expected)
        finally:
            delete_topics(chosen)
