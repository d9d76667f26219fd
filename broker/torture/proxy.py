"""A network between clients and a server that can be cut, stalled, and made to lose answers.

A TCP proxy on the loopback. What it is told to do, it does to the connections of the moment:

    stall     nothing gets through, and nothing is lost, until `flow`; perhaps not to all
    swallow   requests get through, answers are lost, until the connections are cut
    cut       connections end at once (RST), with whatever was on its way

A connection that begins while the server is not there ends at once as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

CHUNK_BYTES = 1 << 16
# Close means RST, as if somebody pulled the plug.
_RUDELY = struct.pack("ii", 1, 0)


class Proxy:
    """Listens on a port of its own, and passes on to `target`, a port of the loopback.

    Runs in a thread of its own while it is entered.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._swallows = False
        # Each connection's two sockets, and whether anything gets through.
        self._pairs: dict[tuple[socket.socket, socket.socket], asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="torture-proxy", daemon=True)

    # -- what may be done to the network -----------------------------------------------

    def stall(self, is_meant: Callable[[], bool] = lambda: True) -> None:
        """Let nothing through until `flow`; `is_meant` is asked for each connection."""
        self._do(lambda: self._stall(is_meant))

    def flow(self) -> None:
        """Let everything through that waits."""
        self._do(self._flow)

    def swallow(self) -> None:
        """Lose all answers from now on, until `cut`."""
        self._do(self._swallow)

    def cut(self) -> None:
        """End all connections; new ones work as they should."""
        self._do(self._cut)

    def _do(self, what: Callable[[], None]) -> None:
        done = threading.Event()

        def do() -> None:
            what()
            done.set()

        self._loop.call_soon_threadsafe(do)
        done.wait()

    def _stall(self, is_meant: Callable[[], bool]) -> None:
        for flowing in self._pairs.values():
            if is_meant():
                flowing.clear()

    def _flow(self) -> None:
        for flowing in self._pairs.values():
            flowing.set()

    def _swallow(self) -> None:
        self._swallows = True

    def _cut(self) -> None:
        for pair in list(self._pairs):
            for each in pair:
                # Whoever reads or writes there gets an error, or the end.
                with contextlib.suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RUDELY)
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self._swallows = False
        self._flow()

    # -- in its thread -----------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.add_reader(self._listener, self._accept)
        try:
            self._loop.run_forever()
        finally:
            self._loop.remove_reader(self._listener)
            for task in self._tasks:
                task.cancel()
            gathered = asyncio.gather(*self._tasks, return_exceptions=True)
            self._loop.run_until_complete(gathered)
            self._loop.close()

    def _accept(self) -> None:
        # Not awaited: what was accepted when that is cancelled would be nobody's.
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self.connections += 1
        task = self._loop.create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: client.close())  # if it is cancelled before it begins

    async def _serve(self, client: socket.socket) -> None:
        server = socket.socket()
        server.setblocking(False)
        client.setblocking(False)
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = client, server
        flowing = self._pairs[pair] = asyncio.Event()
        flowing.set()
        try:
            await self._loop.sock_connect(server, ("127.0.0.1", self._target))
            ways = [
                self._loop.create_task(self._pump(client, server, flowing)),
                self._loop.create_task(self._pump(server, client, flowing, are_answers=True)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # the server is not there
        finally:
            del self._pairs[pair]
            for each in pair:
                with contextlib.suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RUDELY)
                each.close()

    async def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        flowing: asyncio.Event,
        *,
        are_answers: bool = False,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await self._loop.sock_recv(source, CHUNK_BYTES):
                await flowing.wait()
                if not (are_answers and self._swallows):
                    await self._loop.sock_sendall(sink, data)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._listener.close()
