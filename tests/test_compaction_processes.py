"""Keys are compacted while other processes read, write, trim and compact."""

from __future__ import annotations

from brokers import read_all
from storage import Say, child

from seawall.broker import Broker

CONFIG = {
    "segment.bytes": 4096,
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": 0,
    "index.interval.bytes": 512,
}
RECORDS = 600


def value_of(number: int) -> bytes:
    return b"%d" % number * 30


def send(broker: Broker, first: int, end: int) -> None:
    with broker.producer(linger_ms=0) as producer:
        for number in range(first, end):
            producer.send("orders", value_of(number), key=b"k%d" % (number % 13)).result()


def test_readers_writers_and_two_that_compact(folder: str) -> None:
    """Each reader gets whole records in order, and no value that was last is ever missing."""
    with Broker.open(folder) as broker:
        broker.create_topic("orders", config=CONFIG)

        def read(say: Say) -> None:
            with Broker.open(folder) as other, other.consumer("orders", fetch_bytes=1) as consumer:
                say("ready")
                last, seen = -1, {}
                while last < RECORDS - 1:
                    for record in consumer.poll(3, timeout_ms=1000):
                        assert record.offset > last
                        assert record.value == value_of(record.offset)
                        last = record.offset
                        seen[record.key] = record.offset
                # The last value of each key, of all that there is now.
                assert sorted(seen.values()) == list(range(RECORDS - 13, RECORDS)), seen
                found = {}
                for record in read_all(other):
                    assert other.offset_for_time("orders", 0, record.timestamp) is not None
                    found[record.key] = record.offset
                assert found == seen
                say("done")

        def compact(say: Say) -> None:
            with Broker.open(folder) as other:
                say("ready")
                while other.ends("orders", 0).durable_end < RECORDS:
                    other.compact()
                    say("compacted")

        with child(read) as first, child(read) as second, child(compact) as third:
            assert {each.line() for each in (first, second, third)} == {"ready"}
            for at in range(0, RECORDS, 20):
                send(broker, at, at + 20)
                if at == RECORDS // 2:
                    assert third.line() == "compacted"
                broker.compact()
                assert list(broker.verify()) == []
            assert first.line() == second.line() == "done"
            assert set(third.wait()) <= {"compacted"}
        broker.compact()
        assert len(read_all(broker)) < 120


def test_records_are_deleted_meanwhile(folder: str) -> None:
    """By names that were just given to something else: nothing above the log start may go."""
    with Broker.open(folder) as broker:
        broker.create_topic("orders", config=CONFIG)

        def compact(say: Say) -> None:
            with Broker.open(folder) as other:
                say("ready")
                while other.ends("orders", 0).durable_end < RECORDS:
                    other.compact()
                say("done")

        with child(compact) as process:
            assert process.line() == "ready"
            last = {}
            for at in range(0, RECORDS, 10):
                send(broker, at, at + 10)
                last |= {number % 13: number for number in range(at, at + 10)}
                start = broker.delete_records("orders", {0: at // 2})[0]
                found = {record.key: record.offset for record in read_all(broker)}
                wanted = {b"k%d" % k: offset for k, offset in last.items() if offset >= start}
                assert found == wanted
            assert process.line() == "done"
        broker.compact()
        assert list(broker.verify()) == []
