"""Real workers under every kind of fault, killed thirty times: what they leave is as if nothing had happened."""

from __future__ import annotations

import json
import random
import sys
from itertools import islice
from pathlib import Path

import pytest
from dying_worker import POINTS
from fault_run import ALL_AT, AT_POINTS, DEADLY, HARMLESS, line, one_run, plan
from kafka_broker import KafkaBroker
from ledger import Ledger
from redis_server import RedisServer
from soak import soak

SEED = 1


@pytest.mark.kafka
@pytest.mark.fault("crash", "SIGKILL at any moment")
@pytest.mark.fault("crash", "SIGKILL between emit and save")
@pytest.mark.fault("crash", "SIGKILL between save and commit")
@pytest.mark.fault("crash", "SIGKILL twice during recovery")
@pytest.mark.fault("crash", "SIGTERM")
@pytest.mark.fault("crash", "SIGSTOP past the session timeout, then SIGCONT")
@pytest.mark.fault("broker", "restarted in an orderly way")
@pytest.mark.fault("broker", "crashed and started again on its data")
@pytest.mark.fault("broker", "rebalance over 1, 2, 3 and again 1 workers")
def test_thirty_kills_and_every_other_fault_do_no_harm(broker: KafkaBroker, tmp_path: Path, ledger: Ledger) -> None:
    def tell(text: str) -> None:
        print(text, file=sys.stderr)

    with RedisServer() as server:
        found, more = one_run(broker, server, tmp_path, SEED, ALL_AT, tell)
    print(line(found, more))
    vars(ledger).update(vars(found))
    found.check()
    assert found.kills >= ALL_AT
    assert found.accepted > 1000 < found.refused * 100
    assert set(more["suffered"]) == {AT_POINTS, *DEADLY, *HARMLESS}
    assert set(more["points"]) == set(POINTS)
    assert all(word.startswith("3: ") for word in more["ended"]), "only for a broker that is away at the start"


@pytest.mark.kafka
def test_a_short_soak_tells_how_it_fares_and_ends_with_the_ledger(broker: KafkaBroker, tmp_path: Path) -> None:
    with RedisServer() as server:
        *on_the_way, last = soak(broker, server, tmp_path, 0.002, SEED, lambda text: None)
    assert on_the_way
    assert all(each.keys() == {"minutes", "laid", "behind", "rss_mb", "kills"} for each in on_the_way)
    assert last["ok"]
    assert last["received"] >= on_the_way[-1]["laid"] > 0


def test_a_seed_is_a_plan() -> None:
    plans = [list(islice(plan(random.Random(seed)), 30)) for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]
    assert set(plans[0]) == {AT_POINTS, *DEADLY, *HARMLESS}


def test_a_run_that_did_harm_is_told() -> None:
    told = json.loads(line(Ledger(kills=3, lost=1, seed=7), {"suffered": {}}))
    assert (told["ok"], told["lost"], told["seed"], told["bound"]) == (False, 1, 7, None)
