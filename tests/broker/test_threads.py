"""Threads whose start was cut short."""

from __future__ import annotations

import threading

import pytest
from brokers import read_all

from seawall.broker import Broker
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
