from __future__ import annotations

import asyncio
import math
import os
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import google_crc32c
import pytest
from brokers import broker_on, eventually, put, read_all, values
from storage import FaultyFiles, memory_folder
from wire import TIMEOUT_S, Wire, batch, batches_in

from seawall.broker import Broker
from seawall.broker.errors import OutOfOrderSequence
from seawall.broker.kafka import lanes
from seawall.broker.kafka.connection import Connection
from seawall.broker.kafka.threaded import ServerThread
from seawall.broker.raw import RawPlace, append_batches
from seawall.wal.records import HEADER_BYTES, encode_batch, parse_header

Connect = Callable[[], Wire]


def patched(data: bytes, at: int, form: str, value: int, *, fix_crc: bool = True) -> bytes:
    """A batch with one header field changed."""
    changed = bytearray(data)
    struct.pack_into(form, changed, at, value)
    if fix_crc:
        struct.pack_into(">I", changed, 17, google_crc32c.value(bytes(changed[21:])))
    return bytes(changed)


@pytest.mark.parametrize("version", range(3, 13))
def test_a_batch_is_stored_in_every_version(wire: Wire, broker: Broker, version: int) -> None:
    answer = wire.produce("orders", batch(b"a", b"b"), version=version)
    assert (answer.error_code, answer.base_offset) == (0, 0)
    assert wire.produce("orders", batch(b"c"), version=version).base_offset == 2
    assert values(read_all(broker)) == [b"a", b"b", b"c"]


def test_topics_by_id(wire: Wire, broker: Broker) -> None:
    uuid = broker.topic("orders").uuid
    for topic_id, code in ((uuid, 0), (uuid.__class__(int=5), 100)):
        data = [{"index": 0, "records": batch(b"a")}]
        answer = wire.ask(
            0,
            13,
            acks=-1,
            timeout=1000,
            topic_data=[{"topic_id": topic_id, "partition_data": data}],
        )
        [topic] = answer.responses
        assert topic.topic_id == topic_id
        assert topic.partition_responses[0].error_code == code


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_a_batch_is_stored_as_it_came(wire: Wire, codec: str) -> None:
    sent = batch(b"x" * 1000, None, compression=codec)
    assert wire.produce("orders", batch(b"first")).error_code == 0
    assert wire.produce("orders", sent).base_offset == 1
    [stored] = batches_in(wire.fetch("orders", 1).records)
    assert stored[HEADER_BYTES:] == sent[HEADER_BYTES:]
    assert stored[16:] == sent[16:], "only base offset and leader epoch may differ"


