"""Random clients, on a broker that is right, and on some that are not."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from brokers import eventually, in_thread
from hypothesis import given
from hypothesis import strategies as st
from storage import memory_folder

from seawall.broker import Broker, Record
from seawall.broker.torture.client_rounds import read_everything
from seawall.broker.torture.clients import Client, Surroundings, make_value, name_of
from seawall.broker.torture.connect import KEEPS_ALL
from seawall.broker.torture.connection import Connection
from seawall.broker.torture.consuming import look_at, positions_of
from seawall.broker.torture.events import Event, Recorder, read_histories
from seawall.broker.torture.histories import CLIENTS, GROUPS
from seawall.broker.torture.history import check

TOPICS = {"a": 2, "b": 1}


@dataclass
class Folders:
    data: str
    histories: str

    def events(self) -> list[Event]:
        names = sorted(os.listdir(self.histories))
        return list(read_histories(os.path.join(self.histories, name) for name in names))


@contextmanager
def new_folders() -> Iterator[Folders]:
    with memory_folder() as path:
        found = Folders(os.path.join(path, "data"), os.path.join(path, "histories"))
        os.mkdir(found.histories)
        with Broker.open(found.data) as broker:
            for topic, partitions in TOPICS.items():
                broker.create_topic(topic, partitions, {"segment.bytes": 4096, **KEEPS_ALL})
        yield found


@pytest.fixture
def folders() -> Iterator[Folders]:
    with new_folders() as found:
        yield found


def play(
    folders: Folders,
    clients: dict[str, str],
    connect: Callable[[], Connection],
    seconds: float,
    wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Let some clients do what they do, each in a thread: so long, and until that is so."""
    over = threading.Event()
    surroundings = Surroundings(
        connect=connect,
        topics=TOPICS,
        groups=GROUPS,
        is_over=over.is_set,
        histories=folders.histories,
    )
    made: list[Client] = [
        CLIENTS[kind](surroundings, process, seed)
        for seed, (process, kind) in enumerate(clients.items())
    ]

    def run(number: int) -> None:
        if number < len(made):
            with in_thread(made[number].run):
                run(number + 1)
        else:
            try:
                time.sleep(seconds)
                eventually(wanted)
            finally:
                over.set()

    run(0)


def finish(folders: Folders) -> None:
    with (
        Broker.open(folders.data) as broker,
        Recorder(os.path.join(folders.histories, "final"), "final") as recorder,
    ):
        read_everything(broker, list(TOPICS), recorder)
        for group in GROUPS:
            look_at(broker, group, recorder)


@given(st.text(max_size=10), st.integers(0, 100), st.integers(0, 3000))
def test_a_value_says_which_one_it_is(process: str, number: int, size: int) -> None:
    name, value = make_value(process.replace("~", ""), number, size)
    assert len(value) == len(name.encode()) + 1 + size
    assert name_of(value) == name


def test_a_value_of_which_only_the_name_is_left_is_damaged() -> None:
    name, value = make_value("p", 7, 0)
    assert value == name.encode() + b"~"
    assert name_of(value[:-1]) != name


@given(st.integers(0, 300), st.data())
def test_a_damaged_value_has_no_name(size: int, data: st.DataObject) -> None:
    name, value = make_value("p", 7, size)
    at = data.draw(st.integers(0, len(value) - 1))
    damaged = bytearray(value)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    assert name_of(bytes(damaged)) != name
    assert name_of(value[:at]) != name
    assert name_of(value + b"x") != name
    assert name_of(None).startswith("damaged")


@pytest.mark.parametrize("kind", CLIENTS)
def test_each_kind_of_client_alone(folders: Folders, kind: str) -> None:
    wanted = {
        "producer": {"send"},
        "sharer": {"send"},
        "consumer": {"assign", "poll"},
        "member": {"assign", "poll"},
        "operator": {"committed"},
    }

    def has_done_it() -> bool:
        events = (event for event in folders.events() if event.process.startswith("second"))
        return wanted[kind] <= {event.op for event in events}

    connect = partial(Broker.open, folders.data)
    play(folders, {"first": "producer", "second": kind}, connect, 0.2, has_done_it)
    finish(folders)
    assert check(folders.events()) == []


def test_all_of_them_at_once(folders: Folders) -> None:
    everybody = {f"c{number}": kind for number, kind in enumerate([*CLIENTS, "member"])}
    wanted = {"send", "assign", "poll", "ack", "committed"}

    def have_done_it() -> bool:
        return wanted <= {event.op for event in folders.events()}

    play(folders, everybody, partial(Broker.open, folders.data), 1, have_done_it)
    finish(folders)
    events = folders.events()
    assert check(events) == []
    assert {event.op for event in events} >= {*wanted, "end"}


# -- brokers that are wrong ----------------------------------------------------------


class Wrapped:
    """Something that passes everything on to something else."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._inner)


class Lying(Wrapped):
    """A connection whose consumers are not to be trusted."""

    def __init__(self, path: str, kind: type[Wrapped]) -> None:
        super().__init__(Broker.open(path))
        self._kind = kind

    def consumer(self, *args: Any, **settings: Any) -> Any:
        return self._kind(self._inner.consumer(*args, **settings))


class Forgetful(Wrapped):
    """Leaves out a record here and there."""

    def poll(self, *args: Any, **settings: Any) -> list[Record]:
        records: list[Record] = self._inner.poll(*args, **settings)
        return [record for record in records if record.offset % 7]


class Repetitive(Wrapped):
    """Hands out the last record of a poll again."""

    def poll(self, *args: Any, **settings: Any) -> list[Record]:
        records: list[Record] = self._inner.poll(*args, **settings)
        if records:
            last = records[-1]
            self._inner.seek(last.topic, last.partition, last.offset)
        return records


class Careless(Wrapped):
    """Says that it has stored an acknowledgement, and has not."""

    def ack(self, records: Record | Sequence[Record] | None = None) -> None:
        pass


class Hasty(Wrapped):
    """Stores more than was acknowledged."""

    def ack(self, records: Record | Sequence[Record] | None = None) -> None:
        self._inner.ack()


class Garbling(Wrapped):
    """Hands out another value."""

    def poll(self, *args: Any, **settings: Any) -> list[Record]:
        records: list[Record] = self._inner.poll(*args, **settings)
        return [record._replace(value=(record.value or b"")[:-1] + b"!") for record in records]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Forgetful, {"poll-skip", "int-poll-skip"}),
        (Repetitive, {"nonmonotonic-poll"}),
        (Careless, {"committed-backwards"}),
        (Hasty, {"committed-ahead"}),
        (Garbling, {"unexpected", "inconsistent-offsets"}),
    ],
)
def test_what_is_wrong_with_a_broker_is_found(kind: type[Wrapped], names: set[str]) -> None:
    clients = {"p": "producer", "c": "consumer", "m": "member", "n": "member"}
    for seconds in (0.5, 1.5, 5, 20):  # how busy the machine is
        with new_folders() as folders:
            play(folders, clients, partial(Lying, folders.data, kind), seconds)
            finish(folders)
            found = {anomaly.name for anomaly in check(folders.events())}
        assert found <= names
        if found:
            return
    pytest.fail("nothing is found")


def test_positions(folders: Folders) -> None:
    with Broker.open(folders.data) as broker, broker.consumer(list(TOPICS)) as consumer:
        assert positions_of(consumer) == {"a/0": 0, "a/1": 0, "b/0": 0}
