"""Servers that clients are tried with: seawall's, and Apache Kafka itself as the measure."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from clients.neutral import Neutral

STARTING_S = 60.0


class Endpoint(Protocol):
    """A server that can be killed and comes back at the same address, with what it had."""

    @property
    def address(self) -> str: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...


class Process:
    """A server as a process of its own, at a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return os.environ

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
            )
        deadline_s = time.monotonic() + STARTING_S
        while not is_listening(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.kill()
                raise RuntimeError(f"it does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL. Safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Seawall(Process):
    """`seawall serve` on a directory."""

    def command(self) -> list[str]:
        seawall = str(Path(sys.executable).with_name("seawall"))
        return [seawall, "serve", "-b", str(self.folder / "data"), "--listen", self.address]


class Kafka(Process):
    """Apache Kafka: one node, KRaft. ``lib``: the folder with its jars."""

    def __init__(self, folder: Path, lib: Path) -> None:
        super().__init__(folder)
        self._lib = lib
        self._controller_port = free_port()
        self._properties = folder / "server.properties"

    def format(self) -> None:
        """Make the folder a node's."""
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": f"PLAINTEXT://{self.address},"
            f"CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
        }
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        self._properties.write_text(text)
        subprocess.run(
            [*self._java("kafka.tools.StorageTool"), "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ"]
            + ["-c", str(self._properties)],
            check=True,
            capture_output=True,
        )

    def _java(self, main: str) -> list[str]:
        return ["java", "-Xmx512m", "-cp", f"{self._lib}/*", main]

    def command(self) -> list[str]:
        return [*self._java("kafka.Kafka"), str(self._properties)]

    def start(self) -> None:
        super().start()
        # Its topic of offsets is made when a group first needs it, and until it is there, some
        # clients give up.
        neutral = Neutral(self.address)
        neutral.create("first", is_there=True)
        neutral.commit("first", "first", {0: 0})
        neutral.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="seawall-clients-")
