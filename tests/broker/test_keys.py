"""Topics that keep the last value of each key: by order, in the background, and on a bad day."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import broker_on, drain, put, read_all
from deaths import dies_at_every_call
from storage import FaultyFiles

from seawall.broker import Broker, Hold, Record, Removal
from seawall.broker.cleaning import clean
from seawall.broker.errors import BrokerError, InvalidRecord
from seawall.wal.compaction import Rules
from seawall.wal.errors import LogGone, StorageFull
from seawall.wal.log import Log

CONFIG = {
    "segment.bytes": 4096,
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": 0,
    "delete.retention.ms": 0,
}


def fill(broker: Broker, turns: int = 12, topic: str = "orders", keys: int = 9) -> None:
    """The same keys again and again; the last record is in a new active segment."""
    with broker.producer(linger_ms=0) as producer:
        for turn in range(turns):
            for key in range(keys):
                producer.send(topic, b"%d" % turn * 60, key=b"k%d" % key, partition=0).result()
        log = broker.engine.log(broker.topic(topic).partitions[0].id)
        log.roll()
        producer.send(topic, b"last", key=b"active", partition=0).result()


def files(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder, "logs").rglob("*.log"))


def last_values(records: list[Record]) -> dict[bytes | None, tuple[int, bytes | None]]:
    return {each.key: (each.offset, each.value) for each in records}


@pytest.fixture
def broker(folder: str) -> Iterator[Broker]:
    with Broker.open(folder) as opened:
        opened.create_topic("orders", config=CONFIG)
        yield opened


def test_what_is_told_is_what_is_done(broker: Broker, folder: str) -> None:
    fill(broker)
    before, names = read_all(broker), files(folder)
    sizes = broker.info().log_bytes
    [told] = broker.compact(dry_run=True)
    assert (read_all(broker), files(folder)) == (before, names)
    assert broker.compact("orders") == [told]
    [removal] = told.removed
    assert (removal.rule, removal.records) == ("compact", 11 * 9)
    assert removal.segments == len(names) - len(files(folder)) > 0
    assert removal.bytes == sizes - broker.info().log_bytes == sizes - told.kept_bytes
    assert told.kept_segments == len(files(folder)) == 2
    assert told.held_by == (Hold(rule="compact"), Hold(rule="active segment"))
    assert [each.offset for each in read_all(broker)] == list(range(99, 109))
    assert last_values(read_all(broker)) == last_values(before)
    assert broker.ends("orders", 0).log_start == 0
    assert list(broker.verify()) == []
    assert broker.compact()[0].removed == ()


def test_tombstones_go_by_delete_retention_ms(broker: Broker) -> None:
    with broker.producer(linger_ms=0) as producer:
        producer.send("orders", b"v", key=b"k").result()
        producer.send("orders", None, key=b"k").result()
    fill(broker, 1)
    assert broker.compact()[0].removed[0].records == 1
    assert read_all(broker)[0].value is None
    [found] = broker.compact(dry_run=True)
    assert [(each.rule, each.records) for each in found.removed] == [("delete.retention.ms", 1)]
    assert broker.compact() == [found]
    assert read_all(broker)[0].key == b"k0"


def test_what_holds_it_up_is_named(broker: Broker) -> None:
    def held() -> list[str]:
        return [each.rule for each in broker.compact()[0].held_by]

    assert held() == []
    put_keyed(broker, b"1")
    assert held() == ["active segment"]
    broker.alter_topic("orders", {"min.compaction.lag.ms": 10**9})
    fill(broker)
    assert held() == ["active segment", "min.compaction.lag.ms"]
    broker.alter_topic("orders", {"min.compaction.lag.ms": 0, "min.cleanable.dirty.ratio": 1})
    assert held() == ["active segment", "min.cleanable.dirty.ratio"]
    broker.alter_topic("orders", {"min.cleanable.dirty.ratio": 0.9})
    assert held() == ["compact", "active segment"]
    fill(broker, 2)
    assert held() == ["compact", "active segment", "min.cleanable.dirty.ratio"]


def put_keyed(broker: Broker, *values: bytes | None, key: bytes = b"k") -> None:
    with broker.producer(linger_ms=0) as producer:
        for value in values:
            producer.send("orders", value, key=key, partition=0).result()


def test_a_record_without_a_key_is_refused_before_anything_is_written(broker: Broker) -> None:
    with broker.producer(linger_ms=0) as producer:
        with pytest.raises(InvalidRecord) as caught:
            producer.send("orders", b"v")
        assert (caught.value.topic, caught.value.partition) == ("orders", None)
        assert "send a key" in str(caught.value)
        assert producer.send("orders", b"v", key=b"").result().offset == 0
        # As the topic is now, and not as it was when the producer first looked.
        broker.alter_topic("orders", {"cleanup.policy": "delete"})
        assert producer.send("orders", b"v").result().offset == 1
        broker.alter_topic("orders", {"cleanup.policy": "compact,delete"})
    with broker.producer() as producer, pytest.raises(InvalidRecord):
        producer.send("orders", b"v", partition=0)
    assert len(read_all(broker)) == 2


def test_altered_to_it_and_back(broker: Broker) -> None:
    broker.alter_topic("orders", {"cleanup.policy": None})
    fill(broker)
    put(broker, b"no key")
    fill(broker, 1)
    count = len(read_all(broker))
    assert broker.compact()[0].removed == ()
    broker.alter_topic("orders", {"cleanup.policy": "compact"})
    assert broker.compact()[0].removed[0].records > 100
    assert b"no key" in [each.value for each in read_all(broker)]
    kept = read_all(broker)
    assert len(kept) < count
    broker.alter_topic("orders", {"cleanup.policy": "acknowledged"})
    assert broker.compact()[0].held_by == (Hold(rule="no group"),)
    assert read_all(broker) == kept
    with broker.consumer("orders", group="g") as consumer:
        consumer.ack(drain(consumer))
    assert broker.compact()[0].removed[0].rule == "acknowledged"


def test_both_policies(broker: Broker) -> None:
    """Retention goes first, and what it removes is not counted twice."""
    fill(broker)
    config: dict[str, Any] = {"cleanup.policy": "compact,delete", "retention.ms": -1}
    size = broker.info().log_bytes
    broker.alter_topic("orders", {**config, "retention.bytes": size - 4500})
    [told] = broker.compact(dry_run=True)
    rules = [(each.rule, each.records > 0) for each in told.removed]
    assert rules == [("retention.bytes", False), ("compact", True)]
    assert broker.compact() == [told]
    assert broker.ends("orders", 0).log_start == told.log_start > 0
    assert told.held_by[0] == Hold(rule="retention.bytes")
    assert sum(each.bytes for each in told.removed) == size - broker.info().log_bytes


def test_groups_go_on_where_they_were(broker: Broker) -> None:
    fill(broker)
    with broker.consumer("orders", group="g") as consumer:
        records = consumer.poll(20)
        consumer.ack(records)
        consumer.poll(5)  # in the middle of what is exchanged
        broker.compact()
        [place] = broker.group("g").offsets
        assert (place.committed, place.lag) == (20, 109 - 20)
        rest = drain(consumer)
        assert set(range(99, 109)) <= {each.offset for each in rest}
    with broker.consumer("orders", group="g") as consumer:
        assert [each.offset for each in drain(consumer)] == list(range(99, 109))
        consumer.ack(records[-1:])
        assert consumer.position("orders", 0) == 109


def test_deleted_records(broker: Broker) -> None:
    """What lies below the log start is not looked at, and does not come back."""
    fill(broker)
    wanted = last_values(read_all(broker))
    broker.compact()
    assert broker.delete_records("orders", {0: 100}) == {0: 100}
    assert last_values(read_all(broker)) == {k: v for k, v in wanted.items() if v[0] >= 100}
    fill(broker, 2)
    broker.compact()
    assert broker.ends("orders", 0).log_start == 100
    assert {each.offset for each in read_all(broker)} >= {108, *range(118, 127)}
    assert list(broker.verify()) == []


def test_in_the_background(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    fill(broker)
    caplog.set_level(logging.INFO)
    wait = lambda seconds: False  # noqa: E731
    clean(broker.engine, wait, is_timed=False)
    assert len(read_all(broker)) == 109
    clean(broker.engine, wait, is_timed=True)
    assert len(read_all(broker)) == 10
    assert "orders/0: removed 99 superseded records and 0 tombstones" in caplog.text
    path = next(Path(broker.path, "logs").rglob("*.log"))
    data = path.read_bytes()
    fill(broker)
    path.write_bytes(data[:90] + bytes([data[90] ^ 1]) + data[91:])
    clean(broker.engine, wait, is_timed=True)
    assert "orders/0: not compacted, because it is damaged" in caplog.text
    assert broker.compact()[0].held_by[0] == Hold(rule="damage")
    path.write_bytes(data)


def test_one_partitions_trouble_is_not_the_others(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for topic in ("a", "z"):
        broker.create_topic(topic, config=CONFIG)
        fill(broker, topic=topic)
    real, done = Log.compact, []

    def compact(log: Log, rules: Rules, *arguments: Any, **more: Any) -> Any:
        folder = log.context.folder
        done.append(folder)
        if folder.endswith("-a-0"):
            raise StorageFull(path=folder, reason="no room")
        if folder.endswith("-orders-0"):
            raise LogGone(path=folder)
        assert rules.dedupe_buffer_bytes == 128 << 20
        return real(log, rules, *arguments, **more)

    monkeypatch.setattr(Log, "compact", compact)
    clean(broker.engine, lambda seconds: False, is_timed=True)
    assert len(done) == 3
    assert "a/0: not compacted" in caplog.text
    assert len(read_all(broker, "z")) == 10


def test_a_topic_that_is_deleted_meanwhile(
    broker: Broker, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the compaction is: the topic goes, and nothing of it comes back."""
    real_compact, is_compacting = Log.compact, []

    def compact(log: Log, *arguments: Any, **more: Any) -> Any:
        is_compacting.append(True)
        return real_compact(log, *arguments, **more)

    for kind in ("open", "pwrite", "sync", "rename", "sync_directory"):
        fill(broker, 4)
        real, deleted = getattr(broker.engine.files, kind), []

        def call(*arguments: Any, real: Any = real, deleted: Any = deleted) -> Any:
            if is_compacting and not deleted:
                deleted.append(True)
                is_compacting.clear()
                broker.delete_topic("orders")
            return real(*arguments)

        monkeypatch.setattr(Log, "compact", compact)
        monkeypatch.setattr(broker.engine.files, kind, call, raising=False)
        with contextlib.suppress(BrokerError):
            assert broker.compact("orders") == []
        monkeypatch.undo()
        assert deleted
        assert broker.topics() == []
        assert os.listdir(Path(folder, "logs")) == []
        broker.create_topic("orders", config=CONFIG)


