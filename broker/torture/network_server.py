"""The server of the search "network", as a process that is killed and stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from types import TracebackType

from seawall.wal.torture.search import Broken

STARTING_S = 60.0


class NetworkServer:
    """One server after the other, at the same port. ``advertised``: what clients are told."""

    def __init__(self, folder: str, path: str) -> None:
        self._path = path
        self._log = os.path.join(folder, "server.said")
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self.advertised = ""

    def start(self) -> None:
        """Begin, and wait until it listens. Raises `Broken`."""
        listen = f"127.0.0.1:{self.port}"
        with open(self._log, "ab") as said:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "seawall.broker.torture.served"),
                    *(self._path, listen, self.advertised, str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        deadline_s = time.monotonic() + STARTING_S
        while not self._is_listening():
            self.check()
            if time.monotonic() > deadline_s:
                raise Broken(f"the server does not start:\n{self.said()}")
            time.sleep(0.01)

    def _is_listening(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def check(self) -> None:
        """Raises `Broken` if it ended by itself."""
        if self._process is None or self._process.poll() is not None:
            raise Broken(f"the server ended by itself:\n{self.said()}")

    def kill(self) -> None:
        """SIGKILL. Safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """SIGSTOP, until `go_on`."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def said(self) -> str:
        """Its last words."""
        with open(self._log, errors="replace") as file:
            return file.read()[-4000:]

    def __enter__(self) -> NetworkServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
