"""Dead letters over a network: redrives that are killed, and topics that are not as they were."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from outages import PATIENCE_S, Server, miss, serving, thread_serving
from storage import Child

from seawall.broker import AnyBroker, DeliveredRecord, Handled, Reject, connect
from seawall.broker.errors import GroupBusy
from seawall.broker.names import REDRIVE_GROUP
from seawall.broker.redrive import Redriving
from seawall.broker.remote import dead_letters

LETTERS = 1_200


@pytest.fixture
def location(folder: str) -> Iterator[str]:
    with thread_serving(folder) as server:
        yield f"kafka://{server.address}"


def values(broker: AnyBroker, topic: str) -> Counter[bytes | None]:
    found: Counter[bytes | None] = Counter()
    with broker.consumer(topic, start="start") as consumer:
        while any(consumer.lag().values()):
            found.update(record.value for record in consumer.poll(timeout_ms=100))
    return found


def test_a_redrive_that_is_killed_goes_on(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder) as server:
        check_redrive_that_is_killed(server, monkeypatch)


def check_redrive_that_is_killed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    location = server.location
    with connect(location) as broker:
        broker.create_topic("orders", 2)
        broker.create_topic("orders.dlq", 2)
        with broker.producer() as producer:
            for number in range(LETTERS):
                where = {
                    "seawall.dlq.topic": b"orders",
                    "seawall.dlq.partition": b"%d" % (number % 2),
                }
                producer.send("orders.dlq", b"%d" % number, headers=where, partition=number % 2)

    # Its session does not end meanwhile: a member of the test's is not missed on a busy machine.
    monkeypatch.setattr(dead_letters, "SESSION_MS", 60_000)

    def live(say: Callable[[str], None]) -> None:
        remember = Redriving._remember
        batches = iter(range(10))

        def dying(*arguments: Any) -> None:
            if next(batches) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            remember(*arguments)

        Redriving._remember = dying  # type: ignore[method-assign]
        with connect(location) as broker:
            broker.dead_letters("orders").redrive()

    Child(live).wait()
    with connect(location) as broker:
        letters = broker.dead_letters("orders")
        with pytest.raises(GroupBusy):  # by the one that was killed
            letters.redrive()
        miss(server.port, REDRIVE_GROUP)
        rest = letters.redrive()
        assert sum(each.records for each in rest) == 700
        assert letters.redrive() == []
        sent = values(broker, "orders")
    assert set(sent) == {b"%d" % number for number in range(LETTERS)}
    assert sent.total() == 1_700  # the batch whose end it did not write down


def test_the_topic_of_dead_letters_is_made_and_grows_with_its_origin(location: str) -> None:
    def handler(record: DeliveredRecord) -> None:
        raise Reject("no")

    with connect(location) as broker:
        broker.create_topic("orders", 1, {"max.message.bytes": 100_000})
        with broker.producer() as producer, broker.consumer("orders", group="g") as consumer:
            producer.send("orders", b"0").result(PATIENCE_S)
            assert consumer.run(handler, max_records=1) == Handled(dead_lettered=1)
            made = broker.topic("orders.dlq")
            assert len(made.partitions) == 1
            assert made.config["cleanup.policy"] == "acknowledged"
            assert int(made.config["max.message.bytes"]) == 100_000 + (64 << 10)
        broker.add_partitions("orders", 3)
        with broker.producer() as producer, broker.consumer("orders", group="g") as consumer:
            producer.send("orders", b"1", partition=2).result(PATIENCE_S)
            assert consumer.run(handler, max_records=1) == Handled(dead_lettered=1)
        assert len(broker.topic("orders.dlq").partitions) == 3
        assert values(broker, "orders.dlq") == Counter([b"0", b"1"])


def test_a_topic_of_dead_letters_that_is_deleted_is_made_again(location: str) -> None:
    with connect(location) as broker:
        broker.create_topic("orders")
        with broker.producer() as producer:
            for number in range(3):
                producer.send("orders", b"%d" % number)

        def handler(record: DeliveredRecord) -> None:
            if record.offset == 1:
                broker.delete_topic("orders.dlq")
            raise Reject("no")

        with broker.consumer("orders", group="g") as consumer:
            done = consumer.run(handler, max_records=3, timeout_ms=1000 * PATIENCE_S)
        assert done == Handled(dead_lettered=3)
        assert values(broker, "orders.dlq") == Counter([b"1", b"2"])
        assert broker.group("g").offsets[0].committed == 3
