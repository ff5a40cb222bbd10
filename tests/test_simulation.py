"""Level two of the fault suite: seeds of the simulated worker. `make simulate KILLS=100000` runs more of them."""

from __future__ import annotations

import pytest
import simulation
from ledger import Ledger
from plans import Kill, LoseStore, Publish, plan_of

SEEDS = 2000
KILLS = 2000


@pytest.mark.fault(
    "crash",
    "kills between any two steps, in recoveries, with disks lost, zombies and a late changelog (simulated)",
)
def test_seeds_of_kills_rebalances_pauses_and_lost_stores(ledger: Ledger) -> None:
    """Each failure names its seed and the shortest plan that fails."""
    total = sum(simulation.simulate_all(range(0, SEEDS, simulation.BLOCK)), simulation._uncounted())
    vars(ledger).update(vars(total))
    ledger.check()
    assert total.kills >= KILLS
    assert total.kills_at_points >= KILLS / 5
    assert total.dup_wire > total.kills / 10, "kills have hardly made anything come again"


@pytest.mark.parametrize("seed", [3, 4])
def test_a_seed_is_the_same_run_each_time(seed: int) -> None:
    first, again = (simulation.Run(seed, plan_of(seed)) for _ in range(2))
    assert first.play() == again.play()
    assert first.world.logs == again.world.logs
    assert first.world.now == again.world.now


def test_a_failure_is_shrunk_to_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that counts every lost disk as a lost vector fails for the lost disks alone."""
    count = simulation.Run._count

    def counted(run: simulation.Run) -> None:
        count(run)
        run.ledger.lost += any(isinstance(step, LoseStore) for step in run.plan)

    monkeypatch.setattr(simulation.Run, "_count", counted)
    seed = next(seed for seed in range(50) if any(isinstance(step, LoseStore) for step in plan_of(seed)))
    assert [type(step) for step in simulation.shrink(seed)] == [LoseStore]
    with pytest.raises(AssertionError, match=rf"simulate\({seed}, \[LoseStore\("):
        simulation.check(seed)


def test_a_tape_that_is_not_read_to_its_end_is_a_loss() -> None:
    """Without a worker that lives nothing comes out, and the ledger says so."""
    run = simulation.Run(1, [Publish(0.1, 1.0), Kill("first", 0), Kill("second", 0)])
    run._supervise = lambda: None  # type: ignore[method-assign]
    ledger = run.play()
    assert ledger.lost > 10
    assert not ledger.ok
