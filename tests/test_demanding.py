"""Servers that demand TLS, a login and rights: every role works there with the least rights, and refusals are told."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import live_worker as run
import pytest
import redis
import tapes
from demanding import BOSS, Certificates, SecureBroker, rights, secure_redis

from app.config import Settings, environment, load_settings, unsecured
from app.embedded import free_port
from app.producer import Producer
from app.redis_frames import latest_key
from app.redis_latest import RedisSilent, asked, check_redis
from app.rights import check_rights, needed
from app.topics import ensure_topics, refuse_live_clock, tape_origin
from replay.parity import parity_of
from replay.reader import ArchiveReader
from schemas.codec import TapeCodec
from schemas.errors import AccessRefused, DependencyDown, OnetapeError, UsageError
from schemas.feature_sets import load_all
from schemas.registry import open_registry
from schemas.topics import CLOCK_KEY, TAPE
from schemas.units import BASE_TICK_NS

REDIS_PASSWORD = "pw-redis-7c01b7d5"
WAIT_S = 60.0
EVENTS = 1_500
ROLES = {"maker": "features", "server": "latest", "keeper": "archive", "clock": "clock"}
VIEWS = ("metrics", "health", "ready", "", "assignment/", "router/", "table/", "performance/")


@dataclass(frozen=True)
class Place:
    broker: SecureBroker
    certificates: Certificates
    redis_url: str
    plain_redis_url: str
    folder: Path

    def settings(self, user: str, **chosen: Any) -> Settings:
        """Of a user, with everything it has to say to be let in."""
        secured = {"redis_url": self.redis_url, "redis_ssl_ca": str(self.certificates.ca)}
        password = self.folder / "redis-password"
        password.write_text(REDIS_PASSWORD + "\n")
        return load_settings(**{
            **self.broker.login(user), **secured, "redis_password_file": str(password), "partitions": 2,
            "registry": str(self.folder / "schemas.json"), "data_dir": self.folder / user, "epoch_s": 0.2,
            "archive_dir": self.folder / "archive", "archive_flush_s": 0.5, "session_timeout_s": 3.0,
            "topic_prefix": "d.", "log_level": "DEBUG", **chosen,
        })  # fmt: skip

    def seen(self, settings: Settings) -> Settings:
        """The same for the test itself, which everything is allowed."""
        return settings.model_copy(update={**unsecured("kafka"), "brokers": self.broker.bootstrap})

    def shown_in(self, text: str) -> list[str]:
        """Secrets that a text shows."""
        return [word for word in (*self.broker.passwords.values(), REDIS_PASSWORD) if word in text]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: str) -> Iterator[Place]:
    """`kafka` says whether there can be one."""
    folder = tmp_path_factory.mktemp("demanding")
    certificates = Certificates(folder)
    with SecureBroker(certificates) as broker, secure_redis(certificates, REDIS_PASSWORD) as (url, plain):
        yield Place(broker, certificates, url, plain, folder)


def wait(worker: run.Worker, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        worker.alive()
        assert time.monotonic() < deadline, worker.words()[-3000:]
        time.sleep(0.1)


def imported(place: Place) -> list[run.Raw]:
    """A small market, published by one who may only do that."""
    importer = place.settings("importer")
    place.broker.allow("importer", "importer", importer.topic_prefix)
    ensure_topics(importer)
    refuse_live_clock(importer)
    raw = run.raw_tape(tapes.tape(tapes.market(3, EVENTS), importer.partitions), importer)
    run.publish(importer, raw)
    return raw


def work(place: Place, made: dict[str, Settings], raw: list[run.Raw]) -> str:
    """Each role as a user of its own until all is done; what their web server and command lines show."""
    seen, ends = place.seen(made["maker"]), [len(messages) for messages in raw]
    (feature_set,) = load_all(seen.feature_sets)
    with ExitStack() as stack:
        workers = {user: stack.enter_context(run.Worker(made[user], [role])) for user, role in ROLES.items()}
        run.wait_committed(seen, workers["maker"], ends)
        shown = [Path(f"/proc/{worker.process.pid}/cmdline").read_text() for worker in workers.values()]
        for view in VIEWS:
            with urlopen(f"http://127.0.0.1:{seen.web_port}/{view}", timeout=10) as answer:
                shown.append(answer.read().decode())
        vectors = [len(run.read_topic(seen, feature_set.topic, partition)) for partition in range(seen.partitions)]
        run.wait_committed(seen, workers["keeper"], ends, role="archive")
        run.wait_committed(seen, workers["keeper"], vectors, feature_set.topic, "archive")
        run.wait_committed(seen, workers["server"], vectors, feature_set.topic, "latest")
        wait(workers["clock"], lambda: len(run.read_topic(place.seen(made["clock"]), TAPE, 1)) > 1)
        for worker in workers.values():
            worker.process.send_signal(signal.SIGTERM)
        assert [worker.process.wait(30) for worker in workers.values()] == [0] * len(workers)
        return "\n".join([*shown, *(worker.words() for worker in workers.values())])


def test_every_role_works_with_tls_a_login_and_the_least_rights(place: Place) -> None:
    """SCRAM and PLAIN, a password by file, a Redis behind TLS, at DEBUG: right results, and no secret anywhere."""
    made = {user: place.settings(user) for user in ROLES}
    made["maker"] = place.settings("maker", web_port=free_port())
    made["server"] = place.settings("server", redis_hash="micro@2")
    made["keeper"] = place.settings("keeper", kafka_sasl_mechanism="PLAIN")
    made["clock"] = place.settings("clock", topic_prefix="c.", kafka_sasl_mechanism="SCRAM-SHA-256")
    for settings in (place.settings(BOSS), place.settings(BOSS, topic_prefix="c.")):
        ensure_topics(settings)
    for user, role in ROLES.items():
        place.broker.allow(user, role, made[user].topic_prefix)
    raw = imported(place)
    codec, now = TapeCodec(open_registry(made["clock"].registry)), time.time_ns() // BASE_TICK_NS * BASE_TICK_NS
    first = [(CLOCK_KEY.encode(), codec.encode(tapes.tick(now)))]  # the end of a tape is read as well
    run.publish(place.settings(BOSS, topic_prefix="c."), [first, first])
    seen = place.seen(made["maker"])
    expected = run.oracle(seen, raw)  # compiles for the worker, too
    shown = work(place, made, raw)
    found = run.outcome(seen)
    assert (found.vectors, found.states, found.conflicts) == (expected.vectors, expected.states, 0)
    (parity,) = parity_of(ArchiveReader(seen.archive_dir), load_all(seen.feature_sets)).values()
    assert parity.ok
    newest = {instrument: (at, value) for (_, instrument, at), value in sorted(expected.vectors.items())}
    with redis.Redis.from_url(place.plain_redis_url, password=REDIS_PASSWORD) as client:
        for instrument, (_, value) in newest.items():
            assert client.get(latest_key("micro@2", instrument)) == value
    assert "Authenticated as maker via SCRAM-SHA-512" in shown
    assert "SaslHandShakeRequest" in shown  # the wire is logged, but for what follows that
    assert not place.shown_in(shown)
    left = [path for path in place.folder.rglob("*") if path.is_file() and path.name != "redis-password"]
    assert not [path for path in left if place.shown_in(path.read_bytes().decode("latin-1"))]


def test_missing_rights_are_named_before_anything_is_read(place: Place) -> None:
    """Of one who may look at every topic and do nothing; without that no topic is even there."""
    ensure_topics(place.settings(BOSS))
    settings = place.settings("nobody")
    with pytest.raises(AccessRefused, match="does not allow it"):
        ensure_topics(settings)
    place.broker.allow("nobody", "looker", settings.topic_prefix)
    ensure_topics(settings)
    for role in ROLES.values():
        with pytest.raises(AccessRefused, match=r"Read on group d\.onetape-.*Read on topic d\..*Action: ") as refused:
            check_rights(settings, [role])
        assert refused.value.expected == "; ".join(map(str, needed(settings, [role])))
    with pytest.raises(AccessRefused, match="does not allow it"):
        run.publish(settings, [[(b"V:A", b"")]])
    with run.Worker(settings, ["features"]) as worker:
        assert worker.ended() == 3
        assert not place.shown_in(worker.words())


def test_a_right_that_is_taken_away_ends_the_worker_in_one_line(place: Place) -> None:
    boss, settings = (place.settings(user, topic_prefix="r.", log_level="WARNING") for user in (BOSS, "maker"))
    settings = settings.model_copy(update={"data_dir": place.folder / "taken"})
    ensure_topics(boss)
    place.broker.allow("maker", "features", "r.")
    raw = run.raw_tape(tapes.tape(tapes.market(3, 100), settings.partitions), settings)
    run.publish(boss, raw)
    run.oracle(boss, raw)  # compiles for the worker
    with run.Worker(settings, ["features"]) as worker:
        run.wait_committed(place.seen(settings), worker, [len(messages) for messages in raw])
        place.broker.take_away("maker", "r.")
        run.publish(boss, raw)
        assert worker.ended() == 3
        assert worker.words().splitlines()[-1].startswith("the Kafka broker does not allow it: ")
        assert "Traceback" not in worker.words()


def test_no_right_is_documented_that_nobody_needs() -> None:
    settings = load_settings()
    names = {str(right) for right in needed(settings, ["features", "latest"])}
    assert "Write on topic features.ready.v1" in names
    assert not [name for name in names if "onetape-latest" in name]
    for role in ROLES.values():
        wanted = needed(settings, [role])
        for kind, name, operations in rights(role):
            for operation in set(operations) - {"Describe"}:
                assert any(
                    (right.kind, right.operation.name) == (kind, operation.upper())
                    and (right.name.startswith(name[:-1]) if name.endswith("*") else right.name == name)
                    for right in wanted
                ), (role, name, operation)


def refusal(place: Place, chosen: dict[str, Any]) -> OnetapeError:
    """What a start with these settings comes to."""
    with pytest.raises(OnetapeError) as refused:
        ensure_topics(load_settings(**chosen))
    assert not place.shown_in(str(refused.value))
    return refused.value


def test_a_broker_that_refuses_us_is_told_from_one_that_is_down(place: Place) -> None:
    broker, stranger = place.broker, str(place.certificates.stranger)
    mutual = {"brokers": broker.mutual, "kafka_security_protocol": "SSL", "kafka_ssl_ca": str(place.certificates.ca)}
    plain = {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_ssl_ca": ""}
    cases: list[tuple[dict[str, Any], type[OnetapeError], str]] = [
        ({**broker.login(BOSS), "kafka_sasl_password": broker.passwords["maker"]}, AccessRefused, "refuses the login"),
        ({**broker.login(BOSS), "kafka_sasl_username": "x"}, AccessRefused, "refuses the login"),
        (broker.login(BOSS, kafka_ssl_ca=stranger), AccessRefused, "TLS with the Kafka broker failed"),
        (broker.login(BOSS, kafka_ssl_ca=""), AccessRefused, "TLS with the Kafka broker failed"),
        (broker.login(BOSS, brokers=broker.secure.replace("127.0.0.1", "localhost")), AccessRefused, "TLS with"),
        (mutual, AccessRefused, "TLS with the Kafka broker failed"),
        (broker.login(BOSS, **plain), DependencyDown, "ONETAPE_KAFKA_SECURITY_PROTOCOL"),
        ({"brokers": broker.secure}, DependencyDown, "ONETAPE_KAFKA_SECURITY_PROTOCOL"),
        (broker.login(BOSS, brokers=broker.bootstrap), DependencyDown, "ONETAPE_KAFKA_SECURITY_PROTOCOL"),
    ]  # fmt: skip
    with ThreadPoolExecutor(len(cases)) as pool:  # each waits for its answer
        found = list(pool.map(lambda case: refusal(place, case[0]), cases))
    for (_, kind, words), error in zip(cases, found, strict=True):
        assert type(error) is kind, error
        assert words in str(error)


def test_files_that_are_no_certificates_are_named(place: Place) -> None:
    certificates = place.certificates
    broken = place.folder / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\n")
    locked = place.folder / "locked.key"
    words = ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", str(certificates.client_key), "-out", str(locked)]
    subprocess.run(words, check=True, capture_output=True)
    cases: list[tuple[dict[str, str], str]] = [
        ({"kafka_ssl_ca": str(broken)}, "ONETAPE_KAFKA_SSL_CA"),
        ({"kafka_ssl_ca": str(place.folder / "none.pem")}, "ONETAPE_KAFKA_SSL_CA"),
        ({"kafka_ssl_cert": str(certificates.client), "kafka_ssl_key": str(broken)}, "ONETAPE_KAFKA_SSL_CERT"),
        ({"kafka_ssl_cert": str(certificates.client), "kafka_ssl_key": str(locked)}, "ONETAPE_KAFKA_SSL_CERT"),
    ]  # fmt: skip
    for chosen, named in cases:
        error = refusal(place, place.broker.login(BOSS, **chosen))
        assert isinstance(error, UsageError)
        assert f"{named} cannot be used" in str(error)


def test_a_certificate_lets_us_in_where_the_broker_demands_one(place: Place) -> None:
    certificates = place.certificates
    settings = load_settings(
        brokers=place.broker.mutual, kafka_security_protocol="SSL", kafka_ssl_ca=str(certificates.ca),
        kafka_ssl_cert=str(certificates.client), kafka_ssl_key=str(certificates.client_key), topic_prefix="m.",
    )  # fmt: skip
    ensure_topics(settings)
    assert tape_origin(settings).endswith("/m.market.events.v1")

    async def send() -> int:
        producer = Producer(settings, "test")
        try:
            return await producer.enqueue("m.market.events.v1", 0, [(b"key", b"value")])
        finally:
            await producer.close()

    assert asyncio.run(send()) == 0


def test_a_redis_that_refuses_us_is_told_from_one_that_is_down(place: Place) -> None:
    check_redis(place.settings("maker"))
    with pytest.raises(AccessRefused, match="Redis does not allow it"), asked(place.settings("maker")) as client:
        client.flushall()
    stranger, nothing = str(place.certificates.stranger), {"redis_password_file": ""}
    for chosen, kind, words in [
        ({**nothing, "redis_password": "wrong"}, AccessRefused, "Redis refuses the login"),
        (nothing, AccessRefused, "Redis refuses the login"),
        ({"redis_ssl_ca": stranger}, AccessRefused, "TLS with Redis failed"),
        ({"redis_ssl_ca": ""}, AccessRefused, "TLS with Redis failed"),
        ({"redis_url": place.redis_url.replace("127.0.0.1", "localhost")}, AccessRefused, "TLS with Redis failed"),
        ({"redis_url": place.redis_url.replace("rediss:", "redis:"), "redis_ssl_ca": ""}, RedisSilent, "Redis does"),
    ]:
        with pytest.raises(DependencyDown, match=words) as refused:
            check_redis(place.settings("maker", **chosen))
        assert type(refused.value) is kind
        assert not place.shown_in(str(refused.value))


def test_a_refused_login_is_one_line_of_the_command(place: Place) -> None:
    """As a person sees it: one line, exit code 3, at DEBUG and with a password that is nearly right."""
    settings = place.settings("maker", kafka_sasl_password=place.broker.passwords["maker"] + "x")
    words = [sys.executable, "-m", "app.cli", "worker"]
    done = subprocess.run(words, env=environment(settings), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["onetape"]
    assert "Action: correct ONETAPE_KAFKA_SASL_USERNAME" in done.stderr
    assert not place.shown_in(done.stdout + done.stderr)
