"""A worker under a steady load for hours, killed every ten minutes: `make soak HOURS=8`.

Output: on stdout a JSON line every two minutes (records laid, records behind, memory of the worker, kills), and in the
    end the ledger with parity and everything else that tests/fault_audit.py counts; progress on stderr. Exit code 1 if
    anything is not as it must be.
Units: market seconds are wall-clock seconds; memory in MB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import arguments
import fault_audit
from fault_cluster import Cluster
from fault_run import catch_up, kill_one, line
from kafka_broker import KafkaBroker, KafkaMissing
from ledger import Ledger
from redis_server import RedisServer

from app.topics import delete_topics

LINE_S: Final = 120.0
KILL_S: Final = 600.0
EVENTS_PER_S: Final = 300


def soak(
    broker: KafkaBroker, server: RedisServer, folder: Path, hours: float, seed: int, tell: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """One line after another; the last one is the ledger's."""
    seconds = hours * 3600
    with Cluster(broker, server, folder, seed, speed=1.0, events_per_s=EVENTS_PER_S) as cluster:
        cluster.start()
        begun = now = time.monotonic()
        told = killed = begun
        while now < begun + seconds:
            cluster.tend()
            if now - killed >= KILL_S:
                killed = now
                kill_one(cluster)
            if now - told >= min(LINE_S, seconds / 4):
                told = now
                yield state(cluster, now - begun)
            time.sleep(min(1.0, seconds / 20))
            now = time.monotonic()
        tell("calm")
        catch_up(cluster)
        ledger = Ledger(seed=seed, kills=len(cluster.kills))
        fault_audit.count(cluster, ledger)
    delete_topics(cluster.settings)
    yield json.loads(line(ledger, {"hours": hours, "ended": dict(cluster.ended), "rss_mb_max": round(cluster.rss_mb)}))


def state(cluster: Cluster, seconds: float) -> dict[str, Any]:
    """How far it has come."""
    laid, done = cluster.ends(), cluster.committed()
    return {
        "minutes": round(seconds / 60, 1), "laid": sum(laid), "behind": sum(laid) - sum(done),
        "rss_mb": [round(worker.rss_mb()) for worker in cluster.workers], "kills": len(cluster.kills),
    }  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    """`make soak`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=arguments.duration, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(words)

    def tell(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    is_ok = False
    folder = Path(tempfile.mkdtemp(prefix="onetape-soak-"))
    tell(f"seed {given.seed} in {folder}")
    try:
        with KafkaBroker() as broker, RedisServer() as server:
            for each in soak(broker, server, folder, given.hours, given.seed, tell):
                print(json.dumps(each), flush=True)
                is_ok = bool(each.get("ok"))
    except KafkaMissing as missing:
        print(f"Action: {missing}", file=sys.stderr)
        folder.rmdir()
        return 3
    except KeyboardInterrupt:
        tell("interrupted")
        return 1
    if is_ok:
        shutil.rmtree(folder)
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
