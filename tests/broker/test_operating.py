"""Changing topics and the broker while they are in use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from brokers import broker_on, eventually, put, read_all, values
from deaths import dies_at_every_call
from storage import FaultyFiles

from seawall.broker import Broker
from seawall.broker.catalog import Catalog
from seawall.broker.errors import (
    BrokerError,
    InvalidConfig,
    InvalidPartitions,
    RecordTooLarge,
    StorageFull,
    UnknownPartition,
    UnknownTopic,
)
from seawall.broker.topics import MOST_PARTITIONS

# -- settings ------------------------------------------------------------------------


def test_settings_change_and_go_back(broker: Broker) -> None:
    info = broker.alter_topic("orders", {"segment.bytes": 8192, "retention.ms": -1})
    assert info.config == {"segment.bytes": "8192", "retention.ms": "-1"}
    assert broker.alter_topic("orders", {"segment.bytes": None}).config == {"retention.ms": "-1"}
    assert broker.topic("orders").settings.retention_ms == -1
    with pytest.raises(UnknownTopic):
        broker.alter_topic("nobody", {})
    bad: list[dict[str, str | int | None]] = [
        {"retention.ms": -2},
        {"retention.ms": 7, "colour": None},
    ]
    for changes in bad:
        with pytest.raises(InvalidConfig):
            broker.alter_topic("orders", changes)
    assert broker.topic("orders").config == {"retention.ms": "-1"}


def test_settings_of_the_broker(broker: Broker, folder: str) -> None:
    defaults = broker.config()
    assert defaults == {
        "log.cleaner.io.max.bytes.per.second": "33554432",
        "log.retention.check.interval.ms": "300000",
        "offsets.retention.minutes": "10080",
        "producer.id.expiration.ms": "86400000",
    }
    broker.set_config({"offsets.retention.minutes": 5, "log.retention.check.interval.ms": 100})
    broker.set_config({"log.retention.check.interval.ms": None})
    broker.set_config({})
    assert broker.config() == {**defaults, "offsets.retention.minutes": "5"}
    with pytest.raises(InvalidConfig, match=r"did you mean 'offsets\.retention\.minutes'"):
        broker.set_config({"offset.retention.minutes": 1, "segment.bytes": 1})
    with pytest.raises(InvalidConfig, match="there are: log"):
        broker.set_config({"colour": "red"})
    with pytest.raises(InvalidConfig):
        broker.set_config({"offsets.retention.minutes": 0})
    broker.close()
    with Broker.open(folder) as again:
        assert again.config()["offsets.retention.minutes"] == "5"


def test_a_running_producer_goes_by_a_changed_limit(broker: Broker) -> None:
    with broker.producer(linger_ms=0) as producer:
        producer.send("orders", b"small").result()
        with pytest.raises(RecordTooLarge):
            producer.send("orders", bytes(2 << 20))
        broker.alter_topic("orders", {"max.message.bytes": 4 << 20})
        producer.send("orders", bytes(2 << 20)).result()  # at once: raising is looked up
        broker.alter_topic("orders", {"max.message.bytes": 1000})

        def is_refused() -> bool:
            try:
                producer.send("orders", bytes(2000)).result()
            except RecordTooLarge:
                return True
            return False

        eventually(is_refused)
        assert producer.send("orders", b"small").result().offset > 1


def test_an_open_log_goes_by_changed_settings(broker: Broker) -> None:
    log = broker.engine.log(broker.topic("orders").partitions[0].id)
    put(broker, bytes(3000), bytes(3000))
    assert len(log.segments()) == 1
    broker.alter_topic("orders", {"segment.bytes": 4096})
    put(broker, bytes(3000))
    put(broker, bytes(3000))
    assert len(log.segments()) == 3
    broker.alter_topic("orders", {"message.timestamp.type": "LogAppendTime"})
    with broker.producer() as producer:
        assert producer.send("orders", b"x", timestamp=5).result().timestamp > 5


# -- more partitions -----------------------------------------------------------------


def test_more_partitions(broker: Broker, folder: str) -> None:
    put(broker, b"old")
    first = broker.topic("orders").partitions[0]
    info = broker.add_partitions("orders", 3)
    assert info.partitions[0] == first
    assert [each.number for each in info.partitions] == [0, 1, 2]
    assert broker.add_partitions("orders", 3) == info
    for total in (2, 0, -1, MOST_PARTITIONS + 1):
        with pytest.raises(InvalidPartitions) as caught:
            broker.add_partitions("orders", total)
        assert (caught.value.topic, caught.value.partitions) == ("orders", 3)
        assert (caught.value.wanted, caught.value.most) == (total, MOST_PARTITIONS)
    with pytest.raises(UnknownTopic):
        broker.add_partitions("nobody", 3)
    put(broker, b"new", partition=2)
    broker.close()
    with Broker.open(folder) as again:
        assert again.topic("orders") == info
        assert sorted(values(read_all(again)), key=str) == [b"new", b"old"]
        again.delete_topic("orders")
        assert os.listdir(Path(folder, "logs")) == []


def test_a_running_producer_uses_new_partitions(broker: Broker) -> None:
    with broker.producer(linger_ms=0) as producer:
        producer.send("orders", b"x").result()
        with pytest.raises(UnknownPartition):
            producer.send("orders", b"x", partition=1)
        broker.add_partitions("orders", 4)
        assert producer.send("orders", b"x", partition=3).result().partition == 3
        seen: set[int] = set()

        def are_all_used() -> bool:
            seen.add(producer.send("orders", b"x").result().partition)
            seen.add(producer.send("orders", b"x", key=b"%d" % len(seen)).result().partition)
            return seen == {0, 1, 2, 3}

        eventually(are_all_used)


def test_what_waits_keeps_its_place_when_a_topic_grows(broker: Broker) -> None:
    with broker.producer(linger_ms=60_000) as producer:
        sent = [producer.send("orders", b"%d" % each, partition=0) for each in range(5)]
        broker.add_partitions("orders", 2)
        producer.send("orders", b"other", partition=1).result()
        sent += [producer.send("orders", b"%d" % each, partition=0) for each in range(5, 9)]
        producer.flush()
        assert [each.result().offset for each in sent] == list(range(9))


def test_a_death_at_any_step_of_growing(folder: str) -> None:
    """The old number of partitions or the new one, each with its folder and its row."""
    with Broker.open(folder) as broker:
        broker.create_topic("orders", 2)
        put(broker, b"kept", partition=1)

    def check(dies_at: int, survived: bool) -> None:
        with Broker.open(folder) as broker:
            count = len(broker.topic("orders").partitions)
            assert count in ((4,) if survived else (2, 4))
            assert broker.engine.catalog.unfinished() == []
            assert len(os.listdir(Path(folder) / "logs")) == count
            assert broker.engine.state.partition_ids() == set()
            for number in range(count):
                assert broker.ends("orders", number).log_start == 0
            assert values(read_all(broker)) == [b"kept"]
            assert len(broker.add_partitions("orders", 4).partitions) == 4
            put(broker, b"x", partition=3)
            assert sorted(values(read_all(broker)), key=str) == [b"kept", b"x"]
            assert list(broker.verify()) == []
            assert os.listdir(Path(folder) / "quarantine") == []
            broker.delete_topic("orders")
            broker.create_topic("orders", 2)
            put(broker, b"kept", partition=1)

    work = dies_at_every_call(
        folder, lambda broker: void(broker.add_partitions("orders", 4)), check
    )
    assert work > 8


def void(_: object) -> None:
    """Nothing."""


@pytest.mark.parametrize("kind", ["mkdir", "open", "pwrite", "sync", "sync_directory"])
def test_growing_fails_without_a_trace(folder: str, kind: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        put(broker, b"kept")
        files.fail(kind, where="-orders-" if kind != "pwrite" else "ends", error=28)
        with pytest.raises(StorageFull):
            broker.add_partitions("orders", 3)
        files.heal()
        assert len(broker.topic("orders").partitions) == 1
        assert len(os.listdir(Path(folder) / "logs")) == 1
        assert broker.engine.catalog.unfinished() == []
        assert len(broker.add_partitions("orders", 3).partitions) == 3
        put(broker, b"x", partition=2)
        assert sorted(values(read_all(broker)), key=str) == [b"kept", b"x"]


def test_an_error_after_the_fact_takes_nothing_back(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Catalog.finish_grow

    def late(catalog: Catalog, topic_id: int) -> None:
        real(catalog, topic_id)
        raise KeyboardInterrupt

    monkeypatch.setattr(Catalog, "finish_grow", late)
    with pytest.raises(KeyboardInterrupt):
        broker.add_partitions("orders", 3)
    monkeypatch.undo()
    assert len(broker.topic("orders").partitions) == 3
    put(broker, b"x", partition=2)
    assert values(read_all(broker)) == [b"x"]


def test_what_a_dead_process_added_by_halves_is_taken_back(broker: Broker) -> None:
    broker.engine.catalog.begin_grow("orders", 3)
    assert len(broker.topic("orders").partitions) == 1
    [left] = broker.engine.catalog.unfinished()
    assert (left.state, [each.number for each in left.partitions]) == ("growing", [1, 2])
    broker.create_topic("other")  # whoever takes the lock next clears up
    assert broker.engine.catalog.unfinished() == []
    ids = [each.id for each in broker.add_partitions("orders", 3).partitions]
    assert not {each.id for each in left.partitions} & set(ids)


def test_deleting_a_topic_that_somebody_left_growing(broker: Broker, folder: str) -> None:
    broker.engine.catalog.begin_grow("orders", 3)
    broker.delete_topic("orders")
    assert broker.topics() == []
    assert os.listdir(Path(folder) / "logs") == []
    with pytest.raises(BrokerError):
        broker.add_partitions("orders", 3)
