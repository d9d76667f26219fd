"""`seawall serve` with librdkafka as its client: rates, latency, and many idle connections.

librdkafka brings a broker of its own for tests, in its own process and in memory. It is what
the same client reaches if the broker costs as little as can be, and so what rates are held
against.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.measure import (
    TOPIC,
    Result,
    Setting,
    distinct_values,
    rate,
    ratios,
    take_turns,
)
from seawall.broker.broker import Broker

PRODUCE_AT_LEAST = 0.65
CONSUME_AT_LEAST_PER_S = 1_000_000.0
CONSUME_AT_LEAST = 1.5
CONSUME_AT_LEAST_OF_QUEUED = 0.5
P50_AT_MOST_MS = 3.0
P99_AT_MOST_MS = 25.0
MEMORY_AT_MOST_MIB = 200.0
CROWD_AT_LEAST = 0.8
RECORDS_PER_S = 1000
TIMEOUT_S = 60.0
# What a client takes at once. Ten thousand Python objects and what librdkafka holds for them
# do not fit into a processor's cache: the client is then half as fast.
RECORDS_PER_CALL = 500
# librdkafka says on stderr when a server ends.
QUIET = {"log_level": 0}


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`seawall serve` in a process of its own, and its address."""
    command = [str(Path(sys.executable).with_name("seawall")), "serve", "-b", str(folder)]
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            line = process.stderr.readline() if process.stderr else ""
            found = re.search(r"listening on (\S+),", line)
            if found is None:
                raise RuntimeError(line)
            yield process, found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(TIMEOUT_S)


class Producing:
    """One librdkafka producer that asks for a report of every record."""

    def __init__(self, settings: dict[str, Any], topic: str = TOPIC) -> None:
        self._topic = topic
        self._producer = Producer({"queue.buffering.max.messages": 1_000_000, **QUIET, **settings})
        self._delivered = 0

    def _on_delivery(self, error: object, _: object) -> None:
        if error is not None:
            raise RuntimeError(str(error))
        self._delivered += 1

    def records_per_s(self, values: list[bytes]) -> float:
        """Produce all, wait for all reports."""
        producer, on_delivery, topic = self._producer, self._on_delivery, self._topic
        self._delivered = 0
        began_s = time.perf_counter()
        for number, value in enumerate(values):
            producer.produce(topic, value, on_delivery=on_delivery)
            if not number % 1000:
                producer.poll(0)
        producer.flush(TIMEOUT_S)
        took_s = time.perf_counter() - began_s
        if self._delivered != len(values):
            raise RuntimeError(f"{self._delivered} of {len(values)} records were delivered")
        return len(values) / took_s


def consumer_at(address: str, offset: int, topic: str = TOPIC) -> Any:
    """A consumer at work; with the default queue it stops for a second once that is full."""
    settings = {"bootstrap.servers": address, "group.id": "benchmark", "enable.auto.commit": False}
    consumer = Consumer({"queued.min.messages": 1_000_000, **settings, **QUIET})
    consumer.assign([TopicPartition(topic, 0, offset)])
    return consumer


def consumed_per_s(
    address: str, offset: int, count: int, head_start_s: float = 0, *, topic: str = TOPIC
) -> float:
    """Consume so many records from `offset` on; the time begins with the first of them.

    With a head start, everything is in librdkafka's own queue before that.
    """
    consumer = consumer_at(address, offset, topic)
    first = consumer.consume(1, TIMEOUT_S)
    time.sleep(head_start_s)
    began_s = time.perf_counter()
    seen = len(first)
    while seen < count:
        messages = consumer.consume(min(RECORDS_PER_CALL, count - seen), TIMEOUT_S)
        if not messages or any(message.error() for message in messages):
            raise RuntimeError(f"only {seen} of {count} records came")
        seen += len(messages)
    took_s = time.perf_counter() - began_s
    consumer.close()
    return count / took_s


def watch(address: str, count: int, seen: Connection) -> None:
    """In another process: tell how long ago each record was sent."""
    consumer = consumer_at(address, 0)
    took_ms: list[float] = []
    seen.send(None)
    while len(took_ms) < count:
        message = consumer.poll(TIMEOUT_S)
        if message is None or message.error():
            break
        took_ms.append((time.monotonic_ns() - int(message.value())) / 1e6)
    seen.send(took_ms)
    consumer.close()


