"""What tests share: a real Kafka, and the real recordings beside the repository.

Errors: where one of them is missing a test skips with one line; with CI=true it fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
from kafka_broker import KafkaBroker, KafkaMissing
from ledger import Ledger
from tcp_proxy import TcpProxy

from app.embedded import free_port

ROOT: Final = Path(__file__).resolve().parent.parent


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap address of a real Apache Kafka: KAFKA_BOOTSTRAP if set, else one started for this session."""
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        yield given
        return
    with _started() as broker:
        yield broker.bootstrap


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    """A real Apache Kafka of the module's own, to be stopped and crashed."""
    with _started() as broker:
        yield broker


LINE: Final = """
listeners=PLAINTEXT://127.0.0.1:{{port}},LINE://127.0.0.1:{line},CONTROLLER://127.0.0.1:{{controller_port}}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},LINE://127.0.0.1:{proxy}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,LINE:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
"""


@pytest.fixture(scope="module")
def line() -> Iterator[tuple[KafkaBroker, TcpProxy]]:
    """The same, and a bad line to it: whoever connects through the proxy stays on it."""
    with ExitStack() as stack:
        proxy = stack.enter_context(TcpProxy(seed=1, target=free_port()))
        yield stack.enter_context(_started(LINE.format(line=proxy.target, proxy=proxy.port))), proxy


@contextmanager
def _started(properties: str = "") -> Iterator[KafkaBroker]:
    broker = KafkaBroker(properties)
    try:
        broker.__enter__()
    except KafkaMissing as missing:
        _missing(str(missing))
    try:
        yield broker
    finally:
        broker.__exit__(None, None, None)


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of the real recordings, `../shared/data`."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        _missing("no real recordings: ../shared/data is not there")
    return folder


TOTAL: Final = pytest.StashKey[Ledger]()


def _add(config: pytest.Config, counted: Ledger) -> None:
    config.stash[TOTAL] = config.stash.get(TOTAL, Ledger()) + counted


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """The counts of one test of a fault. What is counted here is part of the line that ends the session."""
    counted = Ledger()
    yield counted
    _add(request.config, counted)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of several hands its ledger over."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None and TOTAL in session.config.stash:
        output["ledger"] = asdict(session.config.stash[TOTAL])


class Joined:
    """Adds up the ledgers of the processes that tests are spread over."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A process has ended."""
        counted = getattr(node, "workeroutput", {}).get("ledger")
        if counted:
            _add(self._config, Ledger(**counted))


def pytest_configure(config: pytest.Config) -> None:
    """Listen to the other processes, if there are any."""
    config.pluginmanager.register(Joined(config))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The ledger of the whole session."""
    if TOTAL in config.stash:
        terminalreporter.section("ledger of all faults")
        terminalreporter.write_line(config.stash[TOTAL].line())
