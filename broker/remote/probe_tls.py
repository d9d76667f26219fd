"""TLS for a probe: over a socket that stays the caller's, with one deadline for all of it.

``ssl.SSLSocket`` takes the socket over, leaves it open if the peer is gone before the handshake
(CPython issue 113280), and gives each step of a handshake the whole timeout anew.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_CHUNK_BYTES = 1 << 16


def limit(connection: socket.socket, deadline_s: float) -> None:
    """Let the socket's next step take what is left. Raises TimeoutError if nothing is."""
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    connection.settimeout(left_s)


class Tls:
    """The client's side, once hands are shaken. Raises ssl.SSLError, and OSError."""

    def __init__(
        self, connection: socket.socket, context: ssl.SSLContext, host: str, deadline_s: float
    ) -> None:
        self._connection = connection
        self._deadline_s = deadline_s
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._do(self._tls.do_handshake)

    def _do(self, step: Callable[[], Result]) -> Result:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                limit(self._connection, self._deadline_s)
                data = self._connection.recv(_CHUNK_BYTES)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            limit(self._connection, self._deadline_s)
            self._connection.sendall(data)

    def sendall(self, data: bytes) -> None:
        self._do(lambda: self._tls.write(data))

    def recv(self, size: int) -> bytes:
        """Empty at the end, whether the peer has said goodbye or not."""
        try:
            return self._do(lambda: self._tls.read(size))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""
