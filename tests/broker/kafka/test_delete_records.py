from __future__ import annotations

from typing import Any

import pytest
from wire import Wire

from seawall.broker import Broker
from seawall.broker.kafka import codes

KEY = 21


def delete(wire: Wire, *places: tuple[str, int, int], version: int = 2) -> list[Any]:
    """Each place a topic of its own in the request; the partitions' answers."""
    topics = [
        {"name": topic, "partitions": [{"partition_index": number, "offset": offset}]}
        for topic, number, offset in places
    ]
    answer = wire.ask(KEY, version, topics=topics, timeout=10_000)
    return [partition for topic in answer.topics for partition in topic.partitions]


@pytest.fixture
def ten(broker: Broker) -> None:
    """Ten records in the one partition of ``orders``."""
    with broker.producer() as producer:
        for number in range(10):
            producer.send("orders", b"%d" % number)


@pytest.mark.usefixtures("ten")
@pytest.mark.parametrize("version", range(3))
def test_it_raises_the_log_start_in_every_version(wire: Wire, broker: Broker, version: int) -> None:
    [answer] = delete(wire, ("orders", 0, 4), version=version)
    assert (answer.partition_index, answer.low_watermark, answer.error_code) == (0, 4, 0)
    assert broker.ends("orders", 0).log_start == 4
    [again] = delete(wire, ("orders", 0, 2), version=version)
    assert (again.low_watermark, again.error_code) == (4, 0)


@pytest.mark.usefixtures("ten")
def test_minus_one_is_all_there_is(wire: Wire, broker: Broker) -> None:
    [answer] = delete(wire, ("orders", 0, -1))
    assert (answer.low_watermark, answer.error_code) == (10, 0)


@pytest.mark.usefixtures("ten")
def test_each_partition_has_an_error_of_its_own(wire: Wire, broker: Broker) -> None:
    broker.create_topic("keys", config={"cleanup.policy": "compact"})
    answers = delete(
        wire,
        ("orders", 0, 11),
        ("orders", 0, -2),
        ("orders", 1, 0),
        ("orders", -1, 0),
        ("nothing", 0, 0),
        ("keys", 0, 0),
        ("orders", 0, 10),
    )
    assert [(each.error_code, each.low_watermark) for each in answers] == [
        (codes.OFFSET_OUT_OF_RANGE, -1),
        (codes.OFFSET_OUT_OF_RANGE, -1),
        (codes.UNKNOWN_TOPIC_OR_PARTITION, -1),
        (codes.UNKNOWN_TOPIC_OR_PARTITION, -1),
        (codes.UNKNOWN_TOPIC_OR_PARTITION, -1),
        (codes.POLICY_VIOLATION, -1),
        (codes.NONE, 10),
    ]


def test_too_many_at_once(wire: Wire) -> None:
    answers = delete(wire, *(("orders", 0, 0) for _ in range(1_001)))
    assert {each.error_code for each in answers} == {codes.POLICY_VIOLATION}
