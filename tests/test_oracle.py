"""Over real recordings, imported: every value equals the naive oracle's, in any batches, whatever comes later."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from test_engine import assert_agrees, assert_same, run

from app.importer import import_recording
from replay.reader import ArchiveReader
from schemas.columns import Columns, to_events
from schemas.events import Kind

RECORDINGS = [
    ("binance-usdm", ["usdm_ethusdt_20240718.gz", "usdm_ethusdt_20240719.gz"]),
    ("binance-coinm", ["cm_ethusd_perp_20240808.gz", "cm_ethusd_perp_20240809.gz"]),
    ("binance-spot", ["spot_btcusdt_20240808.gz", "spot_btcusdt_20240809.gz"]),
    ("binance-usdm", ["usdm_btcusdt_20230404.dat.gz"]),
]


@pytest.mark.recordings
@pytest.mark.parametrize(("format_name", "names"), RECORDINGS, ids=[names[0] for _, names in RECORDINGS])
def test_engine_equals_the_oracle_on_a_recording(
    format_name: str, names: list[str], recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [recordings / "hftbacktest" / name for name in names]
    import_recording(files, format_name, archive=tmp_path / "archive", partitions=1)
    columns = Columns.concat(list(ArchiveReader(tmp_path / "archive").batches(0)))
    vectors = run(columns)
    events = to_events(columns)
    compared = assert_agrees([event for event in events if event.kind is not Kind.REFUSED], vectors)
    for batch in (1, 7, 64, 10_000):
        assert_same(run(columns, batch), vectors)
    chance = random.Random(1)
    for cut in (chance.randrange(len(columns)) for _ in range(50)):
        # Deleting every record after an offset changes no vector at or before it.
        assert_same(run(columns.slice(0, cut + 1)), vectors.select(vectors.as_of_offset <= columns.offset[cut]))
    with capsys.disabled():
        print(f"\n{names[0]}: {len(columns)} records, {len(vectors)} vectors, {compared} values equal")