GOOD = batch(b"a", b"b")
BAD = {
    "no records": (None, 87),
    "empty": (b"", 87),
    "not a batch": (b"hello", 2),
    "a wrong checksum": (patched(GOOD, 70, ">b", 1, fix_crc=False), 2),
    "cut off": (GOOD[:-1], 2),
    "a length of its own": (patched(GOOD, 8, ">i", 5), 2),
    "a negative length": (patched(GOOD, 8, ">i", -1), 2),
    "two batches": (GOOD + GOOD, 87),
    "an old format": (patched(GOOD, 16, ">b", 1), 87),
    "a count that is too high": (patched(GOOD, 57, ">i", 3), 87),
    "a count of zero": (patched(GOOD, 57, ">i", 0), 87),
    "a negative last offset": (patched(GOOD, 23, ">i", -1), 87),
    "a base offset": (patched(GOOD, 0, ">q", 7), 87),
    "a control batch": (bytes(encode_batch([(1, b"k", b"v", ())], is_control=True)), 87),
    "a delete horizon": (patched(GOOD, 21, ">h", 0x40), 87),
    "an unknown codec": (patched(GOOD, 21, ">h", 5), 76),
    "a producer without sequence": (patched(GOOD, 43, ">q", 9), 87),
    "the broker's timestamp type": (patched(GOOD, 21, ">h", 0x08), 32),
    "a negative timestamp": (patched(GOOD, 27, ">q", -5), 32),
    "too much": (batch(b"x" * (2 << 20)), 10),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_batch_changes_nothing(wire: Wire, broker: Broker, name: str) -> None:
    data, code = BAD[name]
    wire.send_produce("orders", data)
    [answer] = wire.receive().responses[0].partition_responses
    assert (answer.error_code, answer.base_offset) == (code, -1)
    assert answer.error_message
    assert broker.ends("orders", 0).log_end == 0
    assert wire.produce("orders", GOOD).base_offset == 0, "the next one is stored"


def test_a_bad_batch_does_no_harm_to_its_neighbours(wire: Wire, broker: Broker) -> None:
    broker.create_topic("many", 3)
    data = [
        {"index": 0, "records": batch(b"a")},
        {"index": 1, "records": b"bad"},
        {"index": 2, "records": batch(b"c")},
        {"index": 9, "records": batch(b"d")},
    ]
    topics = [
        {"name": "many", "partition_data": data},
        {"name": "none", "partition_data": data[:1]},
    ]
    many, none = wire.ask(0, 9, acks=1, timeout=1000, topic_data=topics).responses
    assert [each.error_code for each in many.partition_responses] == [0, 2, 0, 3]
    assert none.partition_responses[0].error_code == 3
    assert sorted(map(str, values(read_all(broker, "many")))) == ["b'a'", "b'c'"]


def test_zstd_needs_version_7(wire: Wire) -> None:
    data = batch(b"a", compression="zstd")
    assert wire.produce("orders", data, version=6).error_code == 76
    assert wire.produce("orders", data, version=7).error_code == 0


def test_a_batch_longer_than_a_segment(wire: Wire, broker: Broker) -> None:
    broker.create_topic("small", config={"segment.bytes": 4096})
    assert wire.produce("small", batch(b"x" * 5000)).error_code == 18
    for number in range(5):
        assert wire.produce("small", batch(b"x" * 3000)).base_offset == number


def test_log_append_time(wire: Wire, broker: Broker) -> None:
    broker.create_topic("stamped", config={"message.timestamp.type": "LogAppendTime"})
    before = int(time.time() * 1000)
    answer = wire.produce("stamped", batch(b"a", b"b", timestamp=5, compression="gzip"))
    assert round(answer.log_append_time.timestamp() * 1000) >= before
    [stored] = batches_in(wire.fetch("stamped", 0).records)
    header = parse_header(stored)
    assert header.is_log_append_time
    assert header.max_timestamp == round(answer.log_append_time.timestamp() * 1000)
    assert {each.timestamp for each in read_all(broker, "stamped")} == {header.max_timestamp}


def test_create_time_is_kept(wire: Wire, broker: Broker) -> None:
    assert wire.produce("orders", batch(b"a", timestamp=77)).log_append_time is None
    assert [each.timestamp for each in read_all(broker)] == [77]


def test_a_compacted_topic_wants_keys(wire: Wire, broker: Broker) -> None:
    broker.create_topic("keyed", config={"cleanup.policy": "compact"})
    keyless = bytes(encode_batch([(1, b"k", b"v", ()), (1, None, b"v", ())], compression="lz4"))
    answer = wire.produce("keyed", keyless)
    assert answer.error_code == 87
    assert "record 1 has no key" in answer.error_message
    assert wire.produce("keyed", batch(b"a")).error_code == 0


def test_records_are_parsed_on_demand(serving: Any) -> None:
    garbage = patched(GOOD, HEADER_BYTES, ">b", -1)
    for validates, code in ((False, 0), (True, 87)):
        server = serving(validate_records=validates)
        wire = Wire(server.address)
        assert wire.produce("orders", garbage).error_code == code
        wire.close()
        server.stop()


def test_timestamps_may_be_bounded(serving: Any) -> None:
    server = serving(
        log_message_timestamp_before_max_ms=60_000, log_message_timestamp_after_max_ms=60_000
    )
    wire = Wire(server.address)
    now = int(time.time() * 1000)
    assert wire.produce("orders", batch(b"a", timestamp=now - 120_000)).error_code == 32
    assert wire.produce("orders", batch(b"a", timestamp=now + 120_000)).error_code == 32
    assert wire.produce("orders", batch(b"a", timestamp=now)).error_code == 0
    assert wire.produce("orders", batch(b"a", timestamp=-1)).error_code == 0, "no timestamp at all"
    wire.close()


def test_transactions_are_refused(wire: Wire) -> None:
    answer = wire.produce("orders", GOOD, transactional_id="t")
    assert answer.error_code == 53


def test_acks_that_do_not_exist(wire: Wire) -> None:
    assert wire.produce("orders", GOOD, acks=2).error_code == 21


def test_acks_0_has_no_response(wire: Wire, broker: Broker) -> None:
    for number in range(3):
        wire.send_produce("orders", batch(b"%d" % number), acks=0)
    assert wire.produce("orders", batch(b"last")).base_offset == 3, "the first response there is"
    assert values(read_all(broker)) == [b"0", b"1", b"2", b"last"]


def test_acks_0_closes_the_connection_on_error(wire: Wire, connect: Connect) -> None:
    wire.send_produce("orders", b"bad", acks=0)
    assert wire.is_closed()
    assert connect().produce("orders", GOOD).error_code == 0


def test_pipelined_requests_are_answered_in_order(wire: Wire, broker: Broker) -> None:
    for number in range(50):
        if number % 10 == 9:
            wire.send_fetch("orders", 0)
        else:
            wire.send_produce("orders", batch(b"%d" % number))
    offsets = []
    for number in range(50):
        response = wire.receive().responses[0]
        if number % 10 == 9:
            assert response.partitions[0].high_watermark == len(offsets), "what came before it"
        else:
            offsets.append(response.partition_responses[0].base_offset)
    assert offsets == list(range(45))
    assert values(read_all(broker)) == [b"%d" % n for n in range(50) if n % 10 != 9]


def test_the_embedded_and_the_wire_share_a_log(wire: Wire, broker: Broker) -> None:
    put(broker, b"embedded")
    assert wire.produce("orders", batch(b"wire")).base_offset == 1
    put(broker, b"again")
    assert values(read_all(broker)) == [b"embedded", b"wire", b"again"]


def test_a_deleted_topic_is_unknown(wire: Wire, broker: Broker) -> None:
    assert wire.produce("orders", GOOD).error_code == 0
    broker.delete_topic("orders")
    assert wire.produce("orders", GOOD).error_code == 3


@pytest.mark.parametrize("acks", [1, -1])
@pytest.mark.parametrize(("call", "code"), [("pwritev", 56), ("sync", 56)])
def test_a_disk_that_fails(acks: int, call: str, code: int) -> None:
    files = FaultyFiles()
    with memory_folder() as path, broker_on(files, path) as broker:
        broker.create_topic("orders")
        with ServerThread(broker, listen="127.0.0.1:0") as server:
            wire = Wire(server.address)
            assert wire.produce("orders", batch(b"before"), acks=acks).error_code == 0
            files.fail(call, where="orders")
            assert wire.produce("orders", batch(b"lost"), acks=acks).error_code == code
            assert wire.fetch("orders", 0).high_watermark == 1, "not visible"
            after = wire.produce("orders", batch(b"after"), acks=acks)
            if call == "sync":
                assert after.error_code == 56, "nothing is taken until it is opened anew"
            else:
                assert (after.error_code, after.base_offset) == (0, 1)
            wire.close()


def test_a_full_disk(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    monkeypatch.setattr(lanes, "SHORTEST_SILENCE_S", math.inf)
    files = FaultyFiles()
    with memory_folder() as path, broker_on(files, path) as broker:
        broker.create_topic("orders")
        with ServerThread(broker, listen="127.0.0.1:0") as server:
            wire = Wire(server.address)
            for _ in range(2):
                files.fail("pwritev", where="orders", error=errno.ENOSPC)
                assert wire.produce("orders", batch(b"lost")).error_code == 56
            [told] = [each.message for each in caplog.records if each.levelname == "ERROR"]
            assert "orders" in told
            assert "No space left" in told
            assert wire.produce("orders", batch(b"kept")).base_offset == 0
            assert values(read_all(broker)) == [b"kept"]
            wire.close()


def test_many_connections_share_syncs() -> None:
    go_on = threading.Event()
    go_on.set()

    class Slow(FaultyFiles):
        def sync(self, descriptor: int) -> None:
            go_on.wait(TIMEOUT_S)
            super().sync(descriptor)

    files = Slow()
    with memory_folder() as path, broker_on(files, path) as broker:
        broker.create_topic("orders")
        with ServerThread(broker, listen="127.0.0.1:0") as server:
            wires = [Wire(server.address) for _ in range(20)]
            assert wires[0].produce("orders", batch(b"first")).base_offset == 0
            go_on.clear()
            before = files.counts["sync"]
            for wire in wires:
                for _ in range(5):
                    wire.send_produce("orders", batch(b"x"))
            connections = server.server.node.connections
            eventually(lambda: sum(each.in_flight for each in tuple(connections)) == 100)
            go_on.set()
            offsets = {
                wire.receive().responses[0].partition_responses[0].base_offset
                for wire in wires
                for _ in range(5)
            }
            assert offsets == set(range(1, 101))
            assert files.counts["sync"] - before < 50
            for wire in wires:
                wire.close()


def test_a_refused_batch_hinders_no_other_of_its_round(broker: Broker) -> None:
    """Batches of several producers are appended together, and judged one by one."""
    topic = broker.topic("orders")
    place = RawPlace(
        topic=topic,
        config=topic.settings,
        partition=0,
        partition_id=topic.partitions[0].id,
    )

    def numbered(producer_id: int, sequence: int) -> bytes:
        return batch(b"x", producer_id=producer_id, producer_epoch=0, base_sequence=sequence)

    batches = [numbered(1, 0), numbered(2, 0), batch(b"y")]
    first = append_batches(broker.engine, place, batches, now_ms=1)
    assert [each.base_offset for each in first] == [0, 1, 2]
    batches = [numbered(1, 1), numbered(2, 5), numbered(1, 0), batch(b"z")]
    again, gap, duplicate, plain = append_batches(broker.engine, place, batches, now_ms=2)
    assert isinstance(gap, OutOfOrderSequence)
    assert (again.base_offset, duplicate.base_offset, plain.base_offset) == (3, 0, 4)
    assert broker.ends("orders", 0).durable_end == 5


@pytest.mark.parametrize("in_flight", [1, 64])
def test_what_a_client_sent_before_it_left_is_stored(
    serving: Callable[..., ServerThread], monkeypatch: pytest.MonkeyPatch, in_flight: int
) -> None:
    """With ``acks=0`` it has nothing to wait for, and many end right after they have sent."""
    left, go_on = threading.Event(), threading.Event()
    topics, eof_received = Broker.topics, Connection.eof_received

    def held(broker: Broker) -> Any:
        assert go_on.wait(60)
        return topics(broker)

    def leaving(connection: Connection) -> bool:
        left.set()
        return eof_received(connection)

    monkeypatch.setattr(Broker, "topics", held)
    monkeypatch.setattr(Connection, "eof_received", leaving)
    server = serving(max_in_flight_requests=in_flight)
    wire = Wire(server.address)
    try:
        for number in range(5):
            wire.send_produce("orders", batch(b"a"), acks=0)
            if number == 2 and in_flight > 6:  # as clients do now and then, whatever they are at
                wire.send(18, 0)
        wire.close()
        if in_flight > 6:  # else nothing is read of its end before there is room
            assert left.wait(60)
    finally:
        go_on.set()
        wire.close()
    eventually(lambda: server.broker.ends("orders", 0).durable_end == 5)
    eventually(lambda: not server.server.node.connections)


def test_what_a_client_sent_is_counted_until_it_is_stored_although_it_is_gone(
    server: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def held(*args: Any, **kwargs: Any) -> Any:
        entered.set()
        assert go_on.wait(60)
        return append_batches(*args, **kwargs)

    monkeypatch.setattr(lanes, "append_batches", held)
    node = server.server.node
    wire = Wire(server.address)
    data = batch(os.urandom(200_000))
    try:
        wire.send_produce("orders", data)
        wire.send_produce("orders", data)
        assert entered.wait(60)
        eventually(lambda: node.request_budget.used_bytes > 2 * len(data))
        held_bytes = node.request_budget.used_bytes
        wire.close()
        eventually(lambda: not node.connections)
        for _ in range(10):  # whoever was cancelled has had its turns
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), node.loop).result(60)
        assert node.request_budget.used_bytes == held_bytes
    finally:
        go_on.set()
        wire.close()
    eventually(lambda: (node.request_budget.used_bytes, node.parsed_budget.used_bytes) == (0, 0))
    assert server.broker.ends("orders", 0).durable_end == 2
