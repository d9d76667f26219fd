"""The processes that "random-kills" kills: producers and consumers that never end by themselves.

Each is told who it is, opens the directory and works; what it was told goes over its line
in reports, small JSON objects. ``t`` is when something was so, in ns of a clock that all
processes share::

    producer  acked PLACE, first, offsets            its values from that number on
    consumer  group, starts {PLACE: offset}, since, t    it joined between the two times
              saw PLACE, first, tokens               records from that offset on
              group, acking {PLACE: offset}, t       before it acknowledges, …
              group, done {PLACE: offset}, t         … and after

A place is a topic and a partition, such as ``orders/0``. A value says whose it is and
which (its *token*), and all its bytes follow from that.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from seawall.broker import engine
from seawall.broker.broker import Broker
from seawall.broker.torture.children import Line
from seawall.wal.records import Record

# The processes live for less than the second that passes between checkpoints by default.
CHECKPOINT_INTERVAL_MS = 30
RESULT_TIMEOUT_S = 30.0
POLL_MS = 20.0
MOST_PADDING = 150

Plan = Mapping[str, Any]


def value_of(place: str, token: str) -> bytes:
    """The value with that token in that place."""
    head = f"{token} {place} ".encode()
    return head + b"~" * (sum(head) * 7 % MOST_PADDING)


def token_of(place: str, value: bytes | None) -> str:
    """The token of a value, or the value itself if it is not what its token says."""
    text = (value or b"").decode("ascii", "replace")
    token, _, _ = text.partition(" ")
    return token if value_of(place, token) == value else text


def produce(line: Line, path: str, plan: Plan) -> None:
    """Publish for ever. ``plan``: who, seed, places, linger_ms, durability, compression,
    pauses, idempotent."""
    choose = random.Random(plan["seed"])
    who = plan["who"]
    numbers: Counter[str] = Counter()
    engine.CHECKPOINT_INTERVAL_MS = CHECKPOINT_INTERVAL_MS
    with (
        Broker.open(path, durability=plan["durability"]) as broker,
        broker.producer(
            linger_ms=plan["linger_ms"],
            compression=plan["compression"],
            idempotent=plan["idempotent"],
        ) as producer,
    ):
        while True:
            place = choose.choice(plan["places"])
            topic, _, partition = place.partition("/")
            first = numbers[place]
            numbers[place] += choose.choice((1, 1, 1, 4, 25))
            sent = [
                producer.send(topic, value_of(place, f"{who}.{number}"), partition=int(partition))
                for number in range(first, numbers[place])
            ]
            offsets = [each.result(RESULT_TIMEOUT_S).offset for each in sent]
            line.say({"acked": place, "first": first, "offsets": offsets})
            if choose.random() < plan["pauses"]:
                time.sleep(choose.uniform(0, 0.01))


def consume(line: Line, path: str, plan: Plan) -> None:
    """Read on in a group for ever. ``plan``: who, seed, topics, group."""
    choose = random.Random(plan["seed"])
    group = plan["group"]
    engine.CHECKPOINT_INTERVAL_MS = CHECKPOINT_INTERVAL_MS
    with Broker.open(path) as broker:
        since = time.monotonic_ns()

        def assigned(places: list[tuple[str, int]]) -> None:
            starts = {
                f"{topic}/{number}": consumer.position(topic, number) for topic, number in places
            }
            now = time.monotonic_ns()
            line.say({"group": group, "starts": starts, "since": since, "t": now})

        with broker.consumer(plan["topics"], group=group, on_assigned=assigned) as consumer:
            while True:
                since = time.monotonic_ns()
                records = consumer.poll(choose.choice((1, 20, 200)), POLL_MS)
                for report in seen(records):
                    line.say(report)
                if records and choose.random() < plan["acks"]:
                    behind = {f"{each.topic}/{each.partition}": each.offset + 1 for each in records}
                    now = time.monotonic_ns()
                    line.say({"group": group, "acking": behind, "t": now})
                    consumer.ack(records)
                    now = time.monotonic_ns()
                    line.say({"group": group, "done": behind, "t": now})


def seen(records: list[Record]) -> list[dict[str, Any]]:
    """Reports of records that one poll gave: one for each run of offsets."""
    reports: list[dict[str, Any]] = []
    at = ("", -1)
    for record in records:
        place = f"{record.topic}/{record.partition}"
        if at != (place, record.offset):
            reports.append({"saw": place, "first": record.offset, "tokens": []})
        reports[-1]["tokens"].append(token_of(place, record.value))
        at = (place, record.offset + 1)
    return reports
