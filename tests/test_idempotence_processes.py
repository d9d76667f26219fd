"""One client's numbered batches, through processes that are killed: each is stored once."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import pytest
from brokers import read_all
from storage import Child, Say, batch, memory_folder

from seawall.broker import Broker
from seawall.wal.log import Log
from seawall.wal.producers import Placed

PRODUCER = 99


def log_of(broker: Broker) -> Log:
    return broker.engine.log(broker.engine.partition_id("orders", 0))


def put(log: Log, number: int) -> Placed:
    """The client's batch with one number, acknowledged."""
    encoded = batch(b"%d" % number, producer_id=PRODUCER, producer_epoch=0, base_sequence=number)
    (placed,) = log.append_checked([encoded])
    log.commit(placed.next_offset)
    return placed


def server(path: str, first: int) -> Callable[[Say], None]:
    """Takes the client's batches from `first` on, until it is killed."""

    def work(say: Say) -> None:
        with Broker.open(path) as broker, broker.producer(idempotent=True) as another:
            log = log_of(broker)
            for number in range(first, first + 100_000):
                say(f"{number} {put(log, number).base_offset}")
                if number % 3 == 0:
                    another.send("orders", b"another's").result()

    return work


@pytest.mark.parametrize("seed", range(3))
def test_each_is_stored_once_where_it_was_said(seed: int) -> None:
    """Whoever answers next is asked for the last ones again, as a client does that heard
    nothing; all of them stand where it was said first."""
    randomness = random.Random(seed)
    said: dict[int, int] = {}
    with memory_folder() as path:
        with Broker.open(path) as broker:
            broker.create_topic("orders", config={"segment.bytes": 8192})
        for _ in range(8):
            first = max(0, len(said) - randomness.randrange(5))
            child = Child(server(path, first))
            for _ in range(randomness.randrange(1, 60)):
                line = child.line()
                number, offset = map(int, line.split())
                assert said.setdefault(number, offset) == offset
            child.kill(signal.SIGKILL)
            for line in child.wait():
                if line.count(" ") == 1 and line.rsplit(" ", 1)[1]:
                    number, offset = map(int, line.split())
                    assert said.setdefault(number, offset) == offset
        with Broker.open(path) as broker:
            end = put(log_of(broker), len(said))  # the one that nobody heard of, or the next
            records = read_all(broker)
    own = [record for record in records if record.value != b"another's"]
    assert [record.value for record in own] == [b"%d" % number for number in range(len(own))]
    assert len(own) == len(said) + 1
    assert end.base_offset == own[-1].offset
    assert all(own[number].offset == offset for number, offset in said.items())
