"""Answers that are cut in the middle: each kind of question is asked again, and has been done once.

Whatever a server did for a request whose answer got lost, it is as if it had been told.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import pytest
from clients.endpoints import free_port
from outages import PATIENCE_S, QUICK, location, read, thread_serving, until

from seawall.broker import AnyBroker, Record, connect
from seawall.broker.torture.proxy import CHUNK_BYTES, Proxy

PRODUCE, FETCH, OFFSETS, METADATA, COMMIT, COMMITTED, COORDINATOR = 0, 1, 2, 3, 8, 9, 10
JOIN, HEARTBEAT, SYNC, DESCRIBE_GROUPS, API_VERSIONS, CREATE, DELETE = 11, 12, 14, 15, 18, 19, 20
PRODUCER_ID, CONFIGS, ALTER, PARTITIONS = 22, 32, 44, 37
LIST_GROUPS, DELETE_RECORDS, DELETE_GROUPS = 16, 21, 42
ALL = (PRODUCE, FETCH, OFFSETS, METADATA, COMMIT, COMMITTED, COORDINATOR, JOIN, HEARTBEAT, SYNC)
ALL += (API_VERSIONS, CREATE, DELETE, PRODUCER_ID, CONFIGS, ALTER, PARTITIONS)
ALL += (DESCRIBE_GROUPS, LIST_GROUPS, DELETE_RECORDS, DELETE_GROUPS)


class ApiCutter(Proxy):
    """Cuts a connection in the middle of the next answer to each kind of request in `wanted`."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.wanted: set[int] = set()
        self.cut_keys: list[int] = []
        # So many answers that are wanted get through before; and whether it goes on cutting.
        self.spared = 0
        self.goes_on = False
        # By connection: which API a correlation id belongs to.
        self._asked: dict[asyncio.Event, dict[int, int]] = {}

    def expect(self, wanted: Iterable[int], *, spared: int = 0, goes_on: bool = False) -> None:
        """Cut answers to these from now on, and no others."""

        def begin() -> None:  # in the proxy's thread: not in the middle of an answer
            self.wanted, self.cut_keys = set(wanted), []
            self.spared, self.goes_on = spared, goes_on

        self._do(begin)

    async def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        flowing: asyncio.Event,
        *,
        are_answers: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        asked = self._asked.setdefault(flowing, {})
        data = b""
        try:
            while chunk := await loop.sock_recv(source, CHUNK_BYTES):
                data += chunk
                while len(data) >= 4 and len(data) >= 4 + (size := int.from_bytes(data[:4])):
                    frame, data = data[: 4 + size], data[4 + size :]
                    if not are_answers:
                        key, _, number = struct.unpack_from(">hhi", frame, 4)
                        asked[number] = key
                    elif (key := asked.pop(int.from_bytes(frame[4:8]), -1)) in self.wanted:
                        if self.spared:
                            self.spared -= 1
                            await loop.sock_sendall(sink, frame)
                            continue
                        if not self.goes_on:
                            self.wanted.discard(key)
                        self.cut_keys.append(key)
                        await loop.sock_sendall(sink, frame[: len(frame) // 2])
                        return
                    await loop.sock_sendall(sink, frame)
        except OSError:
            pass
        finally:
            self._asked.pop(flowing, None)


def served_by(folder: str, port: int, proxy: Proxy) -> AbstractContextManager[object]:
    """A server at `port`, which clients find behind the proxy."""
    return thread_serving(folder, listen=f"127.0.0.1:{port}", advertise=f"127.0.0.1:{proxy.port}")


def test_the_answer_to_each_kind_of_question_is_cut(folder: str) -> None:
    port = free_port()
    with (
        ApiCutter(port) as proxy,
        served_by(folder, port, proxy),
        connect(location(proxy.port), **QUICK) as broker,
    ):
        proxy.expect(ALL)
        seen: list[tuple[int, bytes | None]] = []
        acknowledged = 0
        assert broker.create_topic("orders").name == "orders"
        with (
            broker.producer() as producer,
            broker.consumer("orders", group="billing", heartbeat_interval_ms=100) as consumer,
        ):
            deliveries = [producer.send("orders", b"%d" % n) for n in range(20)]
            assert [each.result(PATIENCE_S).offset for each in deliveries] == list(range(20))
            while acknowledged < 20:
                for record in read(consumer, 1):
                    assert record.offset >= acknowledged, "it was acknowledged"
                    seen.append((record.offset, record.value))
                    if record.offset % 5 == 4:
                        consumer.ack(record)
                        acknowledged = record.offset + 1
            until(lambda: HEARTBEAT not in proxy.wanted or consumer.poll(timeout_ms=50))
            assert consumer.committed("orders", 0) == 20
        assert set(seen) == {(n, b"%d" % n) for n in range(20)}
        broker.alter_topic("orders", {"retention.ms": -1})
        assert broker.topic("orders").config["retention.ms"] == "-1"
        broker.create_topic("passing")
        assert len(broker.add_partitions("passing", 3).partitions) == 3
        assert [each.name for each in broker.topics()] == ["orders", "passing"]
        broker.delete_topic("passing")
        assert [each.name for each in broker.topics()] == ["orders"]
        broker.reset_group("other", "orders", {0: 7})
        assert broker.groups() == ["billing", "other"]
        assert broker.group("other").offsets[0].lag == 13
        broker.delete_group("other")
        assert broker.groups() == ["billing"]
        assert broker.delete_records("orders", {0: 5}) == {0: 5}
        ends = broker.ends("orders", 0)
        assert (ends.log_start, ends.durable_end) == (5, 20)
        assert broker.group("billing").offsets[0].committed == 20
        assert sorted(proxy.cut_keys) == sorted(ALL)


# What is asked, and the answer that is right.
QUESTIONS: list[tuple[int, Callable[[AnyBroker], object], object]] = [
    (OFFSETS, lambda broker: broker.ends("orders", 0).log_start, 2),
    (OFFSETS, lambda broker: broker.ends("orders", 0).durable_end, 5),
    (OFFSETS, lambda broker: broker.offset_for_time("orders", 0, 0), (2, 1_002)),
    (OFFSETS, lambda broker: broker.offset_for_time("orders", 0, 1 << 50), None),
    (METADATA, lambda broker: [each.name for each in broker.topics()], ["orders"]),
    (CONFIGS, lambda broker: broker.topics()[0].config["retention.ms"], "-1"),
    (CONFIGS, lambda broker: broker.topic("orders").config["retention.ms"], "-1"),
    (CONFIGS, lambda broker: broker.config()["log.retention.check.interval.ms"], "300000"),
    (LIST_GROUPS, lambda broker: broker.groups(), ["billing"]),
    (DESCRIBE_GROUPS, lambda broker: broker.group("billing").offsets[0].committed, 3),
    (COMMITTED, lambda broker: broker.group("billing").offsets[0].committed, 3),
    (OFFSETS, lambda broker: broker.group("billing").offsets[0].lag, 2),
    (COMMIT, lambda broker: broker.reset_group("billing", "orders", {0: 3}), None),
    (DELETE_RECORDS, lambda broker: broker.delete_records("orders", {0: 2}), {0: 2}),
]


def test_an_answer_that_did_not_come_is_not_taken_for_one(folder: str) -> None:
    """Nothing is empty, unknown or -1001 because a connection was cut: it is asked again."""
    port = free_port()
    with (
        ApiCutter(port) as proxy,
        served_by(folder, port, proxy),
        connect(location(proxy.port), **QUICK) as broker,
    ):
        broker.create_topic("orders", config={"retention.ms": -1})
        with broker.producer() as producer:
            for number in range(5):
                producer.send("orders", b"%d" % number, timestamp=1_000 + number)
        broker.reset_group("billing", "orders", {0: 3})
        broker.delete_records("orders", {0: 2})
        for key, ask, answer in QUESTIONS:
            for spared in (0, 1):  # some ask twice
                proxy.expect({key}, spared=spared)
                assert ask(broker) == answer
                assert proxy.cut_keys == [key] or spared


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
@pytest.mark.parametrize("key", [COMMITTED, COMMIT])
def test_a_member_that_is_not_told_where_the_group_is_asks_until_it_is(
    folder: str, strategy: str, key: int
) -> None:
    """It has its partitions, and neither skips their records nor fails."""
    port = free_port()
    with (
        ApiCutter(port) as proxy,
        served_by(folder, port, proxy),
        connect(location(proxy.port), **QUICK) as broker,
    ):
        broker.create_topic("orders")
        with broker.producer() as producer:
            for number in range(3):
                producer.send("orders", b"%d" % number)
        if key == COMMITTED:
            broker.reset_group("billing", "orders", {0: 1})
        with broker.consumer(
            "orders", group="billing", partition_assignment_strategy=strategy
        ) as consumer:
            if key == COMMIT:
                broker.delete_group("billing")  # so that it has to store where it begins
            proxy.expect({key}, goes_on=True)
            records: list[Record] = []
            # A commit is stored by the first attempt, though nobody is told.
            cuts = 5 if key == COMMITTED else 1
            until(
                lambda: records.extend(consumer.poll(timeout_ms=50)) or len(proxy.cut_keys) >= cuts
            )
            if key == COMMITTED:
                assert records == []
                assert consumer.is_rebalancing
            proxy.expect(())
            begin = 1 if key == COMMITTED else 0
            records += read(consumer, 3 - begin - len(records))
            assert [each.offset for each in records] == list(range(begin, 3))
            consumer.ack()
        assert broker.group("billing").offsets[0].committed == 3
