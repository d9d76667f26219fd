"""Trimming, deleting and altering while other processes are at work."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

import pytest
from brokers import drain, eventually, put, read_all, values
from storage import Child, Say, child

from seawall.broker import Broker, Delivery, compactor
from seawall.broker.errors import BrokerError, RecordTooLarge, UnknownTopic

SMALL = {"segment.bytes": 4096}


def test_a_reader_of_another_process_is_not_disturbed(folder: str) -> None:
    """It is in the middle of what goes: it gets whole records, in order, or goes on behind."""
    with Broker.open(folder) as broker:
        broker.create_topic("orders", config=SMALL)

        def read(say: Say) -> None:
            with Broker.open(folder) as other, other.consumer("orders", fetch_bytes=1) as consumer:
                say("ready")
                last, skipped = -1, 0
                while last < 499:
                    for record in consumer.poll(3, timeout_ms=1000):
                        assert record.offset > last
                        assert record.value == b"%d" % record.offset * 100
                        skipped += record.offset - last - 1
                        last = record.offset
                say(str(skipped))

        with child(read) as first, child(read) as second:
            assert first.line() == second.line() == "ready"
            randomness = random.Random(5)
            with broker.producer(linger_ms=0) as producer:
                for number in range(500):
                    producer.send("orders", b"%d" % number * 100).result()
                    if number % 7 == 6:
                        back = randomness.choice((0, 5, 30))
                        broker.delete_records("orders", {0: max(0, number + 1 - back)})
            for reader in (first, second):
                assert int(reader.line()) < 500
                assert reader.line() == ""
        assert list(broker.verify()) == []


def test_deleting_a_topic_in_use_is_told_to_everybody_at_once(folder: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders", 2, SMALL)
        put(broker, b"x")

        def ended(say: Say, work: Callable[[Broker], None]) -> None:
            with Broker.open(folder) as other:
                try:
                    say("ready")
                    work(other)
                except BrokerError as error:
                    say(type(error).__name__)

        def produce(other: Broker) -> None:
            with other.producer() as producer:
                while True:
                    sent: Delivery = producer.send("orders", b"y", partition=0)
                    sent.result()

        def wait(other: Broker, group: str | None = None) -> None:
            with other.consumer("orders", group=group, partitions=[1]) as consumer:
                consumer.poll(timeout_ms=None)

        def acknowledge(other: Broker) -> None:
            with other.consumer("orders", group="acks", partitions=[0]) as consumer:
                while True:
                    consumer.poll(10, timeout_ms=50)
                    consumer.ack()

        work: list[Callable[[Broker], None]] = [
            produce,
            wait,
            lambda other: wait(other, "waits"),
            acknowledge,
        ]
        with contextlib.ExitStack() as stack:
            children = [
                stack.enter_context(child(lambda say, each=each: ended(say, each)))  # type: ignore[misc]
                for each in work
            ]
            for each in children:
                assert each.line() == "ready"
            eventually(lambda: set(broker.groups()) == {"waits", "acks"})
            eventually(lambda: broker.ends("orders", 0).durable_end > 5)
            broker.delete_topic("orders")
            assert [each.line() for each in children] == ["UnknownTopic"] * 4
            broker.create_topic("orders", 1)
            put(broker, b"new")
            assert values(read_all(broker)) == [b"new"]
            assert broker.group("acks").offsets == ()
            for each in children:
                assert each.line() == ""
        with pytest.raises(UnknownTopic):
            broker.delete_topic("nobody")


def test_running_producers_of_other_processes_go_by_changes(folder: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders")

        def produce(say: Say) -> None:
            with Broker.open(folder) as other, other.producer(linger_ms=0) as producer:
                say("ready")
                seen: set[int] = set()
                while seen != {0, 1, 2}:
                    seen.add(producer.send("orders", b"x").result().partition)
                say("all")
                with contextlib.suppress(RecordTooLarge):
                    while True:
                        producer.send("orders", bytes(5000)).result()
                say("refused")
                while len(other.engine.log(1).segments()) < 3:
                    producer.send("orders", bytes(1000), partition=0).result()
                say("rolled")

        with child(produce) as producer:
            assert producer.line() == "ready"
            broker.add_partitions("orders", 3)
            assert producer.line() == "all"
            broker.alter_topic("orders", {"max.message.bytes": 2000})
            assert producer.line() == "refused"
            broker.alter_topic("orders", {"segment.bytes": 4096})
            assert producer.line() == "rolled"


def test_no_record_is_removed_before_it_was_acknowledged(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P5, while the compactor's process and everybody else is killed again and again."""
    for name in ("START_DELAY_S", "LEASE_INTERVAL_S", "SHORTEST_REST_S"):
        monkeypatch.setattr(compactor, name, 0.005)
    groups = ("fast", "slow")
    with Broker.open(folder) as broker:
        broker.create_topic("orders", config=SMALL)
        for group in groups:
            broker.reset_group(group, "orders", {0: 0})

    def produce(say: Say) -> None:
        with Broker.open(folder) as other, other.producer(linger_ms=0) as producer:
            while True:
                sent = producer.send("orders", b"x" * 300)
                say(str(sent.result().offset))

    def consume(group: str) -> Callable[[Say], None]:
        def work(say: Say) -> None:
            with (
                Broker.open(folder) as other,
                other.consumer("orders", group=group) as consumer,
            ):
                while True:
                    records = consumer.poll(20, timeout_ms=None)
                    say(" ".join(str(each.offset) for each in records))
                    consumer.ack()
                    time.sleep(0.02 if group == "slow" else 0)

        return work

    def is_trimmed() -> bool:
        names = os.listdir(os.path.join(folder, "logs", "1-orders-0"))
        return "00000000000000000000.log" not in names

    works = {"produce": produce, **{group: consume(group) for group in groups}}
    said: dict[str, list[str]] = {name: [] for name in works}
    children = {name: Child(work) for name, work in works.items()}

    def hear(name: str) -> int:
        """How many lines that one has said. All are listened to: whoever's pipe is full waits,
        and those who wait for its records as well."""
        for each, one in children.items():
            said[each] += one.said()
        return len(said[name])

    try:
        kills = 0
        while kills < 12 or not is_trimmed():
            kills += 1
            time.sleep(random.uniform(0.05, 0.3))
            name = random.choice(list(works))
            before = hear(name)
            if random.random() < 0.5:  # else it may be at its beginning still
                while hear(name) == before:
                    time.sleep(0.002)
            children[name].kill(signal.SIGKILL)
            said[name] += children[name].wait()
            children[name] = Child(works[name])
    finally:
        for name, each in children.items():
            each.kill(signal.SIGKILL)
            said[name] += each.wait()
    # A line may have been cut off by the kill only at the very end of a process.
    seen = {
        group: {int(offset) for line in said[group] for offset in line.split()} for group in groups
    }
    with Broker.open(folder) as broker:
        start, end, _ = broker.ends("orders", 0)
        assert start > 0, "nothing was trimmed"
        for group in groups:
            [place] = broker.group(group).offsets
            assert start <= place.committed
            with broker.consumer("orders", group=group) as consumer:
                left = [each.offset for each in drain(consumer)]
                consumer.ack()
            assert left == list(range(place.committed, end))
            # Whatever was sent, each group was given it, or is now.
            assert seen[group] | set(left) == set(range(end))
        assert max(int(line) for line in said["produce"]) < end
        [found] = broker.compact()
        assert found.kept_segments <= 1
        assert list(broker.verify()) == []
        assert os.listdir(os.path.join(folder, "quarantine")) == []
