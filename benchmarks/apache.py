"""Apache Kafka next to `seawall serve`, with the very same client, in turns.

``SEAWALL_APACHE_KAFKA`` is the HOST:PORT of one that runs; without it there is nothing to measure.
What the client reaches with either says what is its own limit, and what the server's.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.measure import Result, Setting, distinct_values, rate, ratios, take_turns
from benchmarks.serve import Producing, consumed_per_s, new_folder, serving
from seawall.broker import connect

VARIABLE = "SEAWALL_APACHE_KAFKA"
AT_LEAST = 0.5
CONSUME_AT_LEAST = 1.5  # what `seawall serve` is held against, too


def kafka_address() -> str | None:
    """Where Apache Kafka is, None (and a word on stderr) if that is not said."""
    address = os.environ.get(VARIABLE, "")
    if ":" in address:
        return address
    print(f"nothing to measure without {VARIABLE}=HOST:PORT of an Apache Kafka", file=sys.stderr)
    return None


@contextmanager
def topic_at(address: str, partitions: int = 1) -> Iterator[str]:
    """A topic of its own, deleted afterwards."""
    name = f"benchmark-{uuid.uuid4().hex[:12]}"
    with connect(f"kafka://{address}") as cluster:
        cluster.create_topic(name, partitions)
        try:
            yield name
        finally:
            cluster.delete_topic(name)


def measure(setting: Setting) -> Iterator[Result]:
    kafka = kafka_address()
    if kafka is None:
        return
    values = distinct_values(setting.pick(300_000, 2_000))
    rounds = setting.pick(9, 1)
    with serving(new_folder(setting, "rates")) as (_, seawall), topic_at(kafka) as topic:
        at_seawall = Producing({"bootstrap.servers": seawall})
        at_kafka = Producing({"bootstrap.servers": kafka}, topic)
        # The rounds of all four take turns; each consumes what was produced first.
        rates: dict[str, list[float]] = {"sp": [], "sc": [], "kp": [], "kc": []}

        def both(name: str, producing: Producing, address: str, topic: str) -> float:
            rates[f"{name}p"].append(producing.records_per_s(values))
            rates[f"{name}c"].append(consumed_per_s(address, 0, len(values), topic=topic))
            return 0.0

        take_turns(
            rounds,
            lambda: both("s", at_seawall, seawall, "benchmark"),
            lambda: both("k", at_kafka, kafka, topic),
        )
    warm = {name: each[1:] for name, each in rates.items()}
    for what, short in (("produce", "p"), ("consume", "c")):
        ours, theirs = warm[f"s{short}"], warm[f"k{short}"]
        yield Result(
            what=f"{what} over the wire: seawall serve",
            against="the same client and Apache Kafka",
            values=ratios(ours, theirs),
            at_least=AT_LEAST,
            detail=f"{rate(ours)} against {rate(theirs)}",
        )
    for name, short in (("seawall serve", "s"), ("Apache Kafka", "k")):
        consumed, produced = warm[f"{short}c"], warm[f"{short}p"]
        yield Result(
            what=f"{name}: consume",
            against="produce, the same client",
            values=ratios(consumed, produced),
            at_least=CONSUME_AT_LEAST,
            detail=f"{rate(consumed)} against {rate(produced)}",
        )
