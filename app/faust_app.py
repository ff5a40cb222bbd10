"""The roles as Faust applications, for the `faust` program: `faust -A app.faust_app agents`, `tables`, `worker`.

`app` is the features role; `-A app.faust_app:latest` and `:archive` are the others. They are set by the environment as
`onetape worker` is, and nothing is opened until a worker starts: what runs then is that very worker with one role.

Input: settings.
Errors: those of the settings and of the worker end the program with one line and their exit code.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Final, NoReturn

import faust
from faust.types._env import WEB_PORT

from agents.bind import bind, state_table
from agents.lanes import Epoch, Lane, Lanes
from app.config import Settings, load_settings
from app.report import Report
from app.roles.role import PURPOSES, make_app
from app.topics import groups, sources
from app.worker import run_worker
from schemas.errors import OnetapeError

LOG_LEVELS: Final = {"CRIT": "ERROR", "WARN": "WARNING"}


class Worker(faust.Worker):
    """`faust worker`: runs the role in `app.worker`, with its topics, its lock and its clean stop."""

    def execute_from_commandline(self) -> NoReturn:
        """Run until a signal."""
        conf, level = self.app.conf, str(self.loglevel or "WARN").upper()
        chosen: dict[str, Any] = {"web_port": 0}
        if conf.web_enabled:
            chosen = {"web_port": conf.web_port, "web_host": conf.web_bind}
        try:
            settings = load_settings(log_level=LOG_LEVELS.get(level, level), **chosen)
            raise SystemExit(run_worker(settings, [role_of[self.app.conf.id]]))
        except OnetapeError as error:
            _leave(error)


class Topics(faust.Topic):
    """A channel of several topics that has a name, for `faust agents` asks for one."""

    def get_topic_name(self) -> str:
        """All of them."""
        return ", ".join(self.topics)


def _leave(error: OnetapeError) -> NoReturn:
    Report(as_json=False).error(error)
    sys.exit(error.exit_code)


async def _unfed(lane: Lane) -> None:
    """Lanes of an application that is only looked at get no batches."""


def _application(settings: Settings, role: str) -> faust.App:
    """What the role is to Faust: its id, its agent, its table."""
    app = make_app(settings, role, groups(settings)[role])
    conf = app.conf
    conf.Worker, conf.Topic = Worker, Topics  # type: ignore[assignment]  # settings that Faust's hints take for types
    conf.web_bind, conf.web_port = settings.web_host, settings.web_port or WEB_PORT
    if role == "features":
        state_table(app, settings.partitions)
    lanes = Lanes(_unfed, Epoch(settings.epoch_s, 1, time.monotonic), _leave_unfed)
    bind(app, role, sources(settings, role), lanes, PURPOSES[role])
    return app


def _leave_unfed(error: BaseException) -> NoReturn:
    raise error


try:
    _settings = load_settings()
    app, latest, archive = (_application(_settings, role) for role in ("features", "latest", "archive"))
except OnetapeError as error:
    _leave(error)
role_of: Final = {each.conf.id: role for role, each in (("features", app), ("latest", latest), ("archive", archive))}
