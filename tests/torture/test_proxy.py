"""The network that can be broken, with plain sockets at both ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from commands import eventually

from seawall.broker.torture.proxy import Proxy

TIMEOUT_S = 60.0
SILENCE_S = 0.2


class Echo:
    """Answers each byte string with itself; keeps what it heard."""

    def __init__(self) -> None:
        self.heard = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.append(client)
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        try:
            while data := client.recv(1000):
                self.heard += data
                client.sendall(data)
        except OSError:
            pass

    def close(self) -> None:
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join()
        for client in self._clients:
            client.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as network:
        yield network


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S) as connection:
        yield connection


def ask(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    answer = b""
    while len(answer) < len(data):
        more = client.recv(1 << 20)
        if not more:
            raise ConnectionError("it ended")
        answer += more
    return answer


def is_silent(client: socket.socket) -> bool:
    client.settimeout(SILENCE_S)
    try:
        client.recv(1)
    except TimeoutError:
        client.settimeout(TIMEOUT_S)
        return True
    return False


def test_everything_gets_through(client: socket.socket) -> None:
    data = bytes(range(256)) * 2000
    assert ask(client, data) == data


def test_what_stalls_comes_later(client: socket.socket, proxy: Proxy, echo: Echo) -> None:
    assert ask(client, b"a") == b"a"
    proxy.stall()
    client.sendall(b"b")
    assert is_silent(client)
    assert echo.heard == b"a"
    proxy.flow()
    assert client.recv(1) == b"b"


def test_answers_that_are_swallowed_never_come(
    client: socket.socket, proxy: Proxy, echo: Echo
) -> None:
    assert ask(client, b"a") == b"a"
    proxy.swallow()
    client.sendall(b"b")
    eventually(lambda: echo.heard == b"ab")
    assert is_silent(client)
    proxy.cut()
    with pytest.raises(ConnectionError):
        ask(client, b"c")
    with socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S) as again:
        assert ask(again, b"d") == b"d", "a new connection is not affected"
    assert proxy.connections == 2


def test_some_connections_stall_and_others_do_not(client: socket.socket, proxy: Proxy) -> None:
    assert ask(client, b"a") == b"a"
    with socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S) as other:
        assert ask(other, b"b") == b"b"
        meant = iter([True, False])
        proxy.stall(lambda: next(meant))
        client.sendall(b"c")
        assert is_silent(client)
        assert ask(other, b"d") == b"d"
        proxy.flow()
        assert client.recv(1) == b"c"


def test_a_stall_ends_with_the_connections(client: socket.socket, proxy: Proxy) -> None:
    proxy.stall()
    proxy.cut()
    with socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S) as again:
        assert ask(again, b"d") == b"d"


def test_without_a_server_connections_end(proxy: Proxy, echo: Echo) -> None:
    echo.close()
    with (
        pytest.raises(ConnectionError),
        socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S) as client,
    ):
        ask(client, b"a")
