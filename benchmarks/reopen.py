"""Opening after kill -9: does it take longer if there is more?

Two directories, one four times as large. In each round a process produces to one of
them, is killed while it does, and then the directory is opened: the same for the other.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.measure import (
    TOPIC,
    Result,
    Setting,
    broker_with_topic,
    counted_calls,
    distinct_values,
    ratios,
    take_turns,
)
from seawall.broker.broker import Broker
from seawall.wal.records import encode_batch

AT_MOST = 1.2
BATCHES_PER_APPEND = 64
KILL_AFTER_RECORDS = 20_000


def fill(folder: Path, size_bytes: int) -> None:
    """A log of many ready-made batches, each as long as a producer's."""
    now_ms = time.time_ns() // 1_000_000
    batch = encode_batch([(now_ms, None, value, ()) for value in distinct_values(600)])
    with broker_with_topic(folder) as broker:
        log = broker.engine.log(broker.topic(TOPIC).partitions[0].id)
        while log.size_bytes() < size_bytes:
            log.append([bytearray(batch) for _ in range(BATCHES_PER_APPEND)])
            log.sync()


def produce_until_killed(folder: Path, progress: Connection) -> None:
    """Tell how many were sent, over and over, and go on."""
    value = distinct_values(1)[0]
    with Broker.open(folder) as broker, broker.producer() as producer:
        sent = 0
        while True:
            for _ in range(1000):
                producer.send(TOPIC, value)
            sent += 1000
            progress.send(sent)


def kill_a_producer(folder: Path) -> None:
    """Start one, and kill it in the middle."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=produce_until_killed, args=(folder, theirs))
    process.start()
    theirs.close()
    while ours.recv() < KILL_AFTER_RECORDS:
        pass
    process.kill()
    process.join()
    process.close()
    ours.close()


def measure(setting: Setting) -> Iterator[Result]:
    small_bytes = setting.pick(1 << 30, 8 << 20)
    small, large = setting.folder / "small", setting.folder / "large"
    fill(small, small_bytes)
    fill(large, 4 * small_bytes)
    read: dict[Path, list[int]] = {small: [], large: []}

    def open_ms(folder: Path) -> float:
        kill_a_producer(folder)
        with counted_calls() as calls:
            start_s = time.perf_counter()
            broker = Broker.open(folder)
            took_s = time.perf_counter() - start_s
        broker.close()
        read[folder].append(calls.bytes_read)
        return took_s * 1000

    smalls, larges = take_turns(setting.pick(10, 2), lambda: open_ms(small), lambda: open_ms(large))
    yield Result(
        what=f"open after kill -9, {4 * small_bytes >> 20:,} MiB: time",
        against=f"the same with a log of {small_bytes >> 20:,} MiB",
        values=ratios(larges, smalls),
        at_most=AT_MOST,
        detail=f"{statistics.median(larges):.1f} ms to {statistics.median(smalls):.1f} ms; "
        f"it reads {spread(read[large])} bytes to {spread(read[small])}",
    )


def spread(counts: list[int]) -> str:
    """The median of counts, and the highest."""
    return f"{statistics.median(counts):,.0f} (once {max(counts):,})"
