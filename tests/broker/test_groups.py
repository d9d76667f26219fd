"""What an operator asks of a group."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

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
from seawall.broker.group_consumer import GroupConsumer
from seawall.broker.groups import expire


def test_describe(broker: Broker) -> None:
    broker.create_topic("two", partitions=2)
    put(broker, b"a", b"b", b"c", topic="two", partition=1)
    assert broker.groups() == []
    with broker.consumer(["two", "orders"], group="g", client_id="billing") as consumer:
        consumer.ack(consumer.poll()[1])
        info = broker.group("g")
        assert (info.state, info.generation, info.assignor) == ("Stable", 1, "cooperative-sticky")
        [member] = info.members
        assert (member.client_id, member.group_instance_id) == ("billing", None)
        assert (member.pid, member.host) == (os.getpid(), socket.gethostname())
        assert isinstance(consumer, GroupConsumer)
        assert member.member_id == consumer.member_id
        assert member.assignment == (("orders", 0), ("two", 0), ("two", 1))
        assert {each.member_id for each in info.offsets} == {member.member_id}
    info = broker.group("g")
    assert (info.name, info.state, info.members) == ("g", "Empty", ())
    places = [(o.topic, o.partition, o.committed, o.durable_end, o.lag) for o in info.offsets]
    assert places == [("orders", 0, 0, 0, 0), ("two", 0, 0, 0, 0), ("two", 1, 2, 3, 1)]
    assert all(offset.committed_ms > 0 and offset.log_start == 0 for offset in info.offsets)
    assert broker.groups() == ["g"]


def test_lag_in_time_is_the_age_of_what_comes_next(broker: Broker) -> None:
    now_ms = time.time_ns() // 1_000_000
    with broker.producer() as producer:
        for age_ms in (90_000, 60_000, 30_000):
            producer.send("orders", b"x", timestamp=now_ms - age_ms)
    found = []
    with broker.consumer("orders", group="g") as consumer:
        while True:
            [offset] = broker.group("g").offsets
            assert offset.lag_ms is not None
            found.append(offset.lag_ms // 10_000)
            records = consumer.poll(1)
            if not records:
                break
            consumer.ack()
    assert found == [9, 6, 3, 0]


def test_lag_in_time_of_what_cannot_be_read(broker: Broker, folder: str) -> None:
    put(broker, b"x")
    broker.consumer("orders", group="g").close()
    [segment] = Path(folder).glob("logs/*/*.log")
    with segment.open("r+b") as file:
        file.seek(62)
        file.write(b"\xff\xff")
    [offset] = broker.group("g").offsets
    assert (offset.lag, offset.lag_ms) == (1, None)


def test_who_holds_back_trimming(broker: Broker) -> None:
    put(broker, b"a", b"b")
    holding = {}
    for name, count in (("slow", 1), ("fast", 2)):
        with broker.consumer("orders", group=name) as consumer:
            consumer.poll(count)
            consumer.ack()
    for name in ("slow", "fast"):
        [offset] = broker.group(name).offsets
        holding[name] = offset.holds_back
    assert holding == {"slow": True, "fast": False}
    broker.reset_group("fast", "orders", {0: 1})
    assert [broker.group(name).offsets[0].holds_back for name in holding] == [True, True]
    for name in holding:
        broker.reset_group(name, "orders", {0: 2})
    assert not any(broker.group(name).offsets[0].holds_back for name in holding)


def test_expiry(broker: Broker) -> None:
    for name in ("idle", "read"):
        broker.consumer("orders", group=name).close()
    with broker.consumer("orders", group="read"):
        assert expire(broker.engine, 3_600_000) == []
        time.sleep(0.01)
        assert expire(broker.engine, 1) == ["idle"]
        assert broker.groups() == ["read"]
    time.sleep(0.01)
    assert expire(broker.engine, 1) == ["read"]
    assert broker.groups() == []


def test_an_expired_group_holds_nothing_back(broker: Broker) -> None:
    put(broker, b"x")
    broker.engine.log(broker.topic("orders").partitions[0].id).roll()
    for name, offset in (("idle", 0), ("reader", 1)):
        broker.reset_group(name, "orders", {0: offset})
    [before] = broker.compact()
    assert ([each.group for each in before.held_by], before.removed) == (["idle"], ())
    time.sleep(0.01)
    with broker.consumer("orders", group="reader"):
        assert expire(broker.engine, 1) == ["idle"]
    [after] = broker.compact()
    assert sum(each.segments for each in after.removed) == 1


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
