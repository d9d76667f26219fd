"""Where a broker is: a directory, or servers that speak the Kafka protocol.

``kafka://host:port[,host:port…][?setting=value&…]``, with port 9092 if there is none, and
IPv6 addresses in brackets. The settings are librdkafka's, percent-encoded as in any URL.
Pure: nothing is opened, resolved or imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from seawall.broker.errors_remote import InvalidLocation

SCHEME = "kafka://"
DEFAULT_PORT = 9092
MOST_SERVERS = 1_000

# With one slash it is a slip: else a directory would be made of it.
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|kafka:/")
_SERVER = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[^\s\[\]:/@?#,]+)(?::(?P<port>\d{1,5}))?")
_NAME = re.compile(r"[a-z][a-z0-9._]*")

# What seawall sets by itself, and where it is said instead.
_TAKEN = {
    "bootstrap.servers": "the servers stand behind kafka://",
    "metadata.broker.list": "the servers stand behind kafka://",
    "group.id": "the group is an argument of consumer()",
    "group.instance.id": "group_instance_id is an argument of consumer()",
    "enable.auto.commit": "enable_auto_commit is an argument of consumer()",
    "enable.auto.offset.store": "what was handled is acknowledged",
    "auto.offset.reset": "auto_offset_reset is an argument of consumer()",
    "partition.assignment.strategy": "partition_assignment_strategy is an argument of consumer()",
    "acks": "a record is acknowledged by all replicas in sync",
    "request.required.acks": "a record is acknowledged by all replicas in sync",
    "enable.idempotence": "idempotent is an argument of producer()",
    "transactional.id": "there are no transactions",
    "message.timeout.ms": "delivery_timeout_ms is an argument of producer()",
    "delivery.timeout.ms": "delivery_timeout_ms is an argument of producer()",
    "group.protocol": "members are of Kafka's classic protocol",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Servers, as (host, port), and librdkafka's settings for talking to them."""

    servers: tuple[tuple[str, int], ...]
    settings: Mapping[str, str]

    @property
    def bootstrap(self) -> str:
        """librdkafka's ``bootstrap.servers``."""
        return ",".join(f"{host}:{port}" for host, port in self.servers)

    def __str__(self) -> str:
        """For people: without the settings, which may be secrets."""
        return f"{SCHEME}{self.bootstrap}"


def is_cluster(location: str) -> bool:
    """Whether a location is meant to be servers, and not a directory."""
    return _SCHEME.match(location) is not None


def parse_cluster(location: str) -> Cluster:
    """The parts of a ``kafka://`` location. Raises `InvalidLocation`."""
    shown = location.partition("?")[0]
    if "@" in shown:  # as in other URLs; what comes before it is not to be shown
        shown = f"{shown.partition('://')[0]}://…@{shown.rpartition('@')[2]}"

    def invalid(reason: str) -> InvalidLocation:
        return InvalidLocation(location=shown, reason=reason)

    if not location.startswith(SCHEME):
        raise invalid("only kafka:// is known")
    if "@" in location.partition("?")[0]:
        raise invalid(
            "a name and a password are settings behind the ?: security.protocol=sasl_ssl&"
            "sasl.mechanism=…&sasl.username=…&sasl.password=…"
        )
    rest, _, query = location[len(SCHEME) :].partition("?")
    named = rest.rstrip("/").split(",")
    if len(named) > MOST_SERVERS:
        raise invalid(f"it names {len(named)} servers, and {MOST_SERVERS} at the most make sense")
    servers = []
    for each in named:
        match = _SERVER.fullmatch(each)
        if match is None:
            raise invalid(f"{each!r} is not HOST:PORT" if each else "a server is missing")
        port = int(match["port"] or DEFAULT_PORT)
        if not 0 < port < 65_536:
            raise invalid(f"{port} is no port")
        servers.append((match["host"], port))
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise invalid("behind the ? stand SETTING=VALUE, with & in between") from None
    settings: dict[str, str] = {}
    for name, value in pairs:
        if name in _TAKEN:
            raise invalid(f"{name} is not for the location: {_TAKEN[name]}")
        if _NAME.fullmatch(name) is None or "\0" in value:
            raise invalid(f"{name!r} is no setting's name, or its value is none")
        if name in settings:
            raise invalid(f"{name} is there twice")
        settings[name] = value
    return Cluster(servers=tuple(servers), settings=settings)
