"""Threads whose start was cut short."""

from __future__ import annotations

import threading

import pytest
from brokers import LONG_S, in_thread, put, read_all, values

from seawall.broker import Broker, DeliveredRecord, Record
from seawall.broker.handling_core import Handling
from seawall.broker.threads import is_running


def test_one_that_never_ran_and_one_that_has_ended() -> None:
    assert not is_running(threading.Thread(target=print))
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert not is_running(thread)


def test_one_that_runs() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    assert is_running(thread)
    end.set()
    thread.join()


@pytest.mark.parametrize("does_start", [False, True])
def test_a_producer_whose_thread_was_interrupted_closes(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, does_start: bool
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "seawall-producer":
            if does_start:
                start(thread)
            raise KeyboardInterrupt
        start(thread)

    producer = broker.producer(linger_ms=60_000)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        producer.send("orders", b"x")
    monkeypatch.undo()
    producer.send("orders", b"y")
    producer.close()
    assert [record.value for record in read_all(broker)] == [b"y"]


@pytest.mark.parametrize("long_ms", [float("inf"), 2.0**63])
def test_who_sets_no_limit_waits_as_long_as_it_takes(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, long_ms: float
) -> None:
    """For locks of Python these are errors."""
    with broker.producer(linger_ms=long_ms, max_block_ms=long_ms, buffer_bytes=200) as producer:
        for _ in range(10):  # there is room for one or two
            delivery = producer.send("orders", b"x" * 100)
        assert delivery.result(long_ms).offset == 9
        producer.send("orders", b"x")
        producer.flush(long_ms)
        producer.close(long_ms)
    stop, ending = threading.Event(), threading.Event()
    wait_for_running = Handling.wait_for_running

    def wait(handling: Handling) -> int:
        ending.set()
        return wait_for_running(handling)

    monkeypatch.setattr(Handling, "wait_for_running", wait)

    def handler(record: DeliveredRecord) -> None:
        stop.set()
        assert ending.wait(LONG_S)

    with broker.consumer("orders", group="g") as consumer:
        done = consumer.run(handler, stop=stop, timeout_ms=long_ms, shutdown_timeout_ms=long_ms)
        assert done.handled == 1
    with broker.consumer("orders", start="end") as consumer:
        polled: list[Record] = []
        with in_thread(lambda: polled.extend(consumer.poll(timeout_ms=long_ms))):
            put(broker, b"y")
        assert values(polled) == [b"y"]
