"""`Broker`: opening, closing, topics, ends, times; what its documentation promises."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest
from brokers import LONG_S, broker_on, in_thread, put, read_all, values
from storage import FaultyFiles, batch

import seawall.broker
from seawall.broker import Broker, LogEnds, TopicInfo
from seawall.broker.errors import (
    BrokerClosed,
    BrokerError,
    DirectoryUnusable,
    InvalidConfig,
    InvalidTopicName,
    TopicExists,
    UnknownPartition,
    UnknownTopic,
)


def test_every_public_name_is_there() -> None:
    for name in seawall.broker.__all__:
        assert getattr(seawall.broker, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = seawall.broker.Brooker  # type: ignore[attr-defined]


def test_open_makes_a_directory_and_its_parents(folder: str) -> None:
    path = Path(folder) / "deep" / "er" / "data"
    with Broker.open(path) as broker:
        assert broker.path == str(path)
        cluster_id = broker.cluster_id
        assert len(cluster_id) == 22
        assert broker.topics() == []
    with Broker.open(path, create=False) as broker:
        assert broker.cluster_id == cluster_id


def test_open_without_creating(folder: str) -> None:
    for path in (folder, Path(folder) / "none"):
        with pytest.raises(DirectoryUnusable) as caught:
            Broker.open(path, create=False)
        assert caught.value.path == str(path)
    assert list(Path(folder).iterdir()) == []


def test_bad_durability(folder: str) -> None:
    with pytest.raises(ValueError):
        Broker.open(folder, durability="hope")


def test_the_default_durability_is_the_brokers(folder: str) -> None:
    with Broker.open(folder, durability="os") as broker:
        broker.create_topic("orders")
        with broker.producer() as producer:
            assert not producer._sender._writer._waits_for_sync
        with broker.producer(durability="fsync") as producer:
            assert producer._sender._writer._waits_for_sync


# -- topics --------------------------------------------------------------------------


def test_topics(broker: Broker) -> None:
    made = broker.create_topic("a.b_c-1", 3, {"segment.bytes": 5000, "segment.ms": "60000"})
    assert isinstance(made, TopicInfo)
    assert isinstance(made.uuid, uuid.UUID)
    assert [partition.number for partition in made.partitions] == [0, 1, 2]
    assert made.config == {"segment.bytes": "5000", "segment.ms": "60000"}
    assert broker.topic("a.b_c-1") == made
    assert [topic.name for topic in broker.topics()] == ["a.b_c-1", "orders"]
    with pytest.raises(TopicExists) as caught:
        broker.create_topic("orders")
    assert (caught.value.topic, caught.value.state) == ("orders", "live")
    assert broker.create_topic("a.b_c-1", 9, if_not_exists=True) == made
    broker.delete_topic("a.b_c-1")
    for call in (broker.topic, broker.delete_topic):
        with pytest.raises(UnknownTopic) as unknown:
            call("a.b_c-1")
        assert unknown.value.topic == "a.b_c-1"
    again = broker.create_topic("a.b_c-1")
    assert again.uuid != made.uuid
    assert {p.id for p in again.partitions}.isdisjoint(p.id for p in made.partitions)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "x" * 250, "a\0b", "a\n"])
def test_bad_names(broker: Broker, name: str) -> None:
    with pytest.raises(InvalidTopicName) as caught:
        broker.create_topic(name)
    assert caught.value.topic == name
    with pytest.raises(UnknownTopic):
        broker.topic(name)
    assert [topic.name for topic in broker.topics()] == ["orders"]


def test_the_longest_name(broker: Broker) -> None:
    name = "x" * 249
    broker.create_topic(name)
    put(broker, b"x", topic=name)
    assert values(read_all(broker, name)) == [b"x"]


def test_bad_settings_and_counts(broker: Broker) -> None:
    with pytest.raises(InvalidConfig) as caught:
        broker.create_topic("x", config={"segment.byte": 1})
    assert (caught.value.key, caught.value.suggestion) == ("segment.byte", "segment.bytes")
    with pytest.raises(InvalidConfig):
        broker.create_topic("x", config={"segment.bytes": "many"})
    for bad in (0, -1, 10_001):
        with pytest.raises(ValueError):
            broker.create_topic("x", partitions=bad)
    assert [topic.name for topic in broker.topics()] == ["orders"]


def test_a_topic_made_again_inherits_nothing(broker: Broker) -> None:
    put(broker, b"old", b"old")
    with broker.consumer("orders", group="g") as consumer:
        consumer.poll()
        consumer.ack()
    broker.delete_topic("orders")
    assert broker.group("g").offsets == ()
    broker.create_topic("orders")
    assert broker.ends("orders", 0) == LogEnds(0, 0, 0)
    put(broker, b"new")
    with broker.consumer("orders", group="g") as consumer:
        assert values(consumer.poll()) == [b"new"]


# -- ends and times ------------------------------------------------------------------


def test_ends(broker: Broker) -> None:
    assert broker.ends("orders", 0) == LogEnds(log_start=0, durable_end=0, log_end=0)
    put(broker, b"a", b"b")
    assert broker.ends("orders", 0) == LogEnds(0, 2, 2)
    log = broker.engine.log(broker.topic("orders").partitions[0].id)
    log.append([batch(b"c")])
    assert broker.ends("orders", 0) == LogEnds(0, 2, 3)
    with pytest.raises(UnknownPartition) as caught:
        broker.ends("orders", 1)
    assert (caught.value.topic, caught.value.partition, caught.value.partitions) == ("orders", 1, 1)
    with pytest.raises(UnknownTopic):
        broker.ends("nowhere", 0)


def test_offset_for_time(broker: Broker) -> None:
    with broker.producer() as producer:
        for number in range(100):
            producer.send("orders", b"x", timestamp=1000 + 10 * number)
    assert broker.offset_for_time("orders", 0, 0) == (0, 1000)
    assert broker.offset_for_time("orders", 0, 1995 - 10) == (99, 1990)
    assert broker.offset_for_time("orders", 0, 1501) == (51, 1510)
    assert broker.offset_for_time("orders", 0, 1991) is None
    with pytest.raises(UnknownPartition):
        broker.offset_for_time("orders", -1, 0)


# -- the end -------------------------------------------------------------------------


def test_close(folder: str) -> None:
    broker = Broker.open(folder)
    broker.create_topic("orders")
    producer, consumer = broker.producer(linger_ms=60_000), broker.consumer("orders")
    sent = producer.send("orders", b"x")
    broker.close()
    broker.close()
    assert sent.result().offset == 0
    with pytest.raises(BrokerClosed):
        producer.send("orders", b"y")
    with pytest.raises(BrokerClosed):
        consumer.poll()
    for call in (
        broker.topics,
        broker.groups,
        broker.info,
        broker.producer,
        lambda: list(broker.verify()),
        lambda: broker.topic("orders"),
        lambda: broker.ends("orders", 0),
        lambda: broker.create_topic("x"),
        lambda: broker.delete_topic("orders"),
        lambda: broker.consumer("orders"),
        lambda: broker.group("g"),
        lambda: broker.reset_group("g", "orders", {0: 0}),
        lambda: broker.delete_group("g"),
        lambda: broker.offset_for_time("orders", 0, 0),
    ):
        with pytest.raises(BrokerClosed) as caught:
            call()
        assert caught.value.what == "broker"
    assert broker.path == folder  # plain facts stay


def test_close_raises_what_flush_raises_after_closing_everything(folder: str) -> None:
    files = FaultyFiles()
    broker = broker_on(files, folder)
    broker.create_topic("orders")
    producer, other = broker.producer(linger_ms=60_000), broker.producer(linger_ms=60_000)
    producer.send("orders", b"lost")
    files.fail("pwritev")
    kept = other.send("orders", b"kept")
    with pytest.raises(BrokerError):
        broker.close()
    assert kept.result().offset == 0
    with Broker.open(folder) as again:
        assert values(read_all(again)) == [b"kept"]


def test_close_closes_everything_though_a_callback_fails(folder: str) -> None:
    def fail(places: object) -> None:
        raise ArithmeticError("a mistake")

    broker = Broker.open(folder)
    broker.create_topic("orders")
    for group in ("g", "h"):
        broker.consumer("orders", group=group, on_revoked=fail).poll()
    delivery = broker.producer(linger_ms=600_000).send("orders", b"x")
    with pytest.raises(ArithmeticError):
        broker.close()
    assert delivery.done()
    with Broker.open(folder) as again:
        assert again.ends("orders", 0).durable_end == 1
        assert [again.group(group).members for group in ("g", "h")] == [(), ()]


def test_closing_a_producer_takes_it_off_the_brokers_list(broker: Broker) -> None:
    for _ in range(10):
        broker.producer().close()
        broker.consumer("orders").close()
    assert broker._users == []


def test_closing_while_others_are_at_work(folder: str) -> None:
    for _ in range(5):
        broker = Broker.open(folder)
        broker.create_topic("orders", if_not_exists=True)
        started = threading.Barrier(4)

        def work(what: int, broker: Broker = broker, started: threading.Barrier = started) -> None:
            started.wait()
            try:
                while True:
                    if what == 0:
                        broker.producer(linger_ms=0).send("orders", b"x").result(timeout=LONG_S)
                    elif what == 1:
                        broker.consumer("orders").poll()
                    else:
                        broker.topics(), broker.ends("orders", 0), broker.info()
            except BrokerClosed:
                pass

        with (
            in_thread(lambda: work(0)),
            in_thread(lambda: work(1)),
            in_thread(lambda: work(2)),
        ):
            started.wait()
            broker.close()
