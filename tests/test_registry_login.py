"""A schema registry that demands a login over TLS, is in between, or sends too much."""

from __future__ import annotations

import json
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from demanding import Certificates

from app.config import Settings, load_settings
from app.connection import registry_of
from schemas.errors import AccessRefused, DependencyDown
from schemas.limits import REGISTRY_BYTES_MAX

SCHEMA = {"type": "record", "name": "One", "fields": []}
LOGIN = "Basic " + b64encode(b"me:pw-registry").decode()


class Demanding(BaseHTTPRequestHandler):
    """Answers whoever has logged in; 1 is a schema, 2 one too long; of 3 another server knows."""

    elsewhere = ""
    seen: list[str | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers["Authorization"])
        if self.path.endswith("/3"):
            self.send_response(302)
            self.send_header("Location", f"{self.elsewhere}/schemas/ids/1")
            self.end_headers()
            return
        known = self.headers["Authorization"] == LOGIN
        filling = " " * REGISTRY_BYTES_MAX if self.path.endswith("/2") else ""
        body = (json.dumps({"schema": json.dumps(SCHEMA)}) + filling).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests read what was seen."""


@contextmanager
def served(certificates: Certificates) -> Iterator[tuple[str, type[Demanding]]]:
    handler = type("Own", (Demanding,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("registry"))


def settings_of(url: str, ca: Path, password: str = "pw-registry") -> Settings:
    return load_settings(registry=url.replace("://", f"://me:{password}@"), registry_ssl_ca=str(ca))


def test_a_registry_with_a_login_over_tls(certificates: Certificates) -> None:
    with served(certificates) as (url, _):
        assert registry_of(settings_of(url, certificates.ca)).get(1) == SCHEMA
        with pytest.raises(AccessRefused, match=r"refuses the login.*Action: ") as refused:
            registry_of(settings_of(url, certificates.ca, "pw-wrong")).get(1)
        with pytest.raises(DependencyDown, match="CERTIFICATE_VERIFY_FAILED") as untrusted:
            registry_of(settings_of(url, certificates.stranger)).get(1)
        with pytest.raises(DependencyDown, match="an answer of more than"):
            registry_of(settings_of(url, certificates.ca)).get(2)
    assert "pw-" not in f"{refused.value}{untrusted.value}"


def test_a_password_is_not_passed_on_to_another_server(certificates: Certificates) -> None:
    with served(certificates) as (url, handler), served(certificates) as (other, other_handler):
        handler.elsewhere = other
        with pytest.raises(DependencyDown):
            registry_of(settings_of(url, certificates.ca)).get(3)
        assert (handler.seen, other_handler.seen) == ([LOGIN], [None])
