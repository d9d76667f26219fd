"""The socket that connections come from.

Not `loop.create_server`: what its server accepts just when it is closed is never closed itself
(CPython 3.11), and neither is what a cancelled `loop.sock_accept` has got. Here accepting ends
in one step, and whoever was accepted becomes a connection.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

logger = logging.getLogger("seawall.kafka")

BACKLOG = 1024
# How many are accepted before others get a turn.
MOST_AT_ONCE = 64
# For how long nobody is accepted when that failed: too many open files, say.
PAUSE_S = 0.1


class Listener:
    """Accepts connections for a protocol. Belongs to the running loop."""

    def __init__(self, new_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._new_protocol = new_protocol
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._connecting: set[asyncio.Task[None]] = set()

    async def bind(self, host: str, port: int) -> int:
        """Have an address; gives the port. Raises OSError. Nobody is accepted yet."""
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        self._socket = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        self._socket.setblocking(False)
        bound: int = self._socket.getsockname()[1]
        return bound

    def begin(self) -> None:
        """Accept from now on."""
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._accept, self._socket)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(MOST_AT_ONCE):
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("cannot accept a connection: %s", error.strerror)
                self._loop.remove_reader(listening)
                self._loop.call_later(PAUSE_S, self.begin)
                return
            accepted.setblocking(False)
            task = self._loop.create_task(self._connect(accepted))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._new_protocol, accepted)
        except OSError:
            accepted.close()  # it is gone again

    async def close(self) -> None:
        """Accept nobody any more. Safe to call twice."""
        listening, self._socket = self._socket, None
        if listening is not None:
            self._loop.remove_reader(listening)
            listening.close()
        while self._connecting:
            await asyncio.wait(self._connecting)