def latencies_ms(address: str, count: int) -> list[float]:
    """From produce to consume, at a steady rate; the first second does not count."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=watch, args=(address, count, theirs))
    process.start()
    theirs.close()
    ours.recv()
    producer = Producer({"bootstrap.servers": address, "linger.ms": 0} | QUIET)
    began_s = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began_s + number / RECORDS_PER_S - time.monotonic()))
        value = b"%0100d" % time.monotonic_ns()
        producer.produce(TOPIC, value)
        producer.poll(0)
    producer.flush(TIMEOUT_S)
    took_ms: list[float] = ours.recv()
    process.join()
    process.close()
    ours.close()
    if len(took_ms) != count:
        raise RuntimeError(f"only {len(took_ms)} of {count} records came")
    return took_ms[count // 5 :]


def new_folder(setting: Setting, name: str, partitions: int = 1) -> Path:
    """A directory with the topic, as a Kafka client would have made it."""
    folder = setting.folder / name
    with Broker.open(folder) as broker:
        broker.create_topic(TOPIC, partitions, {"cleanup.policy": "delete"})
    return folder


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024


def measure(setting: Setting) -> Iterator[Result]:
    values = distinct_values(setting.pick(300_000, 2_000))
    rounds = setting.pick(7, 1)
    mock = Producing({"test.mock.num.brokers": 1})
    with serving(new_folder(setting, "rates")) as (_, address):
        real = Producing({"bootstrap.servers": address})
        ours, theirs = take_turns(
            rounds, lambda: real.records_per_s(values), lambda: mock.records_per_s(values)
        )
        yield Result(
            what="produce over the wire, a report for each record",
            against="librdkafka's own mock broker",
            values=ratios(ours, theirs),
            at_least=PRODUCE_AT_LEAST,
            detail=f"{rate(ours)} against {rate(theirs)}",
        )
        consumed, produced = take_turns(
            rounds,
            lambda: consumed_per_s(address, 0, len(values)),
            lambda: real.records_per_s(values),
        )
        live, queued = take_turns(
            rounds,
            lambda: consumed_per_s(address, 0, len(values)),
            lambda: consumed_per_s(address, 0, len(values), setting.pick(2, 1)),
        )
    yield Result(
        what="consume over the wire",
        against="the same records, once they are in librdkafka's own queue",
        values=ratios(live, queued),
        at_least=CONSUME_AT_LEAST_OF_QUEUED,
        detail=f"{rate(live)} against {rate(queued)}",
    )
    yield Result(
        what="consume over the wire",
        against="",
        values=consumed,
        at_least=CONSUME_AT_LEAST_PER_S,
        unit="/s",
    )
    yield Result(
        what="consume over the wire",
        against="produce over the wire",
        values=ratios(consumed, produced),
        at_least=CONSUME_AT_LEAST,
    )
    with serving(new_folder(setting, "latency")) as (_, address):
        took_ms = sorted(latencies_ms(address, setting.pick(10_000, 500)))
    yield Result(
        what=f"produce to consume at {RECORDS_PER_S:,} records/s: median",
        against="",
        values=[statistics.median(took_ms)],
        at_most=P50_AT_MOST_MS,
        unit="ms",
    )
    yield Result(
        what=f"produce to consume at {RECORDS_PER_S:,} records/s: p99",
        against="",
        values=[took_ms[len(took_ms) * 99 // 100]],
        at_most=P99_AT_MOST_MS,
        unit="ms",
        detail=f"longest {took_ms[-1]:.2f} ms",
    )
    yield from measure_crowd(setting, values, rounds)


def measure_crowd(setting: Setting, values: list[bytes], rounds: int) -> Iterator[Result]:
    """The same rates with many idle connections and partitions."""
    count = setting.pick(1000, 20)
    with (
        serving(new_folder(setting, "alone")) as (_, alone_address),
        serving(new_folder(setting, "crowd")) as (process, address),
        Broker.open(setting.folder / "crowd") as broker,
        ExitStack() as crowd,
    ):
        broker.create_topic("crowd", count, {"cleanup.policy": "delete"})
        host, _, port = address.rpartition(":")
        for _ in range(count):
            crowd.enter_context(socket.create_connection((host, int(port))))
        alone, crowded = (
            Producing({"bootstrap.servers": each}) for each in (alone_address, address)
        )
        ours, theirs = take_turns(
            rounds, lambda: crowded.records_per_s(values), lambda: alone.records_per_s(values)
        )
        memory_mib = resident_mib(process.pid)
    yield Result(
        what=f"produce with {count:,} idle connections and {count:,} partitions",
        against="produce without",
        values=ratios(ours, theirs),
        at_least=CROWD_AT_LEAST,
        detail=f"{rate(ours)} against {rate(theirs)}",
    )
    yield Result(
        what="resident memory of the server with them",
        against="",
        values=[memory_mib],
        at_most=MEMORY_AT_MOST_MIB,
        unit="MiB",
    )
