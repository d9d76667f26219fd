"""Many processes on one directory, some of which are killed or stopped at the worst moment."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest
from brokers import drain, eventually, put, read_all, values
from storage import Child, Say

from seawall.broker import Broker, Record
from seawall.broker.errors import (
    AppendLockTimeout,
    BrokerError,
    TopicExists,
    UnknownTopic,
)
from seawall.wal import watch
from seawall.wal.files import Files

PARTITIONS = 2


def killed(child: Child) -> list[str]:
    """Kill a process; what it said until then."""
    child.kill(signal.SIGKILL)
    return child.wait()


# -- at random -----------------------------------------------------------------------


def test_producers_and_consumers_that_are_killed_at_random(folder: str) -> None:
    """Dense offsets, each producer's records in order, nothing acknowledged is missing."""
    with Broker.open(folder) as broker:
        broker.create_topic("orders", PARTITIONS, {"segment.bytes": 65_536})

    def produce(name: int) -> Callable[[Say], None]:
        def work(say: Say) -> None:
            with Broker.open(folder) as broker, broker.producer(linger_ms=1) as producer:
                number = 0
                while True:
                    sent = []
                    for _ in range(random.randrange(1, 20)):
                        value = b"%d %d" % (name, number)
                        sent.append(producer.send("orders", value, partition=number % PARTITIONS))
                        number += 1
                    for delivery in sent:
                        metadata = delivery.result()
                        say(f"{metadata.partition} {metadata.offset}")

        return work

    def consume(say: Say) -> None:
        with Broker.open(folder) as broker, broker.consumer("orders") as consumer:
            expected = [0] * PARTITIONS
            while True:
                for record in consumer.poll(timeout_ms=None):
                    assert record.offset == expected[record.partition]
                    expected[record.partition] += 1
                say(" ".join(map(str, expected)))

    acknowledged: dict[tuple[int, int], int] = {}
    seen = [0] * PARTITIONS
    names = iter(range(1000))

    def start_producer() -> tuple[int, Child]:
        name = next(names)
        return name, Child(produce(name))

    def told(name: int, line: str) -> None:
        partition, offset = map(int, line.split())
        assert (partition, offset) not in acknowledged
        acknowledged[partition, offset] = name

    producers = [start_producer() for _ in range(4)]
    consumers = [Child(consume) for _ in range(2)]
    randomness = random.Random()
    for number in range(20):
        time.sleep(randomness.uniform(0.02, 0.2))
        is_last = number == 19
        for at in range(4) if is_last else [randomness.randrange(4)]:
            name, child = producers[at]
            if is_last or randomness.random() < 0.5:  # else it may be at its beginning still
                told(name, child.line())
            for line in killed(child):
                told(name, line)
            if not is_last:
                producers[at] = start_producer()
        if is_last or randomness.random() < 0.3:
            for line in killed(consumers.pop()):
                seen = [max(pair) for pair in zip(seen, map(int, line.split()), strict=True)]
            if not is_last:
                consumers.append(Child(consume))
        if is_last:
            for child in consumers:
                for line in killed(child):
                    seen = [max(pair) for pair in zip(seen, map(int, line.split()), strict=True)]

    with Broker.open(folder) as broker:
        records: dict[tuple[int, int], Record] = {
            (record.partition, record.offset): record for record in read_all(broker)
        }
        assert list(broker.verify()) == []
        ends = [broker.ends("orders", number) for number in range(PARTITIONS)]
    assert acknowledged
    # Dense, and what anybody was shown is still there.
    assert sorted(records) == [
        (number, offset) for number in range(PARTITIONS) for offset in range(ends[number].log_end)
    ]
    assert all(shown <= end.durable_end for shown, end in zip(seen, ends, strict=True))
    for place, name in acknowledged.items():
        assert (records[place].value or b"").split()[0] == b"%d" % name
    for partition in range(PARTITIONS):
        last: dict[bytes, int] = {}
        for offset in range(ends[partition].log_end):
            who, number = (records[partition, offset].value or b"").split()
            before = last.get(who, partition - PARTITIONS)
            assert int(number) == before + PARTITIONS  # in order, without a gap, once
            last[who] = int(number)


# -- groups --------------------------------------------------------------------------


def test_a_group_changes_hands_when_a_process_dies(folder: str) -> None:
    """And not when its session ends."""
    count = 20_000  # it does not get to the end
    with Broker.open(folder) as broker:
        broker.create_topic("orders")
        put(broker, *[b"%d" % number for number in range(count)])

    def consume(say: Say) -> None:
        with (
            Broker.open(folder) as broker,
            broker.consumer("orders", group="g", session_timeout_ms=600_000) as consumer,
        ):
            for record in consumer:
                consumer.ack(record)
                say(str(record.offset))
                time.sleep(0.003)

    first, second = Child(consume), None
    try:
        assert first.line() == "0"
        second = Child(consume)
        with Broker.open(folder) as broker:
            while len(broker.group("g").members) < 2:
                time.sleep(0.01)
            said = [0, *map(int, killed(first))]
            began = int(second.line())
            assert said == list(range(len(said)))
            # At least once: not more than the one that was not acknowledged again.
            assert said[-1] <= began <= said[-1] + 2
            assert [each.pid for each in broker.group("g").members] == [second.pid]
    finally:
        for child in (first, second):
            if child is not None:
                kill_if_alive(child)


def kill_if_alive(child: Child) -> None:
    try:
        child.kill(signal.SIGKILL)
        child.wait()
    except (OSError, ChildProcessError):
        pass


