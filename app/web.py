"""The worker's web server: Faust's own, with its views of every role, and `/metrics`, `/health` and `/ready` for all.

Input: the worker's roles.
Output: one server on `web_host`:`web_port`. Faust's views of the first role are at `/` (statistics), `/assignment/`,
    `/router/`, `/table/` and `/performance/`; those of any other role are below its name, as `/archive/assignment/`.
    Without such a role: `/metrics` alone.
Errors: OSError from the start of the first role's app when the address cannot be used.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, cast

from aiohttp.web import Application, AppRunner, Request, Response, Server, TCPSite
from aiohttp.web_protocol import RequestHandler
from faust import web
from faust.exceptions import SameNode
from faust.web.drivers.aiohttp import Web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from yarl import URL

from agents.bind import STATE_TABLE
from app.config import Settings
from app.metrics import REGISTRY
from app.roles.role import READY, Role
from schemas.errors import UsageError
from tables.store import unpack

CONNECTIONS_MAX: Final = 256
"""Open at once. Each takes a file descriptor, of which RocksDB and the brokers' connections need some."""
LEAVE_S: Final = 1.0
"""How long a stop waits for a response under way; whoever reads it may never come to its end."""


class FewConnections(Server):
    """A server with at most CONNECTIONS_MAX connections: one more ends the oldest, so that who comes is answered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._open: dict[RequestHandler, asyncio.Transport] = {}

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """See `aiohttp.web.Server`."""
        super().connection_made(handler, transport)
        self._open[handler] = transport
        if len(self._open) > CONNECTIONS_MAX:
            self._open.pop(next(iter(self._open))).abort()  # what it has not read yet would keep it open

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """See `aiohttp.web.Server`."""
        self._open.pop(handler, None)
        super().connection_lost(handler, exc)


class Runner(AppRunner):
    """Runs an application on a server of few connections."""

    def __init__(self, app: Application) -> None:
        super().__init__(app, access_log=None, shutdown_timeout=LEAVE_S)

    async def _make_server(self) -> Server:
        made = await super()._make_server()
        return FewConnections(made.request_handler, request_factory=made.request_factory, access_log=None)


async def serve_web(settings: Settings, roles: Sequence[Role], stack: AsyncExitStack) -> None:
    """Put the server into the first role's app, which is not started yet. Without roles, serve the metrics alone.

    Errors: UsageError where there are no roles and the address cannot be used.
    """
    if not roles:
        await _serve_metrics(settings, stack)
        return
    first, *others = roles
    for role in roles:
        conf = role.app.conf
        conf.web_bind, conf.web_port, conf.canonical_url = settings.web_host, settings.web_port, _canonical(settings)
    first.app.conf.web_enabled = True
    _driver(first)._runner = Runner(_driver(first).web_app)  # Faust's own takes as many connections as come
    _add_views(first, roles)
    for role in others:
        driver = _driver(role)
        driver.init_server()
        _driver(first).web_app.add_subapp(f"/{role.name}/", driver.web_app)


def address_refused(settings: Settings, error: OSError) -> UsageError:
    """The machine's refusal of the address, as an error for people."""
    return UsageError(
        f"the web server cannot have port {settings.web_port} of {settings.web_host}",
        expected="an address of this machine and a port that is free", was=str(error.strerror),
        action="set ONETAPE_WEB_PORT (0 is no web server) or ONETAPE_WEB_HOST",
    )  # fmt: skip


async def _serve_metrics(settings: Settings, stack: AsyncExitStack) -> None:
    """For a worker without a Faust app."""

    async def metrics(request: Request) -> Response:
        return Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = Application()
    application.router.add_get("/metrics", metrics)
    runner = Runner(application)
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    try:
        await TCPSite(runner, settings.web_host, settings.web_port).start()
    except OSError as error:
        raise address_refused(settings, error) from error


def _canonical(settings: Settings) -> URL:
    """Where other workers of the group find this one: Faust's router names it for each key."""
    is_every_address = settings.web_host in ("0.0.0.0", "::")
    return URL.build(
        scheme="http", host=socket.gethostname() if is_every_address else settings.web_host, port=settings.web_port
    )


def _driver(role: Role) -> Web:
    driver = role.app.web
    assert isinstance(driver, Web)
    return driver


async def _state(view: web.View, request: web.Request, key: str) -> web.Response:
    """What is stored of one instrument, without the packed bytes themselves; asks the worker that has it."""
    try:
        return await view.app.router.route_req(STATE_TABLE, key, view.web, request)
    except SameNode:
        pass
    table: object = view.app.tables[STATE_TABLE]  # indexed as any table, which Faust's type hint does not know
    try:
        saved_through, blob = unpack(cast(Mapping[bytes, bytes], table)[key.encode()])
    except KeyError:
        raise view.NotFound("no state of this instrument", key=key) from None
    return view.json({"instrument": key, "saved_through": saved_through, "bytes": len(blob)})


def _add_views(first: Role, roles: Sequence[Role]) -> None:
    async def metrics(view: web.View, request: web.Request) -> web.Response:
        """Every metric of this process, in Prometheus's text format."""
        return view.bytes(generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(view: web.View, request: web.Request) -> web.Response:
        """The process lives and its loop runs; a fault would have ended it."""
        return view.json({"status": "ok"})

    async def ready(view: web.View, request: web.Request) -> web.Response:
        """Whether every role handles its partitions, and what it does if not."""
        states = {role.name: {"state": role.state(), "partitions": role.partitions()} for role in roles}
        is_ready = all(state["state"] == READY for state in states.values())
        return view.json({"ready": is_ready, "roles": states}, status=200 if is_ready else 503)

    for path, handler in (("/metrics", metrics), ("/health", health), ("/ready", ready)):
        first.app.page(path)(handler)
    if STATE_TABLE in first.app.tables:
        first.app.page(f"/table/{STATE_TABLE}/{{key}}/")(_state)  # in place of Faust's, which would send the bytes
