"""The search "network": Kafka clients at random, on a network and a server that fail them.

Each round has a directory, a server on it, and two or three processes of Kafka clients that
reach it through a proxy; sometimes another process has the directory open and uses it without
the server. Meanwhile the server is killed and started again, it and the clients are stopped
for a while, connections are cut, stall, or lose the answers. In the end the server is killed,
everything is read from the directory, and the history is checked.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from seawall.broker.torture import histories
from seawall.broker.torture.client_rounds import ClientRound, ClientRounds, run_clients
from seawall.broker.torture.clients import Surroundings
from seawall.broker.torture.connection import Connection
from seawall.broker.torture.network_clients import CLIENTS, SESSION_TIMEOUT_MS
from seawall.broker.torture.network_server import NetworkServer
from seawall.broker.torture.proxy import Proxy
from seawall.wal.torture.search import Setting, Unavailable

QUICK_ROUNDS, QUICK_ROUND_S = 2, 6.0
FULL_ROUNDS, FULL_ROUND_S = 20, 20.0
GROUPS = ("n0", "n1")
EMBEDDED = "e"
LONGEST_STOP_S, LONGEST_STALL_S = 1.5, 1.0
# What a dead client has sent may wait so long in the server's sockets.
LINGERING_NS = (SESSION_TIMEOUT_MS + 1_500) * 1_000_000
SERVER_SAID = 1500  # characters


class Network(ClientRounds):
    """Kafka clients, a server that dies, and a network that fails; the history is checked."""

    name = "network"
    title = "Kafka clients, history checked"
    most_shares = 2

    def __init__(self, setting: Setting) -> None:
        super().__init__(
            setting,
            FULL_ROUNDS if setting.full else QUICK_ROUNDS,
            FULL_ROUND_S if setting.full else QUICK_ROUND_S,
        )

    def prepare(self) -> None:
        """Raises `Unavailable` without the client."""
        if importlib.util.find_spec("confluent_kafka") is None:
            raise Unavailable("confluent-kafka is not installed")

    def new_round(self, folder: str, seed: int, seconds: float) -> ClientRound:
        """A round, to be played in an empty folder."""
        return Round(folder, seed, seconds)


class Round(ClientRound):
    """One directory, its server, the network, and the processes of clients."""

    groups = GROUPS
    segment_bytes = (150_000, 400_000, 1 << 20)
    grace_s = 100.0

    def __init__(self, folder: str, seed: int, seconds: float) -> None:
        super().__init__(folder, seed, seconds)
        self._stopped: list[tuple[float, subprocess.Popen[bytes]]] = []
        self._ending = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._server = self._ending.enter_context(NetworkServer(self.folder, self.path))
        self._proxy = self._ending.enter_context(Proxy(self._server.port))
        self._server.advertised = f"127.0.0.1:{self._proxy.port}"
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._ending.close()

    # -- playing ---------------------------------------------------------------------

    def play(self) -> None:
        """Let everybody do what they do, then read everything. Raises `Broken`."""
        self.create_topics()
        self._server.start()
        for _ in range(self.random.randrange(2, 4)):
            self._start()
        if self.random.random() < 0.5:
            self._start_embedded()
        self.wait_until_all_are_ready()
        self._conduct(time.monotonic() + self.seconds)
        self._settle()
        self.read_everything()

    def _conduct(self, until_s: float) -> None:
        """One mishap after the other."""
        mishaps: list[Callable[[], None]] = [
            *(self._kill_server, self._kill_server, self._lose_answers, self._lose_answers),
            *(self._cut, self._stall, self._stall, self._stop_server, self._kill_client),
            self._stop_client,
        ]
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, self.random.uniform(0.05, 0.8)))
            self._go_on(time.monotonic())
            self.look()
            mishap = self.random.choice(mishaps)
            mishap()
            self.counts[mishap.__name__.strip("_").replace("_", " ")] += 1

    def look(self) -> None:
        """Raise `Broken` if anybody ended who should not have."""
        self._server.check()
        super().look()

    def _kill_server(self) -> None:
        self._server.kill()
        time.sleep(self.random.choice([0, 0, 0.3]))
        self._server.start()

    def _lose_answers(self) -> None:
        """Requests arrive, and nobody is told: the hardest case for whoever sends again."""
        self._proxy.swallow()
        time.sleep(self.random.uniform(0.02, 0.3))
        if self.random.random() < 0.5:
            self._kill_server()
        self._proxy.cut()

    def _cut(self) -> None:
        self._proxy.cut()

    def _stall(self) -> None:
        """For some of them longer than a session: what they sent comes when others have taken
        their place."""
        if self.random.random() < 0.3:
            self._proxy.stall()
            time.sleep(self.random.uniform(0, LONGEST_STALL_S))
        else:
            self._proxy.stall(lambda: self.random.random() < 0.4)
            time.sleep(self.random.uniform(1, 3) * SESSION_TIMEOUT_MS / 1000)
        self._proxy.flow()

    def _stop_server(self) -> None:
        self._server.stop()
        time.sleep(self.random.uniform(0, LONGEST_STOP_S))
        self._server.go_on()

    def _stop_client(self) -> None:
        child = self.random.choice(list(self.children.values()))
        child.send_signal(signal.SIGSTOP)
        # Sometimes for longer than its session.
        longer_s = 2.5 * SESSION_TIMEOUT_MS / 1000
        wake_s = time.monotonic() + self.random.choice([0.3, longer_s, longer_s])
        self._stopped.append((wake_s, child))

    def _go_on(self, now_s: float) -> None:
        for wake_s, child in list(self._stopped):
            if wake_s <= now_s:
                self._stopped.remove((wake_s, child))
                if child.poll() is None:
                    child.send_signal(signal.SIGCONT)

    def _kill_client(self) -> None:
        at_work = self.at_work()
        if not at_work:
            return
        name = self.random.choice(at_work)
        self.kill(name, lingering_ns=LINGERING_NS)
        if name.startswith(EMBEDDED):
            self._start_embedded()
        else:
            self._start()

    def _settle(self) -> None:
        """Everything works again, everybody finishes, and the server is killed."""
        self._go_on(float("inf"))
        self.look()
        self.finish()
        self._server.kill()

    # -- processes -------------------------------------------------------------------

    def _start(self) -> None:
        clients = ["producer", "producer", "member", "member", "onlooker", "consumer"]
        clients += self.random.choices(list(CLIENTS), k=1)
        self.begin(f"p{self.started}", __name__, clients, address=self._server.advertised)

    def _start_embedded(self) -> None:
        clients = ["producer", "consumer"]
        self.begin(f"{EMBEDDED}{self.started}", histories.__name__, clients, path=self.path)

    def said(self, name: str) -> str:
        """The last words of a process, and of the server."""
        return f"{super().said(name)}\nthe server:\n{self._server.said()[-SERVER_SAID:]}"


# -- a process of clients ------------------------------------------------------------


def main(description: Mapping[str, Any]) -> int:
    """Run the clients of one process until the standard input ends. Returns the exit status."""
    over = threading.Event()
    surroundings = Surroundings(
        connect=_connect,
        topics=description["topics"],
        groups=GROUPS,
        is_over=over.is_set,
        histories=description["histories"],
        address=description["address"],
    )
    return run_clients(CLIENTS, surroundings, description["clients"], over)


def _connect() -> Connection:
    raise NotImplementedError("they connect by themselves")


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
