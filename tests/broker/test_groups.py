"""What an operator asks of a group."""

from __future__ import annotations

import pytest
from brokers import put, values

from seawall.broker import Broker
from seawall.broker.errors import (
    GroupBusy,
    OffsetOutOfRange,
    UnknownGroup,
    UnknownPartition,
    UnknownTopic,
)


def test_describe(broker: Broker) -> None:
    broker.create_topic("two", partitions=2)
    put(broker, b"a", b"b", b"c", topic="two", partition=1)
    assert broker.groups() == []
    with broker.consumer(["two", "orders"], group="g") as consumer:
        consumer.ack(consumer.poll()[1])
        info = broker.group("g")
        assert info.holder is not None
    info = broker.group("g")
    assert (info.name, info.holder) == ("g", None)
    places = [(o.topic, o.partition, o.committed, o.durable_end, o.lag) for o in info.offsets]
    assert places == [("orders", 0, 0, 0, 0), ("two", 0, 0, 0, 0), ("two", 1, 2, 3, 1)]
    assert all(offset.committed_ms > 0 and offset.log_start == 0 for offset in info.offsets)
    assert broker.groups() == ["g"]


def test_reset_in_both_directions(broker: Broker) -> None:
    put(broker, *[b"%d" % number for number in range(5)])
    with broker.consumer("orders", group="g") as consumer:
        consumer.poll()
        consumer.ack()
    for offset in (0, 5, 3):
        broker.reset_group("g", "orders", {0: offset})
        with broker.consumer("orders", group="g") as consumer:
            assert values(consumer.poll()) == [b"%d" % number for number in range(offset, 5)]
    broker.reset_group("new", "orders", {0: 4})
    with broker.consumer("orders", group="new", auto_offset_reset="error") as consumer:
        assert values(consumer.poll()) == [b"4"]


def test_a_reset_that_is_refused_changes_nothing(broker: Broker) -> None:
    put(broker, b"a")
    with broker.consumer("orders", group="g") as consumer:
        consumer.poll()
        consumer.ack()
        with pytest.raises(GroupBusy):
            broker.reset_group("g", "orders", {0: 0})
        with pytest.raises(GroupBusy):
            broker.delete_group("g")
    with pytest.raises(UnknownTopic):
        broker.reset_group("g", "nowhere", {0: 0})
    with pytest.raises(UnknownPartition):
        broker.reset_group("g", "orders", {1: 0})
    for bad in (-1, 2):
        with pytest.raises(OffsetOutOfRange) as caught:
            broker.reset_group("g", "orders", {0: bad})
        assert (caught.value.topic, caught.value.partition, caught.value.offset) == (
            "orders",
            0,
            bad,
        )
    assert broker.group("g").offsets[0].committed == 1


def test_delete(broker: Broker) -> None:
    put(broker, b"a")
    with broker.consumer("orders", group="g") as consumer:
        consumer.poll()
        consumer.ack()
    broker.delete_group("g")
    assert broker.groups() == []
    for call in (broker.group, broker.delete_group):
        with pytest.raises(UnknownGroup) as caught:
            call("g")
        assert caught.value.group == "g"
    with broker.consumer("orders", group="g") as consumer:
        assert values(consumer.poll()) == [b"a"]
