"""Seeded faults against real workers, and the ledger of what they did: `make faults N=300 SEED=1`.

A run has a plan: everything that kills and everything else that befalls a worker, its broker and its Redis, in an
order that its seed decides, over one, two, three and again one worker, while the tape grows. Then all is calm, the
last worker catches up, stops, and what is left is counted (tests/fault_audit.py).

Output: a JSON line per run on stdout, and one with the sum; progress on stderr. Exit code 1 if anything is not as it
    must be; the run's seed is in its line and its folder is kept.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import arguments
import fault_audit
import live_worker as run
from dying_worker import RECOVERING
from fault_cluster import Cluster
from kafka_broker import KafkaBroker, KafkaMissing
from ledger import Ledger
from redis_server import RedisServer

from app.topics import TAPE, delete_topics, sources
from app.topics import groups as groups_of

PHASES: Final = ((1, 0.35), (2, 0.65), (3, 0.8), (1, 1.0))
"""How many workers there are, one phase after the other, and the share of all kills by the end of each."""
KILLS_A_RUN: Final = 10
ALL_AT: Final = 30
"""With so many kills each kind of fault happens."""
Fault = Callable[[Cluster], None]


def _any(cluster: Cluster) -> int:
    return cluster.chance.randrange(len(cluster.workers))


def kill_one(cluster: Cluster) -> None:
    number = _any(cluster)
    cluster.kill(number)
    cluster.start(number)


def kill_all(cluster: Cluster) -> None:
    for number in range(len(cluster.workers)):
        cluster.kill(number)
    for number in range(len(cluster.workers)):
        cluster.start(number)


def kill_and_lose_the_folder(cluster: Cluster) -> None:
    number = _any(cluster)
    cluster.kill(number)
    cluster.lose_folder(number)
    cluster.start(number)


def kill_twice_in_recovery(cluster: Cluster) -> None:
    """Once as it takes the changelog, once at any moment of the next start."""
    number = _any(cluster)
    cluster.kill(number)
    cluster.lose_folder(number)
    cluster.start(number, RECOVERING)
    cluster.died(number)
    cluster.start(number)
    time.sleep(cluster.chance.uniform(0.5, 5.0))
    cluster.kill(number)
    cluster.start(number)


def kill_at_points(cluster: Cluster) -> None:
    """Every worker is killed and started again, and kills itself at the next exact point of its work."""
    for number in range(len(cluster.workers)):
        cluster.kill(number)
        point, count = next(cluster.points), cluster.chance.randrange(1, 6)
        if point == RECOVERING:
            cluster.lose_folder(number)
            count = 1
        cluster.start(number, point, count)
    for number in range(len(cluster.workers)):
        cluster.died(number)
        cluster.start(number)


DEADLY: Final[dict[str, Fault]] = {
    "SIGKILL": kill_one,
    "SIGKILL of every worker": kill_all,
    "SIGKILL and the RocksDB folder lost": kill_and_lose_the_folder,
    "SIGKILL twice during recovery": kill_twice_in_recovery,
}
AT_POINTS: Final = "SIGKILL at exact points"


def stand_still(cluster: Cluster) -> None:
    """SIGSTOP until the others have its partitions, then SIGCONT: it must end by itself."""
    number = _any(cluster)
    cluster.wait_owning(number)
    worker = cluster.workers[number]
    worker.send(signal.SIGSTOP)
    time.sleep(1.6 * cluster.settings.session_timeout_s)
    worker.send(signal.SIGCONT)
    code = worker.process.wait(30)
    assert (code, "stood still" in worker.words(), worker.bug()) == (1, True, ""), worker.words()
    cluster.start(number)


def terminate(cluster: Cluster) -> None:
    number = _any(cluster)
    cluster.wait_owning(number)
    cluster.stop(number)
    cluster.start(number)


def restart_broker(cluster: Cluster) -> None:
    _have_partitions(cluster, "broker restarted")
    cluster.without_broker(cluster.broker.stop, cluster.chance.uniform(0.0, 2.0))


def crash_broker(cluster: Cluster) -> None:
    _have_partitions(cluster, "broker crashed")
    cluster.without_broker(cluster.broker.kill, cluster.chance.uniform(0.0, 2.0))


def _have_partitions(cluster: Cluster, name: str) -> None:
    """The first time, and each second one, every worker is at work before this happens to it."""
    if cluster.faults[name] % 2 == 0:
        cluster.wait_owning(*range(len(cluster.workers)))


def crash_redis(cluster: Cluster) -> None:
    cluster.redis.kill()
    time.sleep(cluster.chance.uniform(0.0, 3.0))
    cluster.redis.start()
    cluster.emptied = time.time()


def empty_redis(cluster: Cluster) -> None:
    cluster.redis.flush()
    cluster.emptied = time.time()


HARMLESS: Final[dict[str, Fault]] = {
    "SIGSTOP past the session timeout": stand_still,
    "SIGTERM": terminate,
    "broker restarted": restart_broker,
    "broker crashed": crash_broker,
    "Redis crashed": crash_redis,
    "Redis emptied": empty_redis,
}


def plan(chance: random.Random) -> Iterator[str]:
    """Faults in a random order without end: each second one that kills does so at exact points, each third is none."""
    deadly, harmless = (cycle(chance.sample(sorted(each), len(each))) for each in (DEADLY, HARMLESS))
    while True:
        yield AT_POINTS
        yield next(harmless)
        yield next(deadly)


def suffer(cluster: Cluster, kills: int, tell: Callable[[str], None]) -> None:
    """Let faults happen until there were so many kills, then be calm and stop."""
    planned, happens = plan(cluster.chance), {AT_POINTS: kill_at_points, **DEADLY, **HARMLESS}
    for workers, share in PHASES:
        scale(cluster, workers)
        while len(cluster.kills) < kills * share:
            name = next(planned)
            tell(f"{workers} workers, {len(cluster.kills)} kills: {name}")
            happens[name](cluster)
            cluster.faults[name] += 1
            if cluster.chance.random() < 0.7:
                cluster.go_on()
            cluster.tend()
    for name in sorted(HARMLESS.keys() - cluster.faults.keys()) if kills >= ALL_AT else ():
        tell(f"{len(cluster.kills)} kills: {name}")
        happens[name](cluster)
        cluster.faults[name] += 1
    tell("calm")
    catch_up(cluster)


def scale(cluster: Cluster, workers: int) -> None:
    """So many workers share the partitions, each of which has one owner."""
    while len(cluster.workers) > workers:
        cluster.go_on()
        cluster.stop(len(cluster.workers) - 1)
        cluster.workers.pop()
    while len(cluster.workers) < workers:
        cluster.start()
    cluster.go_on()
    cluster.wait_shared()


def catch_up(cluster: Cluster) -> None:
    """Whoever is there does all that is left, and stops."""
    ends, settings = [len(messages) for messages in cluster.calm()], cluster.settings
    cluster.go_on()
    groups = groups_of(settings)
    for topic in sources(settings, "archive"):
        name = topic.removeprefix(settings.topic_prefix)
        due = ends if name == TAPE else [len(run.read_topic(settings, name, p)) for p in range(settings.partitions)]
        cluster.wait_for_group(groups["archive"], topic, due)
    for number in range(len(cluster.workers)):
        cluster.stop(number)


def one_run(
    broker: KafkaBroker, server: RedisServer, folder: Path, seed: int, kills: int, tell: Callable[[str], None]
) -> tuple[Ledger, dict[str, Any]]:
    """A cluster, its faults and its ledger; and what else is worth telling."""
    begun = time.monotonic()
    with Cluster(broker, server, folder, seed) as cluster:
        suffer(cluster, kills, tell)
        ledger = Ledger(seed=seed, kills=len(cluster.kills), faults=sum(cluster.faults[name] for name in HARMLESS))
        ledger.faults += len(PHASES) - 1
        ledger.kills_at_points = cluster.reached.total()
        fault_audit.count(cluster, ledger)
    delete_topics(cluster.settings)
    more = {
        "suffered": dict(cluster.faults), "points": dict(cluster.reached), "missed": dict(cluster.missed),
        "ended": dict(cluster.ended), "rss_mb_max": round(cluster.rss_mb),
        "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip
    return ledger, more


def line(ledger: Ledger, more: dict[str, Any]) -> str:
    """One JSON object."""
    return json.dumps(json.loads(ledger.line()) | {"ok": ledger.ok} | more)


def runs(kills: int, seed: int, tell: Callable[[str], None]) -> Iterator[tuple[Ledger, dict[str, Any]]]:
    """Runs with ten kills each, on one broker, until there were enough."""
    done = 0
    with ExitStack() as stack:
        broker, server = stack.enter_context(KafkaBroker()), stack.enter_context(RedisServer())
        while done < kills:
            folder = Path(tempfile.mkdtemp(prefix=f"onetape-faults-{seed}-"))
            tell(f"seed {seed} in {folder}")
            ledger, more = one_run(
                broker,
                server,
                folder,
                seed,
                min(KILLS_A_RUN, kills - done),
                lambda text, seed=seed: tell(f"seed {seed}: {text}"),
            )
            if ledger.ok:
                shutil.rmtree(folder)
            yield ledger, more
            done, seed = done + ledger.kills, seed + 1


def main(words: Sequence[str] | None = None) -> int:
    """`make faults`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=arguments.count, default=30)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(words)

    def tell(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    total, is_ok = Ledger(seed=given.seed), True
    try:
        for ledger, more in runs(given.kills, given.seed, tell):
            print(line(ledger, more), flush=True)
            total, is_ok = total + ledger, is_ok and ledger.ok
    except KafkaMissing as missing:
        print(f"Action: {missing}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        tell("interrupted; what is counted so far:")
        is_ok = False
    print(total.line())
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
