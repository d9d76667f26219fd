"""Probing: a server answers, or something else, or nothing."""

from __future__ import annotations

import gc
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from seawall.broker import Broker
from seawall.broker.kafka.threaded import ServerThread
from seawall.broker.remote.probe import HANDSHAKE, REQUEST, Security, WrongProtocol, probe
from seawall.broker.remote.probe_socket import NoAnswer

# For what does answer.
LONG_S = 60


@contextmanager
def listener(behave: Callable[[socket.socket], object]) -> Iterator[int]:
    """Something that listens, and does this to its first connection."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            behave(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)  # if nobody came
            thread.join()


def answer(data: bytes) -> Callable[[socket.socket], object]:
    def behave(connection: socket.socket) -> None:
        assert connection.recv(1000) == struct.pack(">i", len(REQUEST)) + REQUEST
        connection.sendall(data)

    return behave


def test_a_server_answers(broker: Broker) -> None:
    with ServerThread(broker, listen="127.0.0.1:0") as server:
        host, _, port = server.address.rpartition(":")
        probe(host, int(port), LONG_S)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "closed the connection"),
        (b"\0\0\0\x0a\0\0", "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak Kafka"),
        (struct.pack(">iih", 6, 7, 0), "does not speak Kafka"),
        (struct.pack(">i", 3), "does not speak Kafka"),
    ],
)
def test_something_else_answers(data: bytes, complaint: str) -> None:
    with listener(answer(data)) as port, pytest.raises(NoAnswer, match=complaint):
        probe("127.0.0.1", port, LONG_S)


def test_nobody_listens() -> None:
    with socket.socket() as bound:  # nobody else comes to listen there meanwhile
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(NoAnswer, match="refused"):
            probe("127.0.0.1", bound.getsockname()[1], LONG_S)


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_listener_that_hangs(is_tls: bool) -> None:
    def hang(connection: socket.socket) -> None:
        while connection.recv(1000):
            pass

    with listener(hang) as port, pytest.raises(NoAnswer, match=r"within 0.2 s"):
        probe("127.0.0.1", port, 0.2, Security(is_tls=is_tls))


def test_an_answer_that_comes_drop_by_drop_is_none() -> None:
    def drip(connection: socket.socket) -> None:
        connection.recv(1000)
        try:
            for byte in struct.pack(">iih", 1000, 0x5EA0, 0) + bytes(994):
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass

    with listener(drip) as port, pytest.raises(NoAnswer, match="did not answer"):
        probe("127.0.0.1", port, 0.2)


def listing(*keys: int) -> bytes:
    """An answer to ApiVersions."""
    apis = b"".join(struct.pack(">hhh", key, 0, 1) for key in keys)
    return struct.pack(">ihi", 0x5EA0, 0, len(keys)) + apis


@pytest.mark.parametrize(
    ("code", "mechanisms", "is_sasl", "is_wanted"),
    [
        (33, [b"PLAIN", b"SCRAM-SHA-256"], False, True),
        (33, [b"PLAIN"], True, False),  # whoever says so, is let in or not
        (34, [], False, False),  # ILLEGAL_SASL_STATE: there is nothing to authenticate
    ],
)
def test_a_server_that_wants_a_password(
    code: int, mechanisms: list[bytes], is_sasl: bool, is_wanted: bool
) -> None:
    def serve(connection: socket.socket) -> None:
        told = b"".join(struct.pack(">h", len(each)) + each for each in mechanisms)
        handshake = struct.pack(">ihi", 0x5EA0, code, len(mechanisms)) + told
        for request, body in ((REQUEST, listing(3, 17, 18)), (HANDSHAKE, handshake)):
            if connection.recv(1000) != struct.pack(">i", len(request)) + request:
                return
            connection.sendall(struct.pack(">i", len(body)) + body)

    with listener(serve) as port:
        if not is_wanted:
            probe("127.0.0.1", port, LONG_S, Security(is_sasl=is_sasl))
            return
        with pytest.raises(WrongProtocol, match="a name and a password") as caught:
            probe("127.0.0.1", port, LONG_S)
    assert not caught.value.is_about_tls
    assert "sasl.mechanism=PLAIN|SCRAM-SHA-256" in caught.value.hint


def test_a_server_that_does_not_like_to_be_asked_for_sasl() -> None:
    """It lists the API, and ends the connection; it did answer."""

    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(struct.pack(">i", len(listing(17))) + listing(17))
        connection.recv(1000)

    with listener(serve) as port:
        probe("127.0.0.1", port, LONG_S)


def test_a_name_that_is_none() -> None:
    with pytest.raises(NoAnswer):
        probe("no-such-host.invalid", 1, LONG_S)


@pytest.mark.parametrize("is_tls", [False, True])
def test_connections_that_are_reset_leave_nothing_open(is_tls: bool) -> None:
    """What a proxy does whose server is away; a warning about an open socket is an error here."""
    ended = threading.Event()

    def reset() -> None:
        while not ended.is_set():
            connection, _ = server.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        thread = threading.Thread(target=reset)
        thread.start()
        try:
            for _ in range(30):
                with pytest.raises(NoAnswer):
                    probe("127.0.0.1", port, LONG_S, Security(is_tls=is_tls))
        finally:
            ended.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()
    gc.collect()
