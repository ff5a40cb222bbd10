"""Stored states deleted, damaged, locked, of another layout: found out, made again from the changelog, or refused.

What single files and bytes of a state may become is in tests/test_store.py and tests/test_arena.py; here whole workers
meet it.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import live_worker as run
import pytest
import rocksdict
from confluent_kafka import Producer
from ledger import Ledger
from test_worker import Place, market

from app.config import Settings
from app.embedded import EmbeddedBroker
from app.topics import changelog_of, groups
from schemas.errors import DependencyDown, StateRefused
from tables import layout
from tables.store import pack

SEED: Final = 7
EVENTS: Final = 8_000
HELD_S: Final = 5.0
BLOB_VERSION: Final = 4
"""Where a stored state says its layout."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with EmbeddedBroker({}) as broker:
        yield Place(broker.bootstrap, True, tmp_path_factory.mktemp("state"), broker=broker)


def flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def cut(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))])


def lose(file: Path, chance: random.Random) -> None:
    file.unlink()


def lock(file: Path, chance: random.Random) -> None:
    """As whoever was killed leaves it, and with something in it."""
    file.write_bytes(chance.randbytes(9))


def delete(file: Path, chance: random.Random) -> None:
    shutil.rmtree(file.parent)


STATES: Final = "*.sst"
WAL: Final = "[0-9]*.log"
"""What was written last. RocksDB takes a bad record in it for its end, as after a crash, and says nothing; the offset
of the changelog is in it, too, so that what is lost is read again."""
DAMAGES: Final[tuple[tuple[Callable[[Path, random.Random], None], str, bool], ...]] = (
    (flip, WAL, False), (flip, STATES, True), (cut, WAL, False), (cut, STATES, True), (lose, STATES, True),
    (cut, "CURRENT", True), (lock, "LOCK", False), (delete, "CURRENT", False),
)  # fmt: skip
"""Each with the newest file of what kind it strikes, and whether it is told."""


def strike(folder: Path, damage: Callable[[Path, random.Random], None], pattern: str, chance: random.Random) -> None:
    if pattern == STATES:
        with held(folder):  # RocksDB makes an SST of the WAL when it opens a folder
            pass
    damage(max(folder.glob(pattern), key=lambda path: path.name), chance)


@pytest.mark.fault("state", "RocksDB folder deleted")
@pytest.mark.fault("state", "a bit of it flipped")
@pytest.mark.fault("state", "a file of it truncated or lost")
@pytest.mark.fault("state", "its LOCK left by a killed worker")
def test_a_worker_never_goes_on_from_damaged_states(place: Place, ledger: Ledger) -> None:
    """Killed, damaged and started again, once for each damage, while the tape grows."""
    settings, chance = place.settings(batch_size=64, epoch_s=0.1), random.Random(SEED)
    raw = market(settings, EVENTS)
    cuts = [[len(rows) * i // (len(DAMAGES) + 1) for rows in raw] for i in range(len(DAMAGES) + 2)]
    told, worker = 0, run.Worker(settings, ["features"])
    try:
        for i, damage in enumerate((*DAMAGES, None)):
            run.publish(settings, [rows[cuts[i][p] : cuts[i + 1][p]] for p, rows in enumerate(raw)])
            run.wait_committed(settings, worker, cuts[i + 1])
            assert worker.words().count("is damaged") == told, f"before damage {i}: {worker.words()}"
            if damage is not None:
                worker.kill()
                for partition in range(settings.partitions):
                    strike(run.state_folder(settings, partition), *damage[:2], chance)
                told += damage[2] * settings.partitions
                ledger.kills += 1
                ledger.faults += 1
                worker = run.Worker(settings, ["features"])
        assert worker.process.poll() is None
        worker.process.terminate()
        assert worker.process.wait(10) == 0
    finally:
        worker.kill()
    expected, found = run.oracle(settings, raw), run.outcome(settings)
    assert "Traceback" not in worker.words()
    ledger.count_states(found.states, expected.states)
    ledger.lost += len(expected.vectors.keys() - found.vectors.keys())
    ledger.wrong += sum(expected.vectors.get(of) != value for of, value in found.vectors.items())
    ledger.conflicting += found.conflicts
    ledger.dup_wire += found.repeats
    ledger.check()


def put_into_changelog(settings: Settings, partition: int, key: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": settings.brokers})
    producer.produce(changelog_of(groups(settings)["features"]), value, key.encode(), partition)
    assert producer.flush(10) == 0


def refused(settings: Settings, code: int) -> str:
    """The last line of a worker that must end by itself, with nothing more committed."""
    before = run.committed(settings)
    with run.Worker(settings, ["features"]) as worker:
        assert worker.ended() == code, worker.words()
    assert "Traceback" not in worker.words()
    assert run.committed(settings) == before
    last = worker.words().strip().rpartition("\n")[2]
    assert "Action: " in last
    return last


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Open for somebody else."""
    db = rocksdict.Rdict(str(folder), rocksdict.Options(raw_mode=True))
    try:
        yield
    finally:
        db.close()


@pytest.mark.fault("state", "its LOCK held by another process")
@pytest.mark.fault("state", "a file where its folder belongs")
@pytest.mark.fault("state", "changelog record of a future layout")
@pytest.mark.fault("state", "changelog record corrupt")
def test_states_that_others_hold_or_wrote_are_waited_for_or_refused(place: Place, ledger: Ledger) -> None:
    """A folder that comes free is waited for; a changelog that is not ours is refused."""
    settings = place.settings()
    raw = market(settings, 2_000)
    half = [len(rows) // 2 for rows in raw]
    with run.Worker(settings, ["features"]) as worker:
        run.publish(settings, [rows[: half[p]] for p, rows in enumerate(raw)])
        run.wait_committed(settings, worker, half)
        worker.stop()
    most = [len(rows) * 3 // 4 for rows in raw]
    folder = run.state_folder(settings, 0)
    with ExitStack() as holding:
        holding.enter_context(held(folder))
        with run.Worker(settings, ["features"]) as worker:
            run.publish(settings, [rows[half[p] : most[p]] for p, rows in enumerate(raw)])
            time.sleep(HELD_S)
            worker.alive()
            ledger.wrong += run.committed(settings) != half
            holding.close()
            run.wait_committed(settings, worker, most)
            worker.stop()
    run.publish(settings, [rows[most[p] :] for p, rows in enumerate(raw)])
    key, blob = next(iter(run.states_on_disk(settings, 0).items()))
    future = bytearray(blob)
    future[BLOB_VERSION] += 1
    shutil.rmtree(folder)
    folder.write_text("in the way")
    assert "cannot be opened or written" in refused(settings, DependencyDown.exit_code)
    for value, words in (
        (pack(most[0] - 1, bytes(future)), f"layout {layout.LAYOUT_VERSION + 1}"), (b"cut", "could not be recovered")
    ):  # fmt: skip
        shutil.rmtree(settings.data_dir / "features")
        put_into_changelog(settings, 0, key, value)
        assert words in refused(settings, StateRefused.exit_code)
    ledger.faults += 4
    ledger.check()
