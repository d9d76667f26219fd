"""Whether a server answers: connect, ask for ApiVersions, read the answer.

A port that is open is not enough: a process that is stopped accepts connections, too.
ApiVersions version 0 is what every server answers, before authentication (KIP-35).
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

API_VERSIONS = 18
_CORRELATION_ID = 0x5EA0
_CLIENT_ID = b"seawall-probe"
# Far above what any server's list takes; more is not an answer to this question.
MOST_ANSWER_BYTES = 1 << 20

REQUEST = struct.pack(">hhih", API_VERSIONS, 0, _CORRELATION_ID, len(_CLIENT_ID)) + _CLIENT_ID


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


def probe(
    host: str,
    port: int,
    timeout_s: float,
    *,
    is_tls: bool = False,
    interruptible: Interruptible | None = None,
) -> None:
    """Return if the server answers within the time. Raises `NoAnswer`.

    With `is_tls` the TLS handshake is the answer: what the certificate is worth, and what
    the server wants from clients, is judged by those who really connect.
    """
    deadline_s = time.monotonic() + timeout_s
    interruptible = interruptible or Interruptible()
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        for number, (family, kind, protocol, _, address) in enumerate(found, 1):
            with socket.socket(family, kind, protocol) as connection:
                with interruptible.held(connection):
                    try:
                        _limit(connection, deadline_s)
                        connection.connect(address)
                    except OSError:
                        if number == len(found):
                            raise
                        continue
                    if is_tls:
                        _shake_hands(connection, deadline_s, interruptible)
                    else:
                        _ask(connection, deadline_s)
                return
    except TimeoutError:
        raise NoAnswer(f"{host}:{port} did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise NoAnswer(f"{host}:{port}: {error.strerror or error}") from None
    except UnicodeError as error:  # no name of a host looks like that
        raise NoAnswer(f"{host}:{port}: {error}") from None


def _ask(connection: socket.socket, deadline_s: float) -> None:
    _limit(connection, deadline_s)
    connection.sendall(struct.pack(">i", len(REQUEST)) + REQUEST)
    [size] = struct.unpack(">i", _read(connection, 4, deadline_s))
    if not 6 <= size <= MOST_ANSWER_BYTES:
        raise NoAnswer("what answers does not speak Kafka")
    [correlation_id, _] = struct.unpack(">ih", _read(connection, 6, deadline_s))
    if correlation_id != _CORRELATION_ID:
        raise NoAnswer("what answers does not speak Kafka")
    _read(connection, size - 6, deadline_s)


def _shake_hands(
    connection: socket.socket, deadline_s: float, interruptible: Interruptible
) -> None:
    _limit(connection, deadline_s)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        context.wrap_socket(connection, do_handshake_on_connect=False) as wrapped,
        interruptible.held(wrapped),
    ):
        wrapped.do_handshake()


def _read(connection: socket.socket, size: int, deadline_s: float) -> bytes:
    parts = []
    while size:
        _limit(connection, deadline_s)
        part = connection.recv(min(size, 1 << 16))
        if not part:
            raise NoAnswer("the server closed the connection instead of answering")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _limit(connection: socket.socket, deadline_s: float) -> None:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    connection.settimeout(left_s)
