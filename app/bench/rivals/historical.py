"""Feast's historical retrieval: the features of each entity row as they were known at its time.

Run as a file, `PYTHON historical.py FOLDER`, by a Python that has Feast and need not have anything of ours. In the
folder lie `features.parquet` (instrument, event_timestamp, the features) and `entities.parquet` (instrument,
event_timestamp). Each line it reads asks for one retrieval; it answers with a line of JSON: seconds, cpu_seconds, rows.
The rows of the last one lie in `retrieved.parquet` when it has ended.
Output: first of all a line of JSON with the versions of Feast and DuckDB.
Units: seconds of the performance counter.
Source: Feast 0.67, FeatureStore.get_historical_features; its DuckDB store. Its other local store, Dask, joins every
    entity row with every feature row of the same key before it looks at times: 100 times slower at 6,000 rows.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from datetime import timedelta
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

VALID_S = 2
"""Time to live of a feature row: two cadences. With a longer one DuckDB writes the join of all pairs to the disk."""
FILE_BYTES = 4 << 30
"""No file of its own gets larger: what does not fit in memory must not fill the disk."""


def store(folder: Path) -> tuple[Any, list[str]]:
    """A feature store over the folder's rows, and the names of its features."""
    feast, types = import_module("feast"), import_module("feast.types")
    path = folder / "features.parquet"
    columns = import_module("pyarrow.parquet").read_schema(path).names
    names = [name for name in columns if name not in ("instrument", "event_timestamp")]
    config = feast.RepoConfig(
        project="bench", provider="local", registry=str(folder / "registry.db"), offline_store={"type": "duckdb"},
        online_store=None, entity_key_serialization_version=3,
    )  # fmt: skip
    made = feast.FeatureStore(config=config)
    instrument = feast.Entity(name="instrument", join_keys=["instrument"], value_type=feast.ValueType.STRING)
    schema = [feast.Field(name="instrument", dtype=types.String)]
    schema += [feast.Field(name=name, dtype=types.Float64) for name in names]
    source = feast.FileSource(name="rows", path=str(path), timestamp_field="event_timestamp")
    view = feast.FeatureView(
        name="micro", entities=[instrument], ttl=timedelta(seconds=VALID_S), schema=schema, source=source, online=False
    )
    made.apply([instrument, view])
    return made, names


def serve(folder: Path) -> None:
    """Answer until no line comes."""
    made, names = store(folder)
    parquet = import_module("pyarrow.parquet")
    entities = parquet.read_table(folder / "entities.parquet").to_pandas()
    asked = [f"micro:{name}" for name in names]
    tell({name: metadata.version(name) for name in ("feast", "duckdb")})
    table: Any = None
    for _ in sys.stdin:
        begun, cpu = time.perf_counter(), time.process_time()
        table = made.get_historical_features(entity_df=entities, features=asked).to_arrow()
        tell({
            "seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu, "rows": table.num_rows,
        })  # fmt: skip
    if table is not None:
        parquet.write_table(table, folder / "retrieved.parquet")


def tell(line: dict[str, Any]) -> None:
    """One line of JSON on what was stdout when we began: libraries print, too."""
    os.write(_OUT, json.dumps(line).encode() + b"\n")


_OUT = 1

if __name__ == "__main__":
    _OUT = os.dup(1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    os.chdir(sys.argv[1])
    serve(Path.cwd())
