"""How every client of this program connects: what the settings say, in the words of each library.

Input: settings.
Output: options of librdkafka, aiokafka, Faust and redis-py; the schema registry; errors that say what to put right.
Errors: UsageError for files of certificates or passwords that cannot be used, before anything connects.
Source: librdkafka's CONFIGURATION.md; aiokafka 0.14 `create_ssl_context`; faust-streaming 0.15.3 faust/auth.py.
"""

from __future__ import annotations

import ssl
import stat
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, TypeVar

import redis
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata

from app.config import SECRETS, Settings, variable
from schemas.errors import AccessRefused, DependencyDown, OnetapeError, UsageError
from schemas.registry import SchemaRegistry, open_registry

if TYPE_CHECKING:
    from faust.types.auth import CredentialsT

Answer = TypeVar("Answer")

SECRET_BYTES_MAX: Final = 4096
BROKER_ANSWER_S: Final = 5.0
"""A broker that has not answered a question after so long is down."""
HEAR_S: Final = 0.1
"""How often it is looked whether a broker has refused us, while its answer is awaited."""
REFUSED_S: Final = 1.0
"""Another broker of the cluster may let us in."""
RIGHTS: Final = "docs/security.md"
_LOGIN_REFUSED: Final = (
    KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
)  # fmt: skip
_NO_COORDINATOR: Final = (
    KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.NOT_COORDINATOR,
)  # fmt: skip
FORBIDDEN_CODES: Final = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
)  # fmt: skip


def librdkafka(settings: Settings) -> dict[str, Any]:
    """Of a confluent-kafka client."""
    options: dict[str, Any] = {"bootstrap.servers": settings.brokers}
    if settings.kafka_security_protocol == "PLAINTEXT":
        return options
    options["security.protocol"] = settings.kafka_security_protocol
    if "SSL" in settings.kafka_security_protocol:
        tls_context(settings, "kafka")
        files = {
            "ssl.ca.location": settings.kafka_ssl_ca, "ssl.certificate.location": settings.kafka_ssl_cert,
            "ssl.key.location": settings.kafka_ssl_key,
        }  # fmt: skip
        options |= {name: file for name, file in files.items() if file}
    if "SASL" in settings.kafka_security_protocol:
        options |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism, "sasl.username": settings.kafka_sasl_username,
            "sasl.password": secret(settings, "kafka_sasl_password"),
        }  # fmt: skip
    return options


def aiokafka_options(settings: Settings) -> dict[str, Any]:
    """Of an aiokafka client."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.brokers, "security_protocol": settings.kafka_security_protocol,
    }  # fmt: skip
    if "SSL" in settings.kafka_security_protocol:
        options["ssl_context"] = tls_context(settings, "kafka")
    if "SASL" in settings.kafka_security_protocol:
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism, "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": secret(settings, "kafka_sasl_password"),
        }  # fmt: skip
    return options


def faust_options(settings: Settings) -> dict[str, Any]:
    """Of a Faust app."""
    brokers = [f"kafka://{broker.strip()}" for broker in settings.brokers.split(",")]
    return {"broker": brokers, "broker_credentials": _credentials(settings)}


def _credentials(settings: Settings) -> CredentialsT | None:
    from faust.auth import SASLCredentials, SSLCredentials  # other commands than the worker need not wait for Faust

    context = tls_context(settings, "kafka") if "SSL" in settings.kafka_security_protocol else None
    if "SASL" in settings.kafka_security_protocol:
        return SASLCredentials(
            username=settings.kafka_sasl_username, password=secret(settings, "kafka_sasl_password"),
            mechanism=settings.kafka_sasl_mechanism, ssl_context=context,
        )  # fmt: skip
    return SSLCredentials(context) if context else None


def redis_options(settings: Settings) -> dict[str, Any]:
    """What a Redis client needs besides `settings.redis_url`."""
    options: dict[str, Any] = {}
    if settings.has_secret("redis_password"):
        options["password"] = secret(settings, "redis_password")
    if settings.redis_url.startswith("rediss://"):
        tls_context(settings, "redis")
        options |= {
            "ssl_ca_certs": settings.redis_ssl_ca or None, "ssl_certfile": settings.redis_ssl_cert or None,
            "ssl_keyfile": settings.redis_ssl_key or None, "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            "ssl_cert_reqs": "required", "ssl_check_hostname": True,
        }  # fmt: skip
    return options


def open_redis(settings: Settings, **options: Any) -> redis.Redis:
    """A client of the Redis that serves, to be closed by the caller. Errors: UsageError."""
    return redis.Redis.from_url(settings.redis_url, **redis_options(settings), **options)


def redis_refusal(settings: Settings, error: Exception) -> AccessRefused | None:
    """The error of a Redis that is there and does not let us in; None if it is another one."""
    if isinstance(error.__cause__ or error, ssl.SSLError) or "SSL" in str(error):
        return AccessRefused(
            "TLS with Redis failed", was=str(error),
            expected=f"a server at {settings.redis_url} with a certificate for its host name that our CA has signed",
            action=f"correct {variable('redis_ssl_ca')}, the certificates, or the host name",
        )  # fmt: skip
    if isinstance(error, redis.exceptions.NoPermissionError):
        return AccessRefused(
            "Redis does not allow it", expected=f"the rights of {RIGHTS} at {settings.redis_url}", was=str(error),
            action="have them added (ACL SETUSER)",
        )  # fmt: skip
    if isinstance(error, redis.AuthenticationError):
        return AccessRefused(
            "Redis refuses the login", expected=f"a server at {settings.redis_url} that takes our password",
            was=str(error),
            action=f"correct {variable('redis_password')} (or its _FILE) and the user in {variable('redis_url')}",
        )  # fmt: skip
    return None


def registry_of(settings: Settings) -> SchemaRegistry:
    """The schema registry."""
    if not settings.registry.startswith(("http://", "https://")):
        return open_registry(settings.registry)
    login = None
    if settings.registry_username:
        login = settings.registry_username, secret(settings, "registry_password")
    context = tls_context(settings, "registry") if settings.registry.startswith("https://") else None
    return open_registry(settings.registry, login, context)


def secret(settings: Settings, name: str) -> str:
    """A secret by its setting's name: its value, or what its file holds. Errors: UsageError."""
    value: str = getattr(settings, name).get_secret_value()
    file: str = getattr(settings, f"{name}_file")
    return value if not file else _content(f"{name}_file", file)


