"""Servers that die, hang and come back, for the tests of those who use them over the network."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clients.endpoints import free_port
from server_processes import ServerProcess

from seawall.broker import AnyConsumer, Record

PATIENCE_S = 60.0
QUICK = {"reconnect_backoff_ms": 20, "reconnect_backoff_max_ms": 300}


def location(port: int, settings: str = "") -> str:
    return f"kafka://127.0.0.1:{port}?{settings or 'client.id=test'}"


def until(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about in time"
        time.sleep(0.01)


def read(consumer: AnyConsumer, count: int) -> list[Record]:
    found: list[Record] = []

    def enough() -> bool:
        if len(found) < count:
            found.extend(consumer.poll(count - len(found), 100))
        return len(found) >= count

    until(enough)
    return found


class Server:
    """A server at one port, with what it had, each time it is started."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.port = free_port()
        self.process: ServerProcess | None = None

    def start(self, **options: object) -> None:
        self.process = ServerProcess(
            self._folder, port=self.port, group_initial_rebalance_delay_ms=0, **options
        )

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """While inside, it hangs: the kernel accepts connections for it still."""
        assert self.process is not None
        self.process.signal(signal.SIGSTOP)
        # Its threads work on for a moment.
        os.waitid(os.P_PID, self.process.process.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            yield
        finally:
            self.process.signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.signal(signal.SIGCONT)
            self.process.kill()
            self.process = None


@contextmanager
def serving(folder: str) -> Iterator[Server]:
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def hung_listener(port: int) -> Iterator[list[socket.socket]]:
    """What listens there accepts, and never answers. Gives the connections so far."""
    accepted: list[socket.socket] = []
    ended = threading.Event()

    def accept() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            accepted.append(connection)

    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield accepted
        finally:
            ended.set()
            thread.join()
            for connection in accepted:
                connection.close()
