"""`Delivery` and `Batch`: outcomes, waiting, callbacks."""

from __future__ import annotations

import threading

import pytest
from brokers import LONG_S, in_thread

from seawall.broker import Broker, Delivery, RecordMetadata
from seawall.broker.delivery import Batch
from seawall.broker.errors import BrokerError
from seawall.broker.routes import Route


@pytest.fixture
def batch(broker: Broker) -> Batch:
    route = Route(broker.topic("orders"), 1000)
    made = Batch(route.queues[0], 0.0, lambda batch, deadline_s: None)
    made.records = [(1, None, b"a", ()), (2, None, b"b", ())]
    return made


def test_an_outcome(batch: Batch) -> None:
    first, second = Delivery(batch, 0, 1), Delivery(batch, 1, 2)
    assert not first.done()
    with pytest.raises(TimeoutError):
        first.result(timeout=0)
    with pytest.raises(TimeoutError):
        first.exception(timeout=0.01)
    batch.resolve(40, None)
    assert first.done()
    assert first.result() == RecordMetadata("orders", 0, 40, 1)
    assert second.result(timeout=0) == RecordMetadata("orders", 0, 41, 2)
    assert first.exception() is None
    assert not batch.has_unasked_error


def test_an_error_and_who_asked_for_it(batch: Batch) -> None:
    first, second = Delivery(batch, 0, 1), Delivery(batch, 1, 2)
    batch.resolve(-1, BrokerError("lost"))
    assert batch.has_unasked_error
    for _ in range(2):
        with pytest.raises(BrokerError, match="lost"):
            first.result()
    assert batch.has_unasked_error
    assert str(second.exception()) == "lost"
    assert not batch.has_unasked_error


def test_callbacks_before_and_after(batch: Batch, caplog: pytest.LogCaptureFixture) -> None:
    told: list[object] = []

    def fail(delivery: Delivery) -> None:
        told.append("failed")
        raise RuntimeError

    delivery = Delivery(batch, 0, 1)
    delivery.add_done_callback(fail)
    delivery.add_done_callback(told.append)
    assert told == []
    batch.resolve(0, None)
    assert told == ["failed", delivery]
    delivery.add_done_callback(fail)
    delivery.add_done_callback(told.append)
    assert told == ["failed", delivery, "failed", delivery]
    assert caplog.text.count("a delivery callback failed") == 2


def test_many_threads_wait(batch: Batch) -> None:
    barrier = threading.Barrier(5)

    def wait() -> None:
        barrier.wait()
        assert Delivery(batch, 0, 1).result(timeout=LONG_S).offset == 7

    with in_thread(wait), in_thread(wait), in_thread(wait), in_thread(wait):
        barrier.wait()
        batch.resolve(7, None)


def test_the_time_of_the_append_if_the_topic_wants_it(batch: Batch) -> None:
    batch.append_time_ms = 99
    batch.resolve(0, None)
    assert Delivery(batch, 0, 1).result().timestamp == 99
