"""Batches as bytes, without a server: what the wire's handlers lean on."""

from __future__ import annotations

import os
import threading

import pytest
from brokers import put, read_all, values
from wire import batch, batches_in

from seawall.broker import Broker
from seawall.broker.errors import BrokerError, CorruptBatch, UnknownTopic
from seawall.broker.raw import (
    RawPlace,
    RawReaders,
    Stored,
    append_batches,
    durable_ends,
    newest_record,
)
from seawall.wal.errors import OffsetOutOfRange


def place_of(broker: Broker, topic: str = "orders", partition: int = 0) -> RawPlace:
    info = broker.topic(topic)
    return RawPlace(
        topic=info,
        config=info.settings,
        partition=partition,
        partition_id=info.partitions[partition].id,
    )


def append(broker: Broker, *batches: bytes) -> list[object]:
    return list(append_batches(broker.engine, place_of(broker), batches, now_ms=5))


def test_each_batch_has_its_own_outcome(broker: Broker) -> None:
    first, bad, second = append(broker, batch(b"a", b"b"), b"bad", batch(b"c"))
    assert first == Stored(0, -1, 0, 3)
    assert isinstance(bad, CorruptBatch)
    assert second == Stored(2, -1, 0, 3)
    assert values(read_all(broker)) == [b"a", b"b", b"c"]


def test_nothing_but_bad_batches_writes_nothing(broker: Broker) -> None:
    assert all(isinstance(each, BrokerError) for each in append(broker, b"bad", b""))
    assert broker.ends("orders", 0).log_end == 0


def test_a_partition_that_is_gone(broker: Broker) -> None:
    place = place_of(broker)
    broker.delete_topic("orders")
    [outcome] = append_batches(broker.engine, place, [batch(b"a")], now_ms=5)
    assert isinstance(outcome, UnknownTopic)
    assert outcome.topic == "orders"


def test_threads_share_a_log(broker: Broker) -> None:
    threads = [
        threading.Thread(target=lambda: [append(broker, batch(b"x")) for _ in range(20)])
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.offset for each in read_all(broker)] == list(range(100))


def open_logs(broker: Broker) -> int:
    """Descriptors of this process on segment files of the broker."""
    found = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
    paths = [os.readlink(each) for each in found if os.path.islink(each)]
    return sum(path.startswith(broker.path) and ".log" in path for path in paths)


def test_a_reader_goes_on_where_it_was_and_expires(broker: Broker) -> None:
    append(broker, *(batch(b"%d" % number) for number in range(10)))
    readers, place = RawReaders(broker.engine, most=2), place_of(broker)
    before = open_logs(broker)
    offset = 0
    while data := readers.read(place.partition_id, offset, 150, at_least_one=True).data:
        offset += len(list(batches_in(data)))
        assert open_logs(broker) == before + 1, "the same one reads on"
    assert offset == 10
    for other in range(5):
        readers.read(place.partition_id, other, 1, at_least_one=True)
    assert open_logs(broker) == before + 2, "no more than asked for"
    readers.expire(1000)
    assert open_logs(broker) == before + 2
    readers.expire(0)
    assert open_logs(broker) == before


def test_what_is_read_ends_at_the_limits(broker: Broker) -> None:
    append(broker, batch(b"x" * 500), batch(b"y" * 500))
    readers, place = RawReaders(broker.engine), place_of(broker)

    def size(offset: int, most: int, at_least_one: bool) -> int:
        chunk = readers.read(place.partition_id, offset, most, at_least_one=at_least_one)
        assert (chunk.log_start, chunk.durable_end) == (0, 2)
        return len(chunk.data)

    one = len(batch(b"x" * 500))
    assert [size(0, most, True) for most in (0, 1, one, 2 * one)] == [one, one, one, 2 * one]
    assert [size(0, most, False) for most in (0, 1, one, 2 * one)] == [0, 0, one, 2 * one]
    assert size(2, 1000, True) == 0
    for offset in (-1, 3):
        for most in (0, 1000):
            with pytest.raises(OffsetOutOfRange):
                readers.read(place.partition_id, offset, most, at_least_one=False)
    readers.close()


def test_durable_ends(broker: Broker) -> None:
    put(broker, b"a", b"b")
    place = place_of(broker)
    assert durable_ends(broker.engine, [place.partition_id, 77]) == {
        place.partition_id: 2,
        77: None,
    }


def test_the_newest_record(broker: Broker) -> None:
    log = broker.engine.log(place_of(broker).partition_id)
    assert newest_record(log) is None
    append(broker, batch(b"a", timestamp=-1))
    assert newest_record(log) is None
    append(broker, batch(b"b", timestamp=9), batch(b"c", timestamp=7))
    assert newest_record(log) == (1, 9)
    log.roll()
    append(broker, batch(b"d", timestamp=8), batch(b"e", timestamp=9))
    assert newest_record(log) == (1, 9), "the first of those"
    broker.delete_records("orders", {0: 2})
    assert newest_record(log) == (4, 9)
