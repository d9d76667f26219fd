"""What librdkafka stops reading, and going on there."""

from __future__ import annotations

import time

import pytest

from seawall.broker import Broker, Record, connect, errors
from seawall.broker.kafka.threaded import ServerThread
from seawall.broker.remote.topics import Topics


def test_an_offset_that_is_gone_without_a_group(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told until somebody seeks; meanwhile the other partition is read."""
    broker.create_topic("t", 2)
    with broker.producer() as producer:
        for number in range(10):
            producer.send("t", b"%d" % number, partition=number % 2)
    broker.delete_records("t", {0: 3})
    with (
        ServerThread(broker, listen="127.0.0.1:0") as server,
        connect(f"kafka://{server.address}") as remote,
    ):
        monkeypatch.setattr(Topics, "check_offset", lambda *_, **__: None)  # it goes just now
        with remote.consumer("t", start=1, auto_offset_reset="error") as consumer:
            monkeypatch.undo()
            found: list[Record] = []
            told: list[errors.OffsetOutOfRange] = []
            deadline_s = time.monotonic() + 60
            while (len(found) < 4 or len(told) < 3) and time.monotonic() < deadline_s:
                try:
                    found += consumer.poll(timeout_ms=10_000)
                except errors.OffsetOutOfRange as error:
                    told.append(error)
            assert {(e.partition, e.offset, e.log_start) for e in told} == {(0, 1, 3)}
            assert len(told) >= 3
            assert [each.value for each in found] == [b"3", b"5", b"7", b"9"]
            consumer.seek("t", 0, 3)
            assert [each.value for each in consumer.poll(timeout_ms=60_000)] == [b"6", b"8"]
            assert consumer.position("t", 0) == 5


def test_what_goes_while_it_is_read(broker: Broker) -> None:
    """What was fetched before comes first, then the error, and who seeks reads on."""
    broker.create_topic("t", 1, {"segment.bytes": 1 << 20})
    with broker.producer(linger_ms=0) as producer:
        for _ in range(120):
            producer.send("t", b"x" * 10_000).result(60)
    with (
        ServerThread(broker, listen="127.0.0.1:0") as server,
        connect(f"kafka://{server.address}?queued.max.messages.kbytes=64") as remote,
        remote.consumer("t", auto_offset_reset="error", fetch_bytes=20_000) as consumer,
    ):
        found = consumer.poll(1, timeout_ms=60_000)
        broker.delete_records("t", {0: 100})
        deadline_s = time.monotonic() + 60
        with pytest.raises(errors.OffsetOutOfRange) as caught:
            while time.monotonic() < deadline_s:
                found += consumer.poll(timeout_ms=1_000)
        reached = len(found)
        assert [each.offset for each in found] == list(range(reached))
        assert (caught.value.offset, caught.value.log_start) == (reached, 100)
        consumer.seek("t", 0, 100)
        while len(found) < reached + 20 and time.monotonic() < deadline_s:
            found += consumer.poll(timeout_ms=1_000)
        assert [each.offset for each in found[reached:]] == list(range(100, 120))


def test_a_headers_name_that_is_not_utf_8(broker: Broker) -> None:
    """Some clients write them. The records before it come, and who seeks reads on."""
    broker.create_topic("t", 1)
    with broker.producer() as producer:
        for name in ("a", "\udcff", "\xfc"):
            producer.send("t", b"v", headers=[(name, b"1")])
    with (
        ServerThread(broker, listen="127.0.0.1:0") as server,
        connect(f"kafka://{server.address}") as remote,
        remote.consumer("t") as consumer,
    ):
        [record] = consumer.poll(timeout_ms=60_000)
        assert record.offset == 0
        for _ in range(3):
            with pytest.raises(errors.RecordDecodeError, match=r"b'\\xff'") as caught:
                consumer.poll(timeout_ms=60_000)
        assert (caught.value.offset, caught.value.next_offset) == (1, 2)
        consumer.seek("t", 0, 2)
        [record] = consumer.poll(timeout_ms=60_000)
        assert record.headers == [("\xfc", b"1")]
