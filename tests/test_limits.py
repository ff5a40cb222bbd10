"""Bounds on what comes from outside stand in schemas/limits.py; those of another kind have their why here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from conftest import ROOT

ELSEWHERE = {
    "agents/kernel.py: PICKED_MAX": "records looked through at a time",
    "agents/latest.py: TELLING_MAX": "notifications under way: what is more waits",
    "agents/oracle/windows.py: STEPS_MAX": "follows from limits.WINDOW_MAX_NS",
    "agents/oracle/windows.py: TRADES_MAX": "follows from limits.SIZE_LOTS_MAX",
    "agents/oracle/windows.py: DELTAS_MAX": "follows from limits.SIZE_LOTS_MAX",
    "app/clock.py: PAUSE_MAX_NS": "follows from limits.WINDOW_MAX_NS",
    "app/clock_leader.py: RESUME_MAX_NS": "asks an operator, refuses no record",
    "app/clock_leader.py: UNDER_WAY_MAX": "Ticks of our own under way",
    "app/clock_leader.py: UNREAD_MAX": "attempts of our own",
    "app/connection.py: SECRET_BYTES_MAX": "a file of the operator's own",
    "app/live_clock.py: STEP_MIN_NS": "tells of a clock that was set, refuses no record",
    "app/options.py: THREADS_MAX": "threads of our own",
    "app/publish.py: AHEAD_BYTES_MAX": "what an import sends ahead of the worker",
    "app/synthetic_book.py: LEVELS_MIN": "a market that is generated",
    "app/topics.py: SETS_NAME_MAX": "beyond it the name of a topic is a hash",
    "app/web.py: CONNECTIONS_MAX": "web clients; they bring no record",
    "app/venues/draft.py: INDEX_DECIMALS_MIN": "a scale is at least as fine",
    "replay/card/figures.py: FOLDS_MAX": "folds that a page shows",
    "replay/card/figures.py: INSTRUMENTS_MAX": "instruments that a page shows",
    "replay/card/figures.py: MISSING_MAX": "features that a page shows",
    "replay/card/summary.py: TIME_BINS_MAX": "bars that a page shows",
    "replay/datasets/chunks.py: CHUNK_NUMBERS_MIN": "chunks that we write",
    "replay/evaluation/report.py: LINES_MAX": "lines in a plot",
    "replay/evaluation/report.py: POINTS_MAX": "points of a line in a plot",
    "replay/clusters.py: BLOCK_GROUPS_MAX": "row groups that we write",
    "replay/clusters.py: BLOCK_ROWS_MAX": "row groups that we write",
    "replay/clusters.py: SHARED_ROWS_MIN": "row groups that we write",
    "replay/parity.py: DIFFERENCES_MAX": "differences that are shown",
    "replay/rows.py: GROUP_ROWS_MAX": "row groups that we write",
    "replay/proof/shift.py: MINORITY_MIN": "how few rows say nothing",
    "replay/proof/shift.py: ROWS_MIN": "how few rows say nothing",
    "replay/rows.py: GROUP_NUMBERS_MAX": "row groups that we write",
    "replay/splits/spec.py: FOLDS_MAX": "folds of a split that its builder asks for",
    "replay/splits/spec.py: BLOCKS_MAX": "blocks of a split that its builder asks for",
    "schemas/tape_pass.py: TEXTS_MAX": "follows from the schema",
    "schemas/tape_pass.py: WORDS_MAX": "follows from the schema",
    "schemas/tape_plan.py: DEPTH_MAX": "beyond it fastavro reads, as deep as limits.SCHEMA_DEPTH_MAX",
    "schemas/tape_plan.py: MARKS_MAX": "beyond it fastavro reads",
    "schemas/tape_plan.py: _WORDS_MAX": "beyond it fastavro reads, as many as limits.SCHEMA_PARTS_MAX",
    "schemas/varint.py: VARINT_BYTES_MAX": "of a 64-bit number",
    "schemas/vector_avro.py: _INT_MAX": "of a 32-bit number",
    "schemas/vector_avro.py: _INT_MIN": "of a 32-bit number",
    "tables/layout.py: BLOCKS_MAX": "follows from limits.LEVELS_MAX",
    "tables/layout.py: DELTAS_MAX": "follows from limits.SIZE_LOTS_MAX",
    "tables/layout.py: TRADES_MAX": "follows from limits.SIZE_LOTS_MAX",
    "tables/stored.py: NUMBERS_MAX": "follows from limits.LEVELS_MAX",
    "tables/stored.py: _MID_MAX": "follows from limits.PRICE_TICKS_MAX",
}
"""Tuning of our own, and what follows from a limit."""
BOUND = re.compile(r"_?([A-Z]+_)*(MAX|MIN|LIMIT)(_[A-Z]+)*")


def bounds() -> Iterator[str]:
    """Module constants named as a bound, benchmarks left out."""
    for folder in ("schemas", "tables", "agents", "replay", "app"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith("app/bench/") or name == "schemas/limits.py":
                continue
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                for target in targets:
                    for each in ast.walk(target) if target is not None else ():
                        if isinstance(each, ast.Name) and BOUND.fullmatch(each.id):
                            yield f"{name}: {each.id}"


def test_bounds_on_input_stand_in_one_file() -> None:
    """A new one belongs into schemas/limits.py; what bounds nothing from outside is named above with its why."""
    assert sorted(bounds()) == sorted(ELSEWHERE)
