"""Threads that acknowledge while another one polls, or is called back: nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from clients.endpoints import free_port
from server_processes import ServerProcess
from storage import memory_folder

from seawall.broker import AnyBroker, AnyConsumer, Record, connect
from seawall.broker.errors import BrokerClosed

PATIENCE_S = 60.0
COUNT = 100


@pytest.fixture
def broker() -> Iterator[AnyBroker]:
    with memory_folder() as folder:
        server = ServerProcess(folder, port=free_port(), group_initial_rebalance_delay_ms=0)
        try:
            with connect(f"kafka://127.0.0.1:{server.port}") as broker:
                broker.create_topic("orders")
                with broker.producer() as producer:
                    for number in range(COUNT):
                        producer.send("orders", b"%d" % number)
                yield broker
        finally:
            server.kill()


def read(consumer: AnyConsumer, count: int) -> list[Record]:
    records: list[Record] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while len(records) < count:
        assert time.monotonic() < deadline_s
        records += consumer.poll(count - len(records), timeout_ms=500)
    return records


def committed(broker: AnyBroker) -> int | None:
    [offset] = broker.group("billing").offsets
    return offset.committed


def test_called_back_while_another_thread_acknowledges(broker: AnyBroker) -> None:
    """The other thread is on its way into librdkafka, where the poll is; the callback
    acknowledges all the same, and what the other has does not undo that."""
    outcomes: list[Any] = []

    def revoked(places: object) -> None:
        outcomes.append(threads.submit(consumer.ack, records[2]))
        time.sleep(0.3)  # it would be inside by now
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
        time.sleep(0.3)
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
