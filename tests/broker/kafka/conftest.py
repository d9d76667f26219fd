"""A server on a broker in memory, and a connection to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from wire import Wire

from seawall.broker import Broker
from seawall.broker.kafka.threaded import ServerThread

Serve = Callable[..., ServerThread]


@pytest.fixture(autouse=True)
def hangs_up() -> Iterator[None]:
    """A test that fails leaves no connection to the next one."""
    yield
    Wire.close_all()


@pytest.fixture
def serving(broker: Broker) -> Iterator[Serve]:
    """Begin a server with these settings; it ends with the test."""
    servers: list[ServerThread] = []

    def begin(**settings: Any) -> ServerThread:
        server = ServerThread(broker, **{"listen": "127.0.0.1:0", **settings})
        server.start()
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.stop()


@pytest.fixture
def server(serving: Serve) -> ServerThread:
    """A server with default settings, and the topic ``orders`` of one partition."""
    return serving()


@pytest.fixture
def connect(server: ServerThread) -> Iterator[Callable[[], Wire]]:
    """Open a connection; it is closed with the test."""
    wires: list[Wire] = []

    def open_wire() -> Wire:
        wires.append(Wire(server.address))
        return wires[-1]

    yield open_wire
    for wire in wires:
        wire.close()


@pytest.fixture
def wire(connect: Callable[[], Wire]) -> Wire:
    """One open connection."""
    return connect()
