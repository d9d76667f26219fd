"""TLS in front of a server that speaks none, as a proxy beside it would be."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from types import TracebackType
from typing import Self


class TlsProxy:
    """Listens on ``port`` with TLS, and passes on to `target`, a port of the loopback.

    Its port is known before it is entered, so that a server can be told to advertise it.
    """

    def __init__(self, context: ssl.SSLContext, target: int = 0) -> None:
        self._context = context
        self.target = target
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="tls-proxy")
        self._tasks: set[asyncio.Task[None]] = set()
        # Accepted, and no transport has them yet.
        self._accepted: set[socket.socket] = set()

    def _run(self) -> None:
        self._loop.set_exception_handler(lambda *_: None)  # handshakes that fail on purpose
        self._loop.add_reader(self._socket, self._accept)
        self._loop.run_forever()
        self._loop.close()

    def _accept(self) -> None:
        # No server of asyncio: what that accepts just when it ends is closed by nobody.
        try:
            client, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        client.setblocking(False)
        self._accepted.add(client)
        task = self._loop.create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._close_unserved(client))

    def _close_unserved(self, client: socket.socket) -> None:
        """A task that is cancelled before it begins does nothing at all."""
        if client in self._accepted:
            self._accepted.discard(client)
            client.close()

    async def _serve(self, client: socket.socket) -> None:
        self._accepted.discard(client)
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, client, ssl=self._context, ssl_handshake_timeout=60
            )
        except OSError:
            return
        try:
            writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                await asyncio.wait(
                    [
                        asyncio.create_task(_pass_on(reader, back)),
                        asyncio.create_task(_pass_on(there, writer)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                back.transport.abort()
        except OSError:
            pass
        finally:
            transport.abort()

    def cut(self) -> None:
        """End all connections; new ones work as they should."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    async def _cut(self) -> None:
        tasks = list(self._tasks)
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()
        me = asyncio.current_task()
        for _ in range(2):
            others = [each for each in asyncio.all_tasks() if each is not me]
            for each in others:
                each.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.1)
        for _ in range(20):  # transports close some turns later, however long those take
            await asyncio.sleep(0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
