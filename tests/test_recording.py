"""Recordings: containers, receive clocks, and bad input that is one clear error and leaves nothing behind."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from crafted import T0, delta, frames_every, import_to, market_events, snapshot, write_lines

from app.clock import PAUSE_MAX_NS, ClockLayer
from app.importer import import_recording
from app.recording import Recording
from schemas.errors import RecordingForeign, RecordingTorn, UnknownFormat, UsageError
from schemas.limits import CLOCK_JUMP_MAX_NS, SILENCE_MAX_NS
from schemas.units import BASE_TICK_NS, NS_PER_S


@pytest.mark.parametrize("unit_ns", [1, 1_000, 1_000_000])
def test_the_receive_clock_is_read_in_its_unit(tmp_path: Path, unit_ns: int) -> None:
    frames = [(clock // unit_ns, frame) for clock, frame in frames_every(10_000_000, snapshot(5), delta(6))]
    report, tape = import_to(tmp_path, write_lines(tmp_path / "a.txt", frames))
    assert (report.first, report.last) == (T0, T0 + 10_000_000)
    assert [event.ts_event for event in market_events(tape)] == [0, T0, T0]


def cut_gzip(path: Path) -> list[Path]:
    whole = gzip.compress(
        write_lines(path / "whole", frames_every(10**6, snapshot(5), *map(delta, range(6, 99)))).read_bytes()
    )
    (path / "a.gz").write_bytes(whole[:-40])
    return [path / "a.gz"]


def cut_zstd(path: Path) -> list[Path]:
    whole = write_lines(path / "whole", frames_every(10**6, snapshot(5), *map(delta, range(6, 99)))).read_bytes()
    (path / "a.zst").write_bytes(zstandard.compress(whole)[:-5])
    return [path / "a.zst"]


def flipped_gzip(path: Path) -> list[Path]:
    whole = bytearray(gzip.compress(write_lines(path / "whole", frames_every(10**6, snapshot(5))).read_bytes()))
    whole[len(whole) // 2] ^= 4
    (path / "a.gz").write_bytes(whole)
    return [path / "a.gz"]


def cut_line(path: Path) -> list[Path]:
    frames = frames_every(10**6, snapshot(5), b'{"stream":"aus')
    return [write_lines(path / "a.txt", frames, ending="")]


def written(content: bytes) -> Callable[[Path], list[Path]]:
    def write(path: Path) -> list[Path]:
        (path / "a.txt").write_bytes(content)
        return [path / "a.txt"]

    return write


def test_a_file_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "a.txt", frames_every(10**6, snapshot(5)))
    recording = Recording([path], receive_units=("ns",), exchanges=frozenset())

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match=r"a\.txt cannot be read.*Permission denied.*Action: check its permissions"):
        next(recording.frames())


def jump(path: Path) -> list[Path]:
    return [write_lines(path / "a.txt", [(T0, snapshot(5)), (T0 + CLOCK_JUMP_MAX_NS + 1, delta(6))])]


def wrong_order(path: Path) -> list[Path]:
    late = write_lines(path / "late.txt", [(T0 + 10, snapshot(5))])
    return [late, write_lines(path / "early.txt", [(T0, delta(6))])]


HEADER = b'{"t":"header","exchange":"BYBIT"}\n'
BAD = {
    "truncated gzip": (cut_gzip, RecordingTorn, 1),
    "truncated zstd": (cut_zstd, RecordingTorn, 1),
    "flipped bit": (flipped_gzip, RecordingTorn, 1),
    "last line cut": (cut_line, RecordingTorn, 1),
    "empty": (written(b""), RecordingForeign, 2),
    "empty gzip": (written(gzip.compress(b"")), RecordingForeign, 2),
    "random bytes": (written(np.random.default_rng(1).bytes(5_000)), RecordingForeign, 2),
    "text": (written(b"time,price\n1,2\n"), RecordingForeign, 2),
    "a receive clock of no unit": (written(b'17 {"e":"trade"}\n'), RecordingForeign, 2),
    "JSON of no venue": (written(b"%d " % T0 + b'{"channel":"l2Book","data":{}}\n'), RecordingForeign, 2),
    "header of another exchange": (written(HEADER), RecordingForeign, 2),
    "clock jump": (jump, UsageError, 2),
    "files out of order": (wrong_order, UsageError, 2),
    "no such file": (lambda path: [path / "nothing.gz"], UsageError, 2),
    "a folder": (lambda path: [path], UsageError, 2),
    "a disk that fails": (lambda path: [Path("/proc/self/mem")], UsageError, 2),
    "a name longer than any": (lambda path: [path / ("n" * 300)], UsageError, 2),
    "no files": (lambda path: [], UsageError, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_error_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    make, error, code = BAD[name]
    (tmp_path / "in").mkdir()
    files = make(tmp_path / "in")
    with pytest.raises(error) as caught:
        import_recording(files, "binance-usdm", archive=tmp_path / "deep" / "archive")
    assert caught.value.exit_code == code
    assert "Action:" in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


@pytest.mark.recordings
@pytest.mark.parametrize("name", ["hftbacktest/hyperliquid_btcusd_20250126.gz", "hftbacktest/spot_btcusdt_20240809.gz",
                                  "hftbacktest/cm_ethusd_perp_20240809.gz", "cryptofeed_v3/OKX.jsonl.zst",
                                  "nautilus/xrpusdt-ob500.data.zip", "lean/Data/readme.md"])  # fmt: skip
def test_foreign_recordings_are_refused(recordings: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordingForeign):
        import_recording([recordings / name], "binance-usdm", archive=tmp_path / "archive")
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match="binance-usdm or binance-coinm or binance-spot") as caught:
        import_recording([tmp_path], "binance", archive=tmp_path / "archive")
    assert caught.value.exit_code == 2


def test_the_clock_fills_silence_but_not_the_time_between_recordings() -> None:
    grid = T0 - T0 % BASE_TICK_NS
    clock = ClockLayer()
    assert list(clock.due(grid)) == []
    assert list(clock.due(grid + BASE_TICK_NS - 1)) == []
    assert list(clock.due(grid + 3 * BASE_TICK_NS)) == [grid + i * BASE_TICK_NS for i in (1, 2, 3)]
    assert list(clock.due(grid)) == []
    assert len(clock.due(grid + SILENCE_MAX_NS)) == 36_000 - 3
    assert list(clock.close()) == [grid + SILENCE_MAX_NS + BASE_TICK_NS]
    assert list(ClockLayer().close()) == []
    assert list(clock.due(grid + 2 * SILENCE_MAX_NS + 250_000_000)) == [grid + 2 * SILENCE_MAX_NS + 2 * BASE_TICK_NS]
    soon, later = ClockLayer(last_tick=grid), ClockLayer(last_tick=grid)
    assert len(soon.due(grid + PAUSE_MAX_NS + 1)) == 600
    after = grid + PAUSE_MAX_NS + BASE_TICK_NS
    assert list(later.due(after + 1)) == [after]
    assert len(later.due(after + SILENCE_MAX_NS)) == 36_000
    assert list(later.close()) == [after + SILENCE_MAX_NS + BASE_TICK_NS]


def test_responses_wait_for_their_time_and_seconds_are_exact(tmp_path: Path) -> None:
    lines = [
        '{"t":"header","exchange":"BINANCE_FUTURES"}',
        '{"t":"http","conn":"h","ts":1626992741.3014021,"url":"x?symbol=AUSDT","data":"{}"}',
        '{"t":"recv","conn":"w","ts":1626992741.06217,"data":"{}"}',
        '{"t":"recv","conn":"w","ts":1626992742,"data":"{}"}',
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*lines, ""]))
    recording = Recording([path], receive_units=("ns",), exchanges=frozenset({"BINANCE_FUTURES"}))
    frames = [(frame.line, frame.ts_recv) for frame in recording.frames()]
    assert frames == [
        (1, 0),
        (3, 1_626_992_741_062_170_000),
        (2, 1_626_992_741_301_402_100),
        (4, 1_626_992_742 * NS_PER_S),
    ]
