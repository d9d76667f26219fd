"""The whole broker against plain dicts: whatever is done in whatever order.

What was acknowledged is there, in order, and nothing else; groups go on behind what they
acknowledged; topics made again inherit nothing; and all of it survives closing, a process
that dies, and the loss of what can be built again.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from typing import Any

from brokers import crash
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from storage import Child, memory_folder

from seawall.broker import Broker, Consumer, Delivery, Producer

NAMES = st.sampled_from(["a", "b"])
GROUPS = st.sampled_from(["g", "h"])
PARTITIONS = 2

Row = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...], int]
ROWS = st.tuples(
    st.none() | st.binary(max_size=4),
    st.none() | st.binary(max_size=60),
    st.lists(
        st.tuples(st.text("xyz", max_size=3), st.none() | st.binary(max_size=5)), max_size=2
    ).map(tuple),
    st.integers(0, 10_000),
)


class BrokerMachine(RuleBasedStateMachine):
    """`logs` and `acknowledged` are what the broker must agree with."""

    deliveries = Bundle("deliveries")

    def __init__(self) -> None:
        super().__init__()
        self.folder = memory_folder()
        self.path = self.folder.__enter__()
        self.logs: dict[str, list[list[Row]]] = {}
        self.sent: list[tuple[str, int, Row, Delivery]] = []
        self.acknowledged: dict[str, dict[tuple[str, int], int]] = {}
        self.consumer: Consumer | None = None
        self.group = ""
        self.positions: dict[tuple[str, int], int] = {}
        self.compression = "none"

    @initialize()
    def open(self) -> None:
        self.broker = Broker.open(self.path)
        self.producer: Producer = self.broker.producer(linger_ms=60_000, batch_bytes=300)

    # -- topics ----------------------------------------------------------------------

    @rule(name=NAMES, segment_bytes=st.sampled_from([4096, 1 << 20]))
    def create(self, name: str, segment_bytes: int) -> None:
        # What is acknowledged stays; trimming has a model of its own.
        config = {"segment.bytes": segment_bytes, "cleanup.policy": "delete", "retention.ms": -1}
        self.broker.create_topic(name, PARTITIONS, config, if_not_exists=True)
        self.logs.setdefault(name, [[] for _ in range(PARTITIONS)])

    @precondition(lambda self: self.logs)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.logs)))
        self.settle()
        self.leave()
        self.broker.delete_topic(name)
        del self.logs[name]
        for places in self.acknowledged.values():
            for partition in range(PARTITIONS):
                places.pop((name, partition), None)

    # -- producing -------------------------------------------------------------------

    @precondition(lambda self: self.logs)
    @rule(data=st.data(), rows=st.lists(ROWS, min_size=1, max_size=8))
    def send(self, data: st.DataObject, rows: list[Row]) -> None:
        name = data.draw(st.sampled_from(sorted(self.logs)))
        partition = data.draw(st.integers(0, PARTITIONS - 1))
        for row in rows:
            key, value, headers, timestamp = row
            delivery = self.producer.send(
                name, value, key=key, headers=headers, partition=partition, timestamp=timestamp
            )
            self.sent.append((name, partition, row, delivery))

    @rule(
        compression=st.sampled_from(["none", "gzip", "snappy", "lz4", "zstd"]),
        idempotent=st.booleans(),
    )
    def change_the_producer(self, compression: str, idempotent: bool) -> None:
        self.settle()
        self.producer.close()
        self.producer = self.broker.producer(
            linger_ms=60_000, batch_bytes=300, compression=compression, idempotent=idempotent
        )

    @rule()
    def settle(self) -> None:
        """Flush; now the outcomes are known."""
        self.producer.flush()
        for name, partition, row, delivery in self.sent:
            metadata = delivery.result(timeout=0)
            assert metadata.offset == len(self.logs[name][partition])
            assert (metadata.partition, metadata.timestamp) == (partition, row[3])
            self.logs[name][partition].append(row)
        self.sent = []

    # -- consuming -------------------------------------------------------------------

    @precondition(lambda self: self.logs and self.consumer is None)
    @rule(group=GROUPS)
    def join(self, group: str) -> None:
        self.settle()
        self.consumer = self.broker.consumer(sorted(self.logs), group=group)
        self.group = group
        places = self.acknowledged.setdefault(group, {})
        for place in self.consumer.assignment():
            places.setdefault(place, 0)
            self.positions[place] = places[place]
            assert self.consumer.position(*place) == places[place]
            assert self.consumer.committed(*place) == places[place]

    @precondition(lambda self: self.consumer is not None)
    @rule(count=st.integers(1, 10))
    def poll(self, count: int) -> None:
        assert self.consumer is not None
        self.settle()
        records = self.consumer.poll(count)
        assert len(records) <= count
        for record in records:
            place = record.topic, record.partition
            row = self.logs[record.topic][record.partition][record.offset]
            assert record.offset == self.positions[place]
            assert (record.key, record.value, tuple(record.headers), record.timestamp) == row
            self.positions[place] += 1
        if not records:
            for (name, partition), position in self.positions.items():
                assert position == len(self.logs[name][partition])

    @precondition(lambda self: self.consumer is not None)
    @rule()
    def ack(self) -> None:
        assert self.consumer is not None
        self.consumer.ack()
        places = self.acknowledged[self.group]
        for place, position in self.positions.items():
            places[place] = max(places[place], position)
            assert self.consumer.committed(*place) == places[place]

    @precondition(lambda self: self.consumer is not None)
    @rule(data=st.data())
    def seek(self, data: st.DataObject) -> None:
        assert self.consumer is not None
        self.settle()
        place = data.draw(st.sampled_from(self.consumer.assignment()))
        offset = data.draw(st.integers(0, len(self.logs[place[0]][place[1]])))
        self.consumer.seek(*place, offset)
        self.positions[place] = offset

    @rule()
    def leave(self) -> None:
        if self.consumer is not None:
            self.consumer.close()
            self.consumer, self.positions = None, {}

    @precondition(lambda self: self.logs and self.consumer is None)
    @rule(data=st.data(), group=GROUPS)
    def reset(self, data: st.DataObject, group: str) -> None:
        self.settle()
        name = data.draw(st.sampled_from(sorted(self.logs)))
        partition = data.draw(st.integers(0, PARTITIONS - 1))
        offset = data.draw(st.integers(0, len(self.logs[name][partition])))
        self.broker.reset_group(group, name, {partition: offset})
        self.acknowledged.setdefault(group, {})[name, partition] = offset

    @precondition(lambda self: self.acknowledged and self.consumer is None)
    @rule(data=st.data())
    def delete_group(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(sorted(self.acknowledged)))
        self.broker.delete_group(group)
        del self.acknowledged[group]

    # -- ends of processes -----------------------------------------------------------

    @rule(loses=st.sampled_from(["", "index.lmdb", "run", "both"]))
    def close_and_open(self, loses: str) -> None:
        self.settle()
        self.leave()
        self.broker.close()
        for name in ("index.lmdb", "run"):
            if loses in (name, "both"):
                shutil.rmtree(os.path.join(self.path, name))
        self.open()

    @rule(loses_index=st.booleans())
    def abandon_and_open(self, loses_index: bool) -> None:
        """What was not flushed is gone; nothing else is."""
        self.leave()
        crash(self.broker)
        if loses_index:
            shutil.rmtree(os.path.join(self.path, "index.lmdb"))
        self.open()
        # Full batches may have gone out, in order; what they hold is compared later.
        for name, partitions in self.logs.items():
            for number, rows in enumerate(partitions):
                sent = [row for topic, at, row, _ in self.sent if (topic, at) == (name, number)]
                stored = self.broker.ends(name, number).durable_end - len(rows)
                assert 0 <= stored <= len(sent)
                rows += sent[:stored]
        self.sent = []

    @precondition(lambda self: self.logs)
    @rule(data=st.data(), count=st.integers(1, 5), syncs=st.booleans())
    def another_process_dies(self, data: st.DataObject, count: int, syncs: bool) -> None:
        """It publishes and is killed; our own broker is closed, so it is alone."""
        self.settle()
        self.leave()
        self.broker.close()
        name = data.draw(st.sampled_from(sorted(self.logs)))

        def live(say: Callable[[str], None]) -> None:
            broker = Broker.open(self.path)
            with broker.producer(durability="fsync" if syncs else "os") as producer:
                for number in range(count):
                    producer.send(name, b"%d" % number, partition=0, timestamp=number).result()
            os.kill(os.getpid(), signal.SIGKILL)

        assert Child(live).wait() == []
        self.logs[name][0] += [(None, b"%d" % number, (), number) for number in range(count)]
        self.open()

    # -- always ----------------------------------------------------------------------

    @invariant()
    def the_broker_agrees(self) -> None:
        if self.sent or not hasattr(self, "broker"):
            return
        assert [topic.name for topic in self.broker.topics()] == sorted(self.logs)
        assert self.broker.groups() == sorted(self.acknowledged)
        for name, partitions in self.logs.items():
            for number, rows in enumerate(partitions):
                assert self.broker.ends(name, number) == (0, len(rows), len(rows))
        for group, places in self.acknowledged.items():
            found: dict[Any, int] = {
                (each.topic, each.partition): each.committed
                for each in self.broker.group(group).offsets
            }
            assert found == places

    def teardown(self) -> None:
        try:
            if hasattr(self, "broker"):
                self.settle()
                self.leave()
                for name, partitions in self.logs.items():
                    with self.broker.consumer(name) as consumer:
                        got: list[list[Row]] = [[] for _ in partitions]
                        while records := consumer.poll():
                            for record in records:
                                headers = tuple(record.headers)
                                row = record.key, record.value, headers, record.timestamp
                                got[record.partition].append(row)
                    assert got == partitions
                assert list(self.broker.verify()) == []
        finally:
            if hasattr(self, "broker"):
                self.broker.close()
            self.folder.__exit__(None, None, None)


TestBroker = BrokerMachine.TestCase
TestBroker.settings = settings(max_examples=12, stateful_step_count=30)
