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
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from seawall.broker.broker import Broker
from seawall.broker.torture import histories
from seawall.broker.torture.clients import Surroundings
from seawall.broker.torture.connect import KEEPS_ALL
from seawall.broker.torture.connection import Connection
from seawall.broker.torture.consuming import look_at
from seawall.broker.torture.events import Event, Recorder, encode, read_histories
from seawall.broker.torture.histories import close_stdin, read_everything, run_clients
from seawall.broker.torture.history import Checker
from seawall.broker.torture.network_clients import CLIENTS, SESSION_TIMEOUT_MS
from seawall.broker.torture.network_server import NetworkServer
from seawall.broker.torture.proxy import Proxy
from seawall.wal.torture.search import Broken, Case, Search, Setting, Unavailable, seed_for

QUICK_ROUNDS, QUICK_ROUND_S = 2, 6.0
FULL_ROUNDS, FULL_ROUND_S = 20, 20.0
GROUPS = ("n0", "n1")
EMBEDDED = "e"
# A process that has not ended so long after it should have is stuck.
GRACE_S = 100.0
STARTING_S = 60.0
LONGEST_STOP_S, LONGEST_STALL_S = 1.5, 1.0
# What a dead client has sent may wait so long in the server's sockets.
LINGERING_NS = (SESSION_TIMEOUT_MS + 1_500) * 1_000_000
MOST_SHOWN = 3


class Network(Search):
    """Kafka clients, a server that dies, and a network that fails; the history is checked."""

    name = "network"
    title = "Kafka clients, history checked"
    most_shares = 2

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._rounds = FULL_ROUNDS if setting.full else QUICK_ROUNDS
        self._round_s = FULL_ROUND_S if setting.full else QUICK_ROUND_S

    def prepare(self) -> None:
        """Raises `Unavailable` without the client."""
        if importlib.util.find_spec("confluent_kafka") is None:
            raise Unavailable("confluent-kafka is not installed")

    def cases(self) -> Iterator[Case]:
        """One for each round."""
        for number in range(self._rounds):
            if self.setting.mine(number):
                yield {"round": number}

    def run(self, case: Case) -> None:
        """Play one round, and check its history."""
        seed = seed_for(self.name, self.setting.seed, case["round"])
        folder = tempfile.mkdtemp(prefix="network-", dir=self.setting.memory)
        try:
            with Round(folder, seed, self._round_s) as each:
                each.play()
            figures = each.check()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for name, count in figures.items():
            self.figures[name] = self.figures.get(name, 0) + count


