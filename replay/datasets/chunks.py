"""Chunks: the vectors of a share, cut so that each fits in memory, on disk, with the states to go on from.

Input: what the features agent emits of two feature sets: the dataset's own and the prices its labels are read off.
State: `<number>.vectors.arrow`, `.prices.arrow`, `.states.arrow` and, last of all, `.json`, in the share's folder.
Output: `Chunk`s and their content.
Units: offsets are Kafka offsets; times in ns UTC.
Errors: OSError of the disk.

A chunk exists once its `.json` does. Where a killed build stopped, the next one goes on behind the last chunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from schemas import durable
from schemas.columns import Columns
from schemas.events import Kind
from schemas.feature_sets import FeatureSet
from schemas.vectors import HEAD, Vectors

CHUNK_RECORDS = 8_000_000
CHUNK_NUMBERS = 24_000_000
"""Bounds of a chunk: records of the tape, and numbers in its vectors (192 MB)."""
CHUNK_NUMBERS_MIN = 500_000
"""Of a build with many shares, none has chunks so small that they would be nothing but files."""
_NAMES = b"names"
_STATES = pa.schema([pa.field("key", pa.string(), False), pa.field("state", pa.binary(), False)])


@dataclass(frozen=True, slots=True)
class Chunk:
    """What its `.json` says: its first and last offset, its last Tick (ns, 0 before any), its vectors.

    The states after a chunk are kept where a window of the leak check begins behind it, and behind the last one.
    """

    number: int
    first_offset: int
    last_offset: int
    last_tick: int
    vectors: int
    is_before_window: bool


@dataclass(slots=True)
class Cutter:
    """Cuts the batches of a share into pieces, and says behind which a chunk ends.

    `windows` are offsets that begin a chunk, whether the share has a record there or only behind; `records_max` and
    `numbers_max` bound each chunk.
    """

    symbols: int
    cadence_ticks: int
    width: int
    windows: Sequence[int] = ()
    records_max: int = CHUNK_RECORDS
    numbers_max: int = CHUNK_NUMBERS
    _records: int = field(init=False, default=0)
    _ticks: int = field(init=False, default=0)

    def pieces(self, batches: Iterable[Columns]) -> Iterator[tuple[Columns, bool, bool]]:
        """(piece, whether the chunk ends behind it, whether a window begins there)."""
        for batch, following in _followed(batches):
            columns = batch
            while len(columns):
                end, is_window = self._end(columns, following)
                piece, columns = columns.slice(0, end), columns.slice(end, len(columns))
                self._count(piece)
                ends = is_window or self._is_full()
                yield piece, ends, is_window
                if ends:
                    self._records = self._ticks = 0

    def _ticks_max(self) -> int:
        vectors = max(1, self.numbers_max // max(1, self.width * self.symbols))
        return vectors * self.cadence_ticks

    def _is_full(self) -> bool:
        return self._records >= self.records_max or self._ticks >= self._ticks_max()

    def _count(self, piece: Columns) -> None:
        self._records += len(piece)
        self._ticks += int((piece.kind == Kind.TICK).sum())

    def _end(self, columns: Columns, following: int) -> tuple[int, bool]:
        """Rows of the next piece, and whether a window begins behind them; `following` is the offset behind all."""
        end = min(len(columns), self.records_max - self._records)
        ticks = np.flatnonzero(columns.kind[:end] == Kind.TICK)
        left = self._ticks_max() - self._ticks
        if len(ticks) > left:
            end = int(ticks[left - 1]) + 1
        first, last = int(columns.offset[0]), int(columns.offset[end - 1])
        begun = [window for window in self.windows if first < window <= last]
        if begun:
            return int(np.searchsorted(columns.offset, min(begun))), True
        # A window that begins right behind the piece begins a chunk, too.
        following = int(columns.offset[end]) if end < len(columns) else following
        return end, any(last < window <= following for window in self.windows)


def _followed(batches: Iterable[Columns]) -> Iterator[tuple[Columns, int]]:
    """Each batch with rows, and the first offset of the next: of some symbols, offsets have gaps."""
    waiting: Columns | None = None
    for batch in batches:
        if len(batch):
            if waiting is not None:
                yield waiting, int(batch.offset[0])
            waiting = batch
    if waiting is not None:
        yield waiting, int(waiting.offset[-1]) + 1


def write(
    folder: Path, chunk: Chunk, vectors: Vectors, prices: Vectors, states: Mapping[str, bytes], earlier: Chunk | None
) -> None:
    """Lay a chunk; it survives the process. The states of the one before go where no window needs them."""
    _write_vectors(_path(folder, chunk.number, "vectors"), vectors)
    _write_vectors(_path(folder, chunk.number, "prices"), prices)
    names = sorted(states)
    table = pa.table([pa.array(names, pa.string()), pa.array([states[name] for name in names], pa.binary())], _STATES)
    with pa.OSFile(str(_path(folder, chunk.number, "states")), "wb") as file, pa.ipc.new_file(file, _STATES) as writer:
        writer.write_table(table)
    durable.sync(_path(folder, chunk.number, "states"))
    durable.write_json(folder / f"{chunk.number:06d}.json", asdict(chunk))
    if earlier is not None and not earlier.is_before_window:
        _path(folder, earlier.number, "states").unlink(missing_ok=True)


def read_all(folder: Path) -> list[Chunk]:
    """The chunks of a share, in order."""
    return [Chunk(**json.loads(path.read_bytes())) for path in sorted(folder.glob("*.json"))]


def read_states(folder: Path, number: int) -> dict[str, bytes]:
    """The states after a chunk."""
    with pa.memory_map(str(_path(folder, number, "states"))) as file:
        table = pa.ipc.open_file(file).read_all()
        return dict(zip(table["key"].to_pylist(), table["state"].to_pylist(), strict=True))


def read_vectors(folder: Path, number: int, feature_set: FeatureSet) -> Vectors:
    """The vectors of a chunk, by time and instrument."""
    return _read_vectors(_path(folder, number, "vectors"), feature_set)


def read_heads(folder: Path, number: int, feature_set: FeatureSet) -> Vectors:
    """The vectors of a chunk without their values, [m, 0], which are nearly all of it."""
    return _read_vectors(_path(folder, number, "vectors"), feature_set, with_values=False)


def read_prices(folder: Path, number: int, feature_set: FeatureSet) -> Vectors:
    """The prices of a chunk, by time and instrument."""
    return _read_vectors(_path(folder, number, "prices"), feature_set)


def _path(folder: Path, number: int, what: str) -> Path:
    return folder / f"{number:06d}.{what}.arrow"


def _write_vectors(path: Path, vectors: Vectors) -> None:
    """Heads as columns, the values as one: nothing is turned from rows to columns and back."""
    width = vectors.values.shape[1]
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.values.reshape(-1)), width)
    arrays = [pa.array(vectors.key), *(pa.array(getattr(vectors, name)) for name in HEAD), values]
    schema = pa.schema(
        [pa.field(name, array.type) for name, array in zip(["key", *HEAD, "values"], arrays, strict=True)],
        {_NAMES: json.dumps(vectors.keys).encode()},
    )
    # Not compressed: LZ4 saves 40 % of a file that a build removes, and takes longer than all that is done with it.
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema))
    durable.sync(path)


def _read_vectors(path: Path, feature_set: FeatureSet, *, with_values: bool = True) -> Vectors:
    # Mapped, what is not looked at is not read; but values are wanted whole, and in memory of our own.
    with pa.OSFile(str(path)) if with_values else pa.memory_map(str(path)) as file:
        batch = pa.ipc.open_file(file).get_batch(0)
    head = {name: batch.column(name).to_numpy() for name in HEAD}
    key, width = batch.column("key").to_numpy(), len(feature_set.features)
    values = batch.column("values").flatten().to_numpy().reshape(-1, width) if with_values else np.empty((len(key), 0))
    names = json.loads(batch.schema.metadata[_NAMES])
    return Vectors(feature_set, names, key, values=values, **head)
