"""The server: a listener, its connections, and how they begin and end."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Any

from seawall.broker.broker import Broker
from seawall.broker.kafka.addresses import join_address, split_address
from seawall.broker.kafka.connection import LINGER_S, Connection
from seawall.broker.kafka.coordinator import Coordinator
from seawall.broker.kafka.listener import Listener
from seawall.broker.kafka.node import Node
from seawall.broker.kafka.settings import ServerSettings
from seawall.broker.server_lease import ServerLease

logger = logging.getLogger("seawall.kafka")

# How often the time-outs of connections are looked at.
SWEEP_INTERVAL_S = 0.5


class Server:
    """A Kafka endpoint for a broker, in the running event loop.

    Use it as an asynchronous context manager; see `serve`.
    """

    def __init__(self, broker: Broker, settings: ServerSettings) -> None:
        self._broker = broker
        self.settings = settings
        self._node: Node | None = None
        self._listener: Listener | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._lease = ServerLease(broker.engine.files, broker.path)
        #: Where it listens, "host:port"; the real port also where port 0 was asked for.
        self.address = ""
        #: Where clients are told to connect to.
        self.advertised = ""

    @property
    def node(self) -> Node:
        """What the handlers share. Raises RuntimeError before `start`."""
        if self._node is None:
            raise RuntimeError("the server was not started")
        return self._node

    async def start(self) -> None:
        """Listen. Raises `ServerRunning`, and OSError if the address is taken."""
        host, port = split_address(self.settings.listen)
        node = Node(self._broker, self.settings)
        listener = Listener(lambda: Connection(node))
        taking = node.loop.create_task(node.run(self._lease.take))
        try:
            await asyncio.shield(taking)
            await self._bind(node, listener, host, port)
            # What may go by retention goes, as with every process that writes.
            await node.run(self._broker.engine.compactor.start)
        except BaseException:
            await listener.close()
            # Its thread takes the lease even if nobody waits for it any more.
            await asyncio.wait([taking])
            self._lease.give_back()
            raise
        # From here on nothing can fail or be cancelled.
        self._node, self._listener = node, listener
        listener.begin()
        node.part(Coordinator).begin()
        self._sweeper = node.loop.create_task(self._sweep())

    async def _bind(self, node: Node, listener: Listener, host: str, port: int) -> None:
        port = await listener.bind(host, port)
        self.address = join_address(host, port)
        self.advertised = self.settings.advertise or self.address
        node.host, advertised_port = split_address(self.advertised)
        node.port = advertised_port or port
        await node.run(self._lease.tell, self.address)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            now_s = self.node.loop.time()
            for connection in tuple(self.node.connections):
                connection.check_timeouts(now_s)

    async def stop(self) -> None:
        """Accept nothing more, answer what was accepted, close. Within ``grace_ms``."""
        node, listener = self._node, self._listener
        if node is None or listener is None:
            return
        self._listener = None
        node.grace_ends_s = node.loop.time() + self.settings.grace_ms / 1000
        node.stopping.set()
        try:
            await self._answer_all(node, listener)
        finally:
            # Also if this is cancelled.
            for connection in tuple(node.connections):
                connection.abort()
            if self._sweeper is not None:
                self._sweeper.cancel()
                await asyncio.wait([self._sweeper])
            await node.close_parts()
            self._lease.give_back()
            await _some_turns()  # the transports' last calls

    async def _answer_all(self, node: Node, listener: Listener) -> None:
        await listener.close()
        await _some_turns()
        for connection in tuple(node.connections):
            connection.stop_reading()
        deadline_s = node.grace_ends_s
        while not all(each.is_idle for each in node.connections):
            if node.loop.time() >= deadline_s:
                logger.warning("stopping: some requests were not answered in time")
                break
            await asyncio.sleep(0.005)
        await self._let_clients_close(node, min(deadline_s, node.loop.time() + LINGER_S))
        for connection in tuple(node.connections):
            connection.close()
        while node.connections and node.loop.time() < deadline_s:
            await asyncio.sleep(0.005)

    async def _let_clients_close(self, node: Node, deadline_s: float) -> None:
        for connection in tuple(node.connections):
            connection.finish()
        while (now_s := node.loop.time()) < deadline_s:
            if all(each.is_quiet(now_s) for each in node.connections):
                return
            await asyncio.sleep(0.005)

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


async def _some_turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def serve(broker: Broker, settings: ServerSettings | None = None, **given: Any) -> Server:
    """A server for a broker, listening while it is entered::

        async with serve(broker, listen="127.0.0.1:0") as server:
            print(server.address)

    Takes the fields of `ServerSettings`, and raises `SettingError` for a bad one.
    """
    if settings is None:
        settings = ServerSettings(**given)
    elif given:
        raise TypeError("give either the settings or single ones")
    return Server(broker, settings)
