"""Mirrors from and to Apache Kafka: what only a cluster has, and the way there and back."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import locations
import pytest
from brokers import eventually
from clients.endpoints import Kafka
from commands import seawall
from confluent_kafka import Consumer, Producer, TopicPartition
from storage import memory_folder

from seawall.broker import AnyBroker, Broker, Record, connect, errors, mirror
from seawall.broker.mirror_read import Side, read

NOW_MS = time.time_ns() // 1_000_000 - 100_000
COMPACTED_S = 60.0
# A broker that was killed is taken for dead after so long; before that, it may not come back.
QUICK = {"broker.session.timeout.ms": "1000", "broker.heartbeat.interval.ms": "200"}


@pytest.fixture(scope="module")
def location() -> Iterator[str]:
    with locations.apache_kafka() as found:
        if found is None:
            pytest.skip(locations.NO_KAFKA)
        yield found


@pytest.fixture
def kafka(location: str) -> Iterator[AnyBroker]:
    with connect(location) as opened:
        yield opened


@pytest.fixture
def copy() -> Iterator[Broker]:
    with memory_folder() as path, Broker.open(path) as opened:
        yield opened


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seawall.broker.mirroring.QUIET_S", 0)


def contents(broker: AnyBroker, topic: str, partition: int = 0) -> list[Record]:
    """All records; their headers as tuples everywhere."""
    end = broker.ends(topic, partition).durable_end
    found = read(Side(broker, topic, partition), 0, end)
    return [record._replace(headers=tuple(record.headers)) for record in found]


def facts(records: list[Record]) -> list[Any]:
    """All of them but where they stand."""
    return [(r.timestamp, r.key, r.value, tuple(r.headers)) for r in records]


def fill(broker: AnyBroker, topic: str, first: int, stop: int, **settings: Any) -> None:
    """Records of all kinds, tombstones among them."""
    partitions = len(broker.topic(topic).partitions)
    with broker.producer(**settings) as producer:
        for number in range(first, stop):
            producer.send(
                topic,
                None if number % 11 == 10 else b"value-%d" % number * (1 + number % 50),
                key=None if number % 3 == 2 else b"key-%d" % (number % 5),
                headers=[("a", b"1"), ("a", None), ("b", b"")] if number % 4 == 3 else None,
                partition=number % partitions,
                timestamp=NOW_MS + number * 7,
            )


def transactional(location: str) -> Producer:
    settings = {"bootstrap.servers": location.removeprefix("kafka://"), "log_level": 0}
    producer = Producer({**settings, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    return producer


def transaction(producer: Producer, topic: str, *values: bytes, commit: bool) -> None:
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, b"k", 0, timestamp=NOW_MS)
    producer.flush(30)
    if commit:
        producer.commit_transaction(30)
    else:
        producer.abort_transaction(30)


# -- what only a cluster has -------------------------------------------------------------


def test_aborted_records_and_markers_are_left_out(
    location: str, kafka: AnyBroker, copy: Broker, topic: str
) -> None:
    """Their offsets are holes in a directory, at the end as well."""
    kafka.create_topic(topic)
    fill(kafka, topic, 0, 10)
    producer = transactional(location)
    transaction(producer, topic, b"a", b"b", commit=True)
    transaction(producer, topic, b"no", b"never", commit=False)
    fill(kafka, topic, 10, 20)
    transaction(producer, topic, b"nor this", commit=False)
    end = kafka.ends(topic, 0).durable_end
    assert end == 10 + 3 + 3 + 10 + 2
    kafka.reset_group(topic, topic, {0: end - 1})  # on the aborted one
    done = mirror(kafka, copy, topics=[topic], groups=True, verify=True)
    assert (done.records, done.compared, done.difference) == (22, 22, None)
    assert contents(copy, topic) == contents(kafka, topic)
    assert copy.ends(topic, 0) == (0, end, end)
    assert copy.group(topic).offsets[0].committed == end - 1
    # It goes on behind the hole.
    transaction(producer, topic, b"c", commit=True)
    again = mirror(kafka, copy, topics=[topic], verify=True)
    assert (again.records, again.found, again.difference) == (1, 0, None)
    assert contents(copy, topic) == contents(kafka, topic)


def test_offsets_are_translated_between_clusters(
    location: str, kafka: AnyBroker, topic: str
) -> None:
    """Another server numbers without the gaps; groups are at the same record there."""
    kafka.create_topic(topic)
    fill(kafka, topic, 0, 10)
    producer = transactional(location)
    transaction(producer, topic, b"no", b"never", commit=False)
    fill(kafka, topic, 10, 20)
    kafka.delete_records(topic, {0: 5})
    wanted = {f"{topic}-a": (7, 2), f"{topic}-b": (12, 5), f"{topic}-c": (13, 5)}
    wanted |= {f"{topic}-d": (20, 12), f"{topic}-e": (23, 15)}
    for group, (at, _) in wanted.items():
        kafka.reset_group(group, topic, {0: at})
    with locations.server() as there, connect(there) as server:
        done = mirror(kafka, server, topics=[topic], groups=True, verify=True)
        assert (done.records, done.compared, done.difference) == (15, 15, None)
        assert facts(contents(server, topic)) == facts(contents(kafka, topic))
        for group, (_, translated) in wanted.items():
            assert server.group(group).offsets[0].committed == translated


def test_an_open_transaction_ends_it_with_an_error(
    location: str, kafka: AnyBroker, copy: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seawall.broker.silence.SILENCE_S", 2.0)
    kafka.create_topic(topic)
    fill(kafka, topic, 0, 10)
    producer = transactional(location)
    producer.begin_transaction()
    producer.produce(topic, b"undecided", b"k", 0)
    producer.flush(30)
    with pytest.raises(errors.MirrorError, match="open transaction") as caught:
        mirror(kafka, copy, topics=[topic])
    assert caught.value.topic == topic
    producer.commit_transaction(30)
    done = mirror(kafka, copy, topics=[topic], verify=True)
    assert (done.compared, done.difference) == (11, None)
    assert facts(contents(copy, topic)) == facts(contents(kafka, topic))


def test_a_log_that_does_not_begin_at_0(kafka: AnyBroker, copy: Broker, topic: str) -> None:
    kafka.create_topic(topic, 3)  # and one partition is empty from end to end, another always
    fill(kafka, topic, 0, 300)
    kafka.delete_records(topic, {0: 40, 1: 100})
    done = mirror(kafka, copy, topics=[topic], verify=True)
    assert (done.records, done.lost, done.difference) == (160, 0, None)
    for number, start in enumerate((40, 100, 0)):
        assert copy.ends(topic, number) == (start, 100, 100)
        assert contents(copy, topic, number) == contents(kafka, topic, number)


def test_an_empty_topic(kafka: AnyBroker, copy: Broker, topic: str) -> None:
    kafka.create_topic(topic, 4)
    done = mirror(kafka, copy, topics=[topic], groups=True, verify=True)
    assert (done.records, done.partitions, done.difference) == (0, 4, None)
    assert len(copy.topic(topic).partitions) == 4
    back = f"{topic}-back"
    copy.create_topic(back, 2)
    assert mirror(copy, kafka, topics=[back], verify=True).difference is None
    assert len(kafka.topic(back).partitions) == 2


def test_a_compacted_topic_with_holes(kafka: AnyBroker, copy: Broker, topic: str) -> None:
    config = {"cleanup.policy": "compact", "segment.ms": 1, "min.cleanable.dirty.ratio": "0.001"}
    config |= {"delete.retention.ms": 86_400_000, "min.compaction.lag.ms": 0}
    kafka.create_topic(topic, 1, config)
    kafka.set_config({"log.cleaner.backoff.ms": 100})
    try:
        with kafka.producer(linger_ms=0) as producer:
            for number in range(200):
                value = None if number % 40 == 39 else b"v%d" % number
                producer.send(topic, value, key=b"k%d" % (number % 7)).result(30)
        before = facts(contents(kafka, topic))
        deadline_s = time.monotonic() + COMPACTED_S
        while len(contents(kafka, topic)) > 60:
            if time.monotonic() > deadline_s:
                pytest.skip("it does not compact")
            time.sleep(0.5)
    finally:
        kafka.set_config({"log.cleaner.backoff.ms": None})
    done = mirror(kafka, copy, topics=[topic], verify=True)
    assert done.difference is None
    left = contents(kafka, topic)
    copied = contents(copy, topic)
    # Kafka may have compacted further meanwhile; what it still has, was copied.
    assert set(left) <= set(copied)
    offsets = [each.offset for each in copied]
    assert offsets != list(range(len(offsets)))  # so there are holes
    assert all(each in before for each in facts(copied))
    assert copy.topic(topic).in_force["cleanup.policy"] == "compact"
    again = f"{topic}-again"
    copy.create_topic(again, 1, {"cleanup.policy": "compact"})
    fill_keys(copy, again)
    assert mirror(copy, kafka, topics=[again], verify=True).difference is None


def fill_keys(broker: AnyBroker, topic: str) -> None:
    with broker.producer() as producer:
        for number in range(100):
            producer.send(topic, b"v%d" % number, key=b"k%d" % (number % 7))


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_batches(kafka: AnyBroker, copy: Broker, topic: str, codec: str) -> None:
    kafka.create_topic(topic, 2)
    fill(kafka, topic, 0, 400, compression=codec)
    assert mirror(kafka, copy, topics=[topic], verify=True, compression=codec).difference is None
    for number in (0, 1):
        assert contents(copy, topic, number) == contents(kafka, topic, number)
    back = f"{topic}-back"
    copy.create_topic(back, 2)
    fill(copy, back, 0, 400, compression=codec)
    done = mirror(copy, kafka, topics=[back], verify=True, compression=codec)
    assert (done.compared, done.difference) == (400, None)


# -- there and back ----------------------------------------------------------------------


def test_directory_to_kafka_to_a_new_directory(kafka: AnyBroker, copy: Broker, topic: str) -> None:
    """Record by record, with holes, a beginning that was removed, and groups."""
    with memory_folder() as path, Broker.open(path) as home:
        config: dict[str, str | int] = {"cleanup.policy": "delete", "segment.bytes": 1 << 20}
        home.create_topic(topic, 3, {**config, "retention.ms": 86_400_000})
        fill(home, topic, 0, 6_000)
        home.delete_records(topic, {1: 500})
        groups = {f"{topic}-{n}": {0: 10 * n, 1: 500 + n, 2: 2_000} for n in range(3)}
        for name, offsets in groups.items():
            home.reset_group(name, topic, offsets)
        there = mirror(home, kafka, topics=[topic], groups=True, verify=True)
        assert (there.records, there.compared, there.difference) == (5_500, 5_500, None)
        back = mirror(kafka, copy, topics=[topic], groups=True, verify=True)
        assert (back.records, back.compared, back.difference) == (5_500, 5_500, None)
        for number in range(3):
            assert facts(contents(copy, topic, number)) == facts(contents(home, topic, number))
        for name, offsets in groups.items():
            moved = {0: offsets[0], 1: offsets[1] - 500, 2: offsets[2]}
            for broker in (kafka, copy):
                found = {e.partition: e.committed for e in broker.group(name).offsets}
                assert found == moved
        for broker in (kafka, copy):
            info = broker.topic(topic)
            assert info.config["retention.ms"] == "86400000"
            assert info.config["segment.bytes"] == str(1 << 20)
        assert list(copy.verify()) == []


def test_a_group_of_a_kafka_client_goes_on_in_the_directory(
    kafka: AnyBroker, copy: Broker, topic: str
) -> None:
    kafka.create_topic(topic)
    fill(kafka, topic, 0, 50)
    with kafka.consumer(topic, group=topic) as consumer:
        records: list[Record] = []
        while len(records) < 20:
            records += consumer.poll(20 - len(records), 30_000)
        consumer.ack(records)
    mirror(kafka, copy, topics=[topic], groups=True)
    with copy.consumer(topic, group=topic) as consumer:
        assert consumer.poll(1, 10_000)[0].offset == 20


def test_a_group_of_the_newer_protocol(
    location: str, kafka: AnyBroker, copy: Broker, topic: str
) -> None:
    """KIP-848: its positions are copied, and it is left alone while it has members."""
    kafka.create_topic(topic)
    fill(kafka, topic, 0, 20)
    settings = {"group.protocol": "consumer", "auto.offset.reset": "earliest", "log_level": 0}
    address = location.removeprefix("kafka://")
    member = Consumer({"bootstrap.servers": address, "group.id": topic, **settings})
    try:
        member.subscribe([topic])
        eventually(lambda: bool(member.consume(1, 0.5)), 30)
        member.commit(offsets=[TopicPartition(topic, 0, 7)], asynchronous=False)
        mirror(kafka, copy, topics=[topic], groups=True)
        assert [each.committed for each in copy.group(topic).offsets] == [7]
        assert len(kafka.group(topic).members) == 1
        with pytest.raises(errors.GroupBusy):
            kafka.reset_group(topic, topic, {0: 0})
    finally:
        member.close()
    kafka.reset_group(topic, topic, {0: 3})
    assert [each.committed for each in kafka.group(topic).offsets] == [3]


def test_a_group_with_members_in_kafka_is_left_alone(
    kafka: AnyBroker, copy: Broker, topic: str
) -> None:
    copy.create_topic(topic)
    fill(copy, topic, 0, 10)
    copy.reset_group(topic, topic, {0: 4})
    mirror(copy, kafka, topics=[topic], groups=True)
    copy.reset_group(topic, topic, {0: 10})
    with kafka.consumer(topic, group=topic) as member:
        eventually(lambda: bool(member.poll(1, 100)), 30)
        done = mirror(copy, kafka, topics=[topic], groups=True)
        assert done.groups is not None
        assert (done.groups.set, done.groups.busy) == (0, (topic,))
        assert kafka.group(topic).offsets[0].committed == 4
    assert mirror(copy, kafka, topics=[topic], groups=True).groups is not None
    assert kafka.group(topic).offsets[0].committed == 10


@pytest.mark.parametrize("is_source", [True, False])
def test_following(kafka: AnyBroker, copy: Broker, topic: str, is_source: bool) -> None:
    home, target = (kafka, copy) if is_source else (copy, kafka)
    home.create_topic(topic)
    fill(home, topic, 0, 100)
    ended = threading.Event()
    done: list[Any] = []

    def follow() -> None:
        done.append(
            mirror(
                home,
                target,
                topics=[topic],
                follow=True,
                checkpoint_interval_ms=50,
                should_stop=ended.is_set,
            )
        )

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        for number in range(1, 4):
            fill(home, topic, 100 * number, 100 * (number + 1))
            eventually(lambda: _end(target, topic) == _end(home, topic), 30)
    finally:
        ended.set()
        thread.join(60)
    assert done[0].records == 400
    assert done[0].was_stopped
    last = mirror(home, target, topics=[topic], verify=True)
    assert (last.records, last.found, last.compared, last.difference) == (0, 0, 400, None)


def _end(broker: AnyBroker, topic: str) -> int:
    with contextlib.suppress(errors.UnknownTopic):
        return broker.ends(topic, 0).durable_end
    return -1


# -- what is not the same, or cannot be --------------------------------------------------


def test_a_difference_is_found(kafka: AnyBroker, copy: Broker, topic: str) -> None:
    for number, change in enumerate(({"value": b"y"}, {"key": b"y"}, {"headers": {"h": b"y"}})):
        name = f"{topic}-{number}"
        given: dict[str, Any] = {"value": b"x", "key": b"x", "headers": {"h": b"x"}}
        for broker, extra in ((copy, {}), (kafka, change)):
            broker.create_topic(name)
            fill(broker, name, 0, 10)
            with broker.producer() as producer:
                wanted = {**given, **extra}
                producer.send(name, wanted.pop("value"), timestamp=NOW_MS, **wanted).result(30)
        for source, target in ((copy, kafka), (kafka, copy)):
            found = mirror(source, target, topics=[name], dry_run=True, verify=True).difference
            assert found is not None
            assert str(found).startswith(f"{name}/0 offset 10/10: ")
            with pytest.raises(errors.ForeignRecord) as caught:
                mirror(source, target, topics=[name])
            assert caught.value.offset == 10


def test_one_record_too_many_is_found(kafka: AnyBroker, copy: Broker, topic: str) -> None:
    copy.create_topic(topic)
    fill(copy, topic, 0, 10)
    mirror(copy, kafka, topics=[topic])
    fill(kafka, topic, 10, 11)
    found = mirror(copy, kafka, topics=[topic], dry_run=True, verify=True).difference
    assert found is not None
    assert (found.source_offset, found.target_offset) == (None, 10)
    fill(copy, topic, 20, 30)
    with pytest.raises(errors.ForeignRecord):
        mirror(copy, kafka, topics=[topic])


def test_partitions_are_added_and_never_taken(kafka: AnyBroker, copy: Broker, topic: str) -> None:
    copy.create_topic(topic, 3)
    fill(copy, topic, 0, 30)
    kafka.create_topic(topic, 1)
    assert mirror(copy, kafka, topics=[topic], verify=True).difference is None
    assert len(kafka.topic(topic).partitions) == 3
    kafka.add_partitions(topic, 5)
    with pytest.raises(errors.MirrorConflict, match="5 partitions at the target"):
        mirror(copy, kafka, topics=[topic])


def test_what_cannot_be_is_one_line(location: str, kafka: AnyBroker, topic: str) -> None:
    kafka.create_topic(topic, 2)
    with memory_folder() as path:
        with Broker.open(path) as home:
            home.create_topic(topic, 1)
        for arguments, said in (
            ((location, path, "-t", f"{topic}-none"), "no topic"),
            ((path, location, "-t", topic), "2 partitions at the target"),
            ((location, location), "are the same broker"),
            ((location, f"{path}/new", "-t", "a b"), "no topic"),
        ):
            ended = seawall("mirror", *arguments)
            assert (ended.code, ended.out) == (1, b"")
            [line] = ended.err.splitlines()
            assert said in line, line


def test_offsets_of_a_group_that_never_had_members(
    location: str, kafka: AnyBroker, copy: Broker, topic: str
) -> None:
    """Such as a tool commits: only OffsetFetch knows it."""
    kafka.create_topic(topic, 2)
    fill(kafka, topic, 0, 20)
    address = location.removeprefix("kafka://")
    consumer = Consumer({"bootstrap.servers": address, "group.id": topic, "log_level": 0})
    consumer.commit(offsets=[TopicPartition(topic, 1, 3)], asynchronous=False)
    consumer.close()
    mirror(kafka, copy, topics=[topic], groups=True)
    assert [(e.partition, e.committed) for e in copy.group(topic).offsets] == [(1, 3)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_source", [True, False])
def test_kafka_is_killed_meanwhile(copy: Broker, topic: str, is_source: bool) -> None:
    """The mirror waits, and goes on by itself: nothing is left out or comes twice."""
    lib = locations.kafka_jars()
    if lib is None:
        pytest.skip(locations.NO_JARS)
    with (
        tempfile.TemporaryDirectory() as folder,
        Kafka(Path(folder), lib, settings=QUICK) as kafka,
        connect(f"kafka://{kafka.address}", reconnect_backoff_max_ms=300) as cluster,
    ):
        home, target = (cluster, copy) if is_source else (copy, cluster)
        home.create_topic(topic, 2)
        fill(home, topic, 0, 30_000)
        rounds: list[int] = []
        done: list[Any] = []

        def run() -> None:
            done.append(
                mirror(
                    home,
                    target,
                    topics=[topic],
                    checkpoint_interval_ms=20,
                    on_progress=lambda progress: rounds.append(progress.records),
                )
            )

        thread = threading.Thread(target=run)
        thread.start()
        try:
            eventually(lambda: bool(rounds), 60)
            kafka.kill()
            kafka.start()
        finally:
            thread.join(100)
        assert done[0].records == 30_000
        last = mirror(home, target, topics=[topic], verify=True)
        assert (last.records, last.compared, last.difference) == (0, 30_000, None)
