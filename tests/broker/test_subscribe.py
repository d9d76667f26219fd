"""Making a consumer: which partitions, from where."""

from __future__ import annotations

import pytest
from brokers import put

from seawall.broker import Broker
from seawall.broker.errors import UnknownTopic
from seawall.broker.offsets import END, OffsetSyntaxError, parse_position
from seawall.broker.subscribe import resolve_in


def test_unknown_topics(broker: Broker) -> None:
    for topics in ("nowhere", ["orders", "nowhere"]):
        with pytest.raises(UnknownTopic) as caught:
            broker.consumer(topics, group="g")
        assert caught.value.topic == "nowhere"
    assert broker.groups() == []


def test_no_topics(broker: Broker) -> None:
    with pytest.raises(ValueError):
        broker.consumer([])


def test_positions(broker: Broker) -> None:
    put(broker, *[b"x"] * 5)
    log = broker.engine.log(broker.topic("orders").partitions[0].id)
    for text, offset in (("start", 0), ("end", 5), ("-2", 3), ("-9", 0), ("7", 7), ("@-1h", 0)):
        assert resolve_in(log, parse_position(text)) == offset
    with broker.consumer("orders", start=END) as consumer:
        assert consumer.position("orders", 0) == 5
    for bad in ("nonsense", "1:2", ""):
        with pytest.raises(OffsetSyntaxError):
            broker.consumer("orders", start=bad)


def test_a_group_keeps_its_place_whatever_start_says(broker: Broker) -> None:
    put(broker, *[b"x"] * 5)
    with broker.consumer("orders", group="g", start=2) as consumer:
        assert consumer.position("orders", 0) == 2
    with broker.consumer("orders", group="g", start="end", auto_offset_reset="error") as consumer:
        assert consumer.position("orders", 0) == 2


def test_a_group_that_comes_to_more_partitions(broker: Broker) -> None:
    broker.create_topic("two", partitions=2)
    put(broker, b"x", topic="two", partition=1)
    with broker.consumer("two", group="g", partitions=[0]) as consumer:
        assert consumer.poll() == []
    with broker.consumer("two", group="g", auto_offset_reset="latest") as consumer:
        assert consumer.committed("two", 1) == 1
