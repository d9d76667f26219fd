"""`connect`: one way to open a broker, wherever it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from seawall.broker.errors import MissingExtra
from seawall.broker.location import is_cluster, parse_cluster

if TYPE_CHECKING:
    from seawall.broker.interface import AnyBroker
    from seawall.broker.remote.supervisor import OnConnected, OnReconnect


def connect(
    location: str | os.PathLike[str] = "data",
    *,
    create: bool = True,
    open_timeout_ms: int = 30_000,
    reconnect_backoff_ms: float = 100,
    reconnect_backoff_max_ms: float = 10_000,
    reconnect_attempts: int | None = None,
    on_reconnect: OnReconnect | None = None,
    on_connected: OnConnected | None = None,
) -> AnyBroker:
    """Open a directory, or servers that speak the Kafka protocol.

    ``location``: a path, or ``kafka://host:port[,host:port…][?setting=value&…]`` with any of
    librdkafka's settings, such as ``security.protocol``.

    ``create`` and ``open_timeout_ms`` are for directories, and those of `Broker.open`.

    All others are for servers. While none answers, everything waits that needs one, and the
    servers are probed: before attempt n (from 0) it waits between 0 and
    ``reconnect_backoff_ms * 2^n``, at the most ``reconnect_backoff_max_ms``.
    ``reconnect_attempts`` bounds how often; then all that waits gets `ConnectionLost`.
    ``on_reconnect(attempt, delay_s, error)`` is called before each wait, and
    ``on_connected(away_s)`` when a server answers again; both in a thread of their own, and
    with servers that are there at once never.

    Raises `InvalidLocation`, `MissingExtra` without confluent-kafka, ValueError, and what
    `Broker.open` raises. Servers need not be there yet.
    """
    where = os.fspath(location)
    if not is_cluster(where):
        from seawall.broker.broker import Broker

        return Broker.open(where, create=create, open_timeout_ms=open_timeout_ms)
    cluster = parse_cluster(where)
    try:
        import seawall.broker.remote.broker as remote
        from seawall.broker.remote.supervisor import ReconnectSettings
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "confluent_kafka":
            raise
        raise MissingExtra(
            location=str(cluster), package="confluent-kafka", extra="kafka"
        ) from None
    return remote.RemoteBroker(
        cluster,
        ReconnectSettings(
            reconnect_backoff_ms=reconnect_backoff_ms,
            reconnect_backoff_max_ms=reconnect_backoff_max_ms,
            reconnect_attempts=reconnect_attempts,
            on_reconnect=on_reconnect,
            on_connected=on_connected,
        ),
    )
