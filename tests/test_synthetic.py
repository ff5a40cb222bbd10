"""The generated recording: deterministic, imported without loss, and consistent with its own best prices."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from agreement import OracleBooks, best
from crafted import PARTITIONS, market_events, read_tape

from app.importer import ImportReport, import_recording
from app.synthetic import START_NS, SyntheticReport, write_recording
from schemas.events import Event, Kind
from schemas.units import NS_PER_S


def generated(
    folder: Path, *, is_inverse: bool = False, **options: int
) -> tuple[SyntheticReport, ImportReport, list[Event]]:
    path = folder / "market.gz"
    made = write_recording(path, is_inverse=is_inverse, **options)
    format_name = "binance-coinm" if is_inverse else "binance-usdm"
    report = import_recording([path], format_name, archive=folder / "archive", partitions=PARTITIONS)
    return made, report, market_events(read_tape(folder / "archive"))


def digest(path: Path, seed: int) -> str:
    write_recording(path, seed=seed, seconds=3)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_seed_makes_the_same_bytes(tmp_path: Path) -> None:
    assert digest(tmp_path / "a.gz", 1) == digest(tmp_path / "b.gz", 1)
    assert digest(tmp_path / "a.gz", 1) != digest(tmp_path / "b.gz", 2)


def test_the_default_is_a_few_minutes_of_three_symbols(tmp_path: Path) -> None:
    made = write_recording(tmp_path / "market.gz")
    assert made.symbols == ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    assert 40_000 < made.frames < 60_000


@pytest.mark.parametrize("is_inverse", [False, True])
def test_every_frame_is_accepted(tmp_path: Path, is_inverse: bool) -> None:
    made, report, events = generated(tmp_path, is_inverse=is_inverse, symbols=2, seconds=8)
    assert (report.accepted, report.refused, report.control) == (made.frames, {}, 1)
    assert START_NS <= report.first < report.last < START_NS + 9 * NS_PER_S
    instruments = [event.body for event in events if event.kind is Kind.INSTRUMENT]
    assert {body["symbol"] for body in instruments} == set(made.symbols)
    assert {body["contract"] for body in instruments} == {"INVERSE" if is_inverse else "LINEAR"}
    assert {event.kind for event in events} == {
        Kind.INSTRUMENT, Kind.SNAPSHOT, Kind.DELTA, Kind.TRADE, Kind.TICKER, Kind.FUNDING,
    }  # fmt: skip


def test_best_prices_equal_the_book_of_the_same_update(tmp_path: Path) -> None:
    _, _, events = generated(tmp_path, seconds=20)
    books = OracleBooks()
    compared = 0
    for event in events:
        book, body = books.take(event), event.body
        if event.kind is Kind.DELTA:
            assert not book.is_known or best(book)[0] < best(book)[2]
        elif event.kind is Kind.TICKER and body["sequence"] is not None and body["sequence"] == book.sequence:
            compared += 1
            assert best(book) == (body["bid_price"], body["bid_size"], body["ask_price"], body["ask_size"])
    print(f"{compared} best prices and sizes equal")
    assert compared > 1_000


def test_injected_faults_are_seen_and_healed(tmp_path: Path) -> None:
    made, report, events = generated(tmp_path, seconds=20, with_faults=True)
    assert (made.dropped_deltas, made.insurance_trades, made.off_tick_frames) == (1, 1, 1)
    assert (report.accepted, report.refused) == (made.frames - 1, {"finer-than-scale": 1})
    first = [event for event in events if event.key == "BINANCE_USDM:BTCUSDT"]
    assert sum(event.kind is Kind.TRADE and event.body["is_insurance"] for event in first) == 1
    books, was_whole = OracleBooks(), False
    wholeness = []
    for event in first:
        is_whole = books.take(event).is_whole
        if is_whole != was_whole:
            wholeness.append((event.kind, event.ts_recv))
        was_whole = is_whole
    kinds, times = zip(*wholeness, strict=True)
    assert kinds == (Kind.SNAPSHOT, Kind.DELTA, Kind.SNAPSHOT)
    assert times[2] - times[1] < NS_PER_S


@pytest.mark.parametrize("options", [{"symbols": 0}, {"symbols": 9}, {"seconds": 1}])
def test_sizes_it_cannot_make_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="symbols"):
        write_recording(tmp_path / "market.gz", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
