"""Schema registries: which number stands for which Avro schema on the wire.

State: FileRegistry keeps one JSON file for the processes of one machine; HttpRegistry asks a Confluent-compatible
server and remembers its answers.
Errors: CheckFailed for an id nobody registered; DependencyDown when the server does not answer.
Source: Confluent Schema Registry API, POST /subjects/{subject}/versions and GET /schemas/ids/{id}.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from schemas.errors import CheckFailed, DependencyDown

Schema = dict[str, Any]


class SchemaRegistry(Protocol):
    """Numbers for schemas. The same schema under the same subject always gives the same number."""

    def register(self, subject: str, schema: Schema) -> int:
        """Number of `schema` under `subject`."""

    def get(self, schema_id: int) -> Schema:
        """Schema of a number."""


def _unknown(schema_id: int, where: str) -> CheckFailed:
    return CheckFailed(
        f"schema id {schema_id} is unknown", expected=f"an id registered in {where}", was=str(schema_id),
        action="point ONETAPE_REGISTRY at the registry the producer used",
    )  # fmt: skip


class FileRegistry:
    """Numbers in one JSON file, changed under a lock and replaced whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._schemas: dict[int, Schema] = {}

    def _load(self) -> list[dict[str, Any]]:
        try:
            entries: list[dict[str, Any]] = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        return entries

    def register(self, subject: str, schema: Schema) -> int:
        """Number of `schema` under `subject`; a new one is the next free number."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = self._load()
            for entry in entries:
                if entry["subject"] == subject and entry["schema"] == schema:
                    return int(entry["id"])
            entries.append({"id": len(entries) + 1, "subject": subject, "schema": schema})
            fresh = self.path.with_suffix(".tmp")
            fresh.write_text(json.dumps(entries, indent=1), encoding="utf-8")
            fresh.replace(self.path)
            return len(entries)

    def get(self, schema_id: int) -> Schema:
        """Schema of a number."""
        if schema_id not in self._schemas:
            self._schemas = {int(entry["id"]): entry["schema"] for entry in self._load()}
        try:
            return self._schemas[schema_id]
        except KeyError:
            raise _unknown(schema_id, str(self.path)) from None


class HttpRegistry:
    """A Confluent-compatible registry server at `url`."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._ids: dict[tuple[str, str], int] = {}
        self._schemas: dict[int, Schema] = {}

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
        request = Request(self.url + path, data=data, headers=headers)
        with urlopen(request, timeout=self.timeout_s) as answer:
            loaded: dict[str, Any] = json.load(answer)
        return loaded

    def _down(self, error: Exception) -> DependencyDown:
        return DependencyDown(
            "the schema registry does not answer", expected=f"a schema registry at {self.url}", was=str(error),
            action="start it, or set ONETAPE_REGISTRY to a file",
        )  # fmt: skip

    def register(self, subject: str, schema: Schema) -> int:
        """Number of `schema` under `subject`, as the server gives it."""
        text = json.dumps(schema)
        if (subject, text) not in self._ids:
            try:
                answer = self._ask(f"/subjects/{quote(subject, safe='')}/versions", {"schema": text})
            except HTTPError as error:
                raise CheckFailed(
                    f"the registry refused the schema of {subject}", expected="a compatible schema",
                    was=error.read(500).decode("utf-8", "replace"),
                    action="compare the subject's versions; a published version never changes",
                ) from error  # fmt: skip
            except (URLError, OSError, ValueError) as error:
                raise self._down(error) from error
            self._ids[subject, text] = int(answer["id"])
        return self._ids[subject, text]

    def get(self, schema_id: int) -> Schema:
        """Schema of a number, as the server gives it."""
        if schema_id not in self._schemas:
            try:
                answer = self._ask(f"/schemas/ids/{schema_id}")
            except HTTPError as error:
                raise _unknown(schema_id, self.url) from error
            except (URLError, OSError, ValueError) as error:
                raise self._down(error) from error
            self._schemas[schema_id] = json.loads(answer["schema"])
        return self._schemas[schema_id]


def open_registry(place: str) -> SchemaRegistry:
    """The registry at a file path or an http(s) URL."""
    return HttpRegistry(place) if place.startswith(("http://", "https://")) else FileRegistry(Path(place))
