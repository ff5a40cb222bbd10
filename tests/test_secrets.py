"""Secrets: where they may come from, what is refused, and that no text shows them."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
from commandline import onetape

from app.config import PREFIX, Settings, environment, load_settings, unsecured
from app.connection import secret, secrets_of
from app.logs import Lines
from app.masking import MASK, masked
from schemas.errors import UsageError

SECRET = "hunter2!ö/#@: %"
ESCAPED = "hunter2%21%C3%B6%2F%23%40%3A%20%25"
ROOT = Path(__file__).resolve().parent.parent
OWN_IN_BENCH = {"Redis.from_url", "open_registry"}
"""The bench starts its Redis and keeps its schemas itself."""
LOGIN = {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": "worker"}


def test_passwords_leave_their_urls() -> None:
    settings = load_settings(
        redis_url=f"rediss://worker:{ESCAPED}@redis:6380/2", registry=f"https://me:{ESCAPED}@registry:8081/api"
    )
    assert (settings.redis_url, settings.registry) == ("rediss://worker@redis:6380/2", "https://registry:8081/api")
    assert settings.registry_username == "me"
    assert {secret(settings, name) for name in ("redis_password", "registry_password")} == {SECRET}
    again = load_settings(**settings.model_dump())
    assert again == settings
    assert environment(settings)["ONETAPE_REDIS_PASSWORD"] == SECRET


def test_nothing_that_shows_settings_shows_a_secret() -> None:
    settings = load_settings(
        **LOGIN, kafka_sasl_password=SECRET, redis_url=f"redis://:{ESCAPED}@redis", registry_username="me",
        registry="https://registry", registry_password=SECRET,
    )  # fmt: skip
    shown = [repr(settings), str(settings), f"{settings.model_dump()}", settings.model_dump_json()]
    assert not [text for text in shown if "hunter2" in text]


@pytest.mark.fault("operator", "missing secret")
def test_a_secret_can_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    settings = load_settings(**LOGIN, kafka_sasl_password_file=str(file))
    file.write_text(SECRET + "\n", encoding="utf-8")
    assert secret(settings, "kafka_sasl_password") == SECRET
    assert secrets_of(settings) == [SECRET]
    assert SECRET not in environment(settings).values()
    refused = {b"": "empty", b"\n": "empty", b"hunter2\nlines\n": "more than one line", b"\xff\xfe": "binary"}
    for content, was in {**refused, b"x" * 5000: "long"}.items():
        file.write_bytes(content)
        with pytest.raises(UsageError, match=rf"_PASSWORD_FILE cannot be used.*{was}.*Action: ") as raised:
            secret(settings, "kafka_sasl_password")
        assert "hunter2" not in str(raised.value)
    file.unlink()
    with pytest.raises(UsageError, match="No such file"):
        secret(settings, "kafka_sasl_password")
    os.mkfifo(file)  # nobody writes to it: it would be waited for
    with pytest.raises(UsageError, match="no regular file"):
        secret(settings, "kafka_sasl_password")


def test_a_file_of_a_secret_that_is_set_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ONETAPE_REDIS_PASSWORD_FILE"
    assert name not in environment(load_settings())
    monkeypatch.setenv(name, "")
    with pytest.raises(UsageError, match=f"{name} is empty.*Action: set {name}"):
        load_settings()
    assert name not in environment(load_settings(**unsecured("redis")))


@pytest.mark.parametrize("url", ["redis://u:hunter2 pw@h/0", "u:hunter2@h", "redis://h?password=hunter2"])
def test_a_login_in_the_wrong_setting_is_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match=r"ONETAPE_REDIS_TTL_S cannot be used.*not shown.*Action: ") as refused:
        load_settings(redis_ttl_s=url)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(UsageError, match="'much'"):
        load_settings(redis_ttl_s="much")


@pytest.mark.parametrize("url", ["https://u:hunter2@x/y.gz", "https://u:hun/ter2 p@x/y.gz"])
def test_a_url_that_was_taken_for_a_path_is_masked(url: str) -> None:
    done = onetape("import", url, "--format", "binance-usdm", "--archive", "a", "--json")
    assert done.returncode == 2
    assert "***@x/y.gz" in done.stderr
    assert "ter2" not in done.stderr + done.stdout


@pytest.mark.parametrize("taken", ["hunter2", "hunter2/of=mine", "~hunter2", "/hunter2", "hunter2\0", "hunter2" * 100])
def test_a_secret_that_was_taken_for_its_file_is_not_shown(tmp_path: Path, taken: str) -> None:
    with pytest.raises(UsageError, match=r"KAFKA_SASL_PASSWORD_FILE cannot be used.*not shown.*Action: ") as refused:
        secret(load_settings(**LOGIN, kafka_sasl_password_file=taken), "kafka_sasl_password")
    assert "hunter2" not in str(refused.value)
    for place in (tmp_path, tmp_path / "not-there"):
        with pytest.raises(UsageError, match=f"at {place},"):
            secret(load_settings(**LOGIN, kafka_sasl_password_file=str(place)), "kafka_sasl_password")


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        ({"kafka_sasl_username": "worker"}, "KAFKA_SASL_USERNAME"),
        ({"kafka_sasl_password": SECRET}, "KAFKA_SASL_PASSWORD"),
        ({"kafka_security_protocol": "SASL_SSL"}, "KAFKA_SASL_USERNAME"),
        (LOGIN, "KAFKA_SASL_PASSWORD"),
        ({**LOGIN, "kafka_sasl_password": SECRET, "kafka_sasl_password_file": "f"}, "KAFKA_SASL_PASSWORD_FILE"),
        ({"kafka_security_protocol": "TLS"}, "KAFKA_SECURITY_PROTOCOL"),
        ({**LOGIN, "kafka_sasl_password": SECRET, "kafka_sasl_mechanism": "GSSAPI"}, "KAFKA_SASL_MECHANISM"),
        ({"kafka_ssl_ca": "ca.pem"}, "KAFKA_SSL_CA"),
        ({"kafka_security_protocol": "SSL", "kafka_ssl_cert": "cert.pem"}, "KAFKA_SSL_CERT"),
        ({"kafka_security_protocol": "SSL", "kafka_ssl_key": "key.pem"}, "KAFKA_SSL_KEY"),
        ({"brokers": f"worker:{SECRET}@kafka:9092"}, "BROKERS"),
        ({"redis_url": f"redis://:{ESCAPED}@redis", "redis_password": SECRET}, "REDIS_PASSWORD"),
        ({"redis_url": "redis://redis", "redis_ssl_ca": "ca.pem"}, "REDIS_SSL_CA"),
        ({"redis_url": f"redis://redis?password={ESCAPED}"}, "REDIS_URL"),
        ({"redis_url": "rediss://redis?ssl_cert_reqs=none"}, "REDIS_URL"),
        ({"redis_url": "redis://:hunter2/x@redis"}, "REDIS_URL"),
        ({"redis_url": "redis://me:12/hunter2@redis"}, "REDIS_URL"),
        ({"redis_url": "redis://:hunter2#x@redis"}, "REDIS_URL"),
        ({"redis_url": "redis://me:12?hunter2@redis"}, "REDIS_URL"),
        ({"redis_url": ":hunter2@redis"}, "REDIS_URL"),
        ({"redis_url": "http://:hunter2@redis"}, "REDIS_URL"),
        ({"registry": f"http://me:{ESCAPED}@registry", "registry_password": SECRET}, "REGISTRY_PASSWORD"),
        ({"registry": "http://registry", "registry_username": "me"}, "REGISTRY_PASSWORD"),
        ({"registry": "http://registry", "registry_password": SECRET}, "REGISTRY_USERNAME"),
        ({"registry": "http://registry", "registry_ssl_ca": "ca.pem"}, "REGISTRY_SSL_CA"),
        ({"registry": "ftp://me:hunter2@registry"}, "REGISTRY"),
        ({"registry_password": [SECRET]}, "REGISTRY_PASSWORD"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_named_and_not_shown(chosen: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=rf"{PREFIX}{named} .*Action: ") as refused:
        load_settings(**chosen)
    assert "hunter2" not in str(refused.value)


def test_servers_of_our_own_demand_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**LOGIN, "kafka_sasl_password": SECRET, "redis_password": SECRET}.items():
        monkeypatch.setenv(PREFIX + name.upper(), value)
    plain = load_settings(**unsecured("kafka", "redis", "registry"), redis_url="redis://127.0.0.1:1/0")
    assert not secrets_of(plain)
    assert plain.kafka_security_protocol == "PLAINTEXT"
    every = {name for name in Settings.model_fields if "ssl" in name or "sasl" in name or "password" in name}
    assert every < unsecured("kafka", "redis", "registry").keys()


def test_logs_hide_secrets_in_every_form() -> None:
    words = f"{SECRET} {SECRET!r} {SECRET!a} {SECRET.encode()!r} {ESCAPED} rest"
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "%s", "args": (words,), "exc_info": (ValueError, error, None)})
    line = Lines([SECRET]).format(record)
    assert "hunter2" not in line
    assert "rest" in line


def test_logs_hide_a_secret_that_begins_with_another() -> None:
    secrets = ["pass", "passw0rd-hunter2", "two'\nlines\t\"\x7fö"]
    for text in ("passw0rd-hunter2", json.dumps(secrets[2]), json.dumps(secrets[2], ensure_ascii=False), secrets[2]):
        line = Lines(secrets).format(logging.makeLogRecord({"msg": "%s", "args": (text,)}))
        assert line.rpartition(": ")[2].strip('"') == MASK, line


def test_a_command_line_that_is_repeated_shows_no_password() -> None:
    assert masked("--redis=redis://:a@b/c d'e\n@host:1/0") == "--redis=redis://***@host:1/0"
    assert masked("https:/u:hunter2@x/y.gz") == "https:/***@x/y.gz"
    assert [masked(word) for word in ("x@y", "redis://h?password=a")] == ["x@y", "redis://h?***"]
    for url in (f"redis://:{SECRET}@127.0.0.1:1/0", "redis://u:hun'ter2 \"hunter2\udcff@h"):
        for words in (
            ("--redis", url, "--nosuch"),
            (url,),
            (f"--redis={url}", "--batch-size=x"),
            (f"--batch-size={url}",),
        ):
            assert "ter2" not in told_of(*words), words


def told_of(*words: str) -> str:
    """What a demo with a wrong command line says."""
    done = onetape("demo", *words)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


@pytest.mark.fault("operator", "missing secret")
def test_a_missing_secret_refuses_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LOGIN.items():
        monkeypatch.setenv(PREFIX + name.upper(), value)
    done = onetape("worker")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("onetape: ONETAPE_KAFKA_SASL_PASSWORD does not go with")
    assert done.stderr.count("\n") == 1


def test_every_client_connects_as_the_settings_say() -> None:
    """Nothing but app/connection.py knows an address; the bench's rivals and what we start ourselves demand nothing."""
    app, plain = ROOT / "app", {"connection.py", "embedded.py", "embedded_broker.py"}
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in app.rglob("*.py")
        if path.name not in plain and "rivals" not in path.parts
        for name in ("bootstrap.servers", "bootstrap_servers", "Redis.from_url", "HttpRegistry", "open_registry")
        if name in path.read_text(encoding="utf-8") and not ("bench" in path.parts and name in OWN_IN_BENCH)
    ]
    assert not found, "Remedy: take the options from app/connection.py"
