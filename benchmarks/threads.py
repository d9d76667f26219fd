"""64 threads that each wait for their publish: how well they share syncs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from benchmarks.bare import BareFile, batch_of_one
from benchmarks.measure import (
    TOPIC,
    Result,
    Setting,
    broker_with_topic,
    counted_calls,
    distinct_values,
    rate,
    ratios,
    take_turns,
)

THREADS = 64
AT_LEAST = 2.0
RECORDS_PER_SYNC_AT_LEAST = 16.0


def measure(setting: Setting) -> Iterator[Result]:
    value = distinct_values(1)[0]
    batch = batch_of_one(value)
    count = setting.pick(50, 5)
    records_per_sync: list[float] = []
    with (
        broker_with_topic(setting.folder / "broker") as broker,
        broker.producer() as producer,
        BareFile(setting.folder / "bare") as bare,
        counted_calls() as calls,
    ):

        def publish(start: threading.Barrier) -> None:
            start.wait()
            for _ in range(count):
                producer.send(TOPIC, value).result()

        def publish_in_threads() -> float:
            start = threading.Barrier(THREADS + 1)
            threads = [threading.Thread(target=publish, args=(start,)) for _ in range(THREADS)]
            for thread in threads:
                thread.start()
            syncs_before = calls.syncs
            start.wait()
            start_s = time.perf_counter()
            for thread in threads:
                thread.join()
            took_s = time.perf_counter() - start_s
            records_per_sync.append(THREADS * count / (calls.syncs - syncs_before))
            return THREADS * count / took_s

        ours, theirs = take_turns(
            setting.pick(10, 2),
            publish_in_threads,
            lambda: bare.one_at_a_time(batch, setting.pick(200, 20)),
        )
    yield Result(
        what=f"{THREADS} threads, send().result(): records a second",
        against="pwrite + fdatasync of the same bytes, one at a time",
        values=ratios(ours, theirs),
        at_least=AT_LEAST,
        detail=f"{rate(ours)} to {rate(theirs)}",
    )
    yield Result(
        what=f"{THREADS} threads, send().result(): records per sync",
        against="",
        values=records_per_sync[1:],
        at_least=RECORDS_PER_SYNC_AT_LEAST,
        unit="",
    )
