"""What a group that has stopped, far behind, costs the others.

Two directories without such a group are measured as well: how far their figures differ is
what chance does on this machine.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.measure import TOPIC, Result, Setting, distinct_values, ratios
from seawall.broker.broker import Broker
from seawall.broker.consumer import Consumer
from seawall.broker.producer import Producer
from seawall.wal.records import encode_batch

# The noise of a machine that does nothing else.
AT_LEAST, AT_MOST = 0.9, 1.1
BATCH_RECORDS = 10_000
PAUSE_S = 0.001


def fall_behind(folder: Path, told: Connection) -> None:
    """Join a group, read a little, acknowledge nothing, and wait to be stopped."""
    with Broker.open(folder) as broker, broker.consumer(TOPIC, group="stopped") as consumer:
        told.send(len(consumer.poll(100)))
        while True:
            consumer.poll(1, timeout_ms=1000)
            time.sleep(0.05)


@contextlib.contextmanager
def stopped_group(folder: Path) -> Iterator[None]:
    """A group whose only member is stopped (SIGSTOP)."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=fall_behind, args=(folder, theirs))
    process.start()
    ours.recv()
    os.kill(process.pid or 0, signal.SIGSTOP)
    try:
        yield
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()
        theirs.close()


def fill(broker: Broker, records: int) -> None:
    """So many records of 100 bytes, in large batches, on disk and indexed."""
    log = broker.engine.log(broker.topic(TOPIC).partitions[0].id)
    batch = encode_batch([(1, None, value, ()) for value in distinct_values(BATCH_RECORDS)])
    for number in range(records // BATCH_RECORDS):
        log.append([bytearray(batch)])
        if number % 20 == 19:
            log.sync()
    log.sync()
    log.checkpoint()


@dataclass
class World:
    """A broker whose other group is at the end of the log, and what was measured there."""

    broker: Broker
    producer: Producer
    consumer: Consumer
    produced_per_s: list[float] = field(default_factory=list)
    consumed_per_s: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)

    def forget(self) -> None:
        """What was measured so far was for nothing."""
        for figures in (self.produced_per_s, self.consumed_per_s, self.latency_ms):
            figures.clear()

    def round(self, records: int, publishes: int) -> None:
        """Publish, then read, as fast as can be; acknowledge; then publish one by one."""
        values = distinct_values(records)
        start_s = time.perf_counter()
        for value in values:
            self.producer.send(TOPIC, value)
        self.producer.flush()
        produced_s = time.perf_counter()
        left = records
        while left:
            left -= len(self.consumer.poll(500))
        consumed_s = time.perf_counter()
        self.consumer.ack()
        self.produced_per_s.append(records / (produced_s - start_s))
        self.consumed_per_s.append(records / (consumed_s - produced_s))
        self.latency_ms.append(self._latency_ms(publishes))

    def _latency_ms(self, publishes: int) -> float:
        """The median time from `send` on until the consumer, in another thread, has it."""
        seen: queue.SimpleQueue[float] = queue.SimpleQueue()

        def read() -> None:
            for _ in range(publishes):
                while not self.consumer.poll(timeout_ms=1000):
                    pass
                seen.put(time.perf_counter())
            self.consumer.ack()

        thread = threading.Thread(target=read)
        thread.start()
        took_ms = []
        for _ in range(publishes):
            time.sleep(PAUSE_S)
            sent_s = time.perf_counter()
            self.producer.send(TOPIC, b"x").result()
            took_ms.append(1000 * (seen.get() - sent_s))
        thread.join()
        return statistics.median(took_ms)


@contextlib.contextmanager
def world(folder: Path, records: int, *, with_stopped_group: bool) -> Iterator[World]:
    """A directory of its own, with a topic that holds so many records already."""
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Broker.open(folder))
        broker.create_topic(TOPIC)
        if with_stopped_group:
            stack.enter_context(stopped_group(folder))
        fill(broker, records)
        broker.reset_group("others", TOPIC, {0: broker.ends(TOPIC, 0).durable_end})
        consumer = stack.enter_context(broker.consumer(TOPIC, group="others"))
        producer = stack.enter_context(broker.producer())
        yield World(broker, producer, consumer)


def measure(setting: Setting) -> Iterator[Result]:
    behind = setting.pick(5_000_000, 50_000)
    rounds = setting.pick(30, 2)
    records, publishes = setting.pick(100_000, 1_000), setting.pick(50, 10)
    with (
        world(setting.folder / "with", behind, with_stopped_group=True) as beside,
        world(setting.folder / "without", behind, with_stopped_group=False) as alone,
        world(setting.folder / "again", behind, with_stopped_group=False) as again,
    ):
        worlds = deque([beside, alone, again])
        for turn in range(-1, rounds):
            for each in worlds:
                each.round(records, publishes)
            worlds.rotate(1)
            if turn < 0:  # for nothing: caches are warm now
                for each in worlds:
                    each.forget()
        [lag] = [offset.lag for offset in beside.broker.group("stopped").offsets]
        if lag < behind:
            raise RuntimeError(f"the stopped group is only {lag} records behind")
    what = f"one group stopped, {behind:,} records behind"
    for name, field_name, is_rate in (
        ("the producer's rate", "produced_per_s", True),
        ("another group's rate", "consumed_per_s", True),
        ("a publish until another group has it", "latency_ms", False),
    ):
        beside_it, without, control = (getattr(w, field_name) for w in (beside, alone, again))
        middle = statistics.median(beside_it), statistics.median(without)
        by_chance = statistics.median(ratios(control, without))
        shown = "{:,.0f}/s to {:,.0f}/s" if is_rate else "{:.2f} ms to {:.2f} ms"
        yield Result(
            what=f"{what}: {name}",
            against="the same in a directory without that group",
            values=ratios(beside_it, without),
            at_least=AT_LEAST if is_rate else None,
            at_most=None if is_rate else AT_MOST,
            detail=f"{shown.format(*middle)}; two without it: {by_chance:.2f}",
        )
