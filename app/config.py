"""Settings: every one has a default, an environment variable ONETAPE_<NAME>, and a bound.

Input: keyword arguments, then the environment, then the defaults.
State: passwords, as secrets that no text shows: one that comes in a URL is taken out of it.
Errors: UsageError that names the setting, for a value out of bounds, of a wrong type, a name nobody knows, or settings
    that do not go together.
Units: _s seconds, otherwise counts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.masking import split_url
from schemas.errors import UsageError
from schemas.feature_sets import DEFAULT

PREFIX: Final = "ONETAPE_"
SECRETS: Final = ("kafka_sasl_password", "redis_password", "registry_password")
"""Each can also be the content of a file, which the setting of this name and `_file` names."""
URLS: Final = {"redis_url": "redis", "registry": "registry"}
"""Settings that may be a URL, and whose login it may hold."""
_UNSHOWN: Final = {*SECRETS, *URLS}


class Settings(BaseSettings):
    """What can be set. A new field is a new environment variable."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    brokers: str = Field("localhost:9092", description="Kafka brokers, host:port separated by commas")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how the brokers are spoken to: TLS with SSL, a login with SASL"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="how the login is made"
    )
    kafka_sasl_username: str = Field("", max_length=255, description="user of the brokers")
    kafka_sasl_password: SecretStr = Field(SecretStr(""), description="its password")
    kafka_sasl_password_file: str = Field("", description="file that holds that password instead")
    kafka_ssl_ca: str = Field("", description="PEM file of the CAs that sign brokers; empty: those of the system")
    kafka_ssl_cert: str = Field("", description="PEM file of our certificate, where the brokers demand one")
    kafka_ssl_key: str = Field("", description="PEM file of its key, without a passphrase")
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

    redis_url: str = Field(
        "redis://localhost:6379/0", description="Redis that serves the latest vectors; rediss:// is with TLS"
    )
    redis_password: SecretStr = Field(SecretStr(""), description="its password, where the URL has none")
    redis_password_file: str = Field("", description="file that holds that password instead")
    redis_ssl_ca: str = Field("", description="PEM file of the CAs that sign Redis; empty: those of the system")
    redis_ssl_cert: str = Field("", description="PEM file of our certificate, where Redis demands one")
    redis_ssl_key: str = Field("", description="PEM file of its key, without a passphrase")
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
    registry_username: str = Field("", max_length=255, description="user of the registry server, if not in its URL")
    registry_password: SecretStr = Field(SecretStr(""), description="its password, where the URL has none")
    registry_password_file: str = Field("", description="file that holds that password instead")
    registry_ssl_ca: str = Field("", description="PEM file of the CAs that sign it; empty: those of the system")
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

    @model_validator(mode="before")
    @classmethod
    def _take_out_logins(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Passwords that come in URLs, where they belong."""
        for name, owner in URLS.items():
            url = values.get(name)
            if isinstance(url, str) and ("://" in url or (url and owner == "redis")):
                values[name], user, password = split_url(variable(name), url, owner)
                if owner == "registry" and user:
                    values["registry_username"] = user
                elif user:
                    values[name] = values[name].replace("://", f"://{quote(user, safe='')}@", 1)
                if password:
                    if values.get(f"{owner}_password"):
                        raise _clash(f"{owner}_password", f"a password in {variable(name)} as well")
                    values[f"{owner}_password"] = SecretStr(password)
        return values

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if "@" in self.brokers:
            raise _clash("brokers", "a login in it", "host:port, separated by commas", "kafka_sasl_username")
        for name in SECRETS:
            if getattr(self, name).get_secret_value() and getattr(self, f"{name}_file"):
                raise _clash(f"{name}_file", f"{variable(name)} as well")
        has_login, has_tls = "SASL" in self.kafka_security_protocol, "SSL" in self.kafka_security_protocol
        self._check_login("kafka_sasl", has_login, f"with {variable('kafka_security_protocol')} of SASL_SSL")
        self._check_tls("kafka", has_tls, f"with {variable('kafka_security_protocol')} of SSL or SASL_SSL")
        self._check_tls("redis", self.redis_url.startswith("rediss://"), f"with a rediss:// {variable('redis_url')}")
        is_server, is_secure = self.registry.startswith(("http://", "https://")), self.registry.startswith("https://")
        if self.has_secret("registry_password") or self.registry_username:
            self._check_login("registry", is_server, f"with a URL in {variable('registry')}")
        self._check_tls("registry", is_secure, f"with an https:// {variable('registry')}")
        return self

    def has_secret(self, name: str) -> bool:
        """Whether the secret of this name is set, in whichever way."""
        return bool(getattr(self, name).get_secret_value() or getattr(self, f"{name}_file"))

    def _check_login(self, owner: str, is_wanted: bool, where: str) -> None:
        """A login is whole, and one that would not be used is not thought to be."""
        user, secret = f"{owner}_username", f"{owner}_password"
        has_user, has_secret = bool(getattr(self, user)), self.has_secret(secret)
        if is_wanted and not has_user:
            raise _clash(user, "no user", "a user and a password")
        if is_wanted and not has_secret:
            raise _clash(secret, "no password", "a user and a password")
        if not is_wanted and (has_user or has_secret):
            raise _clash(user if has_user else secret, "one that would not be used", f"a login only {where}")

    def _check_tls(self, owner: str, is_wanted: bool, where: str) -> None:
        files = [name for name in (f"{owner}_ssl_{part}" for part in ("ca", "cert", "key")) if getattr(self, name, "")]
        if files and not is_wanted:
            raise _clash(files[0], "one that would not be used", f"certificates only {where}")
        if len({f"{owner}_ssl_cert", f"{owner}_ssl_key"} & set(files)) == 1:
            raise _clash(files[-1], "one of the two", "a certificate and its key, or neither")


def load_settings(**chosen: Any) -> Settings:
    """Settings from `chosen`, the environment and the defaults. Errors: UsageError."""
    for name in os.environ:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() not in Settings.model_fields:
            raise UsageError(
                f"{name} is no setting", expected="one of " + ", ".join(map(variable, sorted(Settings.model_fields))),
                was=name, action="correct the name or unset it",
            )  # fmt: skip
    for name in (f"{secret}_file" for secret in SECRETS):
        if os.environ.get(variable(name)) == "" and name not in chosen:
            raise UsageError(
                f"{variable(name)} is empty", expected="a file that holds the secret", was="no name of a file",
                action=f"set {variable(name)} to its path or unset it",
            )  # fmt: skip
    try:
        return Settings(**chosen)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "a setting"
        known, value = Settings.model_fields.get(name), repr(first.get("input"))
        raise UsageError(
            f"{variable(name)} cannot be used: {first['msg']}",
            expected=(known.description if known else None) or "a setting of onetape",
            was="a value that is not shown" if name in _UNSHOWN or _is_like_a_login(value) else value,
            action=f"correct {variable(name)} or unset it",
        ) from None  # fmt: skip


def _is_like_a_login(value: str) -> bool:
    """Whether a value, most likely of another setting, may hold a password."""
    return "@" in value or "://" in value


def _clash(name: str, was: str, expected: str = "one of the two", other: str | None = None) -> UsageError:
    """Settings that do not go together; `was` must not be a secret."""
    return UsageError(
        f"{variable(name)} does not go with the other settings", expected=expected, was=was,
        action=f"correct {variable(name)}" + (f" and set {variable(other)}" if other else " or what it belongs to"),
    )  # fmt: skip


def variable(name: str) -> str:
    """Environment variable of a setting."""
    return PREFIX + name.upper()


def unsecured(*owners: str) -> dict[str, Any]:
    """Settings of a "kafka", "redis" or "registry" of our own, which demands nothing, whatever the environment says."""
    parts = ("security", "sasl", "ssl", "username", "password")
    begins = tuple(f"{owner}_{part}" for owner in owners for part in parts)
    return {name: field.default for name, field in Settings.model_fields.items() if name.startswith(begins)}


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment with `settings` in it, for a child process; the only place a secret is written out."""
    values = {variable(name): _written(value) for name, value in settings.model_dump().items()}
    no_files = {variable(f"{name}_file") for name in SECRETS if not getattr(settings, f"{name}_file")}
    return {name: value for name, value in {**os.environ, **values}.items() if name not in no_files}


def _written(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
