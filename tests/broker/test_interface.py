"""What a broker promises wherever it is: one suite for a directory and for clusters."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import locations
import pytest

from seawall.broker import (
    AnyBroker,
    AnyConsumer,
    AsyncConsumer,
    AsyncProducer,
    DeadLetterChoice,
    DeliveredRecord,
    Handled,
    Record,
    RecordMetadata,
    Reject,
    RetryLater,
    connect,
    errors,
)
from seawall.broker.names import REDRIVE_GROUP
from seawall.broker.partitioner import partition_for_key
from seawall.broker.remote import troubles

WAIT_MS = 60_000


@pytest.fixture(scope="module", params=locations.PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """A location; those of servers are shared by the module's tests."""
    with ExitStack() as stack:
        if request.param == locations.DIRECTORY:
            yield stack.enter_context(locations.directory())
        elif request.param == locations.SERVER:
            yield stack.enter_context(locations.server())
        else:
            found = stack.enter_context(locations.apache_kafka())
            if found is None:
                pytest.skip(locations.NO_KAFKA)
            yield found


@pytest.fixture
def broker(place: str) -> Iterator[AnyBroker]:
    with connect(place) as opened:
        yield opened


@pytest.fixture
def topic(broker: AnyBroker) -> Iterator[str]:
    """A new topic with two partitions, which keeps also records of 1970."""
    name = new_name()
    broker.create_topic(name, 2, {"retention.ms": -1})
    yield name
    broker.delete_topic(name)
    with suppress(errors.UnknownTopic):  # that of its dead letters
        broker.delete_topic(f"{name}.dlq")


@pytest.fixture
def group(broker: AnyBroker) -> str:
    return new_name()


def new_name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


def fill(broker: AnyBroker, topic: str, count: int, partition: int = 0, first: int = 0) -> None:
    with broker.producer() as producer:
        for number in range(first, first + count):
            producer.send(topic, b"%d" % number, partition=partition)


def read(consumer: AnyConsumer, count: int) -> list[Record]:
    """So many records, or as many as come in time."""
    found: list[Record] = []
    deadline_s = time.monotonic() + WAIT_MS / 1000
    while len(found) < count and time.monotonic() < deadline_s:
        found += consumer.poll(count - len(found), 500)
    return found


def values(records: list[Record]) -> list[bytes | None]:
    return [record.value for record in records]


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + WAIT_MS / 1000
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about in time"
        time.sleep(0.02)


# -- topics ------------------------------------------------------------------------------


def test_a_topic_is_there_when_it_is_created(broker: AnyBroker) -> None:
    name = new_name()
    created = broker.create_topic(name, 3, {"retention.ms": 1_000_000})
    assert created.name == name
    assert [each.number for each in created.partitions] == [0, 1, 2]
    found = broker.topic(name)
    assert found.uuid == created.uuid
    assert found.config["retention.ms"] == "1000000"
    assert name in [each.name for each in broker.topics()]
    broker.delete_topic(name)
    with pytest.raises(errors.UnknownTopic) as caught:
        broker.topic(name)
    assert caught.value.topic == name


def test_a_topic_is_created_once(broker: AnyBroker, topic: str) -> None:
    with pytest.raises(errors.TopicExists) as caught:
        broker.create_topic(topic)
    assert caught.value.topic == topic
    assert len(broker.create_topic(topic, 5, if_not_exists=True).partitions) == 2


@pytest.mark.parametrize("name", ["", "..", "a/b", "x" * 250])
def test_names_are_checked(broker: AnyBroker, name: str) -> None:
    with pytest.raises(errors.InvalidTopicName):
        broker.create_topic(name)
    with pytest.raises(errors.UnknownTopic):
        broker.topic(name)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"no.such.setting": 1}, "no.such.setting"),
        ({"retention.ms": "x"}, ""),
        ({"\udcff": 1}, "\udcff"),
    ],
)
def test_settings_are_checked(broker: AnyBroker, config: dict[str, Any], key: str) -> None:
    name = new_name()
    with pytest.raises(errors.InvalidConfig) as caught:
        broker.create_topic(name, 1, config)
    assert caught.value.key == (key or "retention.ms")
    with pytest.raises(errors.UnknownTopic):
        broker.topic(name)


def test_settings_are_changed_and_taken_back(broker: AnyBroker, topic: str) -> None:
    broker.alter_topic(topic, {"retention.ms": 5_000_000, "segment.bytes": 2_000_000})
    until(lambda: broker.topic(topic).config.get("retention.ms") == "5000000")
    broker.alter_topic(topic, {"retention.ms": None})
    until(lambda: "retention.ms" not in broker.topic(topic).config)
    assert broker.topic(topic).config["segment.bytes"] == "2000000"
    with pytest.raises(errors.InvalidConfig):
        broker.alter_topic(topic, {"segment.bytes": "many"})
    with pytest.raises(errors.UnknownTopic):
        broker.alter_topic(new_name(), {"retention.ms": 1})


def test_partitions_are_added(broker: AnyBroker, topic: str) -> None:
    assert len(broker.add_partitions(topic, 4).partitions) == 4
    fill(broker, topic, 1, partition=3)
    assert broker.ends(topic, 3).durable_end == 1
    with pytest.raises(errors.InvalidPartitions) as caught:
        broker.add_partitions(topic, 3)
    assert (caught.value.partitions, caught.value.wanted) == (4, 3)


def test_a_topic_is_deleted_by_its_id(broker: AnyBroker, topic: str) -> None:
    with pytest.raises(errors.UnknownTopic):
        broker.delete_topic(topic, uuid=uuid.uuid4())
    assert broker.topic(topic).name == topic


def test_a_new_topic_of_the_same_name_inherits_nothing(broker: AnyBroker, group: str) -> None:
    name = new_name()
    before = broker.create_topic(name)
    fill(broker, name, 3)
    broker.delete_topic(name)
    after = broker.create_topic(name)
    assert after.uuid != before.uuid
    assert broker.ends(name, 0).durable_end == 0
    broker.delete_topic(name)


