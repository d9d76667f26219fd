"""TLS: both sides speak it, one of them does not, or one does not trust the other."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from certificates import Certificates, make_certificates
from clients.endpoints import free_port
from outages import PATIENCE_S
from tls_proxy import TlsProxy

from seawall.broker import Broker, connect
from seawall.broker.errors import AccessRefused, OutcomeUnknown, TlsFailed
from seawall.broker.kafka.threaded import ServerThread
from seawall.broker.remote.probe import Security, WrongProtocol, probe
from seawall.broker.remote.probe_socket import NoAnswer

TLS = Security(is_tls=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def ports(broker: Broker, certificates: Certificates) -> Iterator[tuple[int, int]]:
    """Of a server of ours: without TLS, and with it."""
    with TlsProxy(certificates.server_context()) as proxy:
        address = f"127.0.0.1:{proxy.port}"
        with ServerThread(broker, listen="127.0.0.1:0", advertise=address) as server:
            proxy.target = port_of(server)
            yield proxy.target, proxy.port


def port_of(server: ServerThread) -> int:
    return int(server.address.rpartition(":")[2])


def location(port: int, authority: Path | None = None, **settings: str) -> str:
    given = {"security.protocol": "ssl", **settings}
    if authority is not None:
        given["ssl.ca.location"] = str(authority)
    return f"kafka://127.0.0.1:{port}?" + "&".join(f"{k}={quote(v)}" for k, v in given.items())


def test_records_go_there_and_back(ports: tuple[int, int], certificates: Certificates) -> None:
    with connect(location(ports[1], certificates.authority)) as cluster:
        cluster.create_topic("secret")
        with cluster.producer() as producer:
            producer.send("secret", b"one").result(PATIENCE_S)
        with cluster.consumer("secret", group="g") as consumer:
            [record] = consumer.poll(1, PATIENCE_S * 1000)
            consumer.ack(record)
        assert record.value == b"one"
        assert cluster.group("g").offsets[0].committed == 1


def test_the_probe_speaks_tls(ports: tuple[int, int]) -> None:
    plain, secured = ports
    probe("127.0.0.1", plain, PATIENCE_S)
    probe("127.0.0.1", secured, PATIENCE_S, TLS)


def test_the_probe_sees_that_only_one_side_speaks_tls(ports: tuple[int, int]) -> None:
    plain, secured = ports
    with pytest.raises(WrongProtocol, match="does not speak TLS") as caught:
        probe("127.0.0.1", plain, PATIENCE_S, TLS)
    assert caught.value.is_about_tls
    with pytest.raises(WrongProtocol, match=f"127.0.0.1:{secured} speaks TLS") as caught:
        probe("127.0.0.1", secured, PATIENCE_S)
    assert caught.value.is_about_tls
    assert "security.protocol=ssl" in caught.value.hint


def test_the_probe_wants_more_than_a_handshake(certificates: Certificates) -> None:
    """A proxy may be there, and the server behind it not."""
    with (
        TlsProxy(certificates.server_context(), free_port()) as proxy,
        pytest.raises(NoAnswer, match="closed the connection"),
    ):
        probe("127.0.0.1", proxy.port, PATIENCE_S, TLS)


def wanting(certificates: Certificates, newest: ssl.TLSVersion) -> ssl.SSLContext:
    """What wants a certificate from its clients."""
    context = certificates.server_context()
    context.maximum_version = newest
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.authority)
    return context


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("newest", VERSIONS, ids=lambda each: each.name)
def test_a_server_that_wants_a_certificate_is_there(
    certificates: Certificates, newest: ssl.TLSVersion
) -> None:
    """It says so by an alert, which is an answer, and no outage."""
    context = wanting(certificates, newest)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            connection, _ = server.accept()
            try:
                with context.wrap_socket(connection, server_side=True):
                    pass
            except OSError:
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            probe("127.0.0.1", port, PATIENCE_S, TLS)
            with (
                connect(location(port, certificates.authority)) as cluster,
                pytest.raises(TlsFailed, match="alert"),
            ):
                cluster.topics()
        finally:
            ended.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()


@pytest.mark.parametrize("newest", VERSIONS, ids=lambda each: each.name)
def test_who_has_the_certificate_is_let_in(
    broker: Broker, certificates: Certificates, newest: ssl.TLSVersion
) -> None:
    with TlsProxy(wanting(certificates, newest)) as proxy:
        address = f"127.0.0.1:{proxy.port}"
        with ServerThread(broker, listen="127.0.0.1:0", advertise=address) as server:
            proxy.target = port_of(server)
            client = {
                "ssl.certificate.location": str(certificates.client),
                "ssl.key.location": str(certificates.client),
            }
            with connect(location(proxy.port, certificates.authority, **client)) as cluster:
                assert [each.name for each in cluster.topics()] == ["orders"]
            # One that the probe cannot show; in TLS 1.3 its side of the handshake works.
            if newest is ssl.TLSVersion.TLSv1_3:
                probe(
                    "127.0.0.1", proxy.port, PATIENCE_S, Security(is_tls=True, has_certificate=True)
                )


def test_nobody_is_trusted_unknown(ports: tuple[int, int], certificates: Certificates) -> None:
    """Whatever is asked for ends at once, and with the same error."""
    told: list[object] = []
    where = location(ports[1], certificates.stranger)
    with connect(where, on_reconnect=lambda *facts: told.append(facts)) as cluster:
        for ask in (
            cluster.topics,
            lambda: cluster.consumer("orders", group="g"),
            lambda: cluster.producer().send("orders", b"one"),
        ):
            with pytest.raises(TlsFailed, match="certificate verify failed") as caught:
                ask()
            assert caught.value.location == f"kafka://127.0.0.1:{ports[1]}"
            assert "ssl.ca.location" in str(caught.value)
    assert told == []  # it is no outage


def test_a_name_that_is_not_in_the_certificate(
    ports: tuple[int, int], certificates: Certificates
) -> None:
    where = location(ports[1], certificates.authority).replace("127.0.0.1", "localhost")
    with connect(where) as cluster, pytest.raises(TlsFailed):
        cluster.topics()


@pytest.mark.parametrize("is_tls", [False, True])
def test_tls_on_one_side_only_ends_at_once(ports: tuple[int, int], is_tls: bool) -> None:
    where = location(ports[0]) if is_tls else f"kafka://127.0.0.1:{ports[1]}"
    with connect(where) as cluster, pytest.raises(TlsFailed) as caught:
        cluster.topics()
    assert caught.value.hint


def test_a_server_that_comes_back_with_another_certificate(
    broker: Broker, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What worked is given up only after a while, and then all that waits is told."""
    monkeypatch.setattr("seawall.broker.remote.supervisor.REFUSED_S", 0.5)
    changed = certificates.server_context()
    with TlsProxy(changed) as proxy:
        address = f"127.0.0.1:{proxy.port}"
        with ServerThread(broker, listen="127.0.0.1:0", advertise=address) as server:
            proxy.target = port_of(server)
            with connect(location(proxy.port, certificates.authority)) as cluster:
                producer = cluster.producer()
                producer.send("orders", b"one").result(PATIENCE_S)
                consumer = cluster.consumer("orders")
                assert len(consumer.poll(1, PATIENCE_S * 1000)) == 1
                make_stranger(changed, certificates)
                proxy.cut()
                delivery = producer.send("orders", b"two")
                with pytest.raises((TlsFailed, OutcomeUnknown)):
                    delivery.result(PATIENCE_S)
                with pytest.raises(AccessRefused):
                    consumer.poll(1, PATIENCE_S * 1000)
                with pytest.raises(AccessRefused):
                    cluster.topics()


def make_stranger(context: ssl.SSLContext, certificates: Certificates) -> None:
    """From now on it shows a certificate of the other authority."""
    context.load_cert_chain(certificates.impostor)
