"""`Engine`: one per directory and process, shared, closed by the last user."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from brokers import broker_on, eventually, in_thread, put, read_all, values
from storage import FaultyFiles

from seawall.broker import Broker
from seawall.broker.engine import _engines
from seawall.broker.errors import BrokerClosed, DirectoryError, UnknownTopic
from seawall.broker.translation import translated
from seawall.wal.errors import HandleClosed, LogGone
from seawall.wal.segment import list_segments


def test_brokers_of_one_directory_share_an_engine(folder: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    with Broker.open(folder) as one, Broker.open(link) as two:
        assert one.engine is two.engine
        one.create_topic("orders")
        one.close()
        put(two, b"x")  # goes on working
        assert values(read_all(two)) == [b"x"]
    assert _engines == {}
    with Broker.open(folder) as again:
        assert again.engine is not one.engine
        assert values(read_all(again)) == [b"x"]


def test_two_directories_have_engines_of_their_own(folder: str) -> None:
    with Broker.open(os.path.join(folder, "a")) as a, Broker.open(folder + "/b") as b:
        assert a.engine is not b.engine
        assert a.cluster_id != b.cluster_id


def test_opening_and_closing_from_many_threads(folder: str) -> None:
    Broker.open(folder).close()
    barrier = threading.Barrier(6)

    def work() -> None:
        barrier.wait()
        for _ in range(10):
            with Broker.open(folder) as broker:
                broker.create_topic("orders", if_not_exists=True)
                put(broker, b"x")

    with in_thread(work), in_thread(work), in_thread(work), in_thread(work), in_thread(work):
        barrier.wait()
    with Broker.open(folder) as broker:
        assert broker.ends("orders", 0) == (0, 50, 50)


def test_an_opening_that_fails_leaves_nothing_open(folder: str) -> None:
    Broker.open(folder).close()
    files = FaultyFiles()
    for nth in range(1, 200):
        files.heal()
        files.fail("open", nth=nth, error=24)
        try:
            with translated():
                broker_on(files, folder).close()
        except DirectoryError:
            pass
        else:
            break
    assert 3 < nth < 100
    assert _engines == {}


def test_a_log_that_was_deleted(broker: Broker) -> None:
    partition_id = broker.topic("orders").partitions[0].id
    log = broker.engine.log(partition_id)
    assert broker.engine.log(partition_id) is log
    assert broker.engine.place(partition_id) == (
        broker.topic("orders"),
        broker.topic("orders").partitions[0],
    )
    broker.delete_topic("orders")
    with pytest.raises(UnknownTopic):
        broker.engine.topic("orders")
    assert broker.engine.place(partition_id) is None
    with pytest.raises(LogGone):
        broker.engine.log(partition_id)
    with pytest.raises((LogGone, HandleClosed)):
        log.append([bytearray()])


def test_a_checkpoint_is_made_a_moment_after_an_append(broker: Broker) -> None:
    partition_id = broker.topic("orders").partitions[0].id
    put(broker, b"x")
    index = broker.engine.opening.index
    eventually(lambda: (found := index.checkpoint(partition_id)) is not None and found.offset == 1)


def test_closing_makes_a_checkpoint(folder: str) -> None:
    with Broker.open(folder) as broker:
        partition_id = broker.create_topic("orders").partitions[0].id
        put(broker, b"x", b"y")
    with Broker.open(folder) as broker:
        found = broker.engine.opening.index.checkpoint(partition_id)
        assert found is not None
        assert found.offset == 2


def test_the_executor_ends_with_the_engine(folder: str) -> None:
    broker = Broker.open(folder)
    executor = broker.engine.executor
    assert executor is broker.engine.executor
    assert executor.submit(lambda: 5).result() == 5
    broker.close()
    with pytest.raises(RuntimeError):
        executor.submit(lambda: 5)
    other = Broker.open(folder)
    other.close()
    with pytest.raises(BrokerClosed):
        _ = other.engine.executor


def test_descriptors_of_deleted_topics_are_closed(broker: Broker) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    put(broker, b"x")
    before = count()
    for _ in range(30):
        broker.create_topic("short-lived", partitions=3)
        for partition in range(3):
            put(broker, b"x", topic="short-lived", partition=partition)
        with broker.consumer("short-lived") as consumer:
            consumer.poll()
        broker.delete_topic("short-lived")
    broker.topics()
    assert count() <= before + 10


def test_nothing_but_segments_and_a_lock_in_a_log(broker: Broker) -> None:
    put(broker, b"x")
    log = broker.engine.log(broker.topic("orders").partitions[0].id)
    names = sorted(os.listdir(log.context.folder))
    assert names == ["00000000000000000000.log", "LOCK"]
    assert list_segments(log.context.files, log.context.folder) == [0]
