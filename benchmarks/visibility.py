"""How soon a consumer in another process sees a record, and what waiting costs it."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.measure import TOPIC, Result, Setting, broker_with_topic
from seawall.broker.broker import Broker

P99_AT_MOST_MS = 10.0
IDLE_AT_MOST_PERCENT = 1.0
PAUSE_S = 0.005


def consume(folder: Path, seen: Connection) -> None:
    """Tell for each record how long ago it was sent; an empty one ends it."""
    with Broker.open(folder) as broker, broker.consumer(TOPIC) as consumer:
        seen.send(0)
        for record in consumer:
            if not record.value:
                return
            # CLOCK_MONOTONIC is the same for all processes.
            seen.send(time.monotonic_ns() - int(record.value))


def cpu_s(pid: int) -> float:
    """The processor time that a process has used, all threads (proc_pid_schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def measure(setting: Setting) -> Iterator[Result]:
    folder = setting.folder / "broker"
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    idle_s = setting.pick(10, 1)
    with broker_with_topic(folder) as broker, broker.producer() as producer:
        process = spawn.Process(target=consume, args=(folder, theirs))
        process.start()
        theirs.close()
        ours.recv()
        took_ms = []
        for _ in range(setting.pick(1000, 100)):
            time.sleep(PAUSE_S)
            producer.send(TOPIC, b"%d" % time.monotonic_ns()).result()
            took_ms.append(ours.recv() / 1e6)
        time.sleep(2)  # a checkpoint may follow the last record
        before_s = cpu_s(process.pid or 0)
        time.sleep(idle_s)
        used_s = cpu_s(process.pid or 0) - before_s
        producer.send(TOPIC, b"").result()
        process.join()
        process.close()
        ours.close()
    took_ms.sort()
    yield Result(
        what="a consumer in another process sees a record: p99 from send() on",
        against="",
        values=[took_ms[len(took_ms) * 99 // 100]],
        at_most=P99_AT_MOST_MS,
        unit="ms",
        detail=f"median {statistics.median(took_ms):.2f} ms, longest {took_ms[-1]:.2f} ms",
    )
    yield Result(
        what="a consumer that waits: processor time, of one core",
        against="",
        values=[100 * used_s / idle_s],
        at_most=IDLE_AT_MOST_PERCENT,
        unit="%",
        detail=f"over {idle_s} s",
    )
