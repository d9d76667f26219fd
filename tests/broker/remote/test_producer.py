"""What is special about producing over a network: the buffer, giving up, forks, and the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from commands import TIMEOUT_S, environment
from outages import PATIENCE_S, until

from seawall.broker import AnyBroker, Broker, connect
from seawall.broker.errors import (
    BrokerClosed,
    BufferFull,
    ConnectionLost,
    ForkedBroker,
    InvalidRecord,
    OutcomeUnknown,
    UnsupportedByLocation,
)
from seawall.broker.kafka.threaded import ServerThread

NOWHERE = "kafka://127.0.0.1:1"


@pytest.fixture
def server(broker: Broker) -> Iterator[ServerThread]:
    with ServerThread(broker, listen="127.0.0.1:0") as serving:
        yield serving


@pytest.fixture
def remote(server: ServerThread) -> Iterator[AnyBroker]:
    with connect(f"kafka://{server.address}", reconnect_backoff_max_ms=200) as opened:
        yield opened


@pytest.mark.parametrize("name", ["\udcff", "a\0b"])
def test_a_headers_name_that_cannot_be_sent(remote: AnyBroker, name: str) -> None:
    """confluent-kafka would end the process, or cut the name."""
    with remote.producer() as producer:
        with pytest.raises(InvalidRecord, match="name of the header"):
            producer.send("orders", b"x", headers=[("a", b"1"), (name, b"1")])
        assert producer.send("orders", b"x", headers={"\xfc": b"1"}).result(PATIENCE_S).offset == 0


def test_a_full_buffer(server: ServerThread, remote: AnyBroker) -> None:
    producer = remote.producer(buffer_bytes=100_000, max_block_ms=100, linger_ms=0)
    producer.send("orders", b"x").result(PATIENCE_S)
    server.stop()
    taken = []
    with pytest.raises(BufferFull) as caught:
        for _ in range(100):
            taken.append(producer.send("orders", b"x" * 10_000))
    assert (caught.value.buffer_bytes, caught.value.max_block_ms) == (100_000, 100)
    assert 1 <= len(taken) <= 20
    with pytest.raises(TimeoutError):
        taken[0].result(0.1)
    with pytest.raises(TimeoutError):
        producer.flush(50)
    with pytest.raises(TimeoutError):
        producer.close(50)
    for delivery in taken:
        assert isinstance(delivery.exception(0), (BrokerClosed, OutcomeUnknown))
    producer.close()


def test_a_delivery_timeout(server: ServerThread, remote: AnyBroker) -> None:
    producer = remote.producer(delivery_timeout_ms=300, linger_ms=0)
    until(lambda: producer.send("orders", b"x").exception(PATIENCE_S) is None)
    server.stop()
    delivery = producer.send("orders", b"y")
    assert isinstance(delivery.exception(PATIENCE_S), OutcomeUnknown)
    delivery = producer.send("orders", b"z")
    with pytest.raises(OutcomeUnknown) as caught:
        producer.flush()  # nobody has asked
    assert caught.value.topic == "orders"
    assert delivery.done()
    producer.close()


def test_the_first_record_waits_only_so_long_for_a_server() -> None:
    with (
        connect(NOWHERE) as broker,
        broker.producer(max_block_ms=200) as producer,
        pytest.raises(ConnectionLost) as caught,
    ):
        producer.send("orders", b"x")
    assert caught.value.location == NOWHERE


def test_asking_does_not_wait_for_company(remote: AnyBroker) -> None:
    with remote.producer(linger_ms=600_000) as producer:
        assert producer.send("orders", b"x").result(PATIENCE_S).offset == 0


def test_durability_is_not_for_choosing(remote: AnyBroker) -> None:
    with pytest.raises(UnsupportedByLocation) as caught:
        remote.producer(durability="os")
    assert "durability 'os'" in caught.value.operation
    with pytest.raises(UnsupportedByLocation):
        remote.consumer("orders", group="g", partitions=[0])
    with pytest.raises(UnsupportedByLocation):
        remote.consumer(
            "orders", group="g", partition_assignment_strategy=["range", "cooperative-sticky"]
        )


def test_a_topic_that_changed_while_it_was_produced_to(remote: AnyBroker) -> None:
    with remote.producer() as producer:
        assert producer.send("orders", b"x", partition=0).result(PATIENCE_S).partition == 0
        remote.add_partitions("orders", 2)
        assert producer.send("orders", b"x", partition=1).result(PATIENCE_S).partition == 1


def test_a_child_process_refuses_everything(remote: AnyBroker) -> None:
    with remote.producer() as producer, remote.consumer("orders") as consumer:
        producer.send("orders", b"x").result(PATIENCE_S)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            refused = 0
            try:
                for use in (
                    lambda: producer.send("orders", b"y"),
                    consumer.poll,
                    remote.topics,
                    remote.producer,
                ):
                    try:
                        use()
                    except ForkedBroker:
                        refused += 1
            finally:
                os.write(write_end, b"%d" % refused)
                os._exit(0)
        os.close(write_end)
        refused_there = os.read(read_end, 10)
        os.close(read_end)
        os.waitpid(child, 0)
        assert refused_there == b"4"
        assert producer.send("orders", b"z").result(PATIENCE_S).offset == 1


SCRIPT = """
import sys
from seawall.broker import connect
broker = connect(sys.argv[1])
producer = broker.producer(linger_ms=1000)
for number in range(100):
    producer.send("orders", b"%d" % number)
"""


def test_a_program_that_just_ends_has_sent_what_it_sent(server: ServerThread) -> None:
    script = [sys.executable, "-c", SCRIPT, f"kafka://{server.address}"]
    done = subprocess.run(
        script, env=environment(), timeout=TIMEOUT_S, check=False, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert server.broker.ends("orders", 0).durable_end == 100


def test_after_close(remote: AnyBroker) -> None:
    producer = remote.producer()
    producer.close()
    producer.close()
    with pytest.raises(BrokerClosed):
        producer.flush()
