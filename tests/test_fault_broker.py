"""A broker that is slow, away, silent, cuts off or refuses: workers wait for it, or end before they acknowledge."""

from __future__ import annotations

import time
from pathlib import Path

import fault_audit
import live_worker as run
import pytest
from fault_cluster import Cluster
from fault_run import catch_up
from kafka_broker import KafkaBroker
from ledger import Ledger
from redis_server import RedisServer
from tcp_proxy import TcpProxy

from app.topics import delete_topics

SEED = 5
TRIAL_S = 10.0
"""How long a trial of what lasts for minutes outside is."""
LARGEST = "max.message.bytes"
GROWTH_MB = 150.0
"""What may pile up in a worker meanwhile: some batches, and one vector for each instrument."""


@pytest.mark.kafka
@pytest.mark.fault("broker", "unreachable for 5 minutes")
@pytest.mark.fault("broker", "slow")
@pytest.mark.fault("broker", "10 % of all requests and answers end in a reset")
@pytest.mark.fault("broker", "silent: nothing comes, nothing is refused")
@pytest.mark.fault("broker", "refuses what is produced as too large")
def test_a_bad_line_and_a_broker_that_refuses_do_no_harm(
    line: tuple[KafkaBroker, TcpProxy], tmp_path: Path, ledger: Ledger
) -> None:
    broker, proxy = line
    with RedisServer() as server, Cluster(broker, server, tmp_path, SEED, line=proxy) as cluster:
        cluster.start()
        cluster.go_on()
        cluster.tend()
        before = cluster.rss_mb
        for fault in (slow, away, silent, resets):
            fault(proxy)
            cluster.go_on()
            ledger.faults += 1
        assert not cluster.ended, cluster.ended
        assert cluster.rss_mb < before + GROWTH_MB
        refused_as_too_large(cluster)
        ledger.faults += 1
        catch_up(cluster)
        fault_audit.count(cluster, ledger)
    delete_topics(cluster.settings)
    ledger.check()


def slow(proxy: TcpProxy) -> None:
    """50 ms for each piece and 1 MB a second."""
    proxy.delay_s, proxy.bytes_per_s = 0.05, 1e6
    time.sleep(TRIAL_S / 2)
    proxy.delay_s, proxy.bytes_per_s = 0.0, float("inf")


def away(proxy: TcpProxy) -> None:
    proxy.is_away = True
    proxy.cut()
    time.sleep(TRIAL_S)
    proxy.is_away = False


def silent(proxy: TcpProxy) -> None:
    proxy.hold()
    time.sleep(TRIAL_S / 2)
    proxy.release()


def resets(proxy: TcpProxy) -> None:
    proxy.resets, had = 0.1, proxy.reset_count
    time.sleep(TRIAL_S / 2)
    proxy.resets = 0.0
    assert proxy.reset_count > had


def refused_as_too_large(cluster: Cluster) -> None:
    """The features topic takes less than one vector for a while: the worker ends, and committed nothing without one."""
    worker = cluster.workers[0]
    cluster.alter_features(LARGEST, "100")
    assert worker.process.wait(60) == 3
    assert "was not delivered" in worker.words()
    assert "Action: " in worker.words()
    assert "Traceback" not in worker.words()
    done = [messages[:end] for messages, end in zip(cluster.tape.laid, cluster.committed(), strict=True)]
    assert run.oracle(cluster.settings, done).vectors.items() <= run.outcome(cluster.settings).vectors.items()
    cluster.alter_features(LARGEST, str(1 << 20))
    cluster.start(0)
    cluster.go_on()
