"""Several clients that change the same things at once, and topics that go while they are used."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from wire import LONG_MS, TIMEOUT_S, Wire, batch

from seawall.broker import Broker
from seawall.broker.errors import BrokerError
from seawall.broker.kafka import codes


def at_once(*calls: Callable[[], object]) -> None:
    """Run the calls in threads that begin together; raise what one of them raised."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        barrier.wait(TIMEOUT_S)
        call()

    with ThreadPoolExecutor(len(calls)) as threads:
        for running in [threads.submit(run, call) for call in calls]:
            running.result(TIMEOUT_S)


def create(wire: Wire, name: str, partitions: int = 1) -> int:
    """The error code of creating a topic."""
    topic = {
        "name": name,
        "num_partitions": partitions,
        "replication_factor": 1,
        "assignments": (),
        "configs": (),
    }
    [answer] = wire.ask(19, 7, topics=[topic], timeout=LONG_MS, validate_only=False).topics
    return int(answer.error_code)


def delete(wire: Wire, name: str) -> int:
    """The error code of deleting a topic."""
    [answer] = wire.ask(20, 5, topic_names=(name,), timeout=LONG_MS).responses
    return int(answer.error_code)


def test_one_of_several_creates_a_topic(connect: Callable[[], Wire], broker: Broker) -> None:
    wires = [connect() for _ in range(4)]
    found: Counter[int] = Counter()

    def make(wire: Wire) -> None:
        for number in range(3):
            found[create(wire, f"t{number}", 2)] += 1

    def make_embedded() -> None:
        for number in range(3):
            try:
                broker.create_topic(f"t{number}", 2)
                found[codes.NONE] += 1
            except BrokerError as error:
                found[codes.code_of(error)] += 1

    at_once(*(lambda wire=wire: make(wire) for wire in wires), make_embedded)  # type: ignore[misc]
    assert found == {codes.NONE: 3, codes.TOPIC_ALREADY_EXISTS: 12}
    assert [len(broker.topic(f"t{number}").partitions) for number in range(3)] == [2, 2, 2]


def test_topics_that_come_and_go_under_those_who_change_them(
    connect: Callable[[], Wire], broker: Broker
) -> None:
    """Every answer is one that a client can make sense of."""
    seen: set[int] = set()
    wires = [connect() for _ in range(4)]

    def create_and_delete(wire: Wire) -> None:
        for _ in range(8):
            seen.add(create(wire, "t"))
            seen.add(delete(wire, "t"))

    def grow(wire: Wire) -> None:
        for count in range(2, 10):
            topic = {"name": "t", "count": count, "assignments": None}
            answer = wire.ask(37, 3, topics=[topic], timeout=LONG_MS, validate_only=False)
            seen.update(each.error_code for each in answer.results)

    def describe_and_alter(wire: Wire) -> None:
        resource = {"resource_type": 2, "resource_name": "t"}
        for _ in range(8):
            asked = [{**resource, "configuration_keys": None}]
            seen.update(each.error_code for each in wire.ask(32, 4, resources=asked).results)
            named = [{**resource, "configs": [{"name": "retention.ms", "value": "7"}]}]
            answer = wire.ask(33, 2, resources=named, validate_only=False)
            seen.update(each.error_code for each in answer.responses)
            wire.ask(35, 4, topics=None)
            wire.ask(61, 0, topics=[{"name": "t", "partition_indexes": (0, 1)}])

    at_once(
        lambda: create_and_delete(wires[0]),
        lambda: create_and_delete(wires[1]),
        lambda: grow(wires[2]),
        lambda: describe_and_alter(wires[3]),
    )
    assert seen <= {
        codes.NONE,
        codes.UNKNOWN_TOPIC_OR_PARTITION,
        codes.TOPIC_ALREADY_EXISTS,
        codes.INVALID_PARTITIONS,
    }
    assert broker.topic("orders")


