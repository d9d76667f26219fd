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
