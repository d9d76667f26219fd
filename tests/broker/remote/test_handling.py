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
from outages import PATIENCE_S, QUICK, Server, miss, serving, thread_serving, until
from storage import Child, child

from seawall.broker import AnyBroker, AnyConsumer, DeliveredRecord, Handled, Record, Reject, connect
from seawall.broker.errors import UnknownPartition
from seawall.broker.remote import handling, storing
from seawall.broker.remote.group_consumer import RemoteGroupConsumer

FAST: dict[str, Any] = {"retry_backoff_ms": 1, "retry_backoff_max_ms": 5, "ack_interval_ms": 20}
# Sessions are as long as they are by default: on a busy machine a short one may run out.
BEATS: dict[str, Any] = {"heartbeat_interval_ms": 100}


@pytest.fixture
def server(folder: str) -> Iterator[Server]:
    with serving(folder) as server:
        yield server


@pytest.fixture
def broker(server: Server) -> Iterator[AnyBroker]:
    """Of a server that can be killed."""
    with connect(server.location, **QUICK) as opened:
        yield opened


@pytest.fixture
def steady(folder: str) -> Iterator[AnyBroker]:
    """Of a server that stays."""
    with thread_serving(folder) as server, connect(f"kafka://{server.address}") as opened:
        yield opened


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

        with connect(server.location) as broker, broker.consumer("orders", group="g") as consumer:
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
        miss(server.port, "g")
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
        lost: list[object] = []

        def handler(record: DeliveredRecord) -> None:
            say(f"{record.offset}")
            time.sleep(0.02)

        with (
            connect(server.location) as broker,
            broker.consumer("orders", group="g", on_lost=lost.append, **BEATS) as consumer,
        ):
            # It goes on until it has noticed, and until others have done all there is.
            done = Until(lambda: lost and committed(broker) == {0: 200})
            consumer.run(handler, **FAST, stop=done)

    seen: list[int] = []
    with (
        child(live) as process,
        connect(server.location, **QUICK) as broker,
    ):
        first = [int(process.line()) for _ in range(20)]
        process.kill(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        first += map(int, process.said())
        miss(server.port, "g")
        consumer = broker.consumer("orders", group="g")

        def handler(record: DeliveredRecord) -> None:
            assert record.offset >= (consumer.committed("orders", 0) or 0)
            seen.append(record.offset)

        with consumer, Running(consumer, handler):
            until(lambda: len(seen) > 20)
            process.kill(signal.SIGCONT)
            rest = [int(line) for line in process.wait()]
            until(lambda: committed(broker) == {0: 200})
    assert first == list(range(len(first)))
    assert set(first) | set(seen) | set(rest) == set(range(200))
    assert seen == sorted(set(seen))
    # What it had not acknowledged came again; what it had, did not.
    assert seen[0] <= len(first)


# -- servers that go away ------------------------------------------------------------------


def test_a_server_is_killed_while_handlers_are_at_work(server: Server, broker: AnyBroker) -> None:
    fill(broker, "orders", 300, partitions=2)
    seen: Counter[tuple[int, int]] = Counter()
    repeated: list[tuple[int, int]] = []
    # Handlers are let go in stretches, so that there is always something left to do.
    may_begin = threading.Semaphore(0)
    with broker.consumer("orders", group="g", **BEATS) as consumer:

        def handler(record: DeliveredRecord) -> None:
            place = record.partition, record.offset
            may_begin.acquire()
            with suppress(UnknownPartition):  # it is lost just now
                if record.offset < (consumer.committed("orders", record.partition) or 0):
                    repeated.append(place)
            seen[place] += 1
            if record.offset % 50 == 10 and record.delivery_count == 1:
                raise ValueError("once")

        with Running(consumer, handler, concurrency=2) as running:
            try:
                for away_s in (0.0, 0.4, 1.2):
                    there = len(seen)
                    may_begin.release(60)
                    until(lambda there=there: len(seen) > there + 30)
                    server.kill()
                    time.sleep(away_s / 2)
                    if away_s:  # they go on with what they have
                        there = seen.total()
                        may_begin.release(30)
                        until(lambda there=there: seen.total() >= there + 20)
                    time.sleep(away_s / 2)
                    server.start()
            finally:
                may_begin.release(10_000)
            until(lambda: committed(broker) == {0: 300, 1: 300})
            assert running.failure is None
    assert set(seen) == {(partition, offset) for partition in (0, 1) for offset in range(300)}
    assert repeated == []
    # Twice came what failed once, and what was being handled when the membership ended.
    twice = [place for place, count in seen.items() if count > 1 and place[1] % 50 != 10]
    assert len(twice) < 30


def test_a_run_ends_while_no_server_answers(server: Server, broker: AnyBroker) -> None:
    fill(broker, "orders", 10)
    seen: list[int] = []
    with broker.consumer("orders", group="g") as consumer:

        def handler(record: DeliveredRecord) -> None:
            seen.append(record.offset)
            if record.offset == 4:
                server.kill()

        with Running(consumer, handler, shutdown_timeout_ms=1_000, ack_interval_ms=600_000) as runs:
            until(lambda: len(seen) == 10)
            runs.stop.set()
            runs.thread.join(PATIENCE_S)
            assert not runs.thread.is_alive()
        assert runs.done == Handled(handled=10)
    server.start()
    miss(server.port, "g")
    again: list[int] = []
    with broker.consumer("orders", group="g") as consumer:
        consumer.run(lambda record: again.append(record.offset), **FAST, max_records=10)
    assert again == seen == list(range(10))  # none was acknowledged, none is lost


def test_closing_ends_a_run_while_no_server_answers(server: Server, broker: AnyBroker) -> None:
    fill(broker, "orders", 5)
    seen: list[int] = []
    with (
        broker.consumer("orders", group="g") as consumer,
        Running(consumer, lambda record: seen.append(record.offset), shutdown_timeout_ms=500) as r,
    ):
        until(lambda: len(seen) == 5)
        server.kill()
        consumer.close()
        r.thread.join(PATIENCE_S)
        assert not r.thread.is_alive()
        # librdkafka ends behind it, once the commit that was under way has its answer.
        server.start()
        until(lambda: not any("(close)" in each.name for each in threading.enumerate()))


def test_a_dead_letter_waits_for_the_server(server: Server, broker: AnyBroker) -> None:
    fill(broker, "orders", 20)
    broker.create_topic("orders.dlq")
    buried: list[int] = []
    killed = threading.Event()
    with broker.consumer("orders", group="g", **BEATS) as consumer:

        def handler(record: DeliveredRecord) -> None:
            if record.offset == 5 and not killed.is_set():
                server.kill()
                killed.set()
            if record.offset >= 5:
                assert killed.wait(PATIENCE_S)
                raise Reject("no")

        with Running(
            consumer,
            handler,
            concurrency=4,
            ordering="unordered",
            on_dead_letter=lambda record, failure, metadata: buried.append(record.offset),
        ):
            assert killed.wait(PATIENCE_S)
            time.sleep(0.5)
            assert buried == []
            server.start()
            until(lambda: committed(broker) == {0: 20})
    assert sorted(set(buried)) == list(range(5, 20))
    found = Counter(values(broker, "orders.dlq"))
    assert set(found) == {b"%d" % number for number in range(5, 20)}
    # Nothing was sent before the outage, so nothing had to be sent again.
    assert found.total() == 15


# -- members that are slow -----------------------------------------------------------------


def test_a_slow_handler_keeps_its_member_in_the_group(steady: AnyBroker) -> None:
    """Longer than a member may go without polling. That a machine is paused for so long loses
    a member as well: then it is tried with more time."""
    fill(steady, "orders", 40, partitions=2)
    lost: list[object] = []
    for most_ms in (1_000, 5_000, 20_000):
        lost.clear()
        seen: list[tuple[int, int]] = []

        def handler(
            record: DeliveredRecord, most_ms: int = most_ms, seen: list[tuple[int, int]] = seen
        ) -> None:
            time.sleep(2 * most_ms / 1000 if record.offset == 0 else 0)
            seen.append((record.partition, record.offset))

        with steady.consumer(
            "orders",
            group=f"g{most_ms}",
            max_poll_interval_ms=most_ms,
            session_timeout_ms=most_ms,
            on_lost=lost.append,
            **BEATS,
        ) as consumer:
            done = consumer.run(handler, **FAST, max_records=80, max_pending=4)
        if not lost:
            break
    assert lost == []
    assert done == Handled(handled=80)
    assert len(set(seen)) == len(seen) == 80


def test_what_is_held_back_is_paused_and_comes_in_order(
    steady: AnyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition that waits keeps little in memory, and none of it is lost or mixed up."""
    most, count, polled = 200, 3_000, 100
    monkeypatch.setattr(handling, "MOST_KEPT", most)
    fill(steady, "orders", count, partitions=2)
    go_on = threading.Event()
    seen: dict[int, list[int]] = {0: [], 1: []}
    with steady.consumer("orders", group="g") as consumer:
        assert isinstance(consumer, RemoteGroupConsumer)
        most_kept: Counter[int] = Counter()
        sort_out = consumer._sort_out

        def watched() -> None:
            sort_out()
            for (_, partition), kept in consumer._kept.items():
                most_kept[partition] = max(most_kept[partition], len(kept))
                assert len(kept) < most or ("orders", partition) in consumer._paused

        monkeypatch.setattr(consumer, "_sort_out", watched)

        def handler(record: DeliveredRecord) -> None:
            if record.partition == 0 and record.offset == 0:
                assert go_on.wait(PATIENCE_S)
            seen[record.partition].append(record.offset)
            if len(seen[1]) == count:
                go_on.set()

        consumer.run(handler, **FAST, concurrency=2, max_records=2 * count, max_pending=polled)
    assert seen == {0: list(range(count)), 1: list(range(count))}
    # What the polls brought that reached the limit is kept as well, and nothing after it.
    assert most <= most_kept[0] < most + 2 * polled
    assert committed(steady) == {0: count, 1: count}


def test_who_waits_for_a_commit_takes_in_little_meanwhile(
    steady: AnyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It polls, because the report comes in a poll; records come with it."""
    most, count = 200, 3_000
    monkeypatch.setattr(handling, "MOST_KEPT", most)
    monkeypatch.setattr(storing, "OLD_S", 0.5)  # then it counts as unanswered
    fill(steady, "orders", count)
    report = storing.Storing._on_commit
    reports: list[object] = []

    def forgetful(self: storing.Storing, *what: Any) -> None:
        reports.append(what)
        if len(reports) > 2:
            report(self, *what)

    monkeypatch.setattr(storing.Storing, "_on_commit", forgetful)
    seen: list[int] = []
    most_taken = 0
    with steady.consumer("orders", group="g") as consumer:
        assert isinstance(consumer, RemoteGroupConsumer)
        serve = consumer._serve

        def watched(count: int, wait_s: float) -> None:
            nonlocal most_taken
            serve(count, wait_s)
            kept = sum(map(len, consumer._kept.values()))
            most_taken = max(most_taken, kept + len(consumer._pending))

        monkeypatch.setattr(consumer, "_serve", watched)
        consumer.run(lambda r: seen.append(r.offset), **FAST, max_records=count, max_pending=20)
    assert len(reports) > 2
    assert seen == list(range(count))
    assert most_taken < 2 * most
    assert committed(steady) == {0: count}


def test_records_that_a_run_did_not_take_are_polled_afterwards(steady: AnyBroker) -> None:
    fill(steady, "orders", 1_000, partitions=2)
    found: list[Record] = []
    with steady.consumer("orders", group="g") as consumer:
        handled: list[Record] = []
        consumer.run(handled.append, **FAST, max_records=300, max_pending=20)
        until(lambda: found.extend(consumer.poll(timeout_ms=100)) or len(found) >= 1_700)
        consumer.ack(found)
    assert len(handled) == 300
    for partition in (0, 1):
        offsets = [r.offset for r in [*handled, *found] if r.partition == partition]
        assert offsets == list(range(1_000))
    assert committed(steady) == {0: 1_000, 1: 1_000}
