from __future__ import annotations

from typing import Any

import pytest
from wire import Wire

from seawall.broker import Broker
from seawall.broker.kafka import codes

KEY = 35


def sizes(directory: Any) -> dict[tuple[str, int], int]:
    return {
        (topic.name, each.partition_index): each.partition_size
        for topic in directory.topics
        for each in topic.partitions
    }


@pytest.mark.parametrize("version", range(1, 6))
def test_it_tells_sizes_in_every_version(wire: Wire, broker: Broker, version: int) -> None:
    broker.create_topic("bills", 2)
    with broker.producer() as producer:
        producer.send("orders", b"x" * 5_000)
    answer = wire.ask(KEY, version, topics=None)
    [directory] = answer.results
    assert (directory.error_code, directory.log_dir) == (0, broker.path)
    found = sizes(directory)
    assert found.keys() == {("bills", 0), ("bills", 1), ("orders", 0)}
    assert (found["bills", 0], found["orders", 0]) == (0, broker.info().log_bytes)
    assert found["orders", 0] > 5_000
    [partition] = directory.topics[1].partitions
    assert (partition.offset_lag, partition.is_future_key) == (0, False)
    if version >= 3:
        assert answer.error_code == 0
    if version >= 4:
        assert 0 < directory.usable_bytes <= directory.total_bytes


def test_only_what_was_asked_for_and_is_there(wire: Wire, broker: Broker) -> None:
    broker.create_topic("bills", 3)
    topics = [
        {"topic": "bills", "partitions": (2, 7, -1)},
        {"topic": "nothing", "partitions": (0,)},
        {"topic": "bills", "partitions": (0,)},
        {"topic": "orders", "partitions": ()},
    ]
    [directory] = wire.ask(KEY, 5, topics=topics).results
    assert sizes(directory).keys() == {("bills", 0), ("bills", 2)}
    [directory] = wire.ask(KEY, 5, topics=()).results
    assert directory.topics == ()


@pytest.mark.parametrize("version", [1, 5])
def test_too_much_at_once(wire: Wire, version: int) -> None:
    topics = [{"topic": "orders", "partitions": range(10_001)}]
    answer = wire.ask(KEY, version, topics=topics)
    [directory] = answer.results
    assert (directory.error_code, directory.topics) == (codes.POLICY_VIOLATION, ())
    if version >= 3:
        assert answer.error_code == codes.POLICY_VIOLATION