# -- topics --------------------------------------------------------------------------


def test_processes_that_create_the_same_topic_at_once(folder: str) -> None:
    Broker.open(folder).close()
    start_s = time.time() + 0.4

    def create(number: int) -> Callable[[Say], None]:
        def work(say: Say) -> None:
            with Broker.open(folder) as broker:
                time.sleep(max(0.0, start_s - time.time()))
                for topic in range(5):
                    try:
                        broker.create_topic(f"topic-{topic}", number)
                        say(f"{topic} {number}")
                    except TopicExists:
                        put(broker, b"x", topic=f"topic-{topic}")

        return work

    children = [Child(create(number)) for number in (1, 2, 3)]
    said = [line for child in children for line in child.wait()]
    assert sorted(line.split()[0] for line in said) == ["0", "1", "2", "3", "4"]
    with Broker.open(folder) as broker:
        for line in said:
            topic, number = line.split()
            assert len(broker.topic(f"topic-{topic}").partitions) == int(number)
            assert broker.ends(f"topic-{topic}", 0).durable_end == 2


def test_processes_that_open_a_new_directory_at_once(folder: str) -> None:
    path = os.path.join(folder, "new")

    def work(say: Say) -> None:
        with Broker.open(path) as broker:
            broker.create_topic("orders", if_not_exists=True)
            put(broker, b"x")
            say(broker.cluster_id)

    children = [Child(work) for _ in range(4)]
    assert len({line for child in children for line in child.wait()}) == 1
    with Broker.open(path) as broker:
        assert len(read_all(broker)) == 4


def test_others_see_a_topic_come_and_go_at_once(folder: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders")
        producer = broker.producer(linger_ms=0)
        consumer = broker.consumer("orders")
        producer.send("orders", b"old").result()
        assert values(drain(consumer)) == [b"old"]

        def work(say: Say) -> None:
            with Broker.open(folder) as other:
                assert values(read_all(other)) == [b"old"]
                other.create_topic("new", 3)
                other.delete_topic("orders")
                other.create_topic("orders", 1)
                say("done")

        assert Child(work).wait() == ["done"]
        assert [topic.name for topic in broker.topics()] == ["new", "orders"]
        assert len(broker.topic("new").partitions) == 3
        with pytest.raises(UnknownTopic):
            consumer.poll()
        assert producer.send("orders", b"new").result().offset == 0
        assert values(read_all(broker)) == [b"new"]


def test_a_new_record_wakes_a_consumer_of_another_process(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders")

        def consume(say: Say) -> None:
            with Broker.open(folder) as other, other.consumer("orders") as consumer:
                say("ready")
                for record in consumer:
                    say((record.value or b"").decode())

        # It is woken, or it hears of nothing.
        monkeypatch.setattr(watch, "POLL_INTERVAL_S", 600)
        child = Child(consume)
        try:
            assert child.line() == "ready"
            with broker.producer(linger_ms=0) as producer:
                for number in range(100):
                    producer.send("orders", b"%d" % number).result()
                    assert child.line() == str(number)
        finally:
            killed(child)


# -- stopped -------------------------------------------------------------------------


def test_a_stopped_process_that_holds_an_append_lock(folder: str) -> None:
    with Broker.open(folder, lock_timeout_ms=300) as broker:
        info = broker.create_topic("orders", 2)
        lock = broker.engine.log(info.partitions[0].id).context.lock_path

        def hold(say: Say) -> None:
            files = Files()
            descriptor = files.open(lock, os.O_RDWR)
            assert files.try_lock(descriptor)
            say("holding")
            time.sleep(600)

        put(broker, b"before")
        child = Child(hold)
        try:
            assert child.line() == "holding"
            child.kill(signal.SIGSTOP)
            with broker.producer() as producer:
                started = time.monotonic()
                with pytest.raises(AppendLockTimeout) as caught:
                    producer.send("orders", b"x", partition=0).result()
                assert time.monotonic() - started > 0.2
                error = caught.value
                assert (error.topic, error.partition) == ("orders", 0)
                assert (error.holder_pid, error.timeout_ms, error.path) == (child.pid, 300, lock)
                # The other partition and all readers go on.
                assert producer.send("orders", b"y", partition=1).result().offset == 0
                assert sorted(values(read_all(broker))) == [b"before", b"y"]  # type: ignore[type-var]
                killed(child)
                assert producer.send("orders", b"z", partition=0).result().offset == 1
        finally:
            kill_if_alive(child)


def test_a_process_that_is_stopped_anywhere_blocks_nobody_for_ever(folder: str) -> None:
    """A busy producer is stopped again and again; others get through, or a named error."""
    with Broker.open(folder, lock_timeout_ms=200) as broker:
        broker.create_topic("orders")

        def produce(say: Say) -> None:
            with Broker.open(folder) as other, other.producer() as producer:
                while True:
                    producer.send("orders", b"theirs").result()

        child = Child(produce)
        stored = 0
        try:
            eventually(lambda: broker.ends("orders", 0).durable_end > 0)
            with broker.producer() as producer:
                for _ in range(15):
                    child.kill(signal.SIGSTOP)
                    try:
                        producer.send("orders", b"ours").result(timeout=60)
                        stored += 1
                    except BrokerError:
                        pass
                    child.kill(signal.SIGCONT)
                    time.sleep(0.01)
        finally:
            kill_if_alive(child)
        assert stored > 0
        assert values(read_all(broker)).count(b"ours") >= stored
