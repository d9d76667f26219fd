"""Creating and deleting topics: at once for everybody, whole or not at all."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from brokers import broker_on, in_thread, put, read_all, values
from deaths import DyingFiles, dies_at_every_call
from storage import Child, FaultyFiles

from seawall.broker import Broker
from seawall.broker.errors import BrokerError, StorageFull, TopicExists, UnknownTopic


def test_a_death_at_any_step_of_creating(folder: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("other")
        put(broker, b"kept", topic="other")

    def check(dies_at: int, survived: bool) -> None:
        with Broker.open(folder) as broker:
            names = [topic.name for topic in broker.topics()]
            assert "other" in names
            if survived:
                assert "orders" in names
            folders = os.listdir(Path(folder) / "logs")
            assert len(folders) == sum(len(topic.partitions) for topic in broker.topics())
            assert broker.engine.catalog.unfinished() == []
            # Whatever became of the first attempt, the second one comes through.
            if "orders" in names:
                assert len(broker.topic("orders").partitions) == 2
            else:
                broker.create_topic("orders", 2)
            put(broker, b"x", partition=1)
            assert values(read_all(broker)) == [b"x"]
            assert values(read_all(broker, "other")) == [b"kept"]
            assert list(broker.verify()) == []
            assert os.listdir(Path(folder) / "quarantine") == []
            broker.delete_topic("orders")

    count = dies_at_every_call(folder, lambda broker: void(broker.create_topic("orders", 2)), check)
    assert count > 10


def test_a_death_at_any_step_of_deleting(folder: str) -> None:
    def prepare() -> None:
        with Broker.open(folder) as broker:
            if "other" not in [topic.name for topic in broker.topics()]:
                broker.create_topic("other")
                put(broker, b"kept", topic="other")
            broker.create_topic("orders", 2, if_not_exists=True)
            put(broker, b"x", partition=1)
            with broker.consumer(["orders", "other"], group="g") as consumer:
                consumer.poll()
                consumer.ack()

    def check(dies_at: int, survived: bool) -> None:
        with Broker.open(folder) as broker:
            names = [topic.name for topic in broker.topics()]
            assert "other" in names
            if survived:
                assert "orders" not in names
            if "orders" in names:  # all of it, then
                assert values(read_all(broker))[-1:] == [b"x"]
                assert len(broker.group("g").offsets) == 3
                broker.delete_topic("orders")
            folders = os.listdir(Path(folder) / "logs")
            assert len(folders) == 1
            assert broker.engine.catalog.unfinished() == []
            assert broker.engine.state.partition_ids() == {
                partition.id for partition in broker.topic("other").partitions
            }
            assert values(read_all(broker, "other")) == [b"kept"]
            assert list(broker.verify()) == []
            assert os.listdir(Path(folder) / "quarantine") == []
        prepare()

    prepare()
    count = dies_at_every_call(folder, lambda broker: broker.delete_topic("orders"), check)
    assert count > 8


def void(_: object) -> None:
    """Nothing."""


def test_a_death_at_any_step_of_the_first_opening(folder: str) -> None:
    number = random.randrange(5)  # a fifth of them each time: each opening takes a while
    while True:
        number += 5
        path = os.path.join(folder, str(number))

        def live(say: Callable[[str], None], path: str = path, number: int = number) -> None:
            broker_on(DyingFiles(number), path)
            say("survived")
            os.kill(os.getpid(), signal.SIGKILL)

        survived = Child(live).wait() == ["survived"]
        with Broker.open(path) as broker:
            broker.create_topic("orders")
            put(broker, b"x")
            assert values(read_all(broker)) == [b"x"]
        if survived:
            break
    assert number > 20


@pytest.mark.parametrize("kind", ["mkdir", "open", "pwrite", "sync", "sync_directory"])
def test_creating_fails_without_a_trace(folder: str, kind: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("first")
        files.fail(kind, where="orders" if kind != "pwrite" else "ends", error=28)
        with pytest.raises(StorageFull):
            broker.create_topic("orders", 3)
        assert [topic.name for topic in broker.topics()] == ["first"]
        assert broker.engine.catalog.unfinished() == []
        assert len(os.listdir(Path(folder) / "logs")) == 1
        broker.create_topic("orders", 2)
        put(broker, b"x", partition=1)


def test_creating_fails_and_so_does_taking_it_back(folder: str) -> None:
    """As on a disk that is really full. The name is free again once there is room."""
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        files.fail("mkdir", where="orders", error=28)
        files.fail("unlink", where="orders", error=28)
        files.fail("sync_directory", error=28, times=1000)
        with pytest.raises(BrokerError):
            broker.create_topic("orders", 3)
        files.heal()
        with pytest.raises(UnknownTopic):
            broker.topic("orders")
        assert len(broker.create_topic("orders", 2).partitions) == 2
        put(broker, b"x", partition=1)
        assert values(read_all(broker)) == [b"x"]


def test_what_a_dead_creator_left_gives_way_to_a_new_creation(broker: Broker) -> None:
    broker.engine.catalog.begin_create("left", 5, {})
    assert len(broker.create_topic("left", 2).partitions) == 2


def test_many_threads_create_the_same_topic(broker: Broker) -> None:
    won: list[int] = []

    def create(number: int) -> None:
        try:
            broker.create_topic("contended", number)
            won.append(number)
        except TopicExists:
            pass

    with (
        in_thread(lambda: create(1)),
        in_thread(lambda: create(2)),
        in_thread(lambda: create(3)),
        in_thread(lambda: create(4)),
    ):
        pass
    assert len(won) == 1
    assert len(broker.topic("contended").partitions) == won[0]


def test_deleting_frees_the_disk_and_the_state(broker: Broker, folder: str) -> None:
    info = broker.create_topic("short", 3)
    put(broker, b"x", topic="short", partition=2)
    with broker.consumer("short", group="g") as consumer:
        consumer.poll()
        consumer.ack()
    broker.delete_topic("short")
    assert len(os.listdir(Path(folder) / "logs")) == 1
    state = broker.engine.state
    for partition in info.partitions:
        assert state.committed_in(partition.id) == {}
        assert broker.engine.opening.ends.read(partition.id) is None
        assert broker.engine.opening.index.checkpoint(partition.id) is None
