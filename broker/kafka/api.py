"""What an API is to the server, and what its handler is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from seawall.broker.kafka.schema import Values

if TYPE_CHECKING:
    from seawall.broker.broker import Broker
    from seawall.broker.engine import Engine
    from seawall.broker.kafka.connection import Connection
    from seawall.broker.kafka.node import Node
    from seawall.broker.kafka.settings import ServerSettings

P = ParamSpec("P")
T = TypeVar("T")

Handler = Callable[[Any, "RequestContext"], Awaitable[Any]]
Refusal = Callable[[Any, int, str], Values]


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One API of the protocol.

    ``versions``: the lowest and the highest that are answered. ``advertised_from``: a lower
    one to name in ApiVersions. ``refuse`` makes a response of a request, an error code and a
    message, where the response has no ``error_code`` at its top. ``is_pipelined``: a request
    may begin before those ahead of it on its connection are answered. ``is_long``: a response
    may be so long that a thread of the executor makes its bytes, so that the loop goes on.
    ``is_of_coordinator``: members of groups ask it, who give up at codes that others bear with.
    """

    key: int
    name: str
    versions: tuple[int, int]
    handle: Handler
    refuse: Refusal | None = None
    advertised_from: int | None = None
    is_pipelined: bool = False
    is_long: bool = False
    is_of_coordinator: bool = False

    @property
    def advertised(self) -> tuple[int, int]:
        """The versions that ApiVersions names."""
        low, high = self.versions
        return (low if self.advertised_from is None else self.advertised_from), high


class RequestContext:
    """What a handler knows about a request besides its contents."""

    __slots__ = ("client_id", "connection", "node", "response_bytes", "version")

    def __init__(
        self, *, version: int, client_id: str | None, connection: Connection, node: Node
    ) -> None:
        self.version = version
        self.client_id = client_id or ""
        self.connection = connection
        self.node = node
        # What the handler has acquired of the node's `response_budget`; it is given back
        # once the response has been sent.
        self.response_bytes = 0

    @property
    def broker(self) -> Broker:
        return self.node.broker

    @property
    def engine(self) -> Engine:
        return self.node.broker.engine

    @property
    def settings(self) -> ServerSettings:
        return self.node.settings

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work on the engine's executor; raises `BrokerError`s."""
        return await self.node.run(call, *args, **kwargs)

    async def hold(self, size: int) -> None:
        """Have the memory for a response that may take so much, before it is made."""
        self.hold_only(0)
        await self.node.response_budget.acquire(size)
        self.response_bytes = size

    def hold_only(self, size: int) -> None:
        """Hold what the response really takes, until it has been sent."""
        self.node.response_budget.release(self.response_bytes - size)
        self.response_bytes = size
