"""Ports that stay free until somebody listens on them, and between a server and the next."""

from __future__ import annotations

import itertools
import os
import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000


def _first_ephemeral() -> int:
    """From here on, ports are given to whoever asks for any: to each client that connects."""
    try:
        return int(_RANGE.read_text().split()[0])
    except OSError:
        return 32_768


def _candidates() -> itertools.cycle[int]:
    """The ports of this process. Those of a worker of pytest are no other worker's."""
    ports = range(_LOWEST, max(_LOWEST + 1_000, _first_ephemeral()))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = ports[worker % workers :: workers]
    begin = random.SystemRandom().randrange(len(mine))  # another run may be there, too
    return itertools.cycle([*mine[begin:], *mine[:begin]])


_ports = _candidates()


def free_port() -> int:
    """A port of the loopback that nobody listens on, and that nobody gets who asks for any.

    So a server can be killed and started again there, however long that takes.
    """
    for port in itertools.islice(_ports, 1_000):
        with socket.socket() as listener:
            # as servers do: what a connection of before has left is no hindrance
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError("no port is free")
