"""Servers that demand something: a Kafka with TLS, logins and rights, a Redis with a password behind TLS.

Input: openssl, which comes with the certificates that Java needs.
State: certificates in a temporary folder; child processes; a thread per TLS server.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import redis
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from kafka_broker import ROOT, KafkaBroker

from app.embedded import EmbeddedRedis, free_port

BOSS: Final = "boss"
USERS: Final = (BOSS, "maker", "server", "keeper", "clock", "importer", "nobody")
"""Each with its own password; the rights of all but the first come from docs/security.md."""

PROPERTIES: Final = """\
listeners=PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller_port}},\
SECURE://127.0.0.1:{secure},MUTUAL://127.0.0.1:{mutual}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},SECURE://127.0.0.1:{secure},MUTUAL://127.0.0.1:{mutual}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL,MUTUAL:SSL
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {plain};
listener.name.secure.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.mutual.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={server}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:boss;User:CN=client
allow.everyone.if.no.acl.found=false
"""


class Certificates:
    """PEM files: `ca`, what it signed for 127.0.0.1 (`server`) and for us (`client`); `stranger`, another CA."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca, self.stranger = self._authority("ca"), self._authority("stranger")
        self.server = self._signed("server", "subjectAltName=IP:127.0.0.1")
        self.client = self._signed("client", "extendedKeyUsage=clientAuth")
        self.client_key = folder / "client.key"

    def _authority(self, name: str) -> Path:
        self._openssl("req", "-x509", *self._new(name), "-out", f"{name}.pem", "-days", "2")
        return self.folder / f"{name}.pem"

    def _signed(self, name: str, extension: str) -> Path:
        """Key and certificate in one file."""
        (self.folder / "extension").write_text(extension)
        self._openssl("req", *self._new(name), "-out", f"{name}.csr")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", "2", "-extfile", "extension", "-out", f"{name}.crt")  # fmt: skip
        whole = self.folder / f"{name}.pem"
        whole.write_text("".join((self.folder / f"{name}.{part}").read_text() for part in ("key", "crt")))
        return whole

    def _new(self, name: str) -> list[str]:
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key",
                "-subj", f"/CN={name}"]  # fmt: skip

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)


class SecureBroker(KafkaBroker):
    """`bootstrap` allows everything, for the test; `secure` demands TLS and a login, `mutual` a certificate."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        self.passwords = {user: f"pw-{user}-{secrets.token_hex(8)}" for user in USERS}
        ports = {"secure": free_port(), "mutual": free_port()}
        self.secure, self.mutual = (f"127.0.0.1:{port}" for port in ports.values())
        plain = " ".join(f'user_{user}="{word}"' for user, word in self.passwords.items())
        users = [
            f"{mechanism}=[name={user},password={word}]"
            for user, word in self.passwords.items() for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        ]  # fmt: skip
        super().__init__(
            PROPERTIES.format(**ports, plain=plain, server=certificates.server, ca=certificates.ca),
            [word for user in users for word in ("--add-scram", user)],
        )

    def login(self, user: str, **chosen: Any) -> dict[str, Any]:
        """Settings of a user."""
        return {
            "brokers": self.secure, "kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": user,
            "kafka_sasl_password": self.passwords[user], "kafka_ssl_ca": str(self.certificates.ca), **chosen,
        }  # fmt: skip

    def allow(self, user: str, role: str, prefix: str) -> None:
        """Give a user the rights of a role as docs/security.md lists them, under a topic prefix."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        wanted = [
            AclBinding(
                ResourceType[kind.upper()], prefix + name.rstrip("*"),
                ResourcePatternType.PREFIXED if name.endswith("*") else ResourcePatternType.LITERAL,
                f"User:{user}", "*", AclOperation[operation.upper()], AclPermissionType.ALLOW,
            )
            for kind, name, operations in rights(role) for operation in operations
        ]  # fmt: skip
        for future in admin.create_acls(wanted).values():
            future.result()
        anything = ResourceType.ANY, None, ResourcePatternType.ANY
        every = AclBindingFilter(*anything, f"User:{user}", "*", AclOperation.ANY, AclPermissionType.ANY)
        deadline = time.monotonic() + 10
        while not set(wanted) <= set(admin.describe_acls(every).result()):  # the broker learns of them a moment later
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def take_away(self, user: str, prefix: str) -> None:
        """A user may not join groups under a prefix any more."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        group = AclBindingFilter(
            ResourceType.GROUP, f"{prefix}onetape-features-", ResourcePatternType.ANY, f"User:{user}", "*",
            AclOperation.ANY, AclPermissionType.ANY,
        )  # fmt: skip
        (future,) = admin.delete_acls([group]).values()
        assert future.result()


def rights(role: str) -> list[tuple[str, str, list[str]]]:
    """(topic or group, its name, operations) of a role."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (topic|group) \| `(.+?)` \| (.+?) \|$", text, re.MULTILINE)
    found = [(kind, name, operations.split(", ")) for who, kind, name, operations in rows if role in who.split(", ")]
    assert found, f"docs/security.md has no rights of {role}"
    return found


def redis_rights(user: str, password: str) -> list[str]:
    """Words of the command that makes a user of Redis, as docs/security.md has it."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^ACL SETUSER {user} .*$", text, re.MULTILINE)
    return str(line).replace("PASSWORD", password).split()


@contextmanager
def secure_redis(certificates: Certificates, password: str) -> Iterator[tuple[str, str]]:
    """(URL with TLS, URL without) of a real Redis that demands a password; a server of ours ends the TLS before it.

    The user of the first has the rights that docs/security.md gives it.
    """
    with EmbeddedRedis() as server:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command(*redis_rights("writer", password))
            client.config_set("requirepass", password)
        port = free_port()
        with _tls_before(certificates, port, int(server.url.rpartition(":")[2].partition("/")[0])):
            yield f"rediss://writer@127.0.0.1:{port}/0", server.url


@contextmanager
def _tls_before(certificates: Certificates, port: int, target: int) -> Iterator[None]:
    """A TLS server at a port that passes everything on to another."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)
    loop = asyncio.new_event_loop()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    async def serving(stopping: asyncio.Event, ready: threading.Event) -> None:
        async with await asyncio.start_server(served, "127.0.0.1", port, ssl=context):
            ready.set()
            await stopping.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    stopping, ready = asyncio.Event(), threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serving(stopping, ready),), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
        loop.close()
