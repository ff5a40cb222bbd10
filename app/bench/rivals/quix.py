"""The job in Quix Streams: its consumer, its RocksDB state with a changelog, its producer.

Run as `python -m app.bench.rivals.quix`, settings in the environment, until it is stopped.
A symbol is kept as a Python object and laid into the state once a second of tape, with its first record in it:
decoding and encoding a whole book for every record would make it many times slower. So a crash can cost it a second.
Errors: DependencyDown where the `bench` extra is not installed.
"""

from __future__ import annotations

from typing import Any

import orjson

from app.bench.peers import peer
from app.bench.rivals.job import Job, Symbol
from app.bench.wire import Message
from app.config import Settings, load_settings
from app.fetching import FETCH_WAIT_MS
from app.roles.role import FETCH_BYTES
from app.topics import groups, wire_topic
from app.worker import stop_with_parent
from schemas.feature_sets import load
from schemas.registry import open_registry
from schemas.topics import CLOCK_KEY, TAPE
from schemas.units import NS_PER_S

STATE = "symbol"


def stored(symbol: Symbol) -> bytes:
    """A symbol as bytes."""
    fields = {name: getattr(symbol, name) for name in Symbol.__slots__ if name != "past"}
    return orjson.dumps({**fields, "past": list(symbol.past)}, option=orjson.OPT_NON_STR_KEYS)


def restored(text: bytes) -> Symbol:
    """The inverse of `stored`."""
    symbol = Symbol()
    for name, value in orjson.loads(text).items():
        if name == "past":
            symbol.past.extend(map(tuple, value))
        else:
            is_side = name in ("bids", "asks")
            setattr(symbol, name, {int(price): size for price, size in value.items()} if is_side else value)
    return symbol


class Step:
    """One message of the tape, with the state of its key."""

    def __init__(self, settings: Settings) -> None:
        self._job = Job(open_registry(settings.registry), load(settings.feature_sets))
        self._context = peer("quixstreams").message_context
        self._saved: dict[str, int] = {}

    def __call__(self, value: bytes, key: str, timestamp: int, headers: Any, state: Any) -> list[Message]:
        """The vectors it completes."""
        del timestamp, headers
        context = self._context()
        number = context.partition
        partition = self._job.partition(number)
        if key != CLOCK_KEY and key not in partition.symbols:
            text = state.get_bytes(STATE)
            if text is not None:
                partition.symbols[key] = restored(text)
        made = self._job.take(number, context.offset, key, value)
        second = partition.time // NS_PER_S
        if key != CLOCK_KEY and self._saved.get(key) != second:
            self._saved[key] = second
            state.set_bytes(STATE, stored(partition.symbols[key]))
        return made


def run(settings: Settings) -> None:
    """Until SIGTERM."""
    quix = peer("quixstreams")
    serializer: Any = peer("quixstreams.models").Serializer

    class Value(serializer):  # type: ignore[misc]
        """What goes out of a message is its second half."""

        def __call__(self, value: Message, ctx: Any) -> bytes:
            return value[1]

    app = quix.Application(
        broker_address=settings.brokers, consumer_group=f"{groups(settings)['features']}-quix",
        auto_offset_reset="earliest", state_dir=settings.data_dir / "quix", loglevel="WARNING",
        consumer_extra_config={
            "fetch.message.max.bytes": FETCH_BYTES, "fetch.wait.max.ms": FETCH_WAIT_MS, "log_level": 0,
        },
    )  # fmt: skip
    feature_set = load(settings.feature_sets)
    tape = app.topic(wire_topic(settings, TAPE), key_deserializer="str", value_deserializer="bytes")
    output = app.topic(wire_topic(settings, feature_set.topic), key_serializer="bytes", value_serializer=Value())
    frame = app.dataframe(tape).apply(Step(settings), stateful=True, expand=True, metadata=True)
    frame.to_topic(output, key=lambda message: message[0])
    app.run()


def main() -> None:
    """Entry point."""
    stop_with_parent()
    run(load_settings())


if __name__ == "__main__":
    main()
