"""Servers that clients are tried with: seawall's, and Apache Kafka itself as the measure."""

from __future__ import annotations

import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from clients.neutral import Neutral
from commands import SEAWALL
from ports import free_port

from seawall.broker.torture.proxy import Proxy

STARTING_S = 120.0


class Endpoint(ABC):
    """A server as a process of its own, behind a network that can be broken.

    It is there while this is entered. It may be killed, and comes back at the same address with
    what it had.
    """

    name = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._proxy = Proxy(self.port)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where clients find it: the proxy."""
        return f"127.0.0.1:{self._proxy.port}"

    @property
    def listen(self) -> str:
        """Where it is itself."""
        return f"127.0.0.1:{self.port}"

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline_s = time.monotonic() + STARTING_S
        while not is_listening(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.kill()
                raise RuntimeError(f"it does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL. Safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def die_unheard(self) -> None:
        """Take requests for a moment without the answers getting through, and be killed.

        What clients have sent is stored, and they do not know.
        """
        self._proxy.swallow()
        time.sleep(0.3)
        self.kill()
        self._proxy.cut()

    def __enter__(self) -> Self:
        self._proxy.__enter__()
        try:
            self.start()
        except BaseException:
            self._proxy.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._proxy.__exit__(None, None, None)


class Seawall(Endpoint):
    """`seawall serve` on a directory."""

    name = "seawall"

    def command(self) -> list[str]:
        where = ["--listen", self.listen, "--advertise", self.address]
        return [SEAWALL, "serve", "-b", str(self.folder / "data"), *where]


class Kafka(Endpoint):
    """Apache Kafka: one node, KRaft. ``lib``: the folder with its jars.

    ``listeners``: more of them, as name -> (port, protocol); clients find these without the
    proxy. ``settings`` are more lines of its properties, ``arguments`` more of formatting.
    """

    name = "Apache Kafka"

    def __init__(
        self,
        folder: Path,
        lib: Path,
        *,
        listeners: Mapping[str, tuple[int, str]] = MappingProxyType({}),
        settings: Mapping[str, str] = MappingProxyType({}),
        arguments: Sequence[str] = (),
        cluster_id: str = "AAAAAAAAAAAAAAAAAAAAAQ",
    ) -> None:
        super().__init__(folder)
        self._lib = lib
        self._controller_port = free_port()
        self._properties = folder / "server.properties"
        self._listeners = listeners
        self._cluster_id = cluster_id
        self._format(settings, arguments)

    def _format(self, settings: Mapping[str, str], arguments: Sequence[str]) -> None:
        more = {name: f"{name}://127.0.0.1:{port}" for name, (port, _) in self._listeners.items()}
        protocols = {name: f"{name}:{protocol}" for name, (_, protocol) in self._listeners.items()}
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": ",".join(
                (
                    f"PLAINTEXT://{self.listen}",
                    f"CONTROLLER://127.0.0.1:{self._controller_port}",
                    *more.values(),
                )
            ),
            "advertised.listeners": ",".join((f"PLAINTEXT://{self.address}", *more.values())),
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": ",".join(
                ("CONTROLLER:PLAINTEXT", "PLAINTEXT:PLAINTEXT", *protocols.values())
            ),
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            **settings,
        }
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        self._properties.write_text(text)
        subprocess.run(
            [
                *self._java("kafka.tools.StorageTool"),
                *("format", "-t", self._cluster_id, "-c", str(self._properties)),
                *arguments,
            ],
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
        with Neutral(self.address) as neutral:
            neutral.create("first", is_there=True)
            neutral.commit("first", "first", {0: 0})


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(10)
        return client.connect_ex(("127.0.0.1", port)) == 0
