"""Ctrl-C that comes while librdkafka calls back, as it does all the time while a server is away."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from confluent_kafka import KafkaError
from outages import PATIENCE_S, QUICK, location, read, serving, until

from seawall.broker import AnyBroker, Broker, DeliveredRecord, connect
from seawall.broker.kafka.threaded import ServerThread
from seawall.broker.remote.broker import RemoteBroker
from seawall.broker.remote.errors import lost_signal
from seawall.broker.remote.group_consumer import RemoteGroupConsumer
from seawall.broker.remote.storing import Storing


@pytest.mark.parametrize("group", [None, "billing"])
def test_it_is_not_lost(folder: str, monkeypatch: pytest.MonkeyPatch, group: str | None) -> None:
    pressed = []
    is_away = False
    told = RemoteBroker._on_error

    def interrupted(self: RemoteBroker, error: KafkaError) -> None:
        if is_away and not pressed:
            pressed.append(error)
            os.kill(os.getpid(), signal.SIGINT)
        told(self, error)

    monkeypatch.setattr(RemoteBroker, "_on_error", interrupted)
    with serving(folder) as server, connect(location(server.port), **QUICK) as broker:
        broker.create_topic("orders")
        with broker.consumer("orders", group=group) as consumer:
            consumer.poll(timeout_ms=500)
            server.kill()
            is_away = True
            with pytest.raises(KeyboardInterrupt):
                consumer.poll(timeout_ms=PATIENCE_S * 1000)
    assert pressed


def test_what_is_no_signal_stays_what_it_is() -> None:
    error = SystemError("something else")
    assert lost_signal(error) is error


RECORDS = 2_000


class Pressed(BaseException):
    """What the handler of a signal raises here."""


@pytest.fixture
def alarms() -> Iterator[None]:
    def raises(*_: object) -> None:
        raise Pressed

    before = signal.signal(signal.SIGALRM, raises)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def remote(broker: Broker) -> Iterator[AnyBroker]:
    with (
        ServerThread(broker, listen="127.0.0.1:0", group_initial_rebalance_delay_ms=0) as server,
        connect(f"kafka://{server.address}") as opened,
    ):
        yield opened


def fill(remote: AnyBroker, records: int = RECORDS, topic: str = "orders") -> None:
    with remote.producer() as producer:
        for number in range(records):
            producer.send(topic, b"%d" % number)


def once(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> list[object]:
    """A call back is lost: Ctrl-C comes at its very beginning."""
    pressed: list[object] = []
    real: Callable[..., object] = getattr(kind, name)

    def lost(self: object, *arguments: object) -> object:
        if not pressed and threading.current_thread() is threading.main_thread():
            pressed.append(self)
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(kind, name, lost)
    return pressed


@pytest.mark.usefixtures("alarms")
@pytest.mark.parametrize("group", [None, "billing"])
def test_nothing_is_passed_over(remote: AnyBroker, group: str | None) -> None:
    """What librdkafka was about to hand over is thrown away when a handler raises."""
    remote.create_topic("many")
    fill(remote, topic="many")
    seen: list[int] = []
    times = 0
    with remote.consumer("many", group=group, fetch_bytes=2_000) as consumer:
        deadline_s = time.monotonic() + PATIENCE_S
        while len(seen) < RECORDS and time.monotonic() < deadline_s:
            records = None
            try:
                if times < 40:
                    signal.setitimer(signal.ITIMER_REAL, (0.001, 0.003, 0.01, 0.2)[times % 4])
                records = consumer.poll(20, timeout_ms=200)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Pressed:
                times += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            seen += [record.offset for record in records or ()]
        assert times
        assert seen == list(range(RECORDS))
        if group is not None:
            consumer.ack()
            assert consumer.committed("many", 0) == RECORDS


@pytest.mark.usefixtures("alarms")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("doing", ["topics", "group", "settings", "sending"])
def test_what_a_handler_raises_comes_out(remote: AnyBroker, doing: str) -> None:
    """confluent-kafka takes it for a missing argument, or a wrong one."""
    remote.create_topic("orders", if_not_exists=True)
    with remote.producer() as producer:
        things: dict[str, Callable[[], object]] = {
            "topics": remote.topics,
            "group": lambda: remote.reset_group("billing", "orders", {0: 0}),
            "settings": lambda: remote.alter_topic("orders", {"retention.ms": "-1"}),
            "sending": lambda: producer.send("orders", b"x", headers=[("type", b"pay")] * 20),
        }
        do = things[doing]
        do()
        times = 0
        chance = random.Random(doing)
        for _ in range(500):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 3e-4))
                try:
                    do()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except (Pressed, KeyboardInterrupt):  # in place of one that was lost
                times += 1
        assert times
        do()
        producer.flush(PATIENCE_S * 1000)


def test_partitions_whose_coming_was_not_heard_of_are_read(
    remote: AnyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(remote, 10)
    pressed = once(monkeypatch, RemoteGroupConsumer, "_on_assign")
    with remote.consumer("orders", group="billing") as consumer:
        with pytest.raises(KeyboardInterrupt):
            consumer.poll(timeout_ms=PATIENCE_S * 1000)
        assert pressed
        assert [record.offset for record in read(consumer, 10)] == list(range(10))
        consumer.ack()
        assert remote.group_offsets("billing") == {("orders", 0): 10}


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_partitions_whose_going_was_not_heard_of_are_gone(
    remote: AnyBroker, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    remote.create_topic("two", 2)
    lost: list[object] = []
    pressed = once(monkeypatch, RemoteGroupConsumer, "_on_revoke")
    settings = {"group": "billing", "partition_assignment_strategy": strategy}
    with remote.consumer("two", on_lost=lost.extend, **settings) as first:
        until(lambda: first.poll(timeout_ms=50) or len(first.assignment()) == 2)
        with remote.consumer("two", **settings) as second:

            def shared() -> bool:
                with suppress(KeyboardInterrupt):
                    first.poll(timeout_ms=50)
                second.poll(timeout_ms=50)
                return len(first.assignment()) == len(second.assignment()) == 1

            until(shared)
            assert pressed
            assert set(lost) >= set(second.assignment())
            assert first.assignment() != second.assignment()


def test_a_commit_whose_report_was_lost_holds_up_no_other(
    remote: AnyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(remote, 20)
    pressed = once(monkeypatch, Storing, "_on_commit")
    handled: list[int] = []

    def handle(record: DeliveredRecord) -> None:
        handled.append(record.offset)
        time.sleep(0.02)

    with remote.consumer("orders", group="billing") as consumer:
        with pytest.raises(KeyboardInterrupt):
            consumer.run(handle, timeout_ms=PATIENCE_S * 1000, ack_interval_ms=10)
        assert pressed
        assert remote.group_offsets("billing") == {("orders", 0): len(handled)}


def test_closing_while_partitions_come_raises_nothing(remote: AnyBroker) -> None:
    remote.create_topic("two", 2)
    settings = {"group": "billing", "heartbeat_interval_ms": 100}
    with remote.consumer("two", **settings) as first:
        with remote.consumer("two", **settings) as second:

            def shared() -> bool:
                first.poll(timeout_ms=50)
                second.poll(timeout_ms=50)
                return len(first.assignment()) == len(second.assignment()) == 1

            until(shared)
        # Its client joins and is given both; it hears of that when it polls, or closes. But the
        # client does not join before the consumer has heard of all that came while they shared.
        polled_s = time.monotonic()

        def given_both() -> bool:
            nonlocal polled_s
            if [len(each.assignment) for each in remote.group("billing").members] == [2]:
                return True
            if time.monotonic() - polled_s > 3:
                first.poll(timeout_ms=0)
                polled_s = time.monotonic()
            return False

        until(given_both)
