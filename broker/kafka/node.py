"""The one broker node that clients see: what all connections and handlers share."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from seawall.broker.broker import Broker
from seawall.broker.errors import BrokerClosed
from seawall.broker.kafka.budget import Budget
from seawall.broker.kafka.registry import load_apis
from seawall.broker.kafka.settings import ServerSettings
from seawall.broker.translation import translated

if TYPE_CHECKING:
    from seawall.broker.kafka.connection import Connection

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("seawall.kafka")


class Part(Protocol):
    """Something that lives as long as the server does. Made with the node, in the loop."""

    def __init__(self, node: Node) -> None: ...

    async def close(self) -> None:
        """Let go; the executor still works."""


AnyPart = TypeVar("AnyPart", bound=Part)


class Node:
    """What handlers share. Belongs to one event loop."""

    def __init__(self, broker: Broker, settings: ServerSettings) -> None:
        self.broker = broker
        self.settings = settings
        self.apis = load_apis()
        self.loop = asyncio.get_running_loop()
        self.executor = broker.engine.executor
        self.request_budget = Budget(settings.queued_max_request_bytes)
        # What requests take once they are parsed. Apart from the other, because who waits for it
        # holds some of that.
        self.parsed_budget = Budget(settings.queued_max_request_bytes)
        self.response_budget = Budget(settings.queued_max_response_bytes)
        self.connections: set[Connection] = set()
        # Set when the server stops: who waits for long answers with what there is.
        self.stopping = asyncio.Event()
        # Until when what was accepted may still be begun; known once the server stops.
        self.grace_ends_s = math.inf
        # Where clients are told to connect to; known once the server listens.
        self.host = ""
        self.port = 0
        self._parts: dict[type[Any], Part] = {}

    @property
    def node_id(self) -> int:
        return self.settings.node_id

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work on the engine's executor; raises `BrokerError`s."""

        def work() -> T:
            with translated():
                return call(*args, **kwargs)

        try:
            running = self.loop.run_in_executor(self.executor, work)
        except RuntimeError:  # it was shut down
            raise BrokerClosed(what="broker") from None
        return await running

    def part(self, kind: type[AnyPart]) -> AnyPart:
        """The node's part of a kind, made when it is first asked for."""
        found = self._parts.get(kind)
        if found is None:
            found = self._parts[kind] = kind(self)
        return found  # type: ignore[return-value]

    async def close_parts(self) -> None:
        """Close all parts, the newest first."""
        while self._parts:
            _, part = self._parts.popitem()
            try:
                await part.close()
            except Exception:
                logger.exception("closing %s failed", type(part).__name__)

    def now_ms(self) -> int:
        return int(time.time() * 1000)
