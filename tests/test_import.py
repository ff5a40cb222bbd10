"""Import of recordings: counts, exact numbers, clocks, held deltas, and what is refused without a trace."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import zstandard
from agreement import OracleBooks, best
from crafted import PARTITIONS, T0, delta, frames_every, import_to, market_events, read_tape, snapshot, write_lines

from app.holding import Lane
from app.importer import ImportReport, import_recording
from app.layer import tape_end
from app.survey import SnapshotPlace
from replay.reader import ArchiveReader
from schemas.codec import DeadLetterCodec, TapeCodec
from schemas.errors import UsageError
from schemas.events import Event, Kind
from schemas.limits import DELTAS_HELD_MAX, HELD_MAX_NS
from schemas.registry import FileRegistry
from schemas.topics import DEAD_LETTERS, TAPE, partition_of
from schemas.units import BASE_TICK_NS, NS_PER_S


class Known(NamedTuple):
    """A real recording and what is in it."""

    format: str
    files: tuple[str, ...]
    accepted: int
    control: int
    records: int
    symbols: tuple[str, ...]
    compared: int


def days(name: str, *dates: str) -> tuple[str, ...]:
    return tuple(f"hftbacktest/{name}_{date}.gz" for date in dates)


REAL = {
    "usdm": Known("binance-usdm", days("usdm_ethusdt", "20240718", "20240719"),
                  69_913, 0, 89_106, ("BINANCE_USDM:ETHUSDT",), 834),
    "coinm": Known("binance-coinm", days("cm_ethusd_perp", "20240808", "20240809"),
                   78_314, 0, 104_215, ("BINANCE_COINM:ETHUSD_PERP",), 2_278),
    "spot": Known("binance-spot", days("spot_btcusdt", "20240808", "20240809"),
                  99_574, 0, 125_603, ("BINANCE_SPOT:BTCUSDT",), 1_072),
    "usdm-us": Known("binance-usdm", ("hftbacktest/usdm_btcusdt_20230404.dat.gz",),
                     13_384, 0, 17_468, ("BINANCE_USDM:BTCUSDT",), 310),
    "jsonl": Known("binance-usdm", ("cryptofeed_v3/BINANCE_FUTURES.jsonl.zst",), 1_539, 3, 2_755,
                   tuple(f"BINANCE_USDM:{base}USDT" for base in ("AKRO", "CTK", "KEEP", "SUSHI")), 50),
}  # fmt: skip


class Imported(NamedTuple):
    """One imported recording."""

    known: Known
    report: ImportReport
    tape: list[list[Event]]
    files: list[Path]


@pytest.fixture(scope="module", params=REAL)
def real(request: pytest.FixtureRequest, recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    known = REAL[request.param]
    files = [recordings / name for name in known.files]
    archive = tmp_path_factory.mktemp("real") / "archive"
    report = import_recording(files, known.format, archive=archive, partitions=PARTITIONS)
    return Imported(known, report, read_tape(archive), files)


@pytest.mark.recordings
class TestRealRecordings:
    def test_every_frame_is_accepted(self, real: Imported) -> None:
        known, report, tape, _ = real
        assert (report.accepted, report.refused, report.control) == (known.accepted, {}, known.control)
        assert report.received == known.accepted
        assert report.records == known.records == sum(map(len, tape))
        assert tuple(report.symbols) == known.symbols

    def test_a_tick_stands_before_what_was_received_after_it(self, real: Imported) -> None:
        grids = []
        held = 0
        for partition in real.tape:
            now = 0
            for event in partition:
                if event.kind is Kind.TICK:
                    assert now == 0 or event.body["time"] == now + BASE_TICK_NS
                    now = event.body["time"]
                elif event.ts_recv < now:
                    held += 1
                    assert event.kind is Kind.DELTA
                elif now:
                    assert event.ts_recv < now + BASE_TICK_NS
            grids.append([event.body["time"] for event in partition if event.kind is Kind.TICK])
        assert all(grid == grids[0] for grid in grids)
        assert grids[0][0] - BASE_TICK_NS <= real.report.first < grids[0][0]
        assert grids[0][-1] - BASE_TICK_NS <= real.report.last < grids[0][-1]
        assert held < 40

    def test_an_instrument_is_the_first_record_of_its_symbol(self, real: Imported) -> None:
        first = {}
        for event in market_events(real.tape):
            first.setdefault(event.key, event.kind)
        assert set(first.values()) == {Kind.INSTRUMENT}

    def test_books_never_break_and_equal_the_venues_best_prices(self, real: Imported) -> None:
        books, begun = OracleBooks(), set()
        told: dict[tuple[str, int], tuple[int, ...]] = {}
        compared = 0
        for event in market_events(real.tape):
            book, body = books.take(event), event.body
            if event.kind is Kind.SNAPSHOT:
                begun.add(event.key)
            elif event.kind is Kind.DELTA:
                assert book.is_whole == (event.key in begun)
            elif event.kind is Kind.TICKER and body["sequence"] is not None:
                names = ("bid_price", "bid_size", "ask_price", "ask_size")
                told[event.key, body["sequence"]] = tuple(body[name] for name in names)
            if event.kind in (Kind.DELTA, Kind.TICKER) and (event.key, book.sequence) in told:
                sequence = event.body.get("sequence", event.body.get("sequence_last"))
                if sequence == book.sequence:
                    compared += 1
                    assert best(book) == told[event.key, sequence]
        print(f"{compared} best prices and sizes equal")
        assert compared == real.known.compared

    def test_numbers_are_as_the_venue_wrote_them(self, real: Imported) -> None:
        written = venue_numbers(real.files)
        instruments = {e.key: e.body for e in market_events(real.tape) if e.kind is Kind.INSTRUMENT}
        read: dict[tuple[str, str], list[tuple[str, ...]]] = {}
        for event in market_events(real.tape):
            about = instruments[event.key]
            name = (about["symbol"], event.kind.name)
            if event.kind is Kind.TRADE:
                read.setdefault(name, []).append(decimal_texts(about, event.body["price"], event.body["size"]))
            elif event.kind is Kind.DELTA:
                levels = event.body["bids"] + event.body["asks"]
                numbers = [number for level in levels for number in (level["price"], level["size"])]
                read.setdefault(name, []).append(decimal_texts(about, *numbers))
        assert read == written


def decimal_texts(about: dict[str, Any], *numbers: int) -> tuple[str, ...]:
    """Shortest decimals of price, size, price, size, ..."""
    price, size = (about["tick_size"], about["price_scale"]), (about["lot_size"], about["size_scale"])
    units = [price, size] * (len(numbers) // 2)
    return tuple(
        f"{Decimal(number * step).scaleb(-scale).normalize():f}"
        for number, (step, scale) in zip(numbers, units, strict=True)
    )


def venue_numbers(files: list[Path]) -> dict[tuple[str, str], list[tuple[str, ...]]]:
    """Trades and deltas by symbol straight from the files, trailing zeros off."""
    found: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for path in files:
        is_zstd = path.suffix == ".zst"
        plain = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()) if is_zstd else None
        for line in (plain if plain is not None else gzip.decompress(path.read_bytes())).splitlines():
            text = orjson.loads(line).get("data", b"{}") if is_zstd else line.partition(b" ")[2]
            data = orjson.loads(text).get("data", {})
            if data.get("e") in ("trade", "aggTrade"):
                numbers, kind = [data["p"], data["q"]], "TRADE"
            elif data.get("e") == "depthUpdate":
                numbers, kind = [text for level in data["b"] + data["a"] for text in level], "DELTA"
            else:
                continue
            short = tuple(text.rstrip("0").rstrip(".") if "." in text else text for text in numbers)
            found.setdefault((data["s"], kind), []).append(short)
    return found


@pytest.mark.fault("market data", "Deltas before their Snapshot, within what is held and beyond it")
def test_held_deltas_follow_their_snapshot_with_their_own_time(tmp_path: Path) -> None:
    frames = frames_every(60_000_000, delta(6), delta(7), delta(8), snapshot(6), delta(9))
    _, tape = import_to(tmp_path, write_lines(tmp_path / "a.txt", frames))
    rows = tape[partition_of("BINANCE_USDM:AUSDT", PARTITIONS)]
    laid = [(event.kind.name, event.ts_recv - T0) for event in rows if event.kind is not Kind.TICK]
    assert laid == [("INSTRUMENT", 0), ("DELTA", 0), ("SNAPSHOT", 180_000_000), ("DELTA", 60_000_000),
                    ("DELTA", 120_000_000), ("DELTA", 240_000_000)]  # fmt: skip


@pytest.mark.fault("market data", "Deltas before their Snapshot, within what is held and beyond it")
def test_what_no_snapshot_completes_soon_is_not_held() -> None:
    def laid(ts_recv: int, ordinals_ahead: int) -> list[Kind]:
        lane = Lane([SnapshotPlace(T0 + HELD_MAX_NS, ordinals_ahead, 5)])
        lane.saw_delta()
        body = {"sequence_first": 6, "sequence_last": 6, "sequence_previous": 5, "bids": [], "asks": []}
        return [event.kind for event in lane.place(Event("BINANCE_USDM:AUSDT", 0, ts_recv, Kind.DELTA, body))]

    assert laid(T0, DELTAS_HELD_MAX) == []
    assert laid(T0 - 1, DELTAS_HELD_MAX) == [Kind.DELTA]
    assert laid(T0, DELTAS_HELD_MAX + 1) == [Kind.DELTA]


@pytest.mark.fault("market data", "the venue begins a new sequence")
def test_deltas_of_a_new_sequence_are_held_for_its_snapshot() -> None:
    """Lower, but two seconds later for the venue: no repeats of what the book has had."""
    lane = Lane([SnapshotPlace(T0, 0, 100), SnapshotPlace(T0 + 3 * NS_PER_S, 1, 5)])
    sides: dict[str, Any] = {"bids": [], "asks": []}
    first = Event("BINANCE_USDM:AUSDT", T0, T0, Kind.SNAPSHOT, {"sequence_last": 100, **sides})
    body = {"sequence_first": 6, "sequence_last": 6, "sequence_previous": 5, **sides}
    lower = Event("BINANCE_USDM:AUSDT", T0 + 2 * NS_PER_S, T0 + 2 * NS_PER_S, Kind.DELTA, body)
    second = Event("BINANCE_USDM:AUSDT", T0 + NS_PER_S, T0 + 3 * NS_PER_S, Kind.SNAPSHOT, {"sequence_last": 5, **sides})
    assert lane.place(first) == [first]
    lane.saw_delta()
    assert lane.place(lower) == []
    assert lane.place(second) == [second, lower]


def test_a_break_shows_at_once_and_what_follows_the_next_snapshot_is_held(tmp_path: Path) -> None:
    frames = frames_every(1_000_000, snapshot(5), delta(6), delta(8), delta(9), snapshot(8), delta(10))
    _, tape = import_to(tmp_path, write_lines(tmp_path / "a.txt", frames))
    laid = [(e.kind.name, e.body["sequence_last"]) for e in market_events(tape)[1:]]
    assert laid == [("SNAPSHOT", 5), ("DELTA", 6), ("DELTA", 8), ("SNAPSHOT", 8), ("DELTA", 9), ("DELTA", 10)]


def test_a_corrupt_line_is_one_dead_letter(tmp_path: Path) -> None:
    frames = frames_every(1_000_000, snapshot(5), delta(6), b'{"stream":"ausdt@de', delta(7), delta(8, "NaN"))
    path = write_lines(tmp_path / "a.txt", frames)
    report, _ = import_to(tmp_path, path)
    assert (report.accepted, report.refused, report.received) == (3, {"not-a-number": 1, "not-json": 1}, 5)
    letters = [letter for _, _, letter in ArchiveReader(tmp_path / "archive").dead_letters()]
    assert [(each.source, each.offset, each.reason) for each in letters] == [
        ("a.txt", 3, "not-json"), ("a.txt", 5, "not-a-number"),
    ]  # fmt: skip
    assert letters[0].original == b'{"stream":"ausdt@de'
    assert letters[1].key == b"BINANCE_USDM:AUSDT"


def trade(stream: str, number: int, symbol: str = "AUSDT") -> dict[str, Any]:
    data = {"e": stream, "E": T0 // 10**6, "T": T0 // 10**6, "s": symbol, "a": number, "t": number, "p": "100.10",
            "q": "2", "f": number, "l": number, "m": True, "X": "MARKET"}  # fmt: skip
    return {"stream": f"{symbol.lower()}@{stream}", "data": data}


def test_trades_of_two_streams_count_once(tmp_path: Path) -> None:
    frames = frames_every(
        10**6, trade("aggTrade", 1), trade("trade", 7), trade("trade", 8), trade("aggTrade", 2),
        trade("aggTrade", 3, "BUSDT"),
    )  # fmt: skip
    report, tape = import_to(tmp_path, write_lines(tmp_path / "a.txt", frames))
    assert (report.accepted, report.refused, report.received) == (3, {"trade-doubled": 2}, 5)
    laid = [(e.key, e.body["trade_id"]) for e in market_events(tape) if e.kind is Kind.TRADE]
    assert sorted(laid) == [("BINANCE_USDM:AUSDT", "7"), ("BINANCE_USDM:AUSDT", "8"), ("BINANCE_USDM:BUSDT", "3")]
    letters = [letter for _, _, letter in ArchiveReader(tmp_path / "archive").dead_letters()]
    assert [(each.offset, each.key, each.reason) for each in letters] == [
        (1, b"BINANCE_USDM:AUSDT", "trade-doubled"), (4, b"BINANCE_USDM:AUSDT", "trade-doubled"),
    ]  # fmt: skip


def test_an_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", frames_every(10**6, snapshot(5), *map(delta, range(6, 99))))

    def interrupt(done: float) -> None:
        if done > 0.9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_recording([path], "binance-usdm", archive=tmp_path / "archive", progress=interrupt)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_an_archive_grows_by_later_recordings_only(tmp_path: Path) -> None:
    frames = frames_every(100_000_000, snapshot(5), *map(delta, range(6, 20)))
    parts = [write_lines(tmp_path / "1.txt", frames[:7]), write_lines(tmp_path / "2.txt", frames[7:])]
    for part in parts:
        report, tape = import_to(tmp_path, part)
    whole = tmp_path / "whole"
    import_recording(parts, "binance-usdm", archive=whole, partitions=PARTITIONS)
    assert tape == read_tape(whole)
    assert report.symbols == ["BINANCE_USDM:AUSDT"]
    with pytest.raises(UsageError, match="begins before the tape"):
        import_to(tmp_path, parts[1])
    assert read_tape(tmp_path / "archive") == tape


def test_an_instrument_changes_when_its_steps_no_longer_fit(tmp_path: Path) -> None:
    import_to(tmp_path, write_lines(tmp_path / "1.txt", frames_every(10**9, snapshot(5), delta(6))))
    later = [(T0 + 9 * NS_PER_S, delta(7, "100.125"))]
    _, tape = import_to(tmp_path, write_lines(tmp_path / "2.txt", later))
    scales = [event.body["price_scale"] for event in market_events(tape) if event.kind is Kind.INSTRUMENT]
    assert scales == [1, 3]
    assert tape_end(tmp_path / "archive").instruments["BINANCE_USDM:AUSDT"]["price_scale"] == 3


def test_published_records_are_those_of_the_archive(tmp_path: Path) -> None:
    frames = frames_every(70_000_000, delta(6), snapshot(5), b"{", delta(7))
    path = write_lines(tmp_path / "a.txt", frames)
    sent: list[tuple[str, int, bytes, bytes]] = []
    registry = FileRegistry(tmp_path / "registry.json")
    import_recording(
        [path], "binance-usdm", archive=tmp_path / "archive", publish=lambda *record: sent.append(record),
        registry=registry, partitions=PARTITIONS,
    )  # fmt: skip
    codec = TapeCodec(registry)
    tape: list[list[Event]] = [[] for _ in range(PARTITIONS)]
    for topic, partition, key, value in sent:
        if topic == TAPE:
            tape[partition].append(codec.decode(key, value))
    assert tape == read_tape(tmp_path / "archive")
    letters = [DeadLetterCodec(registry).decode(value) for topic, *_, value in sent if topic == DEAD_LETTERS]
    assert [(each.source, each.offset, each.original) for each in letters] == [("a.txt", 3, b"{")]
