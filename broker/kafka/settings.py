"""The settings of `seawall serve`: names, kinds, defaults.

Each setting has one name, Kafka's where Kafka has it, and three ways to be set: a key of
the TOML file (``"socket.request.max.bytes" = 1048576``), a variable of the environment
(``SEAWALL_SOCKET_REQUEST_MAX_BYTES``), and an argument of `serve` or a field here
(``socket_request_max_bytes``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from seawall.broker.kafka.addresses import (
    AddressError,
    is_everywhere,
    is_loopback,
    split_address,
)

MIB = 1 << 20
INT32_MAX = (1 << 31) - 1
INT64_MAX = (1 << 63) - 1
ENVIRONMENT_PREFIX = "SEAWALL_"


class SettingError(ValueError):
    """A setting that is not known, or a value that it cannot have."""


def _number(default: int, minimum: int, maximum: int, description: str) -> Any:
    bounds = {"minimum": minimum, "maximum": maximum, "description": description}
    return field(default=default, metadata=bounds)


def _text(default: str, description: str, words: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"description": description, "words": words})


def _flag(default: bool, description: str) -> Any:
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How a server behaves. Raises `SettingError` for values out of range."""

    listen: str = _text(
        "127.0.0.1:9092", "Where to listen: host:port, [host]:port for IPv6. Port 0: a free one."
    )
    advertise: str = _text(
        "", "The host:port that clients are told to connect to. Empty: where it listens."
    )
    allow_remote: bool = _flag(
        False, "Listen on other addresses than the loopback, although nobody is authenticated."
    )
    node_id: int = _number(1, 0, INT32_MAX, "The id of the one broker that clients see.")
    auto_create_topics_enable: bool = _flag(
        True, "Create a topic when a client asks for its metadata and allows it."
    )
    num_partitions: int = _number(
        1, 1, 10_000, "The partitions of a topic that is created without saying how many."
    )
    validate_records: bool = _flag(
        False, "Parse every record that is produced, and refuse batches that do not parse."
    )
    log_message_timestamp_before_max_ms: int = _number(
        INT64_MAX, 0, INT64_MAX, "How far a record's timestamp may lie in the past, in ms."
    )
    log_message_timestamp_after_max_ms: int = _number(
        INT64_MAX, 0, INT64_MAX, "How far a record's timestamp may lie in the future, in ms."
    )
    socket_request_max_bytes: int = _number(
        100 * MIB, 1024, INT32_MAX, "The largest request. A longer one closes its connection."
    )
    request_max_items: int = _number(
        50_000,
        100,
        INT32_MAX,
        "The most topics, partitions and the like in one request. One with more closes its "
        "connection, before it is parsed.",
    )
    queued_max_request_bytes: int = _number(
        256 * MIB,
        1024,
        INT64_MAX,
        "What all requests that are being received or answered may take together, in bytes, and "
        "once more what they may take when they are parsed. Beyond it, connections are not read "
        "from.",
    )
    queued_max_response_bytes: int = _number(
        256 * MIB,
        1024,
        INT64_MAX,
        "What all fetch responses that are being read or sent may take together, in bytes. "
        "Beyond it, fetches wait.",
    )
    max_in_flight_requests: int = _number(
        64, 1, 10_000, "Unanswered requests of one connection before it is not read from."
    )
    fetch_max_bytes: int = _number(
        16 * MIB, 1024, INT32_MAX, "The most that one fetch response carries, in bytes."
    )
    max_connections: int = _number(4096, 1, 1_000_000, "Connections at the same time.")
    connections_max_idle_ms: int = _number(
        600_000, 1, INT64_MAX, "After so long without a request a connection is closed, in ms."
    )
    receive_timeout_ms: int = _number(
        30_000, 1, INT64_MAX, "How long a request may take to arrive once it began, in ms."
    )
    send_timeout_ms: int = _number(
        30_000, 1, INT64_MAX, "How long a client may read nothing of its responses, in ms."
    )
    group_initial_rebalance_delay_ms: int = _number(
        100,
        0,
        INT32_MAX,
        "How long the first members of an empty group wait for others that are started with "
        "them, in ms. It begins anew with each that comes, ten times at the most.",
    )
    group_min_session_timeout_ms: int = _number(
        500, 1, INT32_MAX, "The shortest session that a member of a group may ask for, in ms."
    )
    group_max_session_timeout_ms: int = _number(
        1_800_000, 1, INT32_MAX, "The longest session that a member may ask for, in ms."
    )
    group_max_size: int = _number(1_000, 1, 1_000, "The most members that a group may have.")
    grace_ms: int = _number(
        10_000, 0, INT64_MAX, "How long stopping may wait for what was accepted, in ms."
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            _check(key_of(each.name), getattr(self, each.name), each.metadata)
        host = told = _host("listen", self.listen)
        if self.advertise:
            told = _host("advertise", self.advertise)
        if not self.allow_remote and not is_loopback(host):
            raise SettingError(
                f"{host} can be reached from other machines, and nobody who connects is "
                "authenticated; listen on 127.0.0.1, or allow it with --allow-remote"
            )
        if is_everywhere(told):
            raise SettingError(
                f"no client can connect to {told}, which is every address of this machine; say "
                "which one they are to connect to with --advertise HOST:PORT"
            )


def key_of(name: str) -> str:
    """The setting's name in files: ``num_partitions`` is ``num.partitions``."""
    return name.replace("_", ".")


def descriptions() -> dict[str, str]:
    """What each setting is, by its key."""
    return {key_of(each.name): each.metadata["description"] for each in fields(ServerSettings)}


def as_text(settings: ServerSettings) -> dict[str, object]:
    """All settings by their keys."""
    return {key_of(each.name): getattr(settings, each.name) for each in fields(settings)}


def settings_from(
    *, file: Mapping[str, object], environment: Mapping[str, str], given: Mapping[str, object]
) -> ServerSettings:
    """The settings in force: `given` (by field name) over the environment over the file.

    Raises `SettingError`, naming the place.
    """
    known = {key_of(each.name): each for each in fields(ServerSettings)}
    values: dict[str, object] = {}
    for key, value in _flat(file).items():
        if key not in known:
            raise SettingError(f"there is no setting {key!r}; {_hint(key, known)}")
        values[known[key].name] = _check(key, value, known[key].metadata, known[key].type)
    for each in known.values():
        variable = ENVIRONMENT_PREFIX + each.name.upper()
        if text := environment.get(variable):
            value = _parse(variable, text, str(each.type))
            values[each.name] = _check(variable, value, each.metadata)
    return ServerSettings(**(values | dict(given)))  # type: ignore[arg-type]


def _hint(key: str, known: Mapping[str, object]) -> str:
    near = get_close_matches(key_of(key), known, 1, 0.8)
    return f"is it {near[0]!r}?" if near else "see `seawall serve --print-config`"


def _host(key: str, address: str) -> str:
    try:
        return split_address(address)[0]
    except AddressError as error:
        raise SettingError(f"{key}: {error}") from None


def _flat(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """A TOML table with dotted keys, which TOML reads as tables in tables, as one.

    A key in quotes is another one to TOML than the same without: `SettingError` for both.
    """
    found: dict[str, object] = {}
    for key, value in table.items():
        more = {prefix + key: value}
        if isinstance(value, Mapping):
            more = _flat(value, f"{prefix}{key}.")
        if twice := found.keys() & more.keys():
            raise SettingError(f"{min(twice)} is set twice, with quotes and without")
        found |= more
    return found


def _parse(variable: str, text: str, kind: str) -> object:
    if kind == "str":
        return text
    if kind == "bool":
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in words:
            raise SettingError(f"{variable} is true or false, not {text!r}")
        return words[text.lower()]
    try:
        return int(text)
    except ValueError:
        raise SettingError(f"{variable} is a whole number, not {text!r}") from None


def _check(key: str, value: object, metadata: Mapping[str, Any], kind: object = None) -> object:
    if "minimum" in metadata:
        low, high = metadata["minimum"], metadata["maximum"]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise SettingError(f"{key} is a whole number from {low} to {high}, not {value!r}")
    elif "words" in metadata:
        if not isinstance(value, str):
            raise SettingError(f"{key} is text, not {value!r}")
    elif not isinstance(value, bool):
        raise SettingError(f"{key} is true or false, not {value!r}")
    return value