# -- on a bad day ----------------------------------------------------------------------


def prepare(folder: str) -> None:
    with Broker.open(folder) as broker:
        if not broker.topics():
            broker.create_topic("orders", config=CONFIG)
        fill(broker, 6)


def test_a_death_at_any_step(folder: str) -> None:
    prepare(folder)
    wanted: dict[bytes | None, tuple[int, bytes | None]] = {}
    with Broker.open(folder) as broker:
        wanted |= last_values(read_all(broker))

    def check(dies_at: int, survived: bool) -> None:
        with Broker.open(folder) as broker:
            found = read_all(broker)
            assert last_values(found) == wanted
            assert list(broker.verify()) == []
            end = broker.ends("orders", 0)
            assert end.durable_end == end.log_end
            broker.compact()
            assert last_values(read_all(broker)) == wanted
            assert list(Path(folder, "logs").rglob("*.rewrite")) == []
            assert os.listdir(Path(folder) / "quarantine") == []
        prepare(folder)
        with Broker.open(folder) as broker:
            wanted.clear()
            wanted.update(last_values(read_all(broker)))

    assert dies_at_every_call(folder, lambda broker: void(broker.compact()), check) > 8


def void(_: object) -> None:
    """Nothing."""


def test_a_full_disk(folder: str) -> None:
    """It is named; and once there is room, the same broker comes through."""
    faulty = FaultyFiles()
    broker = broker_on(faulty, folder)
    broker.engine.compactor.start = lambda: None  # type: ignore[method-assign]
    try:
        broker.create_topic("orders", config=CONFIG)
        fill(broker)
        wanted = last_values(read_all(broker))
        faulty.fail("pwrite", where=".rewrite", error=28, times=99)
        with pytest.raises(BrokerError) as caught:
            broker.compact()
        assert type(caught.value).__name__ == "StorageFull"
        faulty.heal()
        assert last_values(read_all(broker)) == wanted
        assert broker.compact()[0].removed[0].records == 99
        assert last_values(read_all(broker)) == wanted
    finally:
        broker.close()


def test_the_report_of_a_topic_at_rest(broker: Broker) -> None:
    """What retention has emptied is held by nobody."""
    fill(broker, 1)
    broker.alter_topic("orders", {"cleanup.policy": "compact,delete", "retention.bytes": 0})
    [told] = broker.compact()
    assert (told.kept_segments, told.held_by) == (0, ())
    assert told.removed == (
        Removal(rule="retention.bytes", segments=2, bytes=told.removed[0].bytes),
    )
