"""Passwords out of URLs, and out of text that people see.

Input: URLs and words of a command line as a person gave them; lines of a log.
Errors: UsageError for a URL that cannot be read or holds what has a setting of its own. It never shows the URL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from schemas.errors import UsageError

MASK: Final = "***"
SHAPES: Final = {
    "redis": re.compile(r"rediss?:/?\d*|unix:[^@]*"),
    "registry": re.compile(r"https?:(/[\w.~-]*)*"),
}
"""Scheme and path of a URL: what follows a slash in a password that was not escaped would else be taken for a path."""
_LOGIN: Final = re.compile(r"(?<=://)[^\s'\"]*@")
"""Greedy up to the last @: a password may hold one that was not escaped."""


def masked(text: str) -> str:
    """Text with the login of every URL in it hidden."""
    return _LOGIN.sub(f"{MASK}@", text)


def hidden(text: str, secrets: Iterable[str]) -> str:
    """Text without these secrets, as they are and as Python or a URL would write them."""
    for secret in secrets:
        written = (repr(secret)[1:-1], ascii(secret)[1:-1], repr(secret.encode())[2:-1], quote(secret, safe=""))
        for form in (secret, *written):
            text = text.replace(form, MASK)
    return text


def split_url(variable: str, url: str, shape: str) -> tuple[str, str, str]:
    """A URL of one of SHAPES without its login, the user and the password; `variable` is the setting that holds it."""
    try:
        parts = urlsplit(url)
        user, password, _ = parts.username, parts.password, parts.port
    except ValueError:
        raise _refused(variable, "a URL that cannot be read") from None
    is_whole = (parts.hostname or parts.scheme == "unix") and not parts.fragment and "@" not in parts.query
    if not is_whole or not SHAPES[shape].fullmatch(f"{parts.scheme}:{parts.path}"):
        raise _refused(variable, "a URL that cannot be read")
    options = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    taken = [name for name in options if name in ("username", "password", "credential_provider") or "ssl" in name]
    if taken:
        raise _refused(variable, f"a URL with the option {taken[0]}")
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=place)), unquote(user or ""), unquote(password or "")


def _refused(variable: str, was: str) -> UsageError:
    return UsageError(
        f"{variable} cannot be used", expected="scheme://host:port/..., its password with %2F for / and the like",
        was=f"{was} (not shown, for it may hold a password)",
        action=f"correct {variable}; a password, certificates and the like have settings of their own",
    )  # fmt: skip