def secrets_of(settings: Settings) -> list[str]:
    """Every secret there is, to be kept out of logs."""
    return [secret(settings, name) for name in SECRETS if settings.has_secret(name)]


def _content(name: str, file: str) -> str:
    """One line of text. Errors: UsageError."""
    try:
        path = Path(file).expanduser()
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(0, "no regular file")  # a pipe would be waited for
        with path.open("rb") as opened:
            text = opened.read(SECRET_BYTES_MAX + 1).decode().removesuffix("\n").removesuffix("\r")
        was = "" if text and len(text) < SECRET_BYTES_MAX and text.isprintable() else "an empty, long or binary file"
        if len(text.splitlines()) > 1:
            was = "a file of more than one line"
    except OSError as error:
        was = error.strerror or "no file"
    except UnicodeDecodeError:
        was = "a binary file"
    except (ValueError, RuntimeError):  # a NUL; the home of nobody
        was = "no path"
    if was:
        place = f", at {file}" if _is_place(file) else ""
        told = was if place else f"{was} (not shown, for it may be the secret itself)"
        raise UsageError(
            f"{variable(name)} cannot be used", expected=f"a file of one line, the secret{place}", was=told,
            action=f"correct {variable(name)} or the file and who may read it",
        )  # fmt: skip
    return text


def _is_place(file: str) -> bool:
    """Whether a path leads to a file, or at least into a folder: a secret that was taken for one does neither."""
    try:
        path = Path(file).expanduser()
        return path.exists() or (path.parent not in (Path(), Path("/")) and path.parent.is_dir())
    except (OSError, ValueError, RuntimeError):
        return False


def tls_context(settings: Settings, owner: str) -> ssl.SSLContext:
    """TLS as the certificates of "kafka", "redis" or "registry" say; the server's is always checked, and its host name.

    Errors: UsageError for a file that cannot be used.
    """
    ca, cert, key = (getattr(settings, f"{owner}_ssl_{part}", "") for part in ("ca", "cert", "key"))
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise _no_certificate(f"{owner}_ssl_ca", ca, error) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert:
        try:
            context.load_cert_chain(cert, key, password=lambda: b"")  # else OpenSSL would ask the terminal for one
        except (OSError, ValueError) as error:
            raise _no_certificate(f"{owner}_ssl_cert", f"{cert} and {key}", error) from None
    return context


def _no_certificate(name: str, file: str, error: Exception) -> UsageError:
    return UsageError(
        f"{variable(name)} cannot be used", expected=f"PEM at {file}, the key without a passphrase", was=str(error),
        action=f"correct {variable(name)} or the file",
    )  # fmt: skip


