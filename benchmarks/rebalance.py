"""How long a partition waits when the member that reads it is killed."""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.measure import TOPIC, Result, Setting
from seawall.broker.broker import Broker

AT_MOST_MS = 1000.0
GROUP = "shared"
PARTITIONS = 4
WAIT_S = 30.0


def be_member(folder: Path, told: Connection) -> None:
    """Read with the others, until killed; tell how many partitions it has."""
    with (
        Broker.open(folder) as broker,
        broker.consumer(TOPIC, group=GROUP) as consumer,
    ):
        while True:
            consumer.poll(timeout_ms=1000)
            told.send(len(consumer.assignment()))


def measure(setting: Setting) -> Iterator[Result]:
    folder = setting.folder / "broker"
    logging.getLogger("seawall").setLevel(logging.ERROR)  # that a member died is no news here
    spawn = multiprocessing.get_context("spawn")
    took_ms = []
    with Broker.open(folder) as broker:
        broker.create_topic(TOPIC, partitions=PARTITIONS)
        with broker.consumer(TOPIC, group=GROUP) as consumer:

            def poll_until_it_has(partitions: int) -> float:
                start_s = time.perf_counter()
                while len(consumer.assignment()) != partitions:
                    consumer.poll(timeout_ms=20)
                    if time.perf_counter() > start_s + WAIT_S:
                        raise RuntimeError(f"still not {partitions} partitions")
                return time.perf_counter() - start_s

            for turn in range(setting.pick(20, 2)):
                ours, theirs = spawn.Pipe(duplex=False)
                process = spawn.Process(target=be_member, args=(folder, theirs))
                process.start()
                theirs.close()
                poll_until_it_has(PARTITIONS // 2)
                while ours.recv() != PARTITIONS // 2:
                    pass
                time.sleep(0.013 * turn)  # so as not to keep step with whoever looks after it
                process.kill()
                took_ms.append(1000 * poll_until_it_has(PARTITIONS))
                process.join()
                process.close()
                ours.close()
    yield Result(
        what="a member is killed: another one has its partitions",
        against="",
        values=took_ms,
        at_most=AT_MOST_MS,
        unit="ms",
        detail=f"longest {max(took_ms):.0f} ms, shortest {min(took_ms):.0f} ms, "
        f"{statistics.fmean(took_ms):.0f} ms on average",
    )
