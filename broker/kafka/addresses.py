"""Addresses as people write them: ``host:port``, and ``[host]:port`` for IPv6."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


class AddressError(ValueError):
    """Text that is no address."""


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` in its parts; an IPv6 address stands in brackets. Raises `AddressError`."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535
    if not (colon and is_port and _is_host(host)):
        raise AddressError(f"{address!r} is not host:port, such as 127.0.0.1:9092 or [::1]:9092")
    return host, int(port)


def _is_host(host: str) -> bool:
    """Whether it can be looked up at all."""
    try:
        return bool(host.encode("idna")) and host.isprintable() and " " not in host
    except UnicodeError:
        return False


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: whatever it stands for


def is_everywhere(host: str) -> bool:
    """Whether it stands for all addresses of this machine, and so for none to connect to."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def peer_name(transport: asyncio.BaseTransport) -> str:
    """Where a connection comes from, for people."""
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple) and len(peer) >= 2:
        return f"{peer[0]}:{peer[1]}"
    return str(peer or "?")
