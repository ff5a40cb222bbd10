"""What ends a worker from inside, or from the machine below it: nothing is acknowledged that is not safe."""

from __future__ import annotations

import resource
import signal
import time
from pathlib import Path

import fault_audit
import pytest
from dying_worker import KERNEL
from fault_cluster import ROLES, Cluster
from fault_run import catch_up
from kafka_broker import KafkaBroker
from ledger import Ledger
from redis_server import RedisServer
from tcp_proxy import TcpProxy

from app.topics import delete_topics

SEED = 3
ENDS_S = 180.0
TRIES = 10
WORKER = 1


@pytest.mark.kafka
@pytest.mark.fault("crash", "exception in a kernel")
@pytest.mark.fault("crash", "disk full under RocksDB")
@pytest.mark.fault("crash", "a batch cancelled in its middle")
def test_a_worker_with_a_bug_or_without_room_ends_before_it_acknowledges(
    line: tuple[KafkaBroker, TcpProxy], tmp_path: Path, ledger: Ledger
) -> None:
    broker, proxy = line
    with RedisServer() as server, Cluster(broker, server, tmp_path, SEED, line=proxy) as cluster:
        cluster.start(roles=["archive"])
        cluster.start(roles=ROLES)
        cluster.go_on()
        for fault in (bug_in_a_kernel, full_disk, stopped_while_the_broker_is_silent):
            fault(cluster, proxy)
            cluster.start(WORKER)
            cluster.go_on()
            ledger.faults += 1
        assert not cluster.ended, cluster.ended
        catch_up(cluster)
        fault_audit.count(cluster, ledger)
    delete_topics(cluster.settings)
    ledger.check()


def bug_in_a_kernel(cluster: Cluster, proxy: TcpProxy) -> None:
    """It raises in the first batch after a start."""
    cluster.wait_owning(WORKER)
    cluster.stop(WORKER)
    before = cluster.committed()
    worker = cluster.start(WORKER, KERNEL)
    assert worker.process.wait(ENDS_S) == 1
    assert "a bug in a kernel" in worker.words()
    with pytest.raises(AssertionError, match="ended by itself with 1"):
        cluster.tend()
    assert cluster.committed() == before


def full_disk(cluster: Cluster, proxy: TcpProxy) -> None:
    """Every write to a file of 4 kB or more is refused: RocksDB's log is longer."""
    cluster.wait_owning(WORKER)
    worker = cluster.workers[WORKER]
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    assert worker.process.wait(ENDS_S) == 3
    assert "the states cannot be opened or written" in worker.words()
    assert "Action: " in worker.words()
    assert "Traceback" not in worker.words()


def stopped_while_the_broker_is_silent(cluster: Cluster, proxy: TcpProxy) -> None:
    """SIGTERM while vectors wait for an acknowledgement: it cannot save what it has read, and says so."""
    for _ in range(TRIES):
        cluster.wait_owning(WORKER)
        worker = cluster.workers[WORKER]
        proxy.hold()
        time.sleep(0.5)
        worker.send(signal.SIGTERM)
        code = worker.process.wait(ENDS_S)
        proxy.release()
        if code:
            break
        # Nothing was on its way when the line was held.
        cluster.start(WORKER)
        cluster.go_on()
    assert code == 1
    assert "were not saved and committed" in worker.words()
    assert "Action: " in worker.words()
    assert "Traceback" not in worker.words()
