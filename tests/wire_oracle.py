"""What a batch from the wire has to give, decided record by record by fastavro and the gate; and ways to damage it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from schemas.codec import DeadLetter, TapeCodec
from schemas.columns import to_events
from schemas.errors import RecordRefused
from schemas.events import Event, Kind
from schemas.topics import REFUSED_KEY

Message = tuple[bytes | None, bytes | None]
FIRST = 40


def decided_singly(codec: TapeCodec, messages: Sequence[Message]) -> tuple[list[Event], list[DeadLetter]]:
    """Events, of kind REFUSED where refused, and dead letters, of messages from offset FIRST on."""
    events: list[Event] = []
    letters: list[DeadLetter] = []
    for offset, (key, value) in enumerate(messages, FIRST):
        try:
            events.append(codec.decode(key, value))
        except RecordRefused as error:
            events.append(Event(REFUSED_KEY, 0, 0, Kind.REFUSED, {"reason": error.reason}))
            letters.append(DeadLetter("tape", 3, offset, key or b"", error.reason, value or b"").bounded())
    return events, letters


def decided_at_once(codec: TapeCodec, messages: Sequence[Message]) -> tuple[list[Event], list[DeadLetter]]:
    """The same of one batch."""
    offsets = list(range(FIRST, FIRST + len(messages)))
    keys, values = [key for key, _ in messages], [value for _, value in messages]
    columns, letters = codec.decode_batch("tape", 3, offsets, keys, values)
    assert (columns.offset.tolist(), columns.partition) == (offsets, 3)
    assert columns.start[0] == 0
    assert columns.start[-1] == len(columns.body)
    return to_events(columns), letters


_ODD = (
    b"\x00", b"\x01", b"\x02", b"\x03", b"\x7f", b"\x80", b"\x80\x00", b"\xff", b"\xff\xff\xff\xff\x0f",
    b"\xff" * 9 + b"\x01", b"\xff" * 8 + b"\x7f", b"\xfe" + b"\xff" * 8 + b"\x01", b"\x80" * 9 + b"\x00",
    b"\xff" * 10 + b"\x01", b"\xc3\xa9", b"\x1b[31m", b"\x80\xc2\xd7\x2f",
)  # fmt: skip


def damaged(chance: Random, messages: Sequence[Message]) -> Message:
    """One of the messages with a few bytes other than they were."""
    key, value = chance.choice(messages)
    assert key is not None
    assert value is not None
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at, size = chance.randrange(len(value) + 1), chance.choice((0, 0, 1, 1, 2, 9))
        how = chance.randrange(8)
        if how == 0:
            value = value[:at] + bytes([chance.randrange(256)]) + value[at + 1 :]
        elif how == 1 and at < len(value):
            value = value[:at] + bytes([value[at] ^ (1 << chance.randrange(8))]) + value[at + 1 :]
        elif how == 2:
            value = value[:at] + value[at + size :]
        elif how == 3:
            value = value[:at] + chance.choice(_ODD) + value[at + size :]
        elif how == 4:
            other = chance.choice(messages)[1] or b""
            value = value[:at] + other[chance.randrange(len(other) + 1) :]
        elif how == 5:
            value = value[: max(at, 5)]
        elif how == 6 and chance.random() < 0.3:
            key = chance.choice((b"*", b"", b"v:S", b"V:S", b"V:" + b"x" * 60, b"\xff", (key or b"") + b"\x00", None))
        elif how == 7 and chance.random() < 0.1:
            return key, chance.choice((None, b"", b"\x00\x00\x00\x00\x01", chance.randbytes(chance.randrange(60))))
    return key, value