class Admin(AdminClient):
    """An administration client that hears why a broker does not answer."""

    def __init__(self, settings: Settings) -> None:
        """Errors: UsageError."""
        heard: dict[int, KafkaError] = {}

        def hear(error: KafkaError) -> None:  # not a method: librdkafka would keep this client for ever
            heard[error.code()] = error

        self._settings, self._heard = settings, heard
        options = {**librdkafka(settings), "log_level": 0, "error_cb": hear}
        try:
            super().__init__(options)
        except KafkaException as error:
            raise UsageError(
                "the settings of the brokers cannot be used", expected="host:port, separated by commas",
                was=f"{settings.brokers!r}: {error.args[0].str()}",
                action="correct ONETAPE_BROKERS or the ONETAPE_KAFKA_ settings",
            ) from error  # fmt: skip

    def cluster(self) -> ClusterMetadata:
        """The broker and its topics. Errors: AccessRefused soon, DependencyDown when it does not answer.

        A question is not given up for hearing a refusal: a broker that is slower than that would never be understood.
        """
        begun = time.monotonic()
        answer: Future[ClusterMetadata] = Future()
        Thread(target=self._ask_cluster, args=(answer, begun + BROKER_ANSWER_S), daemon=True).start()
        while True:
            try:
                return answer.result(HEAR_S)
            except TimeoutError:
                self.poll(0)
                is_time = self._heard and time.monotonic() - begun > REFUSED_S
                failure = broker_failure(self._settings, list(self._heard.values())) if is_time else None
                if isinstance(failure, AccessRefused):
                    raise failure from None
            except KafkaException as error:
                raise self.failure(error) from error

    def _ask_cluster(self, answer: Future[ClusterMetadata], deadline: float) -> None:
        """Ask until there is an answer, or no time for one: a connection that is lost is made again."""
        try:
            while True:
                try:
                    return answer.set_result(self.list_topics(timeout=max(deadline - time.monotonic(), HEAR_S)))
                except KafkaException:
                    if time.monotonic() + HEAR_S > deadline:
                        raise
                time.sleep(HEAR_S)
        except Exception as error:  # whoever waits for the answer raises it
            answer.set_exception(error)

    def result(self, ask: Callable[[], Future[Answer]]) -> Answer:
        """What a question about a group comes back with; asked again while the broker finds out who keeps the groups.

        A new broker first makes a topic for them. Errors: KafkaException.
        """
        deadline = time.monotonic() + BROKER_ANSWER_S
        while True:
            try:
                return ask().result()
            except KafkaException as error:
                if error.args[0].code() not in _NO_COORDINATOR or time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def failure(self, error: KafkaException, about: str = "") -> OnetapeError:
        """The error for people: what it heard says more than what a call came back with."""
        self.poll(0)
        return broker_failure(self._settings, [*self._heard.values(), error.args[0]], about)


def fatal(error: Exception) -> KafkaError | None:
    """What librdkafka cannot go on after, as a right that is missing; None for any other exception.

    confluent-kafka raises it out of whichever call comes next; while that reports deliveries, as a SystemError's cause.
    """
    raised = error.__cause__ if isinstance(error, SystemError) else error
    return raised.args[0] if isinstance(raised, KafkaException) else None


def broker_failure(settings: Settings, errors: list[KafkaError], about: str = "") -> OnetapeError:
    """The error of a broker that refuses us or does not answer, by the first of these that says why."""
    told = f"{about}: " if about else ""
    for error in errors:
        if error.code() in _LOGIN_REFUSED:
            return login_refused(settings, told + error.str())
        if error.code() == KafkaError._SSL or "SSL alert" in error.str():
            return AccessRefused(
                "TLS with the Kafka broker failed", was=told + error.str(),
                expected=f"a certificate for the host name in {settings.brokers} that our CA has signed",
                action=f"correct {variable('kafka_ssl_ca')}, the certificates, or the host name in ONETAPE_BROKERS",
            )  # fmt: skip
        if error.code() in FORBIDDEN_CODES:
            return forbidden(settings, told + error.str())
    said = next((error for error in errors if error.code() == KafkaError._TRANSPORT), errors[-1])
    return broker_down(settings.brokers, told + said.str())


def login_refused(settings: Settings, was: str) -> AccessRefused:
    """The broker knows no such user, or another password."""
    return AccessRefused(
        "the Kafka broker refuses the login", was=was,
        expected=f"user {settings.kafka_sasl_username!r} and its password, by {settings.kafka_sasl_mechanism}",
        action=f"correct {variable('kafka_sasl_username')}, {variable('kafka_sasl_password')} (or its _FILE) or "
        + variable("kafka_sasl_mechanism"),
    )  # fmt: skip


def forbidden(settings: Settings, was: str) -> AccessRefused:
    """The broker knows us, but does not let us."""
    user = settings.kafka_sasl_username or "this client"
    return AccessRefused(
        "the Kafka broker does not allow it", expected=f"the rights of {RIGHTS} for {user!r}", was=was,
        action="have the broker's administrator add them (kafka-acls.sh)",
    )  # fmt: skip


def broker_down(brokers: str, why: str) -> DependencyDown:
    """The error of a broker that does not answer."""
    return DependencyDown(
        "the Kafka broker does not answer", expected=f"a broker at {brokers}", was=why,
        action="start it, or correct ONETAPE_BROKERS and ONETAPE_KAFKA_SECURITY_PROTOCOL (onetape demo alone starts an "
        "embedded one)",
    )  # fmt: skip
