"""Acknowledging every 100 records: how fast, and how many syncs others cost beside one.

A sync here is a write transaction of ``state.lmdb``: LMDB syncs at the end of each, and
nowhere else. They are counted by the number that LMDB gives to each transaction, so those
of every process count.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

from benchmarks.bare import BareFile, batch_of_one
from benchmarks.measure import TOPIC, Result, Setting, distinct_values, rate, ratios, take_turns
from seawall.broker.broker import Broker
from seawall.broker.consumer import Consumer

CONSUMERS = 16
EVERY = 100
SYNCS_AT_MOST = 2.5
RATE_AT_LEAST = 0.2


def fill(broker: Broker, records: int) -> None:
    """A partition for each consumer, with so many records in it."""
    broker.create_topic(TOPIC, partitions=CONSUMERS, config={"cleanup.policy": "delete"})
    values = distinct_values(EVERY)
    with broker.producer() as producer:
        for partition in range(CONSUMERS):
            for number in range(records):
                producer.send(TOPIC, values[number % EVERY], partition=partition)
    broker.compact()  # whatever the compactor would do is done


def acknowledge_all(consumer: Consumer) -> int:
    """Read to the end, and acknowledge every 100 records; how often that was."""
    count = 0
    while records := consumer.poll(EVERY):
        consumer.ack(records)
        count += 1
    return count


def transactions(broker: Broker) -> int:
    """The number of the last one that changed the state."""
    with broker.engine.state.read() as view:
        return view.number


class Rounds:
    """Groups that are new in each round, so that each reads everything again."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._round = 0
        self.acks_per_s: dict[str, list[float]] = {}

    def run(self, what: str, count: int, *, shared: bool) -> float:
        """Let `count` consumers acknowledge at once; the syncs for each acknowledgement of one.

        ``shared``: as members of one group, each with partitions of its own; otherwise in a
        group for each. Each reads one partition, so each acknowledges as often as another.
        """
        self._round += 1
        start = threading.Barrier(count + 1)
        acks: list[int] = []

        def work(consumer: Consumer) -> None:
            start.wait()
            acks.append(acknowledge_all(consumer))

        with ExitStack() as consumers:
            threads = []
            for number in range(count):
                group = f"{self._round}" if shared else f"{self._round}-{number}"
                consumer = consumers.enter_context(
                    self._broker.consumer(TOPIC, group=group, partitions=[number])
                )
                threads.append(threading.Thread(target=work, args=(consumer,)))
            for thread in threads:
                thread.start()
            before = transactions(self._broker)
            start.wait()
            start_s = time.perf_counter()
            for thread in threads:
                thread.join()
            took_s = time.perf_counter() - start_s
            syncs = transactions(self._broker) - before
        self.acks_per_s.setdefault(what, []).append(sum(acks) / took_s)
        return syncs / max(acks)


def consume(folder: Path, number: int, start: Barrier, told: Connection) -> None:
    """In a process of its own: acknowledge everything in one partition."""
    with (
        Broker.open(folder) as broker,
        broker.consumer(TOPIC, group=f"process-{number}", partitions=[number]) as consumer,
    ):
        start.wait()
        told.send(acknowledge_all(consumer))
        start.wait()


def in_processes(broker: Broker, folder: Path) -> tuple[float, float]:
    """The same with a process for each consumer: syncs, and acknowledgements a second."""
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(CONSUMERS + 1)
    ours, theirs = spawn.Pipe(duplex=False)
    processes = [
        spawn.Process(target=consume, args=(folder, number, start, theirs))
        for number in range(CONSUMERS)
    ]
    for process in processes:
        process.start()
    start.wait()
    before = transactions(broker)
    start_s = time.perf_counter()
    acks = [ours.recv() for _ in processes]
    took_s = time.perf_counter() - start_s
    syncs = transactions(broker) - before
    start.wait()
    for process in processes:
        process.join()
        process.close()
    ours.close()
    theirs.close()
    return syncs / max(acks), sum(acks) / took_s


def measure(setting: Setting) -> Iterator[Result]:
    folder = setting.folder / "broker"
    acks = setting.pick(100, 3)
    rounds = setting.pick(7, 2)
    batch = batch_of_one(distinct_values(1)[0])
    with Broker.open(folder) as broker, BareFile(setting.folder / "bare") as bare:
        fill(broker, acks * EVERY)
        runs = Rounds(broker)
        _, theirs = take_turns(
            rounds,
            lambda: runs.run("alone", 1, shared=False),
            lambda: bare.one_at_a_time(batch, setting.pick(200, 20)),
        )
        alone = runs.acks_per_s["alone"][1:]
        yield Result(
            what=f"one consumer, acknowledging every {EVERY} records: acknowledgements a second",
            against="pwrite + fdatasync of one record, one at a time",
            values=ratios(alone, theirs),
            at_least=RATE_AT_LEAST,
            detail=f"{rate(alone)} to {rate(theirs)}",
        )
        for shared, where in ((False, "groups of their own"), (True, "one group")):
            many, one = take_turns(
                rounds,
                lambda shared=shared, where=where: runs.run(where, CONSUMERS, shared=shared),  # type: ignore[misc]
                lambda: runs.run("alone", 1, shared=False),
            )
            yield Result(
                what=f"{CONSUMERS} consumers in {where}, one process: syncs",
                against="those of one consumer that acknowledges as often as each of them",
                values=ratios(many, one),
                at_most=SYNCS_AT_MOST,
                detail=f"{rate(runs.acks_per_s[where][1:])} acknowledgements",
            )
        syncs, acks_per_s = in_processes(broker, folder)
        yield Result(
            what=f"{CONSUMERS} consumers in {CONSUMERS} processes: syncs",
            against="those of one; processes share none",
            values=[syncs],
            at_most=float(CONSUMERS) * 1.2,
            detail=f"{acks_per_s:,.0f}/s acknowledgements",
        )
