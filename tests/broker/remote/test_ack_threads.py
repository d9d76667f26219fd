"""Threads that acknowledge while another one polls, or is called back: nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from outages import PATIENCE_S, read, thread_serving, until

from seawall.broker import AnyBroker, AnyConsumer, connect
from seawall.broker.errors import BrokerClosed

COUNT = 100


@pytest.fixture
def broker(folder: str) -> Iterator[AnyBroker]:
    with (
        thread_serving(folder) as server,
        connect(f"kafka://{server.address}") as broker,
    ):
        broker.create_topic("orders")
        with broker.producer() as producer:
            for number in range(COUNT):
                producer.send("orders", b"%d" % number)
        yield broker


def is_waited_for(consumer: AnyConsumer) -> bool:
    """Whether another thread is on its way into librdkafka."""
    return consumer._turn.is_wanted  # type: ignore[union-attr]


def committed(broker: AnyBroker) -> int | None:
    [offset] = broker.group("billing").offsets
    return offset.committed


def test_called_back_while_another_thread_acknowledges(broker: AnyBroker) -> None:
    """The other thread is on its way into librdkafka, where the poll is; the callback
    acknowledges all the same, and what the other has does not undo that."""
    outcomes: list[Any] = []

    def revoked(places: object) -> None:
        outcomes.append(threads.submit(consumer.ack, records[2]))
        until(lambda: is_waited_for(consumer))
        consumer.ack(records[5])

    with ThreadPoolExecutor(1) as threads:
        consumer = broker.consumer("orders", group="billing", on_revoked=revoked)
        records = read(consumer, 10)
        consumer.close()
        [outcome] = outcomes
        assert isinstance(outcome.exception(PATIENCE_S), BrokerClosed)
    assert committed(broker) == 6


def test_acknowledging_when_partitions_come_while_another_thread_does(broker: AnyBroker) -> None:
    """`on_assigned` is called in a poll, though not by librdkafka."""
    outcomes: list[Any] = []

    def assigned(places: list[tuple[str, int]]) -> None:
        outcomes.append(threads.submit(consumer.ack_offsets, {places[0]: 3}))
        until(lambda: is_waited_for(consumer))
        consumer.ack_offsets({places[0]: 6})

    with (
        ThreadPoolExecutor(1) as threads,
        broker.consumer("orders", group="billing", on_assigned=assigned) as consumer,
    ):
        records = read(consumer, COUNT - 6)
        assert records[0].offset == 6
        assert outcomes[0].exception(PATIENCE_S) is None
        assert consumer.committed("orders", 0) == 6
    assert committed(broker) == 6


def test_many_threads_acknowledge_while_one_polls(broker: AnyBroker) -> None:
    over = threading.Event()

    def poll() -> None:
        while not over.is_set():
            consumer.poll(timeout_ms=1_000)

    with broker.consumer("orders", group="billing") as consumer:
        records = read(consumer, COUNT)
        polling = threading.Thread(target=poll)
        polling.start()
        try:
            with ThreadPoolExecutor(8) as threads:
                for done in [threads.submit(consumer.ack, record) for record in records]:
                    assert done.exception(PATIENCE_S) is None
        finally:
            over.set()
            polling.join()
        assert consumer.committed("orders", 0) == COUNT
    assert committed(broker) == COUNT
