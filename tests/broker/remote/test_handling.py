"""Handlers over a network: processes that die, servers that go away, members that are slow."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from clients.endpoints import free_port
from server_processes import ServerProcess
from storage import Child, memory_folder

from seawall.broker import AnyBroker, AnyConsumer, DeliveredRecord, Handled, Record, Reject, connect
from seawall.broker.errors import UnknownPartition
from seawall.broker.remote.group_consumer import RemoteGroupConsumer

PATIENCE_S = 30.0
QUICK: dict[str, Any] = {"reconnect_backoff_ms": 20, "reconnect_backoff_max_ms": 300}
FAST: dict[str, Any] = {"retry_backoff_ms": 1, "retry_backoff_max_ms": 5, "ack_interval_ms": 20}
# Whoever is killed is missed soon.
SHORT: dict[str, Any] = {"session_timeout_ms": 1_000, "heartbeat_interval_ms": 100}


class Server:
    """A server at one port, with what it had, each time it is started."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: ServerProcess | None = None
        self.location = f"kafka://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._process = ServerProcess(
            self._folder, port=self._port, group_initial_rebalance_delay_ms=0
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None


@pytest.fixture
def server() -> Iterator[Server]:
    with memory_folder() as folder:
        server = Server(folder)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture
def broker(server: Server) -> Iterator[AnyBroker]:
    with connect(server.location, **QUICK) as opened:
        yield opened


