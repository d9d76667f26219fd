"""One synchronous publish at a time: how much longer than the disk it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

from benchmarks.bare import BareFile, batch_of_one
from benchmarks.measure import (
    TOPIC,
    Result,
    Setting,
    broker_with_topic,
    distinct_values,
    ratios,
    take_turns,
)

AT_MOST = 1.5


def median_us(call: Callable[[], object], count: int) -> float:
    """The median of `count` calls."""
    took_ns = []
    for _ in range(count):
        start = time.perf_counter_ns()
        call()
        took_ns.append(time.perf_counter_ns() - start)
    return statistics.median(took_ns) / 1000


def measure(setting: Setting) -> Iterator[Result]:
    value = distinct_values(1)[0]
    batch = batch_of_one(value)
    count = setting.pick(100, 20)
    with (
        broker_with_topic(setting.folder / "broker") as broker,
        broker.producer() as producer,
        BareFile(setting.folder / "bare") as bare,
    ):

        def publish() -> None:
            producer.send(TOPIC, value).result()

        def write() -> None:
            bare.append(batch)
            bare.sync()

        ours, theirs = take_turns(
            setting.pick(30, 4), lambda: median_us(publish, count), lambda: median_us(write, count)
        )
    yield Result(
        what="one publish at a time: median latency",
        against="pwrite + fdatasync of the same bytes, to a file allocated ahead as ours is",
        values=ratios(ours, theirs),
        at_most=AT_MOST,
        detail=f"{statistics.median(ours):.0f} us to {statistics.median(theirs):.0f} us",
    )