class Round:
    """One directory, its server, the network, and the processes of clients."""

    def __init__(self, folder: str, seed: int, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._random = random.Random(seed)
        self._path = os.path.join(folder, "data")
        self._histories = os.path.join(folder, "histories")
        os.mkdir(self._histories)
        self._topics = {"a": self._random.randrange(1, 4), "b": self._random.randrange(1, 3)}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: list[tuple[float, subprocess.Popen[bytes]]] = []
        self._started = 0
        self._counts: Counter[str] = Counter()
        self._ending = contextlib.ExitStack()

    def __enter__(self) -> Round:
        self._server = self._ending.enter_context(NetworkServer(self._folder, self._path))
        self._proxy = self._ending.enter_context(Proxy(self._server.port))
        self._server.advertised = f"127.0.0.1:{self._proxy.port}"
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children.values():
            child.kill()
            child.wait()
            close_stdin(child)
        self._children.clear()
        self._ending.close()

    # -- playing ---------------------------------------------------------------------

    def play(self) -> None:
        """Let everybody do what they do, then read everything. Raises `Broken`."""
        with Broker.open(self._path) as broker:
            for topic, partitions in self._topics.items():
                segment_bytes = self._random.choice([150_000, 400_000, 1 << 20])
                config = {**KEEPS_ALL, "segment.bytes": segment_bytes}
                broker.create_topic(topic, partitions, config)
        self._server.start()
        for _ in range(self._random.randrange(2, 4)):
            self._start()
        if self._random.random() < 0.5:
            self._start_embedded()
        for name, child in self._children.items():
            self._wait_until_ready(name, child)
        self._conduct(time.monotonic() + self._seconds)
        self._settle()
        with Broker.open(self._path) as broker, self._recorder("final") as recorder:
            self._read_everything(broker, recorder)

    def _conduct(self, until_s: float) -> None:
        """One mishap after the other."""
        mishaps: list[Callable[[], None]] = [
            *(self._kill_server, self._kill_server, self._lose_answers, self._lose_answers),
            *(self._cut, self._stall, self._stall, self._stop_server, self._kill_client),
            self._stop_client,
        ]
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, self._random.uniform(0.05, 0.8)))
            self._go_on(time.monotonic())
            self._look()
            mishap = self._random.choice(mishaps)
            mishap()
            self._counts[mishap.__name__.strip("_").replace("_", " ")] += 1

    def _look(self) -> None:
        """Whether anybody ended who should not have."""
        self._server.check()
        for name, child in self._children.items():
            if child.poll() is not None:
                raise Broken(f"a client ended before its time:\n{self._said(name)}")

    def _kill_server(self) -> None:
        self._server.kill()
        time.sleep(self._random.choice([0, 0, 0.3]))
        self._server.start()

    def _lose_answers(self) -> None:
        """Requests arrive, and nobody is told: the hardest case for whoever sends again."""
        self._proxy.swallow()
        time.sleep(self._random.uniform(0.02, 0.3))
        if self._random.random() < 0.5:
            self._kill_server()
        self._proxy.cut()

    def _cut(self) -> None:
        self._proxy.cut()

    def _stall(self) -> None:
        """For some of them longer than a session: what they sent comes when others have taken
        their place."""
        if self._random.random() < 0.3:
            self._proxy.stall()
            time.sleep(self._random.uniform(0, LONGEST_STALL_S))
        else:
            self._proxy.stall(lambda: self._random.random() < 0.4)
            time.sleep(self._random.uniform(1, 3) * SESSION_TIMEOUT_MS / 1000)
        self._proxy.flow()

    def _stop_server(self) -> None:
        self._server.stop()
        time.sleep(self._random.uniform(0, LONGEST_STOP_S))
        self._server.go_on()

    def _stop_client(self) -> None:
        child = self._random.choice(list(self._children.values()))
        child.send_signal(signal.SIGSTOP)
        # Sometimes for longer than its session.
        longer_s = 2.5 * SESSION_TIMEOUT_MS / 1000
        wake_s = time.monotonic() + self._random.choice([0.3, longer_s, longer_s])
        self._stopped.append((wake_s, child))

    def _go_on(self, now_s: float) -> None:
        for wake_s, child in list(self._stopped):
            if wake_s <= now_s:
                self._stopped.remove((wake_s, child))
                if child.poll() is None:
                    child.send_signal(signal.SIGCONT)

    def _kill_client(self) -> None:
        at_work = [name for name in self._children if self._processes(name)]
        if not at_work:
            return
        name = self._random.choice(at_work)
        child = self._children.pop(name)
        child.kill()
        child.wait()
        close_stdin(child)
        dead_ns = time.monotonic_ns() + LINGERING_NS
        with open(os.path.join(self._histories, f"after-{name}"), "wb") as file:
            for process in self._processes(name):
                file.write(encode(Event(process, 0, dead_ns, "info", "crash")))
        if name.startswith(EMBEDDED):
            self._start_embedded()
        else:
            self._start()

    def _settle(self) -> None:
        """Everything works again, everybody finishes, and the server is killed."""
        self._go_on(float("inf"))
        self._look()
        for child in self._children.values():
            close_stdin(child)
        for name, child in self._children.items():
            self._wait(name, child)
        self._children.clear()
        self._server.kill()

    # -- processes -------------------------------------------------------------------

    def _start(self) -> None:
        clients = ["producer", "producer", "member", "member", "onlooker", "consumer"]
        clients += self._random.choices(list(CLIENTS), k=1)
        self._begin(f"p{self._started}", __name__, clients, address=self._server.advertised)

    def _start_embedded(self) -> None:
        clients = ["producer", "consumer"]
        self._begin(f"{EMBEDDED}{self._started}", histories.__name__, clients, path=self._path)

    def _begin(self, name: str, module: str, clients: list[str], **rest: str) -> None:
        self._started += 1
        description = {
            "histories": self._histories,
            "topics": self._topics,
            "clients": {
                f"{name}{client}{number}": (client, self._random.randrange(2**32))
                for number, client in enumerate(clients)
            },
            **rest,
        }
        with open(self._said_by(name), "wb") as said:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(description)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
            )

    def _processes(self, name: str) -> list[str]:
        """The histories that one process writes; its name is the beginning of theirs."""
        listed = os.listdir(self._histories)
        return [each for each in listed if each.startswith(name) and not each[len(name)].isdigit()]

    def _wait_until_ready(self, name: str, child: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + STARTING_S
        while not self._processes(name):
            if child.poll() is not None or time.monotonic() > deadline_s:
                raise Broken(f"a process of clients does not start:\n{self._said(name)}")
            time.sleep(0.01)

    def _wait(self, name: str, child: subprocess.Popen[bytes]) -> None:
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGABRT)  # has it say where its threads are
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(5)
            raise Broken(f"a process of clients is stuck:\n{self._said(name)}") from None
        if child.returncode != 0:
            raise Broken(f"a client was told what it should not be:\n{self._said(name)}")

    def _said_by(self, name: str) -> str:
        return os.path.join(self._folder, f"{name}.said")

    def _said(self, name: str) -> str:
        with open(self._said_by(name), errors="replace") as file:
            return f"{file.read()[-4000:]}\nthe server:\n{self._server.said()[-1500:]}"

    def _recorder(self, name: str) -> Recorder:
        return Recorder(os.path.join(self._histories, name), name)

    def _read_everything(self, broker: Broker, recorder: Recorder) -> None:
        read_everything(broker, list(self._topics), recorder)
        for group in GROUPS:
            look_at(broker, group, recorder)
        if found := list(broker.verify()):
            raise Broken(f"verify finds damage: {found[:MOST_SHOWN]}")

    # -- checking --------------------------------------------------------------------

    def check(self) -> dict[str, int]:
        """The figures of a round that kept every promise. Raises `Broken`."""
        checker = Checker()
        counts: Counter[str] = Counter()
        for event in self._events():
            checker.feed(event)
            if event.kind == "ok":
                counts[event.op] += 1
                counts["records"] += sum(map(len, event.records.values()))
        if anomalies := checker.finish():
            shown = "\n".join(
                "\n".join([str(each), *self._shown(each.operations)])
                for each in anomalies[:MOST_SHOWN]
            )
            raise Broken(f"anomalies: {checker.report.counts}\n{shown}")
        return {
            "events": checker.events,
            "records acknowledged": counts["send"],
            "records read": counts["records"],
            "acknowledgements": counts["ack"],
            **self._counts,
        }

    def _events(self) -> Iterator[Event]:
        names = sorted(os.listdir(self._histories))
        return read_histories(os.path.join(self._histories, name) for name in names)

    def _shown(self, operations: tuple[tuple[str, int], ...]) -> Iterator[str]:
        """The events that show an anomaly."""
        for event in self._events():
            if (event.process, event.number) in operations:
                yield f"    {encode(event).decode().strip()[:500]}"


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
