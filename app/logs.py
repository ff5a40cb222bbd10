"""The log of a worker: lines on stderr, without secrets and without what is told elsewhere.

Input: the level, and the secrets of this process.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
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


def start_log(level: str, secrets: Sequence[str]) -> None:
    """Log to stderr. What Faust and aiokafka put right by themselves is told from INFO on."""
    logging.basicConfig(level=level)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(Lines(secrets))
        handler.addFilter(_is_ours)
    logging.getLogger(WIRE).addFilter(_is_no_login)
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
