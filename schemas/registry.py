"""Schema registries: which number stands for which Avro schema on the wire.

State: FileRegistry keeps one JSON file for the processes of one machine; HttpRegistry asks a Confluent-compatible
server and remembers its answers.
Errors: SchemaUnknown for an id nobody registered; CheckFailed for a schema the server refuses or a file that is torn;
DependencyDown when the server or the disk gives no answer. Only the first says something about a record.
Source: Confluent Schema Registry API, POST /subjects/{subject}/versions and GET /schemas/ids/{id}.
"""

from __future__ import annotations

import fcntl
import json
from base64 import b64encode
from http.client import HTTPException
from pathlib import Path
from ssl import SSLContext
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from schemas.durable import write_json
from schemas.errors import AccessRefused, CheckFailed, DependencyDown, SchemaUnknown
from schemas.limits import REGISTRY_BYTES_MAX, UNKNOWN_LOOKUPS_MAX

Schema = dict[str, Any]

_NOT_FOUND = 404
_NOT_LET_IN = (401, 403)
_REFUSALS = (409, 422)
"""Incompatible with an earlier version, no valid schema."""


class SchemaRegistry(Protocol):
    """Numbers for schemas. The same schema under the same subject always gives the same number."""

    def register(self, subject: str, schema: Schema) -> int:
        """Number of `schema` under `subject`."""

    def get(self, schema_id: int) -> Schema:
        """Schema of a number."""


def _unknown(schema_id: int, where: str) -> SchemaUnknown:
    return SchemaUnknown(
        f"schema id {schema_id} is unknown", expected=f"an id of an Avro schema in {where}", was=str(schema_id),
        action="point ONETAPE_REGISTRY at the registry the producer used",
    )  # fmt: skip


