"""Rounds of clients in several processes, whose history is checked.

What the searches "histories" and "network" have in common. Each round has a new directory,
and processes with some clients each, every client in a thread of its own. They write down
what they do and are told. What goes wrong meanwhile is each search's own matter; in the end
everything is read once more, and the history is checked.
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
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Self

from seawall.broker.broker import Broker
from seawall.broker.cleaning import clean
from seawall.broker.torture.anomalies import Anomaly
from seawall.broker.torture.clients import Client, Surroundings
from seawall.broker.torture.connect import KEEPS_ALL
from seawall.broker.torture.connection import Connection
from seawall.broker.torture.consuming import as_said, look_at, positions_of
from seawall.broker.torture.events import Event, Recorder, encode, read_histories
from seawall.broker.torture.history import Checker
from seawall.wal.torture.processes import die_with_parent
from seawall.wal.torture.search import Broken, Case, Search, Setting, seed_for

STARTING_S = 60.0
LAST_WORDS_S = 5.0
SYNCING_S = 60.0
MOST_SHOWN = 3
MOST_SAID = 6000  # characters of what a process has said


class ClientRounds(Search, ABC):
    """A search of so many rounds, of so many seconds each."""

    def __init__(self, setting: Setting, rounds: int, round_s: float) -> None:
        super().__init__(setting)
        self._rounds = rounds
        self._round_s = round_s

    @abstractmethod
    def new_round(self, folder: str, seed: int, seconds: float) -> ClientRound:
        """A round, to be played in an empty folder."""

    def cases(self) -> Iterator[Case]:
        """One for each round."""
        for number in range(self._rounds):
            if self.setting.mine(number):
                yield {"round": number}

    def run(self, case: Case) -> None:
        """Play one round, and check its history."""
        seed = seed_for(self.name, self.setting.seed, case["round"])
        folder = tempfile.mkdtemp(prefix=f"{self.name}-", dir=self.setting.memory)
        try:
            with self.new_round(folder, seed, self._round_s) as each:
                each.play()
            figures = each.check()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for name, count in figures.items():
            self.figures[name] = self.figures.get(name, 0) + count


class ClientRound(ABC):
    """One directory and the processes that use it."""

    groups: ClassVar[Sequence[str]]
    segment_bytes: ClassVar[Sequence[int]]
    """What a topic's segments may have."""
    grace_s: ClassVar[float] = 60.0
    """A process that has not ended so long after it should have is stuck."""

    def __init__(self, folder: str, seed: int, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self.random = random.Random(seed)
        self.path = os.path.join(folder, "data")
        self.histories = os.path.join(folder, "histories")
        os.mkdir(self.histories)
        self.topics = {"a": self.random.randrange(1, 4), "b": self.random.randrange(1, 3)}
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.started = 0
        self.counts: Counter[str] = Counter()
        """What went wrong, and how often."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children.values():
            child.kill()
            child.wait()
            close_stdin(child)
        self.children.clear()

    @abstractmethod
    def play(self) -> None:
        """Let everybody do what they do, then read everything. Raises `Broken`."""

    def create_topics(self) -> None:
        """Make the directory."""
        with Broker.open(self.path) as broker:
            for topic, partitions in self.topics.items():
                segment_bytes = self.random.choice(self.segment_bytes)
                config = {**KEEPS_ALL, "segment.bytes": segment_bytes}
                broker.create_topic(topic, partitions, config)

    # -- processes -------------------------------------------------------------------

    def begin(self, name: str, module: str, clients: Sequence[str], **rest: str) -> None:
        """Start a process of these clients: `module` is run, and told of `rest` as well."""
        self.started += 1
        description = {
            "histories": self.histories,
            "topics": self.topics,
            "clients": {
                f"{name}{client}{number}": (client, self.random.randrange(2**32))
                for number, client in enumerate(clients)
            },
            **rest,
        }
        with open(self._said_by(name), "wb") as said:
            self.children[name] = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(description)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
            )

    def wait_until_all_are_ready(self) -> None:
        """Wait until all have begun to write histories. Raises `Broken`."""
        for name, child in self.children.items():
            deadline_s = time.monotonic() + STARTING_S
            while not self._histories_of(name):
                if child.poll() is not None or time.monotonic() > deadline_s:
                    raise Broken(f"a process of clients does not start:\n{self.said(name)}")
                time.sleep(0.01)

    def look(self) -> None:
        """Raise `Broken` if anybody ended who should not have."""
        for name, child in self.children.items():
            if child.poll() is not None:
                raise Broken(f"a client ended before its time:\n{self.said(name)}")

    def at_work(self) -> list[str]:
        """Who has begun to write histories."""
        return [name for name in self.children if self._histories_of(name)]

    def kill(self, name: str, *, lingering_ns: int = 0) -> None:
        """Kill a process; what it has sent may still come for so long."""
        child = self.children.pop(name)
        child.kill()
        child.wait()
        close_stdin(child)
        dead_ns = time.monotonic_ns() + lingering_ns
        with open(os.path.join(self.histories, f"after-{name}"), "wb") as file:
            for process in self._histories_of(name):
                file.write(encode(Event(process, 0, dead_ns, "info", "crash")))

    def finish(self) -> None:
        """Have everybody end, and wait for it. Raises `Broken`."""
        for child in self.children.values():
            close_stdin(child)
        for name, child in self.children.items():
            self._wait(name, child)
        self.children.clear()

    def _wait(self, name: str, child: subprocess.Popen[bytes]) -> None:
        try:
            child.wait(self.grace_s)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGABRT)  # has it say where its threads are
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(LAST_WORDS_S)
            raise Broken(f"a process of clients is stuck:\n{self.said(name)}") from None
        if child.returncode != 0:
            raise Broken(f"a client was told what it should not be:\n{self.said(name)}")

    def _histories_of(self, name: str) -> list[str]:
        """The histories that one process writes; its name is the beginning of theirs."""
        return [each for each in os.listdir(self.histories) if re.match(rf"{name}\D", each)]

    def _said_by(self, name: str) -> str:
        return os.path.join(self.folder, f"{name}.said")

    def said(self, name: str) -> str:
        """The last words of a process, and whatever helps to understand them."""
        with open(self._said_by(name), errors="replace") as file:
            return file.read()[-MOST_SAID:]

    # -- checking --------------------------------------------------------------------

    def read_everything(self) -> None:
        """The last history: all records, where the groups are, and no damage."""
        with (
            Broker.open(self.path) as broker,
            Recorder(os.path.join(self.histories, "final"), "final") as recorder,
        ):
            _sync_everything(broker)
            read_everything(broker, list(self.topics), recorder)
            for group in self.groups:
                look_at(broker, group, recorder)
            if found := list(broker.verify()):
                raise Broken(f"verify finds damage: {found[:MOST_SHOWN]}")

    def check(self) -> dict[str, int]:
        """The figures of a round that kept every promise. Raises `Broken`."""
        checker = Checker()
        counts: Counter[str] = Counter()
        for event in self._events():
            checker.feed(event)
            self.check_event(event)
            if event.kind == "ok":
                counts[event.op] += 1
                counts["records read"] += sum(map(len, event.records.values()))
        if anomalies := checker.finish():
            shown = "\n".join(self._explained(each) for each in anomalies[:MOST_SHOWN])
            raise Broken(f"anomalies: {checker.report.counts}\n{shown}")
        return {
            "events": checker.events,
            "records acknowledged": counts["send"],
            "records read": counts["records read"],
            "acknowledgements": counts["ack"],
            **self.counts,
        }

    def check_event(self, event: Event) -> None:
        """Raise `Broken` for what should never have happened, alone as it stands."""
        return

    def _events(self) -> Iterator[Event]:
        names = sorted(os.listdir(self.histories))
        return read_histories(os.path.join(self.histories, name) for name in names)

    def _explained(self, anomaly: Anomaly) -> str:
        """An anomaly with the events that show it."""
        lines = [
            f"    {encode(event).decode().strip()[:500]}"
            for event in self._events()
            if (event.process, event.number) in anomaly.operations
        ]
        return "\n".join([str(anomaly), *lines])


def _sync_everything(broker: Broker) -> None:
    """Have the background do what it does now and then: what the killed have acknowledged with
    ``durability="os"`` is on disk after that. Raises `Broken` if it never is."""
    clean(broker.engine, lambda timeout_s: False, is_timed=True)
    deadline_s = time.monotonic() + SYNCING_S
    for topic in broker.topics():
        for partition in topic.partitions:
            while (ends := broker.ends(topic.name, partition.number)).durable_end < ends.log_end:
                if time.monotonic() > deadline_s:
                    raise Broken(f"{topic.name}/{partition.number} is never synced: {ends}")
                time.sleep(0.01)


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


# -- in a process of clients -----------------------------------------------------------


def run_clients(
    kinds: Mapping[str, Callable[[Surroundings, str, int], Client]],
    surroundings: Surroundings,
    clients: Mapping[str, tuple[str, int]],
    over: threading.Event,
) -> int:
    """Run each of these clients (its kind and its seed, by the name of its history) in a thread,
    until the standard input ends. Returns the exit status, 1 if one of them failed."""
    die_with_parent(os.getppid())  # had it died before, the standard input would be at its end
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