def test_records_are_deleted(broker: AnyBroker, topic: str) -> None:
    fill(broker, topic, 5)
    assert broker.delete_records(topic, {0: 2}) == {0: 2}
    assert broker.ends(topic, 0).log_start == 2
    assert broker.delete_records(topic, {0: -1, 1: -1}) == {0: 5, 1: 0}
    with pytest.raises(errors.OffsetOutOfRange) as caught:
        broker.delete_records(topic, {0: 6})
    assert (caught.value.offset, caught.value.durable_end) == (6, 5)
    with pytest.raises(errors.UnknownPartition):
        broker.delete_records(topic, {9: 0})


def test_ends_and_times(broker: AnyBroker, topic: str) -> None:
    with broker.producer() as producer:
        for timestamp in (1_000_000, 2_000_000, 3_000_000):
            producer.send(topic, b"x", partition=1, timestamp=timestamp)
    ends = broker.ends(topic, 1)
    assert (ends.log_start, ends.durable_end) == (0, 3)
    assert broker.offset_for_time(topic, 1, 1_500_000) == (1, 2_000_000)
    assert broker.offset_for_time(topic, 1, 4_000_000) is None
    with pytest.raises(errors.UnknownPartition) as caught:
        broker.ends(topic, 7)
    assert (caught.value.partition, caught.value.partitions) == (7, 2)
    with pytest.raises(errors.UnknownTopic):
        broker.ends(new_name(), 0)


def test_the_brokers_settings(broker: AnyBroker) -> None:
    config = broker.config()
    assert list(config) == sorted(config)
    assert "log.retention.check.interval.ms" in config
    with pytest.raises(errors.InvalidConfig):
        broker.set_config({"log.retention.check.interval.ms": "often"})


# -- producing ---------------------------------------------------------------------------


def test_a_record_arrives_as_it_was_sent(broker: AnyBroker, topic: str) -> None:
    headers = [("a", b"1"), ("b", None), ("a", b"\xff")]
    with broker.producer() as producer:
        sent = producer.send(
            topic, b"value", key=b"key", headers=headers, partition=1, timestamp=1_700_000_000_000
        ).result(10)
        assert sent == (topic, 1, 0, 1_700_000_000_000)
        producer.send(topic, None, key=b"key", partition=1)
        producer.send(topic, b"", key=b"", partition=1)
    with broker.consumer(topic, partitions=[1], start="start") as consumer:
        first, null, empty = read(consumer, 3)
    assert first == Record(topic, 1, 0, 1_700_000_000_000, b"key", b"value", headers)
    assert (null.key, null.value) == (b"key", None)
    assert (empty.key, empty.value) == (b"", b"")


def test_the_same_key_goes_to_the_same_partition_everywhere(broker: AnyBroker, topic: str) -> None:
    keys = [b"key-%d" % number for number in range(20)]
    with broker.producer() as producer:
        found = [producer.send(topic, b"x", key=key).result(10).partition for key in keys]
    assert found == [partition_for_key(key, 2) for key in keys]


def test_a_partitioner_of_ones_own(broker: AnyBroker, topic: str) -> None:
    asked = []

    def choose(name: str, key: bytes | None, count: int) -> int:
        asked.append((name, key, count))
        return 1

    with broker.producer(partitioner=choose) as producer:
        assert producer.send(topic, b"x", key=b"k").result(10).partition == 1
    assert asked == [(topic, b"k", 2)]


def test_callbacks(broker: AnyBroker, topic: str) -> None:
    told = []
    with broker.producer(on_delivery=told.append) as producer:
        delivery = producer.send(topic, b"x", partition=0)
        delivery.add_done_callback(lambda each: told.append(("again", each)))
        producer.flush()
        assert delivery.done()
        assert delivery.exception() is None
    assert sorted(map(type, told), key=str) == sorted([type(delivery), tuple], key=str)


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_compression(broker: AnyBroker, topic: str, compression: str) -> None:
    with broker.producer(compression=compression, linger_ms=50) as producer:
        for _ in range(20):
            producer.send(topic, b"x" * 1000, partition=0)
    with broker.consumer(topic, partitions=[0], start="start") as consumer:
        assert values(read(consumer, 20)) == [b"x" * 1000] * 20


def test_order_within_a_partition(broker: AnyBroker, topic: str) -> None:
    fill(broker, topic, 2_000)
    with broker.consumer(topic, start="start") as consumer:
        records = read(consumer, 2_000)
    assert values(records) == [b"%d" % number for number in range(2_000)]
    assert [record.offset for record in records] == list(range(2_000))


def test_what_cannot_be_sent(broker: AnyBroker, topic: str) -> None:
    broker.alter_topic(topic, {"max.message.bytes": 10_000})
    with broker.producer() as producer:
        with pytest.raises(errors.RecordTooLarge) as caught:
            producer.send(topic, b"x" * 20_000)
        assert caught.value.topic == topic
        assert caught.value.size_bytes > 20_000 > caught.value.max_bytes
        with pytest.raises(errors.UnknownPartition):
            producer.send(topic, b"x", partition=2)
        with pytest.raises(errors.UnknownTopic):
            producer.send(new_name(), b"x")
        with pytest.raises(TypeError):
            producer.send(topic, "text")  # type: ignore[arg-type]
        assert producer.send(topic, b"small").result(10).offset == 0
    with pytest.raises(errors.BrokerClosed):
        producer.send(topic, b"x")


def test_a_compacted_topic_wants_keys(broker: AnyBroker) -> None:
    name = new_name()
    broker.create_topic(name, 1, {"cleanup.policy": "compact"})
    with broker.producer() as producer:
        with pytest.raises(errors.InvalidRecord) as caught:
            producer.send(name, b"x")
        assert caught.value.topic == name
        producer.send(name, b"x", key=b"k").result(10)
    broker.delete_topic(name)


def test_wrong_settings_of_a_producer(broker: AnyBroker) -> None:
    for wrong in ({"compression": "zip"}, {"linger_ms": -1}, {"batch_bytes": 0}):
        with pytest.raises(ValueError):
            broker.producer(**wrong)  # type: ignore[arg-type]


# -- reading without a group -------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "first"),
    [("start", 2), ("end", 10), ("-3", 7), (4, 4), ("@1970-01-01T00:00:05", 5), ("@99999999", 10)],
)
def test_where_to_start(broker: AnyBroker, topic: str, start: int | str, first: int) -> None:
    with broker.producer() as producer:
        for number in range(10):
            producer.send(topic, b"%d" % number, partition=0, timestamp=number * 1000 + 1)
    broker.delete_records(topic, {0: 2})
    with broker.consumer(topic, partitions=[0], start=start) as consumer:
        assert consumer.position(topic, 0) == first
        wanted = [b"%d" % number for number in range(first, 10)]
        assert values(read(consumer, len(wanted))) == wanted