class FileRegistry:
    """Numbers in one JSON file, changed under a lock and replaced whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._schemas: dict[int, Schema] = {}
        self._read_from: tuple[int, int, int] | None = None

    def register(self, subject: str, schema: Schema) -> int:
        """Number of `schema` under `subject`; a new one is the next free number, on disk when this returns."""
        known = _number(self._load(), subject, schema)
        if known is not None:
            return known
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                entries = self._load()
                known = _number(entries, subject, schema)
                if known is None:
                    known = len(entries) + 1
                    write_json(self.path, [*entries, {"id": known, "subject": subject, "schema": schema}])
        except OSError as error:
            raise self._refused("write", error) from error
        return known

    def get(self, schema_id: int) -> Schema:
        """Schema of a number. The file is read again only when it has been replaced."""
        if schema_id not in self._schemas:
            now = self._identity()
            if now is None or now != self._read_from:
                self._schemas = {entry["id"]: entry["schema"] for entry in self._load()}
                self._read_from = now
        try:
            return self._schemas[schema_id]
        except KeyError:
            raise _unknown(schema_id, str(self.path)) from None

    def _load(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._refused("read", error) from error
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            entries = None
        if not isinstance(entries, list) or not all(map(_is_entry, entries)):
            raise CheckFailed(
                f"the schema registry {self.path} is torn", expected="a JSON list of {id, subject, schema}",
                was=f"{len(text)} bytes of another content",
                action="restore it from a copy; if no broker holds records with its ids, remove it",
            )  # fmt: skip
        return entries

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            about = self.path.stat()
        except OSError:
            return None
        return about.st_ino, about.st_mtime_ns, about.st_size

    def _refused(self, what: str, error: OSError) -> DependencyDown:
        return DependencyDown(
            f"cannot {what} the schema registry {self.path}", expected="a file in a writable folder",
            was=str(error), action="check its folder and permissions, or set ONETAPE_REGISTRY to another file",
        )  # fmt: skip


def _number(entries: list[dict[str, Any]], subject: str, schema: Schema) -> int | None:
    matches = (int(entry["id"]) for entry in entries if entry["subject"] == subject and entry["schema"] == schema)
    return next(matches, None)


def _is_entry(entry: Any) -> bool:
    wanted = {"id": int, "subject": str, "schema": dict}
    return isinstance(entry, dict) and all(isinstance(entry.get(name), type_) for name, type_ in wanted.items())


class HttpRegistry:
    """A Confluent-compatible registry server at `url`.

    Its answer that an id is unknown holds for UNKNOWN_LOOKUPS_MAX look-ups of unknown ids, so that poison costs no
    request each, while a schema that is registered later is found without a restart.
    """

    def __init__(
        self, url: str, timeout_s: float = 10.0, login: tuple[str, str] | None = None, tls: SSLContext | None = None
    ) -> None:
        """`login`: user and password of the server. `tls`: how an https one is checked, else as the system does."""
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._tls = tls
        self._login = None if login is None else "Basic " + b64encode(":".join(login).encode()).decode()
        self._ids: dict[tuple[str, str], int] = {}
        self._schemas: dict[int, Schema] = {}
        self._unknown: set[int] = set()
        self._unknown_lookups = 0

    def register(self, subject: str, schema: Schema) -> int:
        """Number of `schema` under `subject`, as the server gives it."""
        text = json.dumps(schema)
        if (subject, text) not in self._ids:
            try:
                answer = self._ask(f"/subjects/{quote(subject, safe='')}/versions", {"schema": text})
                self._ids[subject, text] = int(answer["id"])
            except HTTPError as error:
                said = _said(error)
                if error.code not in _REFUSALS:
                    raise self._down(said, error.code) from error
                raise CheckFailed(
                    f"the registry refused the schema of {subject}", expected="a compatible schema", was=said,
                    action="compare the subject's versions; a published version never changes",
                ) from error  # fmt: skip
            except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
                raise self._down(repr(error)) from error
        return self._ids[subject, text]

    def get(self, schema_id: int) -> Schema:
        """Schema of a number, as the server gives it."""
        if schema_id not in self._schemas:
            self._recall_unknown(schema_id)
            try:
                answer = self._ask(f"/schemas/ids/{schema_id}")
                if answer.get("schemaType", "AVRO") != "AVRO":
                    raise self._remember_unknown(schema_id)
                self._schemas[schema_id] = json.loads(answer["schema"])
            except HTTPError as error:
                if error.code != _NOT_FOUND:
                    raise self._down(_said(error), error.code) from error
                raise self._remember_unknown(schema_id) from error
            except RecursionError as error:  # an answer, and no schema that anybody could read
                raise self._remember_unknown(schema_id) from error
            except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
                raise self._down(repr(error)) from error
        return self._schemas[schema_id]

    def _recall_unknown(self, schema_id: int) -> None:
        if schema_id not in self._unknown:
            return
        self._unknown_lookups += 1
        if self._unknown_lookups < UNKNOWN_LOOKUPS_MAX:
            raise _unknown(schema_id, self.url)
        self._forget_unknown()

    def _remember_unknown(self, schema_id: int) -> SchemaUnknown:
        self._unknown_lookups += 1
        if self._unknown_lookups > UNKNOWN_LOOKUPS_MAX:
            self._forget_unknown()
        self._unknown.add(schema_id)
        return _unknown(schema_id, self.url)

    def _forget_unknown(self) -> None:
        self._unknown.clear()
        self._unknown_lookups = 0

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
        request = Request(self.url + path, data=data, headers=headers)
        if self._login is not None:
            request.add_unredirected_header("Authorization", self._login)  # whoever it is passed on to is not told
        with urlopen(request, timeout=self.timeout_s, context=self._tls) as answer:
            text = answer.read(REGISTRY_BYTES_MAX + 1)
        if len(text) > REGISTRY_BYTES_MAX:
            raise ValueError(f"an answer of more than {REGISTRY_BYTES_MAX} bytes")
        loaded = json.loads(text)
        if not isinstance(loaded, dict):
            raise ValueError("an answer that is no JSON object")
        return loaded

    def _down(self, was: str, code: int = 0) -> DependencyDown:
        if code in _NOT_LET_IN:
            return AccessRefused(
                "the schema registry refuses the login", expected=f"a user of {self.url} with its password", was=was,
                action="correct ONETAPE_REGISTRY_USERNAME and ONETAPE_REGISTRY_PASSWORD",
            )  # fmt: skip
        return DependencyDown(
            "the schema registry does not answer", expected=f"a schema registry at {self.url}", was=was,
            action="start it, or set ONETAPE_REGISTRY to a file",
        )  # fmt: skip


def _said(error: HTTPError) -> str:
    """Status and the beginning of the body, which may be cut off."""
    try:
        body = error.read(500)
    except (OSError, HTTPException):
        body = b""
    return f"HTTP {error.code} {body.decode('utf-8', 'replace')}".strip()


def open_registry(place: str, login: tuple[str, str] | None = None, tls: SSLContext | None = None) -> SchemaRegistry:
    """The registry at a file path or an http(s) URL; see `HttpRegistry` for what a server may demand."""
    if place.startswith(("http://", "https://")):
        return HttpRegistry(place, login=login, tls=tls)
    return FileRegistry(Path(place))
