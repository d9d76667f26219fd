from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from brokers import put
from storage import flip
from wire import LONG_MS, TIMEOUT_S, Wire, batch, batches_in

from seawall.broker import Broker
from seawall.broker.kafka.threaded import ServerThread
from seawall.wal.records import decode_batch, parse_header

Connect = Callable[[], Wire]


def values_in(data: bytes | None) -> list[bytes | None]:
    return [r.value for each in batches_in(data) for r in decode_batch(each, 0, "", 0)]


@pytest.mark.parametrize("version", range(4, 18))
def test_records_come_in_every_version(wire: Wire, broker: Broker, version: int) -> None:
    put(broker, b"a", b"b")
    asked: dict[str, Any] = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1000}
    answer = wire.ask(
        1,
        version,
        max_wait=0,
        min_bytes=1,
        topics=[
            {"topic": "orders", "topic_id": broker.topic("orders").uuid, "partitions": [asked]}
        ],
        forgotten_topics_data=(),
    )
    [topic] = answer.responses
    [partition] = topic.partitions
    assert (partition.error_code, partition.high_watermark) == (0, 2)
    assert partition.last_stable_offset == 2
    assert values_in(partition.records) == [b"a", b"b"]
    if version >= 13:
        assert topic.topic_id == broker.topic("orders").uuid


def test_an_offset_inside_a_batch_gives_the_whole_batch(wire: Wire) -> None:
    wire.produce("orders", batch(b"a", b"b", b"c"))
    wire.produce("orders", batch(b"d"))
    assert values_in(wire.fetch("orders", 1).records) == [b"a", b"b", b"c", b"d"]
    assert values_in(wire.fetch("orders", 3).records) == [b"d"]


def test_the_end_and_beyond(wire: Wire, broker: Broker) -> None:
    put(broker, b"a")
    at_end = wire.fetch("orders", 1)
    assert (at_end.error_code, at_end.records) == (0, b"")
    assert wire.fetch("orders", 2).error_code == 1
    assert wire.fetch("orders", -1).error_code == 1
    broker.delete_records("orders", {0: 1})
    gone = wire.fetch("orders", 0)
    assert (gone.error_code, gone.high_watermark) == (1, -1)
    assert wire.fetch("orders", 1).log_start_offset == 1


def test_limits(wire: Wire, broker: Broker) -> None:
    for _ in range(10):
        wire.produce("orders", batch(b"x" * 1000))
    size = len(batch(b"x" * 1000))
    for limits in ({"max_bytes": 3 * size + 10}, {"partition_max_bytes": 3 * size + 10}):
        assert len(wire.fetch("orders", 0, **limits).records) == 3 * size
    for limits in ({"max_bytes": 10}, {"partition_max_bytes": 0}):
        assert len(wire.fetch("orders", 0, **limits).records) == size, "one batch at least"


def test_only_the_first_batch_of_a_response_may_pass_the_limit(wire: Wire, broker: Broker) -> None:
    broker.create_topic("many", 3)
    for partition in range(3):
        wire.produce("many", batch(b"x" * 1000), partition=partition)
    size = len(batch(b"x" * 1000))

    def sizes(max_bytes: int, partition_max_bytes: int, order: tuple[int, ...]) -> list[int]:
        answer = wire.ask(
            1,
            12,
            max_wait=0,
            min_bytes=1,
            max_bytes=max_bytes,
            topics=[
                {
                    "topic": "many",
                    "partitions": [
                        {
                            "partition": each,
                            "fetch_offset": 0,
                            "partition_max_bytes": partition_max_bytes,
                        }
                        for each in order
                    ],
                }
            ],
            forgotten_topics_data=(),
        )
        return [len(each.records) for each in answer.responses[0].partitions]

    assert sizes(10, 1 << 20, (0, 1, 2)) == [size, 0, 0]
    assert sizes(1 << 20, 10, (2, 1, 0)) == [size, 0, 0]
    assert sizes(2 * size, 1 << 20, (1, 2, 0)) == [size, size, 0]
    assert sizes(2 * size + 10, 1 << 20, (1, 2, 0)) == [size, size, 0]
    assert sizes(1 << 20, 1 << 20, (0, 1, 2)) == [size] * 3


def test_unknown_partitions_and_epochs(wire: Wire) -> None:
    assert wire.fetch("none", 0).error_code == 3
    assert wire.fetch("orders", 0, partition=1).error_code == 3
    asked = {
        "partition": 0,
        "fetch_offset": 0,
        "partition_max_bytes": 10,
        "current_leader_epoch": 1,
    }
    for version, topic, code in (
        (12, {"topic": "orders", "partitions": [asked]}, 75),
        (
            13,
            {"topic_id": UUID(int=3), "partitions": [asked]},
            100,
        ),
    ):
        answer = wire.ask(
            1, version, max_wait=500, min_bytes=1, topics=[topic], forgotten_topics_data=()
        )
        assert answer.responses[0].partitions[0].error_code == code


