"""Registries give the same number for the same schema, and say so when they cannot."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import TapeCodec
from schemas.errors import CheckFailed, DependencyDown
from schemas.events import DEAD_LETTER, MARKET_EVENT, Event, Kind
from schemas.registry import FileRegistry, HttpRegistry, SchemaRegistry, open_registry

TICK = Event("*", 10**18, 10**18, Kind.TICK, {"time": 10**18})


class _Confluent(BaseHTTPRequestHandler):
    """The two calls of the Confluent API that a producer and a consumer make."""

    schemas: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test output clean."""

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["schema"]
        if json.loads(asked).get("name") == "Incompatible":
            self._answer(409, {"error_code": 409, "message": "incompatible"})
            return
        if asked not in self.schemas:
            self.schemas.append(asked)
        self._answer(200, {"id": self.schemas.index(asked) + 1})

    def do_GET(self) -> None:
        number = int(self.path.rsplit("/", 1)[1])
        if number > len(self.schemas):
            self._answer(404, {"error_code": 40403, "message": "Schema not found"})
        else:
            self._answer(200, {"schema": self.schemas[number - 1]})


@pytest.fixture
def server() -> Iterator[str]:
    handler = type("Handler", (_Confluent,), {"schemas": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


@pytest.fixture(params=["file", "http"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "registry.json") if request.param == "file" else request.getfixturevalue("server")


def test_one_schema_one_number_for_everyone(places: str) -> None:
    first, second = open_registry(places), open_registry(places)
    number = first.register("a-value", MARKET_EVENT)
    assert second.register("a-value", MARKET_EVENT) == number
    assert second.register("b-value", DEAD_LETTER) != number
    assert first.get(number) == MARKET_EVENT


def test_a_reader_decodes_with_the_writers_number(places: str) -> None:
    writer = open_registry(places)
    writer.register("other-value", DEAD_LETTER)
    value = TapeCodec(writer).encode(TICK)
    assert TapeCodec(open_registry(places)).decode(b"*", value) == TICK


def test_an_unknown_number_is_an_error_with_an_action(places: str) -> None:
    with pytest.raises(CheckFailed, match=r"schema id 77 is unknown.*Action: point ONETAPE_REGISTRY"):
        open_registry(places).get(77)


def test_a_server_that_refuses_or_is_gone_is_named(server: str) -> None:
    with pytest.raises(CheckFailed, match="incompatible"):
        HttpRegistry(server).register("a-value", {"type": "record", "name": "Incompatible", "fields": []})
    gone: SchemaRegistry = HttpRegistry("http://127.0.0.1:9", timeout_s=1)
    with pytest.raises(DependencyDown, match="Action: start it, or set ONETAPE_REGISTRY"):
        gone.register("a-value", MARKET_EVENT)


def test_concurrent_writers_get_one_number(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"

    def register(_: int) -> int:
        return FileRegistry(path).register("a-value", MARKET_EVENT)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(register, range(40))) == {1}
    assert len(json.loads(path.read_text())) == 1
