"""Settings: every one has a default, an environment variable ONETAPE_<NAME>, and a bound.

Input: keyword arguments, then the environment, then the defaults.
Errors: UsageError that names the setting, for a value out of bounds, of a wrong type, or a name nobody knows.
Units: _s seconds, otherwise counts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.errors import UsageError
from schemas.feature_sets import DEFAULT

PREFIX: Final = "ONETAPE_"


class Settings(BaseSettings):
    """What can be set. A new field is a new environment variable."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    brokers: str = Field("localhost:9092", description="Kafka brokers, host:port separated by commas")
    broker_is_embedded: bool = Field(False, description="the broker is the embedded one: topics exist already")
    topic_prefix: str = Field(
        "", max_length=64, pattern=r"^[a-zA-Z0-9._-]*$",
        description="put before every topic and consumer group, so that runs on one broker do not meet",
    )  # fmt: skip
    partitions: int = Field(4, ge=1, le=1024, description="partitions of the tape")
    replication: int = Field(1, ge=1, le=16, description="replicas of a topic that is created")
    session_timeout_s: float = Field(
        10.0, ge=1.0, le=90.0, description="a worker silent for so long loses its partitions to the others"
    )

    redis_url: str = Field("redis://localhost:6379/0", description="Redis that serves the latest vectors")
    redis_ttl_s: int = Field(300, ge=1, le=86_400, description="how long a latest vector is served without a newer one")
    redis_hash: str = Field(
        "", description="feature set (NAME@VERSION) whose latest vectors are also readable hashes features:INSTRUMENT"
    )
    ready: Literal["off", "all", "changed"] = Field(
        "all",
        description="which vectors features.ready.v1 tells of once Redis has them: off, all or changed",
    )
    ready_threshold: float = Field(
        0.01, ge=0, le=1, description="with changed: a feature has moved by more than this share of what was told last"
    )

    registry: str = Field(".onetape/schemas.json", min_length=1, description="schema registry: a file or http(s) URL")
    feature_sets: str = Field(
        DEFAULT, min_length=1, description="feature sets the worker computes: NAME@VERSION or .yaml files, by commas"
    )

    data_dir: Path = Field(Path(".onetape"), description="states of this worker; every worker needs one of its own")
    archive_dir: Path = Field(Path(".onetape/archive"), description="the archive")
    archive_flush_s: float = Field(10.0, gt=0, le=3600.0, description="rows are on disk at the latest after so long")
    archive_segment_rows: int = Field(1_000_000, ge=1, le=100_000_000, description="rows of one archive file at most")

    batch_size: int = Field(10_000, ge=1, le=1_000_000, description="records of a batch at most; never changes a bit")
    epoch_s: float = Field(1.0, gt=0, le=60.0, description="how often states are saved and offsets committed")
    table_standby_replicas: int = Field(
        0, ge=0, le=8,
        description="workers beside the owner that keep a copy of each partition's states and can take it over at once",
    )  # fmt: skip

    clock_resume: bool = Field(False, description="lay Ticks into a tape whose last Tick is more than a day old")
    slow_vector_s: float = Field(
        0.070, gt=0, le=3600.0, description="vectors that come so long after their Tick are warned of, once a second"
    )
    web_port: int = Field(0, ge=0, le=65_535, description="port of the worker's web server; 0 is none")
    web_host: str = Field(
        "127.0.0.1", min_length=1, max_length=255, description="address the web server binds; 0.0.0.0 is every one"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("WARNING", description="least severe line to log")

    @field_validator("data_dir", "archive_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()


def load_settings(**chosen: Any) -> Settings:
    """Settings from `chosen`, the environment and the defaults. Errors: UsageError."""
    for name in os.environ:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() not in Settings.model_fields:
            raise UsageError(
                f"{name} is no setting", expected="one of " + ", ".join(map(variable, sorted(Settings.model_fields))),
                was=name, action="correct the name or unset it",
            )  # fmt: skip
    try:
        return Settings(**chosen)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "a setting"
        known = Settings.model_fields.get(name)
        raise UsageError(
            f"{variable(name)} cannot be used: {first['msg']}",
            expected=(known.description if known else None) or "a setting of onetape", was=repr(first.get("input")),
            action=f"correct {variable(name)} or unset it",
        ) from None  # fmt: skip


def variable(name: str) -> str:
    """Environment variable of a setting."""
    return PREFIX + name.upper()


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment with `settings` in it, for a child process."""
    values = {variable(name): str(value) for name, value in settings.model_dump().items()}
    return {**os.environ, **values}