def test_sessions_are_declined(wire: Wire) -> None:
    fields: dict[str, Any] = {"max_wait": 0, "min_bytes": 0, "topics": ()}
    answer = wire.ask(1, 12, **fields, forgotten_topics_data=(), session_id=0, session_epoch=0)
    assert (answer.error_code, answer.session_id) == (0, 0)
    answer = wire.ask(1, 12, **fields, forgotten_topics_data=(), session_id=9, session_epoch=1)
    assert answer.error_code == 70


def test_an_empty_fetch_waits_for_its_time(wire: Wire) -> None:
    began = time.monotonic()
    assert wire.fetch("orders", 0, max_wait_ms=200).records == b""
    assert time.monotonic() - began > 0.19


def test_a_produce_wakes_a_fetch(wire: Wire, connect: Connect) -> None:
    waiting = connect()
    waiting.send_fetch("orders", 0, max_wait_ms=LONG_MS)
    time.sleep(0.05)  # it waits by now; if not, it is answered all the same
    wire.produce("orders", batch(b"a"))
    [answer] = waiting.receive().responses[0].partitions
    assert values_in(answer.records) == [b"a"]


def test_a_fetch_waits_for_min_bytes(wire: Wire, connect: Connect) -> None:
    waiting = connect()
    waiting.send_fetch("orders", 0, max_wait_ms=LONG_MS, min_bytes=3 * len(batch(b"a")))
    for value in (b"a", b"b", b"c"):
        time.sleep(0.02)
        wire.produce("orders", batch(value))
    [answer] = waiting.receive().responses[0].partitions
    assert values_in(answer.records) == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    "limits", [{"max_bytes": 2000}, {"partition_max_bytes": 2000}, {"max_bytes": 0}]
)
def test_a_response_that_is_full_is_not_waited_for(wire: Wire, limits: dict[str, int]) -> None:
    """Although it has less than min_bytes: more could never come."""
    for _ in range(5):
        wire.produce("orders", batch(b"x" * 1000))
    answer = wire.fetch("orders", 0, max_wait_ms=LONG_MS, min_bytes=1 << 20, **limits)
    assert len(values_in(answer.records)) == 1


def test_what_lies_in_the_next_segment_is_not_waited_for(wire: Wire, broker: Broker) -> None:
    broker.create_topic("small", config={"segment.bytes": 4096})
    for _ in range(8):
        wire.produce("small", batch(b"x" * 1500))
    answer = wire.fetch("small", 0, max_wait_ms=LONG_MS, min_bytes=11_000)
    assert answer.records


PRODUCE = """
import sys
from seawall.broker import Broker
with Broker.open(sys.argv[1]) as broker, broker.producer() as producer:
    producer.send("orders", b"from afar").result()
"""


def test_a_producer_in_another_process_wakes_a_fetch(wire: Wire, broker: Broker) -> None:
    wire.send_fetch("orders", 0, max_wait_ms=LONG_MS)
    subprocess.run([sys.executable, "-c", PRODUCE, broker.path], check=True, timeout=TIMEOUT_S)
    [answer] = wire.receive().responses[0].partitions
    assert values_in(answer.records) == [b"from afar"]


def test_waiting_fetches_do_not_use_up_the_executor(server: ServerThread, broker: Broker) -> None:
    waiting = [Wire(server.address) for _ in range(30)]
    for each in waiting:
        each.send_fetch("orders", 0, max_wait_ms=LONG_MS)
    wire = Wire(server.address)
    assert wire.ask(3, 4, topics=None).topics
    assert wire.produce("orders", batch(b"a")).error_code == 0
    for each in [*waiting, wire]:
        if each is not wire:
            assert values_in(each.receive().responses[0].partitions[0].records) == [b"a"]
        each.close()


def test_damage_is_told_of_and_concerns_its_partition_alone(wire: Wire, broker: Broker) -> None:
    broker.create_topic("many", 2)
    for partition in range(2):
        wire.produce("many", batch(b"first"), partition=partition)
        wire.produce("many", batch(b"second"), partition=partition)
    [folder] = [each for each in os.listdir(f"{broker.path}/logs") if each.endswith("many-0")]
    flip(f"{broker.path}/logs/{folder}/{0:020d}.log", 65)
    assert wire.fetch("many", 0, partition=0).error_code == 2
    assert values_in(wire.fetch("many", 1, partition=0).records) == [b"second"]
    assert values_in(wire.fetch("many", 0, partition=1).records) == [b"first", b"second"]


def test_reading_goes_on_over_segments(wire: Wire, broker: Broker) -> None:
    broker.create_topic("small", config={"segment.bytes": 4096})
    for number in range(20):
        wire.produce("small", batch(b"%03d" % number + b"x" * 1500))
    offset, seen = 0, []
    while offset < 20:
        records = wire.fetch("small", offset).records
        seen += [value[:3] for value in values_in(records) if value]
        offset = max(parse_header(each).next_offset for each in batches_in(records))
    assert seen == [b"%03d" % number for number in range(20)]
