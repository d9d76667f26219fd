"""Waiting for what is on its way: in which thread reports are made, and what Ctrl-C leaves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from outages import PATIENCE_S, QUICK, until

from seawall.broker import AnyDelivery, Broker, connect
from seawall.broker.kafka.threaded import ServerThread
from seawall.broker.remote import flushing
from seawall.broker.remote.flushing import Flusher


@pytest.fixture
def server(broker: Broker) -> Iterator[ServerThread]:
    with ServerThread(broker, listen="127.0.0.1:0") as serving:
        yield serving


def test_no_report_is_made_where_a_signal_may_take_its_place(server: ServerThread) -> None:
    threads = set()

    def told(delivery: AnyDelivery) -> None:
        threads.add(threading.current_thread())

    with (
        connect(f"kafka://{server.address}") as broker,
        broker.producer(on_delivery=told, linger_ms=1_000) as producer,
    ):
        for _ in range(20):
            producer.send("orders", b"x").result(PATIENCE_S)
        producer.send("orders", b"x")
        producer.flush(PATIENCE_S * 1000)
        producer.send("orders", b"x")
    assert threads
    assert threading.main_thread() not in threads


class Stuck:
    """A client whose flush takes until it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.let_go = threading.Event()

    def flush(self, timeout_s: float) -> None:
        self.calls += 1
        assert self.let_go.wait(PATIENCE_S)


def test_a_hurry_waits_for_nothing_and_a_flush_no_longer_than_it_may() -> None:
    client = Stuck()
    flusher = Flusher(cast("Any", client))
    try:
        flusher.hurry()
        until(lambda: client.calls == 1)
        flusher.hurry()
        flusher.hurry()
        flusher.flush(0.01)
        assert client.calls == 1
        client.let_go.set()
        until(lambda: client.calls == 2)  # one for all that was wanted meanwhile
    finally:
        client.let_go.set()
        flusher.end()
    flusher.hurry()
    flusher.flush(PATIENCE_S)
    assert client.calls == 2


def test_one_interrupt_is_enough_while_no_server_answers(
    server: ServerThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flushing, "AWAY_S", 0.2)
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        connect(f"kafka://{server.address}", **QUICK) as broker,
    ):
        producer = broker.producer()
        producer.send("orders", b"kept").result(PATIENCE_S)
        server.stop()
        sent = [producer.send("orders", b"%d" % n) for n in range(3)]
        raise KeyboardInterrupt
    assert caught.value.__notes__ == ["seawall: 3 records were not acknowledged in time"]
    assert all(each.exception(0) is not None for each in sent)
    told = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert "3 records were not acknowledged in time" in told


def test_an_interrupted_close_says_what_it_leaves(
    server: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(f"kafka://{server.address}", **QUICK) as broker:
        producer = broker.producer()
        producer.send("orders", b"kept").result(PATIENCE_S)
        server.stop()
        producer.send("orders", b"x")

        def interrupted(self: Flusher, timeout_s: float) -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(Flusher, "flush", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            producer.close()
        assert caught.value.__notes__ == ["seawall: 1 record was not acknowledged"]


def test_what_goes_well_is_waited_for_after_an_interrupt(server: ServerThread) -> None:
    with connect(f"kafka://{server.address}") as broker:
        with pytest.raises(KeyboardInterrupt) as caught, broker.producer() as producer:
            delivery = producer.send("orders", b"x")
            raise KeyboardInterrupt
        assert delivery.result(0).offset == 0
        assert not hasattr(caught.value, "__notes__")


def test_what_ends_a_program_does_not_end_the_reports(
    server: ServerThread, caplog: pytest.LogCaptureFixture
) -> None:
    def told(delivery: AnyDelivery) -> None:
        raise SystemExit

    with (
        connect(f"kafka://{server.address}") as broker,
        broker.producer(on_delivery=told) as producer,
    ):
        producer.send("orders", b"x").result(PATIENCE_S)
        producer.send("orders", b"y").result(PATIENCE_S)
    caplog.clear()  # its tracebacks keep what they passed through