def until(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about in time"
        time.sleep(0.01)


def fill(broker: AnyBroker, topic: str, count: int, partitions: int = 1) -> None:
    broker.create_topic(topic, partitions)
    with broker.producer() as producer:
        for number in range(count):
            for partition in range(partitions):
                producer.send(topic, b"%d" % number, partition=partition)


def values(broker: AnyBroker, topic: str) -> list[bytes | None]:
    found: list[bytes | None] = []
    with broker.consumer(topic, start="start") as consumer:
        while any(consumer.lag().values()):
            found += [record.value for record in consumer.poll(timeout_ms=100)]
    return found


def committed(broker: AnyBroker, group: str = "g") -> dict[int, int]:
    return {each.partition: each.committed for each in broker.group(group).offsets}


class Until:
    """A stop event that is set by what it looks at."""

    def __init__(self, condition: Callable[[], object]) -> None:
        self._condition = condition

    def is_set(self) -> bool:
        return bool(self._condition())


class Running:
    """A `run` in a thread of its own."""

    def __init__(self, consumer: AnyConsumer, handler: Callable[..., object], **more: Any) -> None:
        self.stop = threading.Event()
        self.done: Handled | None = None
        self.failure: BaseException | None = None
        self._consumer = consumer
        self._handler = handler
        self._settings = {**FAST, **more}
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.done = self._consumer.run(self._handler, stop=self.stop, **self._settings)
        except BaseException as error:  # noqa: BLE001 - the test tells
            self.failure = error

    def __enter__(self) -> Running:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        assert self.failure is None


# -- processes that die --------------------------------------------------------------------


def test_a_record_that_kills_its_process_becomes_a_dead_letter(server: Server) -> None:
    """Before any other record is taken for the one that does it."""
    with connect(server.location) as broker:
        fill(broker, "orders", 30)

    def live(say: Callable[[str], None]) -> None:
        def handler(record: DeliveredRecord) -> None:
            say(f"{record.offset} {record.delivery_count}")
            if record.offset == 17:
                os.kill(os.getpid(), signal.SIGKILL)

        with (
            connect(server.location) as broker,
            broker.consumer("orders", group="g", **SHORT) as consumer,
        ):
            done = Until(lambda: consumer.assignment() and not any(consumer.lag().values()))
            consumer.run(handler, **FAST, max_deliveries=3, stop=done)

    deaths = 0
    seen: Counter[int] = Counter()
    counts: list[int] = []
    while deaths < 10:
        said = Child(live).wait()
        for line in said:
            offset, count = map(int, line.split())
            seen[offset] += 1
            counts += [count] if offset == 17 else []
        if not said or not said[-1].startswith("17 "):
            break
        deaths += 1
    # The first time may not count: so it is one more at the most, and never one less.
    assert deaths in (3, 4)
    assert counts in ([1, 2, 3], [1, 1, 2, 3])
    assert set(seen) == set(range(30))
    with connect(server.location) as broker:
        [letter] = broker.dead_letters("orders").records()
        assert (letter.offset, letter.error_class, letter.attempts) == (17, "ProcessDied", 3)
        assert committed(broker) == {0: 30}


def test_a_member_that_was_stopped_and_wakes_up_takes_nothing_back(server: Server) -> None:
    with connect(server.location) as broker:
        fill(broker, "orders", 200)

    def live(say: Callable[[str], None]) -> None:
        def handler(record: DeliveredRecord) -> None:
            say(f"{record.offset}")
            time.sleep(0.02)

        with (
            connect(server.location) as broker,
            broker.consumer("orders", group="g", **SHORT) as consumer,
        ):
            consumer.run(handler, **FAST, timeout_ms=8_000)

    child = Child(live)
    first = [int(child.line()) for _ in range(20)]
    child.kill(signal.SIGSTOP)
    seen: list[int] = []
    with (
        connect(server.location, **QUICK) as broker,
        broker.consumer("orders", group="g", **SHORT) as consumer,
    ):

        def handler(record: DeliveredRecord) -> None:
            assert record.offset >= (consumer.committed("orders", 0) or 0)
            seen.append(record.offset)

        with Running(consumer, handler):
            until(lambda: len(seen) > 20)
            child.kill(signal.SIGCONT)
            rest = [int(line) for line in child.wait()]
            until(lambda: committed(broker) == {0: 200})
    assert set(first) | set(seen) | set(rest) == set(range(200))
    assert seen == sorted(set(seen))
    # What it had not acknowledged came again; what it had, did not.
    assert seen[0] <= 20


# -- servers that go away ------------------------------------------------------------------


def test_a_server_is_killed_while_handlers_are_at_work(server: Server, broker: AnyBroker) -> None:
    fill(broker, "orders", 300, partitions=2)
    seen: Counter[tuple[int, int]] = Counter()
    repeated: list[tuple[int, int]] = []
    # A session that outlives the outages, so that nobody is taken for dead.
    patient = {**SHORT, "session_timeout_ms": 20_000}
    with broker.consumer("orders", group="g", **patient) as consumer:

        def handler(record: DeliveredRecord) -> None:
            place = record.partition, record.offset
            with suppress(UnknownPartition):  # it is lost just now
                if record.offset < (consumer.committed("orders", record.partition) or 0):
                    repeated.append(place)
            time.sleep(0.005)
            seen[place] += 1
            if record.offset % 50 == 10 and record.delivery_count == 1:
                raise ValueError("once")

        went_on = []
        with Running(consumer, handler, concurrency=2) as running:
            for away_s in (0.0, 0.4, 1.2):
                there = len(seen)
                until(lambda there=there: len(seen) > there + 30)
                server.kill()
                before = seen.total()
                time.sleep(away_s)
                went_on.append(seen.total() - before)
                server.start()
            until(lambda: committed(broker) == {0: 300, 1: 300})
            assert running.failure is None
    assert set(seen) == {(partition, offset) for partition in (0, 1) for offset in range(300)}
    assert repeated == []
    # They went on with what they had.
    assert went_on[-1] > 20
    # Twice came what failed once, and what was being handled when the membership ended.
    twice = [place for place, count in seen.items() if count > 1 and place[1] % 50 != 10]
    assert len(twice) < 30


def test_a_run_ends_while_no_server_answers(server: Server, broker: AnyBroker) -> None:
    fill(broker, "orders", 10)
    seen: list[int] = []
    with broker.consumer("orders", group="g", **SHORT) as consumer:

        def handler(record: DeliveredRecord) -> None:
            seen.append(record.offset)
            if record.offset == 4:
                server.kill()

        with Running(consumer, handler, shutdown_timeout_ms=1_000, ack_interval_ms=60_000) as runs:
            until(lambda: len(seen) == 10)
            began_s = time.monotonic()
            runs.stop.set()
            runs.thread.join()
        assert time.monotonic() - began_s < 10
        assert runs.done == Handled(handled=10)
    server.start()
    again: list[int] = []
    with broker.consumer("orders", group="g", **SHORT) as consumer:
        consumer.run(lambda record: again.append(record.offset), **FAST, max_records=10)
    assert again == seen == list(range(10))  # none was acknowledged, none is lost


def test_closing_ends_a_run_while_no_server_answers(server: Server, broker: AnyBroker) -> None:
    fill(broker, "orders", 5)
    seen: list[int] = []
    with (
        broker.consumer("orders", group="g", **SHORT) as consumer,
        Running(consumer, lambda record: seen.append(record.offset), shutdown_timeout_ms=500) as r,
    ):
        until(lambda: len(seen) == 5)
        server.kill()
        began_s = time.monotonic()
        consumer.close()
        r.thread.join()
        assert time.monotonic() - began_s < 10
        # librdkafka ends behind it, once the commit that was under way has its answer.
        server.start()
        until(lambda: not any("(close)" in each.name for each in threading.enumerate()))


def test_a_dead_letter_waits_for_the_server(server: Server, broker: AnyBroker) -> None:
    fill(broker, "orders", 20)
    broker.create_topic("orders.dlq")
    buried: list[int] = []
    killed: list[bool] = []
    with broker.consumer("orders", group="g", **SHORT) as consumer:

        def handler(record: DeliveredRecord) -> None:
            if record.offset == 5 and record.delivery_count == 1 and not killed:
                killed.append(True)
                server.kill()
            if record.offset >= 5:
                raise Reject("no")

        with Running(
            consumer,
            handler,
            concurrency=4,
            ordering="unordered",
            on_dead_letter=lambda record, failure, metadata: buried.append(record.offset),
        ):
            time.sleep(1.5)
            assert buried == []
            server.start()
            until(lambda: committed(broker) == {0: 20})
    assert sorted(set(buried)) == list(range(5, 20))
    found = Counter(values(broker, "orders.dlq"))
    assert set(found) == {b"%d" % number for number in range(5, 20)}
    # Nothing was sent before the outage, so nothing had to be sent again.
    assert found.total() == 15


# -- members that are slow -----------------------------------------------------------------


def test_a_slow_handler_keeps_its_member_in_the_group(broker: AnyBroker) -> None:
    fill(broker, "orders", 40, partitions=2)
    lost: list[object] = []
    seen: list[tuple[int, int]] = []
    with broker.consumer(
        "orders", group="g", max_poll_interval_ms=1_000, on_lost=lost.append, **SHORT
    ) as consumer:

        def handler(record: DeliveredRecord) -> None:
            time.sleep(3.0 if record.offset == 0 else 0)
            seen.append((record.partition, record.offset))

        done = consumer.run(
            handler, **FAST, max_records=80, max_pending=4, timeout_ms=1000 * PATIENCE_S
        )
    assert done == Handled(handled=80)
    assert lost == []
    assert len(set(seen)) == len(seen) == 80


def test_what_is_held_back_is_paused_and_comes_in_order(broker: AnyBroker) -> None:
    """A partition that waits keeps little in memory, and none of it is lost or mixed up."""
    fill(broker, "orders", 12_000, partitions=2)
    go_on = threading.Event()
    seen: dict[int, list[int]] = {0: [], 1: []}
    most_kept = [0]
    paused: set[object] = set()
    with broker.consumer("orders", group="g", **SHORT) as consumer:
        assert isinstance(consumer, RemoteGroupConsumer)

        def handler(record: DeliveredRecord) -> None:
            if record.partition == 0 and record.offset == 0:
                assert go_on.wait(PATIENCE_S)
            seen[record.partition].append(record.offset)
            kept = sum(map(len, list(consumer._kept.values())))
            most_kept[0] = max(most_kept[0], kept)
            paused.update(consumer._paused)
            if len(seen[1]) == 12_000:
                go_on.set()

        consumer.run(handler, **FAST, concurrency=2, max_records=24_000, max_pending=100)
    assert seen == {0: list(range(12_000)), 1: list(range(12_000))}
    # What had come until the pause took effect is kept as well, but not all there is.
    assert 0 < most_kept[0] < 12_000 - 1_000
    assert paused
    assert committed(broker) == {0: 12_000, 1: 12_000}


def test_records_that_a_run_did_not_take_are_polled_afterwards(broker: AnyBroker) -> None:
    fill(broker, "orders", 1_000, partitions=2)
    found: list[Record] = []
    with broker.consumer("orders", group="g", **SHORT) as consumer:
        handled: list[Record] = []
        consumer.run(handled.append, **FAST, max_records=300, max_pending=20)
        deadline_s = time.monotonic() + PATIENCE_S
        while len(found) < 1_700 and time.monotonic() < deadline_s:
            found += consumer.poll(timeout_ms=100)
        consumer.ack(found)
    assert len(handled) == 300
    for partition in (0, 1):
        offsets = [r.offset for r in [*handled, *found] if r.partition == partition]
        assert offsets == list(range(1_000))
    assert committed(broker) == {0: 1_000, 1: 1_000}
