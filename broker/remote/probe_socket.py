"""The sockets of probes: connected within a deadline, and closed by another thread if need be."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from seawall.broker.remote.probe_tls import limit


class NoAnswer(Exception):
    """The server does not answer as one that speaks Kafka. The message says how."""


class Interruptible:
    """A place for the socket of the probe that is under way, so that another thread can end it.

    From `interrupt` on every probe that is given it ends at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_interrupted = False

    @contextmanager
    def held(self, connection: socket.socket) -> Iterator[None]:
        """While inside, this is the socket. Raises `NoAnswer` if it was interrupted before."""
        with self._lock:
            if self._is_interrupted:
                raise NoAnswer("it was interrupted")
            before, self._socket = self._socket, connection
        try:
            yield
        finally:
            with self._lock:
                self._socket = before

    def interrupt(self) -> None:
        """End the probe that is under way, while it connects as well, and those to come."""
        with self._lock:
            self._is_interrupted = True
            if self._socket is not None:
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


@contextmanager
def connected(
    host: str, port: int, deadline_s: float, interruptible: Interruptible
) -> Iterator[socket.socket]:
    """A socket of the first address that accepts. Raises OSError, UnicodeError for what is no
    name of a host, and `NoAnswer` once it is interrupted."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, address) in enumerate(found, 1):
        with socket.socket(family, kind, protocol) as connection, interruptible.held(connection):
            try:
                limit(connection, deadline_s)
                connection.connect(address)
            except OSError:
                if number == len(found):
                    raise
                continue
            yield connection
            return
