"""Apache Kafka that wants TLS, a name and a password, or both: who is let in, and who is told.

Needs a folder with Kafka's jars: see `locations`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import locations
import pytest
from commands import Ended, seawall
from secured_kafka import PASSWORD, SecuredKafka, secured_kafka
from storage import memory_folder

from seawall.broker import connect, mirror
from seawall.broker.errors import (
    AccessRefused,
    AuthenticationFailed,
    BrokerError,
    InvalidLocation,
    TlsFailed,
)

WRONG = "wr0ng-password"
Where = Callable[[SecuredKafka], str]


@pytest.fixture(scope="module")
def kafka() -> Iterator[SecuredKafka]:
    lib = locations.kafka_jars()
    if lib is None:
        pytest.skip(locations.NO_JARS)
    with secured_kafka(lib) as running:
        yield running


def client_certificate(kafka: SecuredKafka) -> dict[str, Path]:
    files = kafka.certificates
    return {"ssl_certificate_location": files.client, "ssl_key_location": files.client}


LET_IN: dict[str, Where] = {
    "TLS": lambda k: k.tls(),
    "TLS on both sides": lambda k: k.tls("MUTUAL", **client_certificate(k)),
    "PLAIN": lambda k: k.sasl("PLAIN"),
    "SCRAM": lambda k: k.sasl("SCRAM-SHA-256"),
    "PLAIN over TLS": lambda k: k.sasl("PLAIN", "SASLTLS"),
    "SCRAM over TLS": lambda k: k.sasl("SCRAM-SHA-256", "SASLTLS"),
}


@pytest.mark.parametrize("where", LET_IN.values(), ids=LET_IN)
def test_everything_works_for_those_who_are_let_in(kafka: SecuredKafka, where: Where) -> None:
    location = where(kafka)
    topic = f"t{abs(hash(location))}"
    with connect(location) as cluster:
        cluster.create_topic(topic, 2)
        with cluster.producer() as producer:
            for number in range(100):
                producer.send(topic, b"%d" % number, partition=number % 2)
        with cluster.consumer(topic, group=topic) as consumer:
            records = []
            while len(records) < 100:
                found = consumer.poll(100, 60_000)
                assert found
                records += found
            consumer.ack(records)
        committed = [each.committed for each in cluster.group(topic).offsets]
        assert committed == [50, 50]
        with memory_folder() as folder, connect(folder) as copy:
            done = mirror(cluster, copy, topics=[topic], groups=True, verify=True)
            assert (done.records, done.compared, done.difference) == (100, 100, None)
            back = mirror(copy, cluster, topics=[topic], dry_run=True, verify=True)
            assert back.difference is None
        cluster.delete_topic(topic)


REFUSED: dict[str, tuple[Where, type[AccessRefused], str]] = {
    "no TLS, and it is wanted": (
        lambda k: k.location("TLS"),
        TlsFailed,
        "speaks TLS; add security.protocol=ssl",
    ),
    "TLS, and there is none": (
        lambda k: f"{k.plain}?security.protocol=ssl",
        TlsFailed,
        "does not speak TLS",
    ),
    "another authority": (
        lambda k: k.tls(ssl_ca_location=k.certificates.stranger),
        TlsFailed,
        "certificate verify failed",
    ),
    "no authority": (
        lambda k: k.location("TLS", security_protocol="ssl"),
        TlsFailed,
        "certificate verify failed",
    ),
    "no certificate of the client": (lambda k: k.tls("MUTUAL"), TlsFailed, "alert"),
    "no password": (
        lambda k: k.location("SASL"),
        AuthenticationFailed,
        r"it wants a name and a password; add security.protocol=sasl_plaintext .*"
        r"sasl.mechanism=PLAIN\|SCRAM-SHA-256",
    ),
    "no password over TLS": (
        lambda k: k.tls("SASLTLS", security_protocol="ssl"),
        AuthenticationFailed,
        "it wants a name and a password",
    ),
    "a password, and none is wanted": (
        lambda k: (
            f"{k.plain}?security.protocol=sasl_plaintext&sasl.mechanism=PLAIN"
            f"&sasl.username=alice&sasl.password={WRONG}"
        ),
        AuthenticationFailed,
        "handshake failed",
    ),
    "the wrong password, PLAIN": (
        lambda k: k.sasl("PLAIN", sasl_password=WRONG),
        AuthenticationFailed,
        "Authentication failed",
    ),
    "the wrong password, SCRAM over TLS": (
        lambda k: k.sasl("SCRAM-SHA-256", "SASLTLS", sasl_password=WRONG),
        AuthenticationFailed,
        "Authentication failed",
    ),
    "a mechanism that is not offered": (
        lambda k: k.sasl("SCRAM-SHA-512"),
        AuthenticationFailed,
        "PLAIN,SCRAM-SHA-256",
    ),
}


@pytest.mark.parametrize(("where", "kind", "said"), REFUSED.values(), ids=REFUSED)
def test_who_is_not_let_in_is_told_at_once(
    kafka: SecuredKafka, where: Where, kind: type[AccessRefused], said: str
) -> None:
    attempts: list[object] = []
    with connect(where(kafka), on_reconnect=lambda *facts: attempts.append(facts)) as cluster:
        for ask in (
            cluster.topics,
            lambda: cluster.consumer("t", group="g"),
            lambda: cluster.producer().send("t", b"one"),
        ):
            with pytest.raises(kind, match=said) as caught:
                ask()
            assert WRONG not in str(caught.value)
            assert PASSWORD not in str(caught.value)
            assert caught.value.location.startswith("kafka://127.0.0.1:")
            assert "?" not in caught.value.location
    assert attempts == []  # nothing was tried again


@pytest.mark.parametrize("name", ["the wrong password, PLAIN", "another authority"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("topic", "list"),
        ("produce", "t"),
        ("consume", "t", "-g", "g"),
        ("group", "list"),
        ("bench", "-n", "10"),
    ],
    ids=lambda each: each[0],
)
def test_a_command_says_so_in_one_line(
    kafka: SecuredKafka, name: str, arguments: tuple[str, ...]
) -> None:
    where, _, _ = REFUSED[name]
    check_refused(seawall(*arguments, env={"SEAWALL_BROKER": where(kafka)}))


@pytest.mark.parametrize("is_source", [False, True])
def test_a_mirror_says_so_in_one_line(kafka: SecuredKafka, is_source: bool, tmp_path: Path) -> None:
    location, folder = kafka.sasl("PLAIN", sasl_password=WRONG), tmp_path / "data"
    seawall("-b", folder, "topic", "create", "t")
    ends = (location, folder) if is_source else (folder, location)
    check_refused(seawall("mirror", *ends))


def check_refused(ended: Ended) -> None:
    assert (ended.code, ended.out) == (1, b"")
    assert len(ended.err.splitlines()) == 1, ended.err
    assert ended.err.startswith("seawall: ")
    assert WRONG not in ended.err
    assert PASSWORD not in ended.err
    assert "retry" not in ended.err


def test_settings_that_cannot_be(kafka: SecuredKafka) -> None:
    for where, said in (
        (kafka.tls(ssl_ca_location="/no/such/file"), "ssl.ca.location"),
        (kafka.location("SASL", security_protocol="sasl_plaintext"), "sasl"),
        (kafka.sasl("NONESUCH"), "NONESUCH"),
        (kafka.tls(ssl_key_pem=WRONG), "ssl.key.pem"),
    ):
        with pytest.raises((InvalidLocation, BrokerError), match=said) as caught:
            connect(where)
        assert WRONG not in str(caught.value)


def test_a_context_keeps_its_secrets(kafka: SecuredKafka, tmp_path: Path) -> None:
    """Commands that use it, and those that show it; the file is its owner's alone."""
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    location = kafka.sasl("SCRAM-SHA-256", "SASLTLS")
    assert seawall("context", "add", "prod", location, "--use", env=environment).code == 0
    [path] = tmp_path.rglob("contexts.toml")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    created = seawall("topic", "create", "from-a-context", env=environment)
    assert created.code == 0, created.err
    secret = location.partition("sasl.password=")[2].partition("&")[0]
    for arguments in (
        ("context", "list"),
        ("context", "list", "--json"),
        ("context", "show"),
        ("context", "add", "prod", location),
        ("topic", "describe", "from-a-context"),
        ("info",),
        ("serve", "--print-config"),
        ("bench", "-n", "10", "--json"),
        ("-c", "none", "topic", "list"),
    ):
        ended = seawall(*arguments, env=environment)
        assert secret not in ended.out.decode() + ended.err, arguments
        assert PASSWORD not in ended.out.decode() + ended.err, arguments
    assert secret in seawall("context", "show", "--show-secrets", env=environment).out.decode()
