"""Passwords out of URLs, and out of text that people see.

Input: URLs and words of a command line as a person gave them; lines of a log.
Errors: UsageError for a URL that cannot be read or holds what has a setting of its own. It never shows the URL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from app.report import visible
from schemas.errors import UsageError

MASK: Final = "***"
SHAPES: Final = {
    "redis": re.compile(r"rediss?:/?\d*|unix:[^@]*"),
    "registry": re.compile(r"https?:(/[\w.~-]*)*"),
}
"""Scheme and path of a URL: what follows a slash in a password that was not escaped would else be taken for a path."""
_LOGIN: Final = re.compile(r"(:/+).*@", re.DOTALL)
"""Greedy up to the last @: a password may hold one that was not escaped, and anything else. A path has one slash."""
_QUERY: Final = re.compile(r"(:/+[^?]*\?).*", re.DOTALL)
_LOGIN_IN_TEXT: Final = re.compile(r"(:/+)[^/@\s]*@")


def masked(word: str) -> str:
    """A word of a command line; if it is a URL, without its login and its options."""
    return _QUERY.sub(rf"\g<1>{MASK}", _LOGIN.sub(rf"\g<1>{MASK}@", word))


def quoted(text: str, words: Iterable[str]) -> str:
    """A text about a command line; its words masked wherever they stand in it: whole, an option's value, as a path."""
    whole = {part for word in words for part in (word, word.partition("=")[2])}
    parts = {part for word in whole for part in (word, str(Path(word))) if masked(part) != part}
    for part in sorted(parts, key=len, reverse=True):
        for form in _forms(part):
            text = text.replace(form, masked(part))
    return _LOGIN_IN_TEXT.sub(rf"\g<1>{MASK}@", text)


def hidden(text: str, secrets: Iterable[str]) -> str:
    """Text without these secrets, as they are and as Python, JSON, a URL or a log would write them.

    The longest goes first: one that begins like a shorter one would else leave its rest.
    """
    forms = {form for secret in secrets for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def _forms(text: str) -> list[str]:
    """How a text may be written, the longest first."""
    raw = text.encode(errors="surrogateescape")  # a word of a command line need not be UTF-8
    written = {
        text, repr(text)[1:-1], ascii(text)[1:-1], repr(raw)[2:-1], quote(raw, safe=""),
        json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1],
    }  # fmt: skip
    return sorted(written | {visible(form) for form in written}, key=len, reverse=True)


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
