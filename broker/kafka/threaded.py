"""A server in a thread of its own, for programs without an event loop, and for tests."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Any

from seawall.broker.broker import Broker
from seawall.broker.kafka.server import Server, serve
from seawall.broker.kafka.settings import ServerSettings


class ServerThread:
    """Serves while it is entered::

    with ServerThread(broker, listen="127.0.0.1:0") as server:
        print(server.address)
    """

    def __init__(
        self, broker: Broker, settings: ServerSettings | None = None, **given: Any
    ) -> None:
        self._server = serve(broker, settings, **given)
        self.broker = broker
        self._thread = threading.Thread(target=self._run, name="seawall-server", daemon=True)
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._failure: BaseException | None = None

    @property
    def server(self) -> Server:
        return self._server

    @property
    def address(self) -> str:
        """``host:port``, for a client's ``bootstrap.servers``."""
        return self._server.address

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        async with self._server:
            self._started.set()
            await self._ended.wait()

    def start(self) -> None:
        """Listen; raises what `Server.start` raises."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """Stop as `Server.stop` does, and wait for the thread. Safe to call twice."""
        loop, ended = self._loop, self._ended
        if loop is not None and ended is not None and not loop.is_closed():
            loop.call_soon_threadsafe(ended.set)
        self._thread.join()

    def __enter__(self) -> ServerThread:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