def test_a_start_out_of_range(broker: AnyBroker, topic: str) -> None:
    with pytest.raises(errors.OffsetOutOfRange) as caught:
        broker.consumer(topic, start=5)
    assert (caught.value.topic, caught.value.offset, caught.value.durable_end) == (topic, 5, 0)


def test_seek_position_and_lag(broker: AnyBroker, topic: str) -> None:
    fill(broker, topic, 10)
    with broker.consumer(topic, start="start") as consumer:
        assert consumer.assignment() == [(topic, 0), (topic, 1)]
        assert len(read(consumer, 10)) == 10
        assert consumer.lag() == {(topic, 0): 0, (topic, 1): 0}
        consumer.seek(topic, 0, 7)
        assert consumer.position(topic, 0) == 7
        assert consumer.lag()[topic, 0] == 3
        assert values(read(consumer, 3)) == [b"7", b"8", b"9"]
        assert consumer.committed(topic, 0) is None
        with pytest.raises(errors.OffsetOutOfRange):
            consumer.seek(topic, 0, 11)
        with pytest.raises(errors.UnknownPartition):
            consumer.seek(topic, 5, 0)
        with pytest.raises(errors.NotInGroup):
            consumer.ack()


def test_iteration_ends_with_close_and_loses_nothing(broker: AnyBroker, topic: str) -> None:
    fill(broker, topic, 5)
    with broker.consumer(topic, start="start") as consumer:
        for record in consumer:
            if record.offset == 2:
                break
        assert consumer.position(topic, 0) == 3
        assert values(read(consumer, 2)) == [b"3", b"4"]
        closing = threading.Timer(0.1, consumer.close)
        closing.start()
        try:
            assert list(consumer) == []
        finally:
            closing.join()
    with pytest.raises(errors.BrokerClosed):
        consumer.poll()


def test_a_poll_that_finds_nothing(broker: AnyBroker, topic: str) -> None:
    with broker.consumer(topic, auto_offset_reset="latest") as consumer:
        assert consumer.poll() == []
        began_s = time.monotonic()
        assert consumer.poll(timeout_ms=200) == []
        assert time.monotonic() - began_s >= 0.19
        with pytest.raises(ValueError):
            consumer.poll(0)