def test_a_fetch_that_waits_learns_that_its_topic_is_gone(
    connect: Callable[[], Wire], broker: Broker
) -> None:
    reader, admin = connect(), connect()
    reader.send_fetch("orders", 0, max_wait_ms=LONG_MS)
    time.sleep(0.05)  # it waits by now; if not, it is told all the same
    assert delete(admin, "orders") == codes.NONE
    [topic] = reader.receive().responses
    assert topic.partitions[0].error_code == codes.UNKNOWN_TOPIC_OR_PARTITION


def test_a_producer_learns_that_its_topic_is_gone(
    connect: Callable[[], Wire], broker: Broker
) -> None:
    writer, admin = connect(), connect()
    gone = threading.Event()
    seen: list[int] = []

    def write() -> None:
        until_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < until_s:
            was_gone = gone.is_set()
            seen.append(writer.produce("orders", batch(b"x")).error_code)
            if was_gone:
                return

    thread = threading.Thread(target=write)
    thread.start()
    while not seen:
        time.sleep(0.001)
    assert delete(admin, "orders") == codes.NONE
    gone.set()
    thread.join(TIMEOUT_S)
    assert set(seen) == {codes.NONE, codes.UNKNOWN_TOPIC_OR_PARTITION}
    assert seen == sorted(seen), "nothing is stored once it is gone"


def test_a_topic_that_came_anew_takes_records_at_once(
    connect: Callable[[], Wire], broker: Broker
) -> None:
    wire = connect()
    assert wire.produce("orders", batch(b"old", b"older")).base_offset == 0
    assert delete(wire, "orders") == codes.NONE
    assert create(wire, "orders") == codes.NONE
    answer = wire.produce("orders", batch(b"new"))
    assert (answer.error_code, answer.base_offset) == (codes.NONE, 0)
    assert broker.ends("orders", 0).durable_end == 1


def test_a_setting_holds_for_the_next_request(connect: Callable[[], Wire]) -> None:
    wire = connect()
    assert wire.produce("orders", batch(b"x" * 2_000)).error_code == codes.NONE
    configs = [{"name": "max.message.bytes", "value": "1000"}]
    named = [{"resource_type": 2, "resource_name": "orders", "configs": configs}]
    wire.ask(33, 2, resources=named, validate_only=False)
    answer = wire.produce("orders", batch(b"x" * 2_000))
    assert answer.error_code in (codes.MESSAGE_TOO_LARGE, codes.RECORD_LIST_TOO_LARGE)


def test_who_waits_for_a_lock_keeps_nobody_else_waiting(
    connect: Callable[[], Wire], broker: Broker
) -> None:
    """More changes than the executor has threads, while another process changes topics."""
    first, *clients = [connect() for _ in range(13)]
    topic = {"num_partitions": 1, "replication_factor": 1, "assignments": (), "configs": ()}
    broker.engine.topics_lock.timeout_ms = LONG_MS

    def begin(client: Wire, name: str) -> None:
        client.send(19, 7, topics=[{"name": name, **topic}], timeout=200, validate_only=False)

    with broker.engine.topics_lock:
        told = ""
        while "goes on" not in told:  # else its time was up before it could begin
            assert told == "" or "nothing was done" in told
            begin(first, "first")
            [answer] = first.receive().topics
            assert answer.error_code == codes.REQUEST_TIMED_OUT
            told = answer.error_message
        for number, client in enumerate(clients):
            begin(client, f"t{number}")
        other = connect()
        assert other.produce("orders", batch(b"x")).error_code == codes.NONE
        assert len(other.ask(35, 4, topics=None).results) == 1
        for client in clients:
            [answer] = client.receive().topics
            assert answer.error_code == codes.REQUEST_TIMED_OUT
            assert "nothing was done" in answer.error_message
    assert create(clients[0], "last") == codes.NONE, "its turn comes after the one that goes on"
    assert {info.name for info in broker.topics()} == {"orders", "last", "first"}
