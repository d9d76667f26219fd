"""The search "histories": random clients in several processes, whose history is checked.

Each round has a new directory, two or three processes with some threads each, and nothing
goes wrong but that now and then one of the processes is killed and another one started.
Afterwards everything is read once more.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from seawall.broker.broker import Broker
from seawall.broker.torture.anomalies import Anomaly
from seawall.broker.torture.clients import Client, Surroundings
from seawall.broker.torture.connect import KEEPS_ALL
from seawall.broker.torture.connection import Connection
from seawall.broker.torture.consuming import (
    ConsumingClient,
    GroupClient,
    OperatingClient,
    as_said,
    look_at,
    positions_of,
)
from seawall.broker.torture.events import Event, Recorder, encode, read_histories
from seawall.broker.torture.history import Checker
from seawall.broker.torture.producing import ProducingClient, SharingClient
from seawall.wal.torture.search import Broken, Case, Search, Setting, seed_for

CLIENTS: Mapping[str, type[Client]] = {
    "producer": ProducingClient,
    "sharer": SharingClient,
    "consumer": ConsumingClient,
    "member": GroupClient,
    "operator": OperatingClient,
}
QUICK_ROUNDS, QUICK_ROUND_S = 3, 2.0
FULL_ROUNDS, FULL_ROUND_S = 30, 10.0
GROUPS = ("g0", "g1", "g2")
# A process that has not ended so long after it should have is stuck.
GRACE_S = 60.0
LAST_WORDS_S = 5.0
MOST_SHOWN = 3


class Histories(Search):
    """Random clients, and what they were told held against what the log has."""

    name = "histories"
    title = "random clients, history checked"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._rounds = FULL_ROUNDS if setting.full else QUICK_ROUNDS
        self._round_s = FULL_ROUND_S if setting.full else QUICK_ROUND_S

    def cases(self) -> Iterator[Case]:
        """One for each round."""
        for number in range(self._rounds):
            if self.setting.mine(number):
                yield {"round": number}

    def run(self, case: Case) -> None:
        """Play one round, and check its history."""
        seed = seed_for(self.name, self.setting.seed, case["round"])
        folder = tempfile.mkdtemp(prefix="histories-", dir=self.setting.memory)
        try:
            with Round(folder, seed, self._round_s) as each:
                each.play()
            figures = each.check()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for name, count in figures.items():
            self.figures[name] = self.figures.get(name, 0) + count


class Round:
    """One directory and the processes that use it."""

    def __init__(self, folder: str, seed: int, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._random = random.Random(seed)
        self._path = os.path.join(folder, "data")
        self._histories = os.path.join(folder, "histories")
        os.mkdir(self._histories)
        self._topics = {"a": self._random.randrange(1, 4), "b": self._random.randrange(1, 3)}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0
        self._killed = 0

    def __enter__(self) -> Round:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children.values():
            child.kill()
            child.wait()
            close_stdin(child)
        self._children.clear()

    # -- playing ---------------------------------------------------------------------

    def play(self) -> None:
        """Let everybody do what they do, then read everything. Raises `Broken`."""
        with Broker.open(self._path) as broker:
            for topic, partitions in self._topics.items():
                segment_bytes = self._random.choice([4_096, 20_000, 1 << 20])
                config = {**KEEPS_ALL, "segment.bytes": segment_bytes}
                broker.create_topic(topic, partitions, config)
        stays_open = self._random.random() < 0.5  # else processes are often alone
        other = Broker.open(self._path) if stays_open else None
        try:
            for _ in range(self._random.randrange(2, 4)):
                self._start()
            for name, child in self._children.items():
                self._wait_until_ready(name, child)
            self._conduct(time.monotonic() + self._seconds)
            for child in self._children.values():
                close_stdin(child)
            for name, child in self._children.items():
                self._wait(name, child)
            self._children.clear()
            self._read_everything()
        finally:
            if other is not None:
                other.close()

    def _conduct(self, until_s: float) -> None:
        """Kill somebody now and then, and start somebody else."""
        kills = self._random.random() < 0.7
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, self._random.uniform(0.1, 1.0)))
            for name, child in self._children.items():
                if child.poll() is not None:
                    raise Broken(f"a client ended before its time:\n{self._said(name)}")
            at_work = [name for name in self._children if self._is_at_work(name)]
            if kills and at_work and time.monotonic() < until_s:
                self._kill(self._random.choice(at_work))
                self._start()

    def _start(self) -> None:
        name = f"p{self._started}"
        self._started += 1
        clients = ["producer", "consumer", "member"]
        clients += self._random.choices(list(CLIENTS), k=self._random.randrange(1, 4))
        description = {
            "path": self._path,
            "histories": self._histories,
            "topics": self._topics,
            "clients": {
                f"{name}{client}{number}": (client, self._random.randrange(2**32))
                for number, client in enumerate(clients)
            },
        }
        with open(self._said_by(name), "wb") as said:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", __name__, json.dumps(description)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
            )

    def _processes(self, name: str) -> list[str]:
        """The histories that one process writes; its name is the beginning of theirs."""
        listed = os.listdir(self._histories)
        return [each for each in listed if re.match(rf"{name}\D", each)]

    def _is_at_work(self, name: str) -> bool:
        """Whether a process has begun to write histories."""
        return bool(self._processes(name))

    def _wait_until_ready(self, name: str, child: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + GRACE_S
        while not self._is_at_work(name):
            if child.poll() is not None or time.monotonic() > deadline_s:
                raise Broken(f"a process of clients does not start:\n{self._said(name)}")
            time.sleep(0.01)

    def _kill(self, name: str) -> None:
        child = self._children[name]
        child.kill()
        child.wait()
        close_stdin(child)
        del self._children[name]
        self._killed += 1
        now_ns = time.monotonic_ns()
        with open(os.path.join(self._histories, f"after-{name}"), "wb") as file:
            for process in self._processes(name):
                file.write(encode(Event(process, 0, now_ns, "info", "crash")))

    def _wait(self, name: str, child: subprocess.Popen[bytes]) -> None:
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGABRT)  # has it say where its threads are
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(LAST_WORDS_S)
            raise Broken(f"a process of clients is stuck:\n{self._said(name)}") from None
        if child.returncode != 0:
            raise Broken(f"a client got what it should not have:\n{self._said(name)}")

    def _said_by(self, name: str) -> str:
        return os.path.join(self._folder, f"{name}.said")

    def _said(self, name: str) -> str:
        with open(self._said_by(name), errors="replace") as file:
            return file.read()[-6000:]

    def _read_everything(self) -> None:
        with (
            Broker.open(self._path) as broker,
            Recorder(os.path.join(self._histories, "final"), "final") as recorder,
        ):
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
                counts["records read"] += sum(map(len, event.records.values()))
            elif (
                event.op == "send"
                and event.kind != "invoke"
                and (event.kind == "info" or not event.error.startswith("BrokerClosed"))
            ):
                raise Broken(f"a record was not sent, for no reason: {event}")
        if anomalies := checker.finish():
            shown = "\n".join(self._explained(each) for each in anomalies[:MOST_SHOWN])
            raise Broken(f"anomalies: {checker.report.counts}\n{shown}")
        return {
            "events": checker.events,
            "records acknowledged": counts["send"],
            "records read": counts["records read"],
            "acknowledgements": counts["ack"],
            "processes killed": self._killed,
        }

    def _events(self) -> Iterator[Event]:
        names = sorted(os.listdir(self._histories))
        return read_histories(os.path.join(self._histories, name) for name in names)

    def _explained(self, anomaly: Anomaly) -> str:
        """An anomaly with the events that show it."""
        lines = [
            f"    {encode(event).decode().strip()[:500]}"
            for event in self._events()
            if (event.process, event.number) in anomaly.operations
        ]
        return "\n".join([str(anomaly), *lines])


def read_everything(connection: Connection, topics: Sequence[str], recorder: Recorder) -> None:
    """Read all there is, and write down that this was all. Raises `Broken` if reading ends
    before the logs do, or meets a gap, which no log has without a power cut."""
    number = recorder.invoke("assign", final=True)
    consumer = connection.consumer(topics, start="start")
    places = starts = positions_of(consumer)
    recorder.ok(number, "assign", places=starts)
    ends = {
        f"{topic}/{partition}": connection.ends(topic, partition).durable_end
        for topic, partition in consumer.assignment()
    }
    while True:
        number = recorder.invoke("poll")
        records = as_said(consumer.poll())
        recorder.ok(number, "poll", records=records)
        if not records:
            break
        for name, found in records.items():
            offsets = [offset for offset, _ in found]
            if offsets != list(range(places[name], places[name] + len(found))):
                raise Broken(f"{name}: from {places[name]} on there are offsets {offsets}")
            places = {**places, name: places[name] + len(found)}
    recorder.ok(recorder.invoke("end"), "end", starts=starts, places=ends)
    consumer.close()
    if places != ends:
        raise Broken(f"reading ended at {places}, and the logs do at {ends}")


def close_stdin(child: subprocess.Popen[bytes]) -> None:
    """Tell a process of clients to end."""
    if child.stdin is not None:
        child.stdin.close()


# -- a process of clients ------------------------------------------------------------


def main(description: dict[str, Any]) -> int:
    """Run the clients of one process, each in its thread, until the standard input ends.

    Returns the exit status, 1 if one of them failed.
    """
    over = threading.Event()
    surroundings = Surroundings(
        connect=partial(Broker.open, description["path"]),
        topics=description["topics"],
        groups=GROUPS,
        is_over=over.is_set,
        histories=description["histories"],
    )
    return run_clients(CLIENTS, surroundings, description["clients"], over)


def run_clients(
    kinds: Mapping[str, Callable[[Surroundings, str, int], Client]],
    surroundings: Surroundings,
    clients: Mapping[str, tuple[str, int]],
    over: threading.Event,
) -> int:
    """Run each of these clients (its kind and its seed, by the name of its history) in a thread,
    until the standard input ends; as `main`."""
    faulthandler.enable()
    failures: list[str] = []

    def run(kind: str, process: str, seed: int) -> None:
        try:
            kinds[kind](surroundings, process, seed).run()
        except BaseException:  # noqa: BLE001 - told to whoever started this process
            failures.append(f"{process}: {traceback.format_exc()}")
            over.set()

    threads = [
        threading.Thread(target=run, args=(kind, process, seed), name=process)
        for process, (kind, seed) in clients.items()
    ]
    for thread in threads:
        thread.start()
    while not over.is_set() and not select.select([sys.stdin], [], [], 0.2)[0]:
        pass
    over.set()
    for thread in threads:
        thread.join()
    sys.stderr.write("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