def test_wrong_settings_of_a_consumer(broker: AnyBroker, topic: str) -> None:
    for wrong in (
        {"auto_offset_reset": "middle"},
        {"group": "g", "heartbeat_interval_ms": 50_000},
        {"group": "g", "partition_assignment_strategy": "by-dice"},
    ):
        with pytest.raises(ValueError):
            broker.consumer(topic, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        broker.consumer([])
    with pytest.raises(errors.UnknownTopic):
        broker.consumer(new_name())
    with pytest.raises(errors.InvalidGroupName):
        broker.consumer(topic, group="")


# -- reading in a group ------------------------------------------------------------------


def test_a_group_goes_on_where_it_acknowledged(broker: AnyBroker, topic: str, group: str) -> None:
    fill(broker, topic, 10)
    with broker.consumer(topic, group=group) as consumer:
        records = read(consumer, 10)
        consumer.ack(records[3])
        assert consumer.committed(topic, 0) == 4
        assert consumer.lag()[topic, 0] == 6
        consumer.ack(records[1])  # lower: nothing changes
        assert consumer.committed(topic, 0) == 4
    with broker.consumer(topic, group=group) as consumer:
        assert values(read(consumer, 6)) == [b"%d" % number for number in range(4, 10)]
        consumer.ack()
    found = {each.partition: each for each in broker.group(group).offsets}
    assert (found[0].committed, found[0].lag, found[0].durable_end) == (10, 0, 10)
    assert broker.group_offsets(group) == {(topic, each): found[each].committed for each in found}


def test_a_groups_start_is_stored_before_it_polls(
    broker: AnyBroker, topic: str, group: str
) -> None:
    fill(broker, topic, 3)
    with broker.consumer(topic, group=group, start="end"):
        pass
    fill(broker, topic, 2, first=3)
    with broker.consumer(topic, group=group) as consumer:
        assert values(read(consumer, 2)) == [b"3", b"4"]


def test_a_group_without_an_offset(broker: AnyBroker, topic: str, group: str) -> None:
    with pytest.raises(errors.NoOffset) as caught:
        broker.consumer(topic, group=group, auto_offset_reset="error")
    assert (caught.value.group, caught.value.topic) == (group, topic)


@pytest.mark.parametrize("count", [3, 30], ids=["shorter", "longer"])
@pytest.mark.parametrize("in_group", [False, True], ids=["alone", "in a group"])
def test_a_topic_that_is_made_anew_is_another_one(
    broker: AnyBroker,
    topic: str,
    group: str,
    in_group: bool,
    count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody goes on in the middle of it, or acknowledges there what was read of the old one."""
    monkeypatch.setattr(troubles, "SAME_INTERVAL_S", 0.0)
    monkeypatch.setattr(troubles, "LOOK_INTERVAL_S", 0.2)
    other = new_name()
    broker.create_topic(other)
    fill(broker, other, 2)
    fill(broker, topic, 10)
    with broker.consumer([topic, other], group=group if in_group else None) as consumer:
        assert len(read(consumer, 12)) == 12
        broker.delete_topic(topic)
        broker.create_topic(topic, 2)
        fill(broker, topic, count, first=100)
        for _ in range(3):
            with pytest.raises(errors.UnknownTopic) as caught:
                assert not read(consumer, 1)
            assert caught.value.topic == topic
        if in_group:
            with pytest.raises(errors.UnknownTopic):
                consumer.ack()
            assert consumer.committed(other, 0) == 2
    with broker.consumer([topic, other], group=group if in_group else None) as consumer:
        found = [e for e in read(consumer, count if in_group else count + 2) if e.topic == topic]
        assert [int(each.value or b"") for each in found] == list(range(100, 100 + count))
    broker.delete_topic(other)


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
def test_an_offset_that_is_gone_is_told_until_somebody_seeks(
    broker: AnyBroker, topic: str, group: str, strategy: str
) -> None:
    fill(broker, topic, 10)
    broker.reset_group(group, topic, {0: 2, 1: 0})
    broker.delete_records(topic, {0: 5})
    with broker.consumer(
        topic, group=group, auto_offset_reset="error", partition_assignment_strategy=strategy
    ) as consumer:
        for _ in range(2):
            with pytest.raises(errors.OffsetOutOfRange) as caught:
                read(consumer, 1)
            assert (caught.value.partition, caught.value.log_start) == (0, 5)
        consumer.seek(topic, 0, 5)
        assert values(read(consumer, 5)) == [b"5", b"6", b"7", b"8", b"9"]
        consumer.ack()
    assert broker.group_offsets(group)[topic, 0] == 10


def test_groups_are_independent(broker: AnyBroker, topic: str) -> None:
    fill(broker, topic, 3)
    for group in (new_name(), new_name()):
        with broker.consumer(topic, group=group) as consumer:
            assert len(read(consumer, 3)) == 3
            consumer.ack()
        assert group in broker.groups()


def test_ack_of_what_is_not_there(broker: AnyBroker, topic: str, group: str) -> None:
    fill(broker, topic, 2)
    with broker.consumer(topic, group=group) as consumer:
        [first, second] = read(consumer, 2)
        with pytest.raises(errors.OffsetOutOfRange):
            consumer.ack(second._replace(offset=7))
        with pytest.raises(errors.UnknownPartition):
            consumer.ack(second._replace(topic="another"))
        consumer.ack(first)
        assert consumer.committed(topic, 0) == 1


def test_one_thread_acknowledges_while_another_polls(
    broker: AnyBroker, topic: str, group: str
) -> None:
    fill(broker, topic, 5)
    with broker.consumer(topic, group=group) as consumer:
        records = read(consumer, 5)
        acking = threading.Thread(target=lambda: [consumer.ack(each) for each in records])
        acking.start()
        polls = 0
        try:
            while acking.is_alive() and polls < 600:
                consumer.poll(timeout_ms=100)
                polls += 1
        finally:
            acking.join(WAIT_MS / 1000)
        # Each finds its way in between two polls, or three: these are for slow machines.
        assert polls < 600
        assert consumer.committed(topic, 0) == 5


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range", "roundrobin"])
def test_members_share_the_partitions(
    broker: AnyBroker, topic: str, group: str, strategy: str
) -> None:
    told: list[tuple[str, str, list[tuple[str, int]]]] = []

    def member(name: str) -> AnyConsumer:
        return broker.consumer(
            topic,
            group=group,
            partition_assignment_strategy=strategy,
            session_timeout_ms=30_000,
            heartbeat_interval_ms=200,
            on_assigned=lambda places: told.append((name, "assigned", places)),
            on_revoked=lambda places: told.append((name, "revoked", places)),
        )

    with member("one") as one:
        until(lambda: one.poll(timeout_ms=50) is None or len(one.assignment()) == 2)
        with member("two") as two:

            def shared() -> bool:
                one.poll(timeout_ms=50)
                two.poll(timeout_ms=50)
                return len(one.assignment()) == len(two.assignment()) == 1

            until(shared)
            assert one.assignment() != two.assignment()
            members = broker.group(group).members
            assert len(members) == 2
            until(lambda: broker.group(group).state == "Stable")
        until(lambda: one.poll(timeout_ms=50) is None or len(one.assignment()) == 2)
    assert told[0] == ("one", "assigned", [(topic, 0), (topic, 1)])
    assert [each[0] for each in told if each[1] == "revoked"].count("one") >= 2
    assert any(each[:2] == ("two", "assigned") for each in told)


def test_a_member_acknowledges_while_it_gives_up(broker: AnyBroker, topic: str, group: str) -> None:
    fill(broker, topic, 4)
    consumers: list[AnyConsumer] = []
    with broker.consumer(
        topic, group=group, on_revoked=lambda places: consumers[0].ack()
    ) as consumer:
        consumers.append(consumer)
        assert len(read(consumer, 4)) == 4
    assert {o.partition: o.committed for o in broker.group(group).offsets}[0] == 4


def test_auto_commit(broker: AnyBroker, topic: str, group: str) -> None:
    fill(broker, topic, 3)
    with broker.consumer(topic, group=group, enable_auto_commit=True) as consumer:
        assert len(read(consumer, 3)) == 3
    assert {o.partition: o.committed for o in broker.group(group).offsets}[0] == 3


def test_a_static_member(broker: AnyBroker, topic: str, group: str) -> None:
    with broker.consumer(topic, group=group, group_instance_id="first") as consumer:
        until(lambda: consumer.poll(timeout_ms=50) is None or len(consumer.assignment()) == 2)
        [member] = broker.group(group).members
        assert member.group_instance_id == "first"
        assert member.assignment == ((topic, 0), (topic, 1))


def test_reset_and_delete(broker: AnyBroker, topic: str, group: str) -> None:
    fill(broker, topic, 5)
    with broker.consumer(topic, group=group) as consumer:
        read(consumer, 5)
        consumer.ack()
        with pytest.raises(errors.GroupBusy) as caught:
            broker.reset_group(group, topic, {0: 1})
        assert caught.value.group == group
        with pytest.raises(errors.GroupBusy):
            broker.delete_group(group)
    broker.reset_group(group, topic, {0: 1})
    assert {o.partition: o.committed for o in broker.group(group).offsets}[0] == 1
    with pytest.raises(errors.OffsetOutOfRange):
        broker.reset_group(group, topic, {0: 6})
    with pytest.raises(errors.UnknownPartition):
        broker.reset_group(group, topic, {4: 0})
    with pytest.raises(errors.UnknownTopic):
        broker.reset_group(group, new_name(), {0: 0})
    broker.delete_group(group)
    assert group not in broker.groups()
    with pytest.raises(errors.UnknownGroup):
        broker.group(group)
    with pytest.raises(errors.UnknownGroup):
        broker.group_offsets(group)
    with pytest.raises(errors.UnknownGroup):
        broker.delete_group(group)


def test_a_topic_that_is_deleted_while_it_is_read(broker: AnyBroker, group: str) -> None:
    name = new_name()
    broker.create_topic(name)
    fill(broker, name, 1)
    with broker.consumer(name, start="start") as consumer:
        assert len(read(consumer, 1)) == 1
        broker.delete_topic(name)

        def gone() -> bool:
            try:
                consumer.poll(timeout_ms=100)
            except errors.UnknownTopic as error:
                return error.topic == name
            return False

        until(gone)


# -- handling ----------------------------------------------------------------------------

FAST: dict[str, Any] = {
    "retry_backoff_ms": 1,
    "retry_backoff_max_ms": 5,
    "ack_interval_ms": 20,
    "timeout_ms": 1.5 * WAIT_MS,
}


def test_a_topic_that_is_made_anew_while_it_is_handled(
    broker: AnyBroker, topic: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(troubles, "SAME_INTERVAL_S", 0.0)
    fill(broker, topic, 10)
    handled: list[int] = []

    def handle(record: Record) -> None:
        handled.append(int(record.value or b""))
        if len(handled) == 10:
            # What is acknowledged just while it is made anew may count there.
            until(lambda: broker.group_offsets(group).get((topic, 0)) == 9)
            broker.delete_topic(topic)
            broker.create_topic(topic, 2)
            fill(broker, topic, 30, first=100)

    with broker.consumer(topic, group=group) as consumer:
        with pytest.raises(errors.UnknownTopic) as caught:
            consumer.run(handle, **FAST)
        assert caught.value.topic == topic
    assert handled == list(range(10))
    with broker.consumer(topic, group=group) as consumer:
        assert [int(each.value or b"") for each in read(consumer, 30)] == list(range(100, 130))


def run(
    broker: AnyBroker,
    topic: str,
    group: str,
    handler: Callable[[DeliveredRecord], object],
    **settings: Any,
) -> Handled:
    with broker.consumer(topic, group=group) as consumer:
        return consumer.run(handler, **{**FAST, **settings})


def committed(broker: AnyBroker, group: str) -> dict[int, int]:
    return {each.partition: each.committed for each in broker.group(group).offsets}


def headers(record: Record) -> dict[str, str]:
    return {name: (value or b"").decode() for name, value in record.headers}


class Until:
    """A stop event that is set by what it looks at."""

    def __init__(self, condition: Callable[[], object]) -> None:
        self._condition = condition

    def is_set(self) -> bool:
        return bool(self._condition())


def test_run_hands_over_every_record_and_acknowledges_it(
    broker: AnyBroker, topic: str, group: str
) -> None:
    fill(broker, topic, 600)
    fill(broker, topic, 600, partition=1)
    seen: list[DeliveredRecord] = []
    done = run(broker, topic, group, seen.append, max_records=1_200, max_pending=50)
    assert done == Handled(handled=1_200)
    for partition in (0, 1):
        found = [record.offset for record in seen if record.partition == partition]
        assert found == list(range(600))  # no key: in order
    assert {record.delivery_count for record in seen} == {1}
    assert committed(broker, group) == {0: 600, 1: 600}
    assert f"{topic}.dlq" not in [each.name for each in broker.topics()]


def test_run_goes_on_where_it_ended(broker: AnyBroker, topic: str, group: str) -> None:
    fill(broker, topic, 10)
    seen: list[Record] = []
    with broker.consumer(topic, group=group) as consumer:
        for _ in range(2):
            assert consumer.run(seen.append, **{**FAST, "max_records": 3}).handled == 3
        assert consumer.committed(topic, 0) == 6
        rest = read(consumer, 4)
        assert [record.offset for record in rest] == [6, 7, 8, 9]
        consumer.ack(rest[1])
    assert [record.offset for record in seen] == [0, 1, 2, 3, 4, 5]
    assert committed(broker, group)[0] == 8
    assert run(broker, topic, group, seen.append, max_records=2).handled == 2
    assert [record.offset for record in seen[-2:]] == [8, 9]


def test_run_keeps_the_order_of_keys_and_workers_share_the_rest(
    broker: AnyBroker, topic: str, group: str
) -> None:
    with broker.producer() as producer:
        for number in range(60):
            producer.send(topic, b"%d" % number, key=b"k%d" % (number % 4), partition=0)
    order: dict[bytes | None, list[int]] = {}
    at_work: set[bytes | None] = set()
    most = [0]
    lock = threading.Lock()
    together = threading.Event()

    def handler(record: DeliveredRecord) -> None:
        with lock:
            assert record.key not in at_work
            at_work.add(record.key)
            most[0] = max(most[0], len(at_work))
            if most[0] == 4:
                together.set()
        assert together.wait(WAIT_MS / 1000)
        time.sleep(0.001)
        with lock:
            at_work.discard(record.key)
        if record.delivery_count == 1 and record.offset % 10 == 0:
            raise ValueError("once")
        with lock:
            order.setdefault(record.key, []).append(record.offset)

    done = run(broker, topic, group, handler, max_records=60, concurrency=4)
    assert done == Handled(handled=60, retries=6)
    assert all(found == sorted(found) for found in order.values())
    assert most[0] == 4


def test_a_poison_record_becomes_a_dead_letter(broker: AnyBroker, topic: str, group: str) -> None:
    with broker.producer() as producer:
        sent = producer.send(
            topic, b"bad", key=b"k", headers=[("a", b"1"), ("a", None)], partition=1
        ).result(10)
        producer.send(topic, b"good", key=b"k", partition=1).result(10)
    told: list[tuple[int, str, RecordMetadata]] = []
    tries: list[int] = []

    def handler(record: DeliveredRecord) -> None:
        if record.value == b"bad":
            tries.append(record.delivery_count)
            raise KeyError("wörld")

    done = run(
        broker,
        topic,
        group,
        handler,
        max_records=2,
        max_deliveries=3,
        on_dead_letter=lambda r, f, m: told.append((r.offset, f.error_class, m)),
    )
    assert done == Handled(handled=1, retries=2, dead_lettered=1)
    assert tries == [1, 2, 3]
    assert [each[:2] for each in told] == [(0, "KeyError")]
    assert told[0][2][:3] == (f"{topic}.dlq", 1, 0)
    assert committed(broker, group)[1] == 2
    assert len(broker.topic(f"{topic}.dlq").partitions) == 2
    with broker.consumer(f"{topic}.dlq", partitions=[1], start="start") as consumer:
        [letter] = read(consumer, 1)
    assert (letter.key, letter.value, letter.timestamp) == (b"k", b"bad", sent.timestamp)
    assert list(letter.headers[:2]) == [("a", b"1"), ("a", None)]
    found = headers(letter)
    assert abs(int(found.pop("seawall.dlq.failed.at")) - time.time() * 1000) < 60_000
    assert 'raise KeyError("wörld")' in found.pop("seawall.dlq.error.trace")
    del found["a"]
    assert found == {
        "seawall.dlq.topic": topic,
        "seawall.dlq.partition": "1",
        "seawall.dlq.offset": "0",
        "seawall.dlq.timestamp": str(sent.timestamp),
        "seawall.dlq.group": group,
        "seawall.dlq.attempts": "3",
        "seawall.dlq.error.class": "KeyError",
        "seawall.dlq.error.message": "'wörld'",
    }


def test_a_dead_letter_that_is_too_large_says_less(
    broker: AnyBroker, topic: str, group: str
) -> None:
    name = f"{topic}.mine"
    broker.create_topic(name, 2, {"max.message.bytes": 20_000})
    fill(broker, topic, 1)
    with broker.producer() as producer:
        producer.send(topic, b"x" * 15_000, partition=0).result(10)
        producer.send(topic, b"y" * 30_000, partition=0).result(10)

    def handler(record: DeliveredRecord) -> None:
        if record.offset:
            raise Reject("x" * 5_000)

    done = run(broker, topic, group, handler, max_records=3, dead_letter_topic=name)
    assert done == Handled(handled=1, dead_lettered=2)
    with broker.consumer(name, start="start") as consumer:
        first, second = read(consumer, 2)
    assert len(headers(first)["seawall.dlq.error.message"]) >= 200
    assert (first.value, second.value) == (b"x" * 15_000, b"y" * 30_000)
    assert headers(second)["seawall.dlq.offset"] == "2"
    broker.delete_topic(name)


def test_what_was_tried_is_known_to_the_next_member(
    broker: AnyBroker, topic: str, group: str
) -> None:
    fill(broker, topic, 3)
    counts: dict[int, list[int]] = {}

    def handler(record: DeliveredRecord) -> None:
        counts.setdefault(record.offset, []).append(record.delivery_count)
        if record.offset == 1:
            raise RetryLater(60_000)

    for number in (1, 2, 3):
        stop = Until(lambda number=number: len(counts.get(2, ())) == number)
        done = run(broker, topic, group, handler, stop=stop, ordering="unordered")
        assert done.dead_lettered == 0
    assert counts[0] == [1]
    assert counts[1] == [1, 2, 3]
    assert counts[2] == [1, 1, 1]  # behind a gap: handled, and not acknowledged
    assert committed(broker, group)[0] == 1
    done = run(broker, topic, group, handler, max_records=2, max_deliveries=3)
    assert done == Handled(handled=1, dead_lettered=1)
    assert counts[1] == [1, 2, 3]  # it had all of its deliveries
    assert committed(broker, group)[0] == 3


def test_what_run_refuses(broker: AnyBroker, topic: str, group: str) -> None:
    fill(broker, topic, 2)
    with broker.consumer(topic) as alone, pytest.raises(errors.NotInGroup):
        alone.run(print)
    with (
        broker.consumer(topic, group=group, enable_auto_commit=True) as automatic,
        pytest.raises(ValueError, match="enable_auto_commit"),
    ):
        automatic.run(print)
    with broker.consumer(topic, group=group) as consumer:
        with pytest.raises(ValueError):
            consumer.run(print, concurrency=0)

        def handler(record: DeliveredRecord) -> None:
            consumer.ack(record)

        with pytest.raises(errors.HandlerFailed) as caught:
            consumer.run(handler, **{**FAST, "max_deliveries": 1, "dead_letter_topic": None})
        assert isinstance(caught.value.__cause__, ValueError)
        assert (caught.value.topic, caught.value.offset) == (topic, 0)
        assert consumer.committed(topic, 0) == 0
    assert run(broker, topic, group, lambda record: None, max_records=2).handled == 2
    with pytest.raises(errors.BrokerClosed):
        consumer.run(print)


def test_run_ends_when_it_is_told_to(broker: AnyBroker, topic: str, group: str) -> None:
    fill(broker, topic, 5)
    stop = threading.Event()
    with broker.consumer(topic, group=group) as consumer:
        seen: list[int] = []

        def handler(record: DeliveredRecord) -> None:
            seen.append(record.offset)
            if record.offset == 1:
                stop.set()
                time.sleep(0.1)

        assert consumer.run(handler, **FAST, stop=stop).handled == len(seen)
        assert consumer.committed(topic, 0) == len(seen) >= 2
        # From another thread, while a handler is at work: it finishes, and counts.
        at_work = threading.Event()

        def slow(record: DeliveredRecord) -> None:
            at_work.set()
            time.sleep(0.2)

        closing = threading.Thread(target=lambda: at_work.wait(WAIT_MS / 1000) and consumer.close())
        closing.start()
        fill(broker, topic, 5, first=5)
        done = consumer.run(slow, **FAST)
        closing.join()
        assert done.handled >= 1
    assert committed(broker, group)[0] == len(seen) + done.handled


def test_a_handler_closes_its_consumer(broker: AnyBroker, topic: str, group: str) -> None:
    fill(broker, topic, 3)
    with broker.consumer(topic, group=group) as consumer:
        consumer.run(
            lambda record: consumer.close(),
            **{**FAST, "timeout_ms": None, "shutdown_timeout_ms": 3_600_000},
        )  # it does not wait for itself
    assert run(broker, topic, group, lambda record: None, max_records=3).handled == 3


def test_what_waits_holds_up_no_other_partition(broker: AnyBroker, topic: str, group: str) -> None:
    fill(broker, topic, 1_500)
    go_on = threading.Event()
    others: list[int] = []

    def handler(record: DeliveredRecord) -> None:
        if record.partition == 0 and record.offset == 0:
            assert go_on.wait(WAIT_MS / 1000)
        elif record.partition == 1:
            others.append(record.offset)
            if len(others) == 1_500:
                go_on.set()

    filling = threading.Thread(target=lambda: fill(broker, topic, 1_500, partition=1))
    filling.start()
    done = run(broker, topic, group, handler, max_records=3_000, concurrency=2, max_pending=20)
    filling.join()
    assert done == Handled(handled=3_000)
    assert others == list(range(1_500))
    assert committed(broker, group) == {0: 1_500, 1: 1_500}


def test_members_that_run_handlers_share_the_partitions(
    broker: AnyBroker, topic: str, group: str
) -> None:
    """One is at work when another comes, and goes: what runs finishes first, nothing is
    handled by both at once, and all of it is handled."""
    for partition in (0, 1):
        fill(broker, topic, 300, partition=partition)
    lock = threading.Lock()
    at_work: set[tuple[int, int]] = set()
    seen: dict[tuple[int, int], list[str]] = {}
    twice: list[tuple[int, int]] = []
    failures: list[BaseException] = []
    stop = threading.Event()

    def not_yet() -> bool:
        with lock:
            return all("two" not in names for names in seen.values())

    def member(name: str, most: int | None) -> None:
        def handler(record: DeliveredRecord) -> None:
            place = record.partition, record.offset
            with lock:
                if place in at_work:
                    twice.append(place)
                at_work.add(place)
            # One of them waits for the other before all is done.
            is_early = name == "one" and len(seen) > 400 and not_yet()
            time.sleep(0.2 if is_early else 0.003)
            with lock:
                at_work.discard(place)
                if place in seen:
                    twice.append(place)
                seen.setdefault(place, []).append(name)

        try:
            with broker.consumer(topic, group=group, heartbeat_interval_ms=200) as consumer:
                consumer.run(handler, **FAST, stop=stop, max_records=most)
        except BaseException as error:  # noqa: BLE001 - the test tells
            failures.append(error)

    threads = [threading.Thread(target=member, args=("one", None))]
    threads[0].start()
    try:
        until(lambda: len(seen) > 20 or failures)
        threads.append(threading.Thread(target=member, args=("two", 100)))
        threads[1].start()
        until(lambda: len(seen) == 600 or failures)
        until(lambda: committed(broker, group) == {0: 300, 1: 300} or failures)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert {name for names in seen.values() for name in names} == {"one", "two"}
    # Nobody died, so nothing came twice: but that in a cluster a commit may come just after
    # the group's next generation has begun, and its member then has to join anew.
    assert len(twice) <= (20 if broker.is_remote else 0)


def test_the_asyncio_twin_runs_handlers(broker: AnyBroker, topic: str, group: str) -> None:
    fill(broker, topic, 100)
    counts: dict[int, int] = {}
    most = [0, 0]
    together = asyncio.Event()

    async def handler(record: DeliveredRecord) -> None:
        most[0] += 1
        most[1] = max(most)
        if most[1] == 10:
            together.set()
        await asyncio.wait_for(together.wait(), WAIT_MS / 1000)
        most[0] -= 1
        counts[record.offset] = record.delivery_count
        if record.offset == 3:
            raise ValueError("never")
        if record.offset == 4 and record.delivery_count < 3:
            raise RetryLater(1)

    async def main() -> Handled:
        async with await AsyncConsumer.open(broker, topic, group=group) as consumer:
            with pytest.raises(TypeError):
                await consumer.run(handler, no_such_setting=1)
            done = await consumer.run(
                handler, **FAST, max_records=100, concurrency=10, ordering="unordered"
            )
            # Cancelled, it lets what runs finish.
            await asyncio.to_thread(fill, broker, topic, 3, 0, 100)
            running = asyncio.ensure_future(consumer.run(handler, **FAST))
            while 102 not in counts:
                await asyncio.sleep(0.01)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert consumer.committed(topic, 0) == 103
        async with await AsyncConsumer.open(broker, topic) as alone:
            with pytest.raises(errors.NotInGroup):
                await alone.run(handler)
        return done

    assert asyncio.run(main()) == Handled(handled=99, retries=6, dead_lettered=1)
    assert most[1] == 10
    assert (counts[3], counts[4], counts[5]) == (5, 3, 1)


# -- dead letters ------------------------------------------------------------------------


@pytest.fixture
def letters(broker: AnyBroker, topic: str, group: str) -> str:
    """A topic of eight records, all of which became dead letters, four in each partition."""
    with broker.producer() as producer:
        for number in range(8):
            producer.send(
                topic,
                b"%d" % number,
                key=b"k%d" % number,
                headers={"h": b"x"},
                partition=number % 2,
            )

    def handler(record: DeliveredRecord) -> None:
        if record.offset % 2:
            raise KeyError("odd")
        raise Reject("even")

    run(broker, topic, group, handler, max_records=8, max_deliveries=1)
    return topic


def test_dead_letters_are_listed_and_shown(broker: AnyBroker, letters: str, group: str) -> None:
    [found] = [each for each in broker.dead_letter_topics() if each.name == f"{letters}.dlq"]
    assert (found.records, found.redriven) == (8, 0)
    assert (found.groups, found.origins) == ((group,), (letters,))
    assert abs((found.oldest_ms or 0) - time.time() * 1000) < 120_000
    for name in (letters, f"{letters}.dlq"):
        each = broker.dead_letters(name)
        assert each.topic == f"{letters}.dlq"
        shown = list(each.records())
        assert [(r.record.partition, r.offset) for r in shown] == [
            (partition, offset) for partition in (0, 1) for offset in range(4)
        ]
        assert {r.error_class for r in shown} == {"KeyError", "seawall.broker.handling.Reject"}
        assert {(r.topic, r.group, r.attempts, r.redrives) for r in shown} == {
            (letters, group, 1, 0)
        }
    chosen = DeadLetterChoice(error_class="Reject", ranges={1: (1, 4)}, group=group)
    assert [r.record.offset for r in broker.dead_letters(letters).records(chosen)] == [2]


def test_dead_letters_are_sent_back_once(broker: AnyBroker, letters: str, group: str) -> None:
    there = broker.dead_letters(letters)
    choice = DeadLetterChoice(error_class="KeyError")
    plan = there.redrive(choice, dry_run=True)
    assert [(each.partition, each.records, each.target) for each in plan] == [
        (0, 2, letters),
        (1, 2, letters),
    ]
    assert broker.ends(letters, 0).durable_end == 4
    counts: list[int] = []
    assert there.redrive(choice, on_progress=counts.append) == plan
    assert counts[-1] == 4
    assert [broker.ends(letters, number).durable_end for number in (0, 1)] == [6, 6]
    assert [r.record.offset for r in there.records()] == [0, 2, 0, 2]
    assert (there.info().records, there.info().redriven) == (4, 4)
    # Another object, another process: what was sent is remembered by the broker.
    again = broker.dead_letters(letters)
    assert sum(each.records for each in again.redrive()) == 4
    assert again.redrive() == []
    assert list(again.records()) == []
    assert len(list(again.records(with_redriven=True))) == 8
    with broker.consumer(letters, start="start") as consumer:
        records = read(consumer, 16)
    back = [record for record in records if record.offset >= 4]
    first = {record.key: record for record in records if record.offset < 4}
    assert len(back) == 8
    for record in back:
        original = first[record.key]
        assert (record.value, record.timestamp) == (original.value, original.timestamp)
        assert record.partition == original.partition
        assert headers(record) == {
            "h": "x",
            "seawall.redrive.count": "1",
            "seawall.redrive.group": group,
        }


def test_dead_letters_go_elsewhere_or_for_good(broker: AnyBroker, letters: str) -> None:
    there = broker.dead_letters(letters)
    name = f"{letters}.else"
    with pytest.raises(errors.UnknownTopic):
        there.redrive(to=name)
    with pytest.raises(ValueError):
        there.redrive(to=f"{letters}.dlq")
    broker.create_topic(name)
    assert sum(each.records for each in there.redrive(to=name)) == 8
    assert broker.ends(name, 0).durable_end == 8
    broker.delete_topic(name)
    assert there.purge({0: 1}, dry_run=True) == {0: (0, 1)}
    assert there.purge({0: 1}) == {0: (0, 1)}
    with pytest.raises(errors.UnknownPartition):
        there.purge({7: 1})
    with pytest.raises(errors.OffsetOutOfRange):
        there.purge({0: 9})
    assert there.purge() == {0: (1, 4), 1: (0, 4)}
    assert (there.info().records, there.info().redriven) == (0, 0)
    fill(broker, f"{letters}.dlq", 1)
    with pytest.raises(errors.UnknownOrigin) as caught:
        there.redrive()
    assert caught.value.offset == 4


def test_one_redrive_at_a_time(broker: AnyBroker, letters: str) -> None:
    alone = {} if broker.is_remote else {"partitions": [0, 1]}
    with broker.consumer(f"{letters}.dlq", group=REDRIVE_GROUP, **alone) as other:  # type: ignore[arg-type]
        until(lambda: other.poll(timeout_ms=50) is None or len(other.assignment()) == 2)
        with pytest.raises(errors.GroupBusy) as caught:
            broker.dead_letters(letters).redrive()
        assert caught.value.group == REDRIVE_GROUP
    assert sum(each.records for each in broker.dead_letters(letters).redrive()) == 8


def test_what_holds_no_dead_letters(broker: AnyBroker, topic: str) -> None:
    fill(broker, topic, 3)
    with pytest.raises(errors.NoDeadLetters):
        broker.dead_letters(topic)
    with pytest.raises(errors.UnknownTopic):
        broker.dead_letters(new_name())
    assert topic not in [each.name for each in broker.dead_letter_topics()]


def test_dead_letters_in_a_topic_of_another_name(broker: AnyBroker, topic: str, group: str) -> None:
    name = new_name()
    fill(broker, topic, 2)

    def handler(record: DeliveredRecord) -> None:
        raise Reject("no")

    run(broker, topic, group, handler, max_records=2, dead_letter_topic=name)
    assert name in [each.name for each in broker.dead_letter_topics()]
    assert sum(each.records for each in broker.dead_letters(name).redrive()) == 2
    broker.delete_topic(name)


# -- asyncio -----------------------------------------------------------------------------


def test_the_asyncio_twins(broker: AnyBroker, topic: str, group: str) -> None:
    async def main() -> list[Record]:
        async with AsyncProducer(broker) as producer:
            sent = await asyncio.gather(
                *(producer.send(topic, b"%d" % n, partition=0) for n in range(50))
            )
            assert [each.offset for each in sent] == list(range(50))
            with pytest.raises(errors.UnknownTopic):
                await producer.send(new_name(), b"x")
        async with await AsyncConsumer.open(broker, topic, group=group) as consumer:
            found: list[Record] = []
            while len(found) < 50:
                found += await consumer.poll(timeout_ms=WAIT_MS)
            await consumer.ack(found)
            assert consumer.committed(topic, 0) == 50
            assert await consumer.lag() == {(topic, 0): 0, (topic, 1): 0}
        return found

    assert values(asyncio.run(main())) == [b"%d" % number for number in range(50)]


def test_a_cancelled_poll_loses_nothing(broker: AnyBroker, topic: str, group: str) -> None:
    async def main() -> None:
        async with await AsyncConsumer.open(broker, topic, group=group) as consumer:
            polling = asyncio.ensure_future(consumer.poll(timeout_ms=None))
            await asyncio.sleep(0.2)
            polling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await polling
            async with AsyncProducer(broker) as producer:
                await producer.send(topic, b"x", partition=0)
            assert values(await consumer.poll(timeout_ms=WAIT_MS)) == [b"x"]

    asyncio.run(main())


# -- ends --------------------------------------------------------------------------------


def test_everything_ends_with_the_broker(place: str) -> None:
    name = new_name()
    with connect(place) as broker:
        broker.create_topic(name)
        producer = broker.producer()
        delivery = producer.send(name, b"x")
        consumer = broker.consumer(name)
    assert delivery.result(0).offset == 0
    for use in (
        lambda: producer.send(name, b"x"),
        consumer.poll,
        broker.topics,
        lambda: broker.producer(),
        lambda: broker.consumer(name),
    ):
        with pytest.raises(errors.BrokerClosed):
            use()
    broker.close()
    with connect(place) as again:
        again.delete_topic(name)


def test_what_a_location_cannot_do_says_so(broker: AnyBroker, topic: str) -> None:
    uses: list[Callable[[], object]] = [
        broker.info,
        lambda: list(broker.verify()),
        broker.compact,
        lambda: broker.producers(topic, 0),
        lambda: broker.ends(topic, 0).log_end,
    ]
    for use in uses:
        if not broker.is_remote:
            use()
            continue
        with pytest.raises(errors.UnsupportedByLocation) as caught:
            use()
        assert caught.value.location.startswith("kafka://") or caught.value.operation
        assert "\n" not in str(caught.value)
