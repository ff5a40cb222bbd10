"""The log of a worker: lines on stderr, without secrets and without what is told elsewhere.

Input: the level, and the secrets of this process.
State: what clients say of a broker that is away is one line every AWAY_S, with how many were left out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Final

from aiokafka import errors
from faust.exceptions import ConsistencyError, ProducerSendError

from app.masking import hidden
from app.report import visible
from schemas.errors import OnetapeError

QUIET: Final = {
    "faust": logging.ERROR,
    "mode": logging.ERROR,
    "aiokafka.consumer.group_coordinator": logging.CRITICAL,
}
FORBIDDEN_ERRORS: Final = (
    errors.TopicAuthorizationFailedError, errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
)  # fmt: skip
WIRE: Final = "aiokafka.conn"
"""Logs every request whole at DEBUG; that of a login by PLAIN is the password."""
AWAY: Final = {
    "aiokafka": (
        "Unable connect to ", "Unable to request metadata from ", "Unable to update metadata from ",
    ),
    "aiokafka.consumer.fetcher": ("Failed fetch messages from ", "Failed fetch offsets from "),
    "aiokafka.consumer.group_coordinator": ("Error sending ", "Group Coordinator Request failed: "),
}  # fmt: skip
"""How messages of aiokafka's loggers begin that a broker which is away repeats, ten a second of each client."""
AWAY_S: Final = 10.0


class Lines(logging.Formatter):
    """One record as text, tracebacks included, with the secrets hidden.

    A message is one line, whatever a record, a file or a peer has put into it.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return hidden(super().format(record), self._secrets)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """See `logging.Formatter`; a traceback keeps its lines."""
        return "\n".join(map(visible, super().formatException(ei).split("\n")))


class BrokerAway(logging.Filter):
    """Of all that clients say of a broker which is away one line a while, in words that say what to do."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._lock = clock, Lock()  # clients log from threads of their own
        self._next_s, self._left_out = clock(), 0

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        if not str(record.msg).startswith(AWAY.get(record.name, ())):
            return True
        with self._lock:
            now = self._clock()
            if now < self._next_s:
                self._left_out += 1
                return False
            self._next_s, left_out, self._left_out = now + AWAY_S, self._left_out, 0
        more = f" ({left_out} more such lines since the last one are left out)" if left_out else ""
        record.msg, record.args = (
            "a Kafka broker does not answer: %s%s. Nothing is lost: it is tried again until it does."
            " Action: see that the brokers run and that this machine reaches them",
            (record.getMessage(), more),
        )
        return True


def start_log(level: str, secrets: Sequence[str]) -> None:
    """Log to stderr. What Faust and aiokafka put right by themselves is told from INFO on."""
    logging.basicConfig(level=level)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(Lines(secrets))
        handler.addFilter(_is_ours)
    logging.getLogger(WIRE).addFilter(_is_no_login)
    if level != "DEBUG":  # which shows all that clients do
        away = BrokerAway()
        for name in AWAY:
            logging.getLogger(name).addFilter(away)
    logging.getLogger("numba").setLevel(logging.WARNING)  # at DEBUG its compiler tells each of its steps, for minutes
    if level == "WARNING":
        for name, least in QUIET.items():
            logging.getLogger(name).setLevel(least)


def _is_ours(record: logging.LogRecord) -> bool:
    """Errors for people are told once, by the command line; Faust would add a traceback to them."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, RuntimeError) and str(error) == "Event loop is closed":
        return False  # a consumer that has crashed is stopped once more; the crash is what is told
    return not isinstance(error, (OnetapeError, ProducerSendError, ConsistencyError, *FORBIDDEN_ERRORS))


def _is_no_login(record: logging.LogRecord) -> bool:
    words = record.args if isinstance(record.args, tuple) else ()
    return not any(type(word).__name__.startswith("SaslAuthenticate") for word in words)
