"""Sends what the gate refused to the dead letters, while the batch it was in goes on.

Input: refused records of one tape partition.
Output: their letters, in the partition of the same number; `dead_letters_total`.
State: letters under way. A commit waits for them, so that a record is either read again or has its letter.
Errors: DeliveryFailed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

from app import metrics
from app.producer import Producer
from schemas.codec import DeadLetter, DeadLetterCodec

FEW: Final = 500
"""More of one batch are waited for at once: nothing may pile up where everything is refused."""


class DeadLetters:
    """The letters of one worker."""

    def __init__(self, producer: Producer, topic: str, codec: DeadLetterCodec) -> None:
        self._producer, self._topic, self._codec = producer, topic, codec
        self._under_way: dict[asyncio.Future[int], None] = {}

    async def bury(self, partition: int, refused: Sequence[DeadLetter]) -> None:
        """Send letters, at least one."""
        messages = [(letter.key, self._codec.encode(letter)) for letter in refused]
        sent = self._producer.enqueue(self._topic, partition, messages)
        self._under_way[sent] = None
        sent.add_done_callback(self._delivered)
        for reason, count in Counter(letter.reason for letter in refused).items():
            metrics.dead_letters_total.labels(reason).inc(count)
        if len(refused) > FEW:
            await asyncio.shield(sent)

    async def settle(self) -> None:
        """Returns when the broker has every letter sent before the call."""
        for sent in list(self._under_way):
            await asyncio.shield(sent)

    def _delivered(self, sent: asyncio.Future[int]) -> None:
        if not sent.cancelled() and sent.exception() is None:  # a failed one stays, so that no later commit can pass it
            self._under_way.pop(sent, None)
