"""A server in a process of its own, to be stopped and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from commands import TIMEOUT_S, environment, pipe_of
from ports import free_port

_SCRIPT = """
import json, sys
from seawall.broker import Broker
from seawall.broker.kafka import coordinator, coordinator_rebalance, coordinator_store
from seawall.broker.kafka.threaded import ServerThread

options = json.loads(sys.argv[1])
coordinator_store.LATE_MS = options.pop("late_ms", coordinator_store.LATE_MS)
coordinator.BEAT_INTERVAL_S = options.pop("beat_s", coordinator.BEAT_INTERVAL_S)
coordinator_rebalance.UNHEARD_WAIT_MS = options.pop(
    "unheard_wait_ms", coordinator_rebalance.UNHEARD_WAIT_MS
)
with Broker.open(options.pop("folder")) as broker, ServerThread(broker, **options) as server:
    print(server.address, flush=True)
    sys.stdin.read()
"""


class ServerProcess:
    """A server that is running. ``address`` is for a client's ``bootstrap.servers``.

    Another one can be started at its `port` when it is gone. ``late_ms``: when it takes itself
    for having been silent; ``beat_s``: how often it looks; ``unheard_wait_ms``: how long it waits
    for members of the server before.
    """

    def __init__(self, folder: str, *, port: int = 0, **options: Any) -> None:
        port = port or free_port()
        arguments = json.dumps({"folder": folder, "listen": f"127.0.0.1:{port}", **options})
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        self.address = pipe_of(self.process.stdout).readline().decode().strip()
        self.port = port
        if not self.address:
            self.kill()
            raise RuntimeError(f"the server has ended with {self.process.returncode}")

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self._wait()

    def stop(self) -> None:
        """Have it end by itself."""
        pipe_of(self.process.stdin).close()
        self._wait()

    def _wait(self) -> None:
        try:
            self.process.wait(TIMEOUT_S)
        finally:
            for pipe in (self.process.stdin, self.process.stdout):
                pipe_of(pipe).close()


@contextmanager
def server_process(folder: str, **options: Any) -> Iterator[ServerProcess]:
    """One that is killed at the end if it still runs."""
    server = ServerProcess(folder, **options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.signal(signal.SIGCONT)
            server.kill()
