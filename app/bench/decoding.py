"""From messages to columns: the compiled pass against fastavro and the gate, record by record.

Output: figures. Keys are fresh bytes in every round, as a consumer gives them, and joining the messages counts.
Units: messages per second.
Errors: CheckFailed where both sides do not give the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from app.bench.measure import Figure, Stopwatch, Target, duel, rate
from app.bench.tape import Sizes, generated
from app.bench.wire import Message, TapeWire, poisoned
from schemas.codec import TapeCodec
from schemas.columns import Columns, ColumnsBuilder, to_events
from schemas.errors import CheckFailed
from schemas.events import Kind
from schemas.feature_sets import FeatureSet
from schemas.registry import FileRegistry
from schemas.topics import TAPE

_BATCH, _SMALL_BATCH = 10_000, 500
_POISON_EVERY = 100

Batch = tuple[list[int], list[bytes], list[bytes]]
"""Offsets, keys and values."""


def from_avro(watch: Stopwatch, feature_set: FeatureSet, sizes: Sizes) -> list[Figure]:
    """The mixed stream in large and small batches, its trades and Deltas alone, and with one message in 100 spoilt."""
    with TemporaryDirectory(prefix="onetape-bench-") as place:
        registry = FileRegistry(Path(place) / "schemas.json")
        codec, wire = TapeCodec(registry), TapeWire(registry)
        codec.load()
        rounds = generated(sizes, sizes.naive_rows).rounds
        mixed = [wire.encode(columns) for columns in rounds]
        trades, deltas = (
            [wire.encode(columns.take(columns.kind == kind)) for columns in rounds] for kind in (Kind.TRADE, Kind.DELTA)
        )
        must = Target(10, 20)
        return [
            _against_fastavro(watch, codec, "decode", must, mixed, _BATCH),
            _against_fastavro(watch, codec, "decode:small", must, mixed, _SMALL_BATCH),
            _against_fastavro(watch, codec, "decode:trades", must, trades, _BATCH),
            _against_fastavro(watch, codec, "decode:deltas", must, deltas, _BATCH),
            _spoilt(watch, codec, mixed),
        ]


def _against_fastavro(
    watch: Stopwatch, codec: TapeCodec, name: str, target: Target, rounds: Sequence[list[Message]], size: int
) -> Figure:
    batches = [_batches(messages, size) for messages in rounds]

    def ours(i: int) -> list[Columns]:
        return [codec.decode_batch(TAPE, 0, *batch)[0] for batch in batches[i]]

    def theirs(i: int) -> list[Columns]:
        return [_singly(codec, batch) for batch in batches[i]]

    def check(i: int, mine: list[Columns], other: list[Columns]) -> None:
        if i == 0 and any(to_events(a) != to_events(b) for a, b in zip(mine, other, strict=True)):
            raise CheckFailed(
                f"{name}: the decoders differ", expected="the same records", was=f"other ones in round {i}",
                action="run tests/test_tape_decoder.py",
            )  # fmt: skip

    found = duel(watch, len(rounds), ours, theirs, check)
    count = sum(map(len, rounds)) / len(rounds)
    told = f"fastavro and the gate {rate(found.theirs, count)}, ours {rate(found.ours, count)}, batches of {size:,}"
    return Figure(name, found.ratio, target, told)


def _spoilt(watch: Stopwatch, codec: TapeCodec, rounds: Sequence[list[Message]]) -> Figure:
    """Speed with poison as a share of the speed without, over the good messages."""
    clean = [_batches(messages, _BATCH) for messages in rounds]
    dirty = [_batches(poisoned(messages, _POISON_EVERY)[0], _BATCH) for messages in rounds]

    def decode(batches: list[Batch]) -> int:
        return sum(len(codec.decode_batch(TAPE, 0, *batch)[1]) for batch in batches)

    def check(i: int, refused: int, none: int) -> None:
        if (refused, none) != (len(rounds[i]) // _POISON_EVERY, 0):
            raise CheckFailed(
                "decode:poison: other messages are refused", expected=f"{len(rounds[i]) // _POISON_EVERY} and 0",
                was=f"{refused} and {none}", action="run tests/test_tape_decoder.py",
            )  # fmt: skip

    found = duel(watch, len(rounds), lambda i: decode(dirty[i]), lambda i: decode(clean[i]), check)
    count = sum(map(len, rounds)) / len(rounds)
    told = f"the same without: {rate(found.theirs, count)}; with one in {_POISON_EVERY}: {rate(found.ours, count)}"
    return Figure("decode:poison", found.ratio, Target(0.9, 0.95), told)


def _batches(messages: Sequence[Message], size: int) -> list[Batch]:
    # A copy has no hash yet.
    keys, values = [bytes(bytearray(key)) for key, _ in messages], [value for _, value in messages]
    return [
        (list(range(at, min(at + size, len(keys)))), keys[at : at + size], values[at : at + size])
        for at in range(0, len(keys), size)
    ]


def _singly(codec: TapeCodec, batch: Batch) -> Columns:
    builder = ColumnsBuilder(0)
    for offset, key, value in zip(*batch, strict=True):
        builder.add(offset, codec.decode(key, value))
    return builder.columns()
