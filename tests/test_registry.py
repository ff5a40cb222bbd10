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
from schemas.columns import to_events
from schemas.errors import CheckFailed, DependencyDown, SchemaUnknown
from schemas.events import DEAD_LETTER, MARKET_EVENT, Event, Kind
from schemas.limits import UNKNOWN_LOOKUPS_MAX
from schemas.registry import FileRegistry, HttpRegistry, SchemaRegistry, open_registry
from schemas.topics import TAPE
from schemas.wire import Wire

TICK = Event("*", 10**18, 10**18, Kind.TICK, {"time": 10**18})


class _Confluent(BaseHTTPRequestHandler):
    """The two calls of the Confluent API that a producer and a consumer make."""

    schemas: list[str]
    asked: list[str]
    failing: list[tuple[int, dict[str, Any]]]
    """Answers to give before any other."""

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test output clean."""

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _fails(self) -> bool:
        self.asked.append(self.path)
        if self.failing:
            self._answer(*self.failing.pop(0))
            return True
        return False

    def do_POST(self) -> None:
        if self._fails():
            return
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["schema"]
        if json.loads(asked).get("name") == "Incompatible":
            self._answer(409, {"error_code": 409, "message": "incompatible"})
            return
        if asked not in self.schemas:
            self.schemas.append(asked)
        self._answer(200, {"id": self.schemas.index(asked) + 1})

    def do_GET(self) -> None:
        if self._fails():
            return
        number = int(self.path.rsplit("/", 1)[1])
        if number > len(self.schemas):
            self._answer(404, {"error_code": 40403, "message": "Schema not found"})
        else:
            self._answer(200, {"schema": self.schemas[number - 1]})


@pytest.fixture
def confluent() -> Iterator[tuple[str, type[_Confluent]]]:
    handler = type("Handler", (_Confluent,), {"schemas": [], "asked": [], "failing": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}", handler
        http.shutdown()


@pytest.fixture
def server(confluent: tuple[str, type[_Confluent]]) -> str:
    return confluent[0]


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


UNAVAILABLE = (503, {"error_code": 50301, "message": "later"})


def test_a_server_that_is_busy_refuses_no_record(confluent: tuple[str, type[_Confluent]]) -> None:
    url, handler = confluent
    writer = HttpRegistry(url)
    other = Wire(writer, f"{TAPE}-value", MARKET_EVENT | {"doc": "an older version"})
    value = other.encode({"ts_event": 10**18, "ts_recv": 10**18, "body": ("onetape.Tick", {"time": 10**18})})
    codec = TapeCodec(HttpRegistry(url))
    for answer in (UNAVAILABLE, (500, {}), (401, {}), (200, {"no": "schema"}), (200, {"schema": "{"})):
        handler.failing = [answer]
        with pytest.raises(DependencyDown, match=r"schema registry (does not answer|refuses the login)"):
            codec.decode_batch(TAPE, 0, [1], [b"*"], [value])
    columns, refused = codec.decode_batch(TAPE, 0, [1], [b"*"], [value])
    assert (refused, to_events(columns)) == ([], [TICK])


def test_a_server_that_is_busy_refuses_no_schema(confluent: tuple[str, type[_Confluent]]) -> None:
    url, handler = confluent
    registry = HttpRegistry(url)
    for status in (503, 500, 404, 401):
        handler.failing = [(status, {})]
        with pytest.raises(DependencyDown, match=f"HTTP {status}"):
            registry.register("a-value", MARKET_EVENT)
    for status in (409, 422):
        handler.failing = [(status, {"message": "incompatible"})]
        with pytest.raises(CheckFailed, match="incompatible"):
            registry.register("a-value", MARKET_EVENT)
    assert registry.register("a-value", MARKET_EVENT) == 1


@pytest.mark.fault("bytes", "a schema id that nobody knows")
def test_poison_costs_few_requests_and_a_later_schema_is_found(confluent: tuple[str, type[_Confluent]]) -> None:
    url, handler = confluent
    registry = HttpRegistry(url)
    for _ in range(UNKNOWN_LOOKUPS_MAX * 10):
        with pytest.raises(SchemaUnknown):
            registry.get(1)
    assert len(handler.asked) <= 11
    registry.register("a-value", MARKET_EVENT)
    refused = 0
    while True:
        try:
            assert registry.get(1) == MARKET_EVENT
            break
        except SchemaUnknown:
            refused += 1
    assert refused < UNKNOWN_LOOKUPS_MAX
    for schema_id in range(2, 5 * UNKNOWN_LOOKUPS_MAX):
        with pytest.raises(SchemaUnknown):
            registry.get(schema_id)
    assert len(registry._unknown) <= UNKNOWN_LOOKUPS_MAX


@pytest.mark.parametrize("answer", [{"schemaType": "PROTOBUF", "schema": "syntax"}, {"schema": '{"type": "no-type"}'}])
def test_a_schema_that_is_not_ours_is_one_refusal(
    confluent: tuple[str, type[_Confluent]], answer: dict[str, str]
) -> None:
    url, handler = confluent
    codec = TapeCodec(HttpRegistry(url))
    handler.failing = [(200, answer)]
    _, refused = codec.decode_batch(TAPE, 0, [1], [b"*"], [b"\x00\x00\x00\x00\x63abc"])
    assert [letter.reason for letter in refused] == ["unknown-schema"]


@pytest.mark.parametrize("content", [b"", b"[{", b"{}", b"[1]", b'[{"id": 1}]', b"\xff\xfe", b"[" * 100_000])
def test_a_torn_file_is_named_and_refuses_no_record(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "schemas.json"
    registry = FileRegistry(path)
    codec = TapeCodec(registry)
    path.write_bytes(content)
    for ask in (lambda: registry.register("a-value", DEAD_LETTER), lambda: FileRegistry(path).get(1)):
        with pytest.raises(CheckFailed, match=r"schemas\.json is torn.*Action: restore") as torn:
            ask()
        assert not isinstance(torn.value, SchemaUnknown)
    with pytest.raises(CheckFailed, match="torn"):
        codec.decode_batch(TAPE, 0, [1], [b"*"], [b"\x00\x00\x00\x00\x63abc"])


def test_a_path_that_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "schemas.json", tmp_path, Path("/proc/onetape/schemas.json")):
        with pytest.raises(DependencyDown, match=r"cannot (read|write).*Action: check its folder"):
            FileRegistry(path).register("a-value", MARKET_EVENT)


def test_a_file_is_read_again_when_another_process_has_changed_it(tmp_path: Path) -> None:
    reader, writer = (FileRegistry(tmp_path / "schemas.json") for _ in range(2))
    with pytest.raises(SchemaUnknown):
        reader.get(1)
    writer.register("a-value", MARKET_EVENT)
    assert reader.get(1) == MARKET_EVENT
    writer.register("b-value", DEAD_LETTER)
    assert reader.get(2) == DEAD_LETTER


def test_concurrent_writers_get_one_number(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"

    def register(_: int) -> int:
        return FileRegistry(path).register("a-value", MARKET_EVENT)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(register, range(40))) == {1}
    assert len(json.loads(path.read_text())) == 1
